"""What the studies' pages say is what the stored results say."""

import json
import re
import tomllib

import numpy as np
import pandas as pd
import pytest

import circuit_drift
from checkpoints import open_series
from circuit_drift.explanation.explanation import Explanation
from circuit_drift.replicate import knowledge_claims, long_context
from circuit_drift.replicate.long_context_claims import claims_frame, track_claims
from circuit_drift.replicate.long_context_seeds import curves_frame, load_seeds
from circuit_drift.replicate.seeds import seeds_frame
from circuit_drift.training.strategies import function_frame, retrieval_scores, strategies
from circuits.intervention.transfer import Transfer
from tests.drift.docs.fences import ROOT

PAGE = (ROOT / "docs" / "studies" / "long-context.md").read_text()
RESULTS = ROOT / "series" / "natural" / "results"
SEEDS = ROOT / "series" / "natural" / "seeds"


def rows_under(heading):
    """The cells of the first table under a heading, without its head."""
    return cells_of(PAGE.split(f"## {heading}\n")[1])


def table_of(page, head):
    """The cells of the table whose first line begins so, without its head."""
    return cells_of(page[page.index(head) :])


def cells_of(text):
    """The cells of the first table of a text, without its head."""
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


@pytest.fixture(scope="module")
def seeds(natural):
    return {"natural": natural.track_heads("pretrain"), **load_seeds(SEEDS / "whole")}


def test_the_curves_of_other_seeds_are_the_stored_tracks(seeds):
    frame = curves_frame(seeds).set_index(["step", "curve"])
    rows = table_of(PAGE, "| step | heads that retrieve | needle score | mean")
    assert len(rows) == 6
    for row in rows:
        step = int(numbers(row[0])[0])
        heads, score, nll = (frame.loc[step, name] for name in ("retrieval_heads", "needle_score", "answer_nll"))
        told = [*heads[list(seeds)], *score[[*seeds, "mean", "low", "high"]]]
        told += [*np.exp(nll[[*seeds, "mean", "low", "high"]].astype(float))]
        shown = [number for cell in row[1:] for number in numbers(cell)]
        assert shown == pytest.approx(told, rel=0.006, abs=0.0051), step


def test_the_claims_under_other_seeds_are_those_of_their_tracks(natural):
    tracks = {"natural": long_context.follow(natural, since=2600), **load_seeds(SEEDS / "later")}
    size = natural.at(6000).heads.mean.size
    told = [
        [row.claim, name, row.here, row.reproduced]
        for name, track in tracks.items()
        for row in track_claims(track, size).itertuples()
    ]
    assert sorted(table_of(PAGE, "| claim | seed | here")) == sorted(told)


def test_the_extension_under_other_seeds_is_the_stored_table():
    stored = pd.read_csv(SEEDS / "extension.csv").pivot_table(
        index="seed", columns=["step", "length"], values="answer_nll"
    )
    for row in table_of(PAGE, "| seed | step 6,000: 512"):
        found = stored.loc[int(row[0])]
        told = [np.exp(found[step, length]) for step in (6000, 6120) for length in (512, 1024)]
        assert [numbers(cell)[0] for cell in row[1:]] == pytest.approx(told, rel=0.006), row


def test_the_results_are_of_the_weights_that_are_shipped(natural):
    weights = {checkpoint.step: checkpoint.weights_hash for checkpoint in open_series(ROOT / "series" / "natural")}
    assert {point.step: point.weights for point in natural} == {
        step: known for step, known in weights.items() if step <= 6000
    }


KNOWLEDGE = (ROOT / "docs" / "studies" / "knowledge.md").read_text()
FACTBOOK = ROOT / "series" / "factbook"


@pytest.fixture(scope="module")
def told():
    return {one.name: one for one in strategies(FACTBOOK)}


def test_the_ledger_of_the_factbook_is_the_stored_one(told):
    rows = table_of(KNOWLEDGE, "| epoch | loss on the documents |")
    _by_epoch(rows, told["LoRA"])
    gained, again, lost = (sum(numbers(row[i])[0] for row in rows) for i in (4, 5, 6))
    assert f"{gained:.0f} times a fact was gained, {again:.0f}\nof them" in KNOWLEDGE
    assert f"{lost:.0f} times one was lost" in KNOWLEDGE


