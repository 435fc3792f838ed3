"""Questions without a corrupt twin: read as published, asked whole, scored against hand-made counts."""

import json

import pytest
from typer.testing import CliRunner

import circuits
from checkpoints.errors import BadPrompt
from circuit_drift.behaviour import Knowledge
from circuit_drift.behaviour.questions import QuestionsMeasure
from circuit_drift.cli import app
from circuits.facts.questions import Question, Questions, read_questions, tokenize_questions
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
        circuits.facts.readers.read_probes(file)


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
        (task, metric, 1) for task in ("all", "a") for metric in ("exact", "nll", "rouge1")
    ]
    assert set(measured.columns) == {"questions_exact", "questions_nll", "questions_rouge1"}
    assert measured.columns["questions_nll"] > 0
    assert measured.refused["all"].startswith("1 refused and not asked; question 1:")


def test_they_are_a_measure_of_a_run(series, file, tmp_path):
    done = CliRunner().invoke(
        app, ["run", str(series), "--store", str(tmp_path / "store"), "--measures", f"questions:{file}"]
    )
    assert done.exit_code == 0, done.output
    assert "questions_exact" in done.stdout
