"""Integrated gradients on activations: as EAP-IG's code has them, and as they are defined, against brute force."""

import numpy as np
import pytest
import torch
from brute_force import displaced, metric
from circuit_families import build, random_facts, residual_parts
from published import published_facts, published_model, published_scores

import circuits
from checkpoints.model.anatomy import anatomy
from circuits.intervention.exact import exact_nodes
from circuits.trace.trace import output_tensor
from tests.circuits.attribution.test_families import reader_key

STEP = 1e-3


@pytest.mark.parametrize("kind", ["plain", "padded"])
def test_published_scores_as_coded(kind):
    graph = circuits.attribute(published_model(), published_facts(kind), method="activations-eapig", batch_size=4)
    np.testing.assert_allclose(
        graph.mean, published_scores()[f"{kind}/edge/EAP-IG-activations-5/logit_diff"], atol=1e-9
    )
    assert graph.meta["rule"] == "right"


@pytest.mark.parametrize("family", ["llama_gqa", "gpt2", "gpt_neox", "gemma2"])
@pytest.mark.parametrize("writer", ["input", "a0.h1", "m0"])
def test_only_the_writers_own_passes_count(family, writer):
    """Finite differences on the stock model, with the writer's own layer part held between its two outputs."""
    model, facts = build(family), random_facts(1, length=6)
    parts = anatomy(model)
    steps = 2
    graph = circuits.attribute(model, facts, method="activations", ig_steps=steps, rule="left")
    clean, corrupt = list(facts.clean[0]), list(facts.corrupt[0])
    answer, wrong = int(facts.answer_id[0]), int(facts.wrong_id[0])
    row = graph.writers.index(writer)
    change = residual_parts(model, corrupt)[row] - residual_parts(model, clean)[row]
    for reader in ("a1.h2<q>", "m1", "logits"):
        slopes = []
        for alpha in (0, 1 / steps):
            between = held(parts, writer, clean, corrupt, alpha)
            ends = []
            for sign in (1, -1):
                with displaced(parts, reader_key(reader), sign * STEP * change), between:
                    ends.append(metric(model, clean, answer, wrong))
            slopes.append((ends[0] - ends[1]) / (2 * STEP))
        found = graph.scores[0, row, graph.readers.index(reader)]
        np.testing.assert_allclose(found, np.mean(slopes), rtol=3e-3, atol=3e-4)


@pytest.mark.parametrize(
    ("family", "readers", "silent"),
    [
        ("llama_gqa", ("a0.h1<q>", "a0.kv0<v>"), True),
        ("llama_gqa", ("m0", "a1.h2<q>", "logits"), False),
        ("gpt_neox", ("a0.h1<q>", "m0"), True),
        ("gpt2", ("a0.h1<q>", "m0"), False),
    ],
)
def test_as_coded_the_inputs_own_passes_miss_what_reads_it_alone_without_learned_positions(family, readers, silent):
    """Finite differences for every group of writers held; the published hooks do not fire where nothing is learned."""
    model, facts = build(family), random_facts(1, length=6)
    parts = anatomy(model)
    steps = 2
    graph = circuits.attribute(model, facts, method="activations-eapig", ig_steps=steps)
    clean, corrupt = list(facts.clean[0]), list(facts.corrupt[0])
    answer, wrong = int(facts.answer_id[0]), int(facts.wrong_id[0])
    row = graph.writers.index("input")
    change = residual_parts(model, corrupt)[row] - residual_parts(model, clean)[row]
    for reader in readers:
        slopes = []
        for group in ("input", "a0.h0", "m0", "a1.h0", "m1"):
            for alpha in (1 / steps, 1):
                between, ends = held(parts, group, clean, corrupt, alpha), []
                for sign in (1, -1):
                    with displaced(parts, reader_key(reader), sign * STEP * change), between:
                        ends.append(metric(model, clean, answer, wrong))
                slopes.append(0 if silent and group == "input" else (ends[0] - ends[1]) / (2 * STEP))
        found = graph.scores[0, row, graph.readers.index(reader)]
        np.testing.assert_allclose(found, np.mean(slopes), rtol=3e-3, atol=3e-4)


def held(parts, writer, clean, corrupt, alpha):
    """Hold the writer's part (the input, all heads of the layer, the MLP) between its corrupt and clean output."""
    model, block = parts.model, parts.blocks[0 if writer == "input" else int(writer[1])]
    if writer == "input":
        return _Held(block.module, model, clean, corrupt, alpha, entering=True)
    if writer.startswith("a"):
        return _Held(block.o if block.attention_post_norm is None else block.attention_post_norm.module,
                     model, clean, corrupt, alpha)  # fmt: skip
    return _Held(block.mlp if block.mlp_post_norm is None else block.mlp_post_norm.module, model, clean, corrupt, alpha)


class _Held:
    def __init__(self, module, model, clean, corrupt, alpha, *, entering=False):
        self.module, self.entering = module, entering
        low, high = (self._seen(model, ids) for ids in (corrupt, clean))
        self.value = low + alpha * (high - low)

    def _seen(self, model, ids):
        seen = []
        if self.entering:
            handle = self.module.register_forward_pre_hook(
                lambda _m, args, kwargs: seen.append(args[0] if args else kwargs["hidden_states"]), with_kwargs=True
            )
        else:
            handle = self.module.register_forward_hook(lambda _m, _a, output: seen.append(output_tensor(output)))
        with torch.no_grad():
            model(input_ids=torch.tensor([ids]))
        handle.remove()
        return seen[0]

    def __enter__(self):
        if self.entering:
            self.handle = self.module.register_forward_pre_hook(
                lambda _m, args, kwargs: (
                    ((self.value, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": self.value})
                ),
                with_kwargs=True,
                prepend=True,
            )
        else:
            self.handle = self.module.register_forward_hook(lambda _m, _a, _output: self.value)

    def __exit__(self, *_):
        self.handle.remove()


@pytest.mark.parametrize("family", ["gpt2", "gemma2", "gpt_oss"])
def test_sums_over_readers_complete_a_writers_own_path(family):
    """Along the path of the last MLP's output the metric rises by what that MLP's edges sum to."""
    model, facts = build(family), random_facts(2)
    graph = circuits.attribute(model, facts, method="activations", ig_steps=12)
    exact = exact_nodes(model, facts)["m1"]
    found = graph.scores[:, graph.writers.index("m1")].sum(-1)
    np.testing.assert_allclose(found, exact, rtol=5e-3, atol=1e-3)


def test_batches_and_padding_change_nothing():
    model, facts = build("llama_gqa"), random_facts(5, ragged=True)
    for method in ("activations", "activations-eapig"):
        whole = circuits.attribute(model, facts, method=method, ig_steps=2, batch_size=5)
        single = circuits.attribute(model, facts, method=method, ig_steps=2, batch_size=1, chunk_mb=1e-6)
        np.testing.assert_allclose(single.scores, whole.scores, atol=1e-6 * np.abs(whole.scores).max())
