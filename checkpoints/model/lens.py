"""What is built on TransformerLens; imported only when a bridge is asked for (see `checkpoints.model.bridge`)."""

from collections.abc import Callable, Iterable
from typing import Any, cast

from torch import Tensor, nn
from transformer_lens.factories.architecture_adapter_factory import ArchitectureAdapterFactory
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.model_bridge.architecture_adapter import ArchitectureAdapter
from transformer_lens.model_bridge.generalized_components import MLPBridge, MoEBridge
from transformer_lens.model_bridge.generalized_components.attention import AttentionBridge
from transformer_lens.model_bridge.generalized_components.joint_gate_up_mlp import JointGateUpMLPBridge
from transformer_lens.model_bridge.generalized_components.joint_qkv_attention import JointQKVAttentionBridge
from transformer_lens.model_bridge.generalized_components.mla_attention import MLAAttentionBridge
from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_config_from_hf, configure_tokenizer
from transformer_lens.model_bridge.sources.transformers_driver import TransformersDriver
from transformer_lens.model_bridge.supported_architectures.hunyuan_v1_dense import HunYuanDenseV1ArchitectureAdapter
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from checkpoints.errors import DriftError, UnsupportedArchitecture


class SharedBridge(TransformerBridge):
    """A `TransformerBridge` whose weights belong to another model too, so that it never rewrites or moves them."""

    _splits: list[JointQKVAttentionBridge | JointGateUpMLPBridge]
    _sources: tuple[nn.Parameter, ...]
    _shared: set[int]
    _stamp: list[tuple[int, int]]

    def follow(self, parameters: Iterable[nn.Parameter]) -> None:
        """Say whose parameters it shares; the copies it made of some are renewed when those change.

        Raises:
            UnsupportedArchitecture: it made copies that cannot be renewed.
        """
        shared = {id(parameter) for parameter in parameters}
        splits = [m for m in self.modules() if isinstance(m, (JointQKVAttentionBridge, JointGateUpMLPBridge))]
        sources = {id(p): p for split in splits for p in split.parameters() if id(p) in shared}
        renewed = {id(p) for split in splits for p in split.parameters()}
        copies = [name for name, p in self.named_parameters() if id(p) not in shared | renewed]
        if copies:
            raise UnsupportedArchitecture(
                f"a bridge of this architecture holds {len(copies)} copies of weights, {copies[0]!r} first, that "
                "would be stale for the next checkpoint; take attention='native'"
            )
        self._splits, self._sources, self._shared, self._stamp = splits, tuple(sources.values()), shared, []
        self.original_model.register_forward_pre_hook(lambda *_: self.refresh())
        self.refresh()

    def shares(self, parameters: Iterable[nn.Parameter]) -> bool:
        """Whether these are the parameters it follows."""
        return {id(parameter) for parameter in parameters} == self._shared

    def refresh(self) -> None:
        """Split fused projections again if their weights changed, by pointer or in place, since the last time.

        Arithmetic in place on a parameter's ``.data`` leaves no trace in torch and is not seen.
        """
        stamp = [(parameter.data_ptr(), parameter._version) for parameter in self._sources]
        if stamp == self._stamp:
            return
        for split in self._splits:
            split.set_original_component(cast("nn.Module", split.original_component))
            split.train(split.training)
            for parameter in split.parameters():
                if id(parameter) not in self._shared:
                    parameter.requires_grad_(self._sources[0].requires_grad)
        self._stamp = stamp

    def probe(self, ids: Tensor) -> Tensor:
        """The logits [b, t, vocab] of one forward pass; attention hooks that it does not fire are refused from then on.

        Hooks that a ``set_use_...`` method turns on are left to TransformerLens, which refuses them by itself.
        """
        fired: set[int] = set()
        points = {name: point for name, point in self.hook_dict.items() if ".attn." in name}
        open_points = {name: p for name, p in points.items() if self._gated_hook_reason(p.name or name) is None}

        def note(_value: Any, hook: Any) -> None:
            fired.add(id(hook))

        with self.hooks(fwd_hooks=[(name, note) for name in open_points]):
            logits: Tensor = self(ids)
        silent = frozenset(name for name, point in open_points.items() if id(point) not in fired)
        self._driver.non_fireable_hook_points = silent
        self._driver.supported_hook_points -= silent
        return logits

    def enable_compatibility_mode(  # type: ignore[override]
        self, disable_warnings: bool = False, no_processing: bool = False, **_: bool
    ) -> None:
        """Refused where it rewrites weights; ``no_processing=True`` gives the names alone."""
        if not no_processing:
            raise DriftError(_rewriting("enable_compatibility_mode()"))
        super().enable_compatibility_mode(disable_warnings, no_processing=True)

    def process_weights(self, *args: Any, **kwargs: Any) -> None:
        """Refused: it rewrites weights."""
        raise DriftError(_rewriting("process_weights()"))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "SharedBridge":
        weight = next(self.parameters()).detach()
        moved = fn(weight)
        if (moved.device, moved.dtype) != (weight.device, weight.dtype):
            raise DriftError(
                f"a bridge stays where its model is ({weight.dtype} on {weight.device}): load the checkpoint with the "
                "device and dtype it is to have"
            )
        return self

    def _check_hook_fireable(self, *names: str) -> None:
        silent = [name for name in names if name in self._driver.non_fireable_hook_points]
        if silent:
            raise NotImplementedError(
                f"{silent[0]!r} never fires in this bridge: one with attention='stock' fires patterns and q, k, v "
                "apart, one with attention='native' a fused qkv as a whole"
            )


