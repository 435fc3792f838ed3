"""Checkpoint series: found, ordered, checked, loaded. Importing this imports no torch."""

from checkpoints.errors import (
    BadPrompt,
    CheckpointMismatch,
    CorruptWeights,
    DamagedResult,
    DriftError,
    NotACheckpoint,
    StoreError,
    UnsupportedArchitecture,
)
from checkpoints.files.check import validate
from checkpoints.former import install
from checkpoints.loading.load import LoadedModel
from checkpoints.model.architectures import capabilities
from checkpoints.model.bridge import build_bridge
from checkpoints.series.checkpoint import Checkpoint
from checkpoints.series.compat import require_same_model
from checkpoints.series.series import Series, demo_folder, open_checkpoint, open_series

install()

__all__ = [
    "BadPrompt",
    "Checkpoint",
    "CheckpointMismatch",
    "CorruptWeights",
    "DamagedResult",
    "DriftError",
    "LoadedModel",
    "NotACheckpoint",
    "Series",
    "StoreError",
    "UnsupportedArchitecture",
    "build_bridge",
    "capabilities",
    "demo_folder",
    "open_checkpoint",
    "open_series",
    "require_same_model",
    "validate",
]
