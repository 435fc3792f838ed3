"""Continual pre-training under several strategies, each a small declarative value, probed at every epoch.

    circuit-drift train CONFIG.toml --out DIR --html DIR/report.html

Each strategy leaves a series of checkpoints that the rest of the toolkit reads, and a run in a store beside it.
"""

from checkpoints.former import attach_face

__getattr__, __dir__, __all__ = attach_face(__name__, __file__)
