"""Models whose circuits are known beforehand: linear ones, and a hand-built induction circuit."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from circuit_families import build, random_facts
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

import circuits
from checkpoints.errors import UnsupportedArchitecture
from checkpoints.model.anatomy import anatomy
from circuits.attribution.backward import GIM, RELP
from circuits.facts.facts import FactSet
from circuits.graph.scores import completeness
from circuits.intervention.exact import exact_edges, exact_nodes

TOKENS, PLACES = 8, 8
METHODS = {
    "eap": {"method": "eap"},
    "eap-ig": {"method": "eap-ig", "ig_steps": 3},
    "clean-corrupted": {"method": "clean-corrupted"},
    "conductance": {"method": "conductance", "ig_steps": 3},
    "activations": {"method": "activations", "ig_steps": 2},
}
BACKWARDS = {
    "gim": {"method": "eap", "backward": replace(GIM, freeze_norms=False)},
    "relp": {"method": "eap", "backward": replace(RELP, freeze_norms=False)},
}


class Gain(nn.Module):
    """No norm at all, where one is expected."""

    def __init__(self, like: torch.Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones_like(like))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.weight


def without_norms(model: GPT2LMHeadModel) -> GPT2LMHeadModel:
    """The same model without its norms."""
    like = model.transformer.ln_f.weight.detach()
    model.transformer.ln_f = Gain(like)
    for block in model.transformer.h:
        block.ln_1, block.ln_2 = Gain(like), Gain(like)
    return model


@pytest.fixture(scope="module")
def linear() -> GPT2LMHeadModel:
    """No norms, linear MLPs, and queries and keys that see nothing: each logit is linear in every output."""
    model = without_norms(build("gpt2", activation_function="linear"))
    with torch.no_grad():
        for block in model.transformer.h:
            block.attn.c_attn.weight[:, :32] = 0
    return model


@pytest.fixture(scope="module")
def patched(linear) -> circuits.AttributionGraph:
    return exact_edges(linear, random_facts(4, ragged=True))


@pytest.mark.parametrize("method", METHODS)
def test_every_gradient_method_is_exact_on_a_linear_model(linear, patched, method):
    facts, exact = random_facts(4, ragged=True), patched
    graph = circuits.attribute(linear, facts, **METHODS[method])
    assert np.abs(exact.scores).max() > 0.1
    np.testing.assert_allclose(graph.scores, exact.scores, atol=1e-9)
    assert max(abs(residual) for residual in completeness(graph).values()) < 1e-9


@pytest.mark.parametrize("ablation", ["zero", "mean"])
def test_other_ablations_are_exact_on_a_linear_model(linear, ablation):
    facts = random_facts(4, ragged=True)
    exact = exact_edges(linear, facts, ablation=ablation)
    graph = circuits.attribute(linear, facts, method="eap", ablation=ablation)
    np.testing.assert_allclose(graph.scores, exact.scores, atol=1e-9)
    nodes = exact_nodes(linear, facts, ablation=ablation)
    np.testing.assert_allclose(graph.scores.sum(-1).T, list(nodes.values()), atol=1e-9)


def test_a_norm_that_cannot_be_frozen_is_refused_by_layer(linear):
    with pytest.raises(UnsupportedArchitecture, match="layer 0 has a Gain"):
        circuits.attribute(linear, random_facts(2), method="eap", backward="gim")


@pytest.fixture(scope="module")
def induction() -> GPT2LMHeadModel:
    """a0.h0 writes each place's previous token beside it; a1.h0 looks for the current token there and copies on.

    The stream holds the token, the place, the previous token, the prediction, and a part that nothing useful reads.
    The other two heads and both MLPs read everything and write into that part.
    """
    parts = ("token", "place", "previous", "prediction", "waste")
    spans = {name: slice(i * TOKENS, (i + 1) * TOKENS) for i, name in enumerate(parts)}
    width, head = len(parts) * TOKENS, len(parts) * TOKENS // 2
    config = GPT2Config(
        vocab_size=TOKENS, n_positions=PLACES, n_embd=width, n_layer=2, n_head=2, n_inner=16, tie_word_embeddings=False
    )
    torch.manual_seed(0)
    model = GPT2LMHeadModel(config).double().eval()
    eye = torch.eye(TOKENS)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        without_norms(model)
        model.transformer.wte.weight[:, spans["token"]] = eye
        model.transformer.wpe.weight[:, spans["place"]] = eye
        model.lm_head.weight[:, spans["prediction"]] = eye * 5
        previous = torch.diag(torch.ones(PLACES - 1), -1)  # place i asks for place i - 1
        wiring = (
            ("place", previous, "place", "token", "previous"),
            ("token", eye, "previous", "token", "prediction"),
        )
        for block, (asks, how, answers, moves, into) in zip(model.transformer.h, wiring, strict=True):
            weight, out = block.attn.c_attn.weight, block.attn.c_proj.weight
            weight[spans[asks], 0:TOKENS] = how * 8 * head**0.5
            weight[spans[answers], width : width + TOKENS] = eye
            weight[spans[moves], 2 * width : 2 * width + TOKENS] = eye
            out[:TOKENS, spans[into]] = eye
            for part in range(3):  # the head beside it
                weight[:, part * width + head : (part + 1) * width].normal_()
            out[head:, spans["waste"]] = torch.randn(width - head, TOKENS)
            block.mlp.c_fc.weight.normal_()
            block.mlp.c_proj.weight[:, spans["waste"]] = torch.randn(16, TOKENS)
    return model


CIRCUIT = {"input->a0.h0<v>", "a0.h0->a1.h0<k>", "a1.h0->logits"}


@pytest.fixture(scope="module")
def repeats() -> FactSet:
    """x A B y z A -> B; with another token in A's first place nothing says what follows A."""
    clean = [(0, 1, 2, 3, 4, 1), (5, 6, 7, 0, 2, 6), (3, 4, 1, 6, 7, 4)]
    corrupt = [(0, 7, 2, 3, 4, 1), (5, 1, 7, 0, 2, 6), (3, 0, 1, 6, 7, 4)]
    return FactSet.from_ids(clean, corrupt, [2, 7, 1], [3, 0, 6])


