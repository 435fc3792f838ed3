"""What ablating a head can mean, and what an ablation is compared with."""

from collections.abc import Mapping

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
