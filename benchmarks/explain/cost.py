"""Time of a path with shares of all components, against forward and backward passes of frozen weights.

python -m benchmarks.explain.cost
"""

import argparse
import resource
import time
from collections.abc import Callable
from statistics import median

from checkpoints import open_checkpoint
from circuit_drift.explanation.behaviours import batches, needle_behaviour, run
from circuit_drift.explanation.line import Line, line_between
from circuit_drift.explanation.shares import integrate
from circuit_drift.measures.needles import needle_prompts_of
from circuit_drift.measures.tokenizers import tokenizer_of
from circuit_drift.prompts import prompts_for


def seconds(work: Callable[[], object], times: int = 1) -> float:
    """Seconds of CPU of so many runs."""
    start = time.process_time()
    for _ in range(times):
        work()
    return time.process_time() - start


def main() -> None:
    """Print seconds of CPU and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--a", default="demo@9000")
    parser.add_argument("--b", default="demo@9020")
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=5)
    asked = parser.parse_args()
    a, b = open_checkpoint(asked.a), open_checkpoint(asked.b)
    first = a.load(device="cpu")
    needles = needle_prompts_of(tokenizer_of(first), prompts_for(a.path, length=asked.length).needles)
    behaviour = needle_behaviour(needles).thinned(asked.prompts)
    line: Line = line_between(first.model, b.load(device="cpu").model)
    embedding = line.model.get_input_embeddings()

    def plain() -> None:
        handle = embedding.register_forward_hook(lambda _m, _i, output: output.requires_grad_())
        for batch in batches(behaviour, line.model, 8):
            run(line.model, behaviour, batch, {}).sum().backward()
        handle.remove()

    steps = 5
    rounds = [  # in turn, and of like lengths, so that what else the machine does meets all alike
        (seconds(plain, steps), seconds(lambda: integrate(line, behaviour, steps=steps)))
        for _ in range(asked.repeats + 1)
    ][1:]
    passes, path = (median(times) for times in zip(*rounds, strict=True))
    print(f"{steps} x (forward + backward) {passes:.3f} s, path of {steps} with both ends {path:.3f} s of CPU")
    print(f"the path / {steps} passes {median(whole / base for base, whole in rounds):.2f}")
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")


if __name__ == "__main__":
    main()
