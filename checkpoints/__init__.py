"""Checkpoint series: found, ordered, checked, loaded. Importing this imports no torch."""

import lazy_loader

from checkpoints.former import install

install()

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
