"""Are a checkpoint's files whole? Answered from sizes and headers, before anything is loaded."""

from pathlib import Path

from checkpoints.files.formats import WeightFiles, find_weights


def check_files(folder: Path) -> tuple[Path, ...]:
    """Check that a checkpoint folder's weight files exist and hold every byte they promise.

    Returns:
        the weight files.

    Raises:
        NotACheckpoint: the folder is no checkpoint.
        CorruptWeights: a weight file is missing, empty, truncated, or not of its kind.
    """
    return checked_weights(folder).files


def checked_weights(folder: Path) -> WeightFiles:
    """`check_files`, and which format they are of."""
    weights = find_weights(folder)
    weights.check()
    return weights
