"""Stored results that are sealed, and are none: each costs itself alone, in one line that names it."""

import re
import shutil

import numpy as np
import pytest
from safetensors.numpy import load, save

import circuit_drift
from checkpoints import DriftError
from checkpoints.results.artifacts import ARRAYS_FILE, DIGESTS, RESULT_FILE, _digest
from checkpoints.results.soundness import fits
from checkpoints.results.strict_json import digest_json, dump_json, parse_json
from tests.fuzz.kinds import stored


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return stored(tmp_path_factory.mktemp("whole")).path


def changed(whole, tmp_path, measure, change):
    """A copy of the store in which one result was changed, and given digests that fit."""
    store = tmp_path / "store"
    shutil.copytree(whole, store)
    folder = store / measure / f"{measure[0]}10"
    document, arrays = parse_json((folder / RESULT_FILE).read_text()), load((folder / ARRAYS_FILE).read_bytes())
    change(document, arrays)
    content = save(arrays)
    (folder / ARRAYS_FILE).write_bytes(content)
    own = {name: value for name, value in document.items() if name != DIGESTS}
    digests = {ARRAYS_FILE: _digest(content), RESULT_FILE: digest_json(own)}
    (folder / RESULT_FILE).write_text(dump_json({**own, DIGESTS: digests}))
    return store


def put(name, value):
    return lambda document, arrays: arrays.update({name: value}) if isinstance(value, np.ndarray) else (
        document.update({name: value})
    )  # fmt: skip


def about(name, value):
    return lambda document, arrays: document.get("about", document.get("meta")).update({name: value})


CHANGES = [
    ("heads", put("nll", np.zeros((0, 1), np.float32)), "of 0 where"),
    ("heads", put("depth", np.zeros((3,), np.float32)), "depth is of 3 where"),
    ("heads", put("correct", np.zeros((10, 1), bool)), "correct has 2 axes, not 1"),
    ("heads", put("correct", np.zeros((10,), np.float32)), "correct is no array of its kind"),
    ("heads", put("detector.copy", np.zeros((10, 8), np.float32)), "detectors copy has 2 axes, not 3"),
    ("heads", put("kv_heads", 3), "heads cannot share 3 KV heads"),
    ("heads", put("kv_heads", "2"), "kv_heads is no whole number"),
    ("heads", put("about", []), "holds no retrieval_scores"),
    ("heads", lambda document, arrays: document["about"].pop("prompts"), "meta has no prompts"),
    ("heads", about("prompts", 3), "prompts is no text"),
    ("heads", about("refused", [[1]]), "refused is no list of its kind"),
    ("heads", about("chance", "x"), "chance is no number"),
    ("heads", about("provenance", [1]), "provenance is no table of its kind"),
    ("circuit", put("labels", [{}]), "1 facts have labels where"),
    ("circuit", put("labels", "/"), "labels is no list of its kind|holds no attribution_graph"),
    ("circuit", put("group", np.full(10, 77)), "its facts are not in"),
    ("circuit", put("shape", {"n_layers": -1, "n_heads": "x", "n_kv_heads": None}), "holds no attribution_graph"),
    ("circuit", put("clean_metric", np.zeros((3, 2))), "clean_metric has 2 axes"),
    ("circuit", about("ig_steps", {}), "ig_steps is no whole number"),
]


@pytest.mark.parametrize(("measure", "change", "flaw"), CHANGES, ids=[flaw for *_, flaw in CHANGES])
def test_what_is_no_result_is_left_out_and_named(whole, tmp_path, measure, change, flaw):
    run = circuit_drift.load_run(changed(whole, tmp_path, measure, change))
    (reason,) = run.unread.values()
    assert re.search(flaw, reason), reason
    assert ("run again" in reason, "\n" in reason) == (True, False)
    assert run.at(10).results.keys() == {"heads", "circuit"} - {measure}
    if flaw.endswith(("not 3", "labels where")):
        assert run.report(tmp_path / "report.html").is_file()
    for follow in (run.track_heads, run.track_circuit):
        try:
            follow()
        except DriftError as refused:  # one checkpoint of the two is left
            assert "\n" not in str(refused)


def test_the_kinds_of_values():
    assert fits(tuple[int, ...], [1, np.int64(2)])
    assert fits(float | None, 3)
    assert not fits(int, True)
    assert not fits(tuple[int, str], [1])
    assert not fits(dict[str, float], {"a": "b"})
