import pytest
import torch
from families import FAMILIES, OUTSIDE, build
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import DynamicCache
from transformers.pytorch_utils import Conv1D

from checkpoints.errors import BadPrompt, UnsupportedArchitecture
from heads.detect.retrieval import last_layer
from heads.rows.rows import RowRequest, capture_rows, editing

ROWS = torch.tensor([[30, 33, 39], [10, 20, 38]])


def groups(rows, keys):
    """Keys 5..8, key 0, and the keys before each row's own position modulo 4."""
    members = torch.stack([(keys >= 5) & (keys < 9), keys == 0], dim=-1)[None, None].expand(*rows.shape, -1, -1)
    return torch.cat([members, (keys % 4 == rows[..., None] % 4)[..., None]], dim=-1)


def capture(model, ids, rows=ROWS, *, top=3, key_block=4096, narrow=None, **inputs):
    layers = {}
    request = RowRequest(rows, groups, top, key_block, narrow=narrow)
    with torch.no_grad(), capture_rows(model, request, layers.__setitem__):
        logits = model(ids, **inputs).logits
    return layers, logits


def sequences(batch=2, size=40):
    return torch.randint(3, 64, (batch, size), generator=torch.Generator().manual_seed(0))


def assert_rows_equal_maps(stats, attention, rows=ROWS, tolerance=5e-6):
    """Every statistic against the same row cut out of the eager map [batch, heads, S, S]."""
    for b in range(len(rows)):
        maps = attention[b][:, rows[b]]
        members = groups(rows[b : b + 1], torch.arange(maps.shape[-1]))[0].float()
        assert torch.equal(stats.argmax[b], maps.argmax(dim=-1))
        torch.testing.assert_close(stats.peak[b], maps.amax(dim=-1), atol=tolerance, rtol=0)
        mass = torch.einsum("hrk,rkg->hrg", maps, members)
        torch.testing.assert_close(stats.mass[b], mass, atol=tolerance, rtol=0)
        torch.testing.assert_close(stats.sink[b], 1 - maps.sum(dim=-1), atol=tolerance, rtol=0)
        top = maps.topk(3, dim=-1)
        torch.testing.assert_close(stats.top_weight[b], top.values, atol=tolerance, rtol=0)
        share = maps / maps.sum(dim=-1, keepdim=True)
        entropy = -(share * share.clamp_min(1e-45).log()).sum(dim=-1)
        torch.testing.assert_close(stats.entropy[b], entropy, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", FAMILIES)
def test_rows_are_slices_of_the_eager_maps(name):
    model = build(name)
    ids = sequences()
    with torch.no_grad():
        eager = model(ids, output_attentions=True)
    layers, logits = capture(model, ids)
    assert sorted(layers) == [0, 1]
    torch.testing.assert_close(logits, eager.logits, atol=5e-5, rtol=0)
    for layer, attention in enumerate(eager.attentions):
        assert_rows_equal_maps(layers[layer], attention)


@pytest.mark.parametrize("name", ["llama", "mistral", "gemma2", "gpt_oss", "deepseek_v3", "gpt2"])
def test_left_padding_changes_nothing(name):
    model = build(name)
    ids = sequences()
    real = torch.ones_like(ids)
    real[1, :7] = 0
    inputs = {"attention_mask": real, "position_ids": (real.cumsum(-1) - 1).clamp_min(0)}
    with torch.no_grad():
        eager = model(ids, output_attentions=True, **inputs)
    layers, logits = capture(model, ids, **inputs)
    torch.testing.assert_close(logits[real.bool()], eager.logits[real.bool()], atol=5e-5, rtol=0)
    for layer, attention in enumerate(eager.attentions):
        assert_rows_equal_maps(layers[layer], attention)


@pytest.mark.parametrize("name", ["llama", "mistral", "gemma3", "gpt_oss"])
def test_a_cached_prefix_gives_the_same_rows(name):
    model = build(name)
    ids = sequences()
    whole, logits = capture(model, ids, use_cache=False)
    cache = DynamicCache(config=model.config)
    before, _ = capture(model, ids[:, :10], past_key_values=cache)
    after, rest = capture(model, ids[:, 10:], past_key_values=cache)
    assert not before
    torch.testing.assert_close(rest, logits[:, 10:], atol=5e-5, rtol=0)
    for layer, stats in whole.items():
        assert torch.equal(after[layer].argmax, stats.argmax)
        torch.testing.assert_close(after[layer].mass, stats.mass, atol=5e-6, rtol=0)


def at_rows(logits, rows=ROWS):
    return torch.stack([own[wanted] for own, wanted in zip(logits, rows, strict=True)])


@pytest.mark.parametrize("name", FAMILIES)
def test_a_narrow_last_layer_gives_the_same_at_the_rows_and_attends_nowhere_else(name):
    model, written = build(name), []
    whole, logits = capture(model, sequences())
    attention = (module for place, module in model.named_modules() if "attn" in place or "attention" in place)
    output = [m for m in attention if isinstance(m, torch.nn.Linear | Conv1D) and m.weight.shape[0] in (32, 48)][-1]
    hook = output.register_forward_pre_hook(lambda _module, args: written.append(args[0]))
    narrow, narrow_logits = capture(model, sequences(), narrow=1)
    hook.remove()
    torch.testing.assert_close(at_rows(narrow_logits), at_rows(logits), atol=5e-6, rtol=0)
    for layer, stats in whole.items():
        assert torch.equal(stats.peak, narrow[layer].peak)
    live = written[0].abs().sum(dim=-1) > 0
    assert torch.equal(live, torch.zeros_like(live).scatter(1, ROWS, True))


def test_only_a_last_layer_whose_parts_are_known_is_narrow():
    assert last_layer(build("gemma3")) == 1
    assert last_layer(build("llama4_text")) is None


@pytest.mark.parametrize("name", ["llama", "mistral", "gpt_oss"])
def test_a_narrow_last_layer_behind_a_prefix_and_padding(name):
    model, ids, rows = build(name), sequences(), torch.tensor([[33, 39]])
    mask = (torch.arange(40) >= 7).long()[None].expand(2, -1)
    padded = capture(model, ids, rows, attention_mask=mask)[1]
    narrow = capture(model, ids, rows, attention_mask=mask, narrow=1)[1]
    torch.testing.assert_close(narrow[:, rows[0]], padded[:, rows[0]], atol=5e-6, rtol=0)
    cache = DynamicCache()
    with torch.no_grad():
        model(ids[:, :25], past_key_values=cache, use_cache=True)
    rest = capture(model, ids[:, 25:], rows, past_key_values=cache, use_cache=True, narrow=1)[1]
    torch.testing.assert_close(rest[:, rows[0] - 25], capture(model, ids, rows)[1][:, rows[0]], atol=5e-5, rtol=0)


def test_a_narrow_last_layer_is_widened_where_heads_are_edited():
    class Nothing:
        def query(self, call):
            return call.query

        def output(self, _call, output):
            return output

    model, ids = build("llama"), sequences()
    with editing(Nothing()):
        edited = capture(model, ids, narrow=1)[1]
    assert torch.equal(edited, capture(model, ids)[1])


@pytest.mark.parametrize("block", [1, 7, 40])
@pytest.mark.parametrize("name", ["llama", "gpt_oss"])
def test_the_key_block_changes_memory_and_not_results(name, block):
    model = build(name)
    whole, _ = capture(model, sequences())
    cut, _ = capture(model, sequences(), key_block=block)
    for layer, stats in whole.items():
        assert torch.equal(cut[layer].argmax, stats.argmax)
        assert torch.equal(cut[layer].reach, stats.reach)
        for name_ in ("peak", "mass", "entropy", "top_weight"):
            torch.testing.assert_close(getattr(cut[layer], name_), getattr(stats, name_), atol=2e-5, rtol=0)


def test_masses_add_up():
    def everything(rows, keys):
        return torch.stack([keys < 9, keys >= 9], dim=-1)[None, None]

    layers = {}
    with (
        torch.no_grad(),
        capture_rows(build_model := build("gpt_oss"), RowRequest(ROWS, everything), layers.__setitem__),
    ):
        build_model(sequences())
    for stats in layers.values():
        torch.testing.assert_close(stats.mass.sum(-1) + stats.sink, torch.ones_like(stats.sink))


@pytest.mark.parametrize("name", OUTSIDE)
def test_families_outside_the_interface_are_refused(name):
    with pytest.raises(UnsupportedArchitecture, match="attention interface"):
        capture(build(name), sequences())


def test_the_attention_implementation_comes_back_after_an_error():
    model = build("llama")
    with (
        pytest.raises(RuntimeError, match="stop"),
        capture_rows(model, RowRequest(ROWS, groups), lambda layer, stats: None),
    ):
        raise RuntimeError("stop")
    assert model.config._attn_implementation == "eager"
    with torch.no_grad():
        assert model(sequences(), output_attentions=True).attentions[0] is not None


def test_rows_in_two_pieces_are_refused():
    model = build("llama")
    with pytest.raises(BadPrompt, match="two pieces"):
        capture(model, sequences()[:, :25])


class Largest(TorchDispatchMode):
    """The largest tensor any operation returns."""

    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(tensor, torch.Tensor):
                self.numel = max(self.numel, tensor.numel())
        return out


@pytest.mark.parametrize("name", ["llama", "mistral"])
def test_no_tensor_of_size_s_by_s_ever_exists(name, monkeypatch):
    monkeypatch.setattr("heads.rows.fused.BLOCK_ELEMENTS", 2**16)
    size = 2048
    model = build(name, max_position_embeddings=size)
    rows = torch.arange(size - 8, size)[None]
    with Largest() as largest:
        capture(model, sequences(1, size), rows, key_block=256, use_cache=False, logits_to_keep=1)
    assert largest.numel < size * size / 16
