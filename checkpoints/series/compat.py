"""Can two checkpoints be compared head by head? Answered from configs, headers and tokenizer files alone."""

from typing import Any

from checkpoints.errors import CheckpointMismatch
from checkpoints.files.configs import CONFIG_FILE
from checkpoints.files.formats import find_weights
from checkpoints.series.checkpoint import Checkpoint

# The same quantity goes by several names; head counts do not show in the shapes of fused projections.
SHAPE_FIELDS = (
    ("model_type",),
    ("num_hidden_layers", "n_layer", "num_layers"),
    ("num_attention_heads", "n_head", "num_heads"),
    ("num_key_value_heads",),
    ("head_dim",),
    ("hidden_size", "n_embd", "d_model"),
    ("intermediate_size", "n_inner", "ffn_dim"),
    ("num_local_experts", "num_experts", "n_routed_experts"),
    ("vocab_size",),
)


def require_same_model(a: Checkpoint, b: Checkpoint) -> None:
    """Refuse two checkpoints whose heads, neurons or tokens do not correspond one to one.

    Fields that training may change without moving a head (rope scaling, dropout, dtype) may differ.

    Raises:
        CheckpointMismatch: a shape field, a tensor's shape or the tokenizer differs; names it with both values.
        NotACheckpoint: a folder holds none.
        CorruptWeights: a weight file is damaged.
    """
    weights_a, weights_b = find_weights(a.fetch()), find_weights(b.fetch())
    config_a, config_b = _config(a), _config(b)
    if config_a is not None and config_b is not None:
        for names in SHAPE_FIELDS:
            _require_equal(a, b, names[0], _field(config_a, names), _field(config_b, names))
    entries_a, entries_b = weights_a.entries(), weights_b.entries()
    for name in sorted(entries_a.keys() & entries_b.keys()):
        _require_equal(a, b, f"the shape of {name}", entries_a[name].shape, entries_b[name].shape)
    if a.tokenizer_key == b.tokenizer_key:
        return
    hash_a, hash_b = a.tokenizer_hash, b.tokenizer_hash
    if hash_a is not None and hash_b is not None:
        _require_equal(a, b, "the tokenizer (sha256)", hash_a[:12], hash_b[:12])


def _config(checkpoint: Checkpoint) -> dict[str, Any] | None:
    return checkpoint.config if (checkpoint.path / CONFIG_FILE).exists() else None


def _field(config: dict[str, Any], names: tuple[str, ...]) -> Any:
    return next((config[name] for name in names if config.get(name) is not None), None)


def _require_equal(a: Checkpoint, b: Checkpoint, what: str, seen_a: object, seen_b: object) -> None:
    if seen_a != seen_b:
        raise CheckpointMismatch(
            f"{a.label} and {b.label} are not the same model: {what} is {seen_a} in {a.path} and {seen_b} in "
            f"{b.path}; compare checkpoints of one run"
        )
