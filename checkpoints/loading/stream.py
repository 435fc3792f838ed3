"""One checkpoint after the other: read ahead while the current one computes, in one model object where asked.

A live model takes the next checkpoint in one of two ways. Where every tensor of the first checkpoint's files was seen
to equal the model's tensor of the same name, or but one of those left over, the files of the next are read, converted
and checked in a thread while the current one computes, and then put straight in: if they hold the same names and shapes
under the same config, and tensors that the config ties are apart in them as in the model, since equal values are tied
by a fresh load. Otherwise (fused, or tied in other ways) the next is loaded afresh by transformers and put over, tensor
by tensor, if it ties the same ones; transformers sets global state while it loads, so that is done between two turns.
A live model whose tensors, config or derived buffers are no longer those it was loaded with is left alone and a new one
is built; so is each where main memory has no room for a second beside it (`checkpoints.loading.room`). At most one
model and one further checkpoint's tensors are in memory; of adapters, their base model besides, which is read once
(`checkpoints.loading.bases`).
"""

import atexit
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import starmap, zip_longest
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING

from checkpoints.errors import DriftError
from checkpoints.files.check import check_files
from checkpoints.files.folder import hash_weights, weight_files
from checkpoints.files.formats import WeightFiles, find_weights
from checkpoints.files.hashes import stamps
from checkpoints.files.headers import unwrapped
from checkpoints.loading.bases import HeldBase
from checkpoints.loading.coverage import check_finite, in_whole_numbers
from checkpoints.loading.load import LoadedModel, load
from checkpoints.loading.room import has_room_beside
from checkpoints.model.packed import packed_modules
from checkpoints.placement import Placement
from checkpoints.series.checkpoint import Checkpoint
from checkpoints.series.downloads import Downloads

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


def stream(
    checkpoints: Sequence[Checkpoint],
    placement: Placement,
    *,
    reuse: bool,
    downloads: Downloads,
) -> Iterator[LoadedModel]:
    """Yield each checkpoint's model; see `Series.models`. What was brought for them goes with ``downloads``."""
    live: _Live | None = None
    loaded: LoadedModel | None = None
    reader: _Reader | None = None
    in_hand: Checkpoint | None = None
    held = HeldBase() if reuse else None
    try:
        for checkpoint, upcoming in zip_longest(checkpoints, checkpoints[1:]):
            if reader is not None:
                reader.join()
            downloads.start(checkpoint)
            downloads.drop_used()
            in_hand, taken = checkpoint, None
            downloads.fetch(checkpoint)
            if live is not None and live.accepts(checkpoint):
                taken = live.take(checkpoint, reader.reading if reader else None)
            if taken is not None:
                loaded = taken
            else:
                if loaded is not None:
                    loaded.release()
                loaded = live = None
                loaded = load(checkpoint, placement, held)
                live = _Live(loaded, held) if held and _may_take_another(loaded.model) else None
            reader = None if upcoming is None else _Reader(upcoming, downloads, live)
            yield loaded
            in_hand = None
            downloads.done(checkpoint)
    finally:
        if reader is not None:
            reader.end()
        if loaded is not None:
            loaded.release()
        if in_hand is not None:  # left early, or it could not be loaded
            downloads.done(in_hand)
        if reader is not None and reader.checkpoint != in_hand:
            downloads.spare(reader.checkpoint, reader)
        downloads.drop_used()


def _may_take_another(model: "PreTrainedModel") -> bool:
    """Whether a model is to hold the next checkpoint too, whose tensors are then held beside it for a while."""
    return not any(packed_modules(model)) and has_room_beside(model)


class _Reader(threading.Thread):
    """Fetches, hashes and, for a live model that takes files as they are, reads the next checkpoint.

    It ends with its stream or its process: one that ends while torch works in a thread of it is aborted.
    """

    def __init__(self, checkpoint: Checkpoint, downloads: Downloads, live: "_Live | None") -> None:
        super().__init__(name=f"read ahead {checkpoint.name}", daemon=True)
        self.checkpoint, self.downloads, self.live = checkpoint, downloads, live
        self.reading: _Reading | None = None
        self._ended, self._in_torch = threading.Event(), threading.Lock()
        atexit.register(self.end)
        self.start()

    def end(self) -> None:
        """Read no further; waits for the tensor in hand, not for a download."""
        self._ended.set()
        with self._in_torch:
            atexit.unregister(self.end)

    def run(self) -> None:
        """Leave nothing behind where something is wrong: taking the checkpoint will say what."""
        with suppress(DriftError, OSError):
            files = weight_files(self.downloads.fetch(self.checkpoint))
            _announce(files)
            hash_weights(files)  # wanted anyway, and the files are then in memory
            with self._in_torch:
                if self.live is not None and not self._ended.is_set():
                    self.reading = self.live.read(self.checkpoint, self._ended)
        if self._ended.is_set():
            self.downloads.read_in_vain(self.checkpoint)
        atexit.unregister(self.end)


