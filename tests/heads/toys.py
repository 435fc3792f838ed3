"""Tokenizers, prompts and planted heads that the tests share."""

import string

import numpy as np
import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from tokenizers.processors import TemplateProcessing
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from heads import Scores
from heads.prompts.needles import NeedlePrompt, NeedleSet
from heads.prompts.pools import default_haystack, default_needles
from heads.prompts.pools import words as words_of_all_pools

SPECIAL = ["<pad>", "<bos>", "<eos>", "<unk>"]


def train_tokenizers():
    text = [default_haystack(0, sentences=200)]
    text += [" ".join(map(str, pool)) for pool in words_of_all_pools().values()]
    text += [" ".join(string.ascii_letters + string.digits + string.punctuation)]
    text += [f"{n.needle} {n.question} {n.answer}" for n in default_needles(0, count=20)]
    words = Tokenizer(models.WordLevel(unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    bpe = Tokenizer(models.BPE(unk_token="<unk>"))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    characters = Tokenizer(models.WordLevel(unk_token="<unk>"))
    characters.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    characters.decoder = decoders.Fuse()
    word_trainer = trainers.WordLevelTrainer(special_tokens=SPECIAL, show_progress=False)
    words.train_from_iterator(text, word_trainer)
    characters.train_from_iterator(text, word_trainer)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        text,
        trainers.BpeTrainer(vocab_size=900, special_tokens=SPECIAL, show_progress=False, initial_alphabet=alphabet),
    )
    return {name: wrap(t) for name, t in (("words", words), ("bpe", bpe), ("characters", characters))}


def wrap(tokenizer):
    bos = tokenizer.token_to_id("<bos>")
    tokenizer.post_processor = TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", bos)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>", unk_token="<unk>"
    )


def random_prompts(*, vocabulary=9, size=60, answer=12, count=4, seed=0, depths=(0.1, 0.5, 0.9)):
    """Random token sequences whose answer repeats a span of them."""
    draw = np.random.default_rng(seed)
    prompts = []
    for index in range(count):
        for depth in depths:
            ids = draw.integers(3, vocabulary, size).tolist()
            start = 1 + round(depth * (size - answer - 2))
            span = (start, start + answer)
            whole = (1, *ids[1:], *ids[slice(*span)])
            prompts.append(NeedlePrompt(whole, size, (span,), (span,), (), (size - 8, size), depth, depth, index))
    return NeedleSet(tuple(prompts), (), size)


def shared_haystack(*, vocabulary=40, size=60, answer=10, count=2, seed=0, depths=(0.1, 0.5, 0.9)):
    """Needles at several depths of one haystack each: prompts that share a prefix."""
    draw = np.random.default_rng(seed)
    prompts = []
    for index in range(count):
        hay, hidden = (
            draw.integers(3, vocabulary, size - answer).tolist(),
            draw.integers(3, vocabulary, answer).tolist(),
        )
        for depth in depths:
            start = 1 + round(depth * (size - answer - 8))
            span = (start, start + answer)
            whole = (1, *hay[1:start], *hidden, *hay[start:], *hidden)
            prompts.append(NeedlePrompt(whole, size, (span,), (span,), (), (size - 6, size), depth, depth, index))
    return NeedleSet(tuple(prompts), (), size)


def planted_copier(prompt):
    """One GPT-2 layer: head 0 attends from each answer row to the token it must predict, head 1 to all alike.

    Positions are one-hot in the first half of the residual stream, and the query matrix of head 0 sends the row
    before answer token t to position span_start + t.
    """
    size = 64
    config = GPT2Config(vocab_size=16, n_positions=size, n_embd=2 * size, n_head=2, n_layer=1)
    model = GPT2LMHeadModel._from_config(config, attn_implementation="eager").eval()
    attention = model.transformer.h[0].attn.c_attn
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.transformer.h[0].ln_1.weight.fill_(1.0)
        model.transformer.wpe.weight[:, :size] = torch.eye(size)
        attention.weight[:size, 2 * size : 3 * size] = torch.eye(size)
        for t in range(len(prompt.answer)):
            attention.weight[prompt.answer_start - 1 + t, prompt.answer_span[0] + t] = 10.0
    return model


