import pytest
from toys import train_tokenizers

from checkpoints.errors import BadPrompt
from heads import Needle, needle_prompts
from heads.prompts.building import interference_prompts
from heads.prompts.haystacks import continuation
from heads.prompts.needles import load_needles
from heads.prompts.pools import default_haystack, default_needles
from heads.prompts.probes import PROBES
from heads.prompts.probes import probe as probe_

HAYSTACK = default_haystack(0)
DEPTHS = (0.0, 0.5, 1.0)


@pytest.mark.parametrize("name", ["words", "bpe", "characters"])
def test_spans_hold_what_they_say_for_any_tokenizer(tokenizers, name):
    tokenizer = tokenizers[name]
    length = 2000 if name == "characters" else 400
    needles = default_needles(0, count=6)
    made = needle_prompts(tokenizer, needles, HAYSTACK, length=length, depths=DEPTHS)
    assert not made.refused
    assert len(made) == 18
    for prompt in made:
        needle = needles[prompt.needle]
        assert prompt.answer_start == length
        assert prompt.ids[slice(*prompt.answer_span)] == prompt.answer
        assert prompt.ids.count(tokenizer.bos_token_id) == 1
        assert prompt.ids[0] == tokenizer.bos_token_id
        assert plain(tokenizer.decode(prompt.answer)) == plain(needle.answer)
        assert plain(tokenizer.decode(prompt.ids[slice(*prompt.needle_span)])) == plain(needle.needle)
        (distractor,) = prompt.distractor_spans
        assert plain(tokenizer.decode(prompt.ids[slice(*distractor)])) == plain(needle.distractors[0])
        assert len(prompt.answer) >= 10


def plain(text):
    return "".join(text.split())


def test_depth_achieved_is_a_sentence_boundary_near_the_one_requested(tokenizers):
    tokenizer = tokenizers["words"]
    made = needle_prompts(tokenizer, default_needles(0, count=2), HAYSTACK, length=600, depths=(0, 0.3, 0.7, 1))
    for prompt in made:
        assert -0.01 <= prompt.requested_depth - prompt.depth < 0.1
        before = tokenizer.decode(prompt.ids[prompt.needle_span[0] - 1])
        assert prompt.needle_span[0] == 1 or before.strip() == "."


def test_same_seed_same_prompts_and_another_seed_others(tokenizers):
    def make(seed):
        needles = default_needles(3)
        return needle_prompts(tokenizers["bpe"], needles, HAYSTACK, length=300, depths=DEPTHS, seed=seed).hash

    assert make(0) == make(0) != make(1)


def test_a_short_haystack_runs_on_from_its_beginning(tokenizers):
    made = needle_prompts(tokenizers["words"], default_needles(0), "A quiet day. ", length=300, depths=[0.5])
    assert len(made) == 12


@pytest.mark.parametrize(
    ("needle", "reason"),
    [
        (Needle("The code is red.", "blue", "The code is"), "stands 0 times"),
        (Needle("The code is red red.", "red", "The code is"), "stands 2 times"),
        (Needle("The code is carpenter.", "carp", "The code is"), "merges answer"),
        (Needle("The ferry passed.", "ferry passed", "The ferry"), "also stands in the haystack"),
        (Needle("The code is red green.", "red green", "Say red green: the code is"), "also stands in the question"),
        (
            Needle("The code is red green.", "red green", "The code is", intro="Say red green now."),
            "also stands in the intro",
        ),
        (Needle("The code <bos> is red.", "red", "The code is"), "BOS token"),
        (Needle("word " * 400 + "is red.", "red", "The code is"), "tokens: raise the length of 300"),
    ],
)
def test_a_needle_that_cannot_be_scored_is_refused_with_the_reason(tokenizers, needle, reason):
    good = default_needles(0, count=1)[0]
    haystack = "The ferry passed. It was a quiet day. " * 20
    made = needle_prompts(tokenizers["bpe"], [needle, good], haystack, length=300, depths=[0.0, 0.5])
    (refusal,) = made.refused
    assert refusal[0] == 0
    assert reason in refusal[1]
    assert {p.needle for p in made} == {1}


