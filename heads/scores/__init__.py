"""Scores of heads as values, the names of heads, and how alike two rankings are; numpy only."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
