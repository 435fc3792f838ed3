import copy

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from checkpoints.errors import BadPrompt, UnsupportedArchitecture
from checkpoints.model.anatomy import anatomy
from circuits.facts.batch import batches
from circuits.facts.facts import FactSet
from circuits.graph.circuit import Circuit
from circuits.graph.shape import GraphShape
from circuits.roles.measure import head_roles
from circuits.roles.roles import HeadRoles, changes_sentence, role_changes
from circuits.trace.trace import frozen, run
from tests.circuits.circuit_families import build, random_facts

FAMILIES = ("llama_gqa", "gpt2", "gpt_neox", "gemma2", "olmo2", "qwen3", "phi3", "granite", "gpt_oss", "mixtral")


@pytest.mark.parametrize("family", FAMILIES)
def test_the_shares_of_all_heads_are_what_attention_adds_to_the_answers_logit(family: str) -> None:
    """Against the stream itself: what it gained beside embedding, MLPs and constants, through norm and unembedding."""
    model, facts = build(family), random_facts(3, ragged=True)
    roles = head_roles(model, facts, batch_size=2)
    parts = anatomy(model)
    with frozen(model), torch.no_grad():
        for batch in batches(facts, 1, model):
            trace = run(parts, batch, batch.clean)
            written = sum(layer.mlp_out[0, -1] for layer in trace.layers) + trace.stream[0, -1]
            for block in parts.blocks:
                bias = getattr(block.o, "bias", None)
                written = written + (0 if bias is None else bias * block.residual_scale)
            attended = trace.final[0, -1] - written
            inverse = parts.final_norm.normalise(trace.final[0, -1])[1]
            through = torch.nn.functional.linear(parts.final_norm.spread(attended, inverse), parts.unembedding.weight)
            expected = (through - through.mean())[batch.answer[0]].item()
            i = batch.indices[0]
            assert (roles.subject + roles.relation)[i].sum() == pytest.approx(expected, rel=1e-4, abs=1e-5)


