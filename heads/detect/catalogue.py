"""What the detectors measure, and where they come from. Shares in [0, 1] unless said otherwise."""

from collections.abc import Mapping

SINK_TOKENS = 2
LOCAL_WINDOW = 32
DETECTORS: Mapping[str, str] = {
    "copy": "distinct answer tokens copied / distinct answer tokens (arXiv 2604.02650, 3.3)",
    "copy_positions": "distinct needle positions copied from / positions",
    "copy_count": "steps that copy / positions (published code of arXiv 2404.15574); repeats push it beyond 1",
    "activation": "1 if any token is copied; its mean is the activation frequency (arXiv 2404.15574, fig. 4)",
    "needle_mass": "attention on the answer inside the needle, mean over rows",
    "spatial": "mass on the answer minus (answer keys / other keys) x mass elsewhere (arXiv 2607.01002, control)",
    "headkv": "mass of those of the |N| largest weights that lie on the answer / |N|, summed over rows (HeadKV, code)",
    "reasoning": "mass on the answer / mass on all keys but sink and local window (arXiv 2602.11162, eq. 2)",
    "contextual": "attention on the whole needle sentence, mean over rows (arXiv 2503.23306)",
    "distractor_mass": "attention on the distractors, mean over rows (arXiv 2503.23306)",
    "sink_mass": f"attention on the first {SINK_TOKENS} tokens, mean over rows (arXiv 2503.23306)",
    "first_token": "attention on the first token, mean over rows",
    "learned_sink": "weight on a learned sink, which is no key (GPT-OSS), mean over rows",
    "entropy": "entropy of the row over real keys, nats, mean over rows",
    "locos": "direct write of the attended values towards the answer token, needle minus rest (arXiv 2607.01002)",
    "locos_frozen": "the same with the scales of the norms it passes frozen: nats-like parts of the answer's logit",
    "qr": "attention of the question on the needle (arXiv 2506.09944, eq. 2-4)",
    "qr_calibrated": "the same minus that of a null question, outlying key tokens dropped (published code)",
    "echo": "attention on earlier copies of the same token, repeated random blocks (RazorAttention)",
    "induction": "attention on the token after earlier copies of the same token, repeated random blocks",
    "previous_token": "attention on the token before, repeated random blocks",
    "duplicate_token": "attention on the latest earlier copy of the same token, repeated random blocks",
}
"""Name -> what it measures. All but ``entropy``, ``locos`` and counts are shares in [0, 1]."""

NEEDS_NEEDLE = frozenset(
    (
        "copy",
        "copy_positions",
        "copy_count",
        "activation",
        "needle_mass",
        "spatial",
        "headkv",
        "reasoning",
        "contextual",
        "locos",
        "locos_frozen",
        "qr",
        "qr_calibrated",
    )
)
"""Not applicable where the rows cannot reach the whole answer."""

ABLATIONS: Mapping[str, str] = {
    "off": "the head's output is 0",
    "mean_output": "the head's output is its mean over all positions of the calibration prompts",
    "mean_query": "the head's query, before QK-norm and rotary embedding, is its mean over the same (LOCOS's mean)",
    "uniform": "the head's query is 0: it attends to all visible keys alike (the published masking)",
    "knockout": "the head cannot see the needle's columns; all else is left as it was",
}
"""What "ablating a head" means; the kinds give different answers, so a result always names its own."""

CONTROLS: Mapping[str, str] = {
    "layer_matched": "as many other heads of each tested layer, at random; some may retrieve themselves",
    "non_retrieving": "as many heads that do not retrieve, at random from any layer",
    "equal_write": "as many heads that do not retrieve, each the nearest to a tested one in size of its direct write",
}
"""What an ablation is compared with; no control ever holds a tested head."""
