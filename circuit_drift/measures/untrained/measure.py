"""The untrained twin as a measure: heads, circuit and faithfulness of the same config at random weights."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

from checkpoints import DriftError
from checkpoints.loading.load import LoadedModel
from circuit_drift.measures.base import Asked, Measure
from circuit_drift.measures.circuit import CircuitMeasure
from circuit_drift.measures.faithfulness import FaithfulnessMeasure
from circuit_drift.measures.heads import RetrievalMeasure
from circuit_drift.page.page import Section
from circuit_drift.record.record import RunRecord
from circuit_drift.record.untrained import PARTS, UntrainedTwin, readouts, untrained_twin

if TYPE_CHECKING:
    import pandas as pd

KINDS: tuple[type[Measure], ...] = (RetrievalMeasure, CircuitMeasure, FaithfulnessMeasure)


@dataclass(frozen=True)
class UntrainedMeasure(Measure):
    """What the run's measures find before any training: ``run --measures heads,circuit,faithfulness,untrained``.

    Attributes:
        taken: the measures that are taken of the twin, each after those that it needs.
        seed: of its weights.
    """

    taken: tuple[Measure, ...]
    seed: int = 0

    name = "untrained"
    chapter = "Data and checks"
    of_weights = False
    result = UntrainedTwin

    @classmethod
    def build(cls, asked: Asked) -> Self:
        """Of heads, circuit and faithfulness, or of those named: ``untrained:heads``, ``untrained:circuit``.

        Raises:
            DriftError: another measure is named.
        """
        unknown = [name for name in asked.arguments if name not in PARTS]
        if unknown:
            raise DriftError(f"an untrained twin has {', '.join(PARTS)}, not {unknown[0]}")
        wanted = {*(asked.arguments or PARTS)}
        wanted |= {"circuit"} if "faithfulness" in wanted else set()
        plain = replace(asked, arguments=())
        return cls(tuple(kind.build(plain) for kind in KINDS if kind.name in wanted))

    def params(self) -> dict[str, Any]:
        """Those of the measures taken, and the seed."""
        return {"taken": {measure.name: measure.key_params() for measure in self.taken}, "seed": self.seed}

    def compute(self, loaded: LoadedModel, earlier: Mapping[str, Any]) -> UntrainedTwin:
        """Draw the twin's weights and measure it; nothing of the checkpoint's own weights is used."""
        from circuit_drift.measures.untrained.model import untrained

        twin = untrained(loaded, self.seed)
        parts: dict[str, Any] = {}
        for measure in self.taken:
            parts[measure.name] = measure.compute(twin, parts)
        twin.release()
        return UntrainedTwin(parts, {"seed": self.seed})

    @property
    def origins(self) -> dict[str, str]:
        """Of the prompts of the measures taken."""
        return {name: text for measure in self.taken for name, text in measure.origins.items()}

    @classmethod
    def sections(cls, run: RunRecord, table: "pd.DataFrame") -> Iterator[Section]:
        """The twin's numbers beside those of the first and the last checkpoint."""
        twin = untrained_twin(run)
        assert twin is not None
        yield Section(
            cls.name,
            "Beside an untrained twin",
            text="What the same measures find in a model of the same config that was never trained: the floor of what "
            "they find in the checkpoints.",
            caption=f"Weights as the model's class draws them, seed {twin.meta['seed']}; one draw, the same prompts.",
            frame=beside(run, twin),
        )


def beside(run: RunRecord, twin: UntrainedTwin) -> "pd.DataFrame":
    """One row a number of the twin: quantity, untrained, first, last; NaN where a checkpoint has none.

    Args:
        run: whose first and last checkpoint are read.
        twin: of its config.
    """
    import pandas as pd

    floor, first, last = (readouts(point) for point in (twin.point, run.points[0], run.points[-1]))
    rows = [(name, value, first.get(name), last.get(name)) for name, value in floor.items()]
    return pd.DataFrame(rows, columns=["quantity", "untrained", "first", "last"]).astype(
        dict.fromkeys(("untrained", "first", "last"), float)
    )
