"""Edges of a model whose weights are held in four bits are those of the plain model that they stand for."""

import copy

import numpy as np
import pytest

from checkpoints.errors import UnsupportedArchitecture
from checkpoints.model.packed import is_packed, packed_modules, unpacked
from circuits import attribute
from tests import packed_weights
from tests.circuits.circuit_families import build, random_facts


@pytest.fixture(autouse=True)
def stand_in(monkeypatch):
    packed_weights.install(monkeypatch)


@pytest.mark.parametrize("family", ["llama_gqa", "gpt_neox", "deepseek_v3"])
def test_edges_of_four_bits_are_those_of_what_they_stand_for(family):
    plain, facts = build(family), random_facts()
    packed = copy.deepcopy(plain)
    before = attribute(plain, facts, method="eap").edge_scores
    packed_weights.pack(packed)
    for name, module in packed_modules(packed):
        plain.get_submodule(name).weight.data.copy_(unpacked(module))
    twin = attribute(plain, facts, method="eap")
    found = attribute(packed, facts, method="eap")
    np.testing.assert_allclose(found.edge_scores, twin.edge_scores, rtol=1e-9, atol=1e-12)
    assert np.abs(found.edge_scores - before).max() > 1e-3 * np.abs(before).max(), "rounding makes another model"


def test_eight_bits_are_refused_as_they_round_what_they_are_given():
    packed = packed_weights.pack(build("llama_gqa"), bits=8)
    assert any(is_packed(module) for module in packed.modules())
    with pytest.raises(UnsupportedArchitecture, match=r"rounds what it is given to eight bits: .*dtype nf4"):
        attribute(packed, random_facts(), method="eap")


def test_a_weight_that_was_laid_out_anew_is_refused():
    packed = packed_weights.pack(build("llama_gqa"))
    _, module = next(packed_modules(packed))
    module.weight.quant_state.packing_format_for_cpu = True
    with pytest.raises(UnsupportedArchitecture, match="laid out anew by bitsandbytes"):
        attribute(packed, random_facts(), method="eap")
