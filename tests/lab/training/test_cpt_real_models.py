"""What training needs for real models: adapters alone, precision, packing, longer contexts, references."""

import copy
import json
import random
from dataclasses import replace

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaForCausalLM

import circuit_drift
from checkpoints import DriftError, open_checkpoint, open_series
from checkpoints.errors import BadPrompt
from checkpoints.model.rope import context_of
from circuit_drift.behaviour.gauges import Reading
from circuit_drift.behaviour.harness import HarnessMeasure
from circuit_drift.training.strategies import (
    AnswerSettings,
    Lora,
    Rope,
    Strategy,
    comparison_frame,
    load_config,
    load_documents,
    run_all,
    runner,
)
from circuit_drift.training.strategies.checks import check
from circuit_drift.training.strategies.gauges import Tasks, gauges_of
from circuit_drift.training.strategies.loop import epoch
from circuit_drift.training.strategies.loop.adapters import base_name
from circuit_drift.training.strategies.loop.batches import IGNORED, RowLayout, batches, require_apart
from circuit_drift.training.strategies.loop.losses import losses, targets_in
from circuit_drift.training.strategies.loop.parameters import own_copy, plain, prepare, recompute_activations
from circuit_drift.training.strategies.loop.parameters import trained as trained_parameters
from circuit_drift.training.strategies.loop.rope import roped, with_rope
from circuit_drift.training.strategies.settings.config import Circuits
from circuit_drift.training.strategies.settings.documents import token_ids
from tests.lab.small_trainings import config_of, same_weights, weights_of

pytest.importorskip("peft")
pytestmark = pytest.mark.usefixtures("one_thread")
ADAPTERS = Strategy("lora", lr=3e-2, lora=Lora(r=4, alpha=8, embedding=False, dropout=0.1))


@pytest.fixture(scope="module")
def base(place):
    return open_checkpoint(place / "base").load().model


@pytest.fixture(scope="module")
def texts(place):
    return load_documents(place / "new.jsonl")


class Seen:
    """A gauge that keeps what it was shown."""

    name = "seen"

    def __init__(self):
        self.weights = []

    def read(self, loaded):
        self.weights.append({name: tensor.clone() for name, tensor in loaded.model.state_dict().items()})
        return Reading({"layers": 1.0})


@pytest.fixture(scope="module")
def adapted(place, tmp_path_factory):
    out, seen = tmp_path_factory.mktemp("adapted"), Seen()
    run_all(config_of(place, ADAPTERS, precision="mixed", accumulate=2, batch=2), out, gauges=(seen,))
    return out, seen


def test_a_checkpoint_of_adapters_holds_nothing_else_and_is_what_was_probed(adapted, place):
    out, seen = adapted
    folders = [checkpoint.path for checkpoint in open_series(out / "lora")]
    assert [
        sorted(path.name for path in folder.iterdir() if path.name != "training_state.pt") for folder in folders
    ] == [["adapter_config.json", "adapter_model.safetensors"]] * 3
    for checkpoint, shown in zip(open_series(out / "lora"), seen.weights, strict=True):
        loaded = checkpoint.load()
        assert same_weights(loaded.model.state_dict(), shown)
        assert loaded.tokenizer is not None
    assert same_weights(weights_of(folders[0]), weights_of(place / "base"))
    assert not same_weights(seen.weights[1], seen.weights[2])


def test_the_log_tells_documents_and_seconds(adapted):
    frame = comparison_frame(adapted[0])
    assert frame["documents"].tolist() == [0, 16, 32]
    assert frame["seconds"].iloc[0] == 0 < frame["seconds"].iloc[1] < frame["seconds"].iloc[2]


