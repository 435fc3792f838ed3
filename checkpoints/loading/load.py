"""From a checkpoint folder to a model ready for hooked forward passes.

Files are checked before anything is read, and a model is handed out only if the files gave every one of its
parameters a finite value: transformers itself fills missing weights with random numbers and a warning.
"""

import gc
import logging
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from checkpoints.errors import CorruptWeights, DriftError, UnsupportedArchitecture, require_choice
from checkpoints.files.check import validate
from checkpoints.files.distributed import plan, read_metadata
from checkpoints.files.folder import tokenizer_files
from checkpoints.files.limits import require_possible
from checkpoints.files.trust import ALLOWED, allows_code
from checkpoints.loading.adapters import merge_adapter
from checkpoints.model.bridge import build_bridge
from checkpoints.series.checkpoint import Checkpoint

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from checkpoints.model.bridge import Attention
    from checkpoints.model.lens import SharedBridge

logger = logging.getLogger(__name__)

DType = Literal["float32", "bfloat16", "float16"]
DeviceMap = str | Mapping[str, str | int]
_MAPS = ("auto", "balanced", "balanced_low_0", "sequential")


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A checkpoint's model with how it was loaded.

    Attributes:
        checkpoint: what was loaded.
        device: torch device it is on; all of them, joined by ``+``, where it is spread over several.
        dtype: ``"float32"``, ``"bfloat16"`` or ``"float16"``.
        attention: attention implementation it was loaded with.
        device_map: module -> device, where it was loaded with a map.
    """

    checkpoint: Checkpoint
    device: str
    dtype: str
    attention: str
    _held: "list[tuple[PreTrainedModel, PreTrainedTokenizerBase | None]]" = field(repr=False)
    device_map: Mapping[str, str] | None = None
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

    def pass_on(self, checkpoint: Checkpoint) -> "LoadedModel":
        """Hand the model, which now holds another checkpoint's weights, to a new handle; this one is let go of."""
        held = self._content()
        self._held.clear()
        for bridge in self._bridges.values():
            bridge.refresh()
        return replace(self, checkpoint=checkpoint, _held=[held])

    def _content(self) -> "tuple[PreTrainedModel, PreTrainedTokenizerBase | None]":
        if not self._held:
            raise DriftError(
                f"the model of {self.checkpoint.name} was let go of when its series moved on or its with block "
                "ended; use checkpoint.load() to keep one"
            )
        return self._held[0]


def load(
    checkpoint: Checkpoint, *, device: str, dtype: str, attention: str, device_map: DeviceMap | None = None
) -> LoadedModel:
    """Load a checkpoint; see `Checkpoint.load`."""
    require_choice("dtype", dtype, get_args(DType), error=DriftError)
    _require_usable(device_map)
    files = validate(checkpoint.fetch())
    gguf = files[0].name if files[0].suffix == ".gguf" else None
    if checkpoint.base is not None:
        validate(checkpoint.base)
        whole = replace(checkpoint, path=checkpoint.base, hub=checkpoint.hub and checkpoint.hub.base)
        base = _build(whole, None, dtype, attention, device_map)
        model = merge_adapter(checkpoint.path, base)
    elif files[0].suffix == ".distcp":
        if device_map is not None:
            raise DriftError(
                f"{checkpoint.path} is a torch distributed checkpoint, which is put on one device: convert it to "
                "safetensors to spread it by a device map"
            )
        model = _build_distributed(checkpoint, files[0].parent, dtype, attention)
    else:
        model = _build(checkpoint, gguf, dtype, attention, device_map)
    spread = None if device_map is None else _placement(checkpoint, model, device_map)
    check_finite(checkpoint, dict(model.named_parameters()))
    model.requires_grad_(requires_grad=False).train(mode=False)
    tokenizer = load_tokenizer(checkpoint)
    if spread is None:
        return LoadedModel(checkpoint, device, dtype, attention, [(_move(model, device), tokenizer)])
    devices = "+".join(dict.fromkeys(spread.values()))
    return LoadedModel(checkpoint, devices, dtype, attention, [(model, tokenizer)], spread)


def _require_usable(device_map: DeviceMap | None) -> None:
    if device_map is None:
        return
    _require("a device map spreads a model over devices", "accelerate", extra="gpus")
    if isinstance(device_map, str) and device_map not in _MAPS:
        raise DriftError(f"device map {device_map!r} is none of {', '.join(_MAPS)}, nor module names with devices")


