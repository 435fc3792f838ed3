"""Backward passes other than the gradient: GIM, RelP, and the rules they are made of.

Every rule leaves the forward pass as it is and changes only what flows back, on the stock model: norms and
activations through hooks, attention through transformers' attention interface. GIM (Edin et al. 2025) undoes the
self-repair of softmax and of products; RelP (Rezaei Jafari et al. 2025) propagates relevance by LRP's rules.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers.masking_utils import eager_mask
from transformers.pytorch_utils import Conv1D

from checkpoints.errors import BadPrompt, UnsupportedArchitecture, require_choice
from checkpoints.model.anatomy import Anatomy, Block
from checkpoints.model.attention import handled
from checkpoints.model.norms import Norm, read_norm
from circuits.facts.batch import Batch
from circuits.trace.trace import forward, hooks, widen

Preset = Literal["plain", "gim", "relp"]
STABILISER = 1e-6


@dataclass(frozen=True, slots=True)
class Backward:
    """Rules of a backward pass; the default of each is the gradient's own.

    Attributes:
        freeze_norms: the scale of every norm (queries' and keys' own included) counts as a constant.
        softmax_temperature: T in the attention softmax's backward s * (g - <g, s>), s = softmax(logits / T).
        query_key: factor on the gradients of queries and of keys.
        value: factor on the gradient of values.
        freeze_patterns: attention patterns count as constants (LRP's AH rule).
        linear_activations: a(x) counts as x times the constant a(x) / x, the denominator kept off zero by 1e-6.
        gated: factor on the gradients of both factors of a gated MLP's product.
        ungated: factor on the gradient of an MLP that has no such product.
    """

    freeze_norms: bool = False
    softmax_temperature: float = 1.0
    query_key: float = 1.0
    value: float = 1.0
    freeze_patterns: bool = False
    linear_activations: bool = False
    gated: float = 1.0
    ungated: float = 1.0

    @property
    def changes_attention(self) -> bool:
        """Whether attention needs another backward."""
        same = self.softmax_temperature == self.query_key == self.value == 1.0
        return self.freeze_patterns or not same

    @property
    def changes_mlps(self) -> bool:
        """Whether MLPs do."""
        return self.linear_activations or not self.gated == self.ungated == 1.0


PLAIN = Backward()
GIM = Backward(freeze_norms=True, softmax_temperature=2.0, query_key=0.25, value=0.5, gated=0.5)
RELP = Backward(freeze_norms=True, linear_activations=True, gated=0.5)
PRESETS: dict[Preset, Backward] = {"plain": PLAIN, "gim": GIM, "relp": RELP}


def find_backward(backward: Preset | Backward) -> tuple[str, Backward]:
    """The name and the rules of a backward pass; ``rules`` for those that are no preset.

    Raises:
        BadPrompt: an unknown name, or a temperature that is not positive.
    """
    if not isinstance(backward, Backward):
        require_choice("backward", backward, PRESETS)
        return backward, PRESETS[backward]
    if not backward.softmax_temperature > 0:
        raise BadPrompt(f"softmax_temperature must be positive, got {backward.softmax_temperature}")
    return next((name for name, rules in PRESETS.items() if rules == backward), "rules"), backward


@contextmanager
def modified(parts: Anatomy, rules: Backward, probe: Batch) -> Iterator[None]:
    """Run backward passes by other rules while the block runs; hooks and implementations are put back in any case.

    That the forward is the stock one, and that every layer's parts were reached, is verified on one fact.

    Args:
        parts: the model, its parameters frozen.
        rules: what changes.
        probe: one fact.

    Raises:
        UnsupportedArchitecture: a rule cannot be applied exactly; the message names the layer.
    """
    if rules == PLAIN:
        yield
        return
    with torch.no_grad():
        expected = forward(parts.model, probe, probe.clean)
    reached: set[nn.Module] = set()
    handles: list[Any] = []
    with hooks(handles), _attention(parts.model, rules, reached):
        wanted = _register(parts, rules, reached, handles)
        with torch.enable_grad():
            found = forward(parts.model, probe, probe.clean).detach()
        _verify(parts, expected, found, wanted, reached)
        yield


def _register(parts: Anatomy, rules: Backward, reached: set[nn.Module], handles: list[Any]) -> dict[nn.Module, str]:
    """Hook norms and MLPs; returns every module that must be reached, with its name."""
    wanted: dict[nn.Module, str] = {}
    for block in parts.blocks:
        where = f"layer {block.index}"
        if rules.changes_attention:
            wanted[block.attention] = f"the attention of {where}"
        if rules.freeze_norms:
            for norm in _norms(parts, block):
                wanted[norm.module] = f"a norm of {where}"
                handles.append(norm.module.register_forward_hook(_frozen_norm(norm, reached)))
        if rules.changes_mlps:
            activation, factor = _mlp_parts(parts, block, rules)
            if rules.linear_activations:
                wanted[activation] = f"the activation of {where}"
                handles.append(activation.register_forward_hook(_activation_hook(reached)))
            if factor != 1.0:
                handles.append(block.mlp.register_forward_hook(_factor_hook(factor)))
    if rules.freeze_norms:
        final = parts.final_norm
        handles.append(final.module.register_forward_hook(_frozen_norm(final, reached)))
    return wanted


def _verify(
    parts: Anatomy, expected: Tensor, found: Tensor, wanted: dict[nn.Module, str], reached: set[nn.Module]
) -> None:
    name = type(parts.model).__name__
    if missed := [what for module, what in wanted.items() if module not in reached]:
        raise UnsupportedArchitecture(
            f"{name}: {missed[0]} does not run as a module or through transformers' attention interface, so its "
            "backward cannot be changed; use backward='plain'"
        )
    tolerance = 1e-3 if expected.dtype in (torch.float32, torch.float64) else 5e-2
    error = float((found - expected).norm() / expected.norm())
    if not error < tolerance:
        raise UnsupportedArchitecture(
            f"{name}: with its attention written out the logits differ (relative error {error:.2g} > {tolerance}), so "
            "a changed backward would not be that of this model; use backward='plain'"
        )


def with_gradient_of(carrier: Tensor, value: Tensor) -> Tensor:
    """``value`` to the bit, with the gradient of ``carrier``."""
    return value.detach() + (carrier - carrier.detach())


def _norms(parts: Anatomy, block: Block) -> list[Norm]:
    """All norms of a layer in closed form, those of queries and keys included."""
    known = (block.attention_norm, block.mlp_norm, block.attention_post_norm, block.mlp_post_norm)
    modules = {norm.module for norm in known if norm is not None}
    modules |= {module for module in block.module.modules() if "norm" in type(module).__name__.lower()}
    norms = []
    name = type(parts.model).__name__
    for module in modules:
        weight = getattr(module, "weight", None)
        norm = read_norm(module, parts.d_model if weight is None else weight.numel())
        if norm is None:
            raise UnsupportedArchitecture(
                f"{name}: layer {block.index} has a {type(module).__name__} that computes neither a "
                "LayerNorm nor an RMSNorm, so its scale cannot be frozen; use backward='plain'"
            )
        norms.append(norm)
    return norms


def _frozen_norm(norm: Norm, reached: set[nn.Module]) -> Callable[..., Any]:
    def hook(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
        reached.add(module)
        if not torch.is_grad_enabled():
            return None
        inverse = norm.normalise(widen(args[0]))[1]
        return with_gradient_of(norm.spread(args[0].to(inverse.dtype), inverse).to(output.dtype), output)

    return hook


def _activation_hook(reached: set[nn.Module]) -> Callable[..., Any]:
    def hook(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
        reached.add(module)
        if not torch.is_grad_enabled():
            return None
        x = widen(args[0])
        slope = widen(output) / (x + STABILISER * torch.where(x < 0, -1.0, 1.0))
        return with_gradient_of(args[0] * slope.to(output.dtype), output)

    return hook


def _factor_hook(factor: float) -> Callable[..., Any]:
    def hook(_module: nn.Module, _args: tuple[Any, ...], output: Tensor) -> Tensor | None:
        return with_gradient_of(factor * output, output) if torch.is_grad_enabled() else None

    return hook


def _mlp_parts(parts: Anatomy, block: Block, rules: Backward) -> tuple[nn.Module, float]:
    """An MLP's activation, and the factor on its gradient.

    Halving what flows into both factors of act(gate(x)) * up(x) halves all that reaches x, so one factor does.
    """
    children = dict(block.mlp.named_children())
    linear = [name for name, child in children.items() if isinstance(child, nn.Linear | Conv1D)]
    others = [child for child in children.values() if not isinstance(child, nn.Linear | Conv1D | nn.Dropout)]
    gated = {"gate_proj", "up_proj", "down_proj"} == set(linear) or {"gate_up_proj", "down_proj"} == set(linear)
    if len(others) != 1 or list(others[0].parameters()) or not (gated or len(linear) == 2):
        raise UnsupportedArchitecture(
            f"{type(parts.model).__name__}: the MLP of layer {block.index}, a {type(block.mlp).__name__} of "
            f"{', '.join(children) or 'no modules'}, is neither a plain nor a gated one (mixtures of experts are not "
            "supported here), so the rules for MLPs cannot be applied exactly; use backward='plain'"
        )
    return others[0], rules.gated if gated else rules.ungated


@contextmanager
def _attention(model: PreTrainedModel, rules: Backward, reached: set[nn.Module]) -> Iterator[None]:
    """Have attention computed by `_WrittenOut` while the block runs, where the rules need it."""
    if not rules.changes_attention:
        yield
        return
    with handled(model, _WrittenOut(rules, reached)):
        yield


@dataclass(frozen=True, slots=True)
class _WrittenOut:
    """Attention written out, its patterns recomputed in the backward pass.

    Attributes:
        rules: of the backward pass.
        reached: the attention modules that called, which grows.
    """

    rules: Backward
    reached: set[nn.Module]

    def mask(self, *args: Any, **options: Any) -> Tensor | None:
        """[b or 1, 1, t, t] to add to the logits."""
        mask: Tensor | None = eager_mask(*args, **options)
        return mask

    def attend(
        self,
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Any,
        scaling: float | None = None,
        softcap: float | None = None,
        s_aux: Tensor | None = None,
        **_: Any,
    ) -> tuple[Tensor, None]:
        self.reached.add(module)
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling

        def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            rules = self.rules
            query, key = _damped(query, rules.query_key), _damped(key, rules.query_key)
            value = _damped(value, rules.value)
            groups = query.shape[1] // key.shape[1]
            logits = query @ key.repeat_interleave(groups, 1).transpose(2, 3) * scale
            if softcap is not None:
                logits = softcap * torch.tanh(logits / softcap)
            if attention_mask is not None:
                logits = logits + attention_mask
            if s_aux is not None:
                logits = torch.cat([logits, s_aux.view(1, -1, 1, 1).expand(*logits.shape[:3], 1)], -1)
            pattern = _pattern(logits, rules)[..., : key.shape[2]]
            return pattern.to(value.dtype) @ value.repeat_interleave(groups, 1)

        output: Tensor = checkpoint(attend, query, key, value, use_reentrant=False, preserve_rng_state=False)
        return output.transpose(1, 2).contiguous(), None


def _pattern(logits: Tensor, rules: Backward) -> Tensor:
    """Softmax over keys; T softmax(x / T) has the derivative wanted at temperature T."""
    wide = logits if logits.dtype.itemsize >= 4 else logits.float()
    pattern = wide.softmax(-1)
    if rules.freeze_patterns:
        return pattern.detach()
    temperature = rules.softmax_temperature
    return pattern if temperature == 1.0 else with_gradient_of(temperature * (wide / temperature).softmax(-1), pattern)


def _damped(x: Tensor, factor: float) -> Tensor:
    return x if factor == 1.0 else with_gradient_of(factor * x, x)
