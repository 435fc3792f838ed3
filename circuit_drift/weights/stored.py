"""Changes of weights as the store keeps them: of two checkpoints, found once."""

from contextlib import suppress
from dataclasses import replace

from checkpoints import Checkpoint
from checkpoints.errors import StoreError
from circuit_drift.store.store import Store, key_of
from circuit_drift.weights.change import WeightChange

NAME, VERSION = "weights", 1


def kept_weight_change(a: Checkpoint, b: Checkpoint, store: Store) -> WeightChange:
    """What is stored of these weights under these configs, or what `compare.weight_change` finds; read without torch.

    Raises:
        UnsupportedArchitecture: the model's parts are not recognised.
        CheckpointMismatch: a file lacks what the other has.
    """
    sides = {side: {"weights": one.weights_hash, "config": one.config_hash} for side, one in (("a", a), ("b", b))}
    key = key_of({"measure": NAME, "version": VERSION, **sides})
    if store.has(NAME, key):
        with suppress(StoreError, LookupError, TypeError, ValueError):  # what cannot be read is found anew
            return replace(WeightChange.load(store.folder(NAME, key)), a=a.label, b=b.label)
    from circuit_drift.weights.compare import weight_change

    found = weight_change(a, b)
    with suppress(StoreError):  # a store may be there to be read alone
        found.save(store.folder(NAME, key))
    return found
