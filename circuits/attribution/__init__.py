"""From a model and facts to scores of edges, nodes, positions and parts of MLPs.

The score of an edge u -> v is (u(corrupt) - u(clean)) . g, summed over positions, where g is the gradient of the metric
at v's own copy of the residual stream: what replacing u in front of v alone would do to the metric, to first order. All
edges of a model come from a few passes, without a tensor for any of them:

1. `methods`: a method says at which points between the corrupt and the clean run gradients are taken, and what they
   are multiplied with. `ablation` says what an edge carries in place of u(clean).
2. `integration`: a batch is run corrupt and clean (`circuits.trace`), which gives the differences of all writers, a
   head's in head_dim; at every point it is run once more under gradients, by the rules of `backward`.
3. `contraction.Gradients` adds up the gradients at the outputs of the readers' projections, a head's in head_dim; what
   the norm in front adds lies along one direction a step, which all readers of a layer share. `mla` says the same of
   readers behind a latent.
4. `contraction.Contraction` widens both to the stream for a chunk of tokens at a time, in two buffers, and multiplies:
   [readers of a layer, t d] x [t d, writers before it].
5. `edges` adds the batches up by unit of facts, in an `AttributionGraph`, and logs how far the scores of a cut are from
   metric(corrupt) - metric(clean).

`flow` takes no gradient but each writer's share of what is read. `nodes` scores writers alone, `mlp_parts` neurons and
experts, `positions` keeps the sum of step 4 apart by segment of the prompt, `gqa` tells query heads apart that share
keys and values.

Shapes: b prompts of a batch, t positions, d width of the stream, F writers, B readers, N facts in U units.
"""
