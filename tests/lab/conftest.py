from dataclasses import replace

import pytest

import circuits
import heads
from circuit_drift.lab import probes
from circuit_drift.lab.recipe import CPT_MIX, PRETRAIN_MIX, Recipe, Shape, Stage
from circuit_drift.lab.tokenizer import make_tokenizer
from circuit_drift.lab.world import make_world
from circuit_drift.measures.registry import build_measures
from circuit_drift.prompts import FactSource, NeedleSource, Prompts


@pytest.fixture(scope="session")
def tokenizer():
    return make_tokenizer()


@pytest.fixture(scope="session")
def world():
    return make_world(0)


@pytest.fixture(scope="session")
def tiny_recipe():
    return replace(
        Recipe(),
        shape=Shape(layers=1, width=32, heads=2, kv_heads=1, head_dim=16, mlp=32),
        tokens_per_step=256,
        rows=((0, 64), (6, 128)),
        stages=(
            Stage("pretrain", 0, 10, 1.0, PRETRAIN_MIX, (0, 10)),
            Stage("cpt", 1, 3, 0.5, CPT_MIX, (3,)),
            Stage("cpt", 2, 3, 0.5, CPT_MIX, (3,)),
        ),
    )


@pytest.fixture(scope="module")
def facts(world):
    return tuple(circuits.Fact(**record) for record in probes.fact_records(world, 0, per_class=4))


@pytest.fixture(scope="module")
def measures(facts):
    needles = tuple(
        heads.Needle(**{**r, "distractors": tuple(r["distractors"])}) for r in probes.needle_records(0, count=2)
    )
    needle_source = NeedleSource(needles, probes.haystack(0), 96, (0.2, 0.8), 0, "the lab")
    return build_measures(Prompts(needle_source, FactSource(facts, "the lab")))


@pytest.fixture(scope="module")
def one_thread():
    """Sums are taken in one order, so that two trainings can be compared bit for bit."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def plain(tokenizer, facts, one_thread, tmp_path_factory):
    """A small training run without probes."""
    from tests.lab.small_trainings import trainer_of

    trainer = trainer_of(tokenizer, facts, tmp_path_factory.mktemp("plain"))
    trainer.train()
    return trainer
