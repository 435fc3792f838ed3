"""Checkpoint series: found, ordered, checked, loaded. Importing this imports no torch."""

from checkpoints.bridge import build_bridge
from checkpoints.capabilities import capabilities
from checkpoints.checkpoint import Checkpoint
from checkpoints.compat import require_same_model
from checkpoints.errors import (
    BadPrompt,
    CheckpointMismatch,
    CorruptWeights,
    DriftError,
    NotACheckpoint,
    StoreError,
    UnsupportedArchitecture,
)
from checkpoints.loading import LoadedModel
from checkpoints.series import Series, demo_folder, open_checkpoint, open_series
from checkpoints.validate import validate

__all__ = [
    "BadPrompt",
    "Checkpoint",
    "CheckpointMismatch",
    "CorruptWeights",
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
