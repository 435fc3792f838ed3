"""Where a model lies and how it runs, as one value or field by field."""

import pytest
import torch

from checkpoints import DriftError, Placement


def test_fields_given_alone_take_the_place_of_the_wholes():
    whole = Placement(device="cpu", dtype="bfloat16", attention="eager")
    assert Placement.of(None, {}) == Placement("auto", "float32", "auto", None)
    assert Placement.of(None, {}, device="cpu").device == "cpu"
    assert Placement.of(whole, {}, device="cuda") == whole
    assert Placement.of(whole, {"dtype": "float16"}) == Placement("cpu", "float16", "eager", None)
    assert Placement.of(None, {"device": "cuda:1", "device_map": "auto"}, device="cpu") == Placement(
        "cuda:1", device_map="auto"
    )


def test_what_is_no_placement_is_refused_with_the_way_out():
    with pytest.raises(DriftError, match="unknown dtype 'int4'; choose from float32, bfloat16, float16, nf4, int8"):
        Placement(dtype="int4")
    with pytest.raises(DriftError, match="got 'cuda'; write device='cuda'"):
        Placement.of("cuda", {})
    told = "'devcie' is no argument here, and a placement has none of that name; it has device, dtype, attention, "
    with pytest.raises(DriftError, match=f"{told}device_map"):
        Placement.of(None, {"devcie": "cpu"})


@pytest.mark.parametrize("dtype", ["nf4", "int8"])
def test_packed_weights_compute_in_bfloat16(dtype):
    assert (Placement(dtype=dtype).packed, Placement(dtype=dtype).floats) == (True, "bfloat16")
    assert (Placement(dtype="float16").packed, Placement(dtype="float16").floats) == (False, "float16")


def test_auto_is_the_accelerator_of_this_machine(monkeypatch: pytest.MonkeyPatch):
    for there, device in ((True, "cuda"), (False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        assert Placement().here == device
        assert Placement(device="meta").here == "meta"
