"""The real hub client against a local stand-in: listing, pinning, hashes, ranges, faults, disk."""

import os
import shutil
import subprocess
import sys

import pytest
import torch

from checkpoints import DriftError, open_checkpoint, open_series
from checkpoints.audit import audit
from checkpoints.errors import CorruptWeights, NotACheckpoint
from checkpoints.files.hashes import hash_file
from checkpoints.loading.stream import stream
from checkpoints.placement import ANYWHERE
from checkpoints.series import hub_client
from checkpoints.series.compat import require_same_model
from checkpoints.series.downloads import Claim, Downloads
from tests.checkpoints.conftest import edit_config, save_model, save_tokenizer
from tests.checkpoints.hub_standin import REPO, Hub, connected

IDS = torch.tensor([[1, 2, 3, 4, 5]])
STEPS = (0, 1, 10, 100, 1000)


@pytest.fixture(scope="module")
def revision_folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("hub")
    for step in STEPS:
        save_model(root / f"step{step}", seed=step)
        save_tokenizer(root / f"step{step}")
        (root / f"step{step}" / "README.md").write_text("not needed")
        (root / f"step{step}" / "optimizer.bin").write_bytes(b"not needed")
    shutil.copytree(root / "step1000", root / "main")
    return root


@pytest.fixture
def remote(revision_folders, tmp_path, monkeypatch):
    """A served copy of the revisions, and a client that knows nothing yet."""
    root = shutil.copytree(revision_folders, tmp_path / "remote")
    state = Hub({folder.name: folder for folder in root.iterdir()})
    monkeypatch.setattr(hub_client.time, "sleep", lambda _: None)
    with connected(state, tmp_path / "cache"):
        yield state


def test_revisions_are_listed_ordered_and_pinned(remote):
    series = open_series(f"{REPO}@step*")
    assert series.steps == STEPS
    assert series.name == REPO
    assert [checkpoint.hub.commit for checkpoint in series] == [remote.commits[f"step{step}"] for step in STEPS]
    assert [request for request in remote.asked if REPO in request] == [f"GET /api/models/{REPO}/refs"]
    assert open_series(f"{REPO}@step1*").steps == (1, 10, 100, 1000)
    with pytest.raises(NotACheckpoint, match=r"matches 'epoch\*'; it has step"):
        open_series(f"{REPO}@epoch*")


def test_a_revision_loads_as_its_folder_does(remote, revision_folders):
    loaded = open_checkpoint(f"{REPO}@step10").load()
    local = open_checkpoint(revision_folders / "step10").load()
    assert torch.equal(loaded.model(IDS).logits, local.model(IDS).logits)
    assert loaded.tokenizer("a c")["input_ids"] == [1, 3]
    assert loaded.checkpoint.step == 10
    fetched = {request.rpartition("/")[2] for request in remote.asked if request.startswith("GET /org/run/resolve")}
    assert fetched == {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }


def test_hashes_and_sizes_are_known_without_fetching(remote, revision_folders):
    series = open_series(f"{REPO}@step*")
    hashes = [checkpoint.weights_hash for checkpoint in series]
    assert series[0].size > (revision_folders / "step0" / "model.safetensors").stat().st_size
    assert hashes == [open_checkpoint(revision_folders / f"step{step}").weights_hash for step in STEPS]
    assert not [request for request in remote.asked if "resolve" in request]
    assert series[0].config_hash == open_checkpoint(revision_folders / "step0").config_hash
    assert series[0].tokenizer_hash == open_checkpoint(revision_folders / "step0").tokenizer_hash
    assert not [request for request in remote.asked if "safetensors" in request]


def test_what_is_in_the_cache_is_not_asked_for_again(remote):
    checkpoint = open_checkpoint(f"{REPO}@step10")
    checkpoint.load()
    before = sum(remote.asked.values())
    checkpoint.load()
    assert sum(remote.asked.values()) == before


def test_main_is_a_checkpoint_without_a_step(remote):
    checkpoint = open_checkpoint(f"{REPO}@main")
    assert (checkpoint.step, checkpoint.name) == (None, "main")
    require_same_model(checkpoint, open_checkpoint(f"{REPO}@step0"))


def test_a_commit_is_a_revision(remote):
    commit = remote.commits["step100"]
    assert open_checkpoint(f"{REPO}@{commit}").weights_hash == open_checkpoint(f"{REPO}@step100").weights_hash


