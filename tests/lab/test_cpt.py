import json
from dataclasses import replace

import pytest
import torch
from typer.testing import CliRunner

import circuit_drift
from checkpoints import BadPrompt, DriftError, StoreError, open_checkpoint, open_series
from circuit_drift.cli import app
from circuit_drift.lab import probes
from circuit_drift.lab.build import save_checkpoint
from circuit_drift.lab.cpt import (
    Config,
    Diverged,
    Strategy,
    comparison_frame,
    lab_documents,
    load_config,
    load_documents,
    run_all,
    run_strategy,
    runner,
    strategy_ledgers,
    write_documents,
)
from circuit_drift.lab.train import build_model


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def place(tiny_recipe, tokenizer, world, tmp_path_factory):
    """A model, new documents, old documents and facts."""
    folder = tmp_path_factory.mktemp("cpt")
    save_checkpoint(folder / "base", build_model(tiny_recipe, tokenizer), tokenizer)
    people = dict.fromkeys(fact.person for fact in world.batch(1))
    new = [fact for fact in world.batch(1) if fact.person in list(people)[:4]]
    write_documents(folder / "new.jsonl", lab_documents(new, per_person=4))
    write_documents(folder / "old.jsonl", lab_documents(world.controls[:20], per_person=2))
    probes.write_jsonl(folder / "facts.jsonl", _facts(new, world))
    return folder


def _facts(new, world):
    for fact in new:
        rival = next(f for f in world.batch(1) if f.relation == fact.relation and f.value != fact.value)
        labels = {"person": fact.person.name, "class": fact.kind}
        yield {"clean": fact.prompts[0], "corrupt": rival.prompts[0], "answer": fact.value, "wrong": rival.value} | {
            "labels": labels
        }


def config_of(place, *strategies, **options):
    options = {"replay": place / "old.jsonl", "epochs": 2, "batch": 4, "entity": "person", **options}
    return Config(str(place / "base"), place / "new.jsonl", place / "facts.jsonl", strategies, **options)


def weights_of(folder):
    return open_checkpoint(folder).load().model.state_dict()


def same(a, b):
    return all(torch.equal(a[name], b[name]) for name in a)


FULL = Strategy("full", lr=3e-2)