def test_the_ledger_of_all_weights_is_the_stored_one(told):
    full = told["full"]
    _by_epoch(table_of(KNOWLEDGE, "| epoch, all weights |"), full)
    book = full.ledger.outcome
    counts = book["newly_learned"], book["newly_learned_held"], book["known_first"], book["kept"]
    said = "{} facts are newly learned at some epoch, {} of them known at the end.\nOf the {} known before {} are kept."
    assert said.format(*counts) in KNOWLEDGE
    assert full.divergence.sentence == (
        "loss fell in 5 of 5 epochs, recall fell in 1 (1 of them beyond chance over units); loss fell while recall was "
        "lost at 75"
    )


def _by_epoch(rows, one):
    for row, book, log in zip(rows, one.ledger.to_frame().itertuples(), one.log.itertuples(), strict=True):
        of_log = (log.outside_rouge1, log.arithmetic_accuracy, log.text_ppl)
        found = [log.epoch, log.document_loss, log.rouge1, book.known, book.acquired, book.relearned, book.forgotten]
        assert [numbers(cell)[0] for cell in row] == pytest.approx([*found, *of_log], rel=0.0055, abs=0.0051), row


def test_all_weights_are_trained_and_asked_as_the_adapters_are():
    adapters, full = (tomllib.loads((FACTBOOK / f"{name}.toml").read_text()) for name in ("compare", "full"))
    assert full.pop("strategy") == [{"name": "full", "lr": 3e-4}]
    assert full == {name: value for name, value in adapters.items() if name != "strategy"} | {"epochs": 5}


def test_what_becomes_of_each_kind_of_fact_is_the_stored_ledger(told):
    scores, known = told["LoRA"].ledger.scores, told["LoRA"].ledger.known
    relations = np.array(scores.labels["relation"])
    rows = table_of(KNOWLEDGE, "| relation | facts | score before |")
    assert {row[0] for row in rows} == set(relations)
    for row in rows:
        of_it = relations == row[0]
        mean, own = scores.mean[of_it], known[of_it]
        new = own[:, 1:].any(axis=1) & ~own[:, 0]
        counts = [own[:, 0].sum(), (own[:, 0] & own[:, -1]).sum(), new.sum(), (new & own[:, -1]).sum()]
        found = [of_it.sum(), mean[:, 0].mean(), mean[:, -1].mean(), *counts]
        assert [numbers(cell)[0] for cell in row[1:]] == pytest.approx(found, abs=0.0051), row


def test_every_strategy_that_is_shipped_is_told_at_its_end(told):
    rows = table_of(KNOWLEDGE, "| strategy | loss |")
    assert {row[0] for row in rows} == set(told)
    for row in rows:
        book, log = told[row[0]].ledger.outcome, told[row[0]].log.iloc[-1]
        found = [log.document_loss, log.rouge1]
        found += [book[name] for name in ("known_last", "newly_learned", "newly_learned_held", "kept", "known_first")]
        found += [log.outside_rouge1, log.arithmetic_accuracy, log.text_ppl]
        shown = [number for cell in row[1:] for number in numbers(cell)]
        assert shown == pytest.approx(found, rel=0.0055, abs=0.0051), row


def test_what_holds_over_seeds_is_their_frame(told):
    seeds = [told[name] for name in sorted(told) if name.startswith("LoRA")]
    rows = table_of(KNOWLEDGE, "| over facts and seeds |")
    for row, (name, *values) in zip(rows, seeds_frame(seeds).itertuples(index=False), strict=True):
        assert row[0] == name
        assert [number for cell in row[1:] for number in numbers(cell)] == pytest.approx(values, abs=0.0051), row


