"""What a process may use of its machine, by the bounds of a queue or a container; other work beside it."""

from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from checkpoints.loading import room
from checkpoints.placement import Placement
from circuit_drift.sweep.workers import machine
from circuit_drift.sweep.workers.machine import caution, free_memory, neighbours, own_cores

CPU = Placement(device="cpu")


def a_group(folder: Path, files: dict[str, str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text)


@pytest.fixture
def a_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """With 64,000 bytes free, and none of the groups that these tests run in."""
    monkeypatch.setattr(room, "ROOT", tmp_path)
    free = psutil.virtual_memory()._replace(available=64_000)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: free)
    (tmp_path / "proc/self").mkdir(parents=True)
    return tmp_path


def test_without_groups_what_the_machine_has_free_is_told(a_machine: Path):
    assert free_memory(CPU) == 64_000
    (a_machine / "proc/self/cgroup").write_text("0::/\n")
    assert free_memory(CPU) == 64_000
    assert free_memory(Placement(device_map="auto")) is None


@pytest.mark.parametrize(
    ("bound", "above", "free"),
    [("10000", "max", 10_000 - 4000 + 1500), ("max", "9000", 9000 - 6000), ("1000", "max", 0), ("max", "max", 64_000)],
)
def test_a_job_of_a_queue_is_told_what_its_bound_leaves(a_machine: Path, bound: str, above: str, free: int):
    (a_machine / "proc/self/cgroup").write_text("0::/slurm/job_7\n")
    groups = a_machine / "sys/fs/cgroup"
    stat = "anon 100\ninactive_file 1500\n"
    a_group(groups / "slurm/job_7", {"memory.max": bound, "memory.current": "4000", "memory.stat": stat})
    a_group(groups / "slurm", {"memory.max": above, "memory.current": "6000", "memory.stat": "anon 6000\n"})
    assert free_memory(CPU) == free


def test_groups_of_the_first_version_count_too_even_where_their_path_is_hidden_in_a_container(a_machine: Path):
    (a_machine / "proc/self/cgroup").write_text("4:cpu,memory:/docker/abc\n0::/\n")
    files = {
        "memory.limit_in_bytes": "20000",
        "memory.usage_in_bytes": "7000",
        "memory.stat": "total_inactive_file 0\n",
    }
    a_group(a_machine / "sys/fs/cgroup/memory", files)
    assert free_memory(CPU) == 13_000


def test_this_machine_tells_no_more_than_it_has():
    assert 0 < (free_memory(CPU) or 0) <= psutil.virtual_memory().total


@pytest.mark.parametrize(("first", "second", "share"), [(2.0, 0.0, 0.0), (7.0, 5.0, 0.5), (10.0, 10.0, 0.9)])
def test_what_other_work_took_of_our_cores_is_told(monkeypatch, first: float, second: float, share: float):
    """In ten seconds this process worked two; of three cores the one between is not ours."""
    passed = 0.0

    def worked(*, percpu: bool) -> list[SimpleNamespace]:
        return [SimpleNamespace(user=passed * rate, system=0.0) for rate in (first, 10.0, second)]

    monkeypatch.setattr(machine, "own_cores", lambda: (0, 2))
    monkeypatch.setattr(psutil, "cpu_times", worked)
    monkeypatch.setattr("time.perf_counter", lambda: 10 * passed)
    monkeypatch.setattr("time.process_time", lambda: 2 * passed)
    with neighbours() as found:
        passed = 1.0
    assert found.share == pytest.approx(share)


def test_a_time_taken_beside_much_other_work_is_told_as_such():
    assert caution(0.2) == ""
    assert caution(0.87) == " (timed while other work took 87% of the processors here: without it, less)"


def test_this_process_has_cores_and_no_more_than_the_machine():
    assert 0 < len(own_cores()) <= (psutil.cpu_count() or 1)
