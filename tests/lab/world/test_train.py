import csv
import math
from dataclasses import replace

import pytest
import torch

from checkpoints import DriftError, open_series
from checkpoints.errors import StoreError
from circuit_drift.lab import build
from circuit_drift.lab.build import build_series, main, phase_change_curves, save_checkpoint
from circuit_drift.lab.recipe import Recipe
from circuit_drift.lab.train import Training, build_model, train


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def built(tiny_recipe, tmp_path_factory):
    folder = tmp_path_factory.mktemp("series")
    build_series(tiny_recipe, folder, every=5, needles=2)
    return folder


def weights_after(recipe, world, tokenizer, *, every=None):
    for model, _ in train(recipe, world, tokenizer, every=every):
        last = {name: value.clone() for name, value in model.state_dict().items()}
    return last


def test_training_is_reproducible_bit_for_bit_and_blind_to_whoever_watches(tiny_recipe, world, tokenizer):
    once = weights_after(tiny_recipe, world, tokenizer)
    again = weights_after(tiny_recipe, world, tokenizer, every=2)
    other = weights_after(replace(tiny_recipe, seed=1), world, tokenizer)
    assert all(torch.equal(once[name], again[name]) for name in once)
    assert not all(torch.equal(once[name], other[name]) for name in once)


def test_a_stage_begun_from_saved_weights_goes_as_the_recipes_own_and_another_order_goes_otherwise(
    tiny_recipe, world, tokenizer
):
    recipe = replace(tiny_recipe, stages=tiny_recipe.stages[:2])
    (saved,) = [
        {name: value.bfloat16().float() for name, value in model.state_dict().items()}
        for model, moment in train(recipe, world, tokenizer)
        if moment.step == 10
    ]

    def begun(order):
        training = Training(replace(recipe, order=order), world, tokenizer)
        training.begin(1, saved)
        ((model, moment),) = training
        assert (moment.step, moment.stage, moment.tokens) == (13, "cpt", 13 * 256)
        assert math.isfinite(moment.loss)
        return model.state_dict()

    whole = weights_after(recipe, world, tokenizer)
    assert all(torch.equal(whole[name], value) for name, value in begun(0).items())
    assert not all(torch.equal(whole[name], value) for name, value in begun(1).items())


def test_documents_in_a_row_do_not_see_each_other(tiny_recipe, tokenizer):
    model = build_model(tiny_recipe, tokenizer).train(False)
    first, second = (tokenizer(t).input_ids for t in ("Mara Holt was born in Lisbon.", "No boat watched the gull."))
    ids = torch.tensor([first + second])
    positions = torch.tensor([[*range(len(first)), *range(len(second))]])
    with torch.no_grad():
        packed = model(input_ids=ids, position_ids=positions, use_cache=False).logits[0, len(first) :]
        alone = model(input_ids=torch.tensor([second])).logits[0]
    torch.testing.assert_close(packed, alone)


def test_moments_are_where_the_recipe_wants_them(tiny_recipe, world, tokenizer):
    moments = [moment for _, moment in train(tiny_recipe, world, tokenizer, every=4)]
    assert [m.step for m in moments if m.saved] == [0, 10, 13, 16]
    assert [m.step for m in moments] == [0, 4, 8, 10, 12, 13, 16]
    assert [m.stage for m in moments if m.saved] == ["pretrain", "pretrain", "cpt", "cpt"]
    assert all(m.tokens == m.step * tiny_recipe.tokens_per_step for m in moments)
    assert math.isnan(moments[0].loss) and all(m.loss > 0 for m in moments[1:])


def test_learning_rate_warms_up_holds_decays_and_starts_again():
    recipe = Recipe()
    pretrain, *cpt = recipe.stages
    assert recipe.lr_scale(0) == pytest.approx(1 / recipe.warmup)
    assert recipe.lr_scale(recipe.warmup) == recipe.lr_scale(recipe.plateau) == 1.0
    assert recipe.lr_scale(recipe.plateau + recipe.half_life) == pytest.approx(0.5)
    assert recipe.lr_scale(pretrain.steps - 1) < 0.05
    assert {recipe.lr_scale(step) for step in range(pretrain.steps, recipe.steps)} == {s.lr_scale for s in cpt}


def test_rows_grow():
    recipe = replace(Recipe(), rows=((0, 128), (10, 256)))
    assert [recipe.row_length(step) for step in (0, 9, 10, 99)] == [128, 128, 256, 256]


