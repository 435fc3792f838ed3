"""A measure of somebody else's package goes every way that the built-in ones go."""

import pytest
from safetensors.torch import load_file
from typer.testing import CliRunner

import circuit_drift
from checkpoints import DriftError, open_checkpoint
from circuit_drift.api.runs import load_run
from circuit_drift.cli import app
from circuit_drift.measures import Measure, build_measures, known, register
from circuit_drift.measures import registry as measure_registry
from circuit_drift.prompts import prompts_for
from circuit_drift.report import write_report
from circuit_drift.store.store import Store
from circuit_drift.training import Prober, Schedule
from tests.drift.measures.own_measure import install


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    return install(tmp_path_factory.mktemp("site") / "packages")


@pytest.fixture
def installed(package, monkeypatch):
    monkeypatch.syspath_prepend(str(package))
    return package


def _largest(tiny_series, step, power=2.0):
    weights = load_file(tiny_series / f"checkpoint-{step}" / "model.safetensors")
    return max(float(tensor.float().norm(p=power)) for tensor in weights.values())


@pytest.fixture(scope="module")
def measured(package, tiny_series, tmp_path_factory):
    """A stored run of the own measure alone."""
    store = tmp_path_factory.mktemp("own") / "store"
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(package))
        circuit_drift.run(tiny_series, store=store, measures=["norms"], device="cpu", progress=False)
    return store


def test_it_is_run_by_its_name_and_stored_under_its_version_and_parameters(installed, measured, tiny_series):
    assert known()[-4:] == ("gone", "misnamed", "norms", "nothing")
    run = load_run(measured)
    found = [point.results["norms"].largest for point in run]
    assert found == pytest.approx([_largest(tiny_series, step) for step in (0, 10, 100)], rel=1e-5)
    assert run.points[0].results["norms"].meta["provenance"]["parameters"] == {"version": 7, "power": 2.0}
    assert len(Store.open(measured).results("norms")) == 3


def test_its_numbers_are_columns_of_the_table_and_a_section_of_the_report(installed, measured, tmp_path):
    run = load_run(measured)
    assert run.to_frame().columns.tolist() == ["checkpoint", "step", "stage", "tokens", "largest_norm"]
    page = write_report(run, tmp_path / "report.html").read_text(encoding="utf-8")
    first, last = (f"{run.at(step).results['norms'].largest:.3g}" for step in ("first", "last"))
    assert "<h3>norms over training</h3>" in page
    assert f"largest norm {first} → {last}" in page
    assert "<dt>settings of norms</dt><dd>power 2.0, version 7</dd>" in page


def test_two_of_its_results_are_compared(installed, measured):
    run = load_run(measured)
    pair = run.diff(0, 100)
    by = run.at(100).results["norms"].largest - run.at(0).results["norms"].largest
    assert pair.changes["norms"].by == by
    assert not pair.significant
    assert pair.verdict[0] == "No difference between 0 and 100 is shown."
    assert f"The largest norm changed by {by:+.4f}." in pair.verdict
    assert sorted(pair.missing) == ["circuit", "heads"]


def test_a_significant_change_of_its_own_is_told_by_its_noun(installed, measured):
    from norm_package import Growth

    pair = load_run(measured).diff(0, 100).with_change("norms", Growth(1e10))
    assert pair.verdict[0] == "0 and 100 differ: the norm changed."


def test_the_command_line_takes_it_with_an_argument(installed, tiny_series, tmp_path):
    store = tmp_path / "store"
    options = ["--store", str(store), "--steps", "last", "--device", "cpu"]
    told = CliRunner().invoke(app, ["run", str(tiny_series), "--measures", "norms:1", *options])
    assert told.exit_code == 0, told.output
    assert "largest_norm" in told.stdout
    point = load_run(store).at("last")
    assert point.results["norms"].largest == pytest.approx(_largest(tiny_series, 100, power=1.0), rel=1e-5)
    assert point.results["norms"].meta["provenance"]["parameters"]["power"] == 1.0


