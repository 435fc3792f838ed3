"""Adding one of a kind takes what `docs/architecture.md` says: a toy of each, by its one row, method or file.

A format of model files is added in `tests/checkpoints/files/test_table_of_formats.py`, a measure by an entry
point, with its columns, in `tests/drift/measures/test_own_measure.py`.
"""

from dataclasses import replace
from textwrap import dedent

import numpy as np
import pytest

import circuit_drift
import circuits
import heads
from checkpoints import DriftError, open_checkpoint
from circuit_drift.measures import base, register, tokenizer_of
from circuit_drift.measures import registry as measure_registry
from circuit_drift.measures.roles import RolesMeasure
from circuit_drift.page.page import Section
from circuit_drift.prompts import prompts_for
from circuit_drift.report import write_report
from circuit_drift.sweep import executors
from circuit_drift.sweep.executors import Workers, execute
from circuit_drift.sweep.executors.pool import run_worker
from circuit_drift.training.strategies.settings.config import load_config
from circuits.attribution import methods
from circuits.attribution.methods import MethodSpec
from heads.detect import detectors
from heads.detect.detectors import Detector
from tests.drift.handmade import point, roles, run_of


@pytest.fixture(scope="module")
def opened(tiny_series):
    with open_checkpoint(tiny_series / "checkpoint-10").open() as loaded:
        yield loaded, prompts_for(tiny_series)


def test_a_measure_is_what_the_docstring_of_measures_shows(tiny_series, tmp_path, monkeypatch):
    monkeypatch.setattr(measure_registry, "_registered", {})
    shown, _, _ = base.__doc__.partition("A package that names")
    names = {"__name__": __name__}
    exec(dedent(shown.partition("\n\n")[2]), names)
    circuit_drift.run(tiny_series, store=tmp_path, measures=[names["Norms"]()], device="cpu", progress=False)
    run = circuit_drift.load_run(tmp_path)
    found = run.at(10).results["norms"]
    assert found.verdict == repr(found).removeprefix("<NormTable: ").removesuffix(">")
    assert run.to_frame()["largest_norm"].tolist() == [max(p.results["norms"].norms.values()) for p in run]
    assert "<h3>norms over training</h3>" in write_report(run, tmp_path / "r.html").read_text(encoding="utf-8")


def test_a_detector_is_one_row(opened, monkeypatch):
    loaded, prompts = opened
    last = Detector("twice the attention on the first token", lambda rows: 2 * rows.mass("first_token").mean(axis=1),
                    lambda even: float(np.mean(2 / even.keys)))  # fmt: skip
    monkeypatch.setattr(detectors, "TABLE", {**detectors.TABLE, "twice_first": last})
    source = prompts.needles
    needles = heads.needle_prompts(tokenizer_of(loaded), source.needles[:2], source.haystack, length=48, depths=(0.5,))
    scores = heads.score(loaded.model, needles)
    np.testing.assert_allclose(scores.detector("twice_first"), 2 * scores.detector("first_token"), rtol=1e-6)
    frame = scores.to_frame()
    assert "twice_first" in frame


def test_an_attribution_method_is_one_row(opened, monkeypatch):
    loaded, prompts = opened
    monkeypatch.setattr(methods, "METHODS", {**methods.METHODS, "corrupted": MethodSpec(ends=(0.0,))})
    facts = circuits.tokenize_facts(tokenizer_of(loaded), prompts.facts.facts[:4])
    clean, corrupt, both = (
        circuits.attribute(loaded.model, facts, method=method).edge_scores
        for method in ("eap", "corrupted", "clean-corrupted")
    )
    np.testing.assert_allclose((clean + corrupt) / 2, both, rtol=1e-3, atol=1e-7)


def test_a_section_of_the_report_is_one_method_of_its_measure(monkeypatch, tmp_path):
    monkeypatch.setattr(measure_registry, "_registered", {})

    @register
    class Movers(RolesMeasure):
        name = "movers"

        @classmethod
        def sections(cls, run, table):
            count = len([point for point in run if cls.name in point.results])
            yield Section("movers", "Movers, by hand", text=f"{count} checkpoints of {len(table)} have roles.")

    measured = point(10, roles=roles(a0_h1="mover"))
    results, keys = {"movers": measured.results["roles"]}, {"movers": "key"}
    run = run_of(replace(measured, results=results, keys=keys), point(20))
    page = write_report(run, tmp_path / "report.html").read_text(encoding="utf-8")
    assert ">Movers, by hand</h" in page
    assert "1 checkpoints of 2 have roles." in page


ASKED: list[Workers] = []


class InThisProcess:
    """A pool of one worker that has done everything before it is followed."""

    size = 1

    def __init__(self, sweep, workers):
        self.sweep = sweep
        ASKED.append(workers)

    def __enter__(self):
        run_worker(self.sweep, 0)
        return self

    def __exit__(self, *_):
        return None

    def replace_dead(self):
        return []

    def idle(self):
        return True


def test_an_executor_is_one_row_and_its_pool(tiny_series, tmp_path, monkeypatch):
    monkeypatch.setattr(executors, "POOLS", {**executors.POOLS, "here": f"{__name__}:InThisProcess"})
    run = circuit_drift.run(
        tiny_series, store=tmp_path, measures=["circuit"], executor="here", workers=1, device="cpu", progress=False
    )
    assert [point.step for point in run if "circuit" in point.results] == [0, 10, 100]
    assert ASKED[-1].count == 1
    with pytest.raises(DriftError, match=r"unknown executor 'there'; choose from serial, processes, ray, slurm"):
        list(execute(None, "there", Workers(), None))


def test_a_strategy_is_one_table_of_a_config(tiny_series, tmp_path):
    for name in ("new.jsonl", "facts.jsonl"):
        (tmp_path / name).write_text("", encoding="utf-8")
    (tmp_path / "config.toml").write_text(
        f"""
model = "{tiny_series / "checkpoint-10"}"
documents = "new.jsonl"
facts = "facts.jsonl"
epochs = 1
[[strategy]]
name = "upper-half"
lr = 0.003
freeze = ["model.embed*", "model.layers.0.*"]
"""
    )
    (strategy,) = load_config(tmp_path / "config.toml").strategies
    assert (strategy.name, strategy.lr) == ("upper-half", 0.003)
    assert strategy.freeze == ("model.embed*", "model.layers.0.*")
