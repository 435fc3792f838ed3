"""Do shares agree with exact patching? Each component alone put into A, and A's put back in B, beside its share.

    python -m benchmarks.explain.agreement --b demo@9300 --metric facts:new

On a short line the three are equal. On a long one a component put into A acts without the others, and taken out of B
beside all of them; a share is the mean over the way between.
"""

import argparse

import numpy as np

from checkpoints import open_checkpoint
from checkpoints.placement import ANYWHERE
from circuit_drift.explanation.explain import asked_of, opened_line, ways_along
from circuit_drift.explanation.explanation import Effort
from circuit_drift.explanation.shares import integrate, one_by_one, patched_values
from circuit_drift.prompts import prompts_for


def main() -> None:
    """Print Pearson's correlations over components."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--a", default="demo@9000")
    parser.add_argument("--b", default="demo@9020")
    parser.add_argument("--metric", default="needle")
    parser.add_argument("--prompts", type=int, default=12)
    parser.add_argument("--length", type=int, default=128)
    asked = parser.parse_args()
    a, b = open_checkpoint(asked.a), open_checkpoint(asked.b)
    with opened_line(a, b, ANYWHERE) as (line, loaded):
        prompts = prompts_for(a.path, length=asked.length)
        behaviour = asked_of(
            asked.metric, loaded, prompts, Effort(prompts=asked.prompts), lambda facts: ways_along(line, facts)
        )
        path = integrate(line, behaviour)
        places = list(line.changed)
        after = path.along[-1].mean()
        taken = np.array([after - patched_values(line, behaviour, [place], -1.0).mean() for place in places])
        put_in = one_by_one(line, behaviour).shares.sum(1).mean(0)[places]
    share = path.shares.sum(1).mean(0)[places]
    pairs = {"put into A": put_in, "taken out of B": taken, "the mean of both": (put_in + taken) / 2}
    told = ", ".join(f"{name} {np.corrcoef(share, effect)[0, 1]:.3f}" for name, effect in pairs.items())
    print(f"{behaviour.name}, {a.label} to {b.label}: change {path.change.mean():+.3g} {behaviour.unit}, {path.steps}")
    print(f"gradients, residual {100 * path.residual:.2g} %; Pearson over {len(places)} components: {told}")


if __name__ == "__main__":
    main()
