from dataclasses import replace

import pytest

from circuit_drift.lab.recipe import CPT_MIX, PRETRAIN_MIX, Recipe, Shape, Stage
from circuit_drift.lab.tokenizer import make_tokenizer
from circuit_drift.lab.world import make_world


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
