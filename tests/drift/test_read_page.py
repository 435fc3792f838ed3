"""The page of a run and of a pair: its headings, sentences, captions, warnings, tables and provenance, in order."""

import base64
import csv
import html
import io
import re
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from checkpoints.audit import Fault
from circuit_drift.api.pairs import compare
from circuit_drift.measures.pairs.circuit import CAPTIONS
from circuit_drift.page.page import Card, Section, write_page
from circuit_drift.report import write_pair_report, write_report
from circuit_drift.report.overview import cards
from tests.drift.handmade import (
    WIRING_A,
    WIRING_B,
    faithfulness,
    graph,
    point,
    retrieval,
    roles,
    run_of,
    strengths,
    transfer,
)

PROBE = "10 prompts of 64 tokens; needles: hand-made needles."
FACTS = "20 facts; facts: hand-made facts."
EMERGED = (
    "Emerged: from there on beyond 0.1 (a head) or beyond halfway from first to last (all else). Intervals over "
    "needles or facts of this run; other seeds may differ by more."
)
MOVERS = (
    "Mover: what the head writes towards the answer is read from the subject, over 10 times what it reads from the "
    "relation; relation: under a tenth; mixture: between (arXiv 2502.11196); the others by their scores. A role counts "
    "where it holds in 95 % of the resamples of the facts."
)


class Page:
    """A page taken apart: what stands in it, as a reader sees it."""

    def __init__(self, path: Path) -> None:
        text = path.read_text(encoding="utf-8")
        self.text = text[text.index("<body>") :]
        self.title = html.unescape(_one(r"<h1>(.*?)</h1>", self.text))
        self.subtitle = html.unescape(_one(r'<p class="sub">(.*?)</p>', self.text))
        verdict = _one(r'<section class="verdict".*?</section>', self.text, 0)
        verdict = re.sub(r'<span class="whole">(.*?)</span>', r"\1", verdict)
        more = re.sub(r'<span class="whole">(.*?)</span>', r"\1", _one(r'<div class="more">.*?</div>', self.text, 0))
        self.verdict = [html.unescape(found) for found in re.findall(r"<li>(.*?)</li>", verdict + more, re.S)]
        self.warnings = [html.unescape(w) for w in re.findall(r'<p class="warning">(.*?)</p>', verdict, re.S)]
        part = r'<section class="part" id="(.*?)">(.*?)</section>'
        before, *chapters = re.split(r'<details class="chapter"', self.text)
        self.lead = {found[1]: Part(found[2]) for found in re.finditer(part, before, re.S)}
        self.cards = [
            tuple(map(html.unescape, found))
            for found in re.findall(r"<dt>(.*?)</dt><dd>(.*?)<span>(.*?)</span></dd>", before)
        ]
        self.sections = {found[1]: Part(found[2]) for one in chapters for found in re.finditer(part, one, re.S)}
        self.chapters = {
            html.unescape(_one("<h2>(.*?)</h2>", one)): [found[1] for found in re.finditer(part, one, re.S)]
            for one in chapters
        }
        self.pairs = re.findall(r'<details class="pair".*?<h3>(.*?)</h3>', self.text, re.S)
        self.unfolded = [_one("<h2>(.*?)</h2>", one) for one in chapters if _one("^(.*?)>", one).endswith(" open")]
        footer = _one(r"<footer>(.*?)</footer>", self.text)
        self.provenance = {
            html.unescape(name): html.unescape(value)
            for name, value in re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", footer, re.S)
        }


class Part:
    """One section."""

    def __init__(self, text: str) -> None:
        text = re.sub(r'<span class="whole">(.*?)</span>', r"\1", text)
        self.heading = html.unescape(_one("<h[234]>(.*?)</h[234]>", text))
        self.sentence = html.unescape(_one("</h[234]>\\s*<p>(.*?)</p>", text))
        points = _one('<ul class="points">(.*?)</ul>', text)
        self.points = [html.unescape(found) for found in re.findall("<li>(.*?)</li>", points, re.S)]
        self.caption = html.unescape(_one('<p class="caption">(.*?)</p>', text))
        self.figure = html.unescape(_one('role="figure" aria-label="(.*?)"', text))
        self.rows = _one(r"Data \((\d+) rows\)", text)
        table = _one('href="data:text/csv;base64,(.*?)"', text)
        self.table = list(csv.reader(io.StringIO(base64.b64decode(table).decode()))) if table else []