def test_the_prober_of_a_training_loop_takes_it(installed, tiny_series, tmp_path):
    from norm_package import NormMeasure

    with open_checkpoint(tiny_series / "checkpoint-10").open() as loaded:
        prober = Prober("live", loaded.tokenizer, measures=[NormMeasure()], schedule=Schedule(every=1), store=tmp_path)
        probe = prober.after_step(loaded.model, step=0)
    wanted = pytest.approx(_largest(tiny_series, 10), rel=1e-5)
    assert not probe.point.failures
    assert probe.point.results["norms"].largest == wanted
    assert probe.scalars == {"largest_norm": wanted}
    run = load_run(tmp_path, "live")
    assert run.at(0).results["norms"].largest == wanted
    assert run.log.splitlines()[0] == "step,stage,tokens,largest_norm"


def test_a_result_whose_package_is_gone_costs_itself_alone(measured, caplog):
    assert "norms" not in known()
    with pytest.raises(DriftError, match="no result of the run tiny-series can be read"):
        load_run(measured)
    assert "no package here has the measure norms; install the one that has, or register its class" in caplog.text


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("nothing", "norm_package:NoMeasure is no measure: it must be a class derived from circuit_drift.Measure"),
        ("gone", "the measure gone cannot be loaded from norm_package:Gone: "),
        ("misnamed", "norm_package:NormMeasure is registered as the measure misnamed, and calls itself norms"),
        ("unheard", "unknown measure 'unheard'; choose from heads, circuit"),
    ],
)
def test_an_entry_that_cannot_be_used_is_refused_with_the_reason(installed, name, reason):
    with pytest.raises(DriftError, match=reason):
        build_measures(None, [name])


class Second(Measure):
    """Needs what is never there first."""

    name, result, needs = "second", dict, ("first",)

    def compute(self, loaded, earlier):
        return {}


class First(Measure):
    name, result, needs = "first", dict, ("second",)

    def compute(self, loaded, earlier):
        return {}


class Heads(Measure):
    name, result = "heads", dict

    def compute(self, loaded, earlier):
        return {}


@pytest.fixture
def none_registered(monkeypatch):
    monkeypatch.setattr(measure_registry, "_registered", {})


def test_measures_that_need_each_other_have_no_order(none_registered):
    with pytest.raises(DriftError, match="first, second need each other"):
        build_measures(None, [First(), Second()])


def test_the_name_of_another_is_refused_and_a_class_defined_again_is_taken(none_registered):
    with pytest.raises(DriftError, match=r"Heads wants to be the measure heads, which is .*RetrievalMeasure"):
        register(Heads)
    register(First)
    again = type("First", (First,), {"__module__": First.__module__, "__qualname__": First.__qualname__})
    assert register(again) is again
    assert measure_registry.find("first") is again


def test_what_is_no_measure_does_not_reach_a_training_loop(tmp_path):
    with pytest.raises(DriftError, match=r"derived from circuit_drift\.Measure"):
        Prober("live", measures=[object()], schedule=Schedule(every=1), store=tmp_path)


def test_a_measure_that_cannot_be_read_does_not_end_the_training(none_registered, tiny_series, tmp_path, installed):
    from norm_package import NormMeasure

    class Unread(NormMeasure):
        name = "unread"

        @classmethod
        def reading(cls, result):
            raise ValueError("no idea")

    with open_checkpoint(tiny_series / "checkpoint-10").open() as loaded:
        prober = Prober("live", loaded.tokenizer, measures=[Unread()], schedule=Schedule(every=1), store=tmp_path)
        probe = prober.after_step(loaded.model, step=0)
    assert probe.point.failures == {"unread": "it was taken, and cannot be read: ValueError: no idea"}
    assert probe.point.results["unread"].largest == pytest.approx(_largest(tiny_series, 10), rel=1e-5)


def test_a_built_in_measure_takes_no_argument(tiny_series):
    prompts = prompts_for(tiny_series)
    with pytest.raises(DriftError, match="the measure heads takes no argument; got heads:x"):
        build_measures(prompts, ["heads:x"])
    with pytest.raises(DriftError, match="say harness:TASK"):
        build_measures(prompts, ["harness"])
    assert build_measures(prompts, ["harness:one", "harness:two", "harness:one"])[0].tasks == ("one", "two")
