"""One registered attention, computed by the handler in force; the model's own implementation always comes back."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from checkpoints.errors import UnsupportedArchitecture
from checkpoints.model.attention import HANDLED, attention_implementation, handled, handler, handler_in_force
from tests.checkpoints.architectures import tiny_configs

IDS = torch.arange(6)[None]


class Doubled:
    """Eager attention over one head's worth of calls, counted; its output is twice the value's mean."""

    def __init__(self, factor: float):
        self.factor, self.calls, self.masks = factor, 0, 0

    def mask(self, *_args, **_options):
        self.masks += 1

    def attend(self, _module, query, _key, value, _mask, **_options):
        self.calls += 1
        mean = value.mean(2, keepdim=True).repeat_interleave(query.shape[1] // value.shape[1], 1)
        return self.factor * mean.expand(-1, -1, query.shape[2], -1).transpose(1, 2), None


def build():
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(tiny_configs()["llama"]).eval()


def test_the_handler_in_force_computes_every_call():
    model, outer, inner = build(), Doubled(1.0), Doubled(0.0)
    before = model.config._attn_implementation
    with handled(model, outer):
        assert handler_in_force() is outer
        first = model(IDS).logits
        with handler(inner):
            second = model(IDS).logits
        assert handler_in_force() is outer
    assert (outer.calls, inner.calls, outer.masks, inner.masks) == (2, 2, 1, 1)
    assert not torch.equal(first, second)
    assert handler_in_force() is None
    assert model.config._attn_implementation == before


def test_the_models_own_attention_is_back_after_an_error():
    model = build()
    expected = model(IDS).logits
    with pytest.raises(ZeroDivisionError), handled(model, Doubled(1.0)):
        raise ZeroDivisionError
    assert torch.equal(model(IDS).logits, expected)


def test_a_handled_model_outside_the_block_is_refused():
    model = build()
    with handled(model, Doubled(1.0)):
        pass
    with attention_implementation(model, HANDLED), pytest.raises(UnsupportedArchitecture, match="outside the block"):
        model(IDS)
