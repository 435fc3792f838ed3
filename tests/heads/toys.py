"""Tokenizers, prompts and planted heads that the tests share."""

import string

import numpy as np
import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

import heads
from heads import NeedlePrompt, NeedleSet, RetrievalScores
from heads.pools import words as words_of_all_pools

SPECIAL = ["<pad>", "<bos>", "<eos>", "<unk>"]


def train_tokenizers():
    text = [heads.default_haystack(0, sentences=200)]
    text += [" ".join(map(str, pool)) for pool in words_of_all_pools().values()]
    text += [" ".join(string.ascii_letters + string.digits + string.punctuation)]
    text += [f"{n.needle} {n.question} {n.answer}" for n in heads.default_needles(0, count=20)]
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
    return RetrievalScores(
        detectors={"copy": copy, "needle_mass": copy / 2},
        nll=np.full((n, 3), 1.0, dtype=np.float32) if nll is None else np.asarray(nll, dtype=np.float32),
        correct=np.ones(n, dtype=bool) if correct is None else np.asarray(correct),
        depth=np.linspace(0, 1, n, dtype=np.float32),
        needle=np.arange(n) if needle is None else np.asarray(needle),
        accepted=np.ones(n, dtype=bool) if correct is None else np.asarray(correct),
        kv_heads=1,
        meta={"prompts": prompts, "length": length, "chance": 1 / length},
    )