@pytest.mark.parametrize("depths", [[], [1.2], [-0.1]])
def test_impossible_depths_are_named(tokenizers, depths):
    with pytest.raises(BadPrompt, match="depths"):
        needle_prompts(tokenizers["words"], default_needles(0), HAYSTACK, length=300, depths=depths)


def test_an_empty_haystack_is_named(tokenizers):
    with pytest.raises(BadPrompt, match="haystack is empty"):
        needle_prompts(tokenizers["words"], default_needles(0), "", length=300, depths=[0.5])


def test_a_haystack_the_tokenizer_cannot_read_is_refused(tokenizers):
    options = {"length": 300, "depths": [0.5]}
    made = needle_prompts(tokenizers["words"], default_needles(0), "Zorro flabbergasted kiwis ", **options)
    assert {reason for _, reason in made.refused} == {
        "the tokenizer does not know 100% of the haystack: give it text in the model's own words"
    }
    with pytest.raises(BadPrompt, match="haystack is empty"):
        needle_prompts(tokenizers["bpe"], default_needles(0), " \n ", **options)


def test_a_piece_is_tokenized_as_it_stands_in_running_text(tokenizers):
    tokenizer = tokenizers["bpe"]
    running = tokenizer.encode("It passed. The ferry", add_special_tokens=False)
    assert tuple(running[-2:]) == continuation(tokenizer, "The ferry")[-2:]


def test_needles_are_read_from_jsonl(tmp_path):
    path = tmp_path / "needles.jsonl"
    path.write_text(
        '{"needle": "A is b.", "answer": "b", "question": "A is", "labels": {"k": 1}}\n\n'
        '{"needle": "C is d.", "answer": "d", "question": "C is", "distractors": ["E is f."]}\n'
    )
    first, second = load_needles(path)
    assert first.labels == {"k": 1}
    assert second.distractors == ("E is f.",)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "holds no needle"),
        ("not json", "line 1 is not JSON"),
        ("[1]", "no JSON object"),
        ('{"needle": "A"}', "non-empty strings"),
        ('{"needle": "A b", "answer": "b", "question": "A", "colour": 1}', "unknown fields"),
    ],
)
def test_a_bad_needle_file_is_named_with_its_line(tmp_path, text, reason):
    path = tmp_path / "needles.jsonl"
    path.write_text(text)
    with pytest.raises(BadPrompt, match=reason):
        load_needles(path)


def test_a_missing_needle_file_is_named(tmp_path):
    with pytest.raises(BadPrompt, match="cannot read needles"):
        load_needles(tmp_path / "none.jsonl")


@pytest.mark.parametrize("name", PROBES)
@pytest.mark.parametrize("kind", ["bpe", "characters"])
def test_every_probe_builds_with_exact_spans_for_any_tokenizer(tokenizers, name, kind):
    tokenizer, made = tokenizers[kind], probe_(name, seed=1, count=4)
    length = 6000 if kind == "characters" else 3000
    built = made.prompts(tokenizer, length=length, depths=(0.2, 0.9))
    assert not built.refused
    assert len(built) == 2 * len(made.needles) == 8
    assert built.hash == probe_(name, seed=1, count=4).prompts(tokenizer, length=length, depths=(0.2, 0.9)).hash
    for prompt in built:
        needle = made.needles[prompt.needle]
        golds = [needle.answer, *(answer for _, answer in needle.parts)]
        sentences = [needle.needle, *(sentence for sentence, _ in needle.parts)]
        assert prompt.answer_start == length
        for span, gold in zip(prompt.answer_spans, golds, strict=True):
            assert plain(tokenizer.decode(prompt.ids[slice(*span)])) == plain(gold)
        for span, sentence in zip(prompt.needle_spans, sentences, strict=True):
            assert plain(tokenizer.decode(prompt.ids[slice(*span)])) == plain(sentence)
        for span, sentence in zip(prompt.distractor_spans, needle.distractors, strict=True):
            assert plain(tokenizer.decode(prompt.ids[slice(*span)])) == plain(sentence)
        assert plain(tokenizer.decode(prompt.answer)) == plain(", ".join(golds))
        assert plain(tokenizer.decode(prompt.ids[slice(*prompt.question_span)])) == plain(needle.question)