def planted() -> tuple[LlamaForCausalLM, FactSet]:
    """One layer attending evenly; head 0 turns token 5 into answer 9, head 1 token 6 into it, head 2 both."""
    config = LlamaConfig(
        vocab_size=16, hidden_size=32, intermediate_size=16, num_hidden_layers=1, num_attention_heads=4,
        num_key_value_heads=4, tie_word_embeddings=False, bos_token_id=1,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    attention = model.model.layers[0].self_attn
    with torch.no_grad():
        for parameter in (*attention.parameters(), model.model.layers[0].mlp.down_proj.weight):
            parameter.zero_()
        model.model.embed_tokens.weight.copy_(torch.eye(16, 32))
        model.lm_head.weight.copy_(torch.eye(16, 32))
        for head, tokens in ((0, [5]), (1, [6]), (2, [5, 6])):
            attention.v_proj.weight[8 * head, tokens] = 1.0
            attention.o_proj.weight[9, 8 * head] = 1.0
    return model, FactSet.from_ids([[1, 5, 6]] * 4, [[1, 7, 6]] * 4, [9] * 4, [10] * 4)


def test_planted_mover_relation_and_mixture_heads_are_told_apart() -> None:
    model, facts = planted()
    roles = head_roles(model, facts)
    shape = GraphShape(1, 4, 4, False)
    everything = Circuit(shape, shape.mask)
    assert roles.of(everything) == {"a0.h0": ("mover",), "a0.h1": ("relation",), "a0.h2": ("mixture",), "a0.h3": ()}
    assert roles.ratio[0, 2] == pytest.approx(1.0)


def test_answers_that_begin_alike_are_split_as_any_other() -> None:
    """Only the answer's first token is read; the wrong answer says nothing, be it the same at first."""
    model, facts = planted()
    alike = FactSet.from_ids(facts.clean, facts.corrupt, [[9, 11]] * 4, [[9, 12]] * 4)
    np.testing.assert_array_equal(head_roles(model, alike).subject, head_roles(model, facts).subject)


def test_a_named_subject_comes_before_the_tokens_that_differ() -> None:
    model, facts = planted()
    named = FactSet(facts.clean, facts.corrupt, facts.answer, facts.wrong, facts.facts, (), ({"subject": (2, 3)},) * 4)
    assert head_roles(model, named).ratio[0, 0] == 0.0


def test_what_stands_between_attention_and_output_is_refused() -> None:
    model, facts = planted()
    gate = model.model.layers[0].self_attn.o_proj.register_forward_pre_hook(lambda _m, args: (args[0] * 2,))
    with pytest.raises(UnsupportedArchitecture, match="layer 0: what LlamaAttention hands"):
        head_roles(model, facts)
    gate.remove()
    assert model.config._attn_implementation == "sdpa"


def roles_of(subject: float, relation: float, *, noise: float = 0.0) -> HeadRoles:
    draw = np.random.default_rng(0).normal(0, noise, (40, 1, 4)) if noise else np.zeros((40, 1, 4))
    return HeadRoles(np.full((40, 1, 4), subject) + draw, np.full((40, 1, 4), relation))


def test_only_certain_changes_of_circuit_heads_are_changes() -> None:
    shape = GraphShape(1, 4, 4, False)
    whole, first = Circuit(shape, shape.mask), shape.mask.copy()
    first[shape.writers.index("a0.h3")] = False
    first[:, [reader.startswith("a0.h3") for reader in shape.readers]] = False
    without = Circuit(shape, first)
    mover, relation, unsure = roles_of(11, 1), roles_of(0.01, 1), roles_of(10, 1, noise=1.0)
    assert role_changes(mover, mover, circuits=(whole, whole)) == ()
    assert role_changes(mover, unsure, circuits=(whole, whole)) == ()
    turned = role_changes(mover, relation, circuits=(whole, whole))
    assert {(c.role, c.gained) for c in turned} == {("mover", False), ("relation", True)}
    assert len(turned) == 8
    left = role_changes(mover, mover, circuits=(whole, without))
    assert [(c.head, c.role, c.gained, c.after) for c in left] == [("a0.h3", "mover", False, 0.0)]
    assert changes_sentence(left) == "Roles in the circuits: 1 mover head lost by leaving the circuit (a0.h3)."
    assert not any(change.moved for change in turned)
    back = role_changes(relation, mover, circuits=(whole, whole))
    assert {(c.head, c.role, not c.gained) for c in back} == {(c.head, c.role, c.gained) for c in turned}


def test_the_table_tells_the_contribution_from_the_relation_from_the_role_of_that_name() -> None:
    model, facts = planted()
    roles = head_roles(model, facts)
    frame = roles.to_frame().set_index("head")
    np.testing.assert_allclose(frame["from_subject"], roles.subject.mean((0, 1)))
    np.testing.assert_allclose(frame["from_relation"], roles.relation.mean((0, 1)))
    assert frame["from_relation"]["a0.h1"] > 0
    assert frame["relation"].tolist() == [0, 1, 0, 0]


def test_scores_give_further_roles_and_survive_saving(tmp_path) -> None:
    copies = np.tile([[0.9, 0.2, 0.05, 0.0]], (5, 1, 1))
    roles = roles_of(1, 1).with_scores("retrieval", copies)
    again = HeadRoles.load(roles.save(tmp_path / "roles"))
    np.testing.assert_array_equal(again.certainty()["retrieval"], [[1, 1, 0, 0]])
    assert again.thresholds == {"retrieval": 0.1}
    assert list(again.to_frame()["mixture"]) == [1.0] * 4
    with pytest.raises(BadPrompt, match="no threshold of its own"):
        roles.with_scores("copying", copies)
    with pytest.raises(BadPrompt, match="scores of retrieval are of"):
        roles.with_scores("retrieval", copies[..., :2])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("family", ["llama_gqa", "gpt2", "gemma2", "qwen3"])
def test_roles_in_half_precision_are_those_of_single_precision_but_for_rounding(family, dtype) -> None:
    facts = random_facts(6, ragged=True)
    model = build(family).to(dtype)
    half, single = (head_roles(one, facts) for one in (model, copy.deepcopy(model).float()))
    scale = np.abs(single.subject).max()
    np.testing.assert_allclose(half.subject, single.subject, atol=0.05 * scale)
    np.testing.assert_allclose(half.relation, single.relation, atol=0.05 * np.abs(single.relation).max())
