"""A stand-in for bitsandbytes, which holds weights in few bits: here by rounding to whole numbers, one scale a row."""

import sys
import types

import pytest
import torch
from torch import nn


class Params4bit(nn.Parameter):
    """Whole numbers in one column, as bitsandbytes lays them out; the state tells the shape and the scales."""


class Int8Params(nn.Parameter):
    """Whole numbers in their shape; ``SCB`` holds the scales of their rows."""


class Packed(nn.Linear):
    """A linear map that unpacks its weight at each call."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight = sys.modules["bitsandbytes"].functional.dequantize_4bit(self.weight.data, self.weight.quant_state)
        return nn.functional.linear(x, weight, self.bias)


def install(patch: pytest.MonkeyPatch) -> None:
    """Make ``import bitsandbytes`` find the stand-in."""
    functional = types.SimpleNamespace(
        dequantize_4bit=lambda data, state: data.view(state.shape).to(state.scales.dtype) * state.scales,
        int8_vectorwise_dequant=lambda data, scales: data * scales[:, None],
    )
    module = types.ModuleType("bitsandbytes")
    module.functional = functional
    patch.setitem(sys.modules, "bitsandbytes", module)


def pack(model: nn.Module, bits: int = 4) -> nn.Module:
    """Hold every linear map of the layers in few bits; what it stands for is put in the place of the weight before."""
    for name, old in list(model.named_modules()):
        if isinstance(old, nn.Linear) and "lm_head" not in name and "embed_out" not in name:
            parent = model.get_submodule(name.rpartition(".")[0])
            setattr(parent, name.rpartition(".")[2], _packed(old, bits))
    return model


def _packed(old: nn.Linear, bits: int) -> Packed:
    scales = old.weight.data.abs().amax(1, keepdim=True) / 7
    whole = (old.weight.data / scales).round()
    old.weight.data = whole * scales
    new = Packed(old.in_features, old.out_features, bias=False)
    new.bias = old.bias
    if bits == 4:
        new.weight = Params4bit(whole.to(torch.int8).reshape(-1, 1), requires_grad=False)
        new.weight.quant_state = types.SimpleNamespace(shape=old.weight.shape, scales=scales)
    else:
        new.weight = Int8Params(whole.to(torch.int8), requires_grad=False)
        new.weight.SCB = scales[:, 0]
    return new
