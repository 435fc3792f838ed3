"""Tables that go with a series: a live curve, and what the saved checkpoints know and retrieve."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from tqdm.auto import tqdm

from checkpoints.results.disk import write_file
from circuit_drift.lab import evaluate, probes
from circuit_drift.lab.data import held_out_rows
from circuit_drift.lab.evaluate import Recall
from circuit_drift.lab.recipe import PRETRAIN_MIX
from circuit_drift.lab.world import World

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

    from circuit_drift.lab.train import Moment
    from heads.prompts.needles import NeedleSet

LIVE_NEEDLES = 8
FEWER = 16  # needles in the measures beside the main one
LENGTH = 256
LONG = 512

Row = dict[str, Any]


def live_row(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, world: World, moment: Moment) -> Row:
    """The cheaper measures of a model in training: one row of a curve."""
    records, haystack = probes.needle_records(0, count=LIVE_NEEDLES), probes.haystack(0)
    three = evaluate.needle_set(tokenizer, records, haystack, length=LENGTH, distractors=2)
    one = evaluate.needle_set(tokenizer, records, haystack, length=LENGTH // 2, distractors=0)
    answers = evaluate.recall(model, tokenizer, world.controls, [fact.prompts[0] for fact in world.controls])
    return {
        **_moment_columns(moment),
        **needle_columns(model, three),
        **{f"single_{name}": value for name, value in needle_columns(model, one).items()},
        "recall_known": _share(answers),
    }


def measure_series(folder: Path, world: World, tokenizer: PreTrainedTokenizerFast, moments: Sequence[Moment]) -> None:
    """Measure every saved checkpoint; write ``training_log.csv`` and ``fact_recall.csv`` to the series folder."""
    from checkpoints import open_checkpoint

    log: list[Row] = []
    recalls: list[Row] = []
    for moment in tqdm(moments, desc="measuring", unit="checkpoint"):
        with open_checkpoint(folder / f"checkpoint-{moment.step}").open() as loaded:
            model = loaded.model
            facts = _fact_rows(model, tokenizer, world, moment.step)
            recalls += facts
            log.append(
                {
                    **_moment_columns(moment),
                    "heldout_loss": _held_out_loss(model, tokenizer, world),
                    **_series_needles(model, tokenizer, folder),
                    **_recall_columns(facts),
                }
            )
        write_csv(folder / "training_log.csv", log)
        write_csv(folder / "fact_recall.csv", recalls)


def write_csv(path: Path, rows: Sequence[Row]) -> None:
    """Write rows that share their columns."""
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0].keys(), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_file(path, text.getvalue())


def _moment_columns(moment: Moment) -> Row:
    return {
        "step": moment.step,
        "stage": moment.stage,
        "tokens": moment.tokens,
        "train_loss": round(moment.loss, 4),
    }


def needle_columns(model: PreTrainedModel, prompts: NeedleSet) -> Row:
    """Needle accuracy, answer PPL and the leading head over needle prompts."""
    import heads

    scores = heads.score(model, prompts, batch_size=16)
    best = scores.top(1)[0]
    return {
        "needle_accuracy": round(scores.needle_accuracy, 4),
        "answer_ppl": float(f"{scores.answer_ppl:.5g}"),
        "best_head": best.name,
        "best_head_score": round(best.score.value, 4),
        "retrieval_heads": scores.count(),
    }


def _series_needles(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, folder: Path) -> Row:
    records = probes.read_jsonl(folder / "needles.jsonl")
    haystack = (folder / "haystack.txt").read_text(encoding="utf-8")
    prompts = evaluate.needle_set(tokenizer, records, haystack, length=LENGTH, distractors=2)
    columns = needle_columns(model, prompts)
    for prefix, length, distractors in (("single_", LENGTH, 0), ("long_", LONG, 0), ("long3_", LONG, 2)):
        prompts = evaluate.needle_set(tokenizer, records[:FEWER], haystack, length=length, distractors=distractors)
        columns |= {prefix + name: value for name, value in needle_columns(model, prompts).items()}
    return columns


def _held_out_loss(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, world: World) -> float:
    import torch

    rows = held_out_rows(tokenizer, PRETRAIN_MIX, world.old, count=24, length=LENGTH, filler=100)
    with torch.no_grad():
        return round(float(evaluate.token_losses(model, rows).mean()), 4)


def _fact_rows(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, world: World, step: int) -> list[Row]:
    facts = (*world.controls, *world.learned)
    trained = evaluate.recall(model, tokenizer, facts, [fact.prompts[0] for fact in facts])
    held_out = evaluate.recall(model, tokenizer, facts, [fact.held_out_prompt for fact in facts])
    return [
        {
            "fact": fact.key,
            "class": fact.kind,
            "relation": fact.relation,
            "batch": fact.batch,
            "step": step,
            "correct": int(told.rank == 0),
            "rank": told.rank,
            "prob": f"{told.probability:.4g}",
            "held_out_paraphrase": int(fact.spare_paraphrase),
            "held_out_correct": int(spare.rank == 0),
            "held_out_rank": spare.rank,
            "held_out_prob": f"{spare.probability:.4g}",
        }
        for fact, told, spare in zip(facts, trained, held_out, strict=True)
    ]


def _recall_columns(rows: Sequence[Row]) -> Row:
    """Recall by class and batch, and over the paraphrases held out of training."""
    groups = dict.fromkeys((row["class"], row["batch"]) for row in rows)
    columns: Row = {}
    for kind, batch in groups:
        members = [row for row in rows if (row["class"], row["batch"]) == (kind, batch)]
        name = f"{kind}_{batch}" if batch else str(kind)
        columns[f"recall_{name}"] = round(fmean(row["correct"] for row in members), 4)
        spared = [row["held_out_correct"] for row in members if row["held_out_paraphrase"]]
        columns[f"heldout_recall_{name}"] = round(fmean(spared), 4)
    return columns


def _share(answers: Iterable[Recall]) -> float:
    return round(fmean(answer.rank == 0 for answer in answers), 4)
