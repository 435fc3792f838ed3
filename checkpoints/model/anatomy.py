"""Where the parts of a decoder are, whatever the architecture calls them.

The map is found by what modules are, checked by what they compute: norms are probed with numbers, projections must
be plain linear maps of the right size. What cannot be found or does not behave as expected is refused by name;
nothing is guessed. Covered: Llama, Mistral, Qwen2/3, SmolLM3, Gemma 1-3, OLMo 1-3, Granite, GLM-4, Cohere, Phi,
Phi-3, GPT-2, GPT-NeoX (parallel residual included), Mixtral, Qwen-MoE, gpt-oss, the multi-head latent attention of
DeepSeek-V2 and -V3, and whatever is built like them.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from checkpoints.errors import UnsupportedArchitecture
from checkpoints.model.norms import Norm, any_norm, read_norm
from checkpoints.model.packed import rounds_inputs
from checkpoints.model.projections import Latent, Projection, linear_weight

__all__ = ["Anatomy", "Block", "Latent", "Norm", "Projection", "anatomy", "linear_weight", "read_norm"]

_LAYERS = ("layers", "h", "blocks")
_EMBEDDINGS = ("embed_tokens", "wte", "embed_in", "word_embeddings")
_FINAL_NORMS = ("norm", "ln_f", "final_layer_norm", "final_layernorm")
_ATTENTIONS = ("self_attn", "attn", "attention", "self_attention")
_MLPS = ("mlp", "block_sparse_moe", "feed_forward")
_OUTPUTS = ("o_proj", "c_proj", "dense", "out_proj")
_FUSED = ("qkv_proj", "c_attn", "query_key_value")
_OBSTACLES = {
    "indexer": "attention to chosen tokens",
    "crossattention": "cross-attention",
    "linear_attn": "linear attention",
    "mamba": "a state-space mixer",
    "per_layer_input_gate": "per-layer input embeddings",
}


@dataclass(frozen=True, slots=True)
class Block:
    """One layer.

    Attributes:
        index: its number.
        module: the whole layer.
        attention: the attention module.
        q, k, v: its projections.
        o: the linear map from the concatenated heads into the residual stream.
        mlp: the MLP, or the whole mixture-of-experts block.
        attention_norm, mlp_norm: what normalises the input of each; ``None`` where nothing does.
        attention_post_norm, mlp_post_norm: what normalises the output of each; ``None`` where nothing does.
        parallel: the MLP reads the layer's input, so that this layer's heads do not feed it.
        residual_scale: what multiplies both outputs before they are added to the stream.
        latent: the low-rank path in front of q, k and v in multi-head latent attention, else ``None``.
    """

    index: int
    module: nn.Module
    attention: nn.Module
    q: Projection
    k: Projection
    v: Projection
    o: nn.Module
    mlp: nn.Module
    attention_norm: Norm | None
    mlp_norm: Norm | None
    attention_post_norm: Norm | None
    mlp_post_norm: Norm | None
    parallel: bool
    residual_scale: float
    latent: Latent | None = None

    @property
    def output_weight(self) -> Tensor:
        """[heads, head_dim, d_model]: what each head's z writes into the residual stream, before any post-norm."""
        return linear_weight(self.o).T.reshape(self.q.heads, self.head_dim, -1)

    @property
    def head_dim(self) -> int:
        """Width of each head's z, which is that of its values."""
        return self.v.width


@dataclass(frozen=True, slots=True)
class Anatomy:
    """The parts of a decoder.

    Attributes:
        model: the model itself.
        embedding: token ids to vectors.
        blocks: the layers in order.
        final_norm: what normalises the residual stream before the unembedding.
        unembedding: vectors to logits.
        n_layers, n_heads, n_kv_heads, head_dim, d_model: sizes.
    """

    model: PreTrainedModel
    embedding: nn.Module
    blocks: tuple[Block, ...]
    final_norm: Norm
    unembedding: nn.Module
    n_layers: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    d_model: int

    @property
    def parallel(self) -> bool:
        """Whether attention and MLP of a layer read the same stream."""
        return self.blocks[0].parallel

    @property
    def learned_positions(self) -> bool:
        """Whether learned vectors of positions are added to the embeddings, as in GPT-2; rotary models have none."""
        return any(isinstance(module, nn.Embedding) and module is not self.embedding for module in self.model.modules())


