"""Every statement in plain words: the number that matters first, margins named, nothing doubly negated."""

from collections.abc import Callable, Mapping
from typing import Any

from checkpoints.results.text import counted
from circuit_drift.statements.phrases import NAMED, listed, p_text, signed, signed_span, span
from circuit_drift.statements.wording_run import RUN_WORDS

CLASSES, GROUPS = 4, 6
MARGINS = {
    "recall": "facts that change sides {:g} of all",
    "heads": "a head's score {:g}",
    "nll": "answer NLL {:g}",
    "wiring": "1 − cosine {:g}",
    "strength": "strength by {:.0%}",
    "edge": "an edge {:g} of the circuit",
}
FAMILIES = {"behaviour": "recall", "circuit": "circuits", "heads": "heads", "readouts": "needle answers"}
MEASURED = ("fact", "needle", "prompt")
WAYS = {"kept": "kept", "lost": "lost", "learned": "learned", "neither": "recalled at neither"}


def _outcome(of: Mapping[str, Any]) -> str:
    a, b = of["a"], of["b"]
    if of["outcome"] == "different":
        within = ", no more than training does anyway" if of["floor"] == "within" else ""
        return f"{a} and {b} differ{within}: {'; '.join(_part(part) for part in of['parts'])}."
    if of["outcome"] == "equivalent":
        margins = ", ".join(MARGINS[name].format(value) for name, value in of["deltas"].items())
        return f"{a} and {b} are equivalent: every change lies within its margin ({margins})."
    if of["outcome"] == "undecided":
        return f"Undecided whether {a} and {b} differ: {_open(of['open'])}."
    if of.get("untested"):
        return f"Whether {a} and {b} differ cannot be told: too few of what was measured for any test."
    return f"No difference between {a} and {b} is shown."


def _part(part: Mapping[str, Any]) -> str:
    if part["what"] == "facts":
        ways = [f"{part[way]} {way}" for way in ("lost", "learned") if part[way]]
        return f"{', '.join(ways)} of {counted(part['of'], 'fact')}"
    if part["what"] == "more":
        return f"{part['n']} more, below"
    if part["what"] == "heads":
        return f"{counted(part['n'], 'head')} of {part['of']} changed"
    if part["what"] == "readout":
        return f"{part['name']} {part['before']:.2f} → {part['after']:.2f}"
    if part["what"] == "circuits":
        told = [f"{WAYS.get(each['group'], each['group'])}: {_how(each)}" for each in part["groups"]]
        return f"circuits of facts {listed(told)}"
    return f"{part['name']} changed"


def _how(circuit: Mapping[str, Any]) -> str:
    """What is most telling of a circuit that differs: that there is one, its strength, its wiring, else its edges."""
    if circuit["stands"] == [False, True]:
        return "new"
    if circuit["stands"] == [True, False]:
        return "gone"
    if circuit["strength"] is not None:
        return f"× {circuit['strength']:.2f} {span(*circuit['strength_interval'])} as strong"
    if circuit["wiring"] is not None:
        return f"wired otherwise (1 − cosine {circuit['wiring']:.2f})"
    return f"changed in {counted(circuit['edges'], 'edge')}" if circuit["edges"] else "changed as a whole"


def _open(of: Mapping[str, Any]) -> str:
    return (
        f"no change is shown, but {of['name']} may reach {of['reach']:.2g} (margin {of['margin']:.2g}); measure about "
        f"{_more(of['more'], of['unit'])}"
    )


def _more(number: int, unit: str) -> str:
    """So many more of what was measured, or of the labels that facts of one unit share."""
    noun, plural = (unit, "") if unit in MEASURED else (f"unit of one {unit}", f"units of one {unit}")
    return counted(number, f"more {noun}", plural and f"more {plural}")


def _level(of: Mapping[str, Any]) -> str:
    families = ", ".join(told for name, told in FAMILIES.items() if name in of["families"])
    return f"Level of the pair: at most {of['level']:.2g} that any difference named is chance (Holm over {families})."


