"""What checkpoints hold: each check takes the facts of a series and yields faults."""

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any, TypeVar

from checkpoints.audit.facts import CheckpointFacts
from checkpoints.audit.report import Fault
from checkpoints.files.configs import ADAPTER_CONFIG, SWITCHES, VOLATILE
from checkpoints.files.formats import find_weights

Value = TypeVar("Value", bound=Hashable)

_HEADS = frozenset({"lm_head.weight", "embed_out.weight", "output.weight"})
_CHECKED_ELSEWHERE = VOLATILE | SWITCHES.keys() | {"tie_word_embeddings", "dtype", "torch_dtype"}


def damaged_files(facts: Sequence[CheckpointFacts]) -> Iterator[Fault]:
    """Checkpoints whose files are missing, truncated, corrupt or unreadable."""
    for fact in facts:
        if fact.problem:
            yield Fault("damaged_files", (fact.label,), fact.problem)


def damaged_beside(facts: Sequence[CheckpointFacts]) -> Iterator[Fault]:
    """Damaged files beside weights that are whole: what the training was, not what the model is."""
    for fact in facts:
        for problem in fact.beside:
            yield Fault("damaged_beside", (fact.label,), problem)


def adapter_beside(facts: Sequence[CheckpointFacts]) -> Iterator[Fault]:
    """Whole weights with an adapter in their folder, which tools apply on top although it may be merged already."""
    for fact in facts:
        folder = fact.checkpoint.path
        here = fact.problem is None and fact.checkpoint.hub is None  # on the hub, metadata alone may have been fetched
        if here and (folder / ADAPTER_CONFIG).exists() and not find_weights(folder).format.is_adapter:
            message = (
                "an adapter lies beside whole weights, which are measured as they are; if it is merged, move it away"
            )
            yield Fault("adapter_beside", (fact.label,), message)


def non_finite(facts: Sequence[CheckpointFacts]) -> Iterator[Fault]:
    """Tensors that hold NaN or infinite values."""
    for fact in facts:
        broken = {name: tensor.non_finite for name, tensor in fact.tensors.items() if tensor.non_finite}
        if broken:
            name, count = next(iter(broken.items()))
            message = f"{count} values of {name} are NaN or infinite ({len(broken)} tensors in all)"
            yield Fault("non_finite", (fact.label,), message, {"tensors": broken})


def all_zero(facts: Sequence[CheckpointFacts]) -> Iterator[Fault]:
    """Tensors that are all zero though an earlier checkpoint has values, and matrices that never have any.

    Tensors that start at zero and train away from it (biases, zero-initialised projections) are in order.
    """
    ever = {name for fact in facts for name, tensor in fact.tensors.items() if not tensor.zero}
    before: set[str] = set()
    for fact in facts:
        zeros = [
            name
            for name, tensor in fact.tensors.items()
            if tensor.zero and (name in before or (name not in ever and len(tensor.shape) > 1))
        ]
        if zeros:
            message = f"{len(zeros)} tensors are all zero, {zeros[0]} first"
            yield Fault("all_zero", (fact.label,), message, {"tensors": zeros})
        before |= {name for name, tensor in fact.tensors.items() if not tensor.zero}


def identical(facts: Sequence[CheckpointFacts]) -> Iterator[Fault]:
    """Checkpoints of different steps that hold the same weights."""
    groups: dict[str, list[str]] = defaultdict(list)
    for fact in facts:
        if fact.identity is not None:
            groups[fact.identity].append(fact.label)
    for identity, labels in groups.items():
        if len(labels) < 2:
            continue
        final = facts[-1].label in labels
        where = f"; {facts[-1].label} is the last of the series" if final else ""
        message = f"{len(labels)} checkpoints hold identical weights: {first_few(labels)}{where}"
        yield Fault("identical", tuple(labels), message, {"sha256": identity, "last": final})


def copied_tensors(facts: Sequence[CheckpointFacts]) -> Iterator[Fault]:
    """Checkpoints that share matrices or shards, not all, with one further on that those between do not have.

    Neighbours that agree in a matrix are in order: rounding to 16 bits can leave a slow one as it was.
    """
    homes: dict[tuple[str, str], list[int]] = defaultdict(list)
    for position, fact in enumerate(facts):
        for name, digest in fact.parts.items():
            if name not in fact.tensors or len(fact.tensors[name].shape) > 1:
                homes[name, digest].append(position)
    shared: dict[tuple[int, int], list[str]] = defaultdict(list)
    for (name, _), positions in homes.items():
        for before, after in pairwise(positions):
            if any(name in fact.parts for fact in facts[before + 1 : after]):
                shared[before, after].append(name)
    for (before, after), names in shared.items():
        a, b = facts[before], facts[after]
        if a.identity == b.identity or (all(tensor.zero for n in names if (tensor := a.tensors.get(n))) and a.tensors):
            continue
        kind = "tensors" if names[0] in a.tensors else "files"
        message = (
            f"{len(names)} of {len(a.parts)} {kind} of {a.label} are identical to those of {b.label} but not to "
            f"those between, {names[0]} first"
        )
        yield Fault("copied_tensors", (a.label, b.label), message, {"shared": sorted(names)})