def wrap(
    twin: PreTrainedModel, architecture: str, *, native: bool, tokenizer: PreTrainedTokenizerBase | None
) -> SharedBridge:
    """Wrap a model, which is taken apart, as `build_bridge_from_module` does."""
    dtype = next(twin.parameters()).dtype
    config = build_bridge_config_from_hf(twin.config, architecture, architecture, dtype)
    adapter = _OWN[architecture](config) if architecture in _OWN else _select(config)
    _refuse_latent_attention(adapter)
    if native:
        _use_own_modules(adapter)
        adapter.cfg.attn_implementation = twin.config._attn_implementation
    adapter.cfg.device = str(next(twin.parameters()).device)
    adapter.prepare_model(twin)
    tokenizer = None if tokenizer is None else configure_tokenizer(tokenizer, adapter.cfg)
    return SharedBridge(twin, adapter, tokenizer, driver=TransformersDriver(twin, adapter, tokenizer))


def _select(config: Any) -> ArchitectureAdapter:
    return ArchitectureAdapterFactory.select_architecture_adapter(config)


class _OwnAttention(AttentionBridge):
    """The model's own attention module, hooked at its projections."""

    def __init__(self, stock: AttentionBridge, config: Any) -> None:
        fused = "qkv" in stock.submodules
        super().__init__(
            name=stock.name,
            config=config,
            submodules={k: v for k, v in stock.submodules.items() if not (fused and k in ("q", "k", "v"))},
            fused_qkv=fused,
            requires_position_embeddings=stock.requires_position_embeddings,
            requires_attention_mask=stock.requires_attention_mask,
            maintain_native_attention=True,
            optional=stock.optional,
        )

    def set_rotary_emb(self, rotary_emb: nn.Module) -> None:
        """Asked for by some adapters; the model's own attention has its rotary embedding already."""


class _OwnMLP(MLPBridge):
    """The model's own MLP with a fused gate, hooked at its input, in front of its output projection and behind it."""

    hook_aliases = {"hook_post": "out.hook_in"}  # noqa: RUF012 - declared so by the base class
    property_aliases = {"b_out": "out.bias"}  # noqa: RUF012

    def __init__(self, stock: JointGateUpMLPBridge, config: Any) -> None:
        super().__init__(name=stock.name, config=config, submodules={"out": stock.submodules["out"]})


class _HunYuanMoE(HunYuanDenseV1ArchitectureAdapter):
    """HunYuan's mixture of experts, which TransformerLens 4.3 has no adapter for: the dense one with one opaque MoE."""

    def __init__(self, cfg: Any) -> None:
        super().__init__(cfg)
        _block_parts(self)["blocks"]["mlp"] = MoEBridge(name="mlp", config=self.cfg)


_OWN: dict[str, type[ArchitectureAdapter]] = {"HunYuanMoEV1ForCausalLM": _HunYuanMoE}


def _use_own_modules(adapter: ArchitectureAdapter) -> None:
    """Have attention and fused MLPs run as the model's own modules, of which nothing is copied."""
    for parts in _block_parts(adapter).values():
        for name, part in parts.items():
            if isinstance(part, AttentionBridge):
                parts[name] = _OwnAttention(part, adapter.cfg)
            elif isinstance(part, JointGateUpMLPBridge):
                parts[name] = _OwnMLP(part, adapter.cfg)


def _refuse_latent_attention(adapter: ArchitectureAdapter) -> None:
    if any(isinstance(part, MLAAttentionBridge) for parts in _block_parts(adapter).values() for part in parts.values()):
        raise NotImplementedError("hook_z of multi-head latent attention would be split into the wrong heads")


def _block_parts(adapter: ArchitectureAdapter) -> dict[str, dict[str, Any]]:
    components = adapter.component_mapping or {}
    return {name: getattr(component, "submodules", None) or {} for name, component in components.items()}


def _rewriting(what: str) -> str:
    return (
        f"{what} rewrites weights that this bridge shares with the loaded model; for processed weights, boot a bridge "
        "of their own with TransformerBridge.boot_transformers(folder)"
    )
