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

import pytest

from circuit_drift.explore.fact_cards import fact_cards
from circuit_drift.explore.head_cards import head_cards
from circuit_drift.explore.rewired import run_rewired
from circuit_drift.page.page import write_page
from tests.drift.explore.test_readings import example
from tests.drift.handmade import WIRING_A, WIRING_B, graph, point, retrieval, run_of, strengths

BROWSER = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chromium-browser", "chrome"))), None)
AXE = Path(os.environ.get("AXE_CORE", files("axe_core_python") / "axe.min.js"))
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chrome or Chromium is installed to draw the page in")

ASKED = """
const errors = [];
window.addEventListener("error", (event) => errors.push(event.message));
window.addEventListener("unhandledrejection", (event) => errors.push(String(event.reason)));
const pause = (ms) => new Promise((done) => setTimeout(done, ms));
window.addEventListener("load", async () => {
  const found = {};
  document.querySelectorAll("details").forEach((part) => { part.open = true; });
  const drawn = [".node", "#widget-head-cards .chart", "#widget-fact-cards .chart"];
  const missing = () => drawn.some((each) => !document.querySelector(each));
  for (let i = 0; i < 60 && missing(); i++) await pause(100);
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
CHECKED = """
document.documentElement.dataset.theme = "%s";
await pause(200);
const told = await axe.run(document);
found.passes = told.passes.length;
const where = (each) => each.nodes.map((node) => node.target.join(" ")).join(", ");
found.broken = told.violations.map((each) => each.id + ": " + where(each));
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    run = run_of(
        *(
            point(
                1000 * i,
                heads=replace(retrieval({(0, 1): 0.75 * i, (1, 0): 0.25}), example=example()),
                circuit=graph(strengths(wiring), facts=20, known=20),
            )
            for i, wiring in enumerate((WIRING_A, WIRING_B))
        )
    )
    sections = [*run_rewired(run), *head_cards(run), *fact_cards(run)]
    head = {"title": "A run", "subtitle": "two checkpoints", "verdict": ["A finding."], "warnings": []}
    path = tmp_path_factory.mktemp("browser") / "page.html"
    return write_page(path, sections=sections, provenance=[("code", "0.1")], figures="svg", **head)


def ask(page: Path, question: str, *scripts: str) -> dict:
    """What a script finds in the drawn page."""
    added = "".join(f"<script>{script}</script>" for script in (*scripts, ASKED % question))
    asked = page.with_name("asked.html")
    asked.write_text(page.read_text().replace("</body>", f"{added}</body>"))
    command = [BROWSER, "--headless=new", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=30000", "--dump-dom"]
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


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_page_is_accessible(page, theme):
    found = ask(page, CHECKED % theme, AXE.read_text(encoding="utf-8"))
    assert found["errors"] == []
    assert found["broken"] == []
    assert found["passes"] > 30