def tensors_changed(facts: Sequence[CheckpointFacts]) -> Iterator[Fault]:
    """Tensors missing, added or of another shape than in most checkpoints; the output head is `tie_flipped`'s."""
    shapes = {f.label: {n: t.shape for n, t in f.tensors.items() if n not in _HEADS} for f in facts if f.tensors}
    usual = dict(most_common(tuple(sorted(own.items())) for own in shapes.values()) or ())
    for label, own in shapes.items():
        odd = _differing(own, usual)
        if odd:
            name, (seen, wanted) = next(iter(odd.items()))
            message = (
                f"{len(odd)} tensors are not as in most checkpoints: {name} is {seen or 'missing'}, "
                f"elsewhere {wanted or 'missing'}"
            )
            yield Fault("tensors_changed", (label,), message, {"tensors": list(odd)})


def dtype_changed(facts: Sequence[CheckpointFacts]) -> Iterator[Fault]:
    """Weights stored in other dtypes than in most checkpoints."""
    kinds = {f.label: tuple(sorted({t.dtype for t in f.tensors.values()})) for f in facts if f.tensors}
    usual = most_common(kinds.values())
    for label, own in kinds.items():
        if own != usual:
            message = f"weights are stored as {'+'.join(own)}, in most checkpoints as {'+'.join(usual or ())}"
            yield Fault("dtype_changed", (label,), message, {"dtypes": list(own)})


def config_changed(facts: Sequence[CheckpointFacts]) -> Iterator[Fault]:
    """Configs that differ from most of their stage; between stages a config may change."""
    for stage in dict.fromkeys(fact.checkpoint.stage for fact in facts):
        configs = {
            fact.label: {key: value for key, value in fact.config.items() if key not in _CHECKED_ELSEWHERE}
            for fact in facts
            if fact.checkpoint.stage == stage and fact.config is not None
        }
        texts = {label: repr(sorted(config.items())) for label, config in configs.items()}
        usual_text = most_common(texts.values())
        usual = next((configs[label] for label, text in texts.items() if text == usual_text), {})
        for label, config in configs.items():
            odd = _differing(config, usual)
            if odd:
                key, (seen, wanted) = next(iter(odd.items()))
                message = f"config differs from most of its stage in {len(odd)} fields: {key} is {seen}, not {wanted}"
                fields = {key: list(values) for key, values in odd.items()}
                yield Fault("config_changed", (label,), message, {"fields": fields})


def tokenizer_changed(facts: Sequence[CheckpointFacts]) -> Iterator[Fault]:
    """Tokenizers that differ from most checkpoints'."""
    hashes = {fact.label: fact.tokenizer for fact in facts if fact.tokenizer is not None}
    usual = most_common(hashes.values())
    for label, own in hashes.items():
        if own != usual:
            message = f"tokenizer {own[:12]} is not that of most checkpoints, {str(usual)[:12]}"
            yield Fault("tokenizer_changed", (label,), message, {"sha256": own, "usual": usual})


def tie_flipped(facts: Sequence[CheckpointFacts]) -> Iterator[Fault]:
    """Output heads tied in some checkpoints and free in others, by what the config says or the file holds."""
    states = {fact.label: _tie_state(fact) for fact in facts if fact.config is not None}
    usual = most_common(states.values())
    for label, state in states.items():
        if usual is not None and state != usual:
            message = f"{_tie_words(state)}; in most checkpoints {_tie_words(usual)}"
            yield Fault("tie_flipped", (label,), message, {"config": state[0], "head_in_file": state[1]})


def _tie_state(fact: CheckpointFacts) -> tuple[bool | None, bool | None]:
    tied = None if fact.config is None else fact.config.get("tie_word_embeddings")
    return tied, bool(_HEADS & fact.tensors.keys()) if fact.tensors else None


def _tie_words(state: tuple[bool | None, bool | None]) -> str:
    tied, own = state
    words = {True: "ties the head", False: "does not tie the head", None: "is silent on tying"}[tied]
    held = {True: " and the file holds one", False: " and the file holds none", None: ""}[own]
    return f"config {words}{held}"


def most_common(values: Iterable[Value]) -> Value | None:
    """The most frequent value, the earlier one in a tie; None of none."""
    counted = Counter(values).most_common(1)
    return counted[0][0] if counted else None


def first_few(items: Sequence[object]) -> str:
    """The first few items in words."""
    shown = ", ".join(str(item) for item in items[:6])
    return shown if len(items) <= 6 else f"{shown}, ... ({len(items)} in all)"


def _differing(own: dict[str, Any], usual: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    keys = sorted(own.keys() | usual.keys())
    return {key: (own.get(key), usual.get(key)) for key in keys if own.get(key) != usual.get(key)}
