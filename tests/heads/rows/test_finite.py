"""A model whose logits overflow is refused by every measure, not scored as one that answers wrongly."""

import pytest
import torch

import circuits
import heads
from checkpoints.errors import CorruptWeights
from circuit_drift.behaviour.gauges import answers, logits_from
from circuit_drift.behaviour.generation import write_answers
from circuit_drift.behaviour.sft import answered
from circuits.attribution.nodes import attribute_nodes
from circuits.intervention.exact import exact_edges
from circuits.roles.measure import head_roles
from heads.detect.generation import generate
from heads.detect.repeats import repeat_scores
from heads.detect.retrieval import answer_nll
from heads.niah.measure import _document_nll
from heads.prompts.needles import NeedleSet
from tests.heads.rows.test_lengths import PROMPTS, build, facts_of, ids_of

NEEDLES = NeedleSet(PROMPTS[:1], (), 20)
FACTS = facts_of((12, 12))
MEASURES = {
    "retrieval": lambda model: heads.score(model, NEEDLES),
    "retrieval, generated": lambda model: heads.score(model, NEEDLES, mode="generate_then_score"),
    "repeats": lambda model: repeat_scores(model, block=4, repeats=2, count=1, tokens=range(3, 60)),
    "ablation": lambda model: heads.ablate(model, NEEDLES, ["a0.h0"]),
    "answers": lambda model: answer_nll(model, PROMPTS[:1]),
    "generation": lambda model: generate(model, ids_of(12, 1)),
    "plain text": lambda model: _document_nll(model, ids_of(12, 1), 8),
    "edges": lambda model: circuits.attribute(model, FACTS),
    "nodes": lambda model: attribute_nodes(model, FACTS),
    "roles": lambda model: head_roles(model, FACTS),
    "exact edges": lambda model: exact_edges(model, FACTS, edges=["m0->logits"]),
    "facts": lambda model: answers(model, FACTS),
    "written": lambda model: write_answers(model, [ids_of(12, 1)], new_tokens=2),
    "fine-tuning": lambda model: answered(model, PROMPTS[:1]),
    "documents": lambda model: logits_from(model, torch.tensor([ids_of(12, 1)]), 3),
}


@pytest.mark.parametrize("value", [3e38, float("nan")])
@pytest.mark.parametrize("measure", MEASURES.values(), ids=MEASURES)
def test_infinite_logits_are_refused(measure, value):
    model = build("longrope", positions=96)
    with torch.no_grad():
        model.lm_head.weight[7] = value
    with pytest.raises(CorruptWeights, match=r"logits \(float32\) are not finite"):
        measure(model)
