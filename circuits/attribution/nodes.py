"""Node attribution: the difference of a writer's output times the gradient there, and the same for parts of MLPs.

One backward pass gives every node, with no contraction over edges, so it costs little more than the passes themselves.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from checkpoints.errors import BadPrompt, CorruptWeights, require_choice
from checkpoints.model.anatomy import Anatomy, Block, anatomy
from checkpoints.model.plain import takes_model
from circuits.attribution.edges import describe, graph_shape
from circuits.attribution.integration import Quadrature
from circuits.attribution.methods import Method, Rule, find_quadrature, rule_used
from circuits.attribution.mlp_parts import Experts, Interior, MlpHooks, Neurons
from circuits.facts.batch import Batch, batches
from circuits.facts.facts import FactSet
from circuits.facts.metrics import Metric, MetricName, find_metric, require_gradient
from circuits.graph.nodes import Level, NodeScores
from circuits.trace.trace import Trace, check_stream, frozen, head_writer, hooks, output_tensor, run, widen
from circuits.trace.writers import Writers

INTERIORS: dict[Level, Callable[[Anatomy], Interior] | None] = {"nodes": None, "neurons": Neurons, "experts": Experts}


@takes_model
def attribute_nodes(
    model: PreTrainedModel,
    facts: FactSet,
    *,
    level: Level = "nodes",
    method: Method = "eap-ig",
    metric: MetricName | Metric = "logit difference",
    ig_steps: int = 5,
    rule: Rule = "midpoint",
    groups: int | None = None,
    batch_size: int = 8,
    progress: bool = False,
) -> NodeScores:
    """Score every node for every fact; with ``neurons`` or ``experts``, what is inside the MLPs, too.

    A node's score is the sum of its out-edges' scores in `circuits.attribute` with the same arguments.

    Args:
        model: a decoder in Hugging Face form, on any device.
        facts: N clean/corrupt pairs.
        level: ``nodes``; ``neurons`` of every MLP; or ``experts`` of every mixture of experts.
        method: ``eap``, ``eap-ig`` or ``clean-corrupted``, the methods whose differences are those of the whole path.
        metric: as for `circuits.attribute`.
        ig_steps: gradients along the path, for ``eap-ig``.
        rule: which point of each step, as for `circuits.attribute`.
        groups: keep means over this many disjoint groups of facts instead of every fact's own scores.
        batch_size: facts in one forward pass. Scores do not depend on it.
        progress: show a bar over the facts.

    Raises:
        UnsupportedArchitecture: the model's parts, or those of its MLPs, cannot be told apart exactly.
        CorruptWeights: the scores are not finite.
        BadPrompt: an argument out of range.
    """
    quadrature = find_quadrature(method, ig_steps, rule)
    if quadrature is None or quadrature.kind != "fixed":
        raise BadPrompt(f"nodes are scored by 'eap', 'eap-ig' or 'clean-corrupted', not by {method!r}")
    require_choice("level", level, INTERIORS)
    name, measure = find_metric(metric, facts)
    require_gradient(name, method)
    group = facts.units(groups)
    parts = anatomy(model)
    make = INTERIORS[level]
    scorer = _Scorer(parts, quadrature, measure, None if make is None else make(parts))
    found = _Found.empty(int(group.max()) + 1, len(facts), parts, scorer)
    with frozen(model), tqdm(total=len(facts), unit="fact", disable=not progress, leave=False) as bar:
        for number, batch in enumerate(batches(facts, batch_size, model)):
            found.add(scorer(batch, check=number == 0), batch, group)
            bar.update(len(batch.indices))
    how = {"method": method, "ig_steps": len(quadrature.alphas), "rule": rule_used(method, rule), "metric": name}
    return found.scores(parts, scorer, group, level, describe(model, facts, **how))


@dataclass(slots=True)
class _Run:
    """A run, with the outputs at which gradients are wanted and what the MLPs showed.

    Attributes:
        trace: what was written.
        ends: what attention and MLP of every layer add to the stream, before any residual scale; in turn.
        watch: what is inside the MLPs.
    """

    trace: Trace
    ends: list[Tensor]
    watch: MlpHooks | None


@dataclass(slots=True)
class _Scored:
    """One batch: [b, F] scores, [b, L, P] shares, [2, L, P - 1] summed routing, [b] metrics, number of real tokens."""

    scores: Tensor
    inside: Tensor | None
    routing: Tensor | None
    clean_metric: Tensor
    corrupt_metric: Tensor
    tokens: int


@dataclass(frozen=True, slots=True)
class _Scorer:
    """Scores batches.

    Attributes:
        parts: the model.
        quadrature: where gradients are taken.
        measure: the metric.
        interior: how MLPs come apart, or ``None``.
    """

    parts: Anatomy
    quadrature: Quadrature
    measure: Metric
    interior: Interior | None

    @property
    def width(self) -> int:
        """Parts kept of each MLP; of a mixture one more, for what is no routed expert."""
        if self.interior is None:
            return 0
        return self.interior.width + isinstance(self.interior, Experts)

    def __call__(self, batch: Batch, *, check: bool) -> _Scored:
        """Score a batch; the first one also checks the model."""
        alphas = self.quadrature.alphas
        corrupt = self.run(batch, batch.corrupt, grad=0.0 in alphas)
        clean = self.run(batch, batch.clean, grad=1.0 in alphas, readers=check)
        if check:
            check_stream(self.parts, clean.trace)
            self.check_interior(clean)
        logits = clean.trace.logits.detach()
        low, high = corrupt.trace.stream.detach(), clean.trace.stream.detach()
        gradients: list[Tensor] = []
        for alpha, weight in zip(alphas, self.quadrature.weights, strict=True):
            known = {0.0: corrupt, 1.0: clean}.get(alpha)
            there = known or self.run(batch, batch.clean, grad=True, stream=low + alpha * (high - low))
            total = self.measure(there.trace.logits, batch, logits).sum()
            found = [weight * widen(g) for g in torch.autograd.grad(total, [there.trace.stream, *there.ends])]
            gradients = found if not gradients else [a.add_(b) for a, b in zip(gradients, found, strict=True)]
        scores = self.node_scores(clean, corrupt, gradients)
        return _Scored(
            scores=scores,
            inside=self.inside(clean, corrupt, gradients, scores),
            routing=self.routing(clean, corrupt, batch),
            clean_metric=self.measure(logits, batch, logits),
            corrupt_metric=self.measure(corrupt.trace.logits.detach(), batch, logits),
            tokens=int((batch.last + 1).sum()),
        )

    def run(
        self, batch: Batch, ids: Tensor, *, grad: bool, stream: Tensor | None = None, readers: bool = False
    ) -> _Run:
        """One forward pass."""
        ends: dict[int, Tensor] = {}
        watch = None if self.interior is None else MlpHooks(self.interior)
        handles: list[Any] = []
        with hooks(handles), torch.set_grad_enabled(grad):
            for block in self.parts.blocks:
                for place, module in enumerate(stream_ends(block), 2 * block.index):
                    handles.append(module.register_forward_hook(_keep(ends, place)))
            handles += [] if watch is None else watch.handles(self.parts.blocks)
            trace = run(self.parts, batch, ids, stream=stream, readers=readers)
        return _Run(trace, [ends[place] for place in sorted(ends)], watch)

    def check_interior(self, clean: _Run) -> None:
        """Refuse MLPs that are not made of the parts looked for."""
        if self.interior is not None and clean.watch is not None:
            for index, seen in clean.watch.seen.items():
                self.interior.check(self.parts.blocks[index], seen)

    def node_scores(self, clean: _Run, corrupt: _Run, gradients: list[Tensor]) -> Tensor:
        """[b, F] difference times gradient, summed over positions."""
        difference = Writers.of(self.parts, corrupt.trace) - Writers.of(self.parts, clean.trace)
        columns = [_dot(difference.stream, gradients[0])[:, None]]
        for block in self.parts.blocks:
            attention, mlp = (g / block.residual_scale for g in gradients[1 + 2 * block.index : 3 + 2 * block.index])
            writer = head_writer(block, attention.dtype)
            along = torch.einsum("btd,hed->bthe", attention, writer)
            columns.append((difference.heads[block.index] * along).sum((1, 3)))
            columns.append(_dot(difference.mlps[block.index], mlp)[:, None])
        return torch.cat(columns, 1)

    def inside(self, clean: _Run, corrupt: _Run, gradients: list[Tensor], scores: Tensor) -> Tensor | None:
        """[b, L, P] shares of each MLP's score."""
        if self.interior is None or clean.watch is None or corrupt.watch is None:
            return None
        width, mixture = self.width, isinstance(self.interior, Experts)
        found = scores.new_full((len(scores), self.parts.n_layers, width), torch.nan)
        for index, seen in clean.watch.seen.items():
            block = self.parts.blocks[index]
            towards = gradients[2 + 2 * index]
            if (norm := block.mlp_post_norm) is not None:
                towards = norm.centre(towards * norm.gain.to(towards.dtype))
            before = self.interior.shares(block, seen, towards)
            shares = self.interior.shares(block, corrupt.watch.seen[index], towards) - before
            if mixture:
                whole = scores[:, (index + 1) * (self.parts.n_heads + 1)]
                shares = torch.cat([shares, (whole - shares.sum(1))[:, None]], 1)
            found[:, index] = shares
        return found

    def routing(self, clean: _Run, corrupt: _Run, batch: Batch) -> Tensor | None:
        """[2, L, experts] routing weights, clean and corrupt, summed over real tokens."""
        if not isinstance(self.interior, Experts) or clean.watch is None or corrupt.watch is None:
            return None
        total = torch.zeros(2, self.parts.n_layers, self.interior.width, dtype=torch.float64)
        for place, watch in enumerate((clean.watch, corrupt.watch)):
            for index, seen in watch.seen.items():
                total[place, index] = self.interior.routing(seen, batch).cpu()
        return total


