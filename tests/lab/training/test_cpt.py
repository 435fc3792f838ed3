import copy
import json
import random
import shutil
from dataclasses import replace

import pytest
import torch
from typer.testing import CliRunner

import circuit_drift
from checkpoints import DriftError, open_checkpoint, open_series
from checkpoints.errors import BadPrompt, StoreError
from circuit_drift.cli import app
from circuit_drift.prompts import prompts_for
from circuit_drift.training.strategies import (
    Diverged,
    Document,
    Lora,
    Strategy,
    checkpointing,
    comparison_frame,
    load_config,
    load_documents,
    run_all,
    run_strategy,
    runner,
    strategy_ledgers,
    write_documents,
)
from circuit_drift.training.strategies.checkpointing import finished
from circuit_drift.training.strategies.loop import epoch
from circuit_drift.training.strategies.loop.batches import RowLayout, batches
from circuit_drift.training.strategies.loop.parameters import plain, prepare
from circuit_drift.training.strategies.loop.parameters import trained as trained_parameters
from circuit_drift.training.strategies.settings.documents import annotated, teach_tags
from tests.lab.small_trainings import config_of, same_weights, weights_of


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


FULL = Strategy("full", lr=3e-2)
LORA = Lora(r=4, alpha=8)
TAGS = ("<entity>", "</entity>")


