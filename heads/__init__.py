"""Retrieval heads: which heads fetch a needle from a haystack, whether they are causal, and when they come about.

    needles = heads.needle_prompts(
        tokenizer, heads.default_needles(), heads.default_haystack(), length=512, depths=(0.1, 0.5, 0.9)
    )
    scores = heads.retrieval_scores(model, needles)      # every detector, for every head and prompt
    test = heads.validate(model, needles)                # the best heads ablated, beside controls
    change = heads.compare(scores, later)                # which heads changed
    course = heads.monitor([(step, tokens, scores), ...])

The way of the data, room by room; each imports only those before it:

- `scores`: values of numpy arrays (`HeadScores`, `RetrievalScores`), names of heads, statistics. NaN = not applicable.
- `prompts`: needles, the haystacks that hide them, probes generated from a seed; every span is known token by token.
- `rows`: the few attention rows that predict an answer, computed again beside one fused forward pass, and reduced to
  numbers before the next layer, so that no map of S x S is ever held.
- `detect`: from these numbers to scores of heads. `detectors.TABLE` holds a row for each detector: its formula, and
  what even attention would give. Others have a pass of their own.
- `ablation`: the model without some heads, by interventions inside its attention call, and controls that match.
- `niah`: how well the model answers over length and depth, distance and interference.
- `comparison`: two checkpoints, paired by needle.
- `tracking`: a whole run; counts with intervals, births and deaths, saturation tested, correlation with other scores.

Values are frozen, with `to_frame`, `plot`, `save` and `load`; ``x_view.py`` holds the words and figures of the value in
``x.py``. To add a detector of answer rows, add a row to `detect.detectors.TABLE`.

Shapes: N prompts, L layers, H query heads, T answer tokens, S tokens of a prompt.

Reading and comparing stored results imports neither torch nor transformers; scoring a model does.
"""

import lazy_loader

from checkpoints.former import install

install()

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
