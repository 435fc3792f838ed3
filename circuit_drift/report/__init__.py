"""The report: one self-contained HTML page of a run or of a pair of checkpoints."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from checkpoints import BadPrompt
from circuit_drift.comparison.pair import stored_pair
from circuit_drift.comparison.pair_tables import pair_tables, role_frame
from circuit_drift.page.axis import mark_steps
from circuit_drift.page.page import Section, write_page
from circuit_drift.record.pair import PairRecord
from circuit_drift.record.record import Point, RunRecord
from circuit_drift.report.asked import refused_frame
from circuit_drift.report.audit import audit_sections, audit_warnings
from circuit_drift.report.verdict import pair_verdict, run_verdict
from circuit_drift.stages.stages import evolve, stage_ends
from circuits.roles.roles import changes_sentence

if TYPE_CHECKING:
    import pandas as pd


__all__ = ["write_pair_report", "write_report"]

ROLES_CAPTION = (
    "Mover: what the head writes towards the answer is read from the subject, over 10 times what it reads from the "
    "relation; relation: under a tenth; mixture: between (arXiv 2502.11196); the others by their scores. A role counts "
    "where it holds in 95 % of the resamples of the facts."
)


def write_report(run: RunRecord, path: Path | str) -> Path:
    """Write the report of a run: verdict, behaviour, heads and circuits over training, and the stages' own diffs.

    Args:
        run: a measured run.
        path: the HTML file; replaced in one step.

    Raises:
        StoreError: the file cannot be written.
    """
    from circuit_drift.report.run_table import run_frame

    table = run_frame(run)
    pairs = [stored_pair(run, a.place, b.place) for a, b in stage_ends(run)]
    sections = [
        *_evolution(run, table),
        *(section for pair in pairs for section in _pair_sections(pair, anchor=f"{pair.a.name}-{pair.b.name}")),
        *audit_sections(run),
        *_refused(run.points),
        Section("checkpoints", "All checkpoints", frame=table),
    ]
    return write_page(
        path,
        title=f"Circuits over training: {run.name}",
        subtitle=f"{len(run)} checkpoints, steps {run.points[0].label} to {run.points[-1].label}",
        verdict=[*run_verdict(run), *(sentence for pair in pairs for sentence in _headlines(pair))],
        warnings=[*audit_warnings(run), *(f"{p.name}, {m}: {reason}" for p in run for m, reason in p.failures.items())],
        sections=sections,
        provenance=_provenance(run.points, run.origins),
    )


def write_pair_report(pair: PairRecord, path: Path | str) -> Path:
    """Write the report of two checkpoints.

    Raises:
        StoreError: the file cannot be written.
    """
    return write_page(
        path,
        title=f"{pair.a.name} → {pair.b.name}",
        subtitle=f"changes from A to B; real = q < {pair.q:g}",
        verdict=pair_verdict(pair),
        warnings=[f"{measure} is not compared: {reason}" for measure, reason in pair.missing.items()],
        sections=[*_pair_sections(pair, anchor="pair"), *_refused((pair.a, pair.b))],
        provenance=_provenance((pair.a, pair.b), {}),
    )


def _refused(points: Sequence[Point]) -> Iterator[Section]:
    frame = refused_frame(points)
    if len(frame):
        yield Section("refused", "Facts and needles that were not asked", frame=frame)


def _headlines(pair: PairRecord) -> Iterator[str]:
    if pair.circuit is not None:
        yield f"Circuit, step {pair.a.label} → {pair.b.label}, on {pair.facts}: {pair.circuit.verdict}"


def _evolution(run: RunRecord, table: "pd.DataFrame") -> Iterator[Section]:
    from circuit_drift.report import evolution, rewiring, roles

    scored = next((point.heads for point in run if point.heads is not None), None)
    traced = next((point.circuit for point in run if point.circuit is not None), None)
    if scored is not None:
        probe = f"{len(scored)} prompts of {scored.meta['length']} tokens; needles: {run.origins['needles']}."
        yield Section(
            "needle",
            "Needle score against answer perplexity",
            figure=evolution.behaviour_figure(run),
            caption=probe,
            frame=table[["step", "needle_score", "needle_accuracy", "answer_ppl"]],
        )
        yield Section(
            "heads",
            "Retrieval heads over training",
            text="Which heads retrieve, layer by layer; drag the slider through training.",
            figure=evolution.head_map_figure(run),
            caption=f"Teacher-forced retrieval score (arXiv 2604.02650, 3.3), mean over {probe}",
            frame=evolution.head_frame(run),
        )
        yield Section(
            "leading-heads",
            "The leading heads",
            figure=evolution.head_lines_figure(run),
            caption=f"95 % intervals are in the table; {probe}",
            frame=table[["step", "retrieval_heads", "best_head", "best_score"]],
        )
    if traced is not None:
        recall = [column for column in table.columns if column.startswith("recall")]
        facts = f"{len(traced.answer_rank)} facts; facts: {run.origins['facts']}."
        yield Section(
            "recall",
            "Facts known",
            figure=evolution.recall_figure(run),
            caption=facts,
            frame=table[["step", *recall]],
        )
        rewired = rewiring.rewiring_frame(run)
        yield Section(
            "circuits",
            "Circuits over training",
            text="How alike each circuit is to its neighbour and to the last, beside what resampling prompts does.",
            figure=rewiring.rewiring_figure(run, rewired),
            caption=f"EAP-IG edge scores; overlap and floor are both between disjoint halves of the facts. {facts}",
            frame=rewired,
        )
    if any(point.circuit is not None and point.roles is not None for point in run):
        told = roles.roles_frame(run)
        yield Section(
            "roles",
            "Roles of the circuit's heads",
            text="What kind of head the circuit is made of: movers carry the subject over, relation heads the rest.",
            figure=roles.roles_figure(run, told),
            caption=ROLES_CAPTION,
            frame=told,
        )
    if sum(point.circuit is not None and point.position is not None for point in run) > 2:
        try:
            evolution_of_circuit, chosen = evolve(run)
        except BadPrompt as error:
            yield Section("phases", "Phases of the circuit", text=f"Not applicable: {error}.")
            return
        yield Section(
            "phases",
            "Phases of the circuit",
            text=evolution_of_circuit.verdict,
            figure=mark_steps(evolution_of_circuit.plot_likeness(), run),
            caption=f"Measured on {chosen}; cosine of mean edge scores, corrected for prompt noise: 1 = the same "
            "wiring up to strength, blank = nothing but noise.",
            frame=evolution_of_circuit.to_frame(),
        )


def _pair_sections(pair: PairRecord, *, anchor: str) -> Iterator[Section]:
    span = f"{pair.a.label} → {pair.b.label}"
    if pair.circuit is not None:
        yield Section(
            f"circuit-{anchor}",
            f"Circuit {span}",
            text=pair.circuit.verdict,
            figure=pair.circuit.plot(),
            caption=f"Measured on {pair.facts}. {pair.circuit.caption}",
            frame=pair.circuit.to_frame(),
        )
        shown = {table.name: table for table in pair_tables(pair)}
        yield Section(
            f"nodes-{anchor}",
            f"Nodes {span}",
            caption="A node's score is the sum over its out-edges. The table holds those that changed for real.",
            frame=shown["nodes"].frame,
        )
        yield Section(f"similarity-{anchor}", f"Similarity {span}", frame=shown["similarity"].frame)
        yield Section(
            f"profile-{anchor}",
            f"Depth and spread {span}",
            caption="Of the whole graph of |score|, with 95 % intervals of the change: where the work lies, "
            "and over how many edges it spreads.",
            frame=shown["profile"].frame,
        )
        if pair.circuit.transfer is not None:
            yield Section(
                f"transfer-{anchor}",
                f"Functional transfer {span}",
                text=pair.circuit.transfer.verdict,
                figure=pair.circuit.transfer.plot(),
                caption="Faithfulness of each checkpoint's circuit in each model: tells other wiring with the same "
                "function from a function that has moved.",
                frame=shown["transfer"].frame,
            )
    if pair.roles is not None:
        yield Section(
            f"roles-{anchor}",
            f"Roles of heads {span}",
            text=changes_sentence(pair.roles),
            caption=ROLES_CAPTION,
            frame=role_frame(pair.roles),
        )
    if pair.heads is not None:
        yield Section(
            f"heads-{anchor}",
            f"Retrieval heads {span}",
            text=pair.heads.verdict,
            figure=pair.heads.plot(),
            frame=pair.heads.to_frame(),
        )


def _provenance(points: tuple[Point, ...], origins: Mapping[str, str]) -> list[tuple[str, str]]:
    """What the numbers were computed from, as recorded in the results."""
    found: dict[str, dict[str, None]] = {}
    for point in points:
        for result in (point.heads, point.circuit, point.faithfulness):
            if result is not None:
                record = result.meta["provenance"]
                for name in ("code_version", "dtype", "device", "attention", "tokenizer_hash", "parameters"):
                    found.setdefault(name, {})[str(record[name])] = None
    rows = [(name.replace("_", " "), "; ".join(values)) for name, values in found.items()]
    hashes = []
    for point in points:
        result = point.heads or point.circuit
        if result is not None:
            hashes.append(f"{point.name}: {result.meta['provenance']['weights_hash'][:16]}")
    return [*origins.items(), *rows, ("weights (sha256)", ", ".join(hashes))]
