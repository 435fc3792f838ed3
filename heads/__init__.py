"""Retrieval heads: probes, scores, comparisons.

Reading and comparing stored results imports neither torch nor transformers; scoring a model does.
"""

import lazy_loader

from checkpoints.former import install

install()

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
