"""What a strategy trains: all parameters, all but some, or adapters; and the plain model that this amounts to."""

import copy
import fnmatch
import warnings
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from checkpoints import DriftError
from circuit_drift.training.strategies.config import Lora, Strategy

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


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


def plain(module: "torch.nn.Module") -> "PreTrainedModel":
    """The model as it is saved and probed: the module itself, or a copy into which its adapters are merged."""
    if not hasattr(module, "merge_and_unload"):
        return module  # type: ignore[return-value]
    twin: Any = copy.deepcopy(module)
    merged: PreTrainedModel = twin.merge_and_unload()
    return merged


def frozen_copy(module: "torch.nn.Module") -> "PreTrainedModel":
    """A copy that trains no further, to be compared with."""
    twin = copy.deepcopy(plain(module))
    twin.train(mode=False)
    for parameter in twin.parameters():
        parameter.requires_grad_(False)
    return twin


def embedding_rows(model: "PreTrainedModel") -> int:
    """Rows of the embedding matrix: the largest vocabulary that the model can read."""
    embedding: Any = model.get_input_embeddings()
    return int(embedding.weight.shape[0])


def trained(module: "torch.nn.Module") -> "dict[str, torch.nn.Parameter]":
    """The parameters that are trained, by name."""
    return {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
