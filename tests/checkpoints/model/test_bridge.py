"""Bridges: the model's logits under TransformerLens' hook names, right for every checkpoint that the stream puts in."""

import copy
import subprocess
import sys
import weakref

import pytest
import torch
from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module
from transformers import AutoModelForCausalLM, DeepseekV3Config, HeliumConfig, Phi3Config, PreTrainedTokenizerFast

from checkpoints import DriftError, open_series
from checkpoints.errors import UnsupportedArchitecture
from checkpoints.model.bridge import build_bridge
from tests.checkpoints.architectures import GQA, SMALL, tiny_configs
from tests.checkpoints.conftest import save_model, save_tokenizer

IDS = torch.tensor([[1, 2, 3, 4, 5, 6, 7, 8], [9, 10, 11, 12, 13, 14, 15, 16]])
EAGER_ONLY = {"gemma2", "gpt_oss"}  # transformers refuses SDPA for these
PHI3 = {key: value for key, value in GQA.items() if key != "head_dim"}


def configs():
    return tiny_configs() | {"phi3": Phi3Config(**PHI3)}


def attention_of(name):
    return "eager" if name in EAGER_ONLY else "sdpa"


def build(name, **options):
    """A frozen model with weights large enough to tell one checkpoint's logits from another's."""
    config = configs()[name]
    config.initializer_range = 0.4
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, attn_implementation=attention_of(name), **options)
    return model.eval().requires_grad_(False)


def change(model, how):
    """Other weights in the same parameters."""
    for parameter in model.parameters():
        new = parameter.detach() * 0.9 + 0.1 * torch.randn_like(parameter)
        if how == "pointer":
            parameter.data = new
        else:
            with torch.no_grad():
                parameter.copy_(new)


def worst(bridge, model, ids=IDS):
    with torch.no_grad():
        expected = model(ids).logits
        return float((bridge(ids) - expected).abs().max() / expected.std())


@pytest.fixture(scope="module")
def architecture_runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("bridges")
    for name, config in configs().items():
        config.initializer_range = 0.4
        for step in range(2):
            save_model(root / name / f"checkpoint-{step}", config, seed=step)
    return root


@pytest.mark.parametrize("name", configs())
def test_a_bridge_gives_the_logits_of_plain_transformers_for_every_checkpoint_of_a_stream(architecture_runs, name):
    z, bridges, logits = [], set(), []
    for loaded in open_series(architecture_runs / name).models(attention=attention_of(name), reuse=True):
        native, stock = loaded.bridge(), loaded.bridge("stock")
        if not z:
            native.add_hook(
                "blocks.1.attn.hook_z", lambda found, hook: z.append(found.detach().clone()), is_permanent=True
            )
        fresh = AutoModelForCausalLM.from_pretrained(loaded.checkpoint.path, attn_implementation=attention_of(name))
        with torch.no_grad():
            expected = fresh(IDS, output_hidden_states=True)
        for bridge in (native, stock):
            found, cache = bridge.run_with_cache(IDS, names_filter=["blocks.1.hook_resid_pre", "blocks.1.attn.hook_z"])
            assert (found - expected.logits).abs().max() < 2e-5 * expected.logits.std()
            stream = cache["blocks.1.hook_resid_pre"]
            assert torch.allclose(stream, expected.hidden_states[1], rtol=1e-4, atol=1e-4 * float(stream.std()))
            assert cache["blocks.1.attn.hook_z"].shape == (2, 8, 4, 8)
            assert torch.allclose(cache["blocks.1.attn.hook_z"], z[-1], atol=1e-4 * float(z[-1].std()))
        assert {id(p) for p in native.parameters()} == {id(p) for p in loaded.model.parameters()}
        bridges.add((id(native), id(stock)))
        logits.append(expected.logits)
    assert len(bridges) == 1
    assert len(z) == 2
    assert (logits[0] - logits[1]).abs().max() > 0.5 * logits[0].std()


@pytest.mark.parametrize("attention", ["native", "stock"])
@pytest.mark.parametrize("how", ["pointer", "copy"])
@pytest.mark.parametrize("name", ["gpt2", "gpt_neox", "phi3", "llama_tied"])
def test_weights_put_into_the_model_by_hand_are_the_bridges(name, how, attention):
    model = build(name)
    bridge = build_bridge(model, attention=attention)
    change(model, how)
    assert worst(bridge, model) < 2e-5
    if attention == "stock":
        assert not any(module.training for module in bridge.modules())
        change(model, how)
        bridge.refresh()
        q = bridge.blocks[0].attn.q.original_component.weight
        assert any(torch.isin(q, parameter).all() for parameter in model.parameters())


