import pytest
import torch
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from checkpoints.errors import BadPrompt
from circuits.facts import tasks
from circuits.facts.batch import make_batch
from circuits.facts.facts import FactSet
from circuits.facts.tasks import load_task, task_facts


def word_tokenizer(digits: str, *, missing: tuple[str, ...] = ()) -> PreTrainedTokenizerFast:
    """Words, punctuation and years, the years cut as the pattern says."""
    texts = [f.clean + f" {f.answer} {f.wrong}" for name in ("ioi", "capital") for f in task_facts(name, n=400)]
    texts += [f"The {noun} lasted from the year to" for noun in tasks.words()["spans"]]
    cut = pre_tokenizers.Split(Regex(rf"{digits}|\w+|[^\w\s]|\s+"), "isolated")
    numbers = [f"{i:02d}" for i in range(100)] + [str(i) for i in range(10)]
    words = {piece.strip() for text in texts for piece, _ in cut.pre_tokenize_str(text)} - set(missing) - {""}
    vocabulary = {token: i for i, token in enumerate(["<unk>", *sorted({*words, *numbers})])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, "<unk>"))
    spaces = pre_tokenizers.Split(Regex(r"\s+"), "removed")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [spaces, pre_tokenizers.Split(Regex(digits), "isolated"), pre_tokenizers.Punctuation()]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")


def test_ioi_asks_for_the_name_that_appears_once() -> None:
    for fact in task_facts("ioi", n=60):
        assert fact.clean.count(fact.answer) == 1 and fact.clean.count(fact.wrong) == 2
        assert fact.corrupt.count(fact.wrong) == 1 and fact.corrupt.count(fact.answer) == 2
    orders = [fact.labels["order"] for fact in task_facts("ioi", n=60)]
    assert orders.count("ABBA") == orders.count("BABA") == 30


def test_ioi_prompts_are_drawn_until_the_tokenizer_carries_enough() -> None:
    task = load_task("ioi", word_tokenizer("\\d", missing=("Mary", "John", "Grace")), n=40)
    assert len(task.facts) == 40
    assert task.facts.refused
    assert not any({f.answer, f.wrong} & {"Mary", "John", "Grace"} for f in task.facts.facts)
    differing = [
        sum(a != b for a, b in zip(c, d, strict=True))
        for c, d in zip(task.facts.clean, task.facts.corrupt, strict=True)
    ]
    assert set(differing) == {1}


@pytest.mark.parametrize("name", ["capital", "language", "landmark"])
def test_fact_tasks_are_the_built_in_facts_of_that_relation(name: str) -> None:
    facts = task_facts(name)
    assert len(facts) > 5
    assert {fact.labels["relation"] for fact in facts} == {name}


@pytest.mark.parametrize(("digits", "candidates"), [(r"\d\d", 100), (r"\d", 10)])
def test_greater_than_scores_years_by_what_the_tokenizer_makes_of_them(digits: str, candidates: int) -> None:
    tokenizer = word_tokenizer(digits)
    task = load_task("greater-than", tokenizer, n=12)
    batch = make_batch(task.facts, range(12), torch.device("cpu"))
    width = len(str(candidates - 1))
    vocabulary = tokenizer.get_vocab()
    assert callable(task.metric)
    for row, fact in enumerate(task.facts.facts):
        year = int(fact.labels["year"])
        start = year if candidates == 100 else year // 10
        for number in range(candidates):
            logits = torch.full((12, len(tokenizer)), -50.0, dtype=torch.float64)
            logits[:, vocabulary[f"{number:0{width}d}"]] = 50.0
            tie = candidates == 10 and number == start
            expected = 0.0 if tie else 1.0 if number > start else -1.0
            assert task.metric(logits, batch, logits)[row].item() == pytest.approx(expected)
        assert int(fact.answer) > start > int(fact.wrong)


def test_the_metric_of_years_follows_its_facts_into_a_subset() -> None:
    task = load_task("greater-than", word_tokenizer(r"\d\d"), n=12)
    chosen = [7, 2, 9]
    whole, part = (
        make_batch(facts, range(len(facts)), torch.device("cpu")) for facts in (task.facts, task.facts.subset(chosen))
    )
    logits = torch.randn(12, 200, generator=torch.Generator().manual_seed(0))
    assert callable(task.metric)
    torch.testing.assert_close(task.metric(logits[chosen], part, logits), task.metric(logits, whole, logits)[chosen])
    other = FactSet.from_ids([[1, 2]], [[1, 3]], [4], [5])
    with pytest.raises(BadPrompt, match="none of greater-than's"):
        task.metric(logits[:1], make_batch(other, [0], torch.device("cpu")), logits[:1])


def test_years_in_pieces_of_other_sizes_are_refused() -> None:
    with pytest.raises(BadPrompt, match="neither into century and two digits nor into single digits"):
        load_task("greater-than", word_tokenizer(r"\d\d\d"))
    with pytest.raises(BadPrompt, match="depend on the tokenizer"):
        task_facts("greater-than")
    with pytest.raises(BadPrompt, match="unknown task"):
        task_facts("sva")  # type: ignore[arg-type]
