"""The sweep's way through the stream of checkpoints: equal to fresh loads, one tokenizer each, from the hub too."""

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

import circuit_drift
from checkpoints import Placement, open_series
from checkpoints.series.downloads import Downloads
from circuit_drift.api.runs import load_run
from circuit_drift.cli import app
from circuit_drift.comparison.transfer import stored_transfer
from circuit_drift.measures.heads import RetrievalMeasure
from circuit_drift.measures.registry import MEASURES, build_measures
from circuit_drift.store.store import Store
from circuit_drift.sweep.workers.models import Models
from circuit_drift.sweep.workers.tasks import Sweep
from circuit_drift.sweep.workers.worker import work
from tests.checkpoints.hub_standin import REPO, Hub, connected
from tests.drift.sweep.test_sweep_kill import contents, prompts_of


def new_sweep(series: Path, store: Path, **options) -> Sweep:
    checkpoints = open_series(series).checkpoints
    return Sweep.of(
        checkpoints, build_measures(prompts_of(series)), Store.open(store), placement=Placement(device="cpu"), **options
    )


def test_a_streamed_sweep_equals_one_with_fresh_models(tiny_series, tmp_path, monkeypatch):
    list(work(new_sweep(tiny_series, tmp_path / "streamed")))
    monkeypatch.setattr(Models, "_follows", lambda *_: False)
    list(work(new_sweep(tiny_series, tmp_path / "fresh")))
    assert contents(tmp_path / "streamed") == contents(tmp_path / "fresh")


def test_one_model_object_holds_one_checkpoint_after_the_other(tiny_series, tmp_path):
    with Models(new_sweep(tiny_series, tmp_path), Downloads(0)) as models:
        first = models.take(0).model
        assert models.take(1).model is first
        assert models.take(1).checkpoint.step == 10
        models.anticipate(2)
        assert models.take(2).model is first
        assert models.take(0).model is not first, "going back starts a new stream"


def test_another_tokenizer_comes_with_its_own_checkpoint(tiny_series, tmp_path):
    series = tmp_path / "series"
    shutil.copytree(tiny_series, series)
    tokenizer = series / "checkpoint-10" / "tokenizer.json"
    tokenizer.write_text(tokenizer.read_text().replace('"river"', '"stream"'))
    with Models(new_sweep(series, tmp_path / "store"), Downloads(0)) as models:
        words = [models.take(index).tokenizer.convert_ids_to_tokens(11) for index in range(3)]
    assert words == ["river", "stream", "river"]


def test_what_is_stored_is_not_loaded(tiny_series, tmp_path, monkeypatch):
    list(work(new_sweep(tiny_series, tmp_path)))

    def forbidden(*_args, **_kwargs):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(Models, "take", forbidden)
    assert [outcome.computed for outcome in work(new_sweep(tiny_series, tmp_path))] == [0, 0, 0]


def test_behind_one_that_was_missing_what_is_stored_is_drawn_once_at_most(tiny_series, tmp_path, monkeypatch):
    list(work(new_sweep(tiny_series, tmp_path)))
    sweep = new_sweep(tiny_series, tmp_path)
    for task in sweep.tasks(0):
        shutil.rmtree(sweep.store.folder(task.name, task.key))
    drawn = []
    draw = Models._draw
    monkeypatch.setattr(Models, "_draw", lambda models, index: drawn.append(index) or draw(models, index))
    assert [outcome.computed for outcome in work(sweep)] == [len(MEASURES), 0, 0]
    assert drawn == [*([0] * len(MEASURES)), 1]


@pytest.fixture
def remote(tiny_series, tmp_path):
    """The tiny series as revisions of a hub repository, and a client that knows nothing yet."""
    folders = {f"step{c.step}": shutil.copytree(c.path, tmp_path / "hub" / c.name) for c in open_series(tiny_series)}
    state = Hub(folders)
    with connected(state, tmp_path / "cache"):
        yield state


