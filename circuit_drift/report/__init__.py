"""The report: one self-contained HTML page of a run or of a pair of checkpoints."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from checkpoints.errors import BadPrompt
from checkpoints.results.text import counted
from circuit_drift.comparison.pair import stored_pair
from circuit_drift.comparison.pair_tables import pairings
from circuit_drift.explanation.sections import explanation_sections
from circuit_drift.explore.fact_cards import fact_cards
from circuit_drift.explore.head_cards import head_cards
from circuit_drift.explore.rewired import pair_rewired, run_rewired
from circuit_drift.measures.registry import kinds_in
from circuit_drift.page.axis import mark_steps
from circuit_drift.page.page import SHOWN, Figures, Section, in_chapter, write_page
from circuit_drift.page.thinning import left_out, thin_table
from circuit_drift.record.pair import PairRecord
from circuit_drift.record.record import Point, RunRecord
from circuit_drift.report.asked import recorded, refused_frame
from circuit_drift.report.audit import audit_sections, audit_warnings
from circuit_drift.report.emergence import emergence_sections
from circuit_drift.report.overview import cards, overview
from circuit_drift.report.verdict import run_statements
from circuit_drift.report.verdict_pair import pair_statements
from circuit_drift.stages.stages import stage_ends, track_circuits
from circuit_drift.statements.statement import Statement
from circuit_drift.trackers.steady import each_told

if TYPE_CHECKING:
    import pandas as pd


__all__ = ["pair_sections", "run_sections", "write_pair_report", "write_report"]

HEADLINES = ("floor", "group")
"""Statements about a stage that its outcome is followed by; its recall is among those of the run."""
HASH, WHOLE_HASH = 12, 64
"""Letters of a hash that the page shows, of those that it has."""
LEADING = ("onset", "deceptive")
"""Statements about a run that its page opens with, the first of each, before the outcomes of its last stages."""


def write_report(
    run: RunRecord,
    path: Path | str,
    *,
    statements: Sequence[Statement] | None = None,
    figures: Figures = "interactive",
) -> Path:
    """Write the report of a run: verdict, behaviour, heads and circuits over training, and the stages' own diffs.

    Args:
        run: a measured run.
        path: the HTML file; replaced in one step.
        statements: those of `run_statements`, where they were found before.
        figures: ``interactive``, or ``svg`` for pictures, which take kaleido (the extra ``images``).

    Raises:
        StoreError: the file cannot be written.
        DriftError: pictures without kaleido or a browser.
    """
    from circuit_drift.report.run_table import run_frame

    table = run_frame(run)
    pairs = _stage_pairs(run)
    return write_page(
        path,
        title=f"Circuits over training: {run.name}",
        subtitle=f"{counted(len(run), 'checkpoint')}, {_steps(run)}",
        verdict=_findings(run_statements(run) if statements is None else statements, pairs),
        warnings=[*audit_warnings(run), *(f"{p.name}, {m}: {reason}" for p in run for m, reason in p.failures.items())],
        sections=list(each_told("writing the report", _run_sections(run, table, pairs), None, unit="section")),
        provenance=_provenance(run.points, run.origins),
        cards=cards(table),
        lead=overview(run, table),
        figures=figures,
    )


def run_sections(run: RunRecord) -> Iterator[Section]:
    """The sections of a run's report, the run at a glance first; made one by one as they are asked for."""
    from circuit_drift.report.run_table import run_frame

    table = run_frame(run)
    if (glance := overview(run, table)) is not None:
        yield glance
    yield from _run_sections(run, table, _stage_pairs(run))


def pair_sections(pair: PairRecord) -> Iterator[Section]:
    """The sections of a pair's report."""
    yield from _explained(pair)
    yield from pair_rewired(pair, anchor="pair")
    yield from _pair_sections(pair, anchor="pair")
    yield from in_chapter("What changed and why", _weights(pair))
    yield from in_chapter("Data and checks", _refused((pair.a, pair.b)))


def _stage_pairs(run: RunRecord) -> list[PairRecord]:
    return [stored_pair(run, a.place, b.place) for a, b in stage_ends(run)]


def _run_sections(run: RunRecord, table: "pd.DataFrame", pairs: Sequence[PairRecord]) -> Iterator[Section]:
    yield from _evolution(run, table)
    yield from head_cards(run)
    yield from fact_cards(run)
    yield from run_rewired(run)
    for pair in pairs:
        of = f"Stage {pair.b.stage}: {pair.span}" if pair.b.stage else pair.span
        for section in _pair_sections(pair, anchor=f"{pair.a.name}-{pair.b.name}"):
            yield replace(section, of=of) if len(pairs) > 1 else section
    yield from in_chapter("Data and checks", audit_sections(run))
    yield from in_chapter("Data and checks", _refused(run.points))
    yield Section("checkpoints", "All checkpoints", frame=table, chapter="Data and checks")


def write_pair_report(
    pair: PairRecord,
    path: Path | str,
    *,
    statements: Sequence[Statement] | None = None,
    figures: Figures = "interactive",
) -> Path:
    """Write the report of two checkpoints; statements and figures as for `write_report`.

    Raises:
        StoreError: the file cannot be written.
        DriftError: pictures without kaleido or a browser.
    """
    sections = [replace(each, title=each.title.removesuffix(f" {pair.span}")) for each in pair_sections(pair)]
    lead = _first_seen(sections)
    return write_page(
        path,
        title=f"{pair.a.name} → {pair.b.name}",
        subtitle=f"changes from A to B; real = q ≤ {pair.q:g}",
        verdict=[each.text for each in (pair_statements(pair) if statements is None else statements)],
        warnings=[f"{measure} is not compared: {reason}" for measure, reason in pair.missing.items()],
        sections=[section for section in sections if section is not lead],
        provenance=_provenance((pair.a, pair.b), {}),
        lead=lead,
        figures=figures,
    )


