import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tokenizers():
    """Three tokenizers of different make, trained on the built-in texts: words, byte-level BPE, characters."""
    from toys import train_tokenizers

    return train_tokenizers()