def call(*arguments: object):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_run_and_diff_take_hub_references(remote, tiny_series, tmp_path):
    needles, haystack, facts = (tiny_series / name for name in ("needles.jsonl", "haystack.txt", "facts.jsonl"))
    asked = ["--needles", needles, "--haystack", haystack, "--facts", facts, "--length", 64, "--device", "cpu"]
    store = tmp_path / "store"
    done = call("run", f"{REPO}@step*", *asked, "--store", store, "--keep-downloads", 1)
    assert done.exit_code == 0, done.output
    assert [point.step for point in load_run(store, REPO)] == [0, 10, 100]
    weights = [request for request in remote.asked if request.startswith("GET") and "safetensors" in request]
    assert len(weights) == 3
    assert len(list((tmp_path / "cache").glob("*/snapshots/*/model.safetensors"))) < 3, "used revisions are dropped"

    both = call("diff", f"{REPO}@step0", f"{REPO}@step100", *asked, "--store", store, "--json")
    local = call("diff", f"{tiny_series}@0", f"{tiny_series}@100", *asked, "--store", store, "--json")
    here, there = json.loads(local.stdout), json.loads(both.stdout)
    assert both.exit_code == local.exit_code == 0, there["outcome"]
    assert there["outcome"] == here["outcome"] == "undecided", "six needles and eight facts that neither knows"
    assert there["a"]["results"] == here["a"]["results"], "the same weights are the same result, wherever they lie"
    assert there["heads"] == here["heads"]


def test_a_report_of_a_run_leaves_no_download_behind(remote, tiny_series, tmp_path):
    needles, haystack, facts = (tiny_series / name for name in ("needles.jsonl", "haystack.txt", "facts.jsonl"))
    asked = ["--needles", needles, "--haystack", haystack, "--facts", facts, "--length", 64, "--device", "cpu"]
    done = call("run", f"{REPO}@step*", *asked, "--store", tmp_path / "store", "--html", tmp_path / "report.html")
    assert done.exit_code == 0, done.output
    store = Store.open(tmp_path / "store")
    ends = [each for each in load_run(store, REPO) if each.step in {0, 100}]
    assert stored_transfer(ends, store) is not None
    assert not list((tmp_path / "cache").glob("*/snapshots/*/model.safetensors"))


def replace_weights(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    file = folder / "model.safetensors"
    save_file({name: 2 * tensor for name, tensor in load_file(file).items()}, folder / "new", {"format": "pt"})
    (folder / "new").replace(file)


def test_adaptive_steps_keep_as_many_downloads_as_are_asked_for(tiny_series, tmp_path):
    folder, folders = open_series(tiny_series).at(0).path, {}
    for step in range(6):
        folder = folders[f"step{step}"] = shutil.copytree(folder, tmp_path / "hub" / f"step{step}")
        replace_weights(folder)
    with connected(Hub(folders), tmp_path / "cache"):
        done = circuit_drift.run(
            f"{REPO}@step*",
            store=tmp_path / "store",
            prompts=prompts_of(tiny_series),
            measures=["heads"],
            placement=Placement(device="cpu"),
            progress=False,
            adaptive=5,
            keep_downloads=1,
        )
    assert len(done) == 5, "four to begin with, and one that is chosen by what they gave"
    assert len(list((tmp_path / "cache").glob("*/snapshots/*/model.safetensors"))) == 1


def test_a_checkpoint_that_is_replaced_while_it_is_measured_is_refused_and_stored_under_no_key(
    tiny_series, tmp_path, monkeypatch
):
    series = tmp_path / "series"
    shutil.copytree(tiny_series, series)
    compute = RetrievalMeasure.compute

    def replacing(measure, loaded, earlier):
        if loaded.checkpoint.step == 10:
            replace_weights(loaded.checkpoint.path)
        return compute(measure, loaded, earlier)

    monkeypatch.setattr(RetrievalMeasure, "compute", replacing)
    sweep = new_sweep(series, tmp_path / "store")
    outcomes = {outcome.index: outcome for outcome in work(sweep)}
    assert {name: index for index in outcomes for name in outcomes[index].failures} == dict.fromkeys(MEASURES, 1)
    assert "the files of checkpoint-10 changed while it was measured" in outcomes[1].failures["heads"]
    assert [len(outcomes[index].keys) for index in range(3)] == [len(MEASURES), 0, len(MEASURES)]
    monkeypatch.undo()
    assert [outcome.computed for outcome in work(new_sweep(series, tmp_path / "store"))] == [0, len(MEASURES), 0]


def test_a_checkpoint_that_is_replaced_between_its_hash_and_its_load_is_refused(tiny_series, tmp_path, monkeypatch):
    series = tmp_path / "series"
    shutil.copytree(tiny_series, series)
    take = Models.take
    replaced = []

    def late(models, index):
        if index == 1 and not replaced:
            replaced.append(index)
            replace_weights(series / "checkpoint-10")
        return take(models, index)

    monkeypatch.setattr(Models, "take", late)
    sweep = new_sweep(series, tmp_path / "store")
    outcomes = {outcome.index: outcome for outcome in work(sweep)}
    assert "the files of checkpoint-10 changed" in outcomes[1].failures["heads"]
    assert outcomes[1].keys == {}
    assert outcomes[2].failures == {}
