"""Facts as clean/corrupt pairs, the tasks of the literature, and the metric that is attributed."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
