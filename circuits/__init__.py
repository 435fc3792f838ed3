"""Knowledge circuits: which edges of a model carry a fact, whether they suffice, and how they change in training.

How data goes through it, room by room:

    facts         clean/corrupt pairs -> FactSet (token ids, answers, metric)          `tokenize_facts`
    graph         an architecture's nodes and edges, scores on them, circuits          `AttributionGraph.prune`
    trace         one forward pass with what is written and read kept                  hooks, no copy of the model
    contraction   differences x gradients, all edges at once
    attribution   FactSet -> AttributionGraph; the algorithm stands at its head        `attribute`
    intervention  a circuit alone, all other edges cut: is it enough?                  `faithfulness`, `transfer`
    roles         where each head reads what it writes                                 `head_roles`
    comparison    two graphs -> what changed, against the noise of the facts           `diff`
    tracking      a series of graphs -> phases, change points, births and deaths       `track`

The names in `__all__` are the promised ones; what else there is lies in the rooms and may move.

Values (graphs, diffs, tracks) are numpy on disk and in memory: reading, comparing and drawing them imports neither
torch nor transformers; measuring does.
"""

from checkpoints.former import attach_face

__getattr__, __dir__, __all__ = attach_face(__name__, __file__)