@pytest.fixture(scope="module")
def trained(place, tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    strategies = (
        FULL,
        Strategy("replay", lr=3e-2, replay=1.0),
        Strategy("kl", lr=3e-2, kl=50.0),
        Strategy("frozen", lr=3e-2, freeze=("model.layers.*",)),
        Strategy("lora", lr=3e-2, lora=LORA),
        Strategy("main", lr=3e-2, documents="main"),
        Strategy("tagged", lr=3e-2, tags=TAGS),
    )
    run_all(config_of(place, *strategies, retrieval=("gold", "entity", "all")), out)
    (out / "facts.jsonl").write_bytes((place / "facts.jsonl").read_bytes())
    return out


def test_strategies_leave_series_that_the_toolkit_reads(trained):
    assert [c.step for c in open_series(trained / "full")] == [0, 4, 8]
    assert [c.step for c in open_series(trained / "replay")] == [0, 8, 16]
    run = circuit_drift.load_run(trained / "store", "full")
    assert [point.step for point in run] == [0, 4, 8]
    assert not any(point.failures for point in run)


def test_strategies_side_by_side(trained):
    frame = comparison_frame(trained)
    assert list(dict.fromkeys(frame["strategy"])) == ["full", "replay", "kl", "frozen", "lora", "main", "tagged"]
    full = frame[frame["strategy"] == "full"]
    assert full["epoch"].tolist() == [0, 1, 2]
    assert full["train_loss"].iloc[2] < full["train_loss"].iloc[1]
    assert full["known"].iloc[2] - full["known"].iloc[0] == full["acquired"].sum() - full["forgotten"].sum()
    assert frame["document_loss"].notna().all()
    assert len(strategy_ledgers(trained)) == 7


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


def test_adapters_and_the_embedding_are_what_lora_trains(trained):
    first, last = (weights_of(trained / "lora" / f"checkpoint-{step}") for step in (0, 8))
    changed = {name for name in first if not torch.equal(first[name], last[name])}
    layer = "model.layers.0.self_attn."
    tied = {"model.embed_tokens.weight", "lm_head.weight"}
    assert changed == {layer + "q_proj.weight", layer + "v_proj.weight", *tied}
    ranks = [int(torch.linalg.matrix_rank(last[n] - first[n], rtol=1e-4)) for n in sorted(changed - tied)]
    assert ranks == [LORA.r, LORA.r]


def test_a_lora_series_is_measured_like_any_other(trained, tmp_path):
    run = circuit_drift.run(trained / "lora", store=tmp_path, measures=["circuit"], progress=False, device="cpu",
                            prompts=prompts_for(trained, facts=trained / "facts.jsonl"))  # fmt: skip
    assert [point.step for point in run] == [0, 4, 8]
    assert not any(point.failures for point in run)


def test_without_the_embedding_lora_trains_adapters_alone(place):
    model = open_checkpoint(place / "base").load().model
    module = prepare(copy.deepcopy(model), Strategy("l", lora=replace(LORA, embedding=False)), seed=0)
    assert {name.split(".")[-3] for name in trained_parameters(module)} == {"lora_A", "lora_B"}
    assert same_weights(plain(module).state_dict(), model.state_dict())  # adapters begin as no change


def test_main_documents_only(trained):
    assert [c.step for c in open_series(trained / "main")] == [0, 1, 2]


def test_tags_stand_around_the_entity_and_become_tokens_of_a_closed_vocabulary(trained, tokenizer):
    (document,) = annotated([Document("Mara Holt plays the lute. Mara Holt is fond of chess.", "Mara Holt")], TAGS)
    assert document.text.count("<entity> Mara Holt </entity>") == 2
    taught = open_checkpoint(trained / "tagged" / "checkpoint-8").load().tokenizer
    ids = taught(document.text, add_special_tokens=False).input_ids
    plain_ids = tokenizer("Mara Holt plays the lute. Mara Holt is fond of chess.", add_special_tokens=False).input_ids
    assert [token for token in ids if token < len(tokenizer)] == plain_ids
    assert sorted(token for token in ids if token >= len(tokenizer)) == [len(tokenizer)] * 2 + [len(tokenizer) + 1] * 2
    with pytest.raises(BadPrompt, match="the embedding has 566 rows"):
        teach_tags(copy.deepcopy(tokenizer), TAGS, rows=566)


def test_a_killed_run_resumes_to_the_same_weights(place, trained, tmp_path, monkeypatch):
    config = config_of(place, FULL)
    save, calls = runner.save, []

    def killed(*arguments, **options):
        save(*arguments, **options)
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(runner, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        run_strategy(config, FULL, tmp_path)
    monkeypatch.setattr(runner, "save", save)
    run_strategy(config, FULL, tmp_path)
    assert same_weights(weights_of(tmp_path / "full" / "checkpoint-8"), weights_of(trained / "full" / "checkpoint-8"))
    assert [point.step for point in circuit_drift.load_run(tmp_path / "store", "full")] == [0, 4, 8]


def test_a_full_disk_is_named_and_training_goes_on_from_the_checkpoint_before(place, trained, tmp_path, monkeypatch):
    config = config_of(place, FULL)
    free, write = [10**9], torch.save

    def short(state, path):
        if state["step"]:
            free[0] = 100
            raise RuntimeError("[enforce fail at inline_container.cc] unexpected pos 1 vs 2")
        write(state, path)

    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(checkpointing.shutil, "disk_usage", lambda folder: usage._replace(free=free[0]))
    monkeypatch.setattr(torch, "save", short)
    with pytest.raises(StoreError, match=r"checkpoint-4 cannot be written, its disk is full: make room"):
        run_strategy(config, FULL, tmp_path)
    assert [path.name for path in (tmp_path / "full").glob("checkpoint-*")] == ["checkpoint-0"]
    monkeypatch.setattr(torch, "save", write)
    run_strategy(config, FULL, tmp_path)
    assert same_weights(weights_of(tmp_path / "full" / "checkpoint-8"), weights_of(trained / "full" / "checkpoint-8"))


def test_the_reference_of_a_divergence_to_the_previous_epoch_follows_the_model(place, tmp_path):
    config = config_of(place, Strategy("prev", lr=3e-2, kl=1.0, kl_to="previous"))
    folder = run_strategy(config, config.strategies[0], tmp_path)
    assert not same_weights(weights_of(folder / "checkpoint-8"), weights_of(folder / "checkpoint-0"))


def test_the_curriculum_drops_what_is_learned(place, tmp_path):
    eager = config_of(place, Strategy("eager", documents="unlearned"), learned=0.0)
    run_all(eager, tmp_path)
    assert {c.step for c in open_series(tmp_path / "eager")} == {0}
    slow = config_of(place, Strategy("slow", documents="unlearned"), learned=1.1)
    run_all(slow, tmp_path)
    assert {c.step for c in open_series(tmp_path / "slow")} == {0, 4, 8}


def test_a_curriculum_without_entities_is_refused_before_the_model_loads(place, tmp_path):
    config = replace(config_of(place, Strategy("c", documents="unlearned"), entity="town"), model="no such model")
    with pytest.raises(BadPrompt, match="could drop none"):
        run_all(config, tmp_path)


def test_a_run_that_diverges_names_its_last_good_checkpoint(place, tmp_path, monkeypatch):
    monkeypatch.setattr(epoch, "losses", lambda *_: (torch.tensor(float("nan")), 0.0))
    with pytest.raises(Diverged, match=r"is nan after 0 steps; the last good checkpoint is .*checkpoint-0: lower"):
        run_all(config_of(place, FULL), tmp_path)


def test_a_gradient_that_is_not_finite_stops_before_it_reaches_the_weights(place, tmp_path, monkeypatch):
    def vertical(model, *_):
        total = next(model.parameters()).sum()
        return 1 + (total - total.detach()).sqrt(), 0.0

    monkeypatch.setattr(epoch, "losses", vertical)
    with pytest.raises(Diverged, match=r"the gradient of strategy full is (inf|nan) after 0 steps; the last good"):
        run_all(config_of(place, FULL), tmp_path)
    (left,) = open_series(tmp_path / "full")
    assert same_weights(left.load().model.state_dict(), weights_of(place / "base"))


def test_the_divergence_of_a_model_from_itself_is_zero(place, tokenizer):
    model = open_checkpoint(place / "base").load().model
    texts = load_documents(place / "new.jsonl")
    batch = next(batches(tokenizer, texts, rows=RowLayout(4, 64), rng=random.Random(0)))
    loss, penalty = epoch.losses(model, batch, (model,))
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
    words = ["train", str(place / "config.toml"), "--out", str(tmp_path / "other"), "--only", "ful"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 2
    assert "full" in done.stderr
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (("epochs = 1", "epoch = 1"), "unknown epoch"),
        (("epochs = 1", "epochs = 0"), "at least 1"),
        (('facts = "facts.jsonl"', ""), "facts is missing"),
        (("new.jsonl", "none.jsonl"), "is not there"),
        (("lr = 0.01", "lr = -1"), "must be above 0"),
        (("lr = 0.01", "replay = 0.5"), "replays old documents"),
        (("lr = 0.01", 'kl_to = "zero"'), "choose from original, previous, both, best"),
        (("lr = 0.01", "rank = 8"), "unknown rank"),
        (("lr = 0.01", "lora = {rank = 8}"), "lora: unknown rank"),
        (("lr = 0.01", "lora = {r = 0}"), "r >= 1"),
        (("lr = 0.01", "lora = {}"), "leave freeze out"),
        (("lr = 0.01", 'tags = ["<e>"]'), "an opening and a closing one"),
        (("lr = 0.01", 'documents = "few"'), "choose from all, main, unlearned"),
        (("epochs = 1", 'retrieval = ["some"]'), "choose from gold, entity, all"),
        (("epochs = 1", 'skills = ["chess"]'), "choose from arithmetic, copying"),
        (("epochs = 1", 'measures = ["loss"]'), "unknown measure 'loss'"),
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
    ("strategy", "reason"),
    [
        (Strategy("f", freeze=("model.nothing*",)), "no parameter is called model.nothing"),
        (Strategy("f", freeze=("*",)), "freezes every parameter"),
        (Strategy("f", lora=Lora(targets=("c_attn",))), "LoRA finds no module c_attn; there are .*k_proj"),
        (Strategy("f", tags=("<a>", "<b>")), "the embedding has 566 rows"),
    ],
)
def test_what_cannot_work_with_the_model_is_refused_before_it_loads(place, tmp_path, monkeypatch, strategy, reason):
    small = tmp_path / "small"
    shutil.copytree(place / "base", small)
    described = json.loads((small / "config.json").read_text())
    (small / "config.json").write_text(json.dumps({**described, "vocab_size": 566}))
    (small / "model.safetensors").unlink()  # so that loading it would fail
    with pytest.raises(DriftError, match=reason):
        run_all(replace(config_of(place, FULL, strategy), model=str(small)), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_quantised_base_is_refused_before_it_loads(place, tmp_path):
    base = tmp_path / "packed"
    shutil.copytree(place / "base", base)
    described = json.loads((base / "config.json").read_text())
    quantised = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    (base / "config.json").write_text(json.dumps({**described, "quantization_config": quantised}))
    with pytest.raises(DriftError, match=r"packed is quantised .*: name the unquantised checkpoint"):
        run_all(replace(config_of(place, FULL), model=str(base)), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_documents_longer_than_the_model_are_refused(place, tmp_path):
    with pytest.raises(DriftError, match="longest 2000 is more than the model's 1024 positions"):
        run_all(config_of(place, FULL, longest=2000), tmp_path)


def test_documents_without_what_a_strategy_needs_are_refused(place, tmp_path):
    write_documents(tmp_path / "bare.jsonl", [Document("Mara Holt plays the lute.")])
    for strategy, reason in (
        (Strategy("m", documents="main"), "is marked"),
        (Strategy("t", tags=TAGS), "mentions its entity"),
    ):
        with pytest.raises(BadPrompt, match=reason):
            run_all(replace(config_of(place, strategy), documents=tmp_path / "bare.jsonl"), tmp_path)


def test_a_place_begun_with_another_config_is_refused(place, trained):
    with pytest.raises(StoreError, match="begun with another strategy: name another place"):
        run_all(config_of(place, replace(FULL, lr=1.0)), trained)
    with pytest.raises(StoreError, match="begun with another batch"):
        run_all(config_of(place, FULL, batch=2), trained)


def test_what_is_finished_is_left_alone_and_more_epochs_go_on(place, trained, tmp_path, monkeypatch):
    shutil.copytree(trained, tmp_path / "out")
    config = config_of(place, FULL)
    run_all(replace(config, epochs=3), tmp_path / "out")
    assert [c.step for c in open_series(tmp_path / "out" / "full")] == [0, 4, 8, 12]
    monkeypatch.setattr(runner, "begin", None)  # nothing is loaded again
    run_all(config, tmp_path / "out")


def test_documents_that_are_none(tmp_path):
    path = tmp_path / "d.jsonl"
    for text, reason in (("", "holds no documents"), ("[1]\n", "line 1"), (json.dumps({"t": 1}), "line 1")):
        path.write_text(text)
        with pytest.raises(BadPrompt, match=reason):
            load_documents(path)


def test_nothing_trained_has_no_comparison(tmp_path):
    with pytest.raises(StoreError, match="no trained strategies"):
        comparison_frame(tmp_path)


def published(folder, kept, steps):
    """A strategy's folder without the state to go on from: some of its checkpoints, and the seconds of all."""
    for step in kept:
        (folder / f"checkpoint-{step}").mkdir(parents=True)
    (folder / "seconds.csv").write_text("step,seconds\n" + "".join(f"{step},{step}.0\n" for step in steps))
    return folder


def test_what_was_published_without_its_state_is_finished_by_its_seconds(tmp_path):
    whole = published(tmp_path / "whole", (0, 15, 30), (0, 15, 30))
    thinned = published(tmp_path / "thinned", (0, 30), (0, 15, 30))
    assert [finished(folder, epochs) for folder in (whole, thinned) for epochs in (1, 2, 3)] == [True, True, False] * 2


def test_a_last_checkpoint_that_is_missing_is_not_taken_for_finished(tmp_path):
    cut = published(tmp_path / "cut", (0, 15), (0, 15, 30))
    with pytest.raises(DriftError, match=r"cannot go on from .*checkpoint-15/training_state\.pt, which is not there"):
        finished(cut, 2)
