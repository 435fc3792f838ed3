"""A sweep as a list of pure tasks: (checkpoint, measure with its prompts, dtype) -> result, keyed by content."""

import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from checkpoints import Checkpoint
from checkpoints.errors import CheckpointMismatch, StoreError
from checkpoints.loading.load import LoadedModel
from checkpoints.placement import ANYWHERE, Placement
from circuit_drift.measures.base import Measure
from circuit_drift.measures.stored import identity, store_key, stored_result, with_provenance
from circuit_drift.store.journal import Journal
from circuit_drift.store.leases import LEASES_FOLDER, TERM, Leases
from circuit_drift.store.store import Store, key_of


@dataclass(frozen=True, slots=True)
class SweepTask:
    """One measure of one checkpoint.

    Attributes:
        measure: the measure with its parameters and prompts.
        key: hash of everything that decides the result; its place in the store.
        files: the hashes of the checkpoint that the key was made from.
    """

    measure: Measure
    key: str
    files: Mapping[str, str | None]

    @classmethod
    def of(cls, checkpoint: Checkpoint, measure: Measure, dtype: str, attention: str) -> "SweepTask":
        """The task; reads (and hashes) the checkpoint's files.

        Raises:
            DriftError: they cannot be read.
        """
        return cls(measure, store_key(checkpoint, measure, dtype, attention), identity(checkpoint))

    @property
    def name(self) -> str:
        """The measure's noun."""
        return self.measure.name

    def stored(self, store: Store) -> bool:
        """Whether its result is there, whole."""
        try:
            self.read(store)
        except StoreError:
            return False
        return True

    def read(self, store: Store) -> Any:
        """The stored result.

        Raises:
            DamagedResult: it is gone, or not what was written.
            StoreError: a newer version's.
        """
        return stored_result(store, self.measure, self.key)

    def compute(self, loaded: LoadedModel, earlier: Mapping[str, Any], store: Store) -> Any:
        """Compute the result from the checkpoint's model and earlier results of it, and store it.

        Raises:
            CheckpointMismatch: the checkpoint's files are no longer those that the key is of.
            CorruptWeights: they are no longer those that were loaded.
            StoreError: the result cannot be written.
        """
        result = with_provenance(self.measure.compute(loaded, earlier), loaded, self.measure, self.key)
        if identity(loaded.checkpoint) != self.files:
            raise CheckpointMismatch(
                f"the files of {loaded.checkpoint.name} changed while it was measured, so its {self.name} was not "
                "stored; run again when nothing writes to them"
            )
        loaded.require_unchanged()
        result.save(store.folder(self.name, self.key))
        return result


@dataclass(frozen=True, slots=True)
class Sweep:
    """What is to be measured, whole and by value, so that it can be handed to any process.

    Attributes:
        id: unlike that of any other sweep.
        checkpoints: in their series' order.
        measures: in the order they must be taken.
        store: where results go.
        placement: where the models lie and how they run.
        term: seconds after which a silent worker on another machine is taken for dead.
        keep_downloads: how many used hub revisions to keep on disk; None keeps all.
    """

    id: str
    checkpoints: tuple[Checkpoint, ...]
    measures: tuple[Measure, ...]
    store: Store
    placement: Placement = ANYWHERE
    term: float = TERM
    keep_downloads: int | None = None

    @classmethod
    def of(
        cls, checkpoints: Sequence[Checkpoint], measures: Sequence[Measure], store: Store, **options: Any
    ) -> "Sweep":
        """A new sweep."""
        return cls(uuid.uuid4().hex[:12], tuple(checkpoints), tuple(measures), store, **options)

    @property
    def leases(self) -> Leases:
        """The leases on its checkpoints."""
        return Leases(self.store.path / LEASES_FOLDER, self.id, self.term)

    @property
    def journal(self) -> Journal:
        """What became of its checkpoints."""
        return Journal(self.store.path / "sweeps" / self.id)

    @property
    def question(self) -> dict[str, Any]:
        """What it asks of each checkpoint: stored runs are joined where what both ask is the same."""
        measures = {measure.name: key_of(measure.key_params()) for measure in self.measures}
        return {"dtype": self.placement.dtype, "attention": self.placement.attention, "measures": measures}

    def about(self, run: str, checkpoints: int | None = None) -> dict[str, Any]:
        """What those who look on are told: of which run, of how many checkpoints (by default its own), since when."""
        count = len(self.checkpoints) if checkpoints is None else checkpoints
        names = [measure.name for measure in self.measures]
        return {"run": run, "checkpoints": count, "measures": names, "began": time.time()}

    def tasks(self, index: int) -> tuple[SweepTask, ...]:
        """The tasks of one checkpoint; reads (and hashes) its weights.

        Raises:
            DriftError: the checkpoint's files cannot be read.
        """
        checkpoint = self.checkpoints[index]
        dtype, attention = self.placement.dtype, self.placement.attention
        return tuple(SweepTask.of(checkpoint, measure, dtype, attention) for measure in self.measures)

    def anywhere(self) -> "Sweep":
        """The same sweep with absolute paths, for workers that run in another folder."""
        checkpoints = tuple(
            replace(c, path=c.path.absolute(), root=c.root.absolute() if c.root else None) for c in self.checkpoints
        )
        return replace(self, checkpoints=checkpoints, store=Store(self.store.path.absolute()))


def asked_how(measure: Measure, placement: Placement) -> str:
    """Hash of a measure's parameters and of how the model runs, by which timings are told apart."""
    how = {"dtype": placement.dtype, "attention": placement.attention, "device": str(placement.device)}
    return key_of({"parameters": measure.key_params(), **how})


def lease_key(tasks: Sequence[SweepTask]) -> str:
    """What a worker leases: the tasks of one checkpoint together, since they share its model."""
    return key_of({"tasks": [task.key for task in tasks]})
