"""What a checkpoint can do: answers, choices, skills, short fine-tunes, and tasks of lm-evaluation-harness."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
