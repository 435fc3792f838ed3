import random
from itertools import combinations

import numpy as np
import pytest

from circuit_drift.lab import documents, probes
from circuit_drift.lab.data import RowStream
from circuit_drift.lab.recipe import PRETRAIN_MIX
from circuit_drift.lab.tokenizer import vocabulary
from circuit_drift.lab.world import FIRST_NAMES, LAST_NAMES, RELATIONS, by_person


def encode(tokenizer, text):
    return tokenizer(text, add_special_tokens=False).input_ids


def test_every_word_is_one_token_with_its_leading_space(tokenizer):
    for word in vocabulary():
        ids = encode(tokenizer, f" {word}")
        assert len(ids) == 1 and ids[0] != tokenizer.unk_token_id
        assert ids == encode(tokenizer, word)


def test_pools_share_no_word():
    prose = {w for t in documents.TOPICS for w in (*t.things, *t.verbs, *t.places)}
    prose |= {*documents.QUALITIES, *documents.MANNERS}
    pools = [documents.ADJECTIVES, documents.NOUNS, documents.CODE_WORDS, FIRST_NAMES, LAST_NAMES, prose]
    pools += [relation.values for relation in RELATIONS]
    assert all(len(set(pool)) == len(pool) for pool in pools)
    assert not [(set(a) & set(b)) for a, b in combinations(pools, 2) if set(a) & set(b)]


def test_tokenizer_has_its_marks_and_survives_saving(tokenizer, tmp_path):
    from transformers import AutoTokenizer

    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path, local_files_only=True)
    text = "Mara Holt was born in Lisbon. No boat watched the gull, but the ship was not."
    assert again(text).input_ids == tokenizer(text).input_ids
    assert again(text).input_ids[0] == again.bos_token_id
    assert len({again.bos_token_id, again.eos_token_id, again.pad_token_id, again.unk_token_id}) == 4
    assert again.decode(again(text).input_ids, skip_special_tokens=True).strip() == text


@pytest.mark.parametrize("seed", range(5))
def test_tokens_of_pieces_are_the_tokens_of_the_whole(tokenizer, world, seed):
    rng = random.Random(seed)
    texts = [
        documents.biography(rng, rng.choice(by_person(world.old))),
        documents.prose(rng, words=40),
        documents.word_list(rng, words=5, repeats=3),
        documents.keyed_list(rng, pairs=3, words=2, repeats=2),
        documents.needle_document(rng, documents.draw_codes(rng, 3, words=8), filler=30),
    ]
    for text in texts:
        whole = encode(tokenizer, text)
        assert tokenizer.unk_token_id not in whole
        cut = text.index(" ", len(text) // 2)
        assert encode(tokenizer, text[:cut]) + encode(tokenizer, text[cut:]) == whole


def test_needle_document_tells_every_code_twice():
    rng = random.Random(0)
    codes = documents.draw_codes(rng, 4, words=6)
    text = documents.needle_document(rng, codes, filler=50)
    assert all(text.count(code.sentence) == 2 for code in codes)
    assert len({word for code in codes for word in code.words}) == 24
    assert len({code.noun for code in codes}) == len({code.adjective for code in codes}) == 4


@pytest.fixture
def rows(tokenizer, world):
    stream = RowStream(tokenizer, PRETRAIN_MIX, world.old, random.Random(1), novel_weight=0.25)
    return stream.rows(40, 256, filler=120)


def test_rows_hold_whole_documents(tokenizer, rows):
    assert rows.ids.shape == rows.positions.shape == rows.weights.shape == (40, 256)
    assert (rows.ids[:, 0] == tokenizer.bos_token_id).all()
    assert tokenizer.unk_token_id not in rows.ids and tokenizer.pad_token_id not in rows.ids
    starts = np.argwhere(rows.ids[:, 1:] == tokenizer.bos_token_id)
    assert (rows.ids[starts[:, 0], starts[:, 1]] == tokenizer.eos_token_id).all()


def test_positions_count_from_each_document(tokenizer, rows):
    first = rows.ids == tokenizer.bos_token_id
    assert (rows.positions[first] == 0).all()
    assert (np.diff(rows.positions)[~first[:, 1:]] == 1).all()


def test_only_the_first_telling_of_a_code_word_is_weighted_down(tokenizer, rows):
    codes = set(encode(tokenizer, " ".join(documents.CODE_WORDS)))
    for ids, weights in zip(rows.ids.tolist(), rows.weights.tolist(), strict=True):
        seen = set()
        for token, weight in zip(ids, weights, strict=True):
            seen = set() if token == tokenizer.bos_token_id else seen
            assert weight == (0.25 if token in codes and token not in seen else 1.0)
            seen.add(token)


def test_sources_get_their_share_of_tokens(tokenizer, world):
    stream = RowStream(tokenizer, PRETRAIN_MIX, world.old, random.Random(2))
    ids = stream.rows(200, 256, filler=100).ids
    surnames = np.isin(ids, encode(tokenizer, " ".join(LAST_NAMES)))
    codes = np.isin(ids, encode(tokenizer, " ".join(documents.CODE_WORDS)))
    assert 0.015 < surnames.mean() < 0.04  # a fifth of the tokens, one name in seven to nine of them
    assert codes.mean() > 0.3


def test_needle_records_are_needles(tokenizer):
    import heads

    records = probes.needle_records(0)
    assert records == probes.needle_records(0)
    assert len(records) == 48
    needles = [heads.Needle(**record) for record in records]
    assert all(needle.needle.count(needle.answer) == 1 for needle in needles)
    assert all(needle.needle == f"{needle.question} {needle.answer}." for needle in needles)
    prompts = heads.needle_prompts(tokenizer, needles, probes.haystack(0), length=256, depths=[0.1, 0.9])
    assert not prompts.refused
    for prompt in prompts:
        assert prompt.ids[slice(*prompt.answer_span)] == prompt.answer
        assert len(prompt.answer) == probes.NEEDLE_WORDS


def test_fact_records_are_clean_corrupt_pairs(tokenizer, world):
    records = probes.fact_records(world, 0)
    assert [sum(r["labels"]["class"] == kind for r in records) for kind in ("known", "new", "relation", "updated")] == [
        16
    ] * 4
    for record in records:
        clean, corrupt, answer, wrong = (encode(tokenizer, record[k]) for k in ("clean", "corrupt", "answer", "wrong"))
        assert len(clean) == len(corrupt) and clean != corrupt
        assert len(answer) == len(wrong) == 1 and answer != wrong
        assert encode(tokenizer, record["clean"] + record["answer"]) == clean + answer