@pytest.mark.parametrize("how", ["pointer", "copy"])
def test_a_bridge_that_follows_nothing_is_stale(how):
    """What the tests above would see if a bridge of GPT-NeoX did not follow its model."""
    model = build("gpt_neox")
    twin = copy.deepcopy(model, {id(parameter): parameter for parameter in model.parameters()})
    bridge = build_bridge_from_module(twin, "GPTNeoXForCausalLM", hf_config=twin.config)
    assert worst(bridge, model) < 2e-5
    change(model, how)
    assert worst(bridge, model) > 0.1


@pytest.mark.parametrize("name", ["olmo2", "gpt_neox", "mixtral"])
def test_half_precision_is_the_models_own(name):
    model = build(name, dtype=torch.bfloat16)
    assert worst(build_bridge(model), model) == 0


@pytest.mark.parametrize("attention", ["native", "stock"])
@pytest.mark.parametrize("name", ["gpt2", "phi3", "gemma3", "mixtral"])
def test_the_model_stays_as_it_was(name, attention):
    model = build(name)
    names, kinds = list(model.state_dict()), [type(module) for module in model.modules()]
    tensors = {key: (id(p), p.data_ptr(), p.requires_grad) for key, p in model.named_parameters()}
    logits, implementation = model(IDS).logits, model.config._attn_implementation
    bridge = build_bridge(model, attention=attention)
    bridge.run_with_cache(IDS)
    assert list(model.state_dict()) == names
    assert [type(module) for module in model.modules()] == kinds
    assert {key: (id(p), p.data_ptr(), p.requires_grad) for key, p in model.named_parameters()} == tensors
    assert model.config._attn_implementation == implementation
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert torch.equal(model(IDS).logits, logits)


def bytes_of(*modules):
    storages = {p.untyped_storage().data_ptr(): p.untyped_storage().nbytes() for m in modules for p in m.parameters()}
    return sum(storages.values())


def test_a_stock_bridge_copies_no_more_than_the_fused_projections():
    model = build("gpt_neox")
    fused = sum(p.numel() * 4 for key, p in model.named_parameters() if "query_key_value" in key)
    assert bytes_of(model, build_bridge(model)) == bytes_of(model)
    assert bytes_of(model, build_bridge(model, attention="stock")) == bytes_of(model) + fused


def test_hooks_on_the_model_do_not_come_along():
    model = build("llama")
    handle = model.lm_head.register_forward_hook(lambda _m, _a, logits: logits * 0)
    with pytest.raises(UnsupportedArchitecture, match="gives other logits than the model"):
        build_bridge(model)
    handle.remove()
    assert worst(build_bridge(model), model) == 0


def test_an_intervention_through_the_bridge_is_the_one_by_hand():
    model = build("llama")

    def without_head(z, hook):
        z[:, :, 2] = 0
        return z

    found = build_bridge(model).run_with_hooks(IDS, fwd_hooks=[("blocks.0.attn.hook_z", without_head)])
    output = model.model.layers[0].self_attn.o_proj
    keep = torch.ones(32).index_fill(0, torch.arange(16, 24), 0)
    handle = output.register_forward_pre_hook(lambda _m, args: (args[0] * keep,))
    expected = model(IDS).logits
    handle.remove()
    assert torch.equal(found, expected)
    assert (expected - model(IDS).logits).abs().max() > 0.1


