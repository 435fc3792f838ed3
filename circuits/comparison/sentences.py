"""Sentences about circuits, every number in them computed."""

from math import isfinite
from typing import TYPE_CHECKING

from circuits.comparison.contrasts import sentences
from circuits.comparison.noise import smallest_p
from circuits.graph.scores import meaning
from circuits.roles.roles import changes_sentence

if TYPE_CHECKING:
    from circuits.comparison.comparison import GraphDiff
    from circuits.comparison.similarity import Similarity
    from circuits.tracking.evolution import Evolution


def diff_verdict(diff: "GraphDiff") -> str:
    """Whether edges changed, and whether the circuits are less alike than prompts alone would make them."""
    sentences = [_edges_sentence(diff), _overlap_sentence(diff)]
    if diff.transfer is not None:
        sentences.append(diff.transfer.verdict)
    if diff.roles is not None:
        sentences.append(changes_sentence(diff.roles))
    return " ".join(sentences)


def diff_caption(diff: "GraphDiff") -> str:
    """What the union graph shows, and on what it rests."""
    counts = ", ".join(f"{number} {name}" for name, number in diff.counts.items() if name != "outside" and number)
    paired = "the same" if diff.pairing == "paired" else "different"
    return (
        f"Edges of either circuit by what became of them: {counts or 'none'}; {meaning(diff.meta)}. {diff.n} units of "
        f"{paired} facts; changes at q < {diff.level:g}."
    )


def evolution_verdict(evolution: "Evolution") -> str:
    """Where the circuit changed, which phases that leaves, and how settled the end is."""
    steps = evolution.steps
    if not evolution.change_points:
        told = f"No change point in {len(evolution)} checkpoints (steps {steps[0]} to {steps[-1]})"
    else:
        places = [
            f"between steps {steps[split.index - 1]} and {steps[split.index]} "
            f"[{steps[max(split.low - 1, 0)]}, {steps[split.high]}] (p = {split.p:.2g})"
            for split in evolution.change_points
        ]
        told = f"The circuit changes {', '.join(places)}"
    last = evolution.phases[-1]
    known = [step for step, share in zip(steps, evolution.reliability, strict=True) if share > 0.5]
    formed = (
        f"; it stands out of the prompt noise from step {known[0]} on" if known else "; it never stands out of noise"
    )
    alike = (
        f"; its last phase, from step {last.first}, is alike at {last.likeness:.2f}" if isfinite(last.likeness) else ""
    )
    return " ".join([f"{told}{formed}{alike}.", sentences(evolution.contrasts)]).rstrip()


def _edges_sentence(diff: "GraphDiff") -> str:
    total = len(diff.a)
    if diff.pairing == "paired" and smallest_p(diff.n) > diff.level:
        return (
            f"{diff.n} units of facts cannot show a change at the level {diff.level:g} (their smallest possible p is "
            f"{smallest_p(diff.n):.2g}): measure more facts."
        )
    if not diff.significant:
        return f"No edge of {total:,} changed beyond the noise of the prompts (global p = {diff.global_p:.2g})."
    if not diff.n_significant:
        return (
            f"The graph changed as a whole (global p = {diff.global_p:.2g}), but no single one of its {total:,} edges "
            f"can be named at q < {diff.level:g}."
        )
    counts = diff.counts
    told = [f"{counts[n]:,} {n}" for n in ("gained", "lost", "strengthened", "weakened", "flipped") if counts[n]]
    inside = f": within the circuits {', '.join(told)}" if told else ", none of them in a circuit"
    return (
        f"{diff.n_significant:,} of {total:,} edges changed for real (q < {diff.level:g}, "
        f"global p = {diff.global_p:.2g}){inside}."
    )


def _overlap_sentence(diff: "GraphDiff") -> str:
    overlap = _main_overlap(diff)
    sense = "less alike than prompt noise makes them" if overlap.beyond_noise else "within the prompt noise"
    return (
        f"{overlap.measure}: {overlap.value:.2f}; between halves of the facts {overlap.across:.2f} across the two, "
        f"{overlap.within:.2f} [{overlap.within_low:.2f}, {overlap.within_high:.2f}] within one checkpoint and "
        f"{overlap.random:.2f} by chance: {sense}."
    )


def _main_overlap(diff: "GraphDiff") -> "Similarity":
    overlaps = [s for s in diff.similarity if s.measure.startswith("Jaccard")]
    return overlaps[len(overlaps) // 2]
