"""What a sweep takes out of the hub client's cache: what it brought, once nobody uses it, and nothing else."""

import errno
import os
import shutil
from collections import namedtuple
from contextlib import ExitStack
from pathlib import Path
from threading import Thread

import pytest
from huggingface_hub.utils import WeakFileLock

from checkpoints import open_checkpoint, open_series
from checkpoints.loading.stream import stream
from checkpoints.placement import ANYWHERE
from checkpoints.results.text import in_bytes
from checkpoints.series.downloads import Claim, Downloads
from checkpoints.series.hub import HubRevision
from checkpoints.series.hub_client import NoRoom, Unreached
from tests.checkpoints.conftest import save_model, save_tokenizer
from tests.checkpoints.hub_standin import REPO, Hub, connected

STEPS = (10, 20, 30)
WEIGHTS = "model.safetensors"
Usage = namedtuple("Usage", "total used free")


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three steps, the last of which is main too."""
    root = tmp_path_factory.mktemp("published")
    for step in STEPS:
        save_tokenizer(save_model(root / f"step{step}", seed=step))
    shutil.copytree(root / "step30", root / "main")
    return root


@pytest.fixture
def remote(published: Path, tmp_path: Path):
    with connected(Hub({folder.name: folder for folder in published.iterdir()}), tmp_path / "cache"):
        yield open_series(f"{REPO}@step*")


def weights(series) -> list[int]:
    """The steps whose weights are on the disk."""
    return [checkpoint.step for checkpoint in series if (checkpoint.path / WEIGHTS).exists()]


def blobs(cache: Path) -> int:
    return len(list(cache.glob("models--*/blobs/*")))


def test_of_a_revision_that_the_user_had_in_part_that_part_stays(remote):
    for step, name in ((10, WEIGHTS), (20, "tokenizer.json")):
        remote.at(step).hub.fetch_file(name)
    for _ in remote.models(keep_downloads=0):
        pass
    assert weights(remote) == [10]
    assert [path.name for path in remote.at(10).path.iterdir()] == [WEIGHTS]
    assert [path.name for path in remote.at(20).path.iterdir()] == ["tokenizer.json"]


def test_a_file_that_the_user_linked_into_the_cache_stays(remote, published, tmp_path):
    own = shutil.copy(published / "step20" / WEIGHTS, tmp_path / "own.safetensors")
    remote.at(20).path.mkdir(parents=True)
    (remote.at(20).path / WEIGHTS).symlink_to(own)
    for _ in remote.models(keep_downloads=0):
        pass
    assert Path(own).exists() and weights(remote) == [20]


def test_content_that_another_revision_has_too_stays_with_that(remote):
    main = open_checkpoint(f"{REPO}@main")
    main.fetch()
    assert remote.at(30).hub.to_fetch == {}, "it is here, under another name"
    for _ in remote.models(keep_downloads=0):
        pass
    assert weights(remote) == [] and (main.path / WEIGHTS).resolve().is_file()


def test_the_last_of_those_who_use_a_revision_takes_it_away(remote, tmp_path):
    hub = remote.at(10).hub
    first, second = Claim.of(hub), Claim.of(hub)
    first.fetch()
    first.drop()
    assert weights(remote) == [10]
    second.drop()
    assert weights(remote) == [] and not hub.mark.exists() and blobs(tmp_path / "cache") == 0


def test_what_was_kept_is_the_user_s(remote):
    for _ in remote.models(keep_downloads=1):
        pass
    assert weights(remote) == [30] and not remote.at(30).hub.mark.exists()
    for _ in remote.models(keep_downloads=0):
        pass
    assert weights(remote) == [30]


def test_what_was_read_ahead_in_vain_goes_with_the_stream(remote):
    with Downloads(0) as downloads:
        left = stream(remote.checkpoints, ANYWHERE, reuse=True, downloads=downloads)
        next(left)
        reader = left.gi_frame.f_locals["reader"]
        left.close()
        reader.join()
        again = stream(remote.checkpoints[2:], ANYWHERE, reuse=True, downloads=downloads)
        next(again)
        assert weights(remote) == [30]
        again.close()
    assert weights(remote) == []


def test_what_a_killed_sweep_left_goes_though_its_results_are_stored(remote):
    claim = Claim.of(remote.at(20).hub)
    claim.fetch()
    killed(claim)
    remote.at(10).fetch()
    with Downloads(0, remote.checkpoints):
        assert weights(remote) == [10, 20]
    assert weights(remote) == [10]


def killed(claim: Claim) -> None:
    """What becomes of a claim whose process is killed: its lock ends."""
    os.close(claim.descriptor)


def test_what_the_user_fetched_after_a_sweep_was_killed_stays(remote):
    claim = Claim.of(remote.at(10).hub)
    claim.fetch()
    killed(claim)
    killed(Claim.of(remote.at(20).hub))
    remote.at(20).fetch()
    for _ in remote.models(keep_downloads=0):
        pass
    with Downloads(0, remote.checkpoints):
        pass
    assert weights(remote) == [20] and not remote.at(20).hub.mark.exists()


def test_a_file_that_the_user_fetched_anew_stays(remote):
    hub = remote.at(10).hub
    claim = Claim.of(hub)
    claim.fetch()
    killed(claim)
    pointer = hub.path / WEIGHTS
    content = pointer.readlink()
    pointer.unlink()
    pointer.symlink_to(content)
    os.utime(pointer, ns=(0, 0), follow_symlinks=False)
    with Downloads(0, remote.checkpoints):
        pass
    assert weights(remote) == [10] and not (hub.path / "tokenizer.json").exists()


def test_a_sweep_that_keeps_its_downloads_keeps_those_that_a_killed_one_left(remote):
    claim = Claim.of(remote.at(10).hub)
    claim.fetch()
    killed(claim)
    for _ in remote.models(keep_downloads=None):
        pass
    with Downloads(0, remote.checkpoints):
        pass
    assert weights(remote) == [10, 20, 30]


def test_a_branch_that_has_moved_on_meanwhile_keeps_its_place(remote):
    hub = remote.at(10).hub
    claim = Claim.of(hub)
    claim.fetch()
    ref = hub.path.parent.parent / "refs" / hub.revision
    assert ref.read_text() == hub.commit
    ref.write_text("0" * 40)
    claim.drop()
    assert weights(remote) == [] and ref.read_text() == "0" * 40


def test_a_mark_that_cannot_be_written_is_not_held(remote, monkeypatch):
    def full(*_args):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", full)
        assert Claim.of(remote.at(10).hub) is None
    claim = Claim.of(remote.at(10).hub)
    claim.fetch()
    claim.drop()
    assert weights(remote) == [], "nobody else holds it"


def test_a_reader_that_begins_once_nobody_waits_for_it_leaves_nothing(remote):
    checkpoint = remote.at(10)
    with Downloads(0) as downloads:
        downloads.spare(checkpoint, Thread())
        downloads.fetch(checkpoint)
        assert weights(remote) == [10]
        downloads.read_in_vain(checkpoint)
        assert weights(remote) == []


def test_what_killed_sweeps_left_waits_for_a_hub_that_is_not_there(remote, monkeypatch):
    killed(Claim.of(remote.at(10).hub))

    def away(*_args):
        raise Unreached("the hub could not be reached")

    monkeypatch.setattr(Claim, "of", away)
    with Downloads(0, remote.checkpoints):
        pass
    assert remote.at(10).hub.mark.exists()


def client_s_lock(hub: HubRevision, digest: str):
    """What another process holds while it fetches a file."""
    cache = hub.path.parent.parent
    locks = cache.parent / ".locks" / cache.name
    locks.mkdir(parents=True, exist_ok=True)
    return WeakFileLock(locks / f"{digest}.lock")


def test_a_file_that_the_user_was_fetching_already_stays(remote, monkeypatch):
    hub, fetch_file = remote.at(10).hub, HubRevision.fetch_file
    claim = Claim.of(hub)
    (digest,) = [file.digest for file in hub.weights]
    with ExitStack() as user:
        user.enter_context(client_s_lock(hub, digest))

        def waiting(revision: HubRevision, name: str) -> Path:
            if name == WEIGHTS:
                user.close()
            return fetch_file(revision, name)

        monkeypatch.setattr(HubRevision, "fetch_file", waiting)
        claim.fetch()
    claim.drop()
    assert [path.name for path in hub.path.iterdir()] == [WEIGHTS]


def half_a_file(hub: HubRevision) -> tuple[Path, str]:
    """A file as the client keeps it while it is on its way, and its hash."""
    (digest,) = [file.digest for file in hub.weights]
    part = hub.path.parent.parent / "blobs" / f"{digest}.0a1b.incomplete"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"half of it")
    return part, digest


def test_half_a_file_goes_too(remote):
    claim = Claim.of(remote.at(10).hub)
    part, _ = half_a_file(claim.revision)
    claim.drop()
    assert not part.exists()


def test_half_a_file_that_another_process_fetches_stays(remote):
    claim = Claim.of(remote.at(10).hub)
    part, digest = half_a_file(claim.revision)
    with client_s_lock(claim.revision, digest):
        claim.drop()
    assert part.exists() and claim.revision.mark.exists()
    with Downloads(0, remote.checkpoints):
        pass
    assert not part.exists() and not claim.revision.mark.exists()


def test_what_the_disk_has_no_room_for_is_not_begun(remote, monkeypatch):
    hub = remote.at(10).hub
    needed = sum(hub.to_fetch.values())
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: Usage(10**9, 0, needed - 1))
    free = in_bytes(needed - 1)
    told = rf"{REPO}@step10 takes .* kB in the hub client's cache, .*, and {free} are free on its disk; make room there"
    with pytest.raises(NoRoom, match=told):
        remote.at(10).fetch()
    assert not hub.path.exists()
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: Usage(10**9, 0, needed))
    remote.at(10).fetch()
    assert weights(remote) == [10]


def test_a_disk_that_fills_up_meanwhile_is_not_taken_for_a_hub_that_is_not_there(remote, monkeypatch):
    import huggingface_hub

    def full(*_args, **_options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", full)
    with pytest.raises(NoRoom, match=r"the disk of the hub client's cache, .*/cache, is full"):
        remote.at(10).fetch()


def test_bytes_to_fetch_are_those_that_are_not_here(remote, published):
    hub: HubRevision = remote.at(10).hub
    whole = sum((published / "step10" / file.name).stat().st_size for file in hub.files)
    assert sum(hub.to_fetch.values()) == whole
    hub.fetch_file("tokenizer.json")
    assert sum(hub.to_fetch.values()) == whole - (published / "step10" / "tokenizer.json").stat().st_size