def _first_seen(sections: Sequence[Section]) -> Section | None:
    """What a pair's page opens with: what rewired, else its first figure."""
    chosen = [each for each in sections if each.widget is not None] or [each for each in sections if each.figure]
    return chosen[0] if chosen else None


def _refused(points: Sequence[Point]) -> Iterator[Section]:
    frame = refused_frame(points)
    if len(frame):
        yield Section("refused", "Facts and needles that were not asked", frame=frame)


def _findings(statements: Sequence[Statement], pairs: Sequence[PairRecord]) -> list[str]:
    """What happened in three sentences, then everything else in its order.

    The three are the first head that retrieves, a needle test that deceives, and what the last stages changed in all:
    facts learned and lost, circuits, heads.
    """
    opening = [next((each for each in statements if each.kind == kind), None) for kind in LEADING]
    first = [each for each in opening if each is not None]
    told = {pair.span: list(pair_statements(pair)) for pair in pairs}
    stages = [_outcome(pair, told[pair.span]) for pair in pairs]
    last = stages[max(0, len(stages) + len(first) - SHOWN) :]
    rest = [each.text for each in statements if all(each is not other for other in first)]
    rest += stages[: len(stages) - len(last)]
    rest += [each.over(span).text for span, found in told.items() for each in found if each.kind in HEADLINES]
    return [*(each.text for each in first), *last, *rest]


def _outcome(pair: PairRecord, told: Sequence[Statement]) -> str:
    """Whether the ends of a stage differ, and in what, headed by the stage's name where it has one."""
    outcome = next(each.text for each in told if each.kind == "outcome")
    return f"Stage {pair.b.stage}: {outcome}" if pair.b.stage else outcome


def _evolution(run: RunRecord, table: "pd.DataFrame") -> Iterator[Section]:
    for kind in kinds_in(run):
        yield from in_chapter(kind.chapter, kind.sections(run, table))
    yield from in_chapter("Behaviour", emergence_sections(run))
    if sum(point.circuit is not None and point.position is not None for point in run) > 2:
        yield from _phases(run)


def _phases(run: RunRecord) -> Iterator[Section]:
    """A section for each group of facts that went one way."""
    try:
        tracks = track_circuits(run)
    except BadPrompt as error:
        yield Section("phases", "Phases of the circuit", text=f"Not applicable: {error}.", chapter="Circuit")
        return
    for place, (track, chosen) in enumerate(tracks):
        yield Section(
            f"phases-{place + 1}" if place else "phases",
            f"Phases of the circuit: {chosen.partition(' (')[0]}" if len(tracks) > 1 else "Phases of the circuit",
            text=track.verdict,
            figure=mark_steps(thin_table(track.plot_likeness()), run),
            caption=f"Measured on {chosen}; cosine of mean edge scores, corrected for prompt noise: 1 = the same "
            "wiring up to strength, blank = nothing but noise." + left_out(len(track), "The figure"),
            frame=track.to_frame(),
            chapter="Circuit",
        )


def _pair_sections(pair: PairRecord, *, anchor: str) -> Iterator[Section]:
    for pairing in sorted(pairings(pair).values(), key=lambda pairing: pairing.place):
        yield from in_chapter("What changed and why", pairing.sections(pair, anchor=anchor))


def _weights(pair: PairRecord) -> Iterator[Section]:
    if pair.weights is not None:
        yield pair.weights.section(anchor="pair")


def _explained(pair: PairRecord) -> Iterator[Section]:
    for found in pair.explanations:
        yield from in_chapter(
            "What changed and why", explanation_sections(found, anchor=found.behaviour.replace(" ", "-"))
        )


def _steps(run: RunRecord) -> str:
    first, last = run.points[0].label, run.points[-1].label
    return f"step {first}" if first == last else f"steps {first} to {last}"


def _provenance(points: tuple[Point, ...], origins: Mapping[str, str]) -> list[tuple[str, str]]:
    """What the numbers were computed from, as recorded in the results."""
    found: dict[str, dict[str, None]] = {}
    for point in points:
        for record in recorded(point).values():
            for name in ("code_version", "dtype", "device", "attention", "tokenizer_hash"):
                found.setdefault(name, {})[str(record.get(name, "unknown"))] = None
    for point in points:
        for measure, record in recorded(point).items():
            found.setdefault(f"settings of {measure}", {})[_settings(record.get("parameters", "unknown"))] = None
    rows = [(name.replace("_", " "), "; ".join(values)) for name, values in found.items()]
    hashes = []
    for point in points:
        for record in list(recorded(point).values())[:1]:
            hashes.append(f"{point.name}: {str(record.get('weights_hash', 'unknown'))[:16]}")
    return [*origins.items(), *rows, ("weights (sha256)", ", ".join(hashes))]


def _settings(value: Any) -> str:
    """Settings for people: names without underscores, hashes by their first letters, those of a part in brackets."""
    if isinstance(value, Mapping):
        told = ((name.replace("_", " "), each) for name, each in value.items())
        return ", ".join(
            f"{name} ({_settings(v)})" if isinstance(v, Mapping) else f"{name} {_settings(v)}" for name, v in told
        )
    if isinstance(value, list | tuple):
        return " ".join(map(_settings, value))
    return str(value)[:HASH] if len(str(value)) == WHOLE_HASH else str(value)
