"""What is asked and traced at every epoch, of the much that `circuit-drift benchmark` wrote, drawn evenly by class.

Asking all 963 questions in writing takes longer than an epoch of training. Circuits need an answer whose first token
tells it from the wrong one, and facts that the model knows beforehand: an example of the relation stands before each.
"""

import json
import random
from pathlib import Path

HERE = Path(__file__).resolve().parent
ASKED_PER_CLASS = 30
OUTSIDE_PER_CLASS = 8
TRACED = {"capital": 60, "highest point": 60, "main export partner": 60}
EXAMPLES = {
    "capital": "The capital of Finland is Helsinki. ",
    "main export partner": "In 2014, the country that bought most of the exports of Canada was United States. ",
    "highest point": "The highest point of Nepal is Mount Everest. ",
}

Record = dict[str, object]


def main() -> None:
    """Write asked.jsonl, asked_outside.jsonl and traced.jsonl."""
    rng = random.Random(0)
    _write("asked.jsonl", drawn(_read("probes.jsonl"), ASKED_PER_CLASS, rng))
    _write("asked_outside.jsonl", drawn(_read("outside.jsonl"), OUTSIDE_PER_CLASS, rng))
    _write("traced.jsonl", traced(_read("facts.jsonl"), rng))


def drawn(questions: list[Record], per_class: int, rng: random.Random) -> list[Record]:
    """All questions about as many facts of each class."""
    chosen: set[object] = set()
    for name in ("high", "middle", "low"):
        chosen.update(rng.sample(sorted({str(q["fact"]) for q in questions if q["class"] == name}), per_class))
    return [question for question in questions if question["fact"] in chosen]


def traced(pairs: list[dict], rng: random.Random) -> list[Record]:
    """Pairs with an example in front of both prompts, so many of each relation."""
    found: list[Record] = []
    for relation, count in TRACED.items():
        of_it = [pair for pair in pairs if pair["labels"]["relation"] == relation]
        for pair in of_it if len(of_it) <= count else sorted(rng.sample(of_it, count), key=of_it.index):
            example = EXAMPLES[relation]
            found.append(pair | {"clean": example + pair["clean"], "corrupt": example + pair["corrupt"]})
    return found


def _read(name: str) -> list[dict]:
    return [json.loads(line) for line in (HERE / name).read_text(encoding="utf-8").splitlines()]


def _write(name: str, records: list[Record]) -> None:
    (HERE / name).write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records), encoding="utf-8")


if __name__ == "__main__":
    main()
