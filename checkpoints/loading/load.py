"""From a checkpoint folder to a model ready for hooked forward passes.

Files are checked before anything is read, and a model is handed out only if the files gave every one of its
parameters a finite value: transformers itself fills missing weights with random numbers and a warning.
"""

import gc
import logging
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING

from checkpoints.errors import CorruptWeights, DriftError
from checkpoints.files.check import checked_weights
from checkpoints.files.configs import CONFIG_FILE
from checkpoints.files.formats import WeightFiles
from checkpoints.files.hashes import stamps
from checkpoints.files.limits import require_file, require_possible
from checkpoints.files.trust import allows_code, refuse_foreign_code
from checkpoints.loading.bases import HeldBase
from checkpoints.loading.coverage import check_finite
from checkpoints.loading.packing import check_packed, require_packable, require_whole
from checkpoints.loading.spread import placement_of, require_usable
from checkpoints.model.bridge import build_bridge
from checkpoints.model.rope import forget_lengths
from checkpoints.placement import Placement
from checkpoints.series.checkpoint import Checkpoint
from checkpoints.tokenizers.load import read_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from checkpoints.model.bridge import Attention
    from checkpoints.model.lens import SharedBridge

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A checkpoint's model with how it was loaded.

    Attributes:
        checkpoint: what was loaded.
        device: torch device it is on; all of them, joined by ``+``, where it is spread over several.
        dtype: as asked for (`Placement`).
        attention: attention implementation it was loaded with.
        device_map: module -> device, where it was loaded with a map.
        files: what each file that it was loaded from looked like before it was read; see `require_unchanged`.
    """

    checkpoint: Checkpoint
    device: str
    dtype: str
    attention: str
    _held: "list[tuple[PreTrainedModel, PreTrainedTokenizerBase | None]]" = field(repr=False)
    device_map: Mapping[str, str] | None = None
    files: Mapping[Path, tuple[int, ...] | None] = field(default_factory=dict, repr=False, compare=False)
    _bridges: "dict[str, SharedBridge]" = field(default_factory=dict, repr=False, compare=False)

    @property
    def model(self) -> "PreTrainedModel":
        """The plain transformers model: eval mode, no parameter requires a gradient."""
        return self._content()[0]

    @property
    def tokenizer(self) -> "PreTrainedTokenizerBase | None":
        """Its tokenizer, or None where neither the checkpoint nor its series has one."""
        return self._content()[1]

    def bridge(self, attention: "Attention" = "native") -> "SharedBridge":
        """The same weights as a TransformerLens `TransformerBridge`; see `build_bridge`.

        It is built once: when the stream puts the next checkpoint's weights into the model, they are in the bridge
        too, and hooks that were added to it stay. Give it token ids, as it has no tokenizer.
        """
        model = self.model
        known = self._bridges.get(attention)
        if known is None or not known.shares(model.parameters()):
            known = self._bridges[attention] = build_bridge(model, attention=attention)
        return known

    def release(self) -> None:
        """Let go of the model and its bridges, so that its memory is free before the next one is loaded."""
        held = [*(model for model, _ in self._held), *self._bridges.values()]
        alive = [weakref.ref(module) for module in held]
        del held
        self._held.clear()
        self._bridges.clear()
        if any(model() is not None for model in alive):
            gc.collect()  # hooks and wrappers can make cycles

    def require_unchanged(self) -> None:
        """Refuse what is computed from here on if a file that the model was loaded from is no longer the same.

        Raises:
            CorruptWeights: names the file.
        """
        now = stamps(self.files)
        changed = [path for path, stamp in self.files.items() if now[path] != stamp]
        if changed:
            raise CorruptWeights(
                f"{changed[0]} was changed or replaced while {self.checkpoint.name} was in use: what was measured "
                "is not of the weights that are there now; measure it again"
            )

    def pass_on(self, checkpoint: Checkpoint, seen: Mapping[Path, tuple[int, ...] | None]) -> "LoadedModel":
        """Hand the model, which now holds another checkpoint's weights, to a new handle; this one is let go of.

        Args:
            checkpoint: whose weights it holds.
            seen: what that checkpoint's files looked like before they were read.
        """
        held = self._content()
        self._held.clear()
        for bridge in self._bridges.values():
            bridge.refresh()
        return replace(self, checkpoint=checkpoint, _held=[held], files=seen)

    def _content(self) -> "tuple[PreTrainedModel, PreTrainedTokenizerBase | None]":
        if not self._held:
            raise DriftError(
                f"the model of {self.checkpoint.name} was let go of when its series moved on or its with block "
                "ended; use checkpoint.load() to keep one"
            )
        return self._held[0]


def load(checkpoint: Checkpoint, placement: Placement, held: HeldBase | None = None) -> LoadedModel:
    """Load a checkpoint; see `Checkpoint.load`.

    Args:
        checkpoint: what to load.
        placement: device, dtype, attention implementation and device map.
        held: where the base model of an adapter is kept for the next one.
    """
    device, device_map = placement.here, placement.device_map
    require_usable(device_map)
    if placement.packed:
        require_packable(checkpoint.path, checkpoint.config, placement)
    checkpoint.fetch()
    asked, placement = placement, replace(placement, attention=checkpoint.attention(placement.attention))
    if placement != asked and placement.attention != "sdpa":
        logger.warning("%s: its architecture has no SDPA, so attention is %s", checkpoint.name, placement.attention)
    files = checkpoint.files
    for file in files:
        require_file(file)
    seen = stamps(files)
    model = build_model(checkpoint, placement, held)
    spread = None if device_map is None else placement_of(checkpoint.path, model, device_map)
    check_finite(checkpoint.path, dict(model.named_parameters()))
    check_packed(checkpoint.path, model)
    model.requires_grad_(requires_grad=False).train(mode=False)
    forget_lengths(model)
    tokenizer = load_tokenizer(checkpoint)
    if spread is None and not placement.packed:
        model = _move(model, device)
    elif spread is not None:
        device = "+".join(dict.fromkeys(spread.values()))
    loaded = LoadedModel(checkpoint, device, placement.dtype, placement.attention, [(model, tokenizer)], spread, seen)
    loaded.require_unchanged()
    return loaded


def build_model(checkpoint: Checkpoint, placement: Placement, held: HeldBase | None = None) -> "PreTrainedModel":
    """The model alone, by the loader of its files' format, once its config was held against its files.

    Raises:
        NotACheckpoint, CorruptWeights, UnsupportedArchitecture, DriftError: see `Checkpoint.load`.
    """
    weights = checked_weights(checkpoint.path)
    if weights.format.config == CONFIG_FILE:
        _require_possible(checkpoint, weights)
        refuse_foreign_code(checkpoint.config, checkpoint.path, own=allows_code(checkpoint.path, checkpoint.repo))
    require_whole(weights, placement)
    build: Callable[..., PreTrainedModel] = resolve_name(weights.format.loader)
    if weights.format.is_adapter:
        return build(checkpoint, weights, placement, held)
    return build(checkpoint, weights, placement)


def _require_possible(checkpoint: Checkpoint, weights: WeightFiles) -> None:
    """Hold the config against what the files can hold, where their format tells."""
    count = weights.count()
    if count is not None:
        require_possible(checkpoint.config, folder=checkpoint.path, tensors=count, size=weights.size)


def _move(model: "PreTrainedModel", device: str) -> "PreTrainedModel":
    try:
        moved: PreTrainedModel = model.to(device)  # type: ignore[arg-type]
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise DriftError(f"cannot put the model on device {device!r}: {reason}; try device='cpu'") from error
    return moved


def load_tokenizer(checkpoint: Checkpoint) -> "PreTrainedTokenizerBase | None":
    """The tokenizer alone, no weights: the checkpoint's, its series', or that in a GGUF file; None where none is.

    Raises:
        DriftError: its files cannot be read.
    """
    source = checkpoint.tokenizer_source()
    if source is None:
        return None
    packed = None if source.packed is None else source.packed.name
    return read_tokenizer(source.folder, gguf=packed, code=allows_code(source.folder, checkpoint.repo))