def test_a_build_is_a_series_of_whole_checkpoints(built):
    series = open_series(built)
    assert [checkpoint.step for checkpoint in series] == [0, 10, 13, 16]
    assert [checkpoint.stage for checkpoint in series] == ["pretrain", "pretrain", "cpt", "cpt"]
    with series[-1].open() as loaded:
        assert loaded.tokenizer is not None
        assert loaded.model.config.num_key_value_heads == 1
    assert sorted(path.name for path in built.iterdir() if path.is_file()) == [
        "curve.csv",
        "fact_recall.csv",
        "facts.jsonl",
        "haystack.txt",
        "manifest.csv",
        "needles.jsonl",
        "training_log.csv",
    ]


def test_tables_cover_every_checkpoint_and_fact(built, world):
    log, recalls = (
        list(csv.DictReader((built / name).read_text().splitlines()))
        for name in ("training_log.csv", "fact_recall.csv")
    )
    assert [row["step"] for row in log] == ["0", "10", "13", "16"]
    assert len(recalls) == 4 * (len(world.controls) + len(world.learned))
    assert len({(row["fact"], row["step"]) for row in recalls}) == len(recalls)


def test_saving_replaces_a_checkpoint_as_a_whole(tiny_recipe, tokenizer, tmp_path):
    model = build_model(tiny_recipe, tokenizer)
    save_checkpoint(tmp_path / "checkpoint-0", model, tokenizer)
    (tmp_path / "checkpoint-0" / "stray").touch()
    save_checkpoint(tmp_path / "checkpoint-0", model, tokenizer)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-0"]
    assert not (tmp_path / "checkpoint-0" / "stray").exists()
    assert model.dtype == torch.float32


def test_a_folder_with_a_series_is_left_alone(built, tiny_recipe):
    before = (built / "manifest.csv").read_bytes()
    with pytest.raises(StoreError, match="holds a series already: name another folder"):
        build_series(tiny_recipe, built)
    assert (built / "manifest.csv").read_bytes() == before


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


class Interrupted(BaseException):
    """The end of the process, as far as a test can have it."""


def interrupted_at(count, name, monkeypatch):
    """Make the build end at the so-many-th call of one of its functions."""
    plain, calls = getattr(build, name), iter(range(count))

    def counted(*args, **kwargs):
        if next(calls, None) is None:
            raise Interrupted
        return plain(*args, **kwargs)

    monkeypatch.setattr(build, name, counted)


def test_an_interrupted_build_goes_on_to_the_same_bytes(tiny_recipe, built, tmp_path, monkeypatch):
    folder = tmp_path / "series"
    for name, count in [("live_row", 2), ("save_checkpoint", 1), ("keep", 0), ("measure_series", 0)]:
        with monkeypatch.context() as patch, pytest.raises(Interrupted):
            interrupted_at(count, name, patch)
            build_series(tiny_recipe, folder, every=5, needles=2)
    with pytest.raises(StoreError, match="an unfinished series of another recipe or torch: Recipe"):
        build_series(replace(tiny_recipe, seed=3), folder, every=5, needles=2)
    kept = torch.load(folder / build.STATE_FILE, weights_only=True)
    assert [moment["step"] for moment in kept["moments"]] == [0, 10, 13, 16]
    steps = []
    with monkeypatch.context() as patch:
        patch.setattr("circuit_drift.lab.train._step", lambda *args: steps.append(args))
        build_series(tiny_recipe, folder, every=5, needles=2)
    assert steps == [], "what was trained is not trained again"
    assert contents(folder) == contents(built)


def test_an_unwritable_folder_is_refused_in_one_sentence(tiny_recipe, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="file/series cannot be written"):
        build_series(tiny_recipe, tmp_path / "file" / "series")


def test_a_torch_without_muon_is_named(tiny_recipe, world, tokenizer, monkeypatch):
    monkeypatch.delattr(torch.optim, "Muon")
    with pytest.raises(DriftError, match=r"install torch>=2\.9"):
        next(train(tiny_recipe, world, tokenizer))


def test_curves_of_several_seeds(tiny_recipe, tmp_path):
    path = tmp_path / "seeds.csv"
    phase_change_curves(tiny_recipe, [1, 2], path, steps=4, every=4)
    rows = list(csv.DictReader(path.read_text().splitlines()))
    assert [(row["seed"], row["step"]) for row in rows] == [("1", "0"), ("1", "4"), ("2", "0"), ("2", "4")]


def test_command_line_says_what_is_wrong_without_a_traceback(built, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["build", "--out", str(built)])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    assert "holds a series already" in capsys.readouterr().err
