"""The series on natural text: its documents, needles, weights and rows, and a build that is killed and gone on with."""

import copy
import csv
import json
import random
import shutil
from dataclasses import replace

import numpy as np
import pytest

import checkpoints
from checkpoints.errors import StoreError
from circuit_drift.lab.natural import build
from circuit_drift.lab.natural.recipe import Recipe, TrainingPhase, control
from circuit_drift.lab.natural.retrieval import count_words, draw_hidden, keyed_list, needle_document, word_list
from circuit_drift.lab.natural.texts import read_texts
from circuit_drift.lab.natural.tokens import learn_tokenizer
from circuit_drift.lab.recipe import Shape
from heads.prompts.pools import default_needles

TINY = Recipe(
    shape=Shape(layers=1, width=16, heads=2, kv_heads=1, head_dim=8, mlp=16, positions=256, rope_theta=1e4),
    vocabulary=600,
    tokens_per_step=256,
    warmup=1,
    phases=(
        TrainingPhase("pretrain", 2, 128, (("natural", 0.5), ("needles", 0.5)), 1e4, (1.0, 0.0)),
        TrainingPhase("extend", 2, 256, (("natural", 0.5), ("needles", 0.5)), 1e5, (0.2, 0.2)),
    ),
    checkpoints=(0, 2, 4),
)


def made_up(rng: random.Random, count: int) -> str:
    syllables = ["ba", "den", "lor", "mi", "sta", "ran", "vel", "tor", "qui", "nes"]
    words = ["".join(rng.choices(syllables, k=rng.randint(2, 3))) for _ in range(count)]
    return " ".join(word.title() if number % 3 == 0 else word for number, word in enumerate(words))


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """The three packages, unpacked, with made-up texts; nothing is fetched."""
    folder, rng = tmp_path_factory.mktemp("texts"), random.Random(0)
    for number in range(22):
        place = folder / "factbook" / "package" / ("africa" if number % 2 else "europe") / f"c{number:02}.json"
        place.parent.mkdir(parents=True, exist_ok=True)
        name = {"conventional short form": {"text": "none"}, "conventional long form": {"text": f"Land {number}"}}
        told = {"Background": {"text": f"One ++ two. {made_up(rng, 700)}"}}
        place.write_text(json.dumps({"Introduction": told, "Government": {"Country name": name}}))
    for source, names in (("union", [f"{1790 + n}_x.txt" for n in range(22)]), ("moby", ["chapter_1.txt"])):
        (folder / source / "package" / "data").mkdir(parents=True)
        for name in names:
            lines = "\n\n".join(f"{made_up(rng, 12)}.\n{made_up(rng, 12)}." for _ in range(40))
            (folder / source / "package" / "data" / name).write_text(lines)
    return folder


@pytest.fixture(scope="module")
def words(texts):
    return count_words(text.text for text in read_texts(texts))


def test_documents_are_read_in_order_with_their_names(texts):
    read = read_texts(texts)
    assert [len([t for t in read if t.source == s]) for s in ("factbook", "union", "moby")] == [22, 22, 1]
    assert read[0].title == "Land 0"
    assert read[0].text.startswith("Land 0\nBackground: One two. ")
    assert [t.title for t in read if t.held_out] == ["Land 10", "1800_x"]
    assert "\n" not in read[22].text.split(".")[0]


def test_needles_tell_and_ask_their_own_value(words):
    rng = random.Random(1)
    for _ in range(200):
        hidden = draw_hidden(rng, words, 3, pool=100)
        assert len({needle.value for needle in hidden}) == 3
        assert len({needle.asked for needle in hidden}) == 3
        pieces = needle_document(rng, hidden, ["A sentence.", "Another one."])
        by_role = {role: [text for text, kind in pieces if kind == role] for role in ("told", "asked", "answer")}
        assert sorted(by_role["told"]) == sorted(by_role["answer"]) == sorted(needle.value for needle in hidden)
        assert [t.strip() for t in by_role["asked"]] == [
            next(n.asked.strip() for n in hidden if n.value == value) for value in by_role["answer"]
        ]


def test_without_variety_a_needle_is_asked_for_in_its_own_words(words):
    rng = random.Random(4)
    plain = [needle for _ in range(100) for needle in draw_hidden(rng, words, 2, pool=100, variety=0.0)]
    assert all(needle.told.split("{v}")[0].rstrip() == needle.asked.strip() for needle in plain)
    varied = [needle for _ in range(100) for needle in draw_hidden(rng, words, 2, pool=100, variety=1.0)]
    own = [needle.told.split("{v}")[0].rstrip() == needle.asked.strip() for needle in varied]
    assert 0 < sum(own) < 100