@pytest.fixture(scope="module")
def trained(place, tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    strategies = (
        FULL,
        Strategy("replay", lr=3e-2, replay=1.0),
        Strategy("kl", lr=3e-2, kl=50.0),
        Strategy("frozen", lr=3e-2, freeze=("model.layers.*",)),
    )
    run_all(config_of(place, *strategies), out)
    return out


def test_strategies_leave_series_that_the_toolkit_reads(trained):
    assert [c.step for c in open_series(trained / "full")] == [0, 4, 8]
    assert [c.step for c in open_series(trained / "replay")] == [0, 8, 16]
    run = circuit_drift.load_run(trained / "store", "full")
    assert [point.step for point in run] == [0, 4, 8]
    assert not any(point.failures for point in run)


def test_strategies_side_by_side(trained):
    frame = comparison_frame(trained)
    assert list(dict.fromkeys(frame["strategy"])) == ["full", "replay", "kl", "frozen"]
    full = frame[frame["strategy"] == "full"]
    assert full["epoch"].tolist() == [0, 1, 2]
    assert full["train_loss"].iloc[2] < full["train_loss"].iloc[1]
    assert full["known"].iloc[2] - full["known"].iloc[0] == full["acquired"].sum() - full["forgotten"].sum()
    assert set(strategy_ledgers(trained)) == {"full", "replay", "kl", "frozen"}


def test_a_strong_divergence_term_holds_the_model_where_it_was(trained):
    def moved(name):
        first, last = (weights_of(trained / name / f"checkpoint-{step}") for step in (0, 8))
        return sum(float((first[key] - last[key]).square().sum()) for key in first)

    frame = comparison_frame(trained).set_index(["strategy", "epoch"])
    assert frame.loc[("kl", 2), "train_loss"] > frame.loc[("full", 2), "train_loss"]
    assert moved("kl") != moved("full")


def test_frozen_parameters_stay(trained):
    first, last = (weights_of(trained / "frozen" / f"checkpoint-{step}") for step in (0, 8))
    changed = {name for name in first if not torch.equal(first[name], last[name])}
    assert changed and not any("layers" in name for name in changed)


def test_a_killed_run_resumes_to_the_same_weights(place, trained, tmp_path, monkeypatch):
    config = config_of(place, FULL)
    save, calls = runner._save, []

    def killed(*arguments):
        save(*arguments)
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(runner, "_save", killed)
    with pytest.raises(KeyboardInterrupt):
        run_strategy(config, FULL, tmp_path)
    monkeypatch.setattr(runner, "_save", save)
    run_strategy(config, FULL, tmp_path)
    assert same(weights_of(tmp_path / "full" / "checkpoint-8"), weights_of(trained / "full" / "checkpoint-8"))
    assert [point.step for point in circuit_drift.load_run(tmp_path / "store", "full")] == [0, 4, 8]


def test_the_reference_of_a_divergence_to_the_previous_epoch_follows_the_model(place, tmp_path):
    config = config_of(place, Strategy("prev", lr=3e-2, kl=1.0, kl_to="previous"))
    folder = run_strategy(config, config.strategies[0], tmp_path)
    assert not same(weights_of(folder / "checkpoint-8"), weights_of(folder / "checkpoint-0"))


def test_the_curriculum_drops_what_is_learned(place, tmp_path):
    eager = config_of(place, Strategy("eager", curriculum=True), learned=0.0)
    run_all(eager, tmp_path)
    assert {c.step for c in open_series(tmp_path / "eager")} == {0}
    slow = config_of(place, Strategy("slow", curriculum=True), learned=1.1)
    run_all(slow, tmp_path)
    assert {c.step for c in open_series(tmp_path / "slow")} == {0, 4, 8}


def test_a_curriculum_without_entities_is_refused_before_the_model_loads(place, tmp_path):
    config = replace(config_of(place, Strategy("c", curriculum=True), entity="town"), model="no such model")
    with pytest.raises(BadPrompt, match="could drop none"):
        run_all(config, tmp_path)


def test_a_run_that_diverges_names_its_last_good_checkpoint(place, tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "_losses", lambda *_: (torch.tensor(float("nan")), 0.0))
    with pytest.raises(Diverged, match=r"is nan after 0 steps; the last good checkpoint is .*checkpoint-0: lower"):
        run_all(config_of(place, FULL), tmp_path)


def test_the_divergence_of_a_model_from_itself_is_zero(place, tokenizer):
    model = open_checkpoint(place / "base").load().model
    texts = load_documents(place / "new.jsonl")
    import random

    from circuit_drift.lab.cpt.documents import batches

    batch = next(batches(tokenizer, texts, size=4, longest=64, rng=random.Random(0)))
    loss, penalty = runner._losses(model, batch, model)
    assert float(penalty) == pytest.approx(0.0, abs=1e-6)
    assert float(loss) == pytest.approx(float(model(input_ids=batch.ids, labels=batch.labels).loss), rel=1e-5)


CONFIG = """
model = "base"
documents = "new.jsonl"
facts = "facts.jsonl"
epochs = 1
[[strategy]]
name = "full"
lr = 0.01
freeze = ["model.embed*"]
"""


def test_configs_are_read_and_run(place, tmp_path):
    (place / "config.toml").write_text(CONFIG)
    config = load_config(place / "config.toml")
    assert config.strategies == (Strategy("full", lr=0.01, freeze=("model.embed*",)),)
    done = CliRunner().invoke(app, ["train", str(place / "config.toml"), "--out", str(tmp_path)])
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("strategy,epoch,step,")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (("epochs = 1", "epoch = 1"), "unknown epoch"),
        (("epochs = 1", "epochs = 0"), "at least 1"),
        (('facts = "facts.jsonl"', ""), "facts is missing"),
        (("new.jsonl", "none.jsonl"), "is not there"),
        (("lr = 0.01", "lr = -1"), "must be above 0"),
        (("lr = 0.01", "replay = 0.5"), "replays old documents"),
        (("lr = 0.01", 'kl_to = "zero"'), "original or previous"),
        (("lr = 0.01", "rank = 8"), "unknown rank"),
        (('"full"', '"../up"'), "names a folder"),
        (("[[strategy]]", "[strategy"), "cannot read the config"),
    ],
)
def test_configs_that_cannot_work_are_refused(place, change, reason):
    (place / "bad.toml").write_text(CONFIG.replace(*change))
    with pytest.raises(DriftError, match=reason):
        load_config(place / "bad.toml")


def test_an_error_is_one_sentence_on_the_command_line(tmp_path):
    done = CliRunner().invoke(app, ["train", str(tmp_path / "none.toml"), "--out", str(tmp_path)])
    assert done.exit_code == 2
    assert "cannot read the config" in done.stderr


@pytest.mark.parametrize(
    ("freeze", "reason"), [(("model.nothing*",), "no parameter is called"), (("*",), "freezes every parameter")]
)
def test_freezing_that_makes_no_sense_is_refused(place, tmp_path, freeze, reason):
    with pytest.raises(DriftError, match=reason):
        run_all(config_of(place, Strategy("f", freeze=freeze)), tmp_path)


def test_documents_that_are_none(tmp_path):
    path = tmp_path / "d.jsonl"
    for text, reason in (("", "holds no documents"), ("[1]\n", "line 1"), (json.dumps({"t": 1}), "line 1")):
        path.write_text(text)
        with pytest.raises(BadPrompt, match=reason):
            load_documents(path)


def test_nothing_trained_has_no_comparison(tmp_path):
    with pytest.raises(StoreError, match="no trained strategies"):
        comparison_frame(tmp_path)
