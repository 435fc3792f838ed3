"""Every kind of file that the product reads: a valid one, and the reader or the command that it is for."""

import csv
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file
from typer.testing import CliRunner

from checkpoints import open_checkpoint, open_series
from checkpoints.audit import audit
from checkpoints.files.check import check_files
from circuit_drift.api.runs import load_run
from circuit_drift.behaviour.choices import read_choices
from circuit_drift.benchmark import Recipe, load_recipe, read_sources
from circuit_drift.cli import app
from circuit_drift.cli.options import placed
from circuit_drift.knowledge.scores import read_scores
from circuit_drift.store.journal import Journal, Outcome
from circuit_drift.store.leases import Leases, read_holder
from circuit_drift.store.store import Store
from circuit_drift.training.strategies.settings.config import load_config
from circuit_drift.training.strategies.settings.documents import load_documents
from circuits.facts.facts import load_facts
from circuits.facts.readers import READERS
from circuits.graph.circuit import Circuit
from circuits.graph.exports import read_eap_json, read_parquet
from heads.prompts.needles import load_needles
from heads.scores.head_lists import load_head_lists
from heads.tracking.correlation import read_downstream
from tests.checkpoints.files.test_gguf import write as write_gguf
from tests.drift.handmade import WIRING_A, graph, retrieval, strengths
from tests.fuzz.mutations import mutate, mutate_safetensors
from tests.fuzz.trials import Kind, Refused

STEPS = (0, 10, 20)


def command(*words: object) -> tuple[int, str]:
    """Status and output of a command; a refusal must be one line and status 2, anything else is a crash."""
    done = CliRunner().invoke(app, [str(word) for word in words])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    if done.exit_code == 2 and words[0] != "audit":
        raise Refused(done.stderr.strip())
    if done.exit_code not in (0, 1, 2, 3):
        raise AssertionError(f"status {done.exit_code}")
    return done.exit_code, done.stdout


def series_of(root: Path) -> Path:
    """Checkpoints of one small tensor, with a log and a state of the trainer."""
    for step in STEPS:
        folder = root / f"checkpoint-{step}"
        folder.mkdir(parents=True, exist_ok=True)
        about = {"model_type": "handmade", "num_hidden_layers": 1, "vocab_size": 9}
        (folder / "config.json").write_text(json.dumps(about))
        state = {"global_step": step, "num_input_tokens_seen": step * 64, "log_history": [{"step": step, "loss": 2.5}]}
        (folder / "trainer_state.json").write_text(json.dumps(state))
        embedding = np.arange(32, dtype=np.float32).reshape(8, 4) * (step + 1)
        weights = {"model.embed": embedding, "bias": np.ones(3, np.float16)}
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return root


def in_checkpoint(name: str) -> Callable[[Path], Path]:
    return lambda root: series_of(root) / "checkpoint-10" / name


def sharded(root: Path) -> Path:
    folder = series_of(root) / "checkpoint-10"
    weights = {f"layer.{i}": np.full(4, i, np.float32) for i in range(4)}
    (folder / "model.safetensors").unlink(missing_ok=True)
    files = {name: f"model-0000{1 + int(name[-1]) // 2}-of-00002.safetensors" for name in weights}
    for file in set(files.values()):
        save_file({name: weights[name] for name in weights if files[name] == file}, folder / file)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 64}, "weight_map": files}))
    return index


def gguf(root: Path) -> Path:
    (root / "checkpoint-10").mkdir(parents=True, exist_ok=True)
    return write_gguf(root / "checkpoint-10" / "model.gguf")


def manifest(root: Path) -> Path:
    series_of(root)
    rows = [["Stage", "Step", "Tokens Seen", "Checkpoint Directory"]]
    rows += [["stage1", str(step), str(step * 64), f"checkpoint-{step}"] for step in STEPS]
    with (root / "manifest.csv").open("w", newline="") as lines:
        csv.writer(lines).writerows(rows)
    return root / "manifest.csv"


