"""Retrieval heads: which heads copy from far back in the context, whether they matter, and how they change in training.

How data goes through it, room by room:

    prompts     needles hidden in haystacks -> NeedleSet, spans known by construction   `needle_prompts`
    rows        a fused forward pass that hands over chosen attention rows              O(rows x S), never S x S
    detect      rows of the answer's tokens -> one score a head and detector            `score`
    scores      the scores as values [prompts, layers, heads], names, head lists        `Scores`
    ablation    heads silenced or patched inside the attention call: are they causal?   `ablate`
    niah        answer likelihood over length and depth                                 `needle_map`
    comparison  two checkpoints, prompt by prompt: gained, lost, against the noise      `diff`
    tracking    a series: onset, saturation, correlation with other scores              `track`

One pass: for each prompt, the answer is teacher-forced; at the positions that predict its tokens each head's attention
row is computed again in float32 beside the fused output (`rows.reduce`: running max and sum over blocks of keys), and
reduced at once to where its largest weight lies and how much falls on the needle. Detectors are formulas on that.

The names in `__all__` are the promised ones; what else there is lies in the rooms and may move.

Reading and comparing stored results imports neither torch nor transformers; scoring a model does.
"""

from checkpoints.former import attach_face

__getattr__, __dir__, __all__ = attach_face(__name__, __file__)