def planted_retriever(prompts):
    """The same head on several prompts of one layout, and its value and output matrices copy the token it reads.

    Tokens are one-hot in 16 further dimensions and the unembedding reads those: with head 0 the model answers right.
    """
    model = planted_copier(prompts[0])
    attention, tokens = model.transformer.h[0].attn, slice(64, 80)
    with torch.no_grad():
        model.transformer.wte.weight[:, tokens] = torch.eye(16)
        attention.c_attn.weight[tokens, 256:272] = torch.eye(16)
        attention.c_proj.weight[:16, tokens] = 10 * torch.eye(16)
        model.transformer.ln_f.weight.fill_(1.0)
    return model


def fake_scores(copy, *, nll=None, correct=None, needle=None, prompts="same", length=100):
    """A stored result around an [N, L, H] array."""
    copy = np.asarray(copy, dtype=np.float32)
    n = len(copy)
    return Scores(
        detectors={"copy": copy, "needle_mass": copy / 2},
        nll=np.full((n, 3), 1.0, dtype=np.float32) if nll is None else np.asarray(nll, dtype=np.float32),
        correct=np.ones(n, dtype=bool) if correct is None else np.asarray(correct),
        depth=np.linspace(0, 1, n, dtype=np.float32),
        needle=np.arange(n) if needle is None else np.asarray(needle),
        accepted=np.ones(n, dtype=bool) if correct is None else np.asarray(correct),
        kv_heads=1,
        meta={"prompts": prompts, "length": length, "chance": 1 / length},
    )


def keyed_prompts(*, count=20, size=48, answer=10, depths=(0.1, 0.5, 0.9), seed=0):
    """A key and ten tokens after it, hidden in other tokens; the question is the key: what followed it?

    Tokens 3 to 19 are haystack, 20 to 39 keys and answers, each at most once in a prompt.
    """
    draw = np.random.default_rng(seed)
    prompts = []
    for index in range(count):
        for depth in depths:
            key, *gold = (draw.permutation(20)[: answer + 1] + 20).tolist()
            hay = draw.integers(3, 20, size - answer - 3).tolist()
            at = round(depth * len(hay))
            ids = (1, *hay[:at], key, *gold, *hay[at:], key, *gold)
            span = (at + 2, at + 2 + answer)
            needle = (at + 1, at + 2 + answer)
            prompts.append(NeedlePrompt(ids, size, (span,), (needle,), (), (size - 1, size), depth, depth, index))
    return NeedleSet(tuple(prompts), (), size)


def planted_induction(*, sharpness, noise=0.08, seed=0):
    """Two GPT-2 layers of four heads with an induction circuit: a0.h0 looks one back, a1.h1 and a1.h2 copy.

    The residual stream has one-hot slots for position, token, token before, and what to say next. ``sharpness`` scales
    the match between the token at hand and the tokens before other positions, against noise that does not grow with
    it: blunt heads look at the right key most of the time with little of their weight, sharp ones always with all.
    """
    generator = torch.Generator().manual_seed(seed)
    sizes = {"vocab_size": 40, "n_positions": 64, "n_embd": 256, "n_head": 4, "n_layer": 2}
    config = GPT2Config(**sizes, bos_token_id=1, eos_token_id=2, tie_word_embeddings=False)
    model = GPT2LMHeadModel._from_config(config, attn_implementation="eager").eval()
    position, token, before, said = slice(0, 64), slice(64, 104), slice(104, 144), slice(144, 184)
    first, second = (block.attn for block in model.transformer.h)
    eye = torch.eye(40)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        for norm in (*(block.ln_1 for block in model.transformer.h), model.transformer.ln_f):
            norm.weight.fill_(1.0)
        model.transformer.wpe.weight[:, position] = torch.eye(64)
        model.transformer.wte.weight[:, token] = eye
        model.lm_head.weight[:, said] = 2.0 * eye
        first.c_attn.weight[position, 0:64] = torch.eye(64).roll(-1, 1) * 4.0
        first.c_attn.weight[position, 256:320] = torch.eye(64)
        first.c_attn.weight[token, 512:552] = eye
        first.c_proj.weight[0:40, before] = eye / 11.0
        for head in range(4):
            query, key, value = (slice(64 * head + part, 64 * head + part + 40) for part in (0, 256, 512))
            second.c_attn.weight[token, query] = noise * torch.randn(40, 40, generator=generator)
            second.c_attn.weight[before, key] = eye
            if head in (1, 2):
                second.c_attn.weight[token, query] += sharpness * eye
                second.c_attn.weight[token, value] = eye
                second.c_proj.weight[64 * head : 64 * head + 40, said] = eye / 25.0
    return model