def adapter(root: Path) -> Path:
    base, folder = series_of(root) / "checkpoint-10", root / "adapter"
    folder.mkdir(exist_ok=True)
    about = {"base_model_name_or_path": str(base), "peft_type": "LORA", "r": 2, "target_modules": ["q"]}
    (folder / "adapter_config.json").write_text(json.dumps(about))
    save_file({"base_model.model.q.lora_A.weight": np.ones((2, 4), np.float32)}, folder / "adapter_model.safetensors")
    return folder / "adapter_config.json"


def text_file(name: str, content: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / name).write_text(content, encoding="utf-8")
        return folder / name

    return make


def lines(*records: Any) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


NEEDLES = lines(*(
    {"needle": f"The code of n{i} is {i}{i}.", "answer": f"{i}{i}", "question": f"What is the code of n{i}? It is"}
    for i in range(3)
))  # fmt: skip
FACTS = lines(*(
    {"clean": f"n{i} was born in", "corrupt": f"n{i + 1} was born in", "answer": f" p{i}", "wrong": f" p{i + 1}",
     "labels": {"class": "even"}}
    for i in range(3)
))  # fmt: skip
COUNTERFACT = json.dumps([
    {"case_id": i, "requested_rewrite": {"prompt": "{} was born in", "subject": f"n{i}", "relation_id": "P1",
     "target_new": {"str": "Rome"}, "target_true": {"str": f"p{i}"}}, "paraphrase_prompts": [f"Born: n{i} in"]}
    for i in range(3)
])  # fmt: skip
LAMA = lines(*({"sub_label": f"n{i}", "obj_label": f"p{i}", "predicate_id": "P19",
                "masked_sentences": [f"n{i} was born in [MASK] ."]} for i in range(3)))  # fmt: skip
PROBES = lines(*({"subject": f"n{i}", "relation": "birth", "prompt": f"n{i} was born in", "answer": f"p{i}"}
                 for i in range(3)))  # fmt: skip
DOCUMENTS = lines(*({"text": f"n{i} was born in p{i}. It is so.", "entity": f"n{i}", "main": True} for i in range(3)))
CHOICES = lines(*({"prompt": f"n{i} is", "options": [" a", " b"], "labels": {"form": "x"}} for i in range(3)))
RECORDS = lines(*({"entity": f"n{i}", "aliases": ["m"], "text": "It is.", "facts": {"sea": "Blue"}} for i in range(3)))
RECIPE = """
per_class = 2
alike = 0.75
text = ["a/b"]
[[fact]]
name = "year"
pattern = '(1\\d\\d\\d)'
question = "When was {entity}?"
longest = 1
"""
TOML = """
model = "demo@9000"
documents = "documents.jsonl"
facts = "facts.jsonl"
epochs = 2
learned = 0.5
skills = ["copying"]
[[strategy]]
name = "plain"
lr = 1e-4
[[strategy]]
name = "adapters"
documents = "main"
[strategy.lora]
r = 4
"""
DOWNSTREAM = "step,accuracy,ppl\n0,0.1,9.5\n10,0.2,7\n20,0.4,5.25\n"
SCORES = "unit,step,score,probe\na,0,0,x\na,10,1,x\nb,0,1,x\nb,10,0,x\n"
HEAD_LISTS = json.dumps({f"{layer}-{head}": [0.5, 0.25] for layer in range(2) for head in range(2)})
LOG = "step,stage,tokens,loss\n0,,0,3.5\n10,,640,2.5\n20,,1280,2.25\n"


def config(folder: Path) -> Path:
    text_file("documents.jsonl", DOCUMENTS)(folder)
    text_file("facts.jsonl", FACTS)(folder)
    return text_file("compare.toml", TOML)(folder)


def stored(folder: Path) -> Store:
    """A run of two checkpoints with retrieval scores and a circuit each."""
    store = Store.open(folder / "store")
    points = []
    for step in STEPS[:2]:
        heads_of = retrieval({(0, 1): 0.25}, nll=math.log(8), name=f"checkpoint-{step}")
        circuit = graph(strengths(WIRING_A), known=8, name=f"checkpoint-{step}")
        for measure, result in (("heads", heads_of), ("circuit", circuit)):
            key = f"{measure[0]}{step}"
            about = {**result.meta.get("provenance", {}), "key": key}
            replace(result, meta={**result.meta, "provenance": about}).save(store.folder(measure, key))
        keys = {"heads": f"h{step}", "circuit": f"c{step}"}
        points.append({"name": f"checkpoint-{step}", "step": step, "tokens": None, "stage": None, "branch": None,
                       "failures": {}, "keys": keys, "weights": ""})  # fmt: skip
    about = {"name": "lines", "origins": {"needles": "n", "facts": "f"}, "log": LOG, "audit": None, "parents": {}}
    store.write_run("lines", {**about, "points": points})
    return store