def test_unknown_names_are_explained(remote):
    with pytest.raises(NotACheckpoint, match=r"no revision 'step99'; near it: step"):
        open_checkpoint(f"{REPO}@step99")
    with pytest.raises(NotACheckpoint, match="neither a folder here nor a repository of the hub"):
        open_checkpoint("nobody/nothing@step1")
    gone = "0" * 40
    with pytest.raises(NotACheckpoint, match="not on the hub"):
        open_checkpoint(f"{REPO}@{gone}").load()


def test_a_revision_without_weights_is_named(remote):
    (remote.folders[remote.commits["step10"]] / "model.safetensors").unlink()
    with pytest.raises(NotACheckpoint, match=r"step10 holds no weights.*it has README\.md"):
        open_checkpoint(f"{REPO}@step10").load()


@pytest.mark.parametrize(
    "request_", ["GET /api/models/.*/refs", "GET /api/models/.*/revision", "resolve/.*safetensors"]
)
@pytest.mark.parametrize("status", ["429", "500"])
def test_a_hub_that_says_later_is_asked_again(remote, request_, status):
    remote.fail_once(request_, status)
    assert open_checkpoint(f"{REPO}@step10").load().model is not None
    assert remote.faults == []


def test_a_hub_that_keeps_failing_is_reported(remote):
    for _ in range(hub_client.TRIES):
        remote.fail_once("refs", "429")
    with pytest.raises(DriftError, match=r"could not be reached for org/run.*429.*try again"):
        open_series(f"{REPO}@step*")


def test_a_connection_cut_in_mid_file_is_resumed(remote, revision_folders, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1024)
    remote.fail_once("GET .*resolve/.*safetensors", "cut")
    path = open_checkpoint(f"{REPO}@step10").fetch()
    assert hash_file(path / "model.safetensors") == hash_file(revision_folders / "step10" / "model.safetensors")
    size = (revision_folders / "step10" / "model.safetensors").stat().st_size
    (asked,) = remote.ranges
    assert 0 < int(asked.removeprefix("bytes=").removesuffix("-")) <= size // 2


def test_bytes_that_were_not_published_are_refused(remote):
    remote.fail_once("GET .*resolve/.*safetensors", "flip")
    with pytest.raises(CorruptWeights, match="arrived with sha256"):
        open_checkpoint(f"{REPO}@step10").load()


