"""A knowledge benchmark from real documents: what to train on, what to ask, what was known before.

    circuit-drift benchmark DOCUMENTS --recipe RECIPE.toml --out DIR --model CHECKPOINT

Records (`sources`) give facts (`facts`) by the forms of a recipe (`recipe`); entities are sorted by prior exposure and
matched with controls that are never trained (`exposure`); each entity gets a main document and others (`documents`) and
probes of five kinds (`probes`); leaks and duplicates are taken out and told (`checks`).
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
