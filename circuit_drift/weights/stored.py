"""Changes of weights as the store keeps them: of two checkpoints, found once; so is why they cannot be told."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, ClassVar

import circuit_drift
from checkpoints import Checkpoint
from checkpoints.errors import UnsupportedArchitecture
from checkpoints.files.trust import allows_code
from checkpoints.results.result import Result
from circuit_drift.store.kept import Place
from circuit_drift.store.store import Store, key_of
from circuit_drift.weights.change import WeightChange

if TYPE_CHECKING:
    import pandas as pd

NAME, VERSION = "weights", 2
REFUSED = "weights-refused"


@dataclass(frozen=True, repr=False)
class Refusal(Result):
    """Why the weights of two checkpoints cannot be compared.

    Attributes:
        reason: as `UnsupportedArchitecture` said it.
        folders: of the two checkpoints then; the reason may name one.
    """

    artifact: ClassVar[str] = "weights-refused"
    title: ClassVar[str] = "Weights"

    reason: str
    folders: tuple[str, str]

    @property
    def verdict(self) -> str:
        """The reason."""
        return self.reason

    def to_frame(self) -> "pd.DataFrame":
        """One row: the reason."""
        import pandas as pd

        return pd.DataFrame({"reason": [self.reason]})

    def of(self, a: Checkpoint, b: Checkpoint) -> UnsupportedArchitecture:
        """The refusal of the same checkpoints, wherever they are now."""
        told = self.reason
        for then, now in zip(self.folders, (a, b), strict=True):
            told = told.replace(then, str(now.path))
        return UnsupportedArchitecture(told)


def kept_weight_change(a: Checkpoint, b: Checkpoint, store: Store) -> WeightChange:
    """What is stored of these weights under these configs, or what `compare.weight_change` finds; read without torch.

    Raises:
        UnsupportedArchitecture: the model's parts are not recognised; kept for as long as nothing is upgraded.
        CheckpointMismatch: a file lacks what the other has.
    """
    sides = {side: {"weights": one.weights_hash, "config": one.config_hash} for side, one in (("a", a), ("b", b))}
    key = key_of({"measure": NAME, "version": VERSION, **sides})
    refused = Place.of_result(store, REFUSED, key_of({"measure": REFUSED, **sides, **_judges(a, b)}), Refusal)

    def made() -> WeightChange:
        if (refusal := refused.find()) is not None:
            raise refusal.of(a, b)
        from circuit_drift.weights.compare import weight_change

        try:
            return weight_change(a, b)
        except UnsupportedArchitecture as error:
            refused.put(Refusal(str(error), (str(a.path), str(b.path))))
            raise

    return replace(Place.of_result(store, NAME, key, WeightChange).find_or_make(made), a=a.label, b=b.label)


def _judges(a: Checkpoint, b: Checkpoint) -> Mapping[str, Any]:
    """What decides besides the checkpoints whether their architecture is known: packages, and code that may run."""
    packages = {"circuit-drift": circuit_drift.__version__, "transformers": version("transformers")}
    return {"packages": packages, "code": [allows_code(one.path, one.repo) for one in (a, b)]}
