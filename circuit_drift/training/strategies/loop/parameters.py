"""What a strategy trains: all parameters, all but some, or adapters; and the plain model that this amounts to."""

import copy
import fnmatch
import warnings
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from checkpoints import DriftError
from checkpoints.loading.load import LoadedModel
from circuit_drift.measures.tokenizers import tokenizer_of
from circuit_drift.training.strategies.settings.documents import teach_tags
from circuit_drift.training.strategies.settings.strategy import Lora, Strategy

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def prepare(model: "PreTrainedModel", strategy: Strategy, *, seed: int) -> "torch.nn.Module":
    """The module to train, made of the model, which is used up; what is not trained requires no gradient.

    Args:
        model: the whole model.
        strategy: what to train of it.
        seed: of the adapters' initial values.

    Raises:
        DriftError: a pattern or target matches nothing, nothing is left to train, or peft is not installed.
    """
    names = [name for name, _ in model.named_parameters()]
    modules = [name for name, _ in model.named_modules()]
    check_names(strategy, names, modules)
    if strategy.lora is not None:
        return _with_adapters(model, strategy.lora, seed)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not any(fnmatch.fnmatchcase(name, pattern) for pattern in strategy.freeze))
    return model


def check_names(strategy: Strategy, parameters: Iterable[str], modules: Iterable[str]) -> None:
    """Refuse patterns and targets that name nothing in a model.

    Raises:
        DriftError: names the pattern, and what there is.
    """
    left = list(parameters)
    for pattern in strategy.freeze:
        if not fnmatch.filter(left, pattern):
            raise DriftError(f"strategy {strategy.name}: no parameter is called {pattern}; there is {left[0]}, ...")
    if all(any(fnmatch.fnmatchcase(name, pattern) for pattern in strategy.freeze) for name in left):
        raise DriftError(f"strategy {strategy.name} freezes every parameter: nothing is left to train")
    last = {name.rpartition(".")[2] for name in modules}
    if strategy.lora is not None and (absent := [name for name in strategy.lora.targets if name not in last]):
        there = ", ".join(sorted(name for name in last if name.endswith(("proj", "attn", "fc", "dense"))))
        raise DriftError(f"strategy {strategy.name}: LoRA finds no module {absent[0]}; there are {there}")


def _with_adapters(model: "PreTrainedModel", lora: Lora, seed: int) -> "torch.nn.Module":
    import torch
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=lora.r,
        lora_alpha=lora.alpha,  # type: ignore[arg-type]
        lora_dropout=lora.dropout,
        target_modules=list(lora.targets),
    )
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft's own use of what transformers renames
        torch.manual_seed(seed)
        wrapped: torch.nn.Module = get_peft_model(model, config)
    if lora.embedding:
        for parameter in model.get_input_embeddings().parameters():
            parameter.requires_grad_(True)
    return wrapped


def recompute_activations(module: "torch.nn.Module") -> None:
    """Keep no activations of a layer for the backward pass, which computes them again.

    Raises:
        DriftError: the architecture has no such way.
    """
    model: Any = module
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    try:
        enable()
    except ValueError as error:
        raise DriftError(f"gradient_checkpointing: {error}") from error


def own_copy(original: "PreTrainedModel", strategy: Strategy) -> "PreTrainedModel":
    """A copy to be trained; what adapters leave as it is shares its memory with the original."""
    if strategy.lora is None or strategy.rope is not None:
        return copy.deepcopy(original)
    told = original.get_input_embeddings().parameters() if strategy.lora.embedding else ()
    changed = {id(parameter) for parameter in told}
    return copy.deepcopy(original, {id(p): p for p in original.parameters() if id(p) not in changed})


def plain(module: "torch.nn.Module") -> "PreTrainedModel":
    """The model as it is saved and probed: the module itself, or its base, adapters merged in as they are saved.

    What adapters leave as it is shares its memory with the module.
    """
    if not hasattr(module, "merge_and_unload"):
        return module  # type: ignore[return-value]
    kept = {id(p): p for name, p in module.named_parameters() if not p.requires_grad and ".base_layer." not in name}
    twin: Any = copy.deepcopy(module, kept)
    for parameter in trained(twin).values():
        parameter.data = rounded(parameter.data).to(parameter.dtype)
    merged: PreTrainedModel = twin.merge_and_unload(safe_merge=True)
    return merged


def rounded(tensor: "torch.Tensor") -> "torch.Tensor":
    """An adapter's tensor in the precision that it is saved in."""
    import torch

    return tensor.detach().to(torch.bfloat16)


def frozen_copy(module: "torch.nn.Module") -> "PreTrainedModel":
    """A copy that trains no further, to be compared with."""
    model = plain(module)
    twin = copy.deepcopy(model) if model is module else model
    twin.train(mode=False)
    for parameter in twin.parameters():
        parameter.requires_grad_(False)
    return twin


def embedding_rows(model: "PreTrainedModel") -> int:
    """Rows of the embedding matrix: the largest vocabulary that the model can read."""
    embedding: Any = model.get_input_embeddings()
    return int(embedding.weight.shape[0])


def taught_tokenizer(loaded: LoadedModel, strategy: Strategy) -> "PreTrainedTokenizerBase":
    """The model's tokenizer, with the strategy's tags where it has any."""
    tokenizer = tokenizer_of(loaded)
    if strategy.tags:
        teach_tags(tokenizer, strategy.tags, rows=embedding_rows(loaded.model))
    return tokenizer


def trained(module: "torch.nn.Module") -> "dict[str, torch.nn.Parameter]":
    """The parameters that are trained, by name."""
    return {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
