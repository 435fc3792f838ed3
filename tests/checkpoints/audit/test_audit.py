"""Every kind of fault, planted in real short runs of four architectures; and the runs themselves are clean."""

import itertools
import json
import random
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from checkpoints import DriftError, open_series
from checkpoints.audit import KINDS, audit, audit_facts
from checkpoints.audit.facts import CheckpointFacts, gather
from checkpoints.audit.order import missing_steps
from checkpoints.audit.path import _best_move, _best_swap, _total, correlations, distances, find_off_path
from checkpoints.errors import CorruptWeights
from tests.checkpoints.conftest import edit_config, gpt2_config, llama_config, save_tokenizer
from tests.checkpoints.runs import ARCHITECTURES, STEPS, train_run


@pytest.fixture(scope="session", params=ARCHITECTURES)
def clean_runs(request, tmp_path_factory):
    """Two runs of one architecture that differ in their seed only."""
    root = tmp_path_factory.mktemp(request.param)
    for seed in (0, 1):
        train_run(root / f"seed{seed}", ARCHITECTURES[request.param](), dtype="bfloat16", seed=seed)
        save_tokenizer(root / f"seed{seed}")
    return root


@pytest.fixture
def runs(clean_runs, tmp_path):
    """A copy of `clean_runs` to spoil."""
    return shutil.copytree(clean_runs, tmp_path / "runs")


def findings(root):
    """What is found, which samples of the larger matrices show as well."""
    whole = audit(open_series(root))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys.modules["checkpoints.audit"], "_MAX_SAMPLE", 512)
        sampled = audit(open_series(root), depth="samples")
    assert sampled.suspects == whole.suspects
    assert sampled.examined == "samples"
    assert {f.kind for f in sampled.faults} == {f.kind for f in whole.faults}
    return {(f.kind, f.checkpoints) for f in whole.faults}


def weights(root, step):
    return root / f"checkpoint-{step}" / "model.safetensors"


def edit_weights(root, step, change):
    tensors = load_file(weights(root, step))
    change(tensors)
    save_file(tensors, weights(root, step), {"format": "pt"})


def a_matrix(root):
    return next(name for name, t in load_file(weights(root, 0)).items() if "0" in name and t.dim() > 1)


def test_clean_runs_raise_nothing(clean_runs):
    for seed in (0, 1):
        report = audit(open_series(clean_runs / f"seed{seed}"))
        assert report.faults == ()
        assert report.status == 0
        assert report.suspects == {}


@pytest.mark.parametrize(("low", "high"), [(8, 16), (16, 48), (1, 64), (64, 80)])
def test_swapped_checkpoints_are_both_named(runs, low, high):
    root = runs / "seed0"
    a, b, spare = weights(root, low), weights(root, high), root / "spare"
    a.rename(spare), b.rename(a), spare.rename(b)
    report = audit(open_series(root))
    assert {(f.kind, f.checkpoints) for f in report.faults} == {
        ("misplaced", (str(low),)),
        ("misplaced", (str(high),)),
    }
    assert {f.evidence["fits"] for f in report.faults} == {str(low), str(high)}
    assert report.status == 2


def test_every_swap_of_two_checkpoints_is_named_exactly(clean_runs):
    series = open_series(clean_runs / "seed0")
    facts = [gather(checkpoint, depth="weights", sample_size=4096) for checkpoint in series]
    for a, b in itertools.combinations(range(len(series)), 2):
        swapped = list(facts)
        swapped[a], swapped[b] = moved(facts[b], series[a]), moved(facts[a], series[b])
        named = audit_facts(series, swapped, depth="weights").suspects
        assert named.keys() == {series[a].label, series[b].label}


def moved(fact, checkpoint):
    return replace(fact, checkpoint=checkpoint)


@pytest.mark.parametrize("step", [0, 16, 112])
def test_a_checkpoint_of_another_run_is_foreign(runs, step):
    shutil.copy(weights(runs / "seed1", step), weights(runs / "seed0", step))
    assert findings(runs / "seed0") == {("foreign", (str(step),))}


