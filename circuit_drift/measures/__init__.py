"""Measures: what a run takes of each checkpoint. `base` says what one is, `registry` which there are.

A checkpoint's weights, a tokenizer, prompts and a measure's parameters decide a result; its key in the store is the
hash of them all (`stored`). Each built-in measure has a file of its own, with its figures (`figures`) and how two
results are compared (`pairs`) beside it; one's own is written against the same class.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