def _one(pattern: str, text: str, group: int = 1) -> str:
    found = re.search(pattern, text, re.S)
    return found[group] if found else ""


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Page:
    """Two stages of two checkpoints; the second rewires, gains a head and learns; one measure failed."""
    store = tmp_path_factory.mktemp("store")
    labels = [{"class": "old" if i < 10 else "new"} for i in range(20)]
    wired = [(WIRING_A, 2), (WIRING_A, 4), (WIRING_B, 20), (WIRING_B, 18)]
    points = []
    for i, (wiring, known) in enumerate(wired):
        name, high = f"step{100 * i}", 0.75 if i > 1 else 0.0625
        measured = {
            "heads": retrieval({(0, 1): high, (1, 0): high / 2}, accepted=2 + i, correct=i, nll=4.0 - i, name=name),
            "circuit": graph(strengths(wiring), facts=20, known=known, labels=labels, name=name),
            "roles": roles(a0_h0="mover") if i else roles(a0_h0="relation"),
            "faithfulness": None if i == 1 else faithfulness([0.25, 0.5], [0.5, 0.5 + i / 8]),
        }
        failures = {"faithfulness": "out of memory"} if i == 1 else {}
        points.append(point(100 * i, stage="one" if i < 2 else "two", failures=failures, **measured))
    findings = [Fault("off_path", (place,), "it lies off the path") for place in ("two/200", "two/300")]
    run = run_of(*points, store=store, findings=findings)
    return Page(write_report(run, store / "report.html"))


def test_the_head_of_a_page_says_which_run_and_what_was_found(told):
    assert told.title == "Circuits over training: handmade"
    assert told.subtitle == "4 checkpoints, steps 0 to 300"
    assert told.verdict[:3] == [
        "a0.h1 begins to retrieve (score > 0.1) between steps 100 and 200 [100 to 200] and reaches 0.75 "
        "[0.36, 0.88] at step 200 (chosen on 5 needles, judged on 5 others). 2 (no "
        "interval: too few needles) of 4 heads retrieve at the end.",
        "Stage one: 0 and 100 differ: answer NLL (nats per token) 4.00 → 3.00.",
        "Stage two: 100 and 300 differ: 14 learned of 20 facts; circuits of facts learned: changed in 2 edges, "
        "old: changed in 2 edges, new: changed in 2 edges; 2 heads of 4 changed; answer NLL (nats per token) 3.00 → "
        "1.00.",
    ]
    assert told.verdict[3:5] == [
        "0 → 100: Recall 0.10 → 0.20 of 20 facts: 0 lost, 2 learned; 0.10 [0.01, 0.32] changed sides.",
        "0 → 100: Recall by class: old 0.20 → 0.40 (p = 0.5).",
    ]
    assert told.verdict[7] == "1 of 4 checkpoints could not be measured in full: step100."
    neither, old, new, *_ = told.verdict[8:]
    assert neither.startswith("0 → 100: Facts recalled at neither (16): same wiring (1 − cosine 0.00 [0.00, 0.00], ")
    assert old.startswith("0 → 100: Old facts (10): same wiring ")
    assert new.startswith("0 → 100: New facts (10): same wiring ")
    assert [sentence for sentence in told.verdict if sentence.startswith("100 → 300: Facts")] == [
        "100 → 300: Facts learned (14): same wiring (1 − cosine 0.02 [0.02, 0.02], margin 0.1), 1.00 [1.00, 1.00] "
        "times as strong; 2 edges changed (1 gained, 1 lost), most m1->logits, a1.h1->logits."
    ]


def test_warnings_name_what_the_audit_found_and_what_failed(told):
    assert told.warnings == [
        *["audit, warning: off_path: it lies off the path (EleutherAI/pythia#108)"] * 2,
        "step100, faithfulness: out of memory",
    ]


