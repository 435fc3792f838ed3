"""Facts of the lab's world asked in every paraphrase: several probes of one unit, so that its score has a noise."""

import random
from collections.abc import Sequence

import circuits
from circuit_drift.lab import world


def paraphrased(facts: Sequence[world.WorldFact], *, seed: int = 0) -> tuple[circuits.Fact, ...]:
    """Clean/corrupt pairs of every fact in each of its training paraphrases, and in the one held out.

    The corrupt prompt names someone of the facts given who has another value in the same relation. Labels: ``fact``
    (the unit), ``person``, ``relation``, ``class``, ``batch``, and ``form``: ``told`` or ``held out``. A fact that
    nobody else's value can stand against is left out.

    Args:
        facts: of the world (`World.batch`, `World.controls`).
        seed: of the choice of rivals.
    """
    rng = random.Random(f"rivals-{seed}")
    made = []
    for fact in facts:
        rivals = [other for other in facts if other.relation == fact.relation and other.value != fact.value]
        if rivals:
            made += _probes(fact, rng.choice(rivals))
    return tuple(made)


def _probes(fact: world.WorldFact, rival: world.WorldFact) -> list[circuits.Fact]:
    relation = world.RELATION[fact.relation]
    made = []
    for template in (*relation.templates, relation.held_out):
        clean, corrupt = (template.format(name=one.person.name) for one in (fact, rival))
        form = "told" if clean in fact.prompts else "held out"
        labels = {"fact": fact.key, "person": fact.person.name, "relation": fact.relation, "class": fact.kind}
        labels |= {"batch": str(fact.batch), "form": form}
        made.append(circuits.Fact(clean, corrupt, f" {fact.value}", f" {rival.value}", labels))
    return made