def test_ranks_stand_in_order_and_chains_run_forward(tokenizers):
    chat = probe_("mrcr", count=8)
    for prompt in chat.prompts(tokenizers["bpe"], length=3000, depths=(0.0, 0.5, 1.0)):
        rank = chat.needles[prompt.needle].rank
        starts = [start for start, _ in prompt.distractor_spans]
        assert sum(start < prompt.needle_span[0] for start in starts) == rank
        assert starts == sorted(starts)
    for prompt in probe_("variable_tracking").prompts(tokenizers["bpe"], length=3000, depths=(0.5,)):
        assert list(prompt.needle_spans) == sorted(prompt.needle_spans)


def test_literal_and_non_literal_questions_differ():
    for needle in probe_("nolima", count=8).needles:
        asked = set(needle.question.lower().split()) - {"the", "in", "is"}
        assert not asked & set(needle.needle.lower().rstrip(".").split())


def test_density_says_how_many_others_state_the_same_fact():
    def stating(density):
        lives = probe_("longbio_standard", density=density).haystack
        return sum("was born in" in life for life in lives) / len(lives)

    assert stating(0.0) == 0
    assert stating(1.0) == 1
    assert 0.3 < stating(0.5) < 0.7


def test_units_are_never_split(tokenizers):
    tokenizer, probe = tokenizers["bpe"], probe_("longbio_standard", count=3)
    for prompt in probe.prompts(tokenizer, length=2500, depths=(0.3, 0.7)):
        before = tokenizer.decode(prompt.ids[: prompt.needle_span[0]])
        assert before == "<bos>" or before.endswith("Here it ends.")


def test_the_interference_grid_holds_distance_and_before():
    tokenizer = train_tokenizers()["bpe"]
    needle = default_needles(0, count=1)[0]
    alone = Needle(needle.needle, needle.answer, needle.question)
    grid = interference_prompts(tokenizer, [alone], HAYSTACK, distances=(0, 50), befores=(10, 80))
    assert [(p.distance, p.before - 1) for p in grid] == [(0, 10), (0, 80), (50, 10), (50, 80)]
    crowded = interference_prompts(tokenizer, [needle], HAYSTACK, distances=(0,), befores=(10,))
    assert "one sentence" in crowded.refused[0][1]
    with pytest.raises(BadPrompt, match="from 0 on"):
        interference_prompts(tokenizer, [alone], HAYSTACK, distances=(-1,), befores=(10,))


def test_unknown_probes_are_named():
    with pytest.raises(BadPrompt, match="no probe is called 'haystack'"):
        probe_("haystack")
    with pytest.raises(BadPrompt, match="density"):
        probe_("longbio_standard", density=2)
    with pytest.raises(BadPrompt, match="nolima makes 16 different needles at most: got count = 17"):
        probe_("nolima", count=17)
    with pytest.raises(BadPrompt, match="longbio_standard makes 149 different needles at most"):
        probe_("longbio_standard", count=150)
    with pytest.raises(BadPrompt, match="one needle at least"):
        probe_("niah", count=0)


@pytest.mark.parametrize(
    ("extra", "reason"),
    [
        ('"labels": 3', "labels are an object"),
        ('"intro": 3', "intro is a string"),
        ('"parts": ["ab"]', r"parts are \[sentence, answer\] pairs"),
        ('"parts": [["a b", ""]]', r"parts are \[sentence, answer\] pairs"),
        ('"distractors": [1]', "distractors a list of such"),
        ('"distractors": ["x", "y"], "rank": 3', "0 to 2 here, got 3"),
        ('"distractors": ["x", "y"], "rank": 1.7', "0 to 2 here, got 1.7"),
        ('"distractors": ["x", "y"], "rank": -1', "0 to 2 here, got -1"),
    ],
)
def test_fields_of_another_kind_are_refused(tmp_path, extra, reason):
    path = tmp_path / "needles.jsonl"
    path.write_text(f'{{"needle": "a b", "answer": "b", "question": "q", {extra}}}')
    with pytest.raises(BadPrompt, match=reason):
        load_needles(path)
