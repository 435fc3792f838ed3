"""Retrieval heads and knowledge circuits over training checkpoints.

    import circuit_drift
    run = circuit_drift.run("demo")
    run.diff(1000, 9000)

`run` measures every checkpoint of a series into a store, `Run.diff` and `diff` compare two of them, `Run.report`
writes one self-contained HTML page. Importing this package, and comparing stored results, imports no torch.
"""

import lazy_loader

from circuit_drift.shadows import require_own_packages

require_own_packages()

from checkpoints.former import install  # noqa: E402 - what is imported here was looked at first

install()

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

__version__ = "0.1.0"
