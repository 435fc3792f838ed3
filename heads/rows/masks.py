"""The attention mask as a function: asked for the rows and keys at hand, never drawn as an S x S tensor.

transformers builds its masks from index functions ``f(batch, head, query, key) -> allowed``. `LazyMask` keeps
that function with its offsets and padding, travels through a model in the place of the mask tensor, and answers
for one block of queries or for a few rows at a time.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from checkpoints.errors import UnsupportedArchitecture

MaskFunction = Callable[..., Tensor]


@dataclass(frozen=True, slots=True)
class LazyMask:
    """Which keys each query may see, without the tensor that says so.

    Attributes:
        function: index function of transformers, broadcasting over (batch, head, query, key) positions.
        batch: how many sequences.
        padding: [batch, keys seen so far], True for real tokens; None when nothing is padded.
        query_start: absolute position of the first query of this call (> 0 behind a cache).
        key_start: absolute position of the first key (> 0 behind a windowed cache).
        n_keys: how many keys.
        earlier: when every query sees exactly the keys up to itself, how many keys precede the first query (0
            without a cache); None for any other pattern.
    """

    function: MaskFunction
    batch: int
    padding: Tensor | None
    query_start: int
    key_start: int
    n_keys: int
    earlier: int | None

    def __getitem__(self, _: Any) -> "LazyMask":
        """Survive a model that slices its mask to the key length: the slice is taken when keys are asked for."""
        return self

    def allowed(self, queries: Tensor, keys: Tensor) -> Tensor:
        """Say which of the keys each query may see.

        Args:
            queries: [batch or 1, rows] absolute positions.
            keys: [K] absolute positions.

        Returns:
            [batch or 1, rows, K] bool.
        """
        seen = self._pattern(queries, keys)
        if self.padding is None:
            return seen
        missing = self.key_start + self.n_keys - self.padding.shape[1]
        real = torch.nn.functional.pad(self.padding, (0, max(missing, 0))).to(keys.device)[:, keys]
        return seen & real[:, None]

    def blocks(self, n_queries: int, step: int, device: torch.device) -> Iterator[tuple[slice, slice, Tensor]]:
        """Cut the queries into blocks, each with the keys it can reach.

        Yields:
            the block's queries and keys as slices of this call's tensors, and [batch or 1, queries, keys] bool.
        """
        keys = self.key_start + torch.arange(self.n_keys, device=device)
        for start in range(0, n_queries, step):
            stop = min(start + step, n_queries)
            queries = (self.query_start + torch.arange(start, stop, device=device))[None]
            low, high = self._reach(queries, keys)
            yield slice(start, stop), slice(low, high), self.allowed(queries, keys[low:high])

    def _pattern(self, queries: Tensor, keys: Tensor) -> Tensor:
        """[batch or 1, rows, K]: the mask without padding."""
        batch = torch.arange(self.batch, device=queries.device)[:, None, None, None]
        head = torch.zeros(1, 1, 1, 1, dtype=torch.long, device=queries.device)
        seen = self.function(batch, head, queries[:, None, :, None], keys[None, None, None, :])
        return seen.expand(-1, 1, queries.shape[1], keys.shape[0])[:, 0]

    def _reach(self, queries: Tensor, keys: Tensor) -> tuple[int, int]:
        """First and one-past-last key that a block of consecutive queries can see, padding aside.

        Causal, windowed and chunked masks move forward with the query, so the block's two ends bound it.
        """
        reached = torch.nonzero(self._pattern(queries[:, [0, -1]], keys).flatten(0, 1).any(dim=0))
        return (int(reached[0]), int(reached[-1]) + 1) if len(reached) else (0, 1)


def lazy_mask(
    batch_size: int,
    q_length: int,
    kv_length: int,
    q_offset: int | Tensor,
    kv_offset: int | Tensor,
    mask_function: MaskFunction,
    attention_mask: Tensor | None = None,
    local_size: int | None = None,
    *,
    allow_is_causal_skip: bool = True,
    use_vmap: bool = False,
    **_: Any,
) -> LazyMask:
    """Build a `LazyMask` where transformers asks for a mask (`AttentionMaskInterface`).

    Raises:
        UnsupportedArchitecture: the model's mask is no index function (bidirectional image tokens and the like).
    """
    if use_vmap:
        raise UnsupportedArchitecture(
            "this model overlays its own mask pattern on the causal one, which cannot be read row by row; "
            "only causal, sliding-window, chunked and padded masks are supported"
        )
    padding = None if attention_mask is None or bool(attention_mask.all()) else attention_mask
    query_start, key_start = int(q_offset), int(kv_offset)
    fits = local_size is None or kv_length < local_size
    aligned = query_start + q_length == key_start + kv_length
    plain = allow_is_causal_skip and fits and padding is None and aligned
    earlier = kv_length - q_length if plain else None
    return LazyMask(mask_function, batch_size, padding, query_start, key_start, kv_length, earlier)