def anatomy(model: PreTrainedModel) -> Anatomy:
    """Find the parts of a decoder-only language model.

    Raises:
        UnsupportedArchitecture: a part was not found or is not what the method needs; the message names it.
    """
    config = model.config.get_text_config()
    base = _base(model)
    name = type(model).__name__
    n_heads = int(config.num_attention_heads)
    n_kv = int(getattr(config, "num_key_value_heads", None) or n_heads)
    d_model = int(config.hidden_size)
    head_dim = int(getattr(config, "head_dim", None) or d_model // n_heads)
    if getattr(config, "kv_lora_rank", None):
        n_kv, head_dim = n_heads, int(config.v_head_dim)
    finder = _Finder(name, d_model, n_heads, n_kv, head_dim)
    layers = finder.part(base, _LAYERS, "the list of layers")
    blocks = tuple(finder.block(index, layer) for index, layer in enumerate(layers))
    if len({block.parallel for block in blocks}) != 1:
        raise UnsupportedArchitecture(f"{name}: some layers are parallel and some are not; no common graph exists")
    unembedding = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    if unembedding is None:
        raise UnsupportedArchitecture(f"{name} has no unembedding; load it as a causal language model")
    return Anatomy(
        model=model,
        embedding=finder.part(base, _EMBEDDINGS, "the token embedding"),
        blocks=blocks,
        final_norm=finder.norm(finder.part(base, _FINAL_NORMS, "the final norm"), "the final norm"),
        unembedding=unembedding,
        n_layers=len(blocks),
        n_heads=n_heads,
        n_kv_heads=n_kv,
        head_dim=head_dim,
        d_model=d_model,
    )


def _base(model: PreTrainedModel) -> nn.Module:
    base = model.base_model
    for name in ("language_model", "decoder"):
        inner = getattr(base, name, None)
        if isinstance(inner, nn.Module) and not any(hasattr(base, layers) for layers in _LAYERS):
            base = inner
    return base


@dataclass(frozen=True, slots=True)
class _Finder:
    """Looks parts up by name and refuses what does not fit."""

    model: str
    d_model: int
    n_heads: int
    n_kv_heads: int
    head_dim: int

    def part(self, parent: nn.Module, names: Iterable[str], what: str) -> Any:
        """The first child of one of the names."""
        for name in names:
            if isinstance(child := getattr(parent, name, None), nn.Module):
                return child
        children = ", ".join(name for name, _ in parent.named_children()) or "nothing"
        raise UnsupportedArchitecture(
            f"{self.model}: {what} was not found in {type(parent).__name__}, which holds {children}; "
            f"looked for {', '.join(names)}"
        )

    def block(self, index: int, layer: nn.Module) -> Block:
        """The parts of one layer."""
        self.refuse_obstacles(index, layer)
        attention = self.part(layer, _ATTENTIONS, f"the attention of layer {index}")
        self.refuse_obstacles(index, attention)
        latent = self.latent(index, attention) if hasattr(attention, "kv_b_proj") else None
        q, k, v = self.projections(index, attention) if latent is None else self.heads_of(index, attention, latent)
        o = self.part(attention, _OUTPUTS, f"the output projection of layer {index}")
        self.require_linear(o, self.n_heads * self.head_dim, self.d_model, f"the output projection of layer {index}")
        norms = self.norms(index, layer)
        shared = norms["mlp"] is norms["attention"] and norms["mlp_post"] is None
        self.refuse_norms(index, norms, o, has_latent=latent is not None)
        return Block(
            index=index,
            module=layer,
            attention=attention,
            q=q,
            k=k,
            v=v,
            o=o,
            mlp=self.part(layer, _MLPS, f"the MLP of layer {index}"),
            attention_norm=norms["attention"],
            mlp_norm=norms["mlp"],
            attention_post_norm=norms["attention_post"],
            mlp_post_norm=norms["mlp_post"],
            parallel=shared or bool(getattr(layer, "use_parallel_residual", False)),
            residual_scale=float(getattr(layer, "residual_multiplier", 1.0)),
            latent=latent,
        )

    def norms(self, index: int, layer: nn.Module) -> dict[str, Norm | None]:
        """A layer's norms by their places; one in front of both attention and MLP stands at both."""
        found = {
            role: None if module is None else self.norm(module, f"the {role} norm of layer {index}")
            for role, module in _norm_roles(layer).items()
        }
        if found["mlp"] is None and found["mlp_post"] is None:
            found["mlp"] = found["attention"]
        return found

    def refuse_norms(self, index: int, norms: Mapping[str, Norm | None], output: Any, *, has_latent: bool) -> None:
        """Refuse norms through which a head's share cannot be followed."""
        before, after = norms["attention"], norms["attention_post"]
        if has_latent and before is not None and not before.closed:
            raise UnsupportedArchitecture(
                f"{self.model}: the attention norm of layer {index}, a {type(before.module).__name__}, computes "
                "neither a LayerNorm nor an RMSNorm, which multi-head latent attention needs here"
            )
        if after is not None and not after.closed:
            raise UnsupportedArchitecture(
                f"{self.model}: the norm on the attention output of layer {index}, a {type(after.module).__name__}, "
                "computes neither a LayerNorm nor an RMSNorm, so a head's share of its output is not defined"
            )
        if after is not None and getattr(output, "bias", None) is not None:
            raise UnsupportedArchitecture(
                f"{self.model}: layer {index} normalises an attention output that carries a bias, "
                "which belongs to no head; its edges cannot be scored exactly"
            )

    def latent(self, index: int, attention: Any) -> Latent:
        """The low-rank path of multi-head latent attention."""
        where = f"layer {index}"
        down = self.part(attention, ("kv_a_proj_with_mqa",), f"the compressed projection of {where}")
        rank = linear_weight(attention.kv_b_proj).shape[1]
        self.require_linear(down, self.d_model, rank + int(attention.qk_rope_head_dim), f"the latent of {where}")
        q_down = getattr(attention, "q_a_proj", None)
        q_norm = None
        if q_down is not None:
            q_rank = linear_weight(q_down).shape[0]
            self.require_linear(q_down, self.d_model, q_rank, f"the latent of queries of {where}")
            q_norm = self.closed_norm(attention.q_a_layernorm, q_rank, f"the norm of that latent in {where}")
        kv_norm = self.closed_norm(attention.kv_a_layernorm, rank, f"the norm of the latent of {where}")
        return Latent(q_down, q_norm, down, kv_norm)

    def heads_of(self, index: int, attention: Any, latent: Latent) -> tuple[Projection, Projection, Projection]:
        """Query, key and value projections behind the latents; keys without their rotary part."""
        plain, value = int(attention.qk_nope_head_dim), int(attention.v_head_dim)
        width = plain + int(attention.qk_rope_head_dim)
        q = self.part(attention, ("q_b_proj", "q_proj"), f"the query projection of layer {index}")
        q_in = self.d_model if latent.q_norm is None else latent.q_norm.gain.numel()
        self.require_linear(q, q_in, self.n_heads * width, f"the query projection of layer {index}")
        kv, what = attention.kv_b_proj, f"the key and value projection of layer {index}"
        self.require_linear(kv, latent.rank, self.n_heads * (plain + value), what)
        rows = torch.arange(self.n_heads * (plain + value)).reshape(self.n_heads, -1)
        queries = torch.arange(self.n_heads * width).reshape(self.n_heads, width)
        return Projection(q, queries), Projection(kv, rows[:, :plain]), Projection(kv, rows[:, plain:])

    def projections(self, index: int, attention: nn.Module) -> tuple[Projection, Projection, Projection]:
        """Query, key and value projections, split from a fused one where need be."""
        q_size, kv_size = self.n_heads * self.head_dim, self.n_kv_heads * self.head_dim
        separate = [getattr(attention, name, None) for name in ("q_proj", "k_proj", "v_proj")]
        if all(isinstance(module, nn.Module) for module in separate):
            for module, size, letter in zip(separate, (q_size, kv_size, kv_size), "qkv", strict=True):
                self.require_linear(module, self.d_model, size, f"the {letter} projection of layer {index}")
            sizes = (self.n_heads, self.n_kv_heads, self.n_kv_heads)
            q, k, v = (
                Projection(module, self.rows(heads)) for module, heads in zip(separate, sizes, strict=True) if module
            )
            return q, k, v
        fused = self.part(attention, (*_FUSED, "q_proj"), f"the query/key/value projection of layer {index}")
        self.require_linear(fused, self.d_model, q_size + 2 * kv_size, f"the fused projection of layer {index}")
        if hasattr(attention, "query_key_value"):
            rows = self.rows(3 * self.n_heads).reshape(self.n_heads, 3, self.head_dim)
            return Projection(fused, rows[:, 0]), Projection(fused, rows[:, 1]), Projection(fused, rows[:, 2])
        key = self.rows(self.n_kv_heads) + q_size
        return Projection(fused, self.rows(self.n_heads)), Projection(fused, key), Projection(fused, key + kv_size)

    def rows(self, heads: int) -> Tensor:
        """[heads, head_dim] output indices of consecutive heads."""
        return torch.arange(heads * self.head_dim).reshape(heads, self.head_dim)

    def require_linear(self, module: Any, inputs: int, outputs: int, what: str) -> None:
        """Refuse anything but a plain linear map of the stated size."""
        if isinstance(module, nn.Module) and rounds_inputs(module):
            raise UnsupportedArchitecture(
                f"{self.model}: {what}, a {type(module).__name__}, rounds what it is given to eight bits: it is no "
                "linear map, and no gradient goes through it; load the "
                "unquantised checkpoint in four bits (dtype nf4) or whole"
            )
        if not isinstance(module, nn.Linear | Conv1D) or tuple(linear_weight(module).shape) != (outputs, inputs):
            weight = getattr(module, "weight", None)
            seen = f"{type(module).__name__} of {None if weight is None else tuple(weight.shape)}"
            raise UnsupportedArchitecture(
                f"{self.model}: {what} is {seen}, not a plain linear map from {inputs} to {outputs}; "
                "merge adapters and dequantise weights first; gated or compressed projections are not supported"
            )

    def norm(self, module: nn.Module, what: str) -> Norm:
        """The closed form of a norm."""
        norm = any_norm(module, self.d_model)
        if norm is None:
            raise UnsupportedArchitecture(
                f"{self.model}: {what}, a {type(module).__name__}, does not map each vector of {self.d_model} numbers "
                "to such a vector by itself"
            )
        return norm

    def closed_norm(self, module: nn.Module, width: int, what: str) -> Norm:
        """A norm of vectors of some width that must have a closed form."""
        norm = read_norm(module, width)
        if norm is None:
            raise UnsupportedArchitecture(
                f"{self.model}: {what}, a {type(module).__name__}, computes neither a LayerNorm nor an RMSNorm"
            )
        return norm

    def refuse_obstacles(self, index: int, module: nn.Module) -> None:
        """Refuse what changes the graph in a way it does not show."""
        for name, what in _OBSTACLES.items():
            if getattr(module, name, None) is not None:
                raise UnsupportedArchitecture(f"{self.model}: layer {index} uses {what} ({name}), not supported yet")


def _norm_roles(layer: nn.Module) -> dict[str, nn.Module | None]:
    """Which of a layer's norms stands where; families reuse one name for different places."""
    own = dict(layer.named_children())

    def first(*names: str) -> nn.Module | None:
        return next((own[name] for name in names if name in own), None)

    if "post_self_attn_layernorm" in own:  # GLM-4
        post = ("post_self_attn_layernorm", "post_mlp_layernorm")
        pre_mlp = first("post_attention_layernorm")
    elif "post_feedforward_layernorm" in own:  # Gemma 2 and 3, OLMo 2 and 3
        post = ("post_attention_layernorm", "post_feedforward_layernorm")
        pre_mlp = first("pre_feedforward_layernorm")
    else:
        post, pre_mlp = ("", ""), first("post_attention_layernorm", "ln_2", "ln_mlp")
    return {
        "attention": first("input_layernorm", "ln_1", "ln_attn"),
        "mlp": pre_mlp,
        "attention_post": first(post[0]),
        "mlp_post": first(post[1]),
    }
