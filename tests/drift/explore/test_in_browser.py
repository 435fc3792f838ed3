"""The page's own figures in a real browser, where one is installed: they draw, answer clicks, and are accessible.

The accessibility check is that of axe-core, whose one file comes with the package axe-core-python; ``AXE_CORE`` names
another, as of a newer release from npm.
"""

import html
import json
import os
import re
import shutil
import subprocess
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
from plotly.subplots import make_subplots

from checkpoints.results.figure import dress
from circuit_drift.api.pairs import compare
from circuit_drift.explore.fact_cards import fact_cards
from circuit_drift.explore.head_cards import head_cards
from circuit_drift.explore.rewired import pair_rewired, run_rewired
from circuit_drift.page.page import Section, write_page
from circuits.graph.circuit import Circuit
from circuits.graph.shape import GraphShape
from tests.drift.explore.test_readings import example
from tests.drift.handmade import (
    EDGES,
    WIRING_A,
    WIRING_B,
    graph,
    on_shape,
    point,
    retrieval,
    run_of,
    strengths,
)

BROWSER = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chromium-browser", "chrome"))), None)
AXE = Path(os.environ.get("AXE_CORE", files("axe_core_python") / "axe.min.js"))
HEAD = {"title": "A run", "subtitle": "two checkpoints", "verdict": ["A finding."], "warnings": []}
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chrome or Chromium is installed to draw the page in")

