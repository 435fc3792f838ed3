"""What a measure is: a pure function of (weights, tokenizer, prompts, parameters), and all that is said of its result.

    from collections.abc import Mapping
    from dataclasses import dataclass, field
    from typing import Any

    from checkpoints.results.result import Result
    from circuit_drift import Measure

    @dataclass(frozen=True, repr=False)
    class NormTable(Result):
        artifact = "norms"
        norms: Mapping[str, float]
        meta: Mapping[str, Any] = field(default_factory=dict)

        @property
        def verdict(self):
            return f"the largest of {len(self.norms)} norms is {max(self.norms.values()):.3g}"

    class Norms(Measure):
        name, result = "norms", NormTable

        def compute(self, loaded, earlier):
            return NormTable({name: float(p.norm()) for name, p in loaded.model.named_parameters()})

        @classmethod
        def reading(cls, result):
            return {"largest_norm": max(result.norms.values())}

A package that names such a class in its entry points runs through ``run --measures norms``, the store, the table, the
report and the prober of a training loop:

    [project.entry-points."circuit_drift.measures"]
    norms = "my_package.norms:Norms"
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

from checkpoints import Checkpoint, DriftError
from checkpoints.loading.load import LoadedModel
from checkpoints.placement import AUTO
from circuit_drift.measures.pairs.pairing import Pairing
from circuit_drift.page.page import Section
from circuit_drift.prompts import Prompts
from circuit_drift.record.record import RunRecord

if TYPE_CHECKING:
    import pandas as pd

ATTENTION = AUTO


@dataclass(frozen=True, slots=True)
class Asked:
    """What a measure is made from where it is asked for by name.

    Attributes:
        prompts: of the run.
        arguments: what stood behind a colon in ``name:argument``, each once.
        checkpoint: the first one to be measured, if there is one yet.
    """

    prompts: Prompts
    arguments: tuple[str, ...] = ()
    checkpoint: Checkpoint | None = None


class Measure(ABC):
    """One measure with its parameters and prompts; whatever is not computed is said of its results, by the class.

    Attributes:
        name: its noun, and the name of its folder in the store.
        version: raise it whenever the numbers change; results of another version are measured anew.
        needs: measures of the same checkpoint whose results `compute` wants to see.
        result: the type of its results: a dataclass with a mapping ``meta``, which takes its provenance, and with the
            `save` and `load` of `checkpoints.results.result.Result`, on which the built-in ones stand.
        pairing: how two results are compared; None = they are not.
        of_weights: whether the weights decide its results; where not, a series has one, stored once.
        chapter: of the report in which its sections stand (`circuit_drift.page.page.CHAPTERS`).
    """

    name: ClassVar[str]
    version: ClassVar[int] = 1
    needs: ClassVar[tuple[str, ...]] = ()
    result: ClassVar[Any]
    pairing: ClassVar[Pairing | None] = None
    of_weights: ClassVar[bool] = True
    chapter: ClassVar[str] = "Behaviour"

    @classmethod
    def build(cls, asked: Asked) -> Self:
        """The measure as a run asks for it by name; by default one without parameters.

        Raises:
            DriftError: an argument that it does not know.
        """
        cls.refuse_arguments(asked)
        return cls()

    @classmethod
    def refuse_arguments(cls, asked: Asked) -> None:
        """For a measure that takes none.

        Raises:
            DriftError: there are some.
        """
        if asked.arguments:
            raise DriftError(f"the measure {cls.name} takes no argument; got {cls.name}:{asked.arguments[0]}")

    def params(self) -> dict[str, Any]:
        """Everything besides the checkpoint and the version that decides the numbers, as JSON holds it."""
        return {}

    def key_params(self) -> dict[str, Any]:
        """What goes into the key of a result: the version and `params`."""
        return {"version": self.version, **self.params()}

    @property
    def origins(self) -> dict[str, str]:
        """Where its prompts came from, for people to read: ``needles``, ``facts``."""
        return {}

    @abstractmethod
    def compute(self, loaded: LoadedModel, earlier: Mapping[str, Any]) -> Any:
        """Measure one checkpoint.

        Args:
            loaded: the model with its tokenizer.
            earlier: results of the measures in `needs`, by name.
        """

    @classmethod
    def reading(cls, result: Any) -> Mapping[str, float]:
        """Headline numbers: what a training log shows of a result; what is not finite is left out."""
        return {}

    @classmethod
    def columns(cls, result: Any) -> Mapping[str, Any]:
        """Its columns in the table of a run, in order; by default those of `reading`."""
        return cls.reading(result)

    @classmethod
    def along(cls, run: RunRecord) -> Mapping[str, Sequence[float]]:
        """Columns whose numbers need the run's other checkpoints too: name -> a value for each of its points.

        Args:
            run: with at least one result of this measure.
        """
        return {}

    @classmethod
    def short(cls, column: str) -> str:
        """What a terminal calls one of its columns."""
        return column

    @classmethod
    def sections(cls, run: RunRecord, table: "pd.DataFrame") -> Iterable[Section]:
        """Its sections of a run's report; by default its columns, if it has any.

        Args:
            run: with at least one result of this measure.
            table: the table of the run, a row a checkpoint.
        """
        from circuit_drift.measures.figures.lines import lines_figure

        results = [point.results[cls.name] for point in run if cls.name in point.results]
        names = list(dict.fromkeys(name for result in results for name in cls.columns(result)))
        if names:
            figure = lines_figure(run, table, names)
            yield Section(cls.name, f"{cls.name} over training", figure=figure, frame=table[["step", *names]])
