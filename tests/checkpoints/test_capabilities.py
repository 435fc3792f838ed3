"""The capability table says what is so."""

import pytest

from checkpoints import UnsupportedArchitecture, capabilities, open_checkpoint
from checkpoints.capabilities import CAPABILITIES
from checkpoints.stream import _Live

from .architectures import tiny_configs
from .conftest import save_model

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


def test_the_table_prints():
    table = capabilities()
    lines = str(table).splitlines()
    assert len(lines) == len(CAPABILITIES) + 1
    assert lines[0].split()[:2] == ["architecture", "series"]
    assert "<td>Pythia</td>" in table._repr_html_()
    assert list(table.to_frame()["architecture"]) == [row.model_type for row in CAPABILITIES]