def test_every_section_has_its_heading_in_its_place(told):
    assert {slug: part.heading for slug, part in told.sections.items()} == {
        "needle": "Needle score against answer perplexity",
        "heads": "Retrieval heads over training",
        "leading-heads": "The leading heads",
        "recall": "Facts known",
        "circuits": "Circuits over training",
        "roles": "Roles of the circuit's heads",
        "phases": "Phases of the circuit",
        "emergence": "When things emerge",
        "head-cards": "Any head by itself",
        "fact-cards": "Any fact by itself",
        "any-two": "What rewired between any two checkpoints",
        **{
            f"{slug}-step{a}-step{b}": f"{heading} {a} → {b}"
            for a, b in ((0, 100), (100, 300))
            for slug, heading in (
                ("groups", "Facts and their circuits"),
                ("circuit", "Circuit"),
                ("edges", "Edges that changed"),
                ("nodes", "Nodes"),
                ("ranks", "Reliability by rank"),
                ("similarity", "Similarity"),
                ("profile", "Depth and spread"),
                ("roles", "Roles of heads"),
                ("heads", "Retrieval heads"),
            )
        },
        "audit": "Audit of the series",
        "checkpoints": "All checkpoints",
    }
    kinds = ("groups", "circuit", "edges", "nodes", "ranks", "similarity", "profile", "roles", "heads")
    assert told.chapters == {
        "Behaviour": ["needle", "recall", "emergence", "fact-cards"],
        "Heads": ["heads", "leading-heads", "head-cards"],
        "Circuit": ["circuits", "roles", "phases"],
        "What changed and why": [
            "any-two",
            *(f"{kind}-{pair}" for pair in ("step0-step100", "step100-step300") for kind in kinds),
        ],
        "Data and checks": ["audit", "checkpoints"],
    }
    assert told.unfolded == []
    assert told.pairs == ["Stage one: 0 → 100", "Stage two: 100 → 300"]


def test_the_first_screen_holds_three_findings_key_numbers_and_the_whole_run(told):
    first = _one('<ul class="lead">(.*?)</ul>', told.text)
    assert [html.unescape(found) for found in re.findall("<li>(.*?)</li>", first)] == told.verdict[:3]
    assert f"<summary>{len(told.verdict) - 3} more findings</summary>" in told.text
    assert [card[0] for card in told.cards] == [
        "needle accuracy",
        "recall, old facts",
        "answer perplexity",
        "retrieval heads",
        "faithfulness of the circuit",
    ]
    assert told.cards[0] == ("needle accuracy", "30\u00a0%", "0\u00a0% at step\u00a00")
    assert told.cards[1] == ("recall, old facts", "100\u00a0%", "20\u00a0% at step\u00a00")
    assert told.cards[3] == ("retrieval heads", "2", "0 at step\u00a00")
    (glance,) = told.lead.values()
    assert glance.heading == "The run at a glance"
    assert glance.figure == (
        "needle accuracy 0\u00a0% → 30\u00a0%; recall, old facts 20\u00a0% → 100\u00a0%; "
        "recall, new facts 0\u00a0% → 80\u00a0%"
    )
    assert [row[:4] for row in glance.table[:2]] == [
        ["step", "needle_accuracy", "recall_old", "recall_new"],
        ["0", "0", "0.2", "0"],
    ]


def test_the_best_value_is_told_where_it_is_neither_first_nor_last():
    table = pd.DataFrame({"step": [0, 10, 20], "answer_ppl": [9.0, 1.5, 2.0], "recall": [0.0, 0.5, 0.25]})
    assert cards(table) == [
        Card("recall of facts", "25\u00a0%", "0\u00a0% at step\u00a00; best 50\u00a0% at step\u00a010"),
        Card("answer perplexity", "2.00", "9.00 at step\u00a00; best 1.50 at step\u00a010"),
    ]


def test_a_page_of_one_chapter_is_unfolded_and_an_unknown_chapter_stands_last(tmp_path):
    def page(*sections):
        head = {"title": "t", "subtitle": "s", "verdict": ["v"], "warnings": [], "provenance": []}
        return Page(write_page(tmp_path / "page.html", sections=sections, **head))

    one = page(Section("verdict", "One"), Section("b", "Two"))
    assert (one.chapters, one.unfolded) == ({"Results": ["verdict--2", "b"]}, ["Results"])
    two = page(Section("a", "One", chapter="Own"), Section("b", "Two", chapter="Circuit"))
    assert (list(two.chapters), two.unfolded) == (["Circuit", "Own"], [])
    assert "more</summary>" not in two.text