def _announce(files: Sequence[Path]) -> None:
    """Have the system begin to read files, whose hashes may be known already; not every system takes advice."""
    if hasattr(os, "posix_fadvise"):
        for file in files:
            with file.open("rb") as stream:
                os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_WILLNEED)


def _hashes(checkpoint: Checkpoint) -> tuple[str, str | None, str | None]:
    """What must stay the same for a model and its tokenizer to be used again."""
    return checkpoint.config_hash, checkpoint.tokenizer_hash, checkpoint.code_hash


@dataclass(frozen=True, slots=True)
class _Reading:
    """A checkpoint's tensors by the model's names, and what its files looked like before they were read."""

    tensors: "Mapping[str, torch.Tensor]"
    seen: Mapping[Path, tuple[int, ...] | None]


class _Live:
    """A model that is to hold one checkpoint after the other."""

    def __init__(self, loaded: LoadedModel, held: HeldBase | None = None) -> None:
        self.loaded, self.held = loaded, held
        self.hashes = _hashes(loaded.checkpoint)
        self.tensors = _tensors(loaded.model)
        self.names = frozenset(self.tensors)
        self.derived = {name: tensor.clone() for name, tensor in _derived(loaded.model).items()}
        self.attention = loaded.model.config._attn_implementation
        self.places = _places(find_weights(loaded.checkpoint.path), self.tensors)

    @property
    def direct(self) -> bool:
        """Whether its files are put straight into it."""
        return self.places is not None

    def accepts(self, checkpoint: Checkpoint) -> bool:
        """Whether the model is as it was loaded, and the checkpoint of the same config and tokenizer."""
        with suppress(DriftError):
            return self._is_intact() and _hashes(checkpoint) == self.hashes
        return False

    def _is_intact(self) -> bool:
        """Whether nobody has changed the model's parts, settings or what it derives from its config."""
        import torch

        model = self.loaded.model
        now, derived = _tensors(model), _derived(model)
        return (
            now.keys() == self.names
            and all(now[name] is tensor for name, tensor in self.tensors.items())
            and derived.keys() == self.derived.keys()
            and all(torch.equal(derived[name], tensor) for name, tensor in self.derived.items())
            and not model.training
            and model.config._attn_implementation == self.attention
        )

    def read(self, checkpoint: Checkpoint, ended: threading.Event | None = None) -> _Reading | None:
        """A checkpoint's tensors, in the model's dtypes and finite; None where its files are not to be taken as is.

        Nor where that is called off meanwhile, by ``ended``.
        """
        if self.places is None:
            return None
        weights = find_weights(checkpoint.path)
        if not _fits(weights, self.places, self.tensors):
            return None
        seen = stamps(checkpoint.files)
        tensors = {}
        for name, tensor in _stored(weights):
            if ended is not None and ended.is_set():
                return None
            place = self.places[name]
            if place is not None:
                tensors[place] = tensor.to(self.tensors[place].dtype, copy=True)  # no longer mapped from the file
        check_finite(checkpoint.path, tensors)
        return _Reading(tensors, seen) if self._ties_as_a_fresh_load(tensors) else None

    def _ties_as_a_fresh_load(self, tensors: "Mapping[str, torch.Tensor]") -> bool:
        """Whether two tensors that the config ties, and that this model has apart, differ in this checkpoint too.

        Transformers ties them where a checkpoint holds equal values, or one of them, and leaves them apart otherwise.
        """
        import torch

        pairs = self.loaded.model.get_expanded_tied_weights_keys(all_submodels=True).items()
        apart = [(a, b) for a, b in pairs if self.tensors[a] is not self.tensors[b]]
        return all(not torch.equal(tensors[a], tensors[b]) for a, b in apart)

    def take(self, checkpoint: Checkpoint, reading: _Reading | None) -> LoadedModel | None:
        """Put a checkpoint's weights into the model; the handle of the one before no longer gives access.

        Args:
            checkpoint: what to take.
            reading: what `read` gave for it ahead of time, if it did.

        Returns:
            the new handle; None where a fresh load ties other tensors than this model does, which is left as it was.
        """
        check_files(checkpoint.fetch())
        if reading is None or stamps(reading.seen) != reading.seen:
            reading = self.read(checkpoint)
        if reading is None:
            fresh = load(checkpoint, Placement("cpu", self.loaded.dtype, self.loaded.attention), self.held)
            tensors = _tensors(fresh.model)
            reading = _Reading(tensors, fresh.files)
            fresh.release()
            if _ties(tensors) != _ties(self.tensors):
                return None
        _put(reading.tensors, self.tensors)
        self.loaded = self.loaded.pass_on(checkpoint, reading.seen)
        self.loaded.require_unchanged()
        return self.loaded


