"""Adapters as hub revisions: the base that their config names is pinned, fetched once, and merged into."""

import json

import pytest
import torch

from checkpoints import open_checkpoint, open_series
from checkpoints.audit import audit
from checkpoints.errors import CorruptWeights, NotACheckpoint
from tests.checkpoints.conftest import save_model, save_tokenizer
from tests.checkpoints.hub_standin import REPO, Hub, connected
from tests.checkpoints.loading.test_formats import merged_by_hand, save_adapter

pytest.importorskip("peft")

IDS = torch.tensor([[1, 2, 3, 4, 5]])
BASE = "org/base"
STEPS = (10, 20, 30)


def adapter_of(folder, base, *, step, name=BASE, **about):
    """An adapter as it is published: its config names the base's repository, not a folder."""
    save_adapter(folder, base, seed=step)
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "base_model_name_or_path": name, **about}))
    return folder


@pytest.fixture
def bases(tmp_path):
    return {name: save_tokenizer(save_model(tmp_path / name, seed=seed)) for seed, name in enumerate(("main", "v2"))}


@pytest.fixture
def remote(tmp_path, bases):
    revisions = {f"step{s}": adapter_of(tmp_path / f"step{s}", bases["main"], step=s) for s in STEPS}
    revisions["step40"] = adapter_of(tmp_path / "step40", bases["v2"], step=40, revision="v2")
    state = Hub(revisions, {BASE: bases})
    with connected(state, tmp_path / "cache"):
        yield state


def fetched(remote, repo):
    return [request for request in remote.asked.elements() if request.startswith(f"GET /{repo}/resolve")]


@pytest.mark.parametrize("reuse", [False, True])
def test_a_series_of_adapters_is_merged_into_a_base_that_is_fetched_once(remote, bases, tmp_path, reuse):
    series = open_series(f"{REPO}@step[123]0")
    assert series.steps == STEPS
    for loaded in series.models(reuse=reuse):
        expected = merged_by_hand(bases["main"], tmp_path / f"step{loaded.checkpoint.step}")
        with torch.no_grad():
            torch.testing.assert_close(loaded.model(IDS).logits, expected, atol=1e-5, rtol=1e-5)
        assert loaded.tokenizer is not None
    assert [request.rpartition("/")[2] for request in fetched(remote, BASE)].count("model.safetensors") == 1
    assert remote.asked[f"GET /api/models/{BASE}/refs"] == 1, "pinned once"


def test_the_base_is_pinned_and_may_be_a_revision(remote, bases, tmp_path):
    plain, branched = (open_checkpoint(f"{REPO}@{name}") for name in ("step10", "step40"))
    assert plain.hub.base.commit == remote.refs[BASE]["main"]
    assert branched.hub.base.commit == remote.refs[BASE]["v2"]
    with torch.no_grad():
        expected = merged_by_hand(bases["v2"], tmp_path / "step40")
        torch.testing.assert_close(branched.load().model(IDS).logits, expected, atol=1e-5, rtol=1e-5)


def test_hashes_are_known_without_fetching_and_equal_those_of_folders(remote, tmp_path, bases):
    published = open_checkpoint(f"{REPO}@step10")
    digest = published.weights_hash
    assert not [request for request in remote.asked if "safetensors" in request]
    local = open_checkpoint(adapter_of(tmp_path / "local", bases["main"], step=10, name=str(bases["main"])))
    assert (local.weights_hash, local.tokenizer_hash) == (digest, published.tokenizer_hash)
    assert len({checkpoint.weights_hash for checkpoint in open_series(f"{REPO}@step*")}) == 4


def test_bytes_to_fetch_include_the_base_until_it_is_here(remote, bases):
    adapter = open_checkpoint(f"{REPO}@step10")
    base = sum(file.size for file in adapter.hub.base.files)
    own = sum(file.size for file in adapter.hub.files)
    assert adapter.size == base + own
    assert adapter.hub.base.fetch_file("config.json").exists()
    read = {"config.json": adapter.hub.base.path, "adapter_config.json": adapter.path}
    here = sum((folder / name).stat().st_size for name, folder in read.items())
    assert sum(adapter.hub.to_fetch.values()) == base + own - here
    adapter.hub.base.fetch()
    assert set(adapter.hub.to_fetch.values()) == {file.size for file in adapter.hub.weights}


def test_dropping_used_adapters_leaves_the_base(remote):
    series = open_series(f"{REPO}@step[123]0")
    for loaded in series.models(keep_downloads=0):
        assert loaded.checkpoint.path.exists()
    assert not any(checkpoint.path.exists() for checkpoint in series)
    assert series[0].hub.base.path.exists()


def test_an_audit_of_published_adapters_fetches_no_weights(remote):
    report = audit(open_series(f"{REPO}@step[123]0"))
    assert report.faults == ()
    assert not [r for r in fetched(remote, BASE) if "safetensors" in r]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("/data/llama", "adapter on '/data/llama', which is no repository of the hub"),
        ("org/absent", "org/absent is neither a folder here nor a repository"),
        (REPO, "is an adapter itself: merge it first"),
    ],
)
def test_a_base_that_is_not_to_be_had_is_named(remote, bases, name, message):
    folder = remote.folders[remote.commits["step10"]]
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "base_model_name_or_path": name, "revision": "step20"}))
    with pytest.raises(NotACheckpoint, match=message):
        open_checkpoint(f"{REPO}@step10").load()


def test_an_adapter_that_arrives_spoilt_is_refused(remote):
    remote.fail_once(f"GET /{REPO}/resolve/.*adapter_model", "flip")
    with pytest.raises(CorruptWeights, match="arrived with sha256"):
        open_checkpoint(f"{REPO}@step10").load()
