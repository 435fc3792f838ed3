"""From a model and facts to scores of edges, nodes, positions and parts of MLPs.

The score of an edge u -> v is (u(corrupt) - u(clean)) . g, summed over positions, where g is the gradient of the metric
at v's own copy of the residual stream: what replacing u in front of v alone would do to the metric, to first order. All
edges come from a few passes, without a tensor for any of them. For a batch of clean/corrupt prompts and the steps of a
quadrature along the path between them (`edges.score_segments`, `integration.PathScorer`):

    corrupt, clean = run(corrupt prompts), run(clean prompts)     # trace: hooks on an unmodified model
    difference     = written(corrupt) - written(clean)            # per writer; heads stay in head_dim
    for step k of the quadrature:                                 # methods: where, with which weight, times what
        low, high  = streams before layer 0, corrupt and clean
        seen       = run(clean prompts, input = low + alpha_k (high - low))
        g_k        = d metric(seen.logits) / d (what every reader reads)   # one backward pass for all readers
        gradient  += weight_k * g_k                               # contraction.gradients: nothing of width D per head
    for each chunk of t tokens, two layers at a time:             # contraction.contraction
        before     = differences of the writers below, [F', t, D] # difference x output projection
        readers    = gradients at the MLPs below and these layers' q, k, v, [B', t, D] # gradient x projection x gain
        scores[before, readers] += sum over t, D of before * readers
    scores        -= what gradients hold along the readers' normalised streams   # the norm's own derivative, exact
    scores         = mean over the facts of each unit, where an edge exists      # AttributionGraph [units, F, B]

Shapes: F writers of the graph, B its readers, F' and B' those at work; t tokens of a chunk, D width of the stream.

`methods` is the table of methods (EAP, EAP-IG, conductance, ...: quadratures for the loop), `integration` walks them,
`flow` scores without gradients; `ablation` says what an edge carries when it is cut, `backward` which rules replace the
plain derivative, `gqa` gives every query head its own keys and values. `nodes` and `mlp_parts` score writers and
neurons by the same differences and gradients, `positions` keeps the sum over t apart by segment.
"""
