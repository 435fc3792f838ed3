import json

import pytest
from typer.testing import CliRunner

import circuits
from checkpoints.errors import BadPrompt
from circuit_drift.cli import app
from circuits.facts.facts import load_facts
from circuits.facts.readers import read_counterfact, read_lama, read_probes


def counterfact(case, subject, answer, *, relation="P19", paraphrases=()):
    request = {"prompt": "{} was born in", "subject": subject, "relation_id": relation}
    request |= {"target_true": {"str": answer}, "target_new": {"str": "Rome"}}
    return {"case_id": case, "requested_rewrite": request, "paraphrase_prompts": list(paraphrases)}


RECORDS = [
    counterfact(1, "Mara Holt", "Lisbon", paraphrases=["No boat. The native town of Mara Holt is", "She was born in"]),
    counterfact(2, "Finn Vale", "Cairo"),
    counterfact(3, "Lena Keller", "Cairo", relation="P20"),
]


@pytest.mark.parametrize("lines", [True, False])
def test_counterfact_gives_pairs_that_circuits_take(tmp_path, tokenizer, lines):
    path = tmp_path / "counterfact.json"
    path.write_text("\n".join(map(json.dumps, RECORDS)) if lines else json.dumps(RECORDS))
    found = read_counterfact(path, tokenizer)
    assert [fact.labels["form"] for fact in found.facts] == ["cloze", "paraphrase", "cloze"]
    first, paraphrase, second = found.facts
    assert (first.clean, first.corrupt) == ("Mara Holt was born in", "Finn Vale was born in")
    assert (first.answer, first.wrong) == (" Lisbon", " Cairo")
    assert paraphrase.corrupt == "No boat. The native town of Finn Vale is"
    assert first.labels == {"fact": "1", "subject": "Mara Holt", "relation": "P19", "form": "cloze"}
    assert second.labels["fact"] == "2"
    assert len(circuits.tokenize_facts(tokenizer, found.facts)) == 3
    assert load_facts(found.write_jsonl(tmp_path / "facts.jsonl")) == found.facts
    assert [where for where, _ in found.refused] == ["line 3" if lines else "row 3"]
    assert str(found) == "3 facts; 1 refused: no other subject of its relation has another answer"


def test_malformed_rows_are_refused_one_by_one_and_counted(tmp_path):
    broken = [
        {"case_id": 4},
        counterfact(5, "", "Lisbon"),
        counterfact(6, "Otto Moss", " "),
        {**counterfact(7, "Ida Rask", "Oslo"), "requested_rewrite": {"prompt": "no place", "subject": "Ida Rask"}},
        ["no object"],
    ]
    no_place = counterfact(8, "Ida Rask", "Oslo")
    no_place["requested_rewrite"]["prompt"] = "Ida Rask was born in"
    path = tmp_path / "counterfact.json"
    path.write_text(json.dumps([*RECORDS[:2], *broken, no_place]))
    found = read_counterfact(path)
    assert len(found.facts) == 3
    assert dict(found.refused) == {
        "row 3": "no requested_rewrite",
        "row 4": "no subject",
        "row 5": "no target_true.str",
        "row 6": "no relation_id",
        "row 7": "the row is no JSON object",
        "row 8": "the prompt has no one place {} for the subject",
    }


def test_the_other_subject_has_as_many_tokens(tmp_path, tokenizer):
    path = tmp_path / "counterfact.json"
    long = counterfact(9, "Finn Vale Mercer Noble", "Oslo")
    path.write_text(json.dumps([RECORDS[0], long]))
    assert len(read_counterfact(path).facts) == 3
    with pytest.raises(BadPrompt, match="as many tokens"):
        read_counterfact(path, tokenizer)
    path.write_text(json.dumps([*RECORDS, long]))
    found = read_counterfact(path, tokenizer)
    assert {fact.labels["subject"] for fact in found.facts} == {"Mara Holt", "Finn Vale"}
    assert len(circuits.tokenize_facts(tokenizer, found.facts).refused) == 0


def lama(subject, answer, sentence, **more):
    row = {"uuid": subject, "sub_label": subject, "obj_label": answer, "predicate_id": "P19"}
    return {**row, "masked_sentences": [sentence], **more}


