"""Training killed at whatever it is doing, again and again, ends with the weights of a run that was left alone."""

import hashlib
import multiprocessing
import time
from pathlib import Path

import pytest

import circuit_drift
from circuit_drift.lab import probes
from circuit_drift.lab.build import save_checkpoint
from circuit_drift.lab.documents import lab_documents
from circuit_drift.lab.train import build_model
from circuit_drift.training.strategies import load_config, run_all, write_documents

CONFIG = """
model = "base"
documents = "new.jsonl"
facts = "facts.jsonl"
epochs = 4
batch = 4
[[strategy]]
name = "lora"
lr = 0.03
warmup = 3
lora = {r = 2, dropout = 0.1}
[[strategy]]
name = "previous"
lr = 0.03
kl = 1.0
kl_to = "previous"
"""
PATIENCE = 300


@pytest.fixture(scope="module")
def config(tiny_recipe, tokenizer, world, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("killed")
    save_checkpoint(folder / "base", build_model(tiny_recipe, tokenizer), tokenizer)
    new = world.batch(1)[:20]
    write_documents(folder / "new.jsonl", lab_documents(new, per_person=4))
    records = [r for r in probes.fact_records(world, 0) if r["labels"]["class"] == "known"]
    probes.write_jsonl(folder / "facts.jsonl", records)
    (folder / "config.toml").write_text(CONFIG)
    return folder / "config.toml"


def left(out: Path) -> dict[str, str]:
    """Hashes of the weights of all checkpoints."""
    files = sorted(out.glob("*/checkpoint-*/*model.safetensors"))
    return {str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def server():
    """Starts processes quickly: what they import is imported once."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["circuits", "heads", "peft", "transformers.models.llama.modeling_llama"])
    return context


def train(config: Path, out: Path) -> None:
    run_all(load_config(config), out)


def train_and_kill(server, config: Path, out: Path, *, checkpoints: int, pause: float) -> bool:
    """Train in a process of its own, killed a moment after that many checkpoints are there; whether it was."""
    process = server.Process(target=train, args=(config, out))
    process.start()
    patience = time.monotonic() + PATIENCE
    while process.is_alive() and time.monotonic() < patience:
        if len(left_names(out)) >= checkpoints:
            time.sleep(pause)
            process.kill()
            break
        time.sleep(0.005)
    process.join(PATIENCE)
    assert process.exitcode in (0, -9)
    return process.exitcode == -9


def left_names(out: Path) -> list[Path]:
    return list(out.glob("*/checkpoint-*"))


def test_a_run_killed_at_any_point_resumes_to_the_same_weights(config, tmp_path, server):
    run_all(load_config(config), tmp_path / "whole")
    killed = [
        train_and_kill(server, config, tmp_path / "killed", checkpoints=number, pause=pause)
        for number, pause in ((3, 0.02), (7, 0.0))
    ]
    assert all(killed)
    run_all(load_config(config), tmp_path / "killed")
    whole = left(tmp_path / "whole")
    assert len(whole) == 10
    assert left(tmp_path / "killed") == whole
    for name in ("lora", "previous"):
        runs = [circuit_drift.load_run(tmp_path / place / "store", name) for place in ("whole", "killed")]
        assert runs[0].log == runs[1].log
    assert not list((tmp_path / "killed").glob("*/.*"))  # no remains of a checkpoint half written