def test_training_in_mixed_precision_resumes_to_the_same_adapters_with_and_without_probes(
    adapted, place, tmp_path, monkeypatch
):
    config = config_of(place, ADAPTERS, precision="mixed", accumulate=2, batch=2)
    save = runner.save

    def killed(folder, progress, *arguments):
        save(folder, progress, *arguments)
        if progress.epoch == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(runner, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        run_all(config, tmp_path)
    monkeypatch.setattr(runner, "save", save)
    run_all(config, tmp_path)
    files = [place / "lora" / "checkpoint-8" / "adapter_model.safetensors" for place in (tmp_path, adapted[0])]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_a_strategys_own_seed_stands_in_place_of_the_configs(adapted, place, tmp_path):
    config = config_of(place, replace(ADAPTERS, seed=0), precision="mixed", accumulate=2, batch=2, seed=5, epochs=1)
    run_all(config, tmp_path)
    files = [place / "lora" / "checkpoint-4" / "adapter_model.safetensors" for place in (tmp_path, adapted[0])]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_adapters_name_a_base_that_moves_with_them_by_its_place(tmp_path):
    assert base_name(tmp_path / "out" / "base", tmp_path / "out" / "lora") == "../base"
    assert base_name(tmp_path / "model", tmp_path / "out" / "lora") == str((tmp_path / "model").resolve())


def test_adapters_share_the_base_in_memory(base):
    module = prepare(own_copy(base, ADAPTERS), ADAPTERS, seed=0)
    places = {parameter.data_ptr() for parameter in base.parameters()}
    assert all(p.data_ptr() in places for p in module.parameters() if not p.requires_grad)
    before = copy.deepcopy(base.state_dict())
    with torch.no_grad():
        for parameter in trained_parameters(module).values():
            parameter.add_(0.5)
    merged = plain(module)
    assert not same_weights(before, merged.state_dict())
    assert same_weights(before, base.state_dict())


def step(base, texts, tokenizer, **options):
    """The weights and the loss after one optimizer step."""
    strategy = Strategy("one", lr=1e-2)
    model = prepare(copy.deepcopy(base), strategy, seed=0)
    if options.pop("recompute", False):
        recompute_activations(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=strategy.lr)
    progress = epoch.TrainingState(model, optimizer)
    config = replace(options.pop("config"), **options)
    loss = epoch.train_epoch(config, strategy, texts, progress, tokenizer, references=(), last_good=None)
    return loss, {name: tensor.clone() for name, tensor in model.state_dict().items()}, progress


def test_gradients_of_several_passes_are_those_of_one(base, texts, tokenizer, place):
    config = config_of(place, Strategy("one"), batch=8)
    loss, whole, progress = step(base, texts[:8], tokenizer, config=config)
    parts_loss, parts, _ = step(base, texts[:8], tokenizer, config=config, batch=2, accumulate=4)
    assert progress.step == 1
    assert parts_loss == pytest.approx(loss, rel=1e-5)
    moved = {name: (whole[name] - base.state_dict()[name]).abs().max() for name in whole}
    assert all(float((whole[name] - parts[name]).abs().max()) < 0.02 * float(moved[name]) + 1e-6 for name in whole)


def test_recomputed_activations_change_no_weight(base, texts, tokenizer, place):
    config = config_of(place, Strategy("one"), batch=8)
    _, kept, _ = step(base, texts[:8], tokenizer, config=config)
    _, again, _ = step(base, texts[:8], tokenizer, config=config, recompute=True)
    assert same_weights(kept, again)


def test_packed_rows_hold_every_document_once_and_give_its_own_loss(base, texts, tokenizer):
    rows = RowLayout(2, 96, packing=True)
    packed = list(batches(tokenizer, texts, rows=rows, rng=random.Random(0)))
    alone = list(batches(tokenizer, texts, rows=RowLayout(1, 96), rng=random.Random(0)))
    assert sum(batch.documents for batch in packed) == len(texts)
    assert max(batch.ids.shape[1] for batch in packed) <= 96
    told = sorted(tuple(token_ids(tokenizer, text)[1:]) for text in texts)
    assert sum(targets_in(batch) for batch in packed) == sum(map(len, told))

    def nll(found):
        with torch.no_grad():
            return sum(float(losses(base, batch, ())[0]) * targets_in(batch) for batch in found)

    assert nll(packed) == pytest.approx(nll(alone), rel=1e-5)
    padded = sum(batch.mask.numel() for batch in batches(tokenizer, texts, rows=RowLayout(2, 96), rng=random.Random(0)))
    assert sum(batch.mask.sum() for batch in packed) / sum(batch.mask.numel() for batch in packed) > 0.8
    assert sum(batch.mask.numel() for batch in packed) < padded
    assert (packed[0].labels[packed[0].positions == 0] == IGNORED).all()


def test_a_model_that_mixes_the_documents_of_a_row_is_refused(base):
    require_apart(base)

    class Blind(LlamaForCausalLM):
        def forward(self, *arguments, position_ids=None, **options):
            return super().forward(*arguments, **options)

    with pytest.raises(DriftError, match="Blind does not keep the documents of a packed row apart"):
        require_apart(Blind(base.config).eval())


def test_a_long_document_is_cut_or_split(tokenizer, texts):
    whole = token_ids(tokenizer, texts[0])
    kinds = [RowLayout(9, 5, cut) for cut in ("drop", "split")]
    dropped, split = (next(batches(tokenizer, texts[:1], rows=rows, rng=random.Random(0))) for rows in kinds)
    assert dropped.ids.tolist() == [whole[:5]]
    assert [
        token for row, kept in zip(split.ids, split.mask, strict=True) for token in row[kept == 1].tolist()
    ] == whole


def test_weights_in_bfloat16_are_trained_as_adapters(place, tmp_path):
    run_all(config_of(place, ADAPTERS, precision="bfloat16", epochs=1), tmp_path)
    frame = comparison_frame(tmp_path)
    assert frame["document_loss"].iloc[1] < frame["document_loss"].iloc[0]


ROPES = {
    "raised": (Rope(theta=5e5, positions=2048), {"rope_type": "default", "rope_theta": 5e5}),
    "linear": (Rope(type="linear", factor=4.0, positions=2048), {"rope_type": "linear", "factor": 4.0}),
    "NTK": (Rope(type="dynamic", factor=2.0), {"rope_type": "dynamic", "factor": 2.0}),
    "YaRN": (Rope(type="yarn", factor=4.0, theta=1e5), {"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e5}),
}


@pytest.mark.parametrize("kind", ROPES)
def test_rotary_positions_are_those_that_transformers_makes_of_the_config(base, kind, tmp_path):
    rope, wanted = ROPES[kind]
    changed = with_rope(base, rope)
    assert changed.config.rope_parameters.items() >= wanted.items()
    assert ("original_max_position_embeddings" in changed.config.rope_parameters) == (kind == "YaRN")
    assert same_weights(base.state_dict(), changed.state_dict())
    changed.save_pretrained(tmp_path)
    fresh = LlamaForCausalLM.from_pretrained(tmp_path).eval()
    ids = torch.arange(1, 40)[None]
    with torch.no_grad():
        assert torch.equal(fresh(ids).logits, changed(ids).logits)
        assert not torch.allclose(base(ids).logits, changed(ids).logits) or kind == "NTK"  # which waits for length
    assert base.config.rope_parameters["rope_type"] == "default"


def test_dynamic_scaling_reaches_beyond_the_positions_and_remembers_no_longer_text(base):
    """As transformers has it: nothing changes up to the positions, and from there on the base grows with length."""
    small = copy.deepcopy(base)
    small.config.max_position_embeddings = 32
    changed = with_rope(small, Rope(type="dynamic", factor=2.0))
    assert (context_of(small.config), context_of(changed.config)) == (32, 64)
    short, long = torch.arange(1, 33)[None], torch.arange(1, 49)[None]
    with torch.no_grad():
        assert torch.equal(changed(short).logits, base(short).logits)
        scaled = changed(long).logits
        assert not torch.allclose(scaled, base(long).logits, atol=1e-4)
        changed(torch.arange(1, 61)[None])
        assert torch.equal(changed(long).logits, scaled)


def test_what_has_no_rotary_positions_is_refused():
    with pytest.raises(DriftError, match="a gpt2 has no rotary positions"):
        roped(GPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=8, n_head=1, vocab_size=8)).config, Rope(theta=1e6))


def test_a_longer_context_is_trained_by_rising_lengths_and_kept_in_the_config(place, tmp_path):
    longer = Strategy(
        "longer", lr=1e-2, rope=Rope(theta=1e6, positions=4096), lengths=(32, 64), lora=Lora(r=2, embedding=False)
    )
    run_all(config_of(place, longer, packing=True, cut="split", longest=32), tmp_path)
    series = open_series(tmp_path / "longer")
    assert [checkpoint.config["max_position_embeddings"] for checkpoint in series] == [4096] * 3
    assert all((checkpoint.path / "model.safetensors").is_file() for checkpoint in series)
    first, second = series[1].step, series[2].step - series[1].step
    assert first > second  # twice the row, half the steps


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"lengths": (64, 2000)}, "lengths 2000 is more than the model's 1024 positions"),
        ({"lengths": (64, 5000), "rope": Rope(theta=1e6, positions=4096)}, "lengths 5000 is more than .* 4096"),
    ],
)
def test_lengths_beyond_the_positions_are_refused(place, tmp_path, change, reason):
    with pytest.raises(DriftError, match=reason):
        run_all(config_of(place, Strategy("long", **change)), tmp_path)