def test_the_circuits_of_the_factbook_are_those_that_were_stored(told):
    pair = json.loads((FACTBOOK / "circuits" / "0-150.json").read_text())
    groups = {group["group"]: group for group in pair["groups"]}
    for row in table_of(KNOWLEDGE, "| facts | number |"):
        of = groups[row[0]]
        bounds = [of[f"{name}{end}"] for name in ("wiring", "strength") for end in ("", "_low", "_high")]
        shown = [number for cell in row[1:] for number in numbers(cell)]
        assert shown == pytest.approx([of["facts"], *bounds, of["edges_changed"]], abs=0.0051), row
    drift = pd.read_csv(FACTBOOK / "circuits" / "drift.csv")
    epochs = dict(zip(told["LoRA"].log.step, told["LoRA"].log.epoch, strict=True))
    for row, of in zip(table_of(KNOWLEDGE, "| epoch | edge Jaccard"), drift.itertuples(), strict=True):
        found = [epochs[of.step], of.edges, of.overlap, of.floor]
        assert [numbers(cell)[0] for cell in row] == pytest.approx(found, abs=0.0051), row


ASKED = {
    "facts that change sides, share": "facts that change sides",
    "times as strong": "strength",
    "largest change of an edge": "an edge",
    "1 − cosine": "wiring",
}
BACKWARDS = {"lost": "learned", "learned": "lost", "kept": "kept", "neither": "neither"}
"""What facts are called from epoch 0 to 10, and from 10 to 0, in whose floor the other seeds stand."""


def test_the_floor_of_two_other_seeds_is_the_stored_one():
    floor = json.loads((FACTBOOK / "circuits" / "150-0-floor.json").read_text())["floor"]
    assert floor["names"] == ["LoRA-seed1/150", "LoRA-seed2/150"]
    changes = {change["name"]: change for change in floor["changes"]}
    rows = table_of(KNOWLEDGE, "| change | 0 against 10 |")
    assert len(rows) == 11
    for row in rows:
        what, _, group = row[0].partition(", facts ")
        of = changes[f"{ASKED[what]} ({BACKWARDS[group]})" if group else ASKED[what]]
        found = [of[name] for name in ("value", "low", "high", "floor", "reach")]
        shown = [number for cell in row[1:3] for number in numbers(cell)]
        assert shown == pytest.approx(found, abs=0.0051 if max(found) > 0.1 else 0.000051), row
        assert row[3].partition(",")[0] == of["outcome"], row
        assert numbers(row[3]) == pytest.approx([of["p"]], abs=0.0051), row
    assert (floor["outcome"], floor["needed"], len(changes)) == ("undecided", 3, 40)
    assert "All 40 changes together" in KNOWLEDGE
    assert "p = .07: whether" in KNOWLEDGE
    assert floor["p"] == pytest.approx(0.07, abs=0.005)


def test_what_each_circuit_keeps_in_each_model_is_the_stored_transfer():
    found = Transfer.load(FACTBOOK / "circuits" / "transfer")
    rows = table_of(KNOWLEDGE, "| circuit of epoch | in the model")
    for i, row in enumerate(rows):
        told = [number for j in range(2) for number in (found.values[i, j], *found.interval(i, j))]
        assert [number for cell in row[1:] for number in numbers(cell)] == pytest.approx(told, abs=0.0051), row


@pytest.mark.parametrize("way", ["learned", "kept", "lost"])
def test_what_is_explained_stands_word_for_word(way):
    found = Explanation.load(FACTBOOK / "circuits" / f"explain-{way}")
    assert f"- **{way}.** {found.verdict}" in re.sub(r"\n +", " ", KNOWLEDGE)


def test_every_claim_on_knowledge_stands_with_its_figures(told):
    drift = pd.read_csv(FACTBOOK / "circuits" / "drift.csv")
    function = function_frame(Transfer.load(FACTBOOK / "circuits" / "transfer"))
    table = knowledge_claims.claims_frame(
        told["LoRA"],
        seeds=[told["LoRA-seed1"], told["LoRA-seed2"]],
        kl=told.get("KL-original"),
        main=told.get("main"),
        gold=retrieval_scores(FACTBOOK)["gold"][0],
        drift=drift,
        function=function,
        skill="arithmetic_accuracy",
    )
    shown = [[row[0], row[1], row[2], row[3]] for row in table_of(KNOWLEDGE, "| claim | published |")]
    assert shown == [[row.claim, row.paper, row.ours, row.reproduced] for row in table.itertuples()]


def test_the_adapters_that_are_shipped_open_as_a_series():
    series = open_series(FACTBOOK / "LoRA")
    assert [checkpoint.step for checkpoint in series] == list(range(0, 151, 15))
