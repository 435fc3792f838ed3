"""Hub series on a machine without a network, from the client's cache; and tokenizers that only the main branch has."""

import shutil
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants

from checkpoints import open_checkpoint, open_series
from checkpoints.audit import audit
from checkpoints.errors import NotACheckpoint
from checkpoints.series import hub, hub_client
from tests.checkpoints.conftest import save_model, save_tokenizer
from tests.checkpoints.hub_standin import REPO, Hub, connected

IDS = torch.tensor([[1, 2, 3, 4, 5]])
STEPS = (10, 20, 30)


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """Three steps and main, which alone has a tokenizer."""
    root = tmp_path_factory.mktemp("published")
    for step in STEPS:
        save_model(root / f"step{step}", seed=step)
    shutil.copytree(root / "step30", root / "main")
    save_tokenizer(root / "main")
    return root


@pytest.fixture
def remote(published, tmp_path, monkeypatch):
    monkeypatch.setattr(hub_client.time, "sleep", lambda _: None)
    state = Hub({folder.name: folder for folder in published.iterdir()})
    with connected(state, tmp_path / "cache"):
        yield state


@pytest.fixture(params=["HF_HUB_OFFLINE", "no network"])
def cut_off(request, monkeypatch):
    """A way to take the network away."""
    from huggingface_hub import constants

    def cut():
        for known in (hub._published, hub._base, hub._main):  # as in another process, later
            known.cache_clear()
        if request.param == "HF_HUB_OFFLINE":
            monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        else:
            monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")

    return cut


def test_what_was_fetched_by_step_opens_without_a_network_with_the_same_hashes(remote, cut_off, caplog):
    online = open_series(f"{REPO}@step[12]*")
    logits = {loaded.checkpoint.name: loaded.model(IDS).logits.detach() for loaded in online.models()}
    known = [(c.name, c.weights_hash, c.config_hash, c.tokenizer_hash, c.hub.commit) for c in online]
    cut_off()
    asked = sum(remote.asked.values())
    offline = open_series(f"{REPO}@step*")
    assert "in the client's cache are used" in caplog.text
    assert [(c.name, c.weights_hash, c.config_hash, c.tokenizer_hash, c.hub.commit) for c in offline] == known
    for loaded in offline.models():
        assert torch.equal(loaded.model(IDS).logits, logits[loaded.checkpoint.name])
        assert loaded.tokenizer is not None
    assert [finding.kind for finding in audit(offline).faults] == []
    assert sum(remote.asked.values()) == asked
    assert open_checkpoint(f"{REPO}@step20").weights_hash == known[1][1]
    assert open_checkpoint(f"{REPO}@{known[0][4]}").weights_hash == known[0][1]


def test_a_step_that_is_not_cached_is_named_with_those_that_are(remote, cut_off):
    open_checkpoint(f"{REPO}@step10").fetch()
    cut_off()
    with pytest.raises(NotACheckpoint, match=r"no revision 'step30'; near it: step10"):
        open_checkpoint(f"{REPO}@step30")


@pytest.mark.parametrize("content", [b"", b"../../../etc", b"\xff\xfe", b"0" * 40])
def test_a_cached_name_of_no_files_is_left_out_and_told(remote, cut_off, caplog, content):
    for step in (10, 20):
        open_checkpoint(f"{REPO}@step{step}").fetch()
    cut_off()
    (ref,) = Path(constants.HF_HUB_CACHE).rglob("refs/step20")
    ref.write_bytes(content)
    assert [checkpoint.name for checkpoint in open_series(f"{REPO}@step*")] == ["step10"]
    assert "left out step20: the client's cache names a commit of it and holds no file of that" in caplog.text


def test_a_revision_whose_weights_are_not_cached_is_refused(remote, cut_off):
    open_checkpoint(f"{REPO}@step10").hub.fetch_file("config.json")
    cut_off()
    (checkpoint,) = open_series(f"{REPO}@step*")
    with pytest.raises(NotACheckpoint, match=r"step10 holds no weights that can be loaded; it has config\.json"):
        checkpoint.load()


def test_a_branch_that_moved_is_remembered_where_it_was_last(remote, cut_off, published):
    open_checkpoint(f"{REPO}@step10").fetch()
    remote.commits |= remote.commit(REPO, {"step10 again": published / "step20"})
    remote.commits["step10"] = remote.commits.pop("step10 again")
    hub._published.cache_clear()
    moved = open_checkpoint(f"{REPO}@step10")
    moved.fetch()
    cut_off()
    assert open_checkpoint(f"{REPO}@step10").hub.commit == moved.hub.commit == remote.commits["step10"]


def test_steps_without_a_tokenizer_get_mains_which_is_said_once(remote, caplog):
    series = open_series(f"{REPO}@step*")
    main = open_checkpoint(f"{REPO}@main")
    for loaded in series.models():
        assert loaded.tokenizer("a c")["input_ids"] == [1, 3]
    assert {checkpoint.tokenizer_hash for checkpoint in series} == {main.tokenizer_hash}
    assert caplog.text.count("read with that of its main branch") == 1
    assert not [request for request in remote.asked if f"{main.hub.commit}/model" in request], "no weights of main's"


def test_a_step_with_a_tokenizer_of_its_own_keeps_it(remote, published, tmp_path, caplog):
    own = tmp_path / "own"
    shutil.copytree(published / "step10", own / "step10")
    save_tokenizer(own / "step10", words=("c", "b", "a"))
    shutil.copytree(published / "main", own / "main")
    with connected(Hub({folder.name: folder for folder in own.iterdir()}), tmp_path / "other"):
        assert open_checkpoint(f"{REPO}@step10").load().tokenizer("a c")["input_ids"] == [3, 1]
    assert "main branch" not in caplog.text


def test_what_matches_and_is_no_step_is_named(remote, caplog):
    series = open_series(f"{REPO}@*")
    assert series.steps == STEPS
    assert "left out main: its name gives no step" in caplog.text