def test_a_checkpoint_thrown_off_the_path_stands_out(runs):
    root = runs / "seed0"

    def push(tensors):
        generator = torch.Generator().manual_seed(0)
        for name, tensor in tensors.items():
            noise = torch.randn(tensor.shape, generator=generator) * tensor.float().std() * 2
            tensors[name] = (tensor.float() + noise).bfloat16() if tensor.dim() > 1 else tensor

    edit_weights(root, 80, push)
    assert findings(root) == {("off_path", ("80",))}
    assert audit(open_series(root)).status == 1


def test_identical_checkpoints_are_grouped(runs):
    root = runs / "seed0"
    shutil.copy(weights(root, 112), weights(root, 32))
    shutil.copy(weights(root, 112), weights(root, 64))
    report = audit(open_series(root))
    assert [(f.kind, f.checkpoints) for f in report.faults] == [("identical", ("32", "64", "112"))]
    assert "112 is the last" in report.faults[0].message


def test_identical_weights_are_found_behind_another_header(runs):
    root = runs / "seed0"
    save_file(load_file(weights(root, 1)), weights(root, 0), {"format": "pt", "note": "saved again"})
    assert findings(root) == {("identical", ("0", "1"))}


def test_a_shard_of_another_step_is_named(runs):
    root = runs / "seed0"
    donor = load_file(weights(root, 112))
    names = sorted(donor)[: len(donor) // 2]
    edit_weights(root, 16, lambda t: t.update({name: donor[name] for name in names}))
    assert ("copied_tensors", ("16", "112")) in findings(root)


def test_a_frozen_matrix_is_in_order(runs):
    root, name = runs / "seed0", a_matrix(runs / "seed0")
    frozen = load_file(weights(root, 0))[name]
    for step in STEPS:
        edit_weights(root, step, lambda t: t.__setitem__(name, frozen))
    assert findings(root) == set()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_non_finite_values_are_counted(runs, value):
    root, name = runs / "seed0", a_matrix(runs / "seed0")
    edit_weights(root, 48, lambda t: t[name].view(-1)[:3].fill_(value))
    report = audit(open_series(root))
    assert [(f.kind, f.checkpoints, f.evidence) for f in report.faults] == [
        ("non_finite", ("48",), {"tensors": {name: 3}})
    ]


def test_a_tensor_that_falls_to_zero_is_named(runs):
    root, name = runs / "seed0", a_matrix(runs / "seed0")
    edit_weights(root, 48, lambda t: t[name].zero_())
    assert findings(root) == {("all_zero", ("48",))}


def test_a_projection_that_starts_at_zero_is_in_order(runs):
    root, name = runs / "seed0", a_matrix(runs / "seed0")
    edit_weights(root, 0, lambda t: t[name].zero_())
    assert "all_zero" not in {kind for kind, _ in findings(root)}
    for step in STEPS:
        edit_weights(root, step, lambda t: t[name].zero_())
    assert ("all_zero", ("112",)) in findings(root)


def test_missing_steps_are_listed(runs):
    root = runs / "seed0"
    shutil.rmtree(root / "checkpoint-80")
    shutil.rmtree(root / "checkpoint-4")
    report = audit(open_series(root))
    assert [(f.kind, f.checkpoints, f.evidence["steps"]) for f in report.faults] == [
        ("missing_steps", ("2", "8"), [4]),
        ("missing_steps", ("64", "96"), [80]),
    ]


@pytest.mark.parametrize(
    ("steps", "holes"),
    [
        ((0, 1000, 2000, 4000, 5000, 6000), [[3000]]),
        ((0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1000, 2000, 3000), []),
        ((1, 2, 4, 8, 64, 128, 256), [[16, 32]]),
        ((0, 100, 200, 400, 800, 1600, 3200), []),
        ((5, 10, 22, 46, 100, 215, 464), []),
        ((0, 10), []),
    ],
)
def test_holes_in_even_and_geometric_steps(tmp_path, steps, holes):
    for step in steps:
        (tmp_path / f"checkpoint-{step}").mkdir()
    facts = [gather(checkpoint, depth="metadata", sample_size=1) for checkpoint in open_series(tmp_path)]
    assert [finding.evidence["steps"] for finding in missing_steps(facts)] == holes


def test_damaged_files_are_found_and_do_not_hide_the_rest(runs):
    root = runs / "seed0"
    file = weights(root, 8)
    file.write_bytes(file.read_bytes()[:-10])
    weights(root, 64).unlink()
    edit_weights(root, 48, lambda t: t[a_matrix(root)].zero_())
    assert findings(root) == {("damaged_files", ("8",)), ("damaged_files", ("64",)), ("all_zero", ("48",))}


def test_a_changed_config_is_named_with_both_values(runs):
    root = runs / "seed0"
    edit_config(root / "checkpoint-16", initializer_range=0.5, transformers_version="0.0")
    report = audit(open_series(root))
    assert [(f.kind, f.checkpoints) for f in report.faults] == [("config_changed", ("16",))]
    assert report.faults[0].evidence == {"fields": {"initializer_range": [0.5, 0.02]}}


def test_a_config_may_change_between_stages(tmp_path):
    root = train_run(tmp_path / "run", llama_config(), steps=(0, 8, 16, 24))
    lines = ["Stage,Step,Tokens Seen,Checkpoint Directory"]
    lines += [f"{'a' if step < 16 else 'b'},{step},{step * 256},checkpoint-{step}" for step in (0, 8, 16, 24)]
    (root / "manifest.csv").write_text("\n".join(lines))
    for step in (16, 24):
        edit_config(root / f"checkpoint-{step}", max_position_embeddings=128)
    assert findings(root) == set()


def test_a_changed_tokenizer_is_named(runs):
    save_tokenizer(runs / "seed0" / "checkpoint-2", words=("c", "b", "a"))
    assert findings(runs / "seed0") == {("tokenizer_changed", ("2",))}


def test_a_head_that_flips_between_tied_and_free_is_named(tmp_path):
    root = train_run(tmp_path / "run", llama_config(tie_word_embeddings=True), steps=(0, 8, 16, 24))
    edit_weights(root, 16, lambda t: t.__setitem__("lm_head.weight", t["model.embed_tokens.weight"].clone()))
    edit_config(root / "checkpoint-16", tie_word_embeddings=False)
    assert findings(root) == {("tie_flipped", ("16",))}
    assert "holds one" in audit(open_series(root)).faults[0].message


def test_tensors_and_dtypes_that_change_are_named(runs):
    root = runs / "seed0"
    name = a_matrix(root)
    edit_weights(root, 4, lambda t: t.update({key: tensor.float() for key, tensor in t.items()}))
    edit_weights(root, 96, lambda t: t.__setitem__(name, t[name][:-1].clone()))
    assert findings(root) >= {("dtype_changed", ("4",)), ("tensors_changed", ("96",))}


def test_metadata_alone_reads_no_values(runs):
    root = runs / "seed0"
    edit_weights(root, 4, lambda t: t.update({key: tensor.float() for key, tensor in t.items()}))
    edit_weights(root, 48, lambda t: t[a_matrix(root)].fill_(float("nan")))
    report = audit(open_series(root), depth="metadata")
    assert [(f.kind, f.checkpoints) for f in report.faults] == [("dtype_changed", ("4",))]
    assert report.examined == "metadata"


def test_bin_checkpoints_are_compared_as_files(tmp_path):
    root = train_run(tmp_path / "run", gpt2_config(), steps=(0, 1, 2))
    for step in (0, 1, 2):
        torch.save(load_file(weights(root, min(step, 1))), weights(root, step).with_name("pytorch_model.bin"))
    for step in (0, 1, 2):
        weights(root, step).unlink()
    assert findings(root) == {("identical", ("1", "2"))}


def test_the_report_is_plain_and_complete(runs):
    root = runs / "seed0"
    shutil.copy(weights(root, 112), weights(root, 96))
    edit_config(root / "checkpoint-16", initializer_range=0.5)
    report = audit(open_series(root))
    content = json.loads(report.to_json())
    assert (content["status"], content["series"], len(content["checkpoints"])) == (2, "seed0", len(STEPS))
    assert [f["kind"] for f in content["findings"]] == ["identical", "config_changed"]
    assert all(f["reference"] and f["severity"] and f["message"] for f in content["findings"])
    assert report.suspects == {"96": "error", "112": "error", "16": "warning"}
    assert list(report.to_frame()["checkpoint"]) == ["96", "112", "16"]
    assert "1 error, 1 warning" in report._repr_html_()
    assert all(f.kind in KINDS for f in report.faults)


def test_an_audit_imports_no_torch(runs):
    script = (
        "import sys; from checkpoints import open_series; from checkpoints.audit import audit;"
        f"assert audit(open_series({str(runs / 'seed0')!r})).status == 0;"
        "assert not {'torch', 'transformers', 'pandas'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def walk(kind, steps=12, matrices=8, size=512, seed=0):
    """Synthetic runs: a straight line, a random walk, or jitter about a minimum; [T, N, K]."""
    generator = np.random.default_rng(seed)
    start = generator.normal(size=(matrices, 1, size))
    moves = generator.normal(size=(matrices, steps, size))
    if kind == "line":
        return start + moves[:, :1] * np.arange(steps)[None, :, None] * 0.1
    if kind == "walk":
        return start + 0.3 * moves.cumsum(axis=1)
    return start + 0.3 * moves


def off_path(samples, order=None):
    d = np.stack([distances(matrix) for matrix in samples])
    z = np.stack([correlations(matrix) for matrix in samples])
    return find_off_path(d, z, list(order or range(samples.shape[1])))


@pytest.mark.parametrize("kind", ["line", "walk", "jitter"])
@pytest.mark.parametrize("seed", range(5))
def test_no_kind_of_path_is_suspect_in_itself(kind, seed):
    assert off_path(walk(kind, seed=seed)) == []


@pytest.mark.parametrize("kind", ["line", "walk"])
def test_swaps_are_undone(kind):
    samples = walk(kind)
    for a, b in itertools.combinations(range(12), 2):
        order = list(range(12))
        order[a], order[b] = b, a
        found = off_path(samples[:, order])
        assert {entry.index for entry in found} == {a, b}, (a, b)
        assert {entry.belongs for entry in found} == {a, b}


def test_the_best_rearrangement_is_the_best_of_all():
    generator = np.random.default_rng(0)
    for _ in range(20):
        points = generator.normal(size=(7, 3))
        length = np.linalg.norm(points[:, None] - points[None], axis=2)
        order = np.arange(7)
        swaps, moves = [], []
        for a, b in itertools.permutations(range(7), 2):
            swapped = order.copy()
            swapped[[a, b]] = order[[b, a]]
            swaps += [_total(length, swapped)] if abs(a - b) > 1 else []
            moves.append(_total(length, np.insert(np.delete(order, a), b, a)))
        assert _total(length, _best_swap(length, order)) == pytest.approx(min(swaps))
        assert _total(length, _best_move(length, order)) == pytest.approx(min(moves))


def test_a_long_series_is_judged_in_reasonable_time():
    samples = walk("walk", steps=300, matrices=4, size=256)
    order = list(range(300))
    order[70], order[200] = order[200], order[70]
    assert {entry.index for entry in off_path(samples[:, order])} == {70, 200}


def test_neighbours_at_no_distance_are_no_trouble():
    samples = walk("walk")
    samples[:4, 5] = samples[:4, 3]  # half of the matrices came back to where they were
    off_path(samples)
    assert off_path(np.repeat(samples[:, :1], 12, axis=1)) == []


def test_short_series_are_left_alone():
    for steps in (1, 2, 3):
        assert off_path(walk("line", steps=steps)) == []


def test_the_shipped_series_is_in_order():
    assert audit(open_series("demo")).faults == ()


def test_samples_read_little_and_in_full_only_what_they_do_not_tell_apart(runs, monkeypatch):
    from checkpoints.audit import facts

    root = runs / "seed0"
    name = a_matrix(root)
    donor = load_file(weights(root, 112))
    edit_weights(root, 16, lambda t: t.__setitem__(name, donor[name]))
    read = []
    plain = facts._read
    monkeypatch.setattr(facts, "_read", lambda name, *rest: read.append(name) or plain(name, *rest))
    report = audit(open_series(root), depth="samples")
    assert ("copied_tensors", ("16", "112")) in {(f.kind, f.checkpoints) for f in report.faults}
    assert read.count(name) >= 2
    matrices = {name for name, tensor in donor.items() if tensor.dim() > 1}
    assert matrices - set(read), "what differs in its samples is not read in full"


def test_what_only_a_full_read_shows_is_left_to_loading(runs, monkeypatch):
    root, name = runs / "seed0", a_matrix(runs / "seed0")
    monkeypatch.setattr(sys.modules["checkpoints.audit"], "_MAX_SAMPLE", 64)
    edit_weights(root, 48, lambda t: t[name].view(-1)[-1:].fill_(float("nan")))
    sampled = {f.kind for f in audit(open_series(root), depth="samples").faults}
    assert sampled <= {"non_finite"}
    with pytest.raises(CorruptWeights, match="are NaN or infinite"):
        open_series(root).at(48).load()


def test_an_unknown_depth_is_named(runs):
    with pytest.raises(DriftError, match="unknown depth 'deep'; choose from metadata, samples, weights"):
        audit(open_series(runs / "seed0"), depth="deep")


def test_a_frozen_matrix_is_not_read_in_full_by_samples(runs, monkeypatch):
    from checkpoints.audit import facts

    root, name = runs / "seed0", a_matrix(runs / "seed0")
    frozen = load_file(weights(root, 0))[name]
    for step in STEPS:
        edit_weights(root, step, lambda t: t.__setitem__(name, frozen))
    read = []
    plain = facts._read
    monkeypatch.setattr(facts, "_read", lambda name, *rest: read.append(name) or plain(name, *rest))
    assert audit(open_series(root), depth="samples").faults == ()
    assert name not in read


def test_a_config_that_flips_the_tie_is_named_in_every_architecture(runs):
    path = runs / "seed0" / "checkpoint-16" / "config.json"
    tied = json.loads(path.read_text()).get("tie_word_embeddings", False)
    edit_config(path.parent, tie_word_embeddings=not tied)
    assert findings(runs / "seed0") == {("tie_flipped", ("16",))}


@pytest.fixture(scope="module")
def shipped():
    """The shipped series, whose learning rate decays, as an audit of samples sees it."""
    series = open_series("demo")
    return series, [gather(checkpoint, depth="samples", sample_size=512) for checkpoint in series]


@pytest.mark.parametrize("seed", range(40))
def test_no_part_of_the_shipped_series_is_out_of_order(shipped, seed):
    """However sparse: weights that averaged out lie nearer to the start than noisy ones of the middle."""
    series, facts = shipped
    drawn = sorted(random.Random(seed).sample(range(len(series)), 4 + seed % 5))
    chosen = {0: [0, 4, 8, 12, 18], 1: [0, 12, 13, 17]}.get(seed, drawn)  # once called misplaced, and foreign
    part = series.select(",".join(series[place].label for place in chosen))
    assert audit_facts(part, [facts[place] for place in chosen], depth="samples").faults == ()


def test_steps_that_were_not_chosen_are_not_missing(tmp_path):
    for step in (0, 100, 200, 300, 400, 500, 600, 900, 1000, 1100):
        (tmp_path / f"step{step}").mkdir()
    series = open_series(tmp_path)

    def missing(part):
        facts = [CheckpointFacts(checkpoint) for checkpoint in part]
        return [f.evidence["steps"] for f in audit_facts(part, facts, depth="metadata").faults]

    assert missing(series) == [[700, 800]]
    assert missing(series.select("0,100,400,500")) == []
    assert missing(series.select("500,600,900,1000")) == [[700, 800]]


def test_swaps_in_the_shipped_series_are_found_where_its_steps_lie_apart(shipped):
    series, facts = shipped
    apart = [0, 1, 2, 4, 6, 8, 10, 12, 15, 18]
    part = replace(series, checkpoints=tuple(series[place] for place in apart))
    found = 0
    for a, b in itertools.combinations(apart, 2):
        swapped = {**dict(enumerate(facts)), a: moved(facts[b], series[a]), b: moved(facts[a], series[b])}
        suspects = audit_facts(part, [swapped[place] for place in apart], depth="samples").suspects
        found += {series[a].label, series[b].label} <= suspects.keys()
    assert found >= 40, f"{found} of 45"