def _recall(of: Mapping[str, Any]) -> str:
    turned = of["lost"] + of["learned"]
    moved = f"{of['lost']} lost, {of['learned']} learned" if turned else "none changed sides"
    if of["low"] != of["low"]:  # NaN: too few units
        share = f"{turned / of['of']:.2f} changed sides, of too few units for an interval"
    elif turned:
        share = f"{turned / of['of']:.2f} {span(of['low'], of['high'])} changed sides"
    else:
        share = f"at most {of['high']:.2f} of such facts do"
    return f"Recall {of['before']:.2f} → {of['after']:.2f} of {counted(of['of'], 'fact')}: {moved}; {share}."


def _classes(of: Mapping[str, Any]) -> str:
    told = [
        f"{row['name']} {row['before']:.2f} → {row['after']:.2f} ({p_text(row['p'], row['least'])})"
        for row in of["classes"][:CLASSES]
    ]
    more = len(of["classes"]) - CLASSES
    return f"Recall by class: {'; '.join(told)}{f'; {more} more' if more > 0 else ''}."


def _needles(of: Mapping[str, Any]) -> str:
    accuracy, ppl = of["accuracy"], of["ppl"]
    form = ".2f" if ppl["low"] >= 0.1 and ppl["high"] < 100 else ".2g"
    lost, learned = (accuracy.get(way, 0) for way in ("lost", "learned"))
    both = f", {counted(lost, 'prompt')} lost and {learned} learned" if lost and learned else ""
    return (
        f"Needles: all words right {accuracy['before']:.2f} → {accuracy['after']:.2f} "
        f"(change {signed(accuracy['delta'])} {signed_span(accuracy['low'], accuracy['high'])}{both}); answer "
        f"perplexity {_level_of(ppl['before'])} → {_level_of(ppl['after'])} (× {ppl['ratio']:{form}} "
        f"{span(ppl['low'], ppl['high'], form)})."
    )


def _level_of(perplexity: float) -> str:
    return f"{perplexity:,.0f}" if perplexity >= 100 else f"{perplexity:.2f}"


def _group(of: Mapping[str, Any]) -> str:
    name, size = of["group"], _size(of)
    who = f"Facts {WAYS[name]} ({size})" if name in WAYS else f"{name[0].upper()}{name[1:]} facts ({size})"
    stands = tuple(of["stands"])
    if stands == (True, True):
        held = _edges(of)
        return f"{who}: {_wiring(of)}, {of['strength']:.2f} {span(*of['strength_interval'])} times as strong; {held}."
    circuit = {
        (False, False): "no circuit stands out of the noise at A or B",
        (False, True): "a circuit where none stood out of the noise",
        (True, False): "a circuit that no longer stands out of the noise",
    }[stands]
    return f"{who}: {circuit}; {_edges(of)}."


def _few(of: Mapping[str, Any]) -> str:
    return f"Too few facts to show a change of their circuits at the level of the pair: {_grouped(of)}."


def _unlearned(of: Mapping[str, Any]) -> str:
    return f"Nothing learned, no circuit to read: {_grouped(of)}."


def _grouped(of: Mapping[str, Any]) -> str:
    names = [f"{WAYS.get(row['group'], row['group'])} ({_size(row)})" for row in of["groups"]]
    return listed(names, GROUPS if all(row.get("unit", "fact") == "fact" for row in of["groups"]) else CLASSES)


def _size(of: Mapping[str, Any]) -> str:
    """How many facts, and how many units they are where that is fewer."""
    units, unit = of.get("units", of["facts"]), of.get("unit", "fact")
    return f"{of['facts']}" if unit == "fact" else f"{of['facts']} in {counted(units, 'unit')}"


def _scope(of: Mapping[str, Any]) -> str:
    if of["clustered"]:
        return (
            f"Facts of one {of['by']} are one unit ({of['units']} of {of['facts']} facts): what is said of recall and "
            f"circuits holds for another {of['by']}{'; each needle counts by itself' if of['needles'] else ''}."
        )
    return (
        f"Facts count as independent, though {of['facts']} share {of['units']} {of['by']}s: what is said of them "
        f"holds for other facts of these; to ask whether it holds for another {of['by']}, cluster by {of['by']}."
    )


