"""Information flow routes (Ferrando & Voita 2024): what share of each reader's stream every writer makes up.

importance of u for v = relu(|x_v| - |u - x_v|) in the 1-norm, divided by its sum over u, then meaned over positions,
where x_v is what v reads in front of its norm. It takes one forward pass of the clean prompts; no corruption and no
metric enter, so a score is a share in [0, 1] and has no sign.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from circuits.attribution.ablation import check_share, token_share
from circuits.attribution.integration import Scored
from circuits.contraction.contraction import Contraction
from circuits.facts.batch import Batch, answer_rank
from circuits.trace.trace import Trace, check_stream, head_writer, run, widen
from circuits.trace.writers import Writers


@dataclass(frozen=True, slots=True)
class FlowScorer:
    """Scores batches by one forward pass each.

    Attributes:
        contraction: the model, its graph, and how many tokens to treat at a time.
    """

    contraction: Contraction

    def __call__(self, batch: Batch, *, check: bool) -> Scored:
        """Score a batch; the metrics are NaN, since none enters."""
        parts, shape = self.contraction.parts, self.contraction.shape
        with torch.no_grad():
            trace = run(parts, batch, batch.clean)
        if check:
            check_stream(parts, trace)
            check_share(parts, batch, trace)
        written = token_share(parts, batch, Writers.of(parts, trace))
        scores = written.stream.new_zeros(len(batch.indices), len(shape.readers), len(shape.writers))
        for row, last in enumerate(batch.last.tolist()):
            for start in range(0, last + 1, self.contraction.tokens):
                span = slice(start, min(start + self.contraction.tokens, last + 1))
                scores[row] += self.shares(trace, written, row, span) / (last + 1)
        nothing = torch.full((len(batch.indices),), torch.nan)
        return Scored(scores.to(self.contraction.dtype), nothing, nothing, answer_rank(trace.logits, batch))

    def shares(self, trace: Trace, written: Writers, row: int, span: slice) -> Tensor:
        """[B, F] shares summed over a stretch of one row's positions."""
        parts, shape = self.contraction.parts, self.contraction.shape
        outputs = written.stream.new_empty(len(shape.writers), span.stop - span.start, parts.d_model)
        outputs[0] = written.stream[row, span]
        shares = outputs.new_zeros(len(shape.readers), len(shape.writers))
        for block, layer in zip(parts.blocks, trace.layers, strict=True):
            before = shape.first_writer(block.index)
            after = before + parts.n_heads
            columns, mlp = shape.attention_columns(block.index), shape.mlp_column(block.index)
            shares[columns, :before] = _shares(outputs[:before], widen(layer.attention_in)[row, span])
            writer = head_writer(block, outputs.dtype)
            torch.bmm(written.heads[block.index][row, span].transpose(0, 1), writer, out=outputs[before:after])
            outputs[after] = written.mlps[block.index][row, span]
            seen = before if shape.parallel else after
            shares[mlp, :seen] = _shares(outputs[:seen], widen(layer.mlp_in)[row, span])
        shares[-1] = _shares(outputs, widen(trace.final)[row, span])
        return shares


def _shares(outputs: Tensor, stream: Tensor) -> Tensor:
    """[F] shares of the writers' outputs [F, t, d] in a stream [t, d], summed over t; 0 where no writer comes near."""
    near = (stream.norm(p=1, dim=-1) - (outputs - stream).norm(p=1, dim=-1)).relu()
    shares: Tensor = near / near.sum(0).clamp_min(torch.finfo(near.dtype).tiny)
    return shares.sum(1)
