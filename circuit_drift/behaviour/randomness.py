"""Random states that a measurement leaves as they were."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

PROBE_SEED = 0


@contextmanager
def random_states() -> Iterator[None]:
    """Start every generator from one seed, and put its state back at the end of the block."""
    import torch

    cuda = list(range(torch.cuda.device_count()))
    python, legacy = random.getstate(), np.random.get_state()  # noqa: NPY002 - the global state is what is kept
    with torch.random.fork_rng(devices=cuda):
        try:
            random.seed(PROBE_SEED)
            np.random.seed(PROBE_SEED)  # noqa: NPY002
            torch.manual_seed(PROBE_SEED)
            yield
        finally:
            random.setstate(python)
            np.random.set_state(legacy)  # noqa: NPY002