@dataclass(slots=True)
class _Found:
    """Sums over the batches."""

    total: Tensor
    inside: Tensor | None
    clean: Tensor
    corrupt: Tensor
    routing: Tensor | None = None
    tokens: int = 0

    @classmethod
    def empty(cls, units: int, facts: int, parts: Anatomy, scorer: _Scorer) -> "_Found":
        """Zeros."""
        dtype = torch.float64 if parts.blocks[0].output_weight.dtype == torch.float64 else torch.float32
        return cls(
            total=torch.zeros(units, 1 + parts.n_layers * (parts.n_heads + 1), dtype=dtype),
            inside=torch.zeros(units, parts.n_layers, scorer.width, dtype=dtype) if scorer.interior else None,
            clean=torch.zeros(facts, dtype=torch.float64),
            corrupt=torch.zeros(facts, dtype=torch.float64),
        )

    def add(self, scored: _Scored, batch: Batch, group: np.ndarray[Any, Any]) -> None:
        """Take in a batch."""
        index = list(batch.indices)
        units = torch.as_tensor(group[index])
        self.total.index_add_(0, units, scored.scores.cpu().to(self.total.dtype))
        if self.inside is not None and scored.inside is not None:
            self.inside.index_add_(0, units, scored.inside.cpu().to(self.inside.dtype))
        if scored.routing is not None:
            self.routing = scored.routing if self.routing is None else self.routing + scored.routing
        self.clean[index] = scored.clean_metric.to("cpu", torch.float64)
        self.corrupt[index] = scored.corrupt_metric.to("cpu", torch.float64)
        self.tokens += scored.tokens

    def scores(
        self, parts: Anatomy, scorer: _Scorer, group: np.ndarray[Any, Any], level: Level, meta: Mapping[str, Any]
    ) -> NodeScores:
        """The result."""
        if not bool(torch.isfinite(self.total).all()):
            raise CorruptWeights("node scores are not finite; try dtype float32, and check the weights")
        sizes = torch.as_tensor(np.bincount(group), dtype=self.total.dtype)[:, None]
        return NodeScores(
            scores=(self.total / sizes).numpy(),
            shape=graph_shape(parts),
            clean_metric=self.clean.numpy(),
            corrupt_metric=self.corrupt.numpy(),
            group=group,
            level=level,
            inside=None if self.inside is None else (self.inside / sizes[..., None]).numpy(),
            routing=None if self.routing is None else (self.routing / self.tokens).numpy(),
            meta=meta,
        )


def stream_ends(block: Block) -> tuple[nn.Module, nn.Module]:
    """What adds to the stream: the ends of attention and of the MLP."""
    attention = block.o if block.attention_post_norm is None else block.attention_post_norm.module
    return attention, block.mlp if block.mlp_post_norm is None else block.mlp_post_norm.module


def _keep(ends: dict[int, Tensor], place: int) -> Callable[..., Any]:
    def keep(_module: nn.Module, _args: Any, output: Any) -> None:
        ends[place] = output_tensor(output)

    return keep


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """[b] inner products over positions and the stream."""
    return (a * b).flatten(1).sum(1)
