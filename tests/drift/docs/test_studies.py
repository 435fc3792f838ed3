"""What the studies' pages say is what the stored results say."""

import re

import numpy as np
import pytest

import circuit_drift
from checkpoints import open_series
from circuit_drift.replicate import long_context
from circuit_drift.replicate.long_context_claims import claims_frame
from tests.drift.docs.fences import ROOT

PAGE = (ROOT / "docs" / "studies" / "long-context.md").read_text()
RESULTS = ROOT / "series" / "natural" / "results"


def rows_under(heading):
    """The cells of the first table under a heading, without its head."""
    text = PAGE.split(f"## {heading}\n")[1]
    lines = re.search(r"(?:^\|.*\n)+", text, re.MULTILINE).group().splitlines()[2:]
    return [[cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def numbers(cell):
    """The numbers of a cell."""
    return [float(part.replace(",", "")) for part in re.findall(r"-?[\d,]*\.?\d+", cell)]


@pytest.fixture(scope="module")
def natural():
    return circuit_drift.load_run(RESULTS, "natural")


def test_the_table_over_training_is_the_stored_run(natural):
    frame = natural.to_frame().set_index("step")
    depth, _ = long_context.stored_maps(natural)
    rows = rows_under("Over training")
    assert [int(numbers(row[0])[0]) for row in rows] == list(frame.index)
    for row in rows:
        step = int(numbers(row[0])[0])
        of = frame.loc[step]
        told = [of.needle_score, of.needle_accuracy, of.answer_ppl, of.retrieval_heads, of.best_score]
        told += [*np.exp(depth[step].row_nll), of.sft_ruler, of.longppl_factbook]
        shown = [number for cell in row[3:] for number in numbers(cell)]
        assert shown == pytest.approx(told, rel=0.006, abs=0.0051), step


def test_the_table_by_frame_is_the_stored_run(natural):
    lines = re.findall(r"^\| [\d,]+ \| (?:\.\d+|1\.00) \|.*$", PAGE.split("By the frame")[1], re.MULTILINE)
    assert len(lines) == 5
    for line in lines:
        step, *shown = (number for cell in line.strip("|").split("|") for number in numbers(cell))
        found = natural.at(int(step)).heads
        told = []
        for kind in (found.needle % 2 == 0, found.needle % 2 == 1):
            best = np.nanmean(found.copy[kind], axis=0).max()
            told += [found.accepted[kind].mean(), np.exp(np.nanmean(found.nll[kind])), best]
        assert shown == pytest.approx(told, rel=0.006, abs=0.0051), step


def test_the_extension_and_its_control_are_the_stored_runs():
    kept = {
        name: long_context.stored_maps(circuit_drift.load_run(RESULTS, name))[0] for name in ("extended", "control")
    }
    told = [kept["extended"][6000], *(kept[name][6000 + n] for name in ("extended", "control") for n in (20, 40, 120))]
    for row, found in zip(rows_under("The extension"), told, strict=True):
        assert [numbers(cell)[0] for cell in row[1:]] == pytest.approx(np.exp(found.row_nll), rel=0.006), row


def test_every_claim_stands_on_the_page_with_its_figures(natural):
    frame = natural.to_frame().dropna(subset="sft_ruler")
    maps, interference = long_context.stored_maps(natural, "pretrain")
    ends = [
        long_context.stored_maps(circuit_drift.load_run(RESULTS, name))[0][6120] for name in ("control", "extended")
    ]
    table = claims_frame(
        long_context.follow(natural, since=2600),
        natural.at(6000).heads,
        maps=maps,
        interference=interference,
        extended=dict(zip((10_000, 100_000), ends, strict=True)),
        extended_by=120,
        ablations=[natural.at(6000).results["ablation"]],
        foretold=long_context.follow(
            natural, downstream={"sft_ruler": dict(zip(frame.step, frame.sft_ruler, strict=True))}
        ),
    )
    told = [[row.claim, row.here, row.reproduced] for row in table.itertuples()]
    assert [[row[0], row[2], row[3]] for row in rows_under("Which claims hold")] == told


def test_the_results_are_of_the_weights_that_are_shipped(natural):
    weights = {checkpoint.step: checkpoint.weights_hash for checkpoint in open_series(ROOT / "series" / "natural")}
    assert {point.step: point.weights for point in natural} == {
        step: known for step, known in weights.items() if step <= 6000
    }
