"""Statements about a run in plain words: when heads begin to retrieve, whether needle tests deceive, what failed."""

from collections.abc import Callable, Mapping
from typing import Any

from checkpoints.results.text import counted
from circuit_drift.statements.phrases import listed, span

FAILED = 4


def _onset(of: Mapping[str, Any]) -> str:
    head, best, retrieve = of["head"], _best(of), f"retrieve (score > {of['threshold']:g})"
    told = {
        "emerged": f"{head} begins to {retrieve} {_bracket(of)} and reaches {best}",
        "gone again": f"{head} begins to {retrieve} {_bracket(of)}, reaches {best}, ends below it",
        "there from the first": f"{head} is seen to {retrieve} from the first checkpoint on, and reaches {best}",
        "not by the end": f"No head is seen to {retrieve}: {head}, the best, reaches {best}",
        "cannot be told": f"{head}, the best head, reaches {best}; when it begins to {retrieve} cannot be told",
        "": f"{head}, the best head, reaches {best}; its onset takes three checkpoints and six needles to date",
    }[of["outcome"]]
    return f"{told} ({_halves(of)}). {_count(of)}"


def _bracket(of: Mapping[str, Any]) -> str:
    if of["by"] is None or of["after"] is None:
        return ""
    low, high = ("…" if of[end] is None else _at(of[end]) for end in ("low", "high"))
    return f"between steps {_at(of['after'])} and {_at(of['by'])} [{low} to {high}]"


def _at(place: int | str) -> str:
    """A step, or the name of a checkpoint that counts none."""
    return place if isinstance(place, str) else f"{place:,}"


def _best(of: Mapping[str, Any]) -> str:
    best = of["best"]
    ends = span(best["low"], best["high"]) if best["low"] == best["low"] else "(no interval: too few needles)"
    return f"{best['value']:.2f} {ends} at step {_at(best['step'])}"


def _halves(of: Mapping[str, Any]) -> str:
    if not of["judged_on"]:
        return f"chosen and judged on the same {counted(of['chosen_on'], of['unit'])}, which flatters it"
    return f"chosen on {of['chosen_on']} {of['unit']}s, judged on {of['judged_on']} others"


def _count(of: Mapping[str, Any]) -> str:
    count = of["count"]
    ends = f" {span(count['low'], count['high'], '.0f')}"
    if count["low"] != count["low"]:  # told once, of the best head, where that has none either
        ends = "" if of["best"]["low"] != of["best"]["low"] else " (no interval: too few needles)"
    return f"{count['value']}{ends} of {counted(count['of'], 'head')} retrieve at the end."


def _passed(of: Mapping[str, Any]) -> str:
    return (
        f"Answer perplexity falls to × {of['ratio']:.2f} {span(of['ratio_low'], of['ratio_high'])}, "
        f"{of['before']:.2f} → {of['after']:.2f}, while the needle test is passed: from step {_at(of['step'])} "
        f"(score {of['score']:.2f} {span(of['low'], of['high'])}) to step {_at(of['end'])}{_where(of)}."
    )


def _deceptive(of: Mapping[str, Any]) -> str:
    return f"Deceptive saturation: {of['said']}{_where(of)}."


def _where(of: Mapping[str, Any]) -> str:
    return f" (stage {of['stage']})" if of["stage"] else ""


def _unmeasured(of: Mapping[str, Any]) -> str:
    names = listed(of["names"], FAILED)
    return f"{of['n']} of {counted(of['of'], 'checkpoint')} could not be measured in full: {names}."


def _null(of: Mapping[str, Any]) -> str:
    who = "Untrained, the same model has" if of["twin"] else "At step 0 the model has"
    return f"{who} {of['words']}: the floor of what is found here."


RUN_WORDS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "onset": _onset,
    "passed": _passed,
    "deceptive": _deceptive,
    "unmeasured": _unmeasured,
    "null": _null,
}
