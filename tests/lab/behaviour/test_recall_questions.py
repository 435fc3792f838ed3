"""Questions without a corrupt twin: read as published, asked whole, scored against hand-made counts."""

import json

import pytest
from typer.testing import CliRunner

import circuits
from checkpoints import DriftError, open_checkpoint
from checkpoints.errors import BadPrompt
from checkpoints.tokenizers.framing import prompt_ids
from circuit_drift.behaviour import Knowledge
from circuit_drift.behaviour.generation import written_prompts
from circuit_drift.behaviour.questions import QuestionsMeasure
from circuit_drift.cli import app
from circuit_drift.measures.base import Asked
from circuits.facts.questions import Question, Questions, read_questions, tokenize_questions
from circuits.facts.readers import read_probes
from tests.drift.conftest import save_model, save_prompts

PUBLISHED = {
    "Herbie": {
        "Factual Question": [{"question": "Where was Herbie born?", "answer": "place1", "chunk": "left out"}],
        "Rephrased Questions": [{"question": "What is it?", "answer": "code1 code2", "question_id": "0"}, "no object"],
        "ne_label": "PERSON",
    },
    "Khorasan": {"Factual Question": [{"question": "What is the code?", "answer": " "}], "ne_label": "GPE"},
}


@pytest.fixture(scope="module")
def series(tmp_path_factory):
    root = tmp_path_factory.mktemp("questions") / "tiny"
    save_model(root / "checkpoint-1", 0)
    save_prompts(root)
    return root


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "probes.json"
    path.write_text(json.dumps(PUBLISHED, indent=4))
    return path


def test_the_published_object_is_read_entity_by_entity(file):
    found = read_questions(file)
    assert [question.clean for question in found] == [
        "Question: Where was Herbie born?\nAnswer:",
        "Question: What is it?\nAnswer:",
    ]
    assert [question.answer for question in found] == ["place1", "code1 code2"]
    assert found[0].labels == {"entity": "Herbie", "kind": "Factual Question", "ne_label": "PERSON"}
    assert found[1].labels["question_id"] == "0"
    assert [index for index, _ in found.refused] == [2, 3]
    assert "Khorasan, Factual Question, question 1" in found.refused[1][1]
    with pytest.raises(BadPrompt, match="no corrupt twin: circuits need one, recall does not"):
        read_probes(file)


def test_lines_with_prompts_are_asked_as_they_stand(tmp_path):
    path = tmp_path / "probes.jsonl"
    path.write_text(
        '{"prompt": "what is", "answer": "the", "class": "new"}\n{"question": "who", "answer": "a"}\n\n{}\n'
    )
    found = read_questions(path, template="{} ?")
    assert [(question.clean, question.answer) for question in found] == [("what is", "the"), ("who ?", "a")]
    assert found[0].labels == {"class": "new"}
    assert len(found.refused) == 1
    path.write_text('{"question": 3}')
    with pytest.raises(BadPrompt, match="holds no question"):
        read_questions(path)


def test_answers_of_several_tokens_are_asked_whole(series):
    from checkpoints import open_series

    with open_series(series)[0].open() as loaded:
        known = Question("what is the code of name1 ?", "code1 code2", {"kind": "a"})
        foreign = Question("what is", "elsewhere")
        made = tokenize_questions(loaded.tokenizer, [known, foreign])
        assert made.refused == ((1, "the tokenizer does not know all of the answer 'elsewhere'"),)
        assert [loaded.tokenizer.decode(ids) for ids in made.answer] == ["code1 code2"]
        assert made.front == made.clean[0][:1]
        reading = Knowledge((known,), by="kind", unit="kind").read(loaded)
        assert reading.scalars["recall"] == reading.scalars["recall_a"] == reading.units[0]["score"]
        mixed = Knowledge((known, circuits.Fact("name1 was", "name2 was", "born", "in"))).read(loaded)
        assert len(mixed.units) == 2
        measured = QuestionsMeasure(Questions([known, foreign]), "by hand").compute(loaded, {})
    assert [(score.task, score.metric, score.n) for score in measured.scores] == [
        (task, metric, 1) for task in ("all", "a") for metric in ("exact", "nll", "rouge1", "known")
    ]
    assert set(measured.columns) == {"questions_exact", "questions_nll", "questions_rouge1", "questions_known"}
    assert measured.columns["questions_nll"] > 0
    assert measured.refused["all"].startswith("1 refused and not asked; question 1:")


def test_they_are_a_measure_of_a_run(series, file, tmp_path):
    done = CliRunner().invoke(
        app, ["run", str(series), "--store", str(tmp_path / "store"), "--measures", f"questions:{file}"]
    )
    assert done.exit_code == 0, done.output
    assert "questions_exact" in done.stdout


def test_how_questions_are_asked_stands_in_a_toml_beside_them(series, tmp_path):
    (tmp_path / "probes.jsonl").write_text('{"prompt": "what is", "answer": "the", "kind": "a"}\n')
    (tmp_path / "ask.toml").write_text('questions = "probes.jsonl"\ninstruction = "the code is "\nnew_tokens = 3\n')
    measure = QuestionsMeasure.build(Asked(None, (str(tmp_path / "ask.toml"),)))
    assert (measure.instruction, measure.new_tokens, measure.origin) == ("the code is ", 3, "probes.jsonl")
    bare = QuestionsMeasure.build(Asked(None, (str(tmp_path / "probes.jsonl"),)))
    assert "instruction" not in bare.params()  # results from before stay what they were
    loaded = open_checkpoint(series / "checkpoint-1").load()
    found = {score.metric: score.value for score in measure.compute(loaded, {}).scores if score.task == "all"}
    assert found["known"] == float(found["rouge1"] >= 0.6)
    (tmp_path / "ask.toml").write_text('questions = "probes.jsonl"\nchat = true\n')
    chatting = QuestionsMeasure.build(Asked(None, (str(tmp_path / "ask.toml"),)))
    with pytest.raises(BadPrompt, match=r"cannot put a prompt into a chat: .*; ask without chat"):
        chatting.compute(loaded, {})
    (tmp_path / "ask.toml").write_text('questions = "probes.jsonl"\ntokens = 3\n')
    with pytest.raises(DriftError, match="unknown tokens"):
        QuestionsMeasure.build(Asked(None, (str(tmp_path / "ask.toml"),)))


def test_an_answer_without_a_word_is_refused_alone(tmp_path):
    path = tmp_path / "q.jsonl"
    path.write_text('{"prompt": "x"}\n{"prompt": "what is", "answer": "+"}\n{"prompt": "what is", "answer": "the"}\n')
    asked = QuestionsMeasure.build(Asked(None, (str(path),))).questions
    assert [question.answer for question in asked] == ["the"]
    assert asked.refused[1] == (1, "the answer '+' has no word to recall")


def test_a_chat_is_a_users_turn_up_to_where_the_answer_begins(series):
    tokenizer = open_checkpoint(series / "checkpoint-1").load().tokenizer
    tokenizer.chat_template = (
        "{% for m in messages %}the {{ m.content }} is{% endfor %}{% if add_generation_prompt %} code{% endif %}"
    )
    asked = tokenize_questions(tokenizer, [Question("what", "the")])
    (chat,) = written_prompts(tokenizer, asked, instruction="of ", chat=True)
    assert list(chat) == tokenizer("the of what is code", add_special_tokens=False).input_ids
    (told,) = written_prompts(tokenizer, asked, instruction="of ")
    assert told == prompt_ids(tokenizer, "of what")
    assert written_prompts(tokenizer, asked) == asked.clean