def test_the_divergence_of_jensen_and_shannon_is_symmetric_and_bounded(base, texts, tokenizer):
    batch = next(batches(tokenizer, texts, rows=RowLayout(4, 64), rng=random.Random(0)))
    other = copy.deepcopy(base)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(3)
        there, back = (float(losses(*pair, "js")[1]) for pair in ((base, batch, (other,)), (other, batch, (base,))))
        itself = float(losses(base, batch, (base,), "js")[1])
        kl = float(losses(base, batch, (other,))[1])
        both = float(losses(base, batch, (base, other))[1])
    assert there == pytest.approx(back, rel=1e-4)
    assert 0 < there < 0.6932
    assert itself == pytest.approx(0, abs=1e-6)
    assert both == pytest.approx(kl / 2, rel=1e-5)


@pytest.mark.parametrize("reference", ["both", "best"])
def test_a_divergence_from_several_models_resumes_to_the_same_weights(place, tmp_path, monkeypatch, reference):
    held = replace(ADAPTERS, name="held", kl=1.0, kl_to=reference, divergence="js")
    config = config_of(place, held, epochs=3, longest=24)
    run_all(config, tmp_path / "whole")
    run_all(replace(config, epochs=2), tmp_path / "parts")
    run_all(config, tmp_path / "parts")
    files = [tmp_path / name / "held" / "checkpoint-12" / "adapter_model.safetensors" for name in ("whole", "parts")]
    assert files[0].read_bytes() == files[1].read_bytes()


