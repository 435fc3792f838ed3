"""Knowledge circuits: which edges of a model carry a fact, what they do alone, and how that changes in training.

    facts = circuits.tokenize_facts(tokenizer, circuits.default_facts())
    graph = circuits.attribute(model, facts)                         # a score for every edge and fact
    found = circuits.faithfulness(model, graph.prune(200), facts)    # what 200 edges do alone
    change = circuits.diff(graph, later)                             # which edges changed beyond the prompts' noise
    course = circuits.evolve([(step, graph), ...])                   # when the circuit changed

The way of the data, room by room; each imports only those before it:

- `facts`: what is asked, as clean and corrupt prompts of one length, and the metric of the answer's logits.
- `graph`: the edges of an architecture (`GraphShape`), scores on them (`AttributionGraph`, `NodeScores`), the sets of
  edges chosen from these (`Circuit`), and files for other tools. Numpy only.
- `trace`: one forward pass of an unmodified model, with what its parts wrote and read.
- `attribution`: from traces and gradients to scores; the algorithm stands at its head.
- `intervention`: the model with only a circuit live, exactly: faithfulness, patching, a circuit in another checkpoint.
- `roles`: where in the prompt each head reads what it writes towards the answer.
- `comparison`: two graphs; tests edge by edge, and every likeness beside its noise floor and chance.
- `tracking`: the graphs of a whole series; change points, phases, what each stage of training did.

Values are frozen, of numpy arrays, with `to_frame`, `plot`, `save` and `load`; ``x_view.py`` holds the words and the
figures of the value in ``x.py``. To add an attribution method, add a row to `attribution.methods.METHODS`; a metric is
a function handed to `attribute`; a file format is a row of `graph.exports`.

Reading and comparing stored results imports neither torch nor transformers; scoring a model does.
"""

import lazy_loader

from checkpoints.former import install

install()

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
