"""What a sweep costs beyond reading weights and computing measures, as ratios measured in one run.

    python benchmarks/sweep_cost.py                              # 30 checkpoints of 125M parameters, 7.5 GB of disk
    python benchmarks/sweep_cost.py --layers 4 --width 256       # smaller
    python benchmarks/sweep_cost.py --series DIR                 # write the series there, or take it from there
    python -m benchmarks.sweep_cost --record 1000                # a point added to a record of so many, alone

Wall seconds. Reading is every byte of every weight file, once; computing is the measure on a model in memory, once for
each checkpoint, timed before the run and inside it, where both sides of the ratio saw the same load of the machine.
The files were just written, so they come from the page cache unless there is too little memory. The audit by samples
is part of the run. The second start finds every result and every hash.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

import circuit_drift
import heads
from checkpoints import Series, open_series
from checkpoints.audit import audit
from checkpoints.files import hashes
from checkpoints.loading.load import LoadedModel
from checkpoints.results.strict_json import digest_json
from circuit_drift.measures.heads import RetrievalMeasure
from circuit_drift.measures.registry import MEASURES
from circuit_drift.prompts import NeedleSource, Prompts, prompts_for
from circuit_drift.store.growing import add_line
from circuit_drift.store.store import Store
from circuit_drift.sweep.workers.tasks import Sweep
from circuit_drift.sweep.workers.worker import work

LISTED = 10_000
RESULTS = 180
WORDS = [f"w{i}" for i in range(400)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoints", type=int, default=30)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--prompts", type=int, default=4, help="needle prompts of the measure")
    parser.add_argument("--length", type=int, default=256, help="tokens of each")
    parser.add_argument("--threads", type=int, default=1, help="torch's threads, before the run and in it")
    parser.add_argument("--series", type=Path, help="where the series stays, for runs that time nothing but the sweep")
    parser.add_argument("--folder", type=Path, help="where the series and its store go, for a while")
    parser.add_argument("--record", type=int, help="checkpoints of a record to which a point is added; nothing else")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        os.environ[hashes.CACHE] = f"{folder}/cache"
        both = (lambda: store_costs(Path(folder)), lambda: sweep_costs(Path(folder), options))
        for costs in (lambda: record_costs(Path(folder), options.record),) if options.record else both:
            for name, value in costs().items():
                print(f"{name:64} {value:,.3f}", flush=True)


def store_costs(folder: Path) -> dict[str, float]:
    """What a sweep adds to streaming its models where nothing is computed, per result; listing a full store."""
    series = make_series(folder / "tiny", checkpoints=RESULTS // 3, layers=1, width=64)
    measures = tuple(Ready(number, result_of(12, 12, prompts=100)) for number in range(3))
    list(series[:1].models(reuse=True))
    streaming = seconds(lambda: [loaded.checkpoint.weights_hash for loaded in series.models(reuse=True)])
    sweep = Sweep.of(series.checkpoints, measures, Store.open(folder / "overhead"), device="cpu")
    whole = seconds(lambda: list(work(sweep)))
    saving = seconds(lambda: [measures[0].result.save(folder / "bare" / str(number)) for number in range(RESULTS)])
    fill(folder / "listed", LISTED)
    listing = seconds(lambda: Store(folder / "listed").results())
    return {
        "writing a result bare, ms": 1000 * saving / RESULTS,
        "store overhead for a result, writing included, ms (< 20)": 1000 * (whole - streaming) / RESULTS,
        f"listing {LISTED:,} results, s (< 1)": listing,
    }


def record_costs(folder: Path, checkpoints: int, *, repeats: int = 20) -> dict[str, float]:
    """Processor time of a point added to a record as a sweep does, against the record written anew with it."""
    store = Store.open(folder / "record")
    points = [
        {"name": f"checkpoint-{step}", "step": step, "keys": {name: digest_json([name, step]) for name in MEASURES}}
        for step in range(checkpoints)
    ]
    record, file = {"question": {"needles": 48, "facts": 64}, "points": points}, store.run_file("long")
    rewritten = least(lambda: store.write_run("long", record), repeats)
    added = least(lambda: add_line(file, record["question"], points[-1]), repeats)
    return {
        "a point added, ms": 1000 * added,
        f"the record of {checkpoints:,} written anew, ms": 1000 * rewritten,
        "added / written anew": added / rewritten,
    }


def sweep_costs(folder: Path, options: argparse.Namespace) -> dict[str, float]:
    """A whole run beside the two things it cannot do without."""
    root = options.series or folder / "series"
    if not root.exists():
        make_series(root, options.checkpoints, options.layers, options.width)
    series = open_series(root)
    prompts = prompts_of(options.prompts, options.length)
    measure = RetrievalMeasure(prompts.needles)
    files = [file for checkpoint in series for file in checkpoint.path.glob("*.safetensors")]
    with series[0].open() as loaded:
        parameters = sum(p.numel() for p in loaded.model.parameters())
        measure.compute(loaded, {})
        with timed_compute() as before:
            for _ in series:
                measure.compute(loaded, {})
    reading = seconds(lambda: [read(file) for file in files])
    hashing = seconds(lambda: [hashes._read(file) for file in files])
    fresh = seconds(series[0].load)
    auditing = seconds(lambda: audit(series, depth="samples"))

    def run() -> None:
        hashes._hash_file.cache_clear()  # as in a process of its own
        circuit_drift.run(
            series, store=folder / "store", prompts=prompts, measures=["heads"], device="cpu", progress=False
        )

    with timed_compute() as inside:
        wall = seconds(run)
    second = seconds(run)
    return {
        "checkpoints": len(series),
        "parameters, millions": parameters / 1e6,
        "reading all weights once, s": reading,
        "hashing all weights once, s": hashing,
        "loading one checkpoint afresh, s": fresh,
        "the audit, by samples, s": auditing,
        "computing all measures once, before the run, s": before.wall,
        "computing all measures once, inside the run, s": inside.wall,
        "computing inside / before, CPU time of its thread": inside.cpu / before.cpu,
        "the run, s": wall,
        "the run / larger of reading and computing, before it (<= 1.15)": wall / max(reading, before.wall),
        "the run / larger of reading and computing, inside it": wall / max(reading, inside.wall),
        "the second start, s": second,
        "the second start / hashing all weights once": second / hashing,
    }


@dataclass(slots=True)
class Spent:
    """Seconds that went into a measure so far."""

    wall: float = 0.0
    cpu: float = 0.0


@contextmanager
def timed_compute() -> Iterator[Spent]:
    """Add up what the measure's computations take: inside the run, both sides of a ratio see the same load."""
    plain, spent = RetrievalMeasure.compute, Spent()

    def timed(measure: RetrievalMeasure, loaded: LoadedModel, earlier: Mapping[str, Any]) -> heads.Scores:
        wall, cpu = time.perf_counter(), time.thread_time()
        result = plain(measure, loaded, earlier)
        spent.wall += time.perf_counter() - wall
        spent.cpu += time.thread_time() - cpu
        return result

    RetrievalMeasure.compute = timed
    try:
        yield spent
    finally:
        RetrievalMeasure.compute = plain