OPENED = 'document.querySelectorAll("details").forEach((part) => { part.open = true; });'
ASKED = """
const errors = [];
window.addEventListener("error", (event) => errors.push(event.message));
window.addEventListener("unhandledrejection", (event) => errors.push(String(event.reason)));
console.error = (...told) => errors.push(told.join(" "));
const pause = (ms) => new Promise((done) => setTimeout(done, ms));
window.addEventListener("load", async () => {
  const found = {};
  %s
  const drawn = [".node", "#widget-head-cards .chart", "#widget-fact-cards .chart"];
  const missing = () => drawn.some((each) => !document.querySelector(each));
  for (let i = 0; i < 60 && missing() && document.querySelector(".widget"); i++) await pause(100);
  try { %s } catch (error) { errors.push(String(error)); }
  document.body.innerHTML = "";
  const told = Object.assign(document.createElement("pre"), { id: "found" });
  told.textContent = JSON.stringify({ ...found, errors });
  document.body.append(told);
});
"""
CHOSEN = """
const text = (picked) => document.querySelector(picked)?.textContent;
const part = document.getElementById("widget-any-two");
found.headline = text("#widget-any-two .told");
found.legend = [...part.querySelectorAll(".legend button[aria-pressed=true]")].map((each) => each.textContent.trim());
found.nodes = [...part.querySelectorAll("[data-node]")].map((each) => each.dataset.node).sort();
part.querySelector("[data-node=m1]").dispatchEvent(new KeyboardEvent("keydown", { key: "Enter" }));
found.panel = text("#widget-any-two .panel h4");
const cells = (row) => [...row.cells].map((cell) => cell.textContent);
found.edges = [...part.querySelectorAll(".panel tbody tr")].map(cells);
part.querySelector("[data-node=logits]").dispatchEvent(new MouseEvent("click"));
found.other = text("#widget-any-two .panel h4");
const selects = part.querySelectorAll("select");
selects[1].value = selects[0].value;
selects[1].dispatchEvent(new Event("change"));
found.same = text("#widget-any-two .told");
found.head = text("#widget-head-cards .card p");
found.read = text("#widget-head-cards .tokens");
found.reading = text("#widget-head-cards .card div[aria-live] p");
const [step, before] = document.querySelectorAll("#widget-head-cards .card select");
before.value = "1";
before.dispatchEvent(new Event("change"));
found.next = text("#widget-head-cards .card div[aria-live] p");
const heads = document.getElementById("widget-head-cards");
heads.querySelectorAll("thead button")[1].click();
heads.querySelectorAll("thead button")[1].click();
found.sorted = [...heads.querySelectorAll("tbody tr")].map((row) => row.cells[0].textContent);
found.fact = text("#widget-fact-cards .card p");
"""
DRIVEN = """
const text = (picked) => document.querySelector(picked)?.textContent;
const part = document.getElementById("widget-any-two"), headline = () => part.querySelector(".told").textContent;
const set = (input, value) => { input.value = value; input.dispatchEvent(new Event("input")); };
const on = () => [...part.querySelectorAll(".legend button[aria-pressed=true]")].map((each) => each.textContent.trim());
const cells = (row) => [...row.cells].map((cell) => cell.textContent);
const edges = () => [...part.querySelectorAll(".panel tbody tr")].map(cells);
const [level, size] = part.querySelectorAll("input[type=range]");
set(size, 2);
found.small = [headline(), on()];
set(size, 20);
set(level, 0);
found.strict = headline();
set(level, 5);
part.querySelector("[aria-label='Swap A and B']").click();
found.swapped = headline();
const taken = (node) => { node.focus(); return document.activeElement === node; };
found.focused = [...part.querySelectorAll("[data-node]")].every(taken);
document.activeElement.dispatchEvent(new KeyboardEvent("keydown", { key: " " }));
found.pressed = part.querySelector("[data-node][aria-pressed=true]").dataset.node;
part.querySelector("[data-node=m1]").dispatchEvent(new MouseEvent("click"));
found.edges = edges();
const heads = document.getElementById("widget-head-cards"), facts = document.getElementById("widget-fact-cards");
const named = (place, name) => [...place.querySelectorAll(".opener")].find((each) => each.textContent === name);
named(heads, "a1.h0").click();
found.head = [text("#widget-head-cards .card h4"), text("#widget-head-cards .card p")];
const search = facts.querySelector("input[type=search]");
set(search, "fact 7");
found.rows = [...facts.querySelectorAll("tbody tr")].filter((row) => !row.hidden).map((row) => cells(row)[0]);
named(facts, "fact 7").click();
found.fact = text("#widget-fact-cards .card h4");
"""
OTHERS = """
const part = document.getElementById("widget-any-two"), [from, to, facts] = part.querySelectorAll("select");
const choose = (select, value) => { select.value = String(value); select.dispatchEvent(new Event("change")); };
const told = () => part.querySelector(".told").textContent.split(";")[0];
const seen = () => [told(), facts.options[0].textContent, [...part.querySelectorAll("[data-node]")].length];
found.first = seen();
choose(to, 1);
found.nothing = seen();
choose(from, 1);
choose(to, 2);
found.later = seen();
choose(part.querySelectorAll("select")[3], "layers");
found.cells = [...part.querySelectorAll(".cell")].length;
"""
SCREEN = """
for (let i = 0; i < 60 && !document.querySelector(".plot-container"); i++) await pause(100);
const box = (picked) => document.querySelector(picked).getBoundingClientRect();
document.querySelectorAll("details").forEach((part) => { part.open = false; });
const drawn = box("#fig-lead .plot-container");
found.figure = drawn.top < 300 && drawn.left > box(".verdict").right;
document.body.style.width = "390px";
document.body.style.setProperty("position", "relative");
window.dispatchEvent(new Event("resize"));
await pause(1500);
const place = document.querySelector("#fig-lead");
found.wide = [place.clientWidth < 400, place._fullLayout.width, place.tabIndex];
found.labels = [...place.querySelectorAll(".xtick text")].filter((each) => each.textContent.trim()).length;
"""
DRAWN = """
for (let i = 0; i < 100 && !document.querySelector("#fig-second .plot-container"); i++) await pause(100);
const drawn = [...document.querySelectorAll(".figure")].filter((each) => each.querySelector(".plot-container"));
found.drawn = drawn.map((each) => each.id);
found.titles = [...document.querySelectorAll(".figure-title")].map((each) => each.textContent);
found.cloud = document.querySelectorAll("[data-title*=loud], .plotlyjsicon").length;
found.pairs = [...document.querySelectorAll("details.pair h3")].map((each) => each.textContent);
"""
FOLDED = """
for (let i = 0; i < 200 && !window.Plotly; i++) await pause(100);
const count = (wanted) => document.querySelectorAll(wanted).length;
const seen = () => ["#fig-first .plot-container", "#fig-second .plot-container", "td"].map(count);
found.closed = seen();
document.getElementById("chapter-heads").open = true;
for (let i = 0; i < 50 && !document.querySelector("#fig-second .plot-container"); i++) await pause(100);
found.chapter = seen();
document.querySelector("#chapter-heads .data").open = true;
await pause(200);
found.data = [...seen(), count("#chapter-heads input[type=search]")];
const first = () => document.querySelector("#chapter-heads tbody td").textContent;
document.querySelector("#chapter-heads thead button").click();
document.querySelector("#chapter-heads thead button").click();
found.sorted = first();
"""
DEEP = """
found.nodes = [...document.querySelectorAll("[data-node]")].map((each) => each.dataset.node).sort();
found.legend = [...document.querySelectorAll(".legend [aria-pressed=true]")].map((each) => each.textContent.trim());
"""
CHECKED = """
document.documentElement.dataset.theme = "%s";
await pause(200);
const told = await axe.run(document);
found.passes = told.passes.length;
const where = (each) => each.nodes.map((node) => node.target.join(" ")).join(", ");
found.broken = told.violations.map((each) => each.id + ": " + where(each));
"""


