"""Sentences about circuits, every number in them computed."""

from typing import TYPE_CHECKING

from circuits.noise import smallest_p

if TYPE_CHECKING:
    from circuits.comparison import GraphDiff
    from circuits.similarity import Similarity


def diff_verdict(diff: "GraphDiff") -> str:
    """Whether edges changed, and whether the circuits are less alike than prompts alone would make them."""
    sentences = [_edges_sentence(diff), _overlap_sentence(diff)]
    if diff.transfer is not None:
        sentences.append(diff.transfer.verdict)
    return " ".join(sentences)


def diff_caption(diff: "GraphDiff") -> str:
    """What the union graph shows, and on what it rests."""
    counts = ", ".join(f"{number} {name}" for name, number in diff.counts.items() if name != "outside" and number)
    paired = "the same" if diff.pairing == "paired" else "different"
    return (
        f"Edges of either circuit by what became of them: {counts or 'none'}. Positive scores: corrupting the edge "
        f"raises the logit difference. {diff.n} units of {paired} facts; changes at q < {diff.level:g}."
    )


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