TOML = """
model = "base"
documents = "new.jsonl"
facts = "questions.jsonl"
epochs = 1
choices = "choices.jsonl"
unit = "person"
entity = "person"
[answers]
score = "rouge1"
new_tokens = 4
instruction = "Answer in few words. "
[[strategy]]
name = "lora"
lr = 0.01
lora = {r = 2, embedding = false}
[strategy.rope]
theta = 20000.0
"""


def test_whole_answers_and_choices_are_asked_from_the_config(place, tmp_path):
    facts = [json.loads(line) for line in (place / "facts.jsonl").read_text().splitlines()]
    asked = [{"prompt": fact["clean"], "answer": fact["answer"], **fact["labels"]} for fact in facts]
    (place / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in asked))
    choices = [{"prompt": fact["clean"], "options": [" " + fact["answer"], " " + fact["wrong"]]} for fact in facts]
    (place / "choices.jsonl").write_text("".join(json.dumps(row) + "\n" for row in choices))
    (place / "answers.toml").write_text(TOML)
    config = load_config(place / "answers.toml")
    assert config.answers == AnswerSettings("rouge1", 4, "Answer in few words. ")
    assert config.strategies[0].rope == Rope(theta=2e4)
    run_all(config, tmp_path)
    frame = comparison_frame(tmp_path)
    assert {"recall", "rouge1", "choices_accuracy", "choices_chance"} <= set(frame)
    assert frame["choices_chance"].tolist() == [0.5, 0.5]


def test_answers_that_cannot_be_written_or_scored_are_refused_by_name(place, tmp_path):
    path = tmp_path / "q.jsonl"
    path.write_text('{"question": "a", "answer": "Oslo"}\n{"question": "b", "answer": "+"}\n')
    config = replace(config_of(place, ADAPTERS), facts=path)
    with pytest.raises(BadPrompt, match=r"q.jsonl: the answer '\+' to .* has no word"):
        check(replace(config, answers=AnswerSettings("rouge1", 4)))
    with pytest.raises(BadPrompt, match="chat template"):
        check(replace(config_of(place, ADAPTERS), answers=AnswerSettings("rouge1", 4, chat=True)))
    assert len(check(config).facts) == 2


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (("new_tokens = 4", "new_tokens = 0"), "rouge1 scores what is written"),
        (('"rouge1"', '"bleu"'), "choose from rank, probability, rouge1"),
        (("new_tokens = 4", 'new_tokens = 4\nstops = [""]'), "an empty text among stops"),
        (("new_tokens = 4", 'chat = "yes"'), "chat is 'yes'; it takes true or false"),
        (("theta = 20000.0", 'type = "linear"'), "a factor belongs to linear"),
        (("theta = 20000.0", ""), "rope changes nothing"),
        (("theta = 20000.0", 'type = "dynamic"\nfactor = 2.0\npositions = 2048'), "would switch it off up to there"),
        (("[answers]", "[circuits]\nmetric = 'hit'\n[answers]"), "unknown metric 'hit'"),
        (("[answers]", "[circuits]\nsteps = 30\n[answers]"), "unknown steps; there are backward, edges"),
        (("unit =", 'precision = "int4"\nunit ='), "choose from float32, mixed, bfloat16"),
        (("unit =", "tasks_limit = 3\nunit ="), "tasks_limit are of tasks"),
        (("unit =", "accumulate = 0\nunit ="), "accumulate 0 must be at least 1"),
        (("unit =", "device_map = 3\nunit ="), "device_map is 3; it takes a text"),
    ],
)
def test_what_the_new_tables_cannot_hold_is_refused(place, change, reason):
    for name in ("questions.jsonl", "choices.jsonl"):
        (place / name).touch()
    (place / "odd.toml").write_text(TOML.replace(*change))
    with pytest.raises(DriftError, match=reason):
        load_config(place / "odd.toml")


