"""Weights that are no plain model files: adapters on a base model, and torch distributed checkpoints."""

import importlib
import pickle
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from checkpoints.checkpoint import Checkpoint
from checkpoints.errors import CorruptWeights, DriftError
from checkpoints.files import ADAPTER_FILE
from checkpoints.headers import read_header

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_EMBEDDINGS = ("embed_tokens.weight", "lm_head.weight", "embed_in.weight", "embed_out.weight", "wte.weight")
_PREFIXES = ("", "model.", "app.model.", "state_dict.", "module.")
# what torch's own checkpoint metadata is made of; a name outside this list is refused, not imported
_METADATA_NAMES = {
    "torch.distributed.checkpoint.metadata": {
        "Metadata",
        "MetadataIndex",
        "TensorStorageMetadata",
        "BytesStorageMetadata",
        "ChunkStorageMetadata",
        "TensorProperties",
        "StorageMeta",
        "_MEM_FORMAT_ENCODING",
    },
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo"},
    "torch.serialization": {"_get_layout"},
    "torch": {"Size", "device"},
    "collections": {"OrderedDict"},
    "pathlib": {"PosixPath", "WindowsPath", "PurePosixPath"},
}
_TORCH_DTYPES = ("float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool")


def merge_adapter(checkpoint: Checkpoint, base: "PreTrainedModel") -> "PreTrainedModel":
    """Merge a PEFT adapter into its base model, which is used up.

    Raises:
        DriftError: peft is not installed.
        CorruptWeights: the adapter does not fit the base, or does not cover what its config promises.
    """
    try:
        peft = importlib.import_module("peft")
    except ImportError as error:
        raise DriftError(
            f"{checkpoint.path} is an adapter, which needs the package peft: pip install 'circuit-drift[lora]'"
        ) from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of other packages' deprecations; what matters is checked below
            wrapped = peft.PeftModel.from_pretrained(base, str(checkpoint.path), local_files_only=True)
    except Exception as error:
        text = " ".join(str(error).split())[:400]
        raise CorruptWeights(f"the adapter {checkpoint.path} does not fit its base model: {text}") from error
    found = set(read_header(checkpoint.path / ADAPTER_FILE))
    embeddings = any(name.endswith(_EMBEDDINGS) for name in found)  # left to itself, peft asks the hub
    wanted = set(peft.get_peft_model_state_dict(wrapped, save_embedding_layers=embeddings))
    odd = sorted(wanted ^ found)
    if odd:
        raise CorruptWeights(
            f"the adapter {checkpoint.path} does not fit its base model and config: {len(odd)} tensors are in one and "
            f"not in the other, {odd[0]!r} first"
        )
    merged: PreTrainedModel = wrapped.merge_and_unload(safe_merge=True)
    return merged


def load_distributed(checkpoint: Checkpoint, folder: Path, dtype: str, attention: str) -> "PreTrainedModel":
    """Build the config's model and fill it from a torch distributed checkpoint (`.distcp`).

    Its metadata is a pickle; it is read with a list of allowed names, so that nothing in it can run.

    Raises:
        CorruptWeights: it is damaged, asks for a name that is not allowed, or does not cover the model.
    """
    import torch
    from torch.distributed import checkpoint as distributed
    from transformers import AutoConfig, AutoModelForCausalLM

    dcp: Any = distributed
    reader = _safe_reader(folder)
    auto: Any = AutoModelForCausalLM
    config = AutoConfig.from_pretrained(checkpoint.path, local_files_only=True, trust_remote_code=False)
    model: PreTrainedModel = auto.from_config(config, dtype=getattr(torch, dtype), attn_implementation=attention)
    targets = dict(model.named_parameters()) | dict(_persistent_buffers(model))
    try:
        stored = set(reader.read_metadata().state_dict_metadata)
        prefix = next((p for p in _PREFIXES if all(p + name in stored for name in targets)), None)
        if prefix is None:
            missing = sorted(name for name in targets if not any(p + name in stored for p in _PREFIXES))
            raise CorruptWeights(
                f"{folder} does not cover the model of {checkpoint.path}: {len(missing) or len(targets)} tensors are "
                f"missing, {(missing or sorted(targets))[0]!r} first; it holds {sorted(stored)[:2]} and others"
            )
        state = {prefix + name: tensor.detach() for name, tensor in targets.items()}
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*assuming the intent is to load in a single process")
            dcp.load(state, storage_reader=reader, no_dist=True)
    except DriftError:
        raise
    except Exception as error:
        text = " ".join(str(error).split())[:300]
        raise CorruptWeights(f"{folder} cannot be read: {type(error).__name__}: {text}") from error
    return model


def _persistent_buffers(model: "PreTrainedModel") -> "dict[str, Any]":
    saved = model.state_dict(keep_vars=True)
    return {name: buffer for name, buffer in model.named_buffers() if name in saved}


def _safe_reader(folder: Path) -> Any:
    """A torch `FileSystemReader` whose metadata is unpickled from a list of allowed names."""
    from torch.distributed.checkpoint.filesystem import FileSystemReader
    from torch.distributed.checkpoint.metadata import Metadata, StorageMeta

    class SafeReader(FileSystemReader):
        def read_metadata(self, *_: Any, **__: Any) -> Metadata:
            with (folder / ".metadata").open("rb") as stream:
                metadata = _MetadataUnpickler(stream).load()
            if not isinstance(metadata, Metadata):
                raise CorruptWeights(f"{folder / '.metadata'} holds no checkpoint metadata")
            if getattr(metadata, "storage_meta", None) is None:
                metadata.storage_meta = StorageMeta()
            return metadata

    return SafeReader(folder)


class _MetadataUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        allowed = name in _METADATA_NAMES.get(module, ()) or (module == "torch" and name in _TORCH_DTYPES)
        if not allowed:
            raise CorruptWeights(f"the metadata asks for {module}.{name}, which no checkpoint needs: refused")
        return super().find_class(module, name)