def test_variety_grows_between_its_two_steps():
    recipe = Recipe(frames=(100, 300, 0.8))
    assert [recipe.variety(step) for step in (0, 100, 150, 300, 900)] == pytest.approx([0, 0, 0.2, 0.8, 0.8])


def test_no_frame_of_training_is_a_frame_of_the_built_in_needles(words):
    rng = random.Random(2)
    asked = {needle.asked for _ in range(500) for needle in draw_hidden(rng, words, 2, pool=100)}
    for needle in default_needles():
        assert not any(needle.question.strip()[:30] in question for question in asked)


def test_lists_are_told_once_and_answered_after(words):
    pieces = keyed_list(random.Random(3), words, pairs=3, repeats=2, pool=100)
    told, answered = ([t for t, kind in pieces if kind == role] for role in ("told", "answer"))
    assert len(told) == 3
    assert sorted(answered) == sorted(told * 2)
    assert [kind for _, kind in word_list(random.Random(3), words, size=5, repeats=3, pool=100)] == [
        "told",
        "answer",
        "answer",
    ]


def test_digits_are_cut_one_by_one():
    tokenizer = learn_tokenizer(["the year 1984 and 1984 again"] * 9, size=300, longest=64)
    assert tokenizer.convert_ids_to_tokens(tokenizer("1984").input_ids) == ["<bos>", "1", "9", "8", "4"]
    assert tokenizer.decode(tokenizer("a b 19 ü").input_ids, skip_special_tokens=True) == "a b 19 ü"


def test_rows_are_full_and_weigh_every_token_by_its_piece(texts, words):
    read = [text for text in read_texts(texts) if not text.held_out]
    tokenizer = learn_tokenizer((text.text for text in read), size=600, longest=256)
    recipe = replace(TINY, phases=(TrainingPhase("pretrain", 9, 256, (("needles", 1.0),), 1e4, (1.0, 1.0)),))
    stream = build.row_stream(recipe, tokenizer, read, words)
    rows = stream.rows(0)
    assert rows.ids.shape == rows.positions.shape == rows.weights.shape == (1, 256)
    starts = np.flatnonzero(rows.positions[0] == 0)
    assert (rows.ids[0][starts] == tokenizer.bos_token_id).all()
    assert set(np.unique(rows.weights)) <= {np.float32(w) for w in (1.0, 0.05, 0.3, 2.0)}
    ids, weights = stream._encode([("Ab ", "plain"), ("cd ef", "told"), (". ", "plain"), ("cd ef", "answer")])
    assert len(ids) == len(weights)
    text = "".join(tokenizer.decode([i]) for i, w in zip(ids, weights, strict=True) if w == 2.0)
    assert text.strip() == "cd ef"


def test_a_source_gets_its_share_of_the_mix_in_force_whatever_an_earlier_one_gave_it(texts, words):
    read = [text for text in read_texts(texts) if not text.held_out]
    tokenizer = learn_tokenizer((text.text for text in read), size=600, longest=256)
    lists, half = (("word_lists", 1.0),), (("natural", 0.5), ("word_lists", 0.5))
    phases = (
        TrainingPhase("pretrain", 20, 256, lists, 1e4, (1.0, 1.0)),
        TrainingPhase("pretrain", 20, 256, half, 1e4, (1.0, 1.0)),
    )
    stream = build.row_stream(replace(TINY, phases=phases), tokenizer, read, words)
    answered = [float((stream.rows(step).weights == np.float32(2.0)).mean()) for step in range(40)]
    assert np.mean(answered[20:]) == pytest.approx(np.mean(answered[:20]) / 2, rel=0.3)


@pytest.mark.parametrize(
    ("step", "stage", "rate", "words"),
    [
        (0, "pretrain", 1 / 60, 150),
        (1800, "pretrain", 1.0, 150),
        (2800, "pretrain", 1.0, 450),
        (4700, "pretrain", 0.5, 1000),
        (6000, "pretrain", 0.2, 1000),
    ],
)
def test_the_recipe_says_what_a_step_is(step, stage, rate, words):
    recipe = Recipe()
    assert (recipe.stage(step), recipe.words(step)) == (stage, words)
    assert recipe.lr_scale(step) == pytest.approx(rate, abs=1e-3)