def test_backward_hooks_fire_though_the_weights_are_frozen():
    model = build("gpt_neox")
    gradients = {}

    def keep(gradient, hook):
        gradients[hook.name] = gradient.clone()

    bridge = build_bridge(model)
    with bridge.hooks(bwd_hooks=[("blocks.1.attn.hook_z", keep), ("blocks.1.hook_resid_pre", keep)]):
        bridge(IDS)[:, -1, 5].sum().backward()
    entering = []
    handle = model.gpt_neox.layers[1].register_forward_pre_hook(
        lambda _m, args: (entering.append(args[0].detach().requires_grad_()) or entering[0], *args[1:])
    )
    (expected,) = torch.autograd.grad(model(IDS).logits[:, -1, 5].sum(), entering)
    handle.remove()
    z, stream = sorted(gradients.values(), key=lambda found: -found.ndim)
    assert z.shape == (2, 8, 4, 8)
    assert torch.allclose(stream, expected, rtol=1e-4, atol=1e-6)
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("name", ["llama", "gpt_neox", "gpt2"])
def test_patterns_come_from_a_stock_bridge_and_are_refused_in_a_native_one(name):
    model = build(name)
    _, cache = build_bridge(model, attention="stock").run_with_cache(IDS)
    model.set_attn_implementation("eager")
    expected = model(IDS, output_attentions=True).attentions
    model.set_attn_implementation("sdpa")
    assert torch.allclose(cache["blocks.1.attn.hook_pattern"], expected[1], atol=1e-5)
    bridge = build_bridge(model)
    for ask in (
        lambda: bridge.add_hook("blocks.1.attn.hook_pattern", print),
        lambda: bridge.run_with_hooks(IDS, fwd_hooks=[("blocks.1.attn.hook_pattern", print)]),
        lambda: bridge.run_with_cache(IDS, names_filter="blocks.1.attn.hook_pattern"),
    ):
        with pytest.raises(NotImplementedError, match=r"never fires in this bridge.*attention='stock'"):
            ask()
    with pytest.raises(NotImplementedError, match="use_split_qkv_input"):
        bridge.set_use_split_qkv_input(True)


def test_what_would_rewrite_or_move_shared_weights_is_refused():
    model = build("llama")
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    bridge = build_bridge(model)
    for ask in (bridge.enable_compatibility_mode, bridge.process_weights):
        with pytest.raises(DriftError, match="rewrites weights that this bridge shares"):
            ask()
    for ask in (bridge.half, bridge.double, lambda: bridge.to("meta")):
        with pytest.raises(DriftError, match=r"stays where its model is \(torch.float32 on cpu\)"):
            ask()
    bridge.to("cpu", print_details=False)
    bridge.enable_compatibility_mode(no_processing=True)
    assert worst(bridge, model) < 2e-5
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())


def test_what_transformer_lens_cannot_treat_is_refused_with_the_reason():
    helium = AutoModelForCausalLM.from_config(HeliumConfig(**GQA)).eval()
    with pytest.raises(UnsupportedArchitecture, match="Unsupported architecture: HeliumForCausalLM"):
        build_bridge(helium)
    latent = {"q_lora_rank": 16, "kv_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 12}
    experts = {"n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 2, "topk_group": 1}
    deepseek = AutoModelForCausalLM.from_config(
        DeepseekV3Config(**SMALL, **latent, **experts, num_key_value_heads=4, moe_intermediate_size=16)
    ).eval()
    with pytest.raises(UnsupportedArchitecture, match="wrong heads"):
        build_bridge(deepseek)
    model = build("llama")
    with pytest.raises(DriftError, match="unknown attention of a bridge 'eager'; choose from native, stock"):
        build_bridge(model, attention="eager")
    with pytest.raises(DriftError, match=r"call model.eval\(\) first"):
        build_bridge(model.train())


def test_a_tokenizer_is_copied_and_gives_the_methods_that_take_text(tmp_path):
    tokenizer = PreTrainedTokenizerFast.from_pretrained(save_tokenizer(tmp_path))
    bridge = build_bridge(build("gpt2"), tokenizer=tokenizer)
    assert bridge.to_tokens("b c a", prepend_bos=False).tolist() == [[2, 3, 1]]
    assert bridge.tokenizer is not tokenizer
    assert tokenizer.pad_token is None


def test_a_released_model_takes_its_bridges_with_it(architecture_runs):
    with open_series(architecture_runs / "llama")[0].open() as loaded:
        alive = weakref.ref(loaded.bridge()), weakref.ref(loaded.model.lm_head.weight)
        assert loaded.bridge() is alive[0]()
    assert [reference() for reference in alive] == [None, None]
    with pytest.raises(DriftError, match="let go of"):
        loaded.bridge()


def test_a_bridge_of_a_model_that_was_taken_apart_is_built_anew(architecture_runs):
    loaded = open_series(architecture_runs / "llama")[0].load()
    before = loaded.bridge()
    loaded.model.lm_head.weight = torch.nn.Parameter(loaded.model.lm_head.weight * 2, requires_grad=False)
    assert loaded.bridge() is not before
    assert worst(loaded.bridge(), loaded.model) == 0


def test_transformer_lens_is_imported_only_for_a_bridge():
    code = "import sys, checkpoints.loading.load, checkpoints.loading.stream; print('transformer_lens' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