@dataclass(frozen=True, slots=True)
class Ready:
    """A measure that has its result already."""

    number: int
    result: heads.Scores

    name = "heads"
    needs: tuple[str, ...] = ()

    def key_params(self) -> dict[str, Any]:
        return {"number": self.number}

    def compute(self, loaded: LoadedModel, earlier: Mapping[str, Any]) -> heads.Scores:
        return self.result


def make_series(root: Path, checkpoints: int, layers: int, width: int) -> Series:
    """Random models in bfloat16, each a small step from the one before."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=32000 if width > 64 else 512,
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=max(1, width // 64),
        max_position_embeddings=1024,
        tie_word_embeddings=True,
    )
    model = LlamaForCausalLM(config).to(torch.bfloat16)
    for step in range(checkpoints):
        folder = root / f"checkpoint-{step}"
        model.save_pretrained(folder)
        save_tokenizer(folder)
        with torch.no_grad():
            for weight in model.parameters():
                weight.mul_(1.02)
    return open_series(root)


def save_tokenizer(folder: Path) -> None:
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(["<unk>", "<s>", *WORDS])}, "<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>").save_pretrained(folder)


def prompts_of(count: int, length: int) -> Prompts:
    draw = np.random.default_rng(0)
    needles = []
    for i in range(count):
        answer = " ".join(draw.choice(WORDS[10 * i : 10 * i + 10], 5, replace=False))
        needles.append(heads.Needle(needle=f"w390 w391 {answer} w392", answer=answer, question="w393 w390 w391"))
    haystack = " ".join(draw.choice(WORDS[200:380], 4 * length))
    source = NeedleSource(tuple(needles), haystack, length=length, depths=(0.5,), seed=0, origin="benchmark")
    return Prompts(source, prompts_for(Path("/nonexistent")).facts)


def result_of(layers: int, n_heads: int, *, prompts: int) -> heads.Scores:
    """A result of the size that a 125M model's has."""
    values = np.random.default_rng(0).random((prompts, layers, n_heads), dtype=np.float32)
    each = np.zeros(prompts)
    return heads.Scores(
        detectors={"copy": values, "needle_mass": values},
        meta={"chance": 0.0},
        kv_heads=n_heads,
        nll=each[:, None],
        correct=each > 0,
        accepted=each > 0,
        depth=each,
        needle=each.astype(np.int64),
    )


def fill(folder: Path, count: int) -> None:
    """A store of so many results, half of each measure."""
    for number in range(count):
        result = folder / ("heads" if number % 2 else "circuit") / f"{number:024x}"
        result.mkdir(parents=True)
        (result / "result.json").write_text(json.dumps({"format": 1}))


def read(file: Path) -> None:
    with file.open("rb") as stream:
        while stream.read(1 << 24):
            pass


def least(work: Callable[[], object], repeats: int) -> float:
    """The least processor seconds of some runs."""
    found = []
    for _ in range(repeats):
        start = time.process_time()
        work()
        found.append(time.process_time() - start)
    return min(found)


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