def test_the_control_differs_in_the_rotary_base_of_the_extension_alone():
    raised, left = Recipe(), control()
    assert [p.rope_theta for p in raised.phases] == [1e4] * 5 + [1e5]
    assert [p.rope_theta for p in left.phases] == [1e4] * 6
    assert replace(left, phases=raised.phases) == raised
    assert max(raised.checkpoints) == raised.steps
    assert (raised.stage(6000), raised.stage(6001)) == ("pretrain", "extend")


def test_a_build_that_is_killed_goes_on_to_the_same_files(texts, tmp_path, monkeypatch):
    build.build_series(TINY, tmp_path / "whole", texts)
    monkeypatch.setattr(build, "STATE_EVERY", 1)
    advance, taken = build.Training.advance, []

    def killed(self):
        if len(taken) == 3:
            raise KeyboardInterrupt
        taken.append(self.step)
        return advance(self)

    monkeypatch.setattr(build.Training, "advance", killed)
    with pytest.raises(KeyboardInterrupt):
        build.build_series(TINY, tmp_path / "parts", texts)
    shutil.copytree(tmp_path / "parts", tmp_path / "other")
    with pytest.raises(StoreError, match="an unfinished series of another recipe or torch"):
        build.build_series(replace(TINY, seed=1), tmp_path / "other", texts)
    monkeypatch.setattr(build.Training, "advance", advance)
    build.build_series(TINY, tmp_path / "parts", texts)
    for step in TINY.checkpoints:
        name = f"checkpoint-{step}/model.safetensors"
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "parts" / name).read_bytes()
    with pytest.raises(StoreError, match="holds a series already"):
        build.build_series(TINY, tmp_path / "parts", texts)
    log = list(csv.DictReader((tmp_path / "whole" / "training_log.csv").read_text().splitlines()))
    assert [(row["step"], row["stage"], row["tokens"]) for row in log] == [
        ("0", "pretrain", "0"),
        ("2", "pretrain", "512"),
        ("4", "extend", "1024"),
    ]
    series = checkpoints.open_series(tmp_path / "parts")
    assert series.steps == (0, 2, 4)
    configs = [
        json.loads((tmp_path / "parts" / f"checkpoint-{step}" / "config.json").read_text()) for step in (0, 2, 4)
    ]
    thetas = [config["rope_parameters"]["rope_theta"] for config in configs]
    assert thetas == [1e4, 1e4, 1e5]
    assert [name.name for name in sorted((tmp_path / "parts").rglob("tokenizer.json"))] == ["tokenizer.json"]
    assert series.at("4").load().tokenizer.vocab_size == 600
    held_out = {text.text for text in read_texts(texts) if text.held_out and text.source == "union"}
    kept = [
        json.loads(line)["text"] for line in (tmp_path / "parts" / "corpora" / "union.jsonl").read_text().splitlines()
    ]
    assert kept and all(any(text.startswith(each) for text in held_out) for each in kept)
    assert {path.stem for path in (tmp_path / "parts" / "corpora").iterdir()} == {"factbook", "union"}


def test_a_stage_taken_up_from_the_weights_before_it_is_the_one_trained_straight_on(texts, words):
    read = read_texts(texts)
    tokenizer = learn_tokenizer((text.text for text in read), size=600, longest=256)
    straight, taken_up = (
        build.Training(TINY, tokenizer, build.row_stream(TINY, tokenizer, read, words)) for _ in range(2)
    )
    for _ in range(2):
        straight.advance()
    taken_up.take_up(2, copy.deepcopy(straight.model.state_dict()))
    for _ in range(2):
        assert straight.advance() == taken_up.advance()
    ends = [training.model.state_dict() for training in (straight, taken_up)]
    assert all((ends[0][name] == ends[1][name]).all() for name in ends[0])
    assert taken_up.model.config.rope_parameters["rope_theta"] == 1e5


def test_a_control_begins_with_a_checkpoint_of_the_series(texts, tmp_path):
    build.build_series(TINY, tmp_path / "whole", texts)
    begin = checkpoints.open_checkpoint(f"{tmp_path / 'whole'}@2")
    other = replace(TINY, phases=(TINY.phases[0], replace(TINY.phases[1], rope_theta=1e4)))
    build.build_series(other, tmp_path / "control", texts, begin=begin)
    control = checkpoints.open_series(tmp_path / "control")
    assert control.steps == (2, 4)
    assert control.at("2").weights_hash == begin.weights_hash
    assert control.at("4").load().model.config.rope_parameters["rope_theta"] == 1e4