def test_every_caption_says_what_was_asked_and_how(told):
    assert {slug: part.caption for slug, part in told.sections.items() if part.caption and "-step" not in slug} == {
        "needle": PROBE,
        "heads": f"Teacher-forced retrieval score (arXiv 2604.02650, 3.3), mean over {PROBE}",
        "leading-heads": f"95 % intervals are in the table; {PROBE}",
        "recall": FACTS,
        "circuits": f"EAP-IG edge scores; overlap and floor are both between disjoint halves of the facts. {FACTS}",
        "roles": MOVERS,
        "emergence": EMERGED,
        "head-cards": "Score: retrieval score, mean over 10 prompts with its 95 % interval over needles; dashed: "
        "attention on the needle while answering. A head retrieves above 0.1.",
        "fact-cards": "Rank of the answer among all tokens, 1 = recalled; metric on the clean prompt, dashed. Facts: "
        "hand-made facts.",
        "any-two": "Scores: positive = corrupting the edge raises the metric. Changes: sign flips of facts, "
        "Benjamini-Hochberg over all 46 edges, named only where the graph changed as a whole (p ≤ 0.05). Circuits: the "
        "strongest edges of each checkpoint, without dead ends; 40 edges are on this page.",
        "phases": "Measured on the 14 of 20 facts recalled at 300, not at 0 and 100 (too few to follow: 2 recalled at "
        "0, 100 and 300; 2 recalled at 100 and 300, not at 0); cosine of mean edge scores, corrected for prompt noise: "
        "1 = the same wiring up to strength, blank = nothing but noise.",
        "audit": "Each fault with the public series that had it. ✕: an error of the audit names this checkpoint; "
        "!: a warning; dashed line: steps are missing there.",
    }
    assert {slug: part.caption for slug, part in told.sections.items() if part.caption and "step300" in slug} == {
        "groups-step100-step300": CAPTIONS["groups"],
        "circuit-step100-step300": "Measured on the 14 of 20 facts recalled at B alone. Edges of either circuit by "
        "what became of them: 1 gained, 1 lost, 15 kept, 4 uncertain; positive = corrupting the edge raises the "
        "metric. Tested over 14 facts, the same at A and B; changed: q ≤ 0.05.",
        "nodes-step100-step300": "On the 14 of 20 facts recalled at B alone. A node's score is the sum over its "
        "out-edges. The table holds those that changed for real; q and intervals as for edges.",
        "edges-step100-step300": CAPTIONS["edges"],
        "ranks-step100-step300": f"On the 14 of 20 facts recalled at B alone. {CAPTIONS['ranks']}",
        "similarity-step100-step300": f"On the 14 of 20 facts recalled at B alone. {CAPTIONS['similarity']}",
        "profile-step100-step300": "On the 14 of 20 facts recalled at B alone. Of the whole graph of |score|, with 95 "
        "% intervals of the change: where the work lies, and over how many edges it spreads.",
        "roles-step100-step300": f"{MOVERS} Circuits are pruned anew in each. Before and after: the share of "
        "resamples in which the head has the role at A and at B; moved: it only entered or left the circuit.",
    }


def test_every_sentence_before_a_figure(told):
    sentences = {slug: part.sentence for slug, part in told.sections.items() if part.sentence}
    assert sentences["heads"] == "Which heads retrieve, layer by layer; drag the slider through training."
    assert sentences["circuits"] == (
        "How alike each circuit is to its neighbour and to the last, beside what resampling prompts does."
    )
    assert sentences["roles"] == (
        "What kind of head the circuit is made of: movers carry the subject over, relation heads the rest."
    )
    assert sentences["phases"].startswith(
        "No change point in 4 checkpoints (steps 0 to 300); it stands out of the prompt"
    )
    assert told.sections["emergence"].points[0] == "Recall emerges between steps 100 and 200 [95 %: 100 to 200]."
    learned = told.sections["groups-step100-step300"].points
    assert learned[0].startswith("Recall 0.20 → 0.90 of 20 facts") and all(line.endswith(".") for line in learned)
    assert sentences["audit"] == "4 checkpoints of handmade (samples examined): 0 errors, 2 warnings."
    assert sentences["roles-step0-step100"] == (
        "Roles in the circuits: 1 mover head gained (a0.h0); 1 relation head lost (a0.h0)."
    )
    assert sentences["roles-step100-step300"] == (
        "Roles in the circuits: 2 retrieval heads gained (a0.h1, a1.h0); 1 mixture head lost by leaving the circuit "
        "(a1.h1)."
    )
    assert sentences["heads-step100-step300"].startswith(
        "Needles: all words right 0.10 → 0.30 (change +0.20 [−0.10, +0.50]); answer perplexity 20.09 → 2.72 "
    )


