"""From a checkpoint folder to a model ready for hooked forward passes.

Files are checked before anything is read, and a model is handed out only if the files gave every one of its
parameters a finite value: transformers itself fills missing weights with random numbers and a warning.
"""

import gc
import logging
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from checkpoints.errors import CorruptWeights, DriftError
from checkpoints.files.check import check_files, count_tensors
from checkpoints.files.distributed import plan, read_metadata
from checkpoints.files.folder import ADAPTER_CONFIG, loading_files
from checkpoints.files.gguf import require_possible_gguf
from checkpoints.files.hashes import stamps
from checkpoints.files.headers import WRAPPER
from checkpoints.files.limits import require_file, require_possible
from checkpoints.files.trust import allows_code, refuse_foreign_code
from checkpoints.loading.adapters import merge_adapter
from checkpoints.loading.coverage import check_coverage, check_finite, explain, refuse_misnamed
from checkpoints.loading.size import require_fitting_size
from checkpoints.loading.spread import placement_of, require_packages, require_usable
from checkpoints.loading.view import view
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
        dtype: ``"float32"``, ``"bfloat16"`` or ``"float16"``.
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


def load(checkpoint: Checkpoint, placement: Placement) -> LoadedModel:
    """Load a checkpoint; see `Checkpoint.load`."""
    device, device_map = placement.here, placement.device_map
    require_usable(device_map)
    checkpoint.fetch()
    asked, placement = placement, replace(placement, attention=checkpoint.attention(placement.attention))
    if placement != asked and placement.attention != "sdpa":
        logger.warning("%s: its architecture has no SDPA, so attention is %s", checkpoint.name, placement.attention)
    files = checkpoint.files
    for file in files:
        require_file(file)
    seen = stamps(files)
    model = _model(checkpoint, placement)
    spread = None if device_map is None else placement_of(checkpoint.path, model, device_map)
    check_finite(checkpoint.path, dict(model.named_parameters()))
    model.requires_grad_(requires_grad=False).train(mode=False)
    forget_lengths(model)
    tokenizer = load_tokenizer(checkpoint)
    if spread is None:
        model = _move(model, device)
    else:
        device = "+".join(dict.fromkeys(spread.values()))
    loaded = LoadedModel(checkpoint, device, placement.dtype, placement.attention, [(model, tokenizer)], spread, seen)
    loaded.require_unchanged()
    return loaded


def _model(checkpoint: Checkpoint, placement: Placement) -> "PreTrainedModel":
    """The model alone, of the kind of files that the checkpoint consists of, with memory of its own."""
    files = check_files(checkpoint.path)
    if files[0].suffix == ".distcp":
        if placement.device_map is not None:
            raise DriftError(
                f"{checkpoint.path} is a torch distributed checkpoint, which is put on one device: convert it to "
                "safetensors to spread it by a device map"
            )
        return _build_distributed(checkpoint, files[0].parent, placement)
    if checkpoint.base is None:
        if (checkpoint.path / ADAPTER_CONFIG).exists():
            logger.warning("%s holds an adapter beside whole weights: %s is loaded as it is, without the adapter",
                           checkpoint.path, files[0].name)  # fmt: skip
        model = _build(checkpoint, files, placement)
    else:
        whole = replace(checkpoint, path=checkpoint.base, hub=checkpoint.hub and checkpoint.hub.base)
        model = merge_adapter(checkpoint.path, _build(whole, check_files(whole.path), placement))
    _leave_files(model)
    return model


def _leave_files(model: "PreTrainedModel") -> None:
    """Copy what is in main memory: tensors may be mapped from files, and would follow or fail what happens to those."""
    for tensor in {id(tensor): tensor for tensor in model.state_dict(keep_vars=True).values()}.values():
        if tensor.device.type == "cpu":
            tensor.data = tensor.data.clone()


def _build(checkpoint: Checkpoint, files: Sequence[Path], placement: Placement) -> "PreTrainedModel":
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    gguf = files[0].name if files[0].suffix == ".gguf" else None
    if gguf:
        require_packages(f"{checkpoint.path / gguf} is a GGUF file", "gguf", "accelerate", extra="gguf")
        require_possible_gguf(files[0])
    else:
        require_possible(checkpoint.config, folder=checkpoint.path, tensors=count_tensors(files),
                         size=sum(file.stat().st_size for file in files))  # fmt: skip
        refuse_foreign_code(checkpoint.config, checkpoint.path, own=allows_code(checkpoint.path, checkpoint.repo))
        refuse_misnamed(checkpoint.path, checkpoint.config, files)
        require_fitting_size(checkpoint.path, files)
    auto: Any = AutoModelForCausalLM
    model: PreTrainedModel
    code = allows_code(checkpoint.path, checkpoint.repo)
    with view(checkpoint.path, loading_files(checkpoint.path, code=code)) as shown:
        try:
            with _quiet_transformers():
                model, info = auto.from_pretrained(
                    shown,
                    dtype=getattr(torch, placement.dtype),
                    attn_implementation=placement.attention,
                    local_files_only=True,
                    trust_remote_code=code,
                    weights_only=True,
                    ignore_mismatched_sizes=True,  # they are refused below, by name
                    output_loading_info=True,
                    **({"gguf_file": gguf} if gguf else {"key_mapping": {WRAPPER: ""}}),
                    **({} if placement.device_map is None else {"device_map": placement.device_map}),
                )
        except (SafetensorError, EOFError) as error:
            raise CorruptWeights(f"the weights of {checkpoint.path} cannot be read: {error}") from error
        except Exception as error:
            said = str(error).replace(str(shown), str(checkpoint.path))
            raise explain(checkpoint.path, error, said, repo=checkpoint.repo) from error
    model.config.name_or_path = str(checkpoint.path)
    model.name_or_path = str(checkpoint.path)
    check_coverage(checkpoint.path, info)
    return model


def _build_distributed(checkpoint: Checkpoint, folder: Path, placement: Placement) -> "PreTrainedModel":
    """The config's model, filled from a torch distributed checkpoint."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    auto: Any = AutoModelForCausalLM
    stored = read_metadata(folder)
    size = sum(file.stat().st_size for file in folder.glob("*.distcp"))
    require_possible(checkpoint.config, tensors=len(stored), size=size, folder=checkpoint.path)
    refuse_foreign_code(checkpoint.config, checkpoint.path, own=False)
    try:
        config = AutoConfig.from_pretrained(checkpoint.path, local_files_only=True, trust_remote_code=False)
        with torch.device("meta"):
            shape: PreTrainedModel = auto.from_config(config)
        filling = plan(folder, stored, shape)
        model: PreTrainedModel = auto.from_config(
            config, dtype=getattr(torch, placement.dtype), attn_implementation=placement.attention
        )
    except DriftError:
        raise
    except Exception as error:
        raise explain(checkpoint.path, error, str(error), repo=checkpoint.repo) from error
    filling.fill(model)
    return model


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


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    """Silence transformers' progress bars and load reports; what they would warn of is checked here."""
    from transformers.utils import logging

    hf_logging: Any = logging
    bars, level = hf_logging.is_progress_bar_enabled(), hf_logging.get_verbosity()
    hf_logging.disable_progress_bar()
    hf_logging.set_verbosity_error()
    try:
        yield
    finally:
        hf_logging.set_verbosity(level)
        if bars:
            hf_logging.enable_progress_bar()
