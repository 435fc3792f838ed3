"""Every detector, a row of a table each: what it measures, its formula, and what even attention would give.

A new detector that the answer rows of a pass can feed is one more row of `TABLE`; its formula sees `AnswerRows`, the
rows of one layer that predict the answer's tokens. Detectors with a pass of their own (`heads.detect.query`,
`heads.detect.repeats`) have a row without a formula, so that their names and texts are found here too.

H heads, T answer tokens, N gold positions, those of the answer inside the needle.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from checkpoints.errors import UnsupportedArchitecture
from checkpoints.stats.units import Floats
from heads.detect.answer_rows import SINK_TOKENS, AnswerRows, EvenRows, LayerRows, ever
from heads.prompts.needles import NeedlePrompt

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True, slots=True)
class Detector:
    """One detector.

    Attributes:
        text: what it measures, and where it comes from; a share in [0, 1] unless it says otherwise.
        formula: its value for every head, [H], NaN where it is not applicable; None from the formula where the pass did
            not take what it needs; no formula where it has a pass of its own.
        even: its expectation for a head that attends to all keys alike, the level to read its value against, in its
            unit; None where it has no such level on a prompt.
        needs_answer: not applicable where the rows cannot reach the whole answer.
    """

    text: str
    formula: Callable[[AnswerRows], Floats | None] | None = None
    even: Callable[[EvenRows], float | None] | None = None
    needs_answer: bool = False


def _reasoning(rows: AnswerRows) -> Floats:
    with np.errstate(invalid="ignore", divide="ignore"):
        share = np.where(rows.mass("middle") > 0, rows.mass("answer_middle") / rows.mass("middle"), np.nan)
    return np.asarray(share.mean(axis=1))


def _spatial(rows: AnswerRows) -> Floats:
    answer = rows.mass("answer")
    return np.asarray((answer - rows.spread * (rows.mass("all") - answer)).mean(axis=1))


def _headkv(rows: AnswerRows) -> Floats:
    size = len(rows.gold)
    on_answer = np.isin(rows.layer.top_index[..., :size], rows.gold)
    return np.asarray((rows.layer.top_weight[..., :size] * on_answer).sum(axis=(1, 2)) / size)


def _mean_mass(group: str) -> Callable[[AnswerRows], Floats]:
    return lambda rows: np.asarray(rows.mass(group).mean(axis=1))


def _reading(name: str) -> Callable[[AnswerRows], Floats]:
    return lambda rows: rows.readings[name]


TABLE: Mapping[str, Detector] = {
    "copy": Detector(
        "distinct answer tokens copied / distinct answer tokens (arXiv 2604.02650, 3.3)",
        _reading("copy"),
        lambda even: float(ever(even.typed).mean()),
        needs_answer=True,
    ),
    "copy_positions": Detector(
        "distinct needle positions copied from / positions",
        _reading("copy_positions"),
        lambda even: float(ever(even.match).mean()),
        needs_answer=True,
    ),
    "copy_count": Detector(
        "steps that copy / positions (published code of arXiv 2404.15574); repeats push it beyond 1",
        _reading("copy_count"),
        lambda even: float(even.match.sum() / len(even.gold)),
        needs_answer=True,
    ),
    "activation": Detector(
        "1 if any token is copied; its mean is the activation frequency (arXiv 2404.15574, fig. 4)",
        _reading("activation"),
        lambda even: float(ever(even.match.sum(axis=1))),
        needs_answer=True,
    ),
    "needle_mass": Detector(
        "attention on the answer inside the needle, mean over rows",
        _mean_mass("answer"),
        lambda even: float(np.mean(len(even.gold) / even.keys)),
        needs_answer=True,
    ),
    "spatial": Detector(
        "mass on the answer minus (answer keys / other keys) x mass elsewhere (arXiv 2607.01002, control)",
        _spatial,
        lambda _: 0.0,
        needs_answer=True,
    ),
    "headkv": Detector(
        "mass of those of the |N| largest weights that lie on the answer / |N|, summed over rows (HeadKV, code)",
        _headkv,
        lambda even: float(np.sum(len(even.gold) / even.keys**2)),
        needs_answer=True,
    ),
    "reasoning": Detector(
        "mass on the answer / mass on all keys but sink and local window (arXiv 2602.11162, eq. 2)",
        _reasoning,
        lambda even: even.reasoning,
        needs_answer=True,
    ),
    "contextual": Detector(
        "attention on the whole needle sentence, mean over rows (arXiv 2503.23306)",
        _mean_mass("needle"),
        lambda even: even.share(even.prompt.needle_spans),
        needs_answer=True,
    ),
    "distractor_mass": Detector(
        "attention on the distractors, mean over rows (arXiv 2503.23306)",
        lambda rows: rows.mass("distractors").mean(axis=1) if rows.prompt.distractor_spans else rows.nothing,
        lambda even: even.share(even.prompt.distractor_spans) if even.prompt.distractor_spans else None,
    ),
    "sink_mass": Detector(
        f"attention on the first {SINK_TOKENS} tokens, mean over rows (arXiv 2503.23306)",
        _mean_mass("sink"),
        lambda even: float(np.mean(SINK_TOKENS / even.keys)),
    ),
    "first_token": Detector(
        "attention on the first token, mean over rows",
        _mean_mass("first_token"),
        lambda even: float(np.mean(1 / even.keys)),
    ),
    "learned_sink": Detector(
        "weight on a learned sink, which is no key (GPT-OSS), mean over rows",
        lambda rows: rows.layer.sink.mean(axis=1) if rows.layer.sink.any() else rows.nothing,
    ),
    "entropy": Detector(
        "entropy of the row over real keys, nats, mean over rows",
        lambda rows: np.asarray(rows.layer.entropy.mean(axis=1)),
        lambda even: float(np.mean(np.log(even.keys))),
    ),
    "locos": Detector(
        "direct write of the attended values towards the answer token, needle minus rest (arXiv 2607.01002)",
        lambda rows: rows.written(0),
        needs_answer=True,
    ),
    "locos_frozen": Detector(
        "the same with the scales of the norms it passes frozen: nats-like parts of the answer's logit",
        lambda rows: rows.written(1),
        needs_answer=True,
    ),
    "copy_written": Detector(
        "direct write of the answer's values towards the answer token at the steps that copy it, norms frozen, mean "
        "over all steps, in logits: what attention finds, weighted by what the head says of it",
        lambda rows: rows.copy_written,
        needs_answer=True,
    ),
    "qr": Detector("attention of the question on the needle (arXiv 2506.09944, eq. 2-4)", needs_answer=True),
    "qr_calibrated": Detector(
        "the same minus that of a null question, outlying key tokens dropped (published code)", needs_answer=True
    ),
    "echo": Detector("attention on earlier copies of the same token, repeated random blocks (RazorAttention)"),
    "induction": Detector("attention on the token after earlier copies of the same token, repeated random blocks"),
    "previous_token": Detector("attention on the token before, repeated random blocks"),
    "duplicate_token": Detector("attention on the latest earlier copy of the same token, repeated random blocks"),
}
DETECTORS: Mapping[str, str] = {name: detector.text for name, detector in TABLE.items()}
"""Name -> what it measures. All but ``entropy``, direct writes and counts are shares in [0, 1]."""


def answer_detectors(layer: LayerRows, prompt: NeedlePrompt) -> dict[str, Floats]:
    """Every detector of the answer rows that the pass can feed, each [H]; see `heads.detect.detectors.DETECTORS`."""
    rows = AnswerRows(layer, prompt)
    values = {name: detector.formula(rows) for name, detector in TABLE.items() if detector.formula}
    return {name: value for name, value in values.items() if value is not None}


def table(model: "PreTrainedModel", layers: dict[int, tuple[dict[str, np.ndarray], bool]]) -> dict[str, np.ndarray]:
    """[L, H] of every detector; NaN where a layer has no rows or its rows cannot reach the whole answer.

    Args:
        model: for its number of layers.
        layers: layer -> (detector -> [H], whether every row reaches the answer).

    Raises:
        UnsupportedArchitecture: no layer has rows.
    """
    if not layers:
        raise UnsupportedArchitecture(f"{type(model).__name__} has no layer whose attention rows can be read")
    n_layers = max(model.config.get_text_config().num_hidden_layers, max(layers) + 1)
    n_heads = max(len(value) for values, _ in layers.values() for value in values.values())
    names = dict.fromkeys(name for values, _ in layers.values() for name in values)
    out = {name: np.full((n_layers, n_heads), np.nan, dtype=np.float32) for name in names}
    for index, (values, reachable) in layers.items():
        for name, value in values.items():
            if reachable or not TABLE[name].needs_answer:
                out[name][index, : len(value)] = value
    return out


def chance_levels(prompt: NeedlePrompt) -> dict[str, float]:
    """Detector -> its expectation under even attention, for those that have one on this prompt; in the detector's unit.

    Detectors of what a head writes have none.
    """
    rows = EvenRows(prompt)
    levels = {name: detector.even(rows) for name, detector in TABLE.items() if detector.even}
    return {name: level for name, level in levels.items() if level is not None}


def levels(prompts: Sequence[NeedlePrompt]) -> dict[str, Any]:
    """What chance gives on these prompts: ``chance`` of the copy score, ``chances`` of all detectors that have one.

    ``chances`` are means over the prompts, of the detectors with a level on every prompt.
    """
    found = [chance_levels(prompt) for prompt in prompts]
    shared = set[str].intersection(*(set(of) for of in found))
    return {
        "chance": float(np.mean([1 / prompt.answer_start for prompt in prompts])),
        "chances": {name: float(np.mean([of[name] for of in found])) for name in found[0] if name in shared},
    }
