"""Needle maps: how well answers are predicted over length and depth, and over interference and distance."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

from checkpoints import DriftError
from checkpoints.errors import BadPrompt, UnsupportedArchitecture
from checkpoints.loading.load import LoadedModel
from checkpoints.results.text import counted
from circuit_drift.measures.base import Asked, Measure
from circuit_drift.measures.pairs.beside import BesidePairing
from circuit_drift.measures.tokenizers import tokenizer_of
from circuit_drift.page.page import Section
from circuit_drift.prompts import NeedleSource
from circuit_drift.record.record import RunRecord
from heads.niah.maps import NeedleMaps
from heads.prompts.needles import Needle

if TYPE_CHECKING:
    import pandas as pd

    from heads.rows.prefix import Prefix

COUNTS = ("lengths", "distances", "befores")
"""Axes of the grid that are counted in tokens."""


@dataclass(frozen=True)
class MapsMeasure(Measure):
    """Answer perplexity and needle score in every cell: ``run --measures maps``, or ``maps:512+1024``.

    Attributes:
        source: the needles, their haystack, and the depths.
        lengths: tokens of the prompts.
        distances: tokens after the needle, of the map over interference.
        befores: tokens before it.
    """

    source: NeedleSource
    lengths: tuple[int, ...]
    distances: tuple[int, ...]
    befores: tuple[int, ...]

    name = "maps"
    version = 2
    result = NeedleMaps
    pairing = BesidePairing("maps", "Needle maps")

    @classmethod
    def build(cls, asked: Asked) -> Self:
        """Over the grid named, ``maps:256+512`` or ``maps:lengths=256+512``, ``maps:depths=0+0.5+1`` and so on.

        By default a half, three quarters and all of the run's length, at the run's depths. Distances and what stands
        before are shares of the longest: an eighth and a quarter after the needle; an eighth, a quarter and a half
        before it.
        """
        grid: dict[str, list[float]] = {}
        for argument in asked.arguments:
            name, values = argument.split("=", 1) if "=" in argument else ("lengths", argument)
            grid.setdefault(name, []).extend(_numbers(name, values, argument))
        lengths, distances, befores = (tuple(sorted({int(n) for n in grid.get(name, ())})) for name in COUNTS)
        depths = tuple(sorted(set(grid.get("depths", ()))))
        source = asked.prompts.needles
        source = replace(source, depths=depths) if depths else source
        longest = max(lengths, default=source.length)
        return cls(
            source,
            lengths or (longest // 2, 3 * longest // 4, longest),
            distances or (longest // 8, longest // 4),
            befores or (longest // 8, longest // 4, longest // 2),
        )

    def params(self) -> dict[str, Any]:
        """The prompts and the grid; how prompts share their prefixes changes no number beyond rounding."""
        grid = {name: list(getattr(self, name)) for name in ("lengths", "distances", "befores")}
        return {"prompts": self.source.hash, **grid}

    def compute(self, loaded: LoadedModel, earlier: Mapping[str, Any]) -> NeedleMaps:
        """Both maps, prompts going on from each other's prefixes where the model's attention allows it.

        The map over interference hides each needle alone: its distractors would be interference of their own.

        Raises:
            BadPrompt: no needle can stand at every length, or a length is beyond the model.
        """
        from heads.niah.measure import interference_map, needle_map

        model, tokenizer, haystack, prefix = loaded.model, tokenizer_of(loaded), self.source.haystack, _prefix(loaded)
        depth = needle_map(
            model,
            tokenizer,
            self.source.needles,
            haystack,
            lengths=self.lengths,
            depths=self.source.depths,
            seed=self.source.seed,
            prefix=prefix,
        )
        interference, meta = None, {"prompts": self.source.hash, "refused": depth.meta["refused"], "prefix": prefix}
        try:
            interference = interference_map(
                model,
                tokenizer,
                _alone(self.source.needles),
                haystack,
                distances=self.distances,
                befores=self.befores,
                seed=self.source.seed,
                prefix=prefix,
            )
        except BadPrompt as reason:
            meta["no_interference"] = str(reason)
        return NeedleMaps(depth, interference, {**depth.meta, **meta})

    @property
    def origins(self) -> dict[str, str]:
        """Of the needles."""
        return {"needles": self.source.origin}

    @classmethod
    def reading(cls, result: NeedleMaps) -> dict[str, float]:
        """Perplexity and score over the cells; what the middle and interference cost, in nats per answer token."""
        costs = {"middle_penalty": result.middle_penalty, "interference_cost": result.interference_cost}
        found = {"map_ppl": result.answer_ppl, "map_score": result.needle_score}
        return found | {name: cost.value for name, cost in costs.items() if cost is not None}

    @classmethod
    def short(cls, column: str) -> str:
        """One word each."""
        return {"middle_penalty": "middle", "interference_cost": "interference"}.get(column, column)

    @classmethod
    def sections(cls, run: RunRecord, table: "pd.DataFrame") -> Iterator[Section]:
        """The maps, sliding through training, and their costs over it."""
        from circuit_drift.measures.figures import maps as figures

        first = figures.maps_of(run)[0]
        refused = len(first.meta["refused"])
        probe = f"{counted(len(first.depth.needle), 'prompt')} of length x depth; needles: {run.origins['needles']}."
        if refused:
            probe = f"{probe} {counted(refused, 'needle')} left out: they cannot stand in every cell."
        if first.interference is None:
            probe = f"{probe} No map over interference: {first.meta['no_interference']}."
        yield Section(
            "maps",
            "Needle maps over training",
            text="Answer perplexity and needle score over length and depth, and over distance and interference; drag "
            "the slider through training.",
            figure=figures.maps_figure(run),
            caption=f"Teacher-forced answers (arXiv 2604.02650, figures 2, 3, 7, 8). {probe}",
            frame=figures.maps_frame(run),
        )
        costs = [name for name in ("middle_penalty", "interference_cost") if name in table]
        if costs:
            yield Section(
                "map-costs",
                "What the middle and interference cost",
                figure=figures.costs_figure(run),
                caption=f"Differences of answer NLL, nats per token (figure 9 for interference). {probe}",
                frame=table[["step", *costs]],
            )


def _numbers(name: str, values: str, argument: str) -> list[float]:
    """The numbers of one axis of the grid.

    Raises:
        DriftError: no such axis, or no numbers that it can have.
    """
    try:
        found = [float(part) for part in values.split("+")]
    except ValueError:
        found = []
    right = all(0 <= number <= 1 if name == "depths" else number >= 1 and number.is_integer() for number in found)
    if name not in (*COUNTS, "depths") or not found or not right:
        raise DriftError(
            f"maps takes tokens, as in maps:256+512+1024, for {', '.join(COUNTS)}, and depths from 0 to 1, as in "
            f"maps:depths=0+0.5+1; got {argument}"
        )
    return found


def _alone(needles: Sequence[Needle]) -> list[Needle]:
    """The needles without their distractors."""
    return [replace(needle, distractors=(), rank=None) for needle in needles]


def _prefix(loaded: LoadedModel) -> "Prefix":
    """Whether prompts can go on from each other's keys in this model."""
    from heads.rows.prefix import SharedPrefix

    with suppress(UnsupportedArchitecture):
        SharedPrefix(loaded.model)
        return "shared"
    return "separate"
