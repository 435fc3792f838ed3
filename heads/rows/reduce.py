"""Online softmax over blocks of keys: one attention row in, its argmax, masses and entropy out."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from heads.rows.largest import largest
from heads.rows.masks import LazyMask

KeyGroups = Callable[[Tensor, Tensor], Tensor]
"""(rows [batch, R], keys [K] in a row), absolute positions -> membership [batch, R or 1, K, groups], bool."""


@dataclass(frozen=True, slots=True)
class Logits:
    """How a model turns queries and keys into attention logits."""

    scaling: float
    softcap: float | None
    sinks: Tensor | None

    def of(self, query: Tensor, key: Tensor) -> Tensor:
        """Float32 logits [batch, heads, rows, keys] before the mask; the keys of a group are never repeated."""
        batch, heads, rows, d = query.shape
        grouped = query.reshape(batch, key.shape[1], -1, d)
        scores = (grouped @ key.transpose(2, 3)).float().reshape(batch, heads, rows, -1) * self.scaling
        return scores if self.softcap is None else self.softcap * torch.tanh(scores / self.softcap)


@dataclass(frozen=True, slots=True)
class RowStats:
    """What is kept of the scored rows of one layer: float32, nothing of the size of the context.

    Attributes:
        argmax: [batch, heads, rows] absolute position of the key with the largest weight.
        peak: [batch, heads, rows] that weight.
        mass: [batch, heads, rows, groups] weight on each group of keys.
        reach: [batch, rows, groups] how many keys of the group the row can see at all.
        entropy: [batch, heads, rows] of the weights over real keys, in nats.
        sink: [batch, heads, rows] weight on a learned sink, which is no key; 0 where the model has none.
        top_index: [batch, heads, rows, top] positions of the largest weights, -1 where there are fewer keys.
        top_weight: [batch, heads, rows, top] those weights.
        written: [variants, batch, heads, rows, groups] weighted values of each group along given directions, summed
            over its keys; None when no direction was given.
    """

    argmax: Tensor
    peak: Tensor
    mass: Tensor
    reach: Tensor
    entropy: Tensor
    sink: Tensor
    top_index: Tensor
    top_weight: Tensor
    written: Tensor | None


@dataclass(frozen=True, slots=True)
class Sight:
    """What rows see of a block of keys.

    Attributes:
        keys: [K] absolute positions.
        hidden: [batch or 1, 1, rows, K - open] keys that a row must not see, of those behind the first ones.
        open: how many keys at the front are hidden from no row: of a causal model nearly all.
        members: [batch, rows or 1, K, groups] membership in groups, float32.
        reach: [batch, rows, groups] how many keys of the group a row sees.
    """

    keys: Tensor
    hidden: Tensor
    open: int
    members: Tensor
    reach: Tensor

    @staticmethod
    def of(mask: LazyMask, positions: Tensor, start: int, stop: int, groups: KeyGroups) -> "Sight":
        """Ask the mask and the groups about keys ``start`` to ``stop`` of a call."""
        keys = mask.key_start + torch.arange(start, stop, device=positions.device)
        seen, members = mask.allowed(positions, keys), groups(positions, keys)
        barred = torch.nonzero(~seen.all(dim=0).all(dim=0))
        open_ = int(barred[0]) if len(barred) else len(keys)
        hidden = ~seen[:, None, :, open_:]
        return Sight(keys, hidden, open_, members.float(), (members & seen[..., None]).sum(dim=2))

    def apply(self, scores: Tensor) -> Tensor:
        """Logits [batch, heads, rows, K] with -inf where a key is hidden, in place."""
        scores[..., self.open :].masked_fill_(self.hidden, -torch.inf)
        return scores


@dataclass(frozen=True, slots=True)
class Sights:
    """What the rows of a pass see, the same in every layer with the same mask: asked once where it is one block."""

    _known: dict[tuple[int, int, torch.device], tuple[LazyMask, Sight]] = field(default_factory=dict)

    def of(self, mask: LazyMask, positions: Tensor, start: int, stop: int, groups: KeyGroups) -> Sight:
        """See `Sight.of`."""
        if stop - start < mask.n_keys:
            return Sight.of(mask, positions, start, stop, groups)
        name = id(mask), len(positions), positions.device
        if name not in self._known:
            self._known[name] = mask, Sight.of(mask, positions, start, stop, groups)  # the mask is held, so is its id
        return self._known[name][1]


@torch.no_grad()
def reduce_rows(
    query: Tensor,
    key: Tensor,
    mask: LazyMask,
    positions: Tensor,
    logits: Logits,
    groups: KeyGroups,
    *,
    top: int = 0,
    block: int = 2048,
    value: Tensor | None = None,
    directions: Tensor | None = None,
    sights: Sights | None = None,
) -> RowStats:
    """Stream rows over blocks of keys and keep their statistics.

    Args:
        query: [batch, heads, rows, d], the scored queries only.
        key: [batch, KV heads, keys, d].
        mask: who sees whom.
        positions: [batch, rows] absolute positions of the scored queries.
        logits: scaling, softcap and sinks of the layer.
        groups: membership of keys in groups.
        top: how many of the largest weights to keep.
        block: keys treated at a time.
        value: [batch, KV heads, keys, d of values]; needed with ``directions`` only.
        directions: [variants, batch, heads, rows, d of values], float32.
        sights: of the pass that these rows are of; None where nothing is to be remembered.
    """
    sights = sights or Sights()
    query = query.float()
    running = _Running.empty(query, top)
    reach: Tensor | None = None
    for start in range(0, key.shape[2], block):
        stop = min(start + block, key.shape[2])
        sight = sights.of(mask, positions, start, stop, groups)
        scores = sight.apply(logits.of(query, key[:, :, start:stop].float()))
        along = None if value is None or directions is None else _along(directions, value[:, :, start:stop].float())
        running.add(scores, sight.keys, sight.members, along)
        reach = sight.reach if reach is None else reach + sight.reach
    if reach is None:
        raise RuntimeError("a row needs at least one key")
    return running.finish(logits.sinks, reach)


def _along(directions: Tensor, value: Tensor) -> Tensor:
    """[variants, batch, heads, rows, keys]: each key's value along each row's directions."""
    variants, batch, heads, rows, d = directions.shape
    grouped = directions.reshape(variants, batch, value.shape[1], -1, d)
    return (grouped @ value.transpose(2, 3)).reshape(variants, batch, heads, rows, -1)


@dataclass(slots=True)
class _Running:
    """State of the online softmax; every sum is relative to exp(best)."""

    best: Tensor
    argmax: Tensor
    total: Tensor
    moment: Tensor
    mass: Tensor | None
    written: Tensor | None
    top_score: Tensor
    top_index: Tensor

    @staticmethod
    def empty(query: Tensor, top: int) -> "_Running":
        shape = query.shape[:3]
        zeros = query.new_zeros(shape)
        return _Running(
            best=torch.full_like(zeros, -torch.inf),
            argmax=torch.full(shape, -1, dtype=torch.long, device=query.device),
            total=zeros,
            moment=zeros.clone(),
            mass=None,
            written=None,
            top_score=query.new_full((*shape, top), -torch.inf),
            top_index=torch.full((*shape, top), -1, dtype=torch.long, device=query.device),
        )

    def add(self, scores: Tensor, keys: Tensor, members: Tensor, along: Tensor | None) -> None:
        """Take in one block: scores [batch, heads, rows, K], members [batch, rows or 1, K, groups]."""
        strongest, places = largest(scores, max(1, min(self.top_score.shape[-1], scores.shape[-1])))
        block_best, at = strongest[..., 0], places[..., 0]
        best = torch.maximum(self.best, block_best)
        base = best.masked_fill(best == -torch.inf, 0.0)
        shrink = torch.exp(self.best - base)
        if self.top_score.shape[-1]:
            self._keep_top(strongest, keys[places])
        weights = torch.sub(scores, base[..., None]).exp_()
        mass = (weights.transpose(1, 2) @ members).transpose(1, 2)
        self.mass = mass if self.mass is None else self.mass * shrink[..., None] + mass
        self.total = self.total * shrink + weights.sum(dim=-1)
        self.argmax = torch.where(block_best > self.best, keys[at], self.argmax)
        self.best = best
        if along is not None:
            written = ((along * weights).transpose(2, 3) @ members).transpose(2, 3)
            self.written = written if self.written is None else self.written * shrink[..., None] + written
        scores.nan_to_num_(nan=torch.nan, posinf=torch.inf, neginf=0.0)
        self.moment = self.moment * shrink + weights.mul_(scores).sum(dim=-1)

    def _keep_top(self, scores: Tensor, keys: Tensor) -> None:
        """Take in a block's largest scores, in falling order, and the keys that they are of."""
        if self.mass is None and scores.shape[-1] == self.top_score.shape[-1]:  # at usual lengths the only block
            self.top_score, self.top_index = scores, keys.masked_fill_(scores == -torch.inf, -1)
            return
        scores, keys = torch.cat([self.top_score, scores], dim=-1), torch.cat([self.top_index, keys], dim=-1)
        self.top_score, at = largest(scores, self.top_score.shape[-1])
        self.top_index = keys.gather(-1, at).masked_fill_(self.top_score == -torch.inf, -1)

    def finish(self, sinks: Tensor | None, reach: Tensor) -> RowStats:
        """Normalise by the softmax's denominator, a learned sink included."""
        if self.mass is None:
            raise RuntimeError("no keys were added")
        real = self.best + self.total.log()
        denominator, sink = real, torch.zeros_like(real)
        if sinks is not None:
            column = sinks.float().reshape(1, -1, 1)
            denominator = torch.logaddexp(real, column)
            sink = torch.exp(column - denominator)
        scale = torch.exp(self.best - denominator)
        return RowStats(
            argmax=self.argmax,
            peak=scale,
            mass=self.mass * scale[..., None],
            reach=reach,
            entropy=real - self.moment / self.total,
            sink=sink,
            top_index=self.top_index,
            top_weight=torch.exp(self.top_score - denominator[..., None]),
            written=None if self.written is None else self.written * scale[..., None],
        )