def stored_file(measure: str, name: str) -> Callable[[Path], Path]:
    return lambda folder: stored(folder).folder(measure, f"{measure[0]}10") / name


def stored_record(folder: Path) -> Path:
    return stored(folder).run_file("lines")


def read_store(folder: Path) -> list[Any]:
    """Every number of a stored run; None for a result that is left out, which `read_or_left_out` allows."""
    run = load_run(folder / "store")
    return [[None if part is None else digest(part) for part in (point.heads, point.circuit)] for point in run]


def digest(result: Any) -> str:
    """What a result holds, as text."""
    return repr(result.to_frame().round(9).to_dict())


def without_damage(folder: Path) -> list[Any]:
    """`read_store`, refused where it leaves anything out: then the rest must be what was written."""
    found = read_store(folder)
    if any(part is None for point in found for part in point):
        whole = digest_of_whole(folder)
        assert all(part in (None, right) for point, rights in zip(found, whole, strict=True)
                   for part, right in zip(point, rights, strict=True)), "a wrong number was read"  # fmt: skip
        raise Refused("left out")
    return found


_whole: dict[Path, list[Any]] = {}


def digest_of_whole(folder: Path) -> list[Any]:
    """What the undamaged store of a folder holds, remembered from the first time it was read."""
    return _whole[folder]


def remembered(make: Callable[[Path], Path]) -> Callable[[Path], Path]:
    def made(folder: Path) -> Path:
        path = make(folder)
        _whole[folder] = read_store(folder)
        return path

    return made


def journal(folder: Path) -> Path:
    Journal(folder / "sweep").write(Outcome(0, {"heads": "abc"}, {"roles": "it failed"}, 1, "w"))
    return folder / "sweep" / "0.json"


def lease(folder: Path) -> Path:
    taken = Leases(folder / "claims", "sweep").take("work", "checkpoint-1")
    return folder / "claims" / "work" if taken is None else taken.path


def in_model(name: str) -> Callable[[Path], Path]:
    """A file of a checkpoint that can be loaded, with its tokenizer."""

    def make(root: Path) -> Path:
        from tests.drift.conftest import save_model

        save_model(root / "checkpoint-1", 0)
        return root / "checkpoint-1" / name

    return make


def tokenizer(folder: Path) -> list[int]:
    from checkpoints.loading.load import load_tokenizer

    checkpoint = open_checkpoint(folder / "checkpoint-1")
    found = load_tokenizer(checkpoint)
    return [] if checkpoint.tokenizer_hash is None or found is None else found("the code of name1 is code2 .").input_ids


def loaded(folder: Path) -> bool:
    open_checkpoint(folder / "checkpoint-1").load().release()
    return True


def read_lease(folder: Path) -> bool:
    path = folder / "claims" / "work"
    return Leases(path.parent, "another").living("work") or read_holder(path) is not None


def audited(depth: str) -> Callable[[Path], Any]:
    return lambda folder: audit(open_series(folder), depth=depth).to_dict()  # type: ignore[arg-type]


def checked(folder: Path) -> Any:
    check_files(folder / "checkpoint-10")
    return open_checkpoint(folder / "checkpoint-10").weights_hash


def parquet(folder: Path) -> Path:
    return Circuit.export(graph(strengths(WIRING_A), known=8, name="c").prune(5), folder / "c.parquet")


def eap_json(folder: Path) -> Path:
    return Circuit.export(graph(strengths(WIRING_A), known=8, name="c").prune(5), folder / "c.eap.json")


def facts_command(form: str, name: str) -> Callable[[Path], Any]:
    return lambda folder: command("facts", folder / name, "--out", folder / "out.jsonl", "--format", form)