def _tensors(model: "PreTrainedModel") -> "dict[str, torch.Tensor]":
    """All parameters and persistent buffers by name, tied ones under each of their names."""
    return dict(model.state_dict(keep_vars=True))


def _derived(model: "PreTrainedModel") -> "dict[str, torch.Tensor]":
    """The buffers that no file holds; some models change them as they run, by the lengths they were given."""
    kept = model.state_dict()
    return {name: buffer for name, buffer in model.named_buffers() if name not in kept}


def _ties(tensors: "Mapping[str, torch.Tensor]") -> frozenset[frozenset[str]]:
    """Which names are one tensor."""
    names: dict[int, set[str]] = {}
    for name, tensor in tensors.items():
        names.setdefault(id(tensor), set()).add(name)
    return frozenset(map(frozenset, names.values()))


def _put(source: "Mapping[str, torch.Tensor]", target: "Mapping[str, torch.Tensor]") -> None:
    import torch

    with torch.no_grad():
        for name, tensor in source.items():
            kept = target[name]
            if (kept.device, kept.dtype) == (tensor.device, tensor.dtype):
                kept.data = tensor
            else:
                kept.copy_(tensor)


def safetensors_tensors(files: Sequence[Path]) -> "Iterator[tuple[str, torch.Tensor]]":
    """Every tensor of safetensors files by its name there, memory-mapped."""
    from safetensors import safe_open

    for file in files:
        with safe_open(file, framework="pt") as held:
            for name in held.keys():  # noqa: SIM118
                yield name, held.get_tensor(name)


def _stored(weights: WeightFiles) -> "Iterator[tuple[str, torch.Tensor]]":
    """Every tensor of files that may be put straight in, by its name without a wrapper's."""
    read: Callable[[Sequence[Path]], Iterator[tuple[str, torch.Tensor]]] = resolve_name(str(weights.format.tensors))
    return ((unwrapped(name), tensor) for name, tensor in read(weights.files))


def _shapes(weights: WeightFiles) -> dict[str, tuple[int, ...]]:
    """The shapes of the files' tensors by name, from their headers."""
    return {unwrapped(name): entry.shape for name, entry in weights.entries().items()}


def _fits(weights: WeightFiles, places: "Mapping[str, str | None]", target: "Mapping[str, torch.Tensor]") -> bool:
    """Whether the files hold tensors of the names and shapes that are known to have a place in the model."""
    if weights.format.tensors is None or any(starmap(in_whole_numbers, weights.entries().items())):
        return False
    shapes = _shapes(weights)
    known = {name: place for name, place in places.items() if place is not None}
    return shapes.keys() == places.keys() and all(
        tuple(target[place].shape) == shapes[name] for name, place in known.items()
    )


def _places(weights: WeightFiles, target: "Mapping[str, torch.Tensor]") -> "dict[str, str | None] | None":
    """File's name -> model's name of every tensor, where transformers put the files as they are into the model.

    A name that the model has not belongs to the only tensor left over that holds the same values, or, unless it is a
    weight, to none. None where a tensor's values differ, or one is left without a place or a value.
    """
    if weights.format.tensors is None:
        return None
    unnamed = _left_over(weights, target)
    places: dict[str, str | None] = {}
    for name, tensor in _stored(weights):
        found = [place for place in ([name] if name in target else unnamed) if _holds(target[place], tensor)]
        if len(found) > 1:
            return None  # several tensors have these values, so which of them it is cannot be told
        if not found and (name in target or name.endswith(".weight")):
            return None  # transformers changed the values, or put the weight nowhere
        places[name] = found[0] if found else None
    return places if _fill(places, target) else None


def _left_over(weights: WeightFiles, target: "Mapping[str, torch.Tensor]") -> list[str]:
    """The model's names, one a tensor, of those that no tensor of the files is named after."""
    named = {id(target[name]) for name in _shapes(weights) if name in target}
    return list({id(tensor): name for name, tensor in target.items() if id(tensor) not in named}.values())


def _holds(kept: "torch.Tensor", stored: "torch.Tensor") -> bool:
    """Whether a model's tensor holds a stored one's values, in its own precision."""
    import torch

    return torch.equal(stored.to(kept.device, kept.dtype), kept)


def _fill(places: Mapping[str, str | None], target: "Mapping[str, torch.Tensor]") -> bool:
    """Whether every tensor of the model is given once."""
    given = [id(target[place]) for place in places.values() if place is not None]
    return len(set(given)) == len(given) and {id(tensor) for tensor in target.values()} == {*given}