def test_a_hub_that_is_not_there_is_reported(remote, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(DriftError, match="could not be reached"):
        open_series(f"{REPO}@step*")


def test_offline_is_respected(remote, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(NotACheckpoint, match="HF_HUB_OFFLINE forbids"):
        open_series(f"{REPO}@step*")
    assert not remote.asked


def test_bin_revisions_are_fetched_where_there_is_nothing_better(remote):
    from safetensors.torch import load_file

    folder = remote.folders[remote.commits["step10"]]
    expected = open_checkpoint(folder).load().model(IDS).logits
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    assert torch.equal(open_checkpoint(f"{REPO}@step10").load().model(IDS).logits, expected)


@pytest.mark.parametrize("keep", [0, 2])
def test_a_sweep_streams_revisions_and_keeps_the_disk_small(remote, tmp_path, keep):
    series = open_series(f"{REPO}@step*")
    on_disk = []
    for loaded in series.models(keep_downloads=keep, reuse=True):
        assert loaded.checkpoint.path.exists()
        on_disk.append(len(list((tmp_path / "cache").glob("models--*/snapshots/*/model.safetensors"))))
    assert max(on_disk) <= 2 + keep
    assert [checkpoint.step for checkpoint in series if checkpoint.path.exists()] == list(STEPS)[len(STEPS) - keep :]


def test_a_stream_that_is_left_or_breaks_drops_what_it_brought(remote, monkeypatch):
    series = open_series(f"{REPO}@step*")
    series.at(1).fetch()
    for step, brought in ((10, False), (1, True)):
        left = stream([series.at(step)], ANYWHERE, reuse=True, downloads=Downloads(0))
        assert next(left).checkpoint.path.exists()
        left.close()
        assert series.at(step).path.exists() is brought, "what was there before stays"
    kept = stream([series.at(100)], ANYWHERE, reuse=True, downloads=Downloads(None))
    next(kept)
    kept.close()
    assert series.at(100).path.exists()

    def broken(checkpoint, *_):
        checkpoint.fetch()
        raise CorruptWeights("half of it")

    monkeypatch.setattr("checkpoints.loading.stream.load", broken)
    with pytest.raises(CorruptWeights):
        next(stream([series.at(10)], ANYWHERE, reuse=True, downloads=Downloads(0)))
    assert not series.at(10).path.exists()


def test_a_sweep_drops_nothing_that_was_there_before(remote):
    series = open_series(f"{REPO}@step*")
    series.at(10).fetch()
    for _ in series.models(keep_downloads=0):
        pass
    assert [checkpoint.step for checkpoint in series if checkpoint.path.exists()] == [10]


def test_what_a_killed_stream_left_is_dropped_by_the_next_and_nothing_else(remote, tmp_path):
    series = open_series(f"{REPO}@step*")
    series.at(10).fetch()
    claim = Claim.of(series.at(1).hub)
    claim.fetch()
    os.close(claim.descriptor)  # as of a process that is gone: it drops nothing
    assert [checkpoint.step for checkpoint in series if checkpoint.path.exists()] == [1, 10]
    for _ in series.models(keep_downloads=0):
        pass
    assert [checkpoint.step for checkpoint in series if checkpoint.path.exists()] == [10]
    assert not any((tmp_path / "cache").glob("models--*/circuit-drift/*"))


def test_an_audit_of_published_metadata_fetches_no_weights(remote):
    folders = {step: remote.folders[remote.commits[f"step{step}"]] for step in STEPS}
    shutil.copy(folders[1000] / "model.safetensors", folders[10] / "model.safetensors")
    edit_config(folders[100], initializer_range=0.5)
    save_tokenizer(folders[1], words=("c", "b", "a"))
    report = audit(open_series(f"{REPO}@step*"))
    assert {(f.kind, f.checkpoints) for f in report.faults} == {
        ("identical", ("10", "1000")),
        ("config_changed", ("100",)),
        ("tokenizer_changed", ("1",)),
    }
    assert report.examined == "metadata"
    assert set(remote.ranges) == {"bytes=0-100000"}  # headers only; these files are smaller than that


def test_headers_tell_of_other_dtypes_and_untied_heads(remote):
    from safetensors.torch import load_file, save_file

    file = remote.folders[remote.commits["step10"]] / "model.safetensors"
    save_file({name: tensor.half() for name, tensor in load_file(file).items()}, file)
    file = remote.folders[remote.commits["step100"]] / "model.safetensors"
    save_file({name: tensor for name, tensor in load_file(file).items() if name != "lm_head.weight"}, file)
    report = audit(open_series(f"{REPO}@step*"))
    assert {(f.kind, f.checkpoints) for f in report.faults} == {
        ("dtype_changed", ("10",)),
        ("tie_flipped", ("100",)),
    }


def test_a_clean_hub_series_raises_nothing(remote):
    assert audit(open_series(f"{REPO}@step*")).faults == ()


def test_a_revision_that_cannot_be_read_does_not_stop_the_audit(remote):
    (remote.folders[remote.commits["step10"]] / "model.safetensors").unlink()
    report = audit(open_series(f"{REPO}@step*"))
    assert [(f.kind, f.checkpoints) for f in report.faults] == [("damaged_files", ("10",))]


def test_weights_of_a_hub_series_are_examined_when_asked_for(remote):
    report = audit(open_series(f"{REPO}@step*"), depth="weights")
    assert report.examined == "weights"
    assert {f.kind for f in report.faults} <= {"foreign", "off_path", "misplaced"}


def test_the_client_takes_the_endpoint_from_the_environment(remote, tmp_path):
    from huggingface_hub import constants

    script = (
        "from checkpoints import open_series;"
        f"s = open_series('{REPO}@step*'); print(s.steps, (s[0].fetch() / 'model.safetensors').exists())"
    )
    environment = os.environ | {
        "HF_ENDPOINT": constants.ENDPOINT,
        "HF_HUB_OFFLINE": "0",
        "HF_HOME": str(tmp_path / "home"),
    }
    done = subprocess.run([sys.executable, "-c", script], env=environment, check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["(0,", "1,", "10,", "100,", "1000)", "True"]


def test_code_of_a_revision_is_fetched_only_where_its_repository_is_named(remote, monkeypatch):
    (remote.folders[remote.commits["step10"]] / "model.py").write_text("code = 1")
    checkpoint = open_checkpoint(f"{REPO}@step10")
    monkeypatch.setenv("CIRCUIT_DRIFT_ALLOW_CODE", "org/other")
    assert not (checkpoint.fetch() / "model.py").exists()
    monkeypatch.setenv("CIRCUIT_DRIFT_ALLOW_CODE", REPO)
    assert (checkpoint.fetch() / "model.py").exists()