def test_lama_is_asked_where_the_gap_stands_last(tmp_path, tokenizer):
    rows = [
        lama("Mara Holt", "Lisbon", "Mara Holt was born in [MASK] ."),
        lama("Finn Vale", "Cairo", "Finn Vale was born in [MASK]."),
        lama("Otto Moss", "Oslo", "[MASK] is where Otto Moss was born."),
        lama("Ida Rask", "Oslo", "She was born in [MASK]."),
        lama("Ida Rask", "Oslo", "Ida Rask was born in [MASK].", predicate_id=None),
    ]
    path = tmp_path / "P19.jsonl"
    path.write_text("\n".join([*map(json.dumps, rows), "{no json"]))
    found = read_lama(path, tokenizer)
    assert [(fact.clean, fact.answer) for fact in found.facts] == [
        ("Mara Holt was born in", " Lisbon"),
        ("Finn Vale was born in", " Cairo"),
    ]
    assert dict(found.refused) == {
        "line 3": "no sentence that names the subject and ends with the gap",
        "line 4": "no sentence that names the subject and ends with the gap",
        "line 5": "no relation: neither predicate_id nor pred",
        "line 6": "the line is not JSON",
    }


def test_lama_with_its_templates(tmp_path):
    (tmp_path / "relations.jsonl").write_text(json.dumps({"relation": "P19", "template": "[X] was born in [Y] ."}))
    rows = [
        lama("Mara Holt", "Lisbon", "-"),
        lama("Finn Vale", "Cairo", "-"),
        lama("Ida Rask", "x", "-", predicate_id="P1"),
    ]
    (tmp_path / "test.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found = read_lama(tmp_path / "test.jsonl", templates=tmp_path / "relations.jsonl")
    assert [fact.clean for fact in found.facts] == ["Mara Holt was born in", "Finn Vale was born in"]
    assert found.refused == (("line 3", "no template for the relation P1"),)


OWN = [
    {"prompt": "Mara Holt plays the", "subject": "Mara Holt", "relation": "plays", "answer": "cello", "class": "new"},
    {"prompt": "At concerts Mara Holt is heard on the", "subject": "Mara Holt", "relation": "plays", "answer": "cello",
     "class": "new", "form": "paraphrase"},
    {"prompt": "Finn Vale plays the", "subject": "Finn Vale", "relation": "plays", "answer": "flute", "class": "old"},
    {"prompt": "He plays the", "subject": "Finn Vale", "relation": "plays", "answer": "flute"},
]  # fmt: skip


def test_probes_of_ones_own(tmp_path, tokenizer):
    path = tmp_path / "probes.jsonl"
    path.write_text("\n".join(map(json.dumps, OWN)))
    found = read_probes(path, tokenizer)
    assert [fact.labels["fact"] for fact in found.facts] == ["Mara Holt/plays"] * 2 + ["Finn Vale/plays"]
    assert [fact.labels["form"] for fact in found.facts] == ["cloze", "paraphrase", "cloze"]
    assert found.facts[0].labels["class"] == "new"
    assert found.refused == (("line 4", "the prompt does not name its subject once"),)


def test_files_that_give_nothing(tmp_path):
    with pytest.raises(BadPrompt, match="cannot read facts"):
        read_probes(tmp_path / "missing.jsonl")
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(BadPrompt, match="it is empty"):
        read_probes(tmp_path / "empty.jsonl")
    (tmp_path / "broken.json").write_text("[1, ")
    with pytest.raises(BadPrompt, match="cannot read facts"):
        read_counterfact(tmp_path / "broken.json")


def test_at_a_terminal(tmp_path):
    path, out = tmp_path / "counterfact.json", tmp_path / "facts.jsonl"
    path.write_text(json.dumps(RECORDS))
    done = CliRunner().invoke(app, ["facts", str(path), "--format", "counterfact", "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert "row 3: no other subject" in done.stderr
    assert len(load_facts(out)) == 3
    below = [str(tmp_path / "new" / "facts.jsonl"), str(out / "below a file")]
    written, refused = (
        CliRunner().invoke(app, ["facts", str(path), "--format", "counterfact", "--out", place]) for place in below
    )
    assert written.exit_code == 0
    assert refused.exit_code == 2
    assert "cannot be written" in refused.stderr
    done = CliRunner().invoke(app, ["facts", str(path), "--format", "xml", "--out", str(out)])
    assert done.exit_code == 2
