"""Probes of a model that is sharded over processes: its whole weights go to a plain copy beside it when one is due."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from checkpoints.errors import CheckpointMismatch, DriftError
from checkpoints.placement import DType

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel


def is_first() -> bool:
    """Whether this is the first process of its group, or the only one."""
    from torch.distributed import get_rank, is_initialized

    return not is_initialized() or get_rank() == 0


def whole_state(model: "torch.nn.Module") -> "dict[str, torch.Tensor] | None":
    """The whole weights of a sharded model in the memory of the first process; None on every other one.

    Args:
        model: sharded by ``torch.distributed.fsdp.fully_shard`` (FSDP2) or not; every process of its group must ask.
    """
    import torch
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    state = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    if not is_first():
        return None
    return {name: value for name, value in state.items() if isinstance(value, torch.Tensor)}


class WholeCopy:
    """A plain model on the first process, which holds the weights of a sharded one each time it is asked for.

    It takes the memory of the whole model on that process, and the time of gathering it on all. Where a probe is due
    (`Schedule.due`, the same on every process) each calls `of`, and the first gives its copy to `Prober.after_step`.

    Args:
        config: of the model.
        device: where the copy lies; the CPU, unless the first process has room for it beside its share.
        dtype: of the copy, by default that of the gathered weights, so that nothing is rounded.
    """

    def __init__(self, config: "PretrainedConfig", *, device: str = "cpu", dtype: DType | None = None) -> None:
        self.config = config
        self.device = device
        self.dtype = dtype
        self._copy: PreTrainedModel | None = None

    def of(self, model: "torch.nn.Module") -> "PreTrainedModel | None":
        """The copy with the model's weights of this moment; None on every process but the first.

        Args:
            model: sharded by ``torch.distributed.fsdp.fully_shard`` (FSDP2) or not; every process must ask.

        Raises:
            DriftError: no group of processes.
            CheckpointMismatch: its weights are not those of a model of the config.
        """
        from torch.distributed import is_initialized

        if not is_initialized():
            raise DriftError("a whole copy is of a model that processes share: call init_process_group first")
        state = whole_state(model)
        return None if state is None else self.holding(state)

    def holding(self, state: "Mapping[str, torch.Tensor]") -> "PreTrainedModel":
        """The copy with these weights.

        Args:
            state: of the whole model, by name.

        Raises:
            CheckpointMismatch: they are not those of a model of the config.
        """
        if self._copy is None:
            self._copy = self._built(next(iter(state.values())).dtype)
        lacking, unknown = self._copy.load_state_dict(state, strict=False)
        tied = self._copy.get_expanded_tied_weights_keys(all_submodels=True)
        wrong = [*unknown, *(name for name in lacking if name not in tied)]
        if wrong:
            raise CheckpointMismatch(
                f"the sharded model's weights are not those of its config: {len(wrong)} differ, {wrong[0]} first; give "
                "the config of the model that is trained"
            )
        return self._copy

    def _built(self, dtype: "torch.dtype") -> "PreTrainedModel":
        import torch
        from transformers import AutoModelForCausalLM

        auto: Any = AutoModelForCausalLM
        chosen = dtype if self.dtype is None else getattr(torch, self.dtype)
        copy: PreTrainedModel = auto.from_config(
            self.config, dtype=chosen, attn_implementation=self.config._attn_implementation
        )
        return copy.to(self.device).eval()  # type: ignore[arg-type,no-any-return]