def test_circuits_are_scored_as_the_config_says(place, tmp_path):
    how = Circuits(ig_steps=1, rule="left", metric="log-probability", edges=7)
    config = config_of(place, ADAPTERS, measures=("circuit",), traced=place / "facts.jsonl", circuits=how, epochs=1)
    run_all(config, tmp_path)
    graphs = [point.circuit for point in circuit_drift.load_run(tmp_path / "store", "lora")]
    assert [graph.meta["metric"] for graph in graphs] == ["log probability"] * 2
    assert [graph.circuit_edges for graph in graphs] == [7, 7]
    run_all(replace(config, circuits=Circuits()), tmp_path)  # how circuits are read changes no weight


def test_choices_that_are_none_are_refused_by_line(place, tmp_path):
    path = tmp_path / "c.jsonl"
    path.write_text('{"prompt": "a", "options": ["b"]}\n{"prompt": "a"}\n')
    with pytest.raises(DriftError, match="at least two different options"):
        run_all(config_of(place, ADAPTERS, choices=path), tmp_path / "out")
    path.write_text('{"prompt": "a", "options": "b"}\n')
    with pytest.raises(DriftError, match="line 1: a choice is an object"):
        run_all(config_of(place, ADAPTERS, choices=path), tmp_path / "out")


def test_tasks_of_the_harness_are_gauges_of_every_epoch(place, tmp_path):
    config = config_of(place, ADAPTERS, tasks=("own_choice",), tasks_folder=tmp_path, tasks_limit=2)
    found = gauges_of(config, check(config))
    assert found[-1] == Tasks(HarnessMeasure(("own_choice",), tmp_path, 2))
    assert [gauge.name for gauge in found] == ["knowledge", "documents", "tasks"]


def test_a_device_map_trains_the_same_weights(place, tmp_path):
    strategy = Strategy("full", lr=1e-2)
    weights = []
    for name, options in (("device", {}), ("map", {"device_map": {"": "cpu"}})):
        run_all(config_of(place, strategy, epochs=1, **options), tmp_path / name)
        weights.append(weights_of(tmp_path / name / "full" / "checkpoint-4"))
    assert same_weights(*weights)


def test_published_probes_are_asked_as_they_are(place, tmp_path, caplog):
    path = tmp_path / "validation_probes.json"
    row = {"question": "Where was Herbie born?", "answer": "Oslo", "chunk": "left out"}
    path.write_text(json.dumps({"Herbie": {"Factual Question": [row], "ne_label": "PERSON"}}))
    (asked,) = check(replace(config_of(place, ADAPTERS), facts=path)).facts
    assert asked.clean == "Question: Where was Herbie born?\nAnswer:"
    assert asked.labels == {"entity": "Herbie", "kind": "Factual Question", "ne_label": "PERSON"}
    assert not caplog.text  # questions need no twin
    path.write_text('{"question": "a", "answer": "b", "corrupt": "c"}\n{"question": "d"}\n')
    assert len(check(replace(config_of(place, ADAPTERS), facts=path)).facts) == 1
    assert f"{path}: 1 question asked without a twin, since none is a whole pair" in caplog.text
    assert f"{path}: 1 of 2 rows refused, the first: line 2 has no question (or prompt) and answer" in caplog.text
    path.write_text('{"clean": "a", "wrong": "b"}')
    with pytest.raises(BadPrompt, match="holds no facts; write one JSON object with clean, corrupt, answer, wrong"):
        check(replace(config_of(place, ADAPTERS), facts=path))
