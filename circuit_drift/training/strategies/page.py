"""The report page of a comparison of strategies: one self-contained HTML file."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from checkpoints.results.text import counted
from circuit_drift.page.page import Section, write_page
from circuit_drift.training.strategies import figures
from circuit_drift.training.strategies.comparison import (
    EXPOSURE,
    Trained,
    comparison_frame,
    outcome_frame,
    retrieval_frame,
    strategies,
)
from circuit_drift.training.strategies.provenance import provenance


def write_comparison(out: Path | str, path: Path | str, *, threshold: float = 0.6) -> Path:
    """Write the comparison of the strategies trained into a folder, from what they recorded.

    Args:
        out: where `run_all` wrote.
        path: the HTML file; replaced in one step.
        threshold: a unit is known iff its score is at least this.

    Raises:
        StoreError: nothing was trained there, or the file cannot be written.
    """
    trained = strategies(out, threshold=threshold)
    failures = [
        f"{one.name}, {p.name}, {m}: {why}" for one in trained for p in one.run for m, why in p.failures.items()
    ]
    return write_page(
        path,
        title="Does falling loss mean learning?",
        subtitle=f"{counted(len(trained), 'strategy', 'strategies')}: {', '.join(one.name for one in trained)}",
        verdict=list(findings(trained, out)),
        warnings=failures,
        sections=list(_sections(trained, out, threshold)),
        provenance=provenance(Path(out), threshold),
    )


def findings(trained: Sequence[Trained], out: Path | str) -> Iterator[str]:
    """What the comparison says, most important first; every number computed."""
    yield f"{figures.loss_finding(trained)}. {figures.exposure_finding(trained)}."
    held = {one.name: one.ledger.outcome["newly_learned_held"] for one in trained}
    kept = {one.name: one.ledger.outcome["kept"] for one in trained}
    yield (
        f"Most learned and held to the end: {counted(max(held.values()), 'unit')} ({_best(held)}). Most kept of the "
        f"{trained[0].ledger.outcome['known_first']} known before: {max(kept.values())} ({_best(kept)})."
    )
    read = [
        f"{row.passages} passage {row.recall:.2f} ({row.known} of {row.units} units known, {row.refused} refused)"
        for row in retrieval_frame(out, threshold=trained[0].ledger.threshold).itertuples()
    ]
    if read:
        yield f"Reading instead of learning, recall of the untrained model: {', '.join(read)}."
    for one in trained:
        yield f"{one.name}: {one.verdict.sentence}."


def _best(counts: Mapping[str, int]) -> str:
    return ", ".join(name for name, count in counts.items() if count == max(counts.values()))


def _sections(trained: Sequence[Trained], out: Path | str, threshold: float) -> Iterator[Section]:
    units = len(trained[0].ledger.scores.units)
    about = f"{units} units; known: mean {trained[0].ledger.scores.name} of a unit's probes at least {threshold:g}."
    references = retrieval_frame(out, threshold=threshold)
    yield Section("outcomes", "The strategies in one table", frame=outcome_frame(out, threshold=threshold))
    yield Section(
        "loss",
        "Loss and recall",
        text=" ".join(f"{one.name}: {one.divergence.sentence}." for one in trained),
        figure=figures.loss_and_recall(trained, references),
        caption="One loss for all: on the new documents as they are, whatever a strategy trains on.",
        frame=comparison_frame(out, threshold=threshold),
    )
    yield Section("ledger", "Acquired, retained, forgotten", figure=figures.transitions(trained), caption=about)
    if all(EXPOSURE in one.ledger.scores.labels for one in trained):
        yield Section("exposure", "By prior exposure", figure=figures.exposure(trained), caption=about)
    if all(one.skills for one in trained):
        yield Section("skills", "Outside the domain", figure=figures.skills(trained))
    drifts = [one.drift().assign(strategy=one.name) for one in trained]
    if any(len(frame) for frame in drifts):
        import pandas as pd

        yield Section(
            "drift",
            "Circuits against the noise floor",
            figure=figures.circuit_drift_figure(trained),
            caption="EAP-IG edge scores; overlap and floor are both between disjoint halves of the facts.",
            frame=pd.concat(drifts, ignore_index=True),
        )
    if len(references):
        yield Section("retrieval", "Reading instead of learning", frame=references)