def test_every_figure_has_its_title_read_aloud(told):
    figures = {slug: part.figure for slug, part in told.sections.items() if part.figure}
    assert figures | dict.fromkeys(("phases", "heads-step0-step100", "circuit-step0-step100")) == {
        "needle": "Needle score 0.20 → 0.50, accuracy 0.00 → 0.30; answer perplexity 54.60 → 2.72",
        "heads": "Retrieval heads (score > 0.1): 0 at the start, 2 at most, 2 at the end",
        "leading-heads": "a0.h1 leads: 0.06 at the start, 0.75 at its peak, 0.75 at the end",
        "recall": "Fact recall at the end: old 1.00, new 0.80",
        "circuits": "1 of 3 steps between neighbours overlap less than two halves of the facts do",
        "roles": "The first mover head stands out at step 100; the last circuit has 1",
        "emergence": "recall emerges between steps 100 and 200 [95 %: 100 to 200]",
        "groups-step0-step100": "Same wiring in 3 of 3 groups; 1.00 to 1.00 times as strong",
        "groups-step100-step300": "Same wiring in 3 of 3 groups; 1.00 to 1.00 times as strong",
        "circuit-step100-step300": "2 edges changed for real; 1 gained, 1 lost",
        "heads-step100-step300": "2 heads changed their retrieval score",
        **dict.fromkeys(("phases", "heads-step0-step100", "circuit-step0-step100")),
    }
    assert figures["circuit-step0-step100"] == "0 edges changed for real; 0 gained, 0 lost"
    assert figures["heads-step0-step100"] == "0 heads changed their retrieval score"


def test_the_numbers_below_a_figure_are_those_of_their_columns(told):
    assert told.sections["needle"].table[::3] == [
        ["step", "needle_score", "needle_accuracy", "answer_ppl"],
        ["200", "0.4", "0.2", told.sections["needle"].table[3][3]],
    ]
    assert float(told.sections["needle"].table[3][3]) == pytest.approx(7.389, abs=1e-3)
    assert told.sections["needle"].rows == "4"
    assert told.sections["leading-heads"].table == [
        ["step", "retrieval_heads", "best_head", "best_score"],
        ["0", "0", "a0.h1", "0.0625"],
        ["100", "0", "a0.h1", "0.0625"],
        ["200", "2", "a0.h1", "0.75"],
        ["300", "2", "a0.h1", "0.75"],
    ]
    assert told.sections["recall"].table == [
        ["step", "recall", "recall_old", "recall_new"],
        ["0", "0.1", "0.2", "0"],
        ["100", "0.2", "0.4", "0"],
        ["200", "1", "1", "1"],
        ["300", "0.9", "1", "0.8"],
    ]
    assert told.sections["heads"].rows == "16"
    assert [row[0] for row in told.sections["circuits"].table] == ["step", "0", "100", "200", "300"]
    assert [row[2] for row in told.sections["roles"].table[1:5]] == ["relation", "mixture", "mixture", "mixture"]
    assert told.sections["checkpoints"].table[0][:4] == ["checkpoint", "step", "stage", "tokens"]
    assert [row[0] for row in told.sections["checkpoints"].table[1:]] == ["step0", "step100", "step200", "step300"]
    assert [row[0] for row in told.sections["nodes-step100-step300"].table] == ["node", "m1", "a1.h1"]
    assert told.sections["nodes-step0-step100"].table[1:] == []
    assert told.sections["audit"].table[1][:3] == ["warning", "off_path", "two/200"]


def test_the_page_ends_with_where_the_numbers_come_from(told):
    assert told.provenance == {
        "needles": "hand-made needles",
        "facts": "hand-made facts",
        "code version": "0.1",
        "dtype": "float32",
        "device": "cpu",
        "attention": "sdpa",
        "tokenizer hash": "words",
        "settings of heads": "version 1",
        "settings of circuit": "version 1",
        "settings of faithfulness": "version 1",
        "weights (sha256)": "step0: step0-weights-of, step100: step100-weights-, step200: step200-weights-, "
        "step300: step300-weights-",
    }


def test_results_of_several_kinds_are_all_named(tmp_path):
    first = point(0, heads=retrieval())
    second = point(1, heads=retrieval())
    second.heads.meta["provenance"].update(device="cuda", dtype="bfloat16")
    page = Page(write_pair_report(compare(first, second), tmp_path / "pair.html"))
    assert page.provenance["device"] == "cpu; cuda"
    assert page.provenance["dtype"] == "float32; bfloat16"