KINDS = (
    Kind("safetensors header", in_checkpoint("model.safetensors"), checked, mutate_safetensors),
    Kind("GGUF head", gguf, checked, mutate),
    Kind("GGUF, audited", gguf, audited("weights"), mutate),
    Kind("safetensors, audited", in_checkpoint("model.safetensors"), audited("weights"), mutate_safetensors),
    Kind("config.json", in_checkpoint("config.json"), audited("samples"), mutate),
    Kind("trainer_state.json", in_checkpoint("trainer_state.json"), lambda f: command("show", f), mutate),
    Kind("weights index", sharded, checked, mutate),
    Kind("manifest.csv", manifest, lambda f: command("show", f), mutate),
    Kind("adapter_config.json", adapter, lambda f: open_checkpoint(f / "adapter").weights_hash, mutate),
    Kind("needles.jsonl", text_file("n.jsonl", NEEDLES), lambda f: load_needles(f / "n.jsonl"), mutate),
    Kind("facts.jsonl", text_file("f.jsonl", FACTS), lambda f: load_facts(f / "f.jsonl"), mutate),
    Kind("CounterFact", text_file("c.json", COUNTERFACT), facts_command("counterfact", "c.json"), mutate),
    Kind("LAMA", text_file("l.jsonl", LAMA), facts_command("lama", "l.jsonl"), mutate),
    Kind("probes", text_file("p.jsonl", PROBES), lambda f: READERS["probes"](f / "p.jsonl", None), mutate),
    Kind("documents.jsonl", text_file("d.jsonl", DOCUMENTS), lambda f: load_documents(f / "d.jsonl"), mutate),
    Kind("train config", config, lambda f: load_config(f / "compare.toml"), mutate),
    Kind("choices.jsonl", text_file("c.jsonl", CHOICES), lambda f: read_choices(f / "c.jsonl"), mutate),
    Kind("recipe", text_file("r.toml", RECIPE), lambda f: load_recipe(f / "r.toml"), mutate),
    Kind("records.jsonl", text_file("r.jsonl", RECORDS), lambda f: read_sources(f / "r.jsonl", Recipe()), mutate),
    Kind("downstream CSV", text_file("d.csv", DOWNSTREAM), lambda f: read_downstream(f / "d.csv"), mutate),
    Kind("scores CSV", text_file("s.csv", SCORES), lambda f: read_scores(f / "s.csv", probe="probe"), mutate),
    Kind("head lists", text_file("h.json", HEAD_LISTS), lambda f: load_head_lists(f / "h.json"), mutate),
    Kind("device map", text_file("m.json", '{"model.layers.0": 0, "lm_head": "cpu"}'),
         lambda f: placed("cpu", "float32", "sdpa", str(f / "m.json")).device_map, mutate),
    Kind("result.json", remembered(stored_file("heads", "result.json")), without_damage, mutate, sealed=True),
    Kind("stored arrays", remembered(stored_file("circuit", "arrays.safetensors")), without_damage, mutate_safetensors,
         sealed=True),
    Kind("run record", remembered(stored_record), without_damage, mutate, sealed=True),
    Kind("store, verified", stored_file("heads", "result.json"), lambda f: command("verify", f / "store")[0], mutate),
    Kind("store, listed", stored_record, lambda f: command("store", f / "store")[0], mutate),
    Kind("journal", journal, lambda f: Journal(f / "sweep").read([0]), mutate),
    Kind("lease", lease, read_lease, mutate),
    Kind("circuit, EAP JSON", eap_json, lambda f: read_eap_json(f / "c.eap.json").mask.tolist(), mutate),
    Kind("circuit, parquet", parquet, lambda f: read_parquet(f / "c.parquet").mask.tolist(), mutate),
    Kind("tokenizer.json", in_model("tokenizer.json"), tokenizer, mutate),
    Kind("tokenizer_config.json", in_model("tokenizer_config.json"), tokenizer, mutate),
    Kind("config.json, loaded", in_model("config.json"), loaded, mutate),
    Kind("weights, loaded", in_model("model.safetensors"), loaded, mutate_safetensors),
)  # fmt: skip