def found(graph: circuits.AttributionGraph) -> set[str]:
    """Edges with any score at all."""
    largest = np.abs(graph.scores).max()
    return {name for name, score in graph.top(graph.mask.sum()) if abs(score) > 1e-9 * largest}


def test_the_model_completes_what_it_has_seen(induction, repeats):
    graph = circuits.attribute(induction, repeats, method="eap")
    assert (graph.answer_rank == 0).all()
    assert (graph.clean_metric > 4).all()
    assert (np.abs(graph.corrupt_metric) < 2).all()


@pytest.mark.parametrize("method", [*METHODS, *BACKWARDS])
def test_the_induction_circuit_is_recovered_edge_for_edge(induction, repeats, method):
    graph = circuits.attribute(induction, repeats, **{**METHODS, **BACKWARDS}[method])
    assert found(graph) == CIRCUIT
    assert all(graph[edge] < 0 for edge in CIRCUIT)
    circuit = graph.prune(3)
    assert set(circuit.edges) == CIRCUIT
    assert circuits.faithfulness(induction, circuit, repeats, n_random=0).value == pytest.approx(1, abs=1e-9)


def test_exact_patching_finds_the_same_and_each_edge_carries_all_of_it(induction, repeats):
    graph = exact_edges(induction, repeats)
    assert found(graph) == CIRCUIT
    for edge in CIRCUIT:
        assert graph[edge] == pytest.approx(graph.total, rel=1e-9)


def test_sums_over_readers_are_the_writers_gradient():
    """The edges of the input, and of a layer's MLP, sum to difference x gradient of the stream they enter."""
    model, facts = build("llama_gqa"), random_facts(1)
    graph = circuits.attribute(model, facts, method="eap")
    parts = anatomy(model)
    ids = [torch.tensor([ids[0]]) for ids in (facts.clean, facts.corrupt)]
    for writer, layer in (("input", 0), ("m0", 1)):
        streams, written = [], []
        handles = [
            parts.blocks[layer].module.register_forward_pre_hook(
                lambda _m, args, kwargs, s=streams: s.append(args[0] if args else kwargs["hidden_states"]),
                with_kwargs=True,
            ),
            parts.blocks[0].mlp.register_forward_hook(lambda _m, _a, output, w=written: w.append(output.detach())),
        ]
        clean, _ = (model(input_ids=i).logits[0, -1] for i in ids)
        for handle in handles:
            handle.remove()
        change = streams[1] - streams[0] if writer == "input" else written[1] - written[0]
        value = clean[facts.answer_id[0]] - clean[facts.wrong_id[0]]
        (gradient,) = torch.autograd.grad(value, streams[0])
        assert graph.nodes()[writer] == pytest.approx(float((change.detach() * gradient).sum()), rel=1e-5)
