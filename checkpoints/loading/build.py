"""From checked files to a model: one function a kind of loading, named by the table of formats.

Each takes a checkpoint, its weights and a placement, and gives a model of which every parameter came from the files and
has memory of its own.
"""

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from checkpoints.errors import CorruptWeights, DriftError
from checkpoints.files.configs import ADAPTER_CONFIG
from checkpoints.files.distributed import plan, read_metadata
from checkpoints.files.folder import loading_files, view
from checkpoints.files.formats import WeightFiles
from checkpoints.files.headers import WRAPPER
from checkpoints.files.limits import require_possible
from checkpoints.files.trust import allows_code, refuse_foreign_code
from checkpoints.loading.adapters import merge_adapter
from checkpoints.loading.bases import HeldBase
from checkpoints.loading.coverage import check_coverage, explain, refuse_left_over, refuse_misnamed
from checkpoints.loading.load import build_model
from checkpoints.loading.packing import placing, require_floats
from checkpoints.loading.quiet import quiet_transformers
from checkpoints.loading.size import require_fitting_size
from checkpoints.loading.spread import require_packages
from checkpoints.model.packed import require_plain
from checkpoints.placement import Placement
from checkpoints.series.checkpoint import Checkpoint

if TYPE_CHECKING:
    from transformers import PreTrainedModel

logger = logging.getLogger(__name__)


def build_whole(checkpoint: Checkpoint, weights: WeightFiles, placement: Placement) -> "PreTrainedModel":
    """Whole weights that transformers reads beside their config."""
    if (checkpoint.path / ADAPTER_CONFIG).exists():
        logger.warning("%s holds an adapter beside whole weights: %s is loaded as it is, without the adapter",
                       checkpoint.path, weights.files[0].name)  # fmt: skip
    refuse_misnamed(checkpoint.path, checkpoint.config, weights.entries())
    require_fitting_size(checkpoint.path, weights)
    return _from_pretrained(checkpoint, placement, key_mapping={WRAPPER: ""})


def build_gguf(checkpoint: Checkpoint, weights: WeightFiles, placement: Placement) -> "PreTrainedModel":
    """A GGUF file, which transformers reads with its config and its quantised weights as plain ones."""
    (file,) = weights.files
    require_packages(f"{checkpoint.path / file.name} is a GGUF file", "gguf", "accelerate", extra="gguf")
    require_fitting_size(checkpoint.path, weights, gguf_file=file.name)
    model = _from_pretrained(checkpoint, placement, gguf_file=file.name)
    refuse_left_over(checkpoint.path / file.name, weights, model)
    _call_plain(model)
    return model


def _call_plain(model: "PreTrainedModel") -> None:
    """Forget that the weights were quantised: they are plain by now, and transformers would not save them."""
    for holder, name in ((model, "hf_quantizer"), (model, "is_quantized"), (model.config, "quantization_config")):
        if name in vars(holder):
            delattr(holder, name)


def build_adapted(
    checkpoint: Checkpoint, weights: WeightFiles, placement: Placement, held: HeldBase | None = None
) -> "PreTrainedModel":
    """An adapter, merged into the model of its base, which is read unless it is held already."""
    if checkpoint.base is None:
        raise CorruptWeights(
            f"{checkpoint.path} holds {weights.files[0].name} but no {ADAPTER_CONFIG} that names its base; restore it"
        )
    base = replace(checkpoint, path=checkpoint.base, hub=checkpoint.hub and checkpoint.hub.base)
    files = loading_files(base.path, code=allows_code(base.path, base.repo))
    lent = (held or HeldBase()).lend(weights.entries(), files, placement, lambda: _plain_base(base, placement))
    model = merge_adapter(checkpoint.path, weights, lent)
    _leave_files(model)
    return model


def _plain_base(base: Checkpoint, placement: Placement) -> "PreTrainedModel":
    """The model that an adapter is merged into."""
    model = build_model(base, placement)
    require_plain(model, f"merging an adapter into its base {base.path}")
    return model


def build_distributed(checkpoint: Checkpoint, weights: WeightFiles, placement: Placement) -> "PreTrainedModel":
    """The config's model, filled from a torch distributed checkpoint."""
    import torch
    from transformers import AutoModelForCausalLM

    if placement.device_map is not None:
        raise DriftError(
            f"{checkpoint.path} is a torch distributed checkpoint, which is put on one device: convert it to "
            "safetensors to spread it by a device map"
        )
    auto: Any = AutoModelForCausalLM
    folder = weights.found.parent
    stored = read_metadata(folder)
    size = sum(file.stat().st_size for file in weights.files if file != weights.found)
    require_possible(checkpoint.config, tensors=len(stored), size=size, folder=checkpoint.path)
    refuse_foreign_code(checkpoint.config, checkpoint.path, own=False)
    config = read_config(checkpoint)
    try:
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


def read_config(checkpoint: Checkpoint) -> Any:
    """The checkpoint's config as transformers reads it, an adapter's base's; code of its own only where it is allowed.

    Raises:
        NotACheckpoint, UnsupportedArchitecture: a config that transformers cannot read, or of a model it does not know.
    """
    from transformers import AutoConfig

    folder = checkpoint.base or checkpoint.path
    own = allows_code(folder, checkpoint.repo)
    with view(folder, loading_files(folder, code=own)) as shown:
        try:
            return AutoConfig.from_pretrained(shown, local_files_only=True, trust_remote_code=own)
        except Exception as error:
            said = str(error).replace(str(shown), str(folder))
            raise explain(folder, error, said, repo=checkpoint.repo) from error


def _from_pretrained(checkpoint: Checkpoint, placement: Placement, **how: Any) -> "PreTrainedModel":
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    auto: Any = AutoModelForCausalLM
    model: PreTrainedModel
    code = allows_code(checkpoint.path, checkpoint.repo)
    with view(checkpoint.path, loading_files(checkpoint.path, code=code)) as shown:
        try:
            with quiet_transformers():
                model, info = auto.from_pretrained(
                    shown,
                    dtype=getattr(torch, placement.floats),
                    attn_implementation=placement.attention,
                    local_files_only=True,
                    trust_remote_code=code,
                    weights_only=True,
                    ignore_mismatched_sizes=True,  # they are refused below, by name
                    output_loading_info=True,
                    **how,
                    **placing(placement),
                )
        except (SafetensorError, EOFError) as error:
            raise CorruptWeights(f"the weights of {checkpoint.path} cannot be read: {error}") from error
        except Exception as error:
            said = str(error).replace(str(shown), str(checkpoint.path))
            raise explain(checkpoint.path, error, said, repo=checkpoint.repo) from error
    model.config.name_or_path = str(checkpoint.path)
    model.name_or_path = str(checkpoint.path)
    check_coverage(checkpoint.path, info)
    require_floats(checkpoint.path, model, placement)
    _leave_files(model)
    return model


def _leave_files(model: "PreTrainedModel") -> None:
    """Copy what is in main memory: tensors may be mapped from files, and would follow or fail what happens to those."""
    for tensor in {id(tensor): tensor for tensor in model.state_dict(keep_vars=True).values()}.values():
        if tensor.device.type == "cpu":
            tensor.data = tensor.data.clone()
