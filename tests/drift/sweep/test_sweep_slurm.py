"""Workers as SLURM jobs, on a stand-in of SLURM whose commands are scripts that keep their queue in a folder.

It keeps no accounting (there is no ``sacct``), like many a small cluster.
"""

import logging
import os
import signal
import stat
import time
from pathlib import Path

import pytest

import circuit_drift
from checkpoints import DriftError, Placement, open_series
from circuit_drift.measures.registry import build_measures
from circuit_drift.prompts import prompts_for
from circuit_drift.store.store import Store
from circuit_drift.sweep.executors.pool import Workers
from circuit_drift.sweep.executors.slurm import SlurmJobs
from circuit_drift.sweep.executors.slurm_queue import DAY, minutes, offered
from circuit_drift.sweep.workers.tasks import Sweep
from tests.drift.sweep.test_sweep_kill import contents, prompts_of

COMMANDS = {
    "sbatch": """
        [ -e $Q/refused ] && [ $(ls $Q/*.job 2>/dev/null | wc -l) -ge $(cat $Q/refused) ] && {
            echo 'sbatch: error: QOSMaxSubmitJobPerUserLimit' >&2; exit 1; }
        id=$(($(ls $Q/*.job 2>/dev/null | wc -l) + 1))
        cp $1 $Q/$id.job
        if [ -e $Q/full ]; then echo 'PENDING|PartitionTimeLimit' > $Q/$id.state
        else
            echo 'RUNNING|None' > $Q/$id.state
            export SLURM_JOB_ID=$id SLURM_PROCID=0 SLURM_LOCALID=0 SLURM_NODEID=0 SLURM_JOB_NODELIST=here
            (bash $Q/$id.job; grep -q RUNNING $Q/$id.state && echo 'COMPLETED|None' > $Q/$id.state) >/dev/null 2>&1 &
        fi
        echo Submitted batch job $id""",
    "srun": """
        named() { echo $1 | sed "s/%j/$SLURM_JOB_ID/; s/%t/0/"; }
        out=$(named $3); log=$(named $5); shift 5
        echo $$ > $Q/$SLURM_JOB_ID.pid
        exec "$@" >$out 2>$log""",
    "squeue": """
        [ -e $Q/silent ] && { echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1; }
        for state in $Q/*.state; do echo "$(basename $state .state)|$(cat $state)"; done""",
    "scancel": """
        echo $1 >> $Q/cancelled
        echo 'CANCELLED|None' > $Q/$1.state
        [ -e $Q/$1.pid ] && kill -9 $(cat $Q/$1.pid) 2>/dev/null; true""",
    "sinfo": "cat $Q/partitions",
}


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the queue."""
    queue, programs = tmp_path / "queue", tmp_path / "bin"
    queue.mkdir()
    programs.mkdir()
    (queue / "partitions").write_text("main*|2:00:00|(null)\nlong|infinite|gpu:a100:8\n")
    for name, body in COMMANDS.items():
        path = programs / name
        path.write_text(f"#!/bin/bash\nQ={queue}\n{body}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.delenv("SBATCH_PARTITION", raising=False)
    monkeypatch.delenv("SBATCH_TIMELIMIT", raising=False)
    return queue


def pool_of(series: Path, store: Path, device: str = "auto", **options) -> SlurmJobs:
    measures = build_measures(prompts_for(series), ["heads"])
    sweep = Sweep.of(open_series(series).checkpoints, measures, Store.open(store), placement=Placement(device=device))
    return SlurmJobs(sweep, Workers(**options))


def test_a_cancelled_job_is_replaced_and_named_and_results_are_those_of_a_serial_run(
    slurm: Path, tiny_series: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog, capfd
):
    monkeypatch.setattr("circuit_drift.sweep.executors.slurm.PAUSE", 0.5)
    asked = {"prompts": prompts_of(tiny_series), "progress": False, "measures": ["heads"]}
    serial = circuit_drift.run(tiny_series, store=tmp_path / "serial", placement=Placement(device="cpu"), **asked)
    capfd.readouterr()
    start = SlurmJobs._start

    def start_and_cancel_the_first(pool: SlurmJobs, worker: int):
        job = start(pool, worker)
        if job.job_id == "1":
            pid = _when_there(slurm / "1.pid")
            (slurm / "1.state").write_text("CANCELLED|None\n")
            os.kill(int(pid), signal.SIGKILL)
        return job

    monkeypatch.setattr(SlurmJobs, "_start", start_and_cancel_the_first)
    done = circuit_drift.run(tiny_series, store=tmp_path / "store", executor="slurm", workers=1, **asked)
    assert [point.keys for point in done] == [point.keys for point in serial]
    assert contents(tmp_path / "store") == contents(tmp_path / "serial")
    (told,) = [record.message for record in caplog.records if "died and was replaced" in record.message]
    assert "job 1: CANCELLED" in told
    assert told.endswith("slurm-logs/1_0_log.err")
    assert not (slurm / "cancelled").exists(), "the second ended by itself"
    assert capfd.readouterr().out == "", "standard output is the command's own"


def _when_there(path: Path) -> str:
    for _ in range(1000):
        if path.exists() and (text := path.read_text().strip()):
            return text
        time.sleep(0.01)
    raise AssertionError(f"{path} never came")


def test_what_is_asked_of_a_job_is_what_the_partition_has(slurm: Path, tiny_series: Path, tmp_path: Path, monkeypatch):
    (slurm / "full").touch()
    with pytest.raises(KeyboardInterrupt), pool_of(tiny_series, tmp_path, count=1):
        raise KeyboardInterrupt
    job = (slurm / "1.job").read_text()
    assert "#SBATCH --time=120\n" in job, "a day would wait for ever"
    assert "#SBATCH --gpus-per-node=0\n" in job
    monkeypatch.setenv("SBATCH_PARTITION", "long")
    (slurm / "partitions").write_text("long|infinite|gpu:a100:8\n")
    asked = [("auto", {}), ("cpu", {}), ("auto", {"gpus_per_worker": 2})]
    gpus = [pool_of(tiny_series, tmp_path, device, **options).executor.parameters for device, options in asked]
    assert [each["gpus_per_node"] for each in gpus] == [1, 0, 2]
    assert [each["time"] for each in gpus] == [DAY] * 3
    monkeypatch.setenv("SBATCH_TIMELIMIT", "0-02:30")
    assert offered().minutes == 150
    (slurm.parent / "bin" / "sinfo").write_text("#!/bin/bash\nexit 1\n")
    assert offered().gpus is None


def test_a_refused_job_ends_the_run_with_what_sbatch_says_and_leaves_none_in_the_queue(slurm, tiny_series, tmp_path):
    (slurm / "full").touch()
    (slurm / "refused").write_text("2")
    pool = pool_of(tiny_series, tmp_path, count=3)
    with pytest.raises(DriftError, match=r"SLURM takes no job: sbatch: error: QOSMaxSubmit.*SBATCH_ACCOUNT"):
        pool.__enter__()
    assert (slurm / "cancelled").read_text().split() == ["1", "2"]


def test_jobs_that_were_queued_before_an_interrupt_are_cancelled(slurm, tiny_series, tmp_path, monkeypatch):
    (slurm / "full").touch()
    start = SlurmJobs._start

    def interrupted(pool: SlurmJobs, worker: int):
        if worker == 1:
            raise KeyboardInterrupt
        return start(pool, worker)

    monkeypatch.setattr(SlurmJobs, "_start", interrupted)
    with pytest.raises(KeyboardInterrupt):
        pool_of(tiny_series, tmp_path, count=2).__enter__()
    assert (slurm / "cancelled").read_text().split() == ["1"]


def test_jobs_have_time_to_end_where_the_controller_is_silent(slurm, tiny_series, tmp_path, monkeypatch):
    (slurm / "full").touch()
    looks = []
    monkeypatch.setattr("circuit_drift.sweep.executors.slurm.time.sleep", looks.append)
    with pool_of(tiny_series, tmp_path, count=1) as pool:
        (slurm / "silent").touch()
        monkeypatch.setattr("circuit_drift.sweep.executors.slurm.FAREWELL", 0.5)
    assert looks and not pool.idle()
    assert (slurm / "cancelled").read_text().split() == ["1"]


def test_jobs_that_wait_are_told_with_their_reason_and_are_no_deaths(slurm, tiny_series, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("circuit_drift.sweep.executors.slurm.PAUSE", 0.0)
    caplog.set_level(logging.INFO, "circuit_drift.progress")
    (slurm / "full").touch()
    with pool_of(tiny_series, tmp_path, count=2) as pool:
        assert [pool.replace_dead() for _ in range(2)] == [[], []]
        assert [record.message for record in caplog.records] == ["SLURM: 2 of 2 jobs wait (PartitionTimeLimit)"]
        (slurm / "silent").touch()
        (slurm / "1.state").unlink()
        assert pool.replace_dead() == [], "a controller that does not answer says nothing of a job"
        (slurm / "silent").unlink()
        (death,) = pool.replace_dead()
        assert death.startswith("job 1: no longer in the queue; its log is ")
        assert not pool.idle()
    assert (slurm / "cancelled").read_text().split() == ["3", "2"], "those that still wait have nothing left to do"


@pytest.mark.parametrize(
    ("limit", "read"),
    [
        ("90", 90),
        ("90:30", 90),
        ("1:30:00", 90),
        ("2-00:00:00", 2 * DAY),
        ("1-12", DAY + 720),
        ("1-12:30", DAY + 750),
        ("infinite", None),
        ("UNLIMITED", None),
        ("n/a", None),
        ("", None),
        ("1:2:3:4", None),
        ("-5", None),
    ],
)
def test_time_limits_as_slurm_writes_them(limit: str, read: int | None):
    assert minutes(limit) == read