def _placement(checkpoint: Checkpoint, model: "PreTrainedModel", device_map: DeviceMap) -> dict[str, str]:
    """Where each part of a spread model lies.

    Raises:
        DriftError: a map that says nothing of some of it, or puts some where nothing can be hooked or differentiated.
    """
    keys = () if isinstance(device_map, str) else tuple(device_map)
    forgotten = [name for name, _ in model.named_parameters() if keys and not any(_within(name, key) for key in keys)]
    if forgotten:
        raise DriftError(
            f"the device map says nothing of {len(forgotten)} tensors of {checkpoint.path}, {forgotten[0]!r} first; "
            "give every module its device, or '' its default"
        )
    away = [name for name, parameter in model.named_parameters() if parameter.is_meta]
    if away:
        raise DriftError(
            f"the device map leaves {len(away)} tensors of {checkpoint.path} on disk or, beside an accelerator, in "
            f"main memory, {away[0]!r} first: what is not on a device cannot be hooked; use more devices or a smaller "
            "dtype"
        )
    return _devices("", model)


def _within(parameter: str, module: str) -> bool:
    return not module or parameter == module or parameter.startswith(f"{module}.")


def _devices(name: str, module: "torch.nn.Module") -> dict[str, str]:
    """The coarsest map from modules to devices that says where every parameter is."""
    found = {str(parameter.device) for parameter in module.parameters()}
    if len(found) == 1:
        return {name: found.pop()}
    places = {f"{name}.{own}".lstrip("."): str(p.device) for own, p in module.named_parameters(recurse=False)}
    for own, child in module.named_children():
        places |= _devices(f"{name}.{own}".lstrip("."), child) if any(True for _ in child.parameters()) else {}
    return places


def _build(
    checkpoint: Checkpoint, gguf: str | None, dtype: str, attention: str, device_map: DeviceMap | None
) -> "PreTrainedModel":
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    if gguf:
        _require(f"{checkpoint.path / gguf} is a GGUF file", "gguf", "accelerate", extra="gguf")
    auto: Any = AutoModelForCausalLM
    model: PreTrainedModel
    try:
        with _quiet_transformers():
            model, info = auto.from_pretrained(
                checkpoint.path,
                dtype=getattr(torch, dtype),
                attn_implementation=attention,
                local_files_only=True,
                trust_remote_code=allows_code(checkpoint.path, checkpoint.repo),
                weights_only=True,
                ignore_mismatched_sizes=True,  # they are refused below, by name
                output_loading_info=True,
                **({"gguf_file": gguf} if gguf else {}),
                **({} if device_map is None else {"device_map": device_map}),
            )
    except (SafetensorError, EOFError) as error:
        raise CorruptWeights(f"the weights of {checkpoint.path} cannot be read: {error}") from error
    except Exception as error:
        raise _explain(checkpoint, error) from error
    _check_coverage(checkpoint, info)
    return model


