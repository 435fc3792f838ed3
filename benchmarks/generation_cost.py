"""Tokens per second of written answers against plain batched generation by transformers, in one run.

    python benchmarks/generation_cost.py MODEL QUESTIONS [--count 128] [--batch 64]

The same questions, asked as arXiv 2601.03858 asks them (instruction, chat template where the tokenizer has one, up to
25 new tokens), are written by `write_answers` and by `model.generate` with left padding, keys and values kept, and
batches sorted by length; both end an answer at the model's end-of-sequence tokens. Tokens are those of the answers.
"""

import argparse
import json
import time
from pathlib import Path

import torch

from checkpoints import open_checkpoint
from checkpoints.model.writing import stop_tokens
from checkpoints.tokenizers.framing import chat_ids, prompt_ids
from circuit_drift.behaviour.generation import write_answers
from circuits.facts.questions import read_questions

INSTRUCTION = "Answer the question using as few words as possible. "
NEW = 25


def plain(model, prompts, batch: int) -> list[tuple[int, ...]]:
    """Greedy answers by transformers' own generation."""
    ends = stop_tokens(model)
    pad = ends[0] if ends else 0
    order = sorted(range(len(prompts)), key=lambda place: len(prompts[place]))
    found = {}
    for at in range(0, len(order), batch):
        places = order[at : at + batch]
        longest = max(len(prompts[place]) for place in places)
        gaps = [longest - len(prompts[place]) for place in places]
        rows = [[pad] * gap + list(prompts[place]) for place, gap in zip(places, gaps, strict=True)]
        mask = [[0] * gap + [1] * (longest - gap) for gap in gaps]
        out = model.generate(
            torch.tensor(rows),
            attention_mask=torch.tensor(mask),
            max_new_tokens=NEW,
            do_sample=False,
            repetition_penalty=1.0,
            eos_token_id=list(ends) or None,
            pad_token_id=pad,
        )
        for place, row in zip(places, out[:, longest:].tolist(), strict=True):
            end = next((n for n, token in enumerate(row) if token in ends), len(row) - 1)
            found[place] = tuple(row[: end + 1])
    return [found[place] for place in range(len(prompts))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("questions", type=Path)
    parser.add_argument("--count", type=int, default=128)
    parser.add_argument("--batch", type=int, default=64)
    given = parser.parse_args()
    loaded = open_checkpoint(given.model).load()
    tokenizer, model = loaded.tokenizer, loaded.model
    asked = read_questions(given.questions)[: given.count]
    ids = chat_ids if tokenizer.chat_template else prompt_ids
    prompts = [tuple(ids(tokenizer, f"{INSTRUCTION}{question.clean}")) for question in asked]
    ways = {
        "write_answers": lambda: list(write_answers(model, prompts, new_tokens=NEW, batch_size=given.batch)),
        "plain generation": lambda: plain(model, prompts, given.batch),
    }
    found, row = {}, {"questions": len(prompts), "batch": given.batch}
    for name, way in ways.items():
        began, cpu = time.perf_counter(), time.process_time()
        with torch.no_grad():
            found[name] = way()
        tokens = sum(map(len, found[name]))
        seconds = time.process_time() - cpu
        row[name] = {
            "tokens": tokens,
            "tokens per CPU second": round(tokens / seconds, 1),
            "CPU seconds": round(seconds, 1),
            "wall seconds": round(time.perf_counter() - began, 1),
        }
    row["ratio"] = round(
        row["write_answers"]["tokens per CPU second"] / row["plain generation"]["tokens per CPU second"], 2
    )
    row["same answers"] = sum(a == b for a, b in zip(*found.values(), strict=True)) / len(prompts)
    print(json.dumps(row, indent=1))


if __name__ == "__main__":
    main()
