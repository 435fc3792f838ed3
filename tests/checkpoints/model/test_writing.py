"""Many prompts are continued in one batch as each is alone, whatever the architecture."""

import pytest
import torch

from checkpoints.errors import BadPrompt
from checkpoints.model.writing import batches, greedy, keeps_keys, takes_padding
from tests.circuits.circuit_families import FAMILIES, build

NEW = 5


def prompts_of(count=7, *, shared=6, seed=0):
    """Prompts of 8 to 11 tokens that begin alike."""
    generator = torch.Generator().manual_seed(seed)
    front = torch.randint(3, 40, (shared,), generator=generator).tolist()
    return [[*front, *torch.randint(3, 40, (2 + i % 4,), generator=generator).tolist()] for i in range(count)]


def alone(model, prompt, new, stops=()):
    """The whole sequence again for every token."""
    ids = list(prompt)
    for _ in range(new):
        with torch.no_grad():
            ids.append(int(model(torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
        if ids[-1] in stops:
            break
    return tuple(ids[len(prompt) :])


def together(model, prompts, stops=()):
    found = {}
    for places in batches(model, prompts, new_tokens=NEW, size=5):
        written = greedy(model, [prompts[place] for place in places], new_tokens=NEW, stops=stops)
        found |= zip(places, written, strict=True)
    return [found[place] for place in range(len(prompts))]


@pytest.mark.parametrize("name", FAMILIES)
def test_a_batch_is_written_as_each_prompt_alone(name):
    model, prompts = build(name), prompts_of()
    wanted = [alone(model, prompt, NEW) for prompt in prompts]
    assert together(model, prompts) == wanted
    stop = wanted[2][1]
    assert together(model, prompts, {stop}) == [alone(model, prompt, NEW, {stop}) for prompt in prompts]


def test_a_window_is_not_padded_beyond():
    model = build("mistral", sliding_window=12)
    assert takes_padding(model, 12) and not takes_padding(model, 13)
    assert takes_padding(build("llama_gqa"), 10_000)
    prompts = [[1, 2], [3], [4, 5], [6]]
    assert list(batches(model, prompts, new_tokens=10, size=8)) == [[1, 3, 0, 2]]
    assert list(batches(model, prompts, new_tokens=11, size=8)) == [[1, 3], [0, 2]]
    assert list(batches(model, [], new_tokens=1, size=8)) == []
    with pytest.raises(BadPrompt, match="cannot write after prompts of 1 to 2 tokens in one batch"):
        greedy(model, prompts, new_tokens=11)


def test_what_all_rows_share_is_read_once_and_rows_that_stopped_leave():
    model, prompts = build("llama_gqa"), prompts_of(6, shared=12)
    wanted = [alone(model, prompt, NEW) for prompt in prompts]
    read = []
    hook = model.model.embed_tokens.register_forward_pre_hook(lambda _, inputs: read.append(tuple(inputs[0].shape)))
    greedy(model, prompts, new_tokens=NEW)
    assert read == [(1, 12), (6, 5), *[(6, 1)] * (NEW - 1)]
    read.clear()
    first = {row[0] for row in wanted[:3]}
    found = greedy(model, prompts, new_tokens=NEW, stops=first)
    hook.remove()
    going = [sum(len(row) > step for row in found) for step in range(1, NEW)]
    assert read[2:] == [(count, 1) for count in going if count]
    assert going[0] <= 3


def test_models_without_keys_or_with_none_to_write():
    assert keeps_keys(build("llama_gqa"))
    assert greedy(build("llama_gqa"), [[1, 2], [3]], new_tokens=0) == [(), ()]