def _build_distributed(checkpoint: Checkpoint, folder: Path, dtype: str, attention: str) -> "PreTrainedModel":
    """The config's model, filled from a torch distributed checkpoint."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    auto: Any = AutoModelForCausalLM
    stored = read_metadata(folder)
    size = sum(file.stat().st_size for file in folder.glob("*.distcp"))
    require_possible(checkpoint.config, tensors=len(stored), size=size, folder=checkpoint.path)
    try:
        config = AutoConfig.from_pretrained(checkpoint.path, local_files_only=True, trust_remote_code=False)
        with torch.device("meta"):
            shape: PreTrainedModel = auto.from_config(config)
        filling = plan(folder, stored, shape)
        model: PreTrainedModel = auto.from_config(config, dtype=getattr(torch, dtype), attn_implementation=attention)
    except DriftError:
        raise
    except Exception as error:
        raise _explain(checkpoint, error) from error
    filling.fill(model)
    return model


def _explain(checkpoint: Checkpoint, error: Exception) -> DriftError:
    """Name what is wrong where transformers only says how it failed."""
    import pickle

    text = " ".join(str(error).split())
    if isinstance(error, pickle.UnpicklingError):
        return CorruptWeights(
            f"{checkpoint.path} holds weights that cannot be unpickled safely (weights_only=True refused: "
            f"{text[:200]}); convert them to safetensors where you trust them"
        )
    if "trust_remote_code" in text:
        return UnsupportedArchitecture(
            f"{checkpoint.path} needs model code of its own to be run, which is refused; convert it to an architecture "
            f"that transformers has or, where you have read that code, allow it: "
            f"{ALLOWED}={checkpoint.repo or checkpoint.path}"
        )
    if "model type" in text or "Unrecognized model" in text or "Unrecognized configuration" in text:
        return UnsupportedArchitecture(
            f"{checkpoint.path} is of no causal architecture that this transformers has: {text[:300]}"
        )
    if "does not support an attention implementation" in text or "attn_implementation" in text:
        return UnsupportedArchitecture(f"{checkpoint.path}: {text[:300]}; try attention='eager'")
    if "device_map" in text or "device map" in text:
        return DriftError(f"{checkpoint.path} cannot be spread by this device map: {text[:300]}")
    return CorruptWeights(f"{checkpoint.path} cannot be loaded: {type(error).__name__}: {text[:500]}")


def _check_coverage(checkpoint: Checkpoint, info: dict[str, Any]) -> None:
    """Refuse files that leave a parameter without a value, or hold one of another shape."""
    missing = sorted(info["missing_keys"])
    if missing:
        raise CorruptWeights(
            f"the weights of {checkpoint.path} do not cover its model: {len(missing)} tensors are missing, "
            f"{missing[0]!r} first; they would be random, so nothing was loaded"
        )
    mismatched = sorted(info["mismatched_keys"])
    if mismatched:
        name, found, wanted = mismatched[0]
        raise CorruptWeights(
            f"the weights of {checkpoint.path} do not fit its config: {name!r} is {tuple(found)}, "
            f"the config asks for {tuple(wanted)} ({len(mismatched)} such tensors)"
        )
    unexpected = sorted(info["unexpected_keys"])
    if any(name.endswith(".weight") for name in unexpected):
        raise CorruptWeights(
            f"{checkpoint.path} holds {len(unexpected)} tensors that its config leaves no place for, "
            f"{unexpected[0]!r} first: config.json and weights belong to different models"
        )
    if unexpected:
        logger.warning("%s: %d buffers in the file are not used, %r first", checkpoint.path, len(unexpected),
                       unexpected[0])  # fmt: skip


def check_finite(checkpoint: Checkpoint, weights: "Mapping[str, torch.Tensor]") -> None:
    """Refuse weights with a NaN or infinite value.

    Raises:
        CorruptWeights: names the first such tensor and how many of its values are not finite.
    """
    tensors = {name: tensor.detach() for name, tensor in weights.items() if tensor.is_floating_point()}
    bad = [name for name, tensor in tensors.items() if not _all_finite(tensor)]
    if bad:
        count = int((~tensors[bad[0]].isfinite()).sum())
        raise CorruptWeights(
            f"{checkpoint.path}: {count} values of {bad[0]!r} are NaN or infinite "
            f"({len(bad)} tensors in all); the run diverged or the file is damaged"
        )


def _all_finite(tensor: "torch.Tensor") -> bool:
    """One pass without a temporary, several times faster than `isfinite`: extremes carry NaN and infinity."""
    if tensor.numel() == 0:
        return True
    low, high = tensor.aminmax()
    return bool(low.isfinite() & high.isfinite())


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
    from transformers import AutoTokenizer

    if checkpoint.hub is not None:
        checkpoint.hub.fetch_tokenizer()
    files = tokenizer_files(checkpoint.tokenizer_folders)
    ggufs = sorted(checkpoint.path.glob("*.gguf"))
    if not files and len(ggufs) != 1:
        return None
    folder = files[0].parent if files else checkpoint.path
    extra = {} if files else {"gguf_file": ggufs[0].name}
    code = allows_code(folder, checkpoint.repo)
    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=code, **extra)
    except Exception as error:
        text = " ".join(str(error).split())[:300]
        raise DriftError(f"the tokenizer in {folder} cannot be loaded: {text}; restore its files") from error


def _require(what: str, *packages: str, extra: str) -> None:
    from importlib.util import find_spec

    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        named = " and ".join(missing)
        raise DriftError(f"{what}, which needs the package {named}: pip install 'circuit-drift[{extra}]'")


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