@pytest.fixture(scope="module")
def page(run, tmp_path_factory) -> Path:
    sections = [*run_rewired(run), *head_cards(run), *fact_cards(run)]
    path = tmp_path_factory.mktemp("browser") / "page.html"
    return write_page(path, sections=sections, provenance=[("code", "0.1")], figures="svg", **HEAD)


@pytest.fixture(scope="module")
def run():
    return run_of(
        *(
            point(
                1000 * i,
                heads=replace(retrieval({(0, 1): 0.75 * i, (1, 0): 0.25}), example=example()),
                circuit=graph(strengths(wiring), facts=20, known=20),
            )
            for i, wiring in enumerate((WIRING_A, WIRING_B))
        )
    )


@pytest.fixture(scope="module")
def deep() -> Section:
    """What rewired in a model of 30 layers, three query heads on one key/value head."""
    shape = GraphShape(30, 3, 1)
    names = Circuit(shape, shape.mask).edges
    rng, graphs = np.random.default_rng(0), []
    for last in ("a23.h2->a29.kv0<v>", "m29->logits"):
        scores = rng.normal(0, 0.01, (24, len(names)))
        for edge in ("input->m0", "m0->a23.kv0<v>", "a23.h2->logits", "a29.h0->logits", last):
            scores[:, names.index(edge)] -= 2
        graphs.append(on_shape(shape, scores))
    pair = compare(*(point(step, circuit=each) for step, each in enumerate(graphs)))
    return next(pair_rewired(pair, anchor="pair"))


