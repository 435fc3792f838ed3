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
    knowledge, behaviour, training   the ledger of facts; what a checkpoint can do; probes inside a training loop
    report      run or pair -> one self-contained HTML page; verdict in sentences
    api, cli    the face: `run`, `load_run`, `diff`, `Run.report`; the commands

`run` measures every checkpoint of a series into a store, `Run.diff` and `diff` compare two of them, `Run.report`
writes the page. Importing this package, and comparing stored results, imports no torch.
"""

from circuit_drift.shadows import require_own_packages

require_own_packages()

from checkpoints.former import attach_face  # noqa: E402 - what is imported here was looked at first

__getattr__, __dir__, __all__ = attach_face(__name__, __file__)

__version__ = "0.1.0"