def _wiring(of: Mapping[str, Any]) -> str:
    low, high = of["wiring_interval"]
    kind = "same wiring" if high <= of["margin"] else "other wiring" if low > of["margin"] else "wiring undecided"
    return f"{kind} (1 − cosine {of['wiring']:.2f} {span(low, high)}, margin {of['margin']:g})"


def _edges(of: Mapping[str, Any]) -> str:
    if not of["significant"]:
        gated = "; their turnover is not established" if of["gated"] else ""
        return f"no edge changed beyond the noise ({p_text(of['p'], of['smallest'])}{gated})"
    if not of["changed"]:
        return f"it changed as a whole ({p_text(of['p'], of['smallest'])}), no single edge can be named"
    ways = ", ".join(f"{number} {way}" for way, number in of["statuses"].items() if number)
    within = ", all within the margins" if of["equivalent"] else ""
    return (
        f"{counted(of['changed'], 'edge')} changed{within} ({ways or 'outside the circuits'}), "
        f"most {', '.join(of['edges'][:NAMED])}"
    )


def _overlap(of: Mapping[str, Any]) -> str:
    if "value" not in of:
        return (
            "The ranks of single edges are not reliable on these facts: overlaps of circuits can neither show nor rule "
            "out a change."
        )
    reach = "for all edges" if of["rank"] == of["edges"] else f"to about rank {of['rank']:,} of {of['edges']:,}"
    beside = f"{of['random']:.2f} by chance"
    if "other_task" in of:
        beside += f", {of['other_task']:.2f} with the circuit of retrieval at A"
    elif "relations" in of:
        beside += f", {of['relations']:.2f} between relations at A"
    sense = "less alike than the facts' noise makes them" if of["beyond_noise"] else "no less alike than halves are"
    return (
        f"Ranks of edges are reliable {reach}. {of['measure']}: {of['value']:.2f}; halves of the facts "
        f"{of['across']:.2f} across A and B, {of['within']:.2f} within one, {beside}: {sense}."
    )


def _heads(of: Mapping[str, Any]) -> str:
    most = of["largest"]
    moved = "no score differs on any prompt"
    if of["moved"]:
        moved = f"most {most['name']} {signed(most['delta'])} {signed_span(most['low'], most['high'])}"
    within = f" by less than {of['margin']:g}" if of["changed"] and of["outcome"] == "equivalent" else ""
    crossed = "; ".join(f"{way} {listed(of[way], 5)}" for way in ("gained", "lost") if of[way])
    return (
        f"Heads: {of['changed']} of {of['of']} changed{within}, {moved}, over {counted(of['n'], of['unit'])}; "
        f"retrieval heads (score > {of['threshold']:g}): {crossed or 'the same'}."
    )


def _floor(of: Mapping[str, Any]) -> str:
    if not of["pairs"]:
        return f"No training floor: {of['why']}."
    above = [row for row in of["changes"] if row["outcome"] != "within"] or of["changes"]
    told = "; ".join(f"{row['name']} {row['value']:.3g} against at most {row['floor']:.3g}" for row in above[:NAMED])
    sense, basis = {
        "beyond": ("A → B exceeds what training does anyway", f"; {p_text(of['p'])} for all changes together"),
        "within": ("A → B is no more than training does anyway, or within its margins", ""),
        "undecided": ("Whether A → B exceeds what training does anyway is undecided", f"; {_more_siblings(of)}"),
    }[of["outcome"]]
    return f"{sense}: {told} ({counted(of['pairs'], 'pair')} of siblings: {', '.join(of['names'])}{basis})."


def _more_siblings(of: Mapping[str, Any]) -> str:
    """What a change above that of every pair of siblings is worth, and how many siblings would tell."""
    siblings = len(of["names"])
    would = (
        f"about {of['needed']} siblings would tell"
        if of["needed"] > siblings
        else "more siblings like them would not tell"
    )
    return f"one more sibling exceeds them in up to 1 of {siblings + 1}; {would}"


WORDS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "outcome": _outcome,
    "level": _level,
    "recall": _recall,
    "classes": _classes,
    "overlap": _overlap,
    "scope": _scope,
    "needles": _needles,
    "group": _group,
    "few": _few,
    "unlearned": _unlearned,
    "heads": _heads,
    "floor": _floor,
    **RUN_WORDS,
}
