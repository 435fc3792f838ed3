"""Retrieval heads and knowledge circuits over training checkpoints.

    import circuit_drift
    run = circuit_drift.run("demo")
    run.diff(1000, 9000)

How a run goes, room by room:

    prompts     what is asked: needles and facts of the series, or one's own
    measures    what is taken of a checkpoint: heads, circuit, faithfulness, roles, or one's own    `Measure`
    sweep       for every checkpoint and measure: in the store? else lease it, load once, compute, keep
    store       results by the hash of what they were computed from; many processes at once
    record      what a run and a pair remember, data only
    comparison  two points -> PairDiff; stages: which points are one line of training
    explanation, weights   whose weights made a change; what changed in the weights, without a prompt      `explain`
    knowledge, behaviour   the ledger of facts; what a checkpoint can do
    training, benchmark    probes inside a training loop, told to trackers; what to train on and to ask
    statements  what is found, as values, and in words
    report      run or pair -> one self-contained HTML page (page: how it is made; explore: what its reader chooses)
    api, cli    the face: `run`, `load_run`, `diff`, `Run.report`; the commands

lab (synthetic worlds with known answers) and replicate (two papers' claims) stand outside: nothing imports them.

`run` measures every checkpoint of a series into a store, `Run.diff` and `diff` compare two of them, `Run.report`
writes the page. Importing this package, and comparing stored results, imports no torch.
"""

from circuit_drift.shadows import require_own_packages

require_own_packages()

from checkpoints.former import attach_face  # noqa: E402 - what is imported here was looked at first

__getattr__, __dir__, __all__ = attach_face(__name__, __file__)

__version__ = "0.1.0"
