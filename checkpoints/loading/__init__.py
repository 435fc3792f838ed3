"""From files to a model ready for hooked forward passes, one checkpoint after the other."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