def ask(page: Path, question: str, *scripts: str, first: str = OPENED) -> dict:
    """What a script finds in the drawn page."""
    added = "".join(f"<script>{script}</script>" for script in (*scripts, ASKED % (first, question)))
    asked = page.with_name("asked.html")
    asked.write_text(page.read_text().replace("</body>", f"{added}</body>"))
    command = [BROWSER, "--headless=new", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=30000", "--dump-dom"]
    command += ["--window-size=1400,900"]
    done = subprocess.run([*command, asked.as_uri()], check=True, capture_output=True, text=True, timeout=300)
    return json.loads(html.unescape(re.search(r'<pre id="found">(.*?)</pre>', done.stdout, re.S).group(1)))


def test_two_checkpoints_a_node_a_head_and_a_fact_are_chosen_in_the_page(page):
    found = ask(page, CHOSEN)
    assert found["errors"] == []
    assert found["headline"].startswith(
        "0 → 1,000: 2 of 46 edges changed at q ≤ 0.05; in the circuits 1 gained, 1 lost"
    )
    assert found["legend"] == ["+ gained (1)", "× lost (1)"]
    assert found["nodes"] == ["a1.h1", "logits", "m1"]
    assert found["panel"].startswith("m1: MLP")
    assert found["edges"][0][0] == "m1 → logits" and found["edges"][0][-1] == "gained"
    assert found["other"].startswith("logits: input or logits")
    assert found["same"] == '0 → 0: one checkpoint; what its circuit holds is under "kept"'
    assert found["head"] == "0.00 at step 0, 0.75 at step 1,000; retrieves from step 1,000 on."
    assert found["reading"] == "Before “ 4”: 75 % on “ 4” (needle's answer), 25 % on “<s>” (first token)."
    assert found["read"] == "<s>25 %the code is 475 % 2. Code:"
    assert found["next"] == "Before “ 2”: 100 % on “ 2” (needle's answer)."
    assert found["sorted"][0] == "a1.h0"
    assert found["fact"].endswith("Recalled at all 2 checkpoints.")


def test_sliders_swap_keys_search_and_clicks_show_what_was_measured(run, page):
    found = ask(page, DRIVEN)
    (section,) = run_rewired(run)
    strict = section.widget.data["groups"][0]["changed"][0][0]
    change = {at: strengths(wiring)[EDGES.index("m1->logits")] for at, wiring in (("0", WIRING_A), ("1", WIRING_B))}
    assert found["errors"] == []
    assert found["small"] == [
        "0 → 1,000: 2 of 46 edges changed at q ≤ 0.05; none of them in a circuit (p = 0.006, 20 facts)",
        ["○ changed outside the circuits (2)"],
    ]
    assert found["strict"].startswith(f"0 → 1,000: {strict} of 46 edges changed at q ≤ 0.001")
    assert found["swapped"].startswith("1,000 → 0: 2 of 46 edges changed at q ≤ 0.05; in the circuits 1 gained, 1 lost")
    assert found["focused"] is True and found["pressed"] in ("a1.h1", "logits", "m1")
    edge, at_a, at_b, changed, q, became = found["edges"][0]
    assert (edge, at_a, at_b) == ("m1 → logits", "−0.813", f"+{change['0']:.3g}") and change["1"] == -0.8125
    assert (changed, became) == (f"+{change['0'] - change['1']:.3g}", "lost")
    assert q == "≤ 0.05" or float(q.removeprefix("≤ ")) < 0.05
    assert found["head"] == ["a1.h0", "0.25 at step 0, 0.25 at step 1,000; retrieves from step 0 on."]
    assert found["rows"] == ["fact 7"] and found["fact"] == "fact 7"


def test_two_other_checkpoints_are_chosen_in_the_page(tmp_path):
    wirings = (WIRING_A, WIRING_A, WIRING_B)
    points = [point(10 * i, circuit=graph(strengths(each), facts=20, known=20)) for i, each in enumerate(wirings)]
    section = next(run_rewired(run_of(*points)))
    found = ask(write_page(tmp_path / "page.html", sections=[section], provenance=[], **HEAD), OTHERS)
    assert found["errors"] == []
    assert found["first"] == ["0 → 20: 2 of 46 edges changed at q ≤ 0.05", "all 20 facts: 2 changed", 3]
    still = "0 → 10: the graph did not change beyond the noise of the prompts (p = 1, 20 facts)"
    assert found["nothing"][:2] == [still, "all 20 facts: 0 changed"]
    assert found["later"] == ["10 → 20: 2 of 46 edges changed at q ≤ 0.05", "all 20 facts: 2 changed", 3]
    assert found["cells"] == 1


def test_the_first_screen_holds_the_figure_and_a_narrow_one_squeezes_nothing(tmp_path):
    figure = make_subplots(cols=2)
    for column in (1, 2):
        figure.add_scatter(x=list(range(19)), y=list(range(19)), row=1, col=column)
    figure.update_xaxes(tickvals=list(range(19)), ticktext=[f"{500 * i:,}" for i in range(19)])
    lead = Section("lead", "Lead", figure=dress(figure, title="Title"))
    page = write_page(tmp_path / "page.html", sections=[Section("b", "B", text="b")], lead=lead, provenance=[], **HEAD)
    found = ask(page, SCREEN)
    assert found["errors"] == []
    assert found["figure"] is True
    assert found["wide"] == [True, 600, 0]
    assert found["labels"] == 7


def test_figures_of_a_packed_plotly_are_drawn_and_sections_of_a_pair_fold(tmp_path):
    figures = [go.Figure(go.Scatter(x=[0, 1], y=[0, value])).update_layout(title=f"Title {value}") for value in (1, 2)]
    sections = [
        Section(slug, slug.title(), figure=dress(figure, title=figure.layout.title.text), chapter="Circuit", of="0 → 1")
        for slug, figure in zip(("first", "second"), figures, strict=True)
    ]
    page = write_page(tmp_path / "page.html", sections=sections, provenance=[], **HEAD)
    assert page.stat().st_size < 3_000_000
    found = ask(page, DRAWN)
    assert found["errors"] == []
    assert found["drawn"] == ["fig-first", "fig-second"]
    assert found["titles"] == ["Title 1", "Title 2"]
    assert (found["cloud"], found["pairs"]) == (0, ["0 → 1"])


def test_closed_folds_hold_no_drawn_figure_and_no_long_table(tmp_path):
    frame = pd.DataFrame({"step": range(40), "score": 0.5})
    sections = [
        Section(
            slug, slug.title(), figure=dress(go.Figure(go.Scatter(x=[0], y=[1])), title=slug), chapter=name, frame=frame
        )
        for slug, name in (("first", "Behaviour"), ("second", "Heads"))
    ]
    found = ask(write_page(tmp_path / "page.html", sections=sections, provenance=[], **HEAD), FOLDED, first="")
    assert found["errors"] == []
    assert (found["closed"], found["chapter"]) == ([0, 0, 0], [0, 1, 0])
    assert found["data"] == [0, 1, 80, 1]
    assert found["sorted"] == "39"


def test_a_browser_that_cannot_unpack_the_figures_says_so(tmp_path):
    section = Section("one", "One", figure=dress(go.Figure(go.Scatter(x=[0], y=[1])), title="One"), chapter="Circuit")
    page = write_page(tmp_path / "page.html", sections=[section], provenance=[], **HEAD)
    page.write_text(page.read_text().replace('id="plotly-js">H4sI', 'id="plotly-js">AAAA'))
    found = ask(page, "await pause(500); found.told = document.querySelector('#verdict .warning')?.textContent;")
    assert found["errors"] == []
    assert found["told"].startswith("This browser cannot unpack the figures. Open the page in one from 2023 on")


def test_a_page_of_thirty_layers_is_accessible_and_draws_what_changed(deep, tmp_path):
    page = write_page(tmp_path / "page.html", sections=[], lead=deep, provenance=[], **HEAD)
    found = ask(page, DEEP + CHECKED % "light", AXE.read_text(encoding="utf-8"))
    assert found["errors"] == []
    assert found["nodes"] == ["a23.h2", "a29.kv0", "logits", "m29"]
    assert found["legend"] == ["+ gained (1)", "× lost (1)"]
    assert found["broken"] == []


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_page_is_accessible(page, theme):
    found = ask(page, CHECKED % theme, AXE.read_text(encoding="utf-8"))
    assert found["errors"] == []
    assert found["broken"] == []
    assert found["passes"] > 30
