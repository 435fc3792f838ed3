"""The capability table says what is so."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from checkpoints import open_checkpoint, open_series
from checkpoints.errors import UnsupportedArchitecture
from checkpoints.loading.stream import _Live
from checkpoints.model.architectures import CAPABILITIES, capabilities
from checkpoints.model.bridge import build_bridge
from circuit_drift.measures.stored import store_key
from tests.checkpoints.architectures import tiny_configs
from tests.checkpoints.conftest import save_model

CAPABILITIES_BY_TYPE = {row.model_type: row for row in CAPABILITIES}
CONFIGS = {config.model_type: config for config in tiny_configs().values()}


def test_the_table_names_the_architectures_that_the_tests_prove():
    assert [row.model_type for row in CAPABILITIES] == list(CONFIGS)


@pytest.mark.parametrize("row", CAPABILITIES, ids=lambda row: row.model_type)
def test_each_row_is_so(row, tmp_path):
    checkpoint = open_checkpoint(save_model(tmp_path / "checkpoint-1", CONFIGS[row.model_type]))
    for attention in ("sdpa", "eager"):
        if attention in row.attention:
            loaded = checkpoint.load(attention=attention)
            assert ("in place" if _Live(loaded).direct else "through a fresh load") == row.reuse
        else:
            with pytest.raises(UnsupportedArchitecture):
                checkpoint.load(attention=attention)


@pytest.mark.parametrize("model_type", ["llama", "gemma2", "gpt_oss"])
def test_the_default_attention_runs_on_every_row_and_says_when_it_is_eager(model_type, tmp_path, caplog):
    for step in range(2):
        save_model(tmp_path / "run" / f"checkpoint-{step}", CONFIGS[model_type], seed=step)
    series = open_series(tmp_path / "run")
    used = [loaded.attention for loaded in series.models(reuse=True)]
    eager = CAPABILITIES_BY_TYPE[model_type].attention == ("eager",)
    assert used == ["eager" if eager else "sdpa"] * 2
    assert [record.message for record in caplog.records] == (
        ["checkpoint-0: its architecture has no SDPA, so attention is eager"] if eager else []
    )
    measure = Keyed()
    assert store_key(series[0], measure, "float32") == store_key(series[0], measure, "float32", used[0])
    assert (store_key(series[0], measure, "float32", "sdpa") == store_key(series[0], measure, "float32")) is not eager


class Keyed:
    """A measure of which only the key is asked."""

    name, of_weights = "keyed", True

    def key_params(self):
        return {"version": 1}


@pytest.mark.parametrize("row", CAPABILITIES, ids=lambda row: row.model_type)
def test_each_bridge_fires_what_its_row_says(row):
    config = CONFIGS[row.model_type]
    model = AutoModelForCausalLM.from_config(config, attn_implementation=row.attention[0]).eval()
    native, stock = build_bridge(model), build_bridge(model, attention="stock")
    ids = torch.arange(6)[None]
    for letter in "qkvz":
        name = f"blocks.1.attn.hook_{letter}"
        if letter in row.bridge:
            assert native.run_with_cache(ids, names_filter=name)[1][name].ndim == 4
        else:
            assert name not in native.hook_dict
        assert stock.run_with_cache(ids, names_filter=name)[1][name].ndim == 4
    pattern = stock.run_with_cache(ids, names_filter="blocks.1.attn.hook_pattern")[1]["blocks.1.attn.hook_pattern"]
    sums = pattern.sum(-1)
    assert torch.all(sums < 1.0001) if row.model_type == "gpt_oss" else torch.allclose(sums, torch.ones(1, 4, 6))


def test_the_table_prints():
    table = capabilities()
    lines = str(table).splitlines()
    assert len(lines) == len(CAPABILITIES) + 1
    assert lines[0].split()[:2] == ["architecture", "series"]
    assert "<td>Pythia</td>" in table._repr_html_()
    assert list(table.to_frame()["architecture"]) == [row.model_type for row in CAPABILITIES]