def test_a_run_without_circuits_or_an_audit_says_what_it_has(tmp_path):
    run = run_of(*(point(i, heads=retrieval()) for i in range(3)), audit=None)
    page = Page(write_report(run, tmp_path / "report.html"))
    assert list(page.sections) == [
        "needle",
        "emergence",
        "heads",
        "leading-heads",
        "head-cards",
        "heads-step0-step2",
        "audit",
        "checkpoints",
    ]
    assert [card[0] for card in page.cards] == ["needle accuracy", "answer perplexity", "retrieval heads"]
    assert page.sections["audit"].sentence == "No audit is on record for this run."
    assert page.warnings == []
    assert page.verdict == [
        "No head is seen to retrieve (score > 0.1): a0.h0, the best, reaches 0.00 [0.00, 0.52] at step 0 (chosen on 5 "
        "needles, judged on 5 others). 0 (no interval: too few needles) of 4 heads retrieve at the end.",
        "0 and 2 are equivalent: every change lies within its margin (a head's score 0.1, answer NLL 0.05).",
    ]


def test_phases_need_three_circuits_of_one_line(tmp_path):
    def circuits(*places: tuple[str, int]):
        points = (point(step, stage=stage, circuit=graph(strengths(WIRING_A))) for stage, step in places)
        return run_of(*points, store=tmp_path / "store")

    two = circuits(("one", 0), ("one", 10))
    assert "phases" not in Page(write_report(two, tmp_path / "two.html")).sections
    page = Page(write_report(circuits(("one", 0), ("one", 10), ("two", 5)), tmp_path / "three.html"))
    assert page.sections["phases"].sentence == (
        "Not applicable: the checkpoints of handmade are not one line of training: two/5 comes after one/10; choose "
        "one (stage: one, two)."
    )
    assert not page.sections["phases"].figure


def test_the_page_of_a_pair(tmp_path):
    a = point(0, heads=retrieval({(0, 1): 0.0625}), circuit=graph(strengths(WIRING_A), facts=20))
    b = point(9, heads=retrieval({(0, 1): 0.75, (1, 1): 0.5}), circuit=graph(strengths(WIRING_B), facts=20))
    pair = compare(a, b, q=0.04, transfer=transfer(["0", "9"], [[0.75, 0.25], [0.5, 1.0]]))
    page = Page(write_pair_report(replace(pair, missing={"roles": "not asked for"}), tmp_path / "pair.html"))
    assert page.title == "step0 → step9"
    assert page.subtitle == "changes from A to B; real = q ≤ 0.04"
    assert page.verdict[0] == (
        "0 and 9 differ: circuits of facts recalled at neither: changed in 2 edges; 2 heads of 4 changed."
    )
    assert page.verdict[-1] == "Not compared: roles (not asked for)."
    assert page.warnings == ["roles is not compared: not asked for"]
    assert {slug: part.heading for slug, part in page.sections.items()} == {
        "groups-pair": "Facts and their circuits",
        "circuit-pair": "Circuit",
        "edges-pair": "Edges that changed",
        "nodes-pair": "Nodes",
        "ranks-pair": "Reliability by rank",
        "similarity-pair": "Similarity",
        "profile-pair": "Depth and spread",
        "transfer-pair": "Functional transfer",
        "heads-pair": "Retrieval heads",
    }
    assert {slug: part.heading for slug, part in page.lead.items()} == {"any-two-pair": "What rewired"}
    assert page.unfolded == ["What changed and why"]
    moved = page.sections["transfer-pair"]
    assert moved.figure == "Own circuits keep 0.88, foreign ones 0.38"
    assert moved.caption == (
        "On all facts asked, whatever their way. Faithfulness of each checkpoint's circuit in each model: tells other "
        "wiring with the same function from a function that has moved."
    )
    assert moved.sentence == (
        "The circuit of 0 keeps 0.25 of the logit difference in 9, whose own keeps 1.00: too few facts for an "
        "interval. The circuit of 9 keeps 0.50 of the logit difference in 0, whose own keeps 0.75: too few facts for "
        "an interval."
    )
    assert [row[:4] for row in moved.table[1:3]] == [["0", "0", "20", "0.75"], ["0", "9", "20", "0.25"]]
    assert page.provenance["weights (sha256)"].count(", ") == 1


def test_a_table_on_the_page_shows_four_digits_and_what_is_not_there(tmp_path):
    frame = pd.DataFrame({"name": ["a", "b"], "value": [0.123456, float("nan")]})
    path = write_page(
        tmp_path / "page.html",
        title="t",
        subtitle="s",
        verdict=["v"],
        warnings=[],
        sections=[Section("one", "One", frame=frame)],
        provenance=[],
    )
    page = Page(path)
    assert "<td>0.1235</td>" in page.text
    assert "<td>n/a</td>" in page.text
    assert page.sections["one"].table == [["name", "value"], ["a", "0.123456"], ["b", ""]]
    assert path.stat().st_mode & 0o777 == 0o644
