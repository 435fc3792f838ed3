"""The attribution methods, a row of a table each: where they take gradients, and what they multiply them with.

A new gradient method is one more row of `METHODS` and its name in `Method`. What its kind of path means is in
`circuits.attribution.integration`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from checkpoints.errors import BadPrompt, require_choice
from circuits.attribution.integration import Kind, Quadrature

Method = Literal["eap", "eap-ig", "clean-corrupted", "conductance", "activations", "activations-eapig", "flow"]
Rule = Literal["left", "right", "midpoint"]
OFFSETS: Mapping[str, float] = {"left": 0.0, "right": 1.0, "midpoint": 0.5}


@dataclass(frozen=True, slots=True)
class MethodSpec:
    """How one method scores edges.

    Attributes:
        kind: what gradients are multiplied with (`Quadrature`); ``None`` for a method that takes none.
        ends: the points it takes gradients at, counted from the corrupt end; none where it takes steps along the path.
        rule: the Riemann rule that its steps always follow; empty where it is the caller's to choose.
        ablatable: whether an edge may carry something else than u(corrupt): zero, or a mean.
    """

    kind: Kind | None = "fixed"
    ends: tuple[float, ...] = ()
    rule: Literal["left", "right", "midpoint", ""] = ""
    ablatable: bool = False


METHODS: Mapping[Method, MethodSpec] = {
    "eap": MethodSpec(ends=(1.0,), ablatable=True),
    "eap-ig": MethodSpec(),
    "clean-corrupted": MethodSpec(ends=(0.0, 1.0)),
    "conductance": MethodSpec("increments", rule="midpoint"),
    "activations": MethodSpec("own activations", ablatable=True),
    "activations-eapig": MethodSpec("all activations", rule="right", ablatable=True),
    "flow": MethodSpec(kind=None),
}
ABLATABLE = tuple(name for name, spec in METHODS.items() if spec.ablatable)


def find_quadrature(method: Method, ig_steps: int, rule: Rule) -> Quadrature | None:
    """Where gradients are taken; ``None`` for a method that takes none.

    Raises:
        BadPrompt: an unknown method or rule, or no whole number of steps of at least 1.
    """
    require_choice("method", method, METHODS)
    require_choice("rule", rule, get_args(Rule))
    if not isinstance(ig_steps, int) or ig_steps < 1:
        raise BadPrompt(f"ig_steps must be a whole number of at least 1, got {ig_steps}")
    spec = METHODS[method]
    if spec.kind is None:
        return None
    if spec.ends:
        return Quadrature(spec.ends, (1 / len(spec.ends),) * len(spec.ends), spec.kind)
    offset = OFFSETS[rule_used(method, rule)]
    return Quadrature(tuple((k + offset) / ig_steps for k in range(ig_steps)), (1 / ig_steps,) * ig_steps, spec.kind)


def rule_used(method: Method, rule: Rule) -> str:
    """The Riemann rule that a method really follows: ``ends`` where it takes no steps, ``none`` without gradients."""
    spec = METHODS[method]
    if spec.kind is None:
        return "none"
    return "ends" if spec.ends else spec.rule or rule


def require_effect(method: Method, chosen: Mapping[str, object]) -> None:
    """Refuse settings that a method does not look at.

    Args:
        method: how edges are scored.
        chosen: of ``ig_steps``, ``rule`` and ``backward`` those that were chosen, with their values.

    Raises:
        BadPrompt: one of them changes nothing.
    """
    spec = METHODS[method]
    if spec.kind is None:
        why, idle = "takes no gradient", {"ig_steps", "rule", "backward"}
    elif spec.ends:
        why, idle = "takes its gradients at the ends of the path", {"ig_steps", "rule"}
    else:
        why, idle = f"always follows the {spec.rule} rule", {"rule"} if spec.rule else set()
    for name, value in chosen.items():
        if name in idle and value != spec.rule:
            raise BadPrompt(f"{method} {why}, so {name} {value!r} has no meaning for it; leave {name} out")
