"""States of unfinished work that this distribution wrote for itself: tensors and plain values, nothing that can run."""

from pathlib import Path
from typing import Any

from checkpoints.errors import DriftError, StoreError
from checkpoints.files.limits import require_file, require_plain_archive


def read_state(path: Path, device: Any = "cpu") -> dict[str, Any]:
    """Read a state by torch's list of what weights consist of: a pickle of anything else is refused, not run.

    Args:
        path: what `torch.save` wrote.
        device: where its tensors go.

    Raises:
        StoreError: it is damaged, or asks for anything but tensors and plain values.
    """
    import torch

    try:
        require_file(path)
        require_plain_archive(path, path.stat().st_size, str(path))
        state = torch.load(path, weights_only=True, map_location=device)
    except FileNotFoundError as error:
        raise StoreError(f"cannot go on from {path}, which is not there: train anew in another place") from error
    except (DriftError, OSError) as error:
        raise StoreError(f"cannot go on from {path}: {error}") from error
    except Exception as error:  # unpickling hostile bytes can raise anything
        text = " ".join(str(error).split())[:200]
        raise StoreError(
            f"cannot go on from {path}: it holds more than tensors and plain values, or is damaged "
            f"({type(error).__name__}: {text}); delete it to begin anew"
        ) from error
    if not isinstance(state, dict):
        raise StoreError(f"cannot go on from {path}: it holds no state; delete it to begin anew")
    return state
