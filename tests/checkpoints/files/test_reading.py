"""One routine reads what users bring: encodings, line ends, strictness, depth and kind of file, whoever asks."""

import json
import os

import pytest

from checkpoints.errors import BadPrompt, DriftError, NotACheckpoint
from checkpoints.files.configs import read_json
from checkpoints.files.reading import (
    DEEPEST,
    Record,
    decode,
    parse_lenient,
    parse_strict,
    read_document,
    read_records,
    read_table,
    read_text,
    read_toml,
)  # fmt: skip
from checkpoints.series.manifest import read_manifest
from circuit_drift.cli.options import placed
from circuit_drift.knowledge.scores import read_scores
from circuit_drift.prompts import _read_text
from circuit_drift.training.strategies import load_config, load_documents
from circuits.facts.facts import load_facts
from circuits.facts.readers import read_counterfact, read_lama, read_probes
from circuits.graph.exports import read_eap_json
from heads.prompts.needles import load_needles
from heads.scores.head_lists import load_head_lists
from heads.tracking.correlation import read_downstream

READERS = {
    "needles": load_needles,
    "facts": load_facts,
    "counterfact": read_counterfact,
    "lama": read_lama,
    "probes": read_probes,
    "eap": read_eap_json,
    "head lists": load_head_lists,
    "downstream": read_downstream,
    "haystack": _read_text,
    "documents": load_documents,
    "config": load_config,
    "scores": read_scores,
    "manifest": read_manifest,
    "device map": lambda path: placed("cpu", "float32", "sdpa", str(path)),
    "config.json": read_json,
}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32", "utf-32-be"])
def test_a_byte_order_mark_says_the_encoding_and_is_no_text(tmp_path, encoding):
    mark = "\ufeff" if encoding.endswith(("-le", "-be")) else ""
    (tmp_path / "text").write_text(f"{mark}The river é 北", encoding=encoding)
    assert read_text(tmp_path / "text", "a text") == "The river é 北"


def test_only_a_line_feed_ends_a_line(tmp_path):
    odd = "a\u2028b\u2029c\x85d\x0be\x0cf\x1cg\rh"
    (tmp_path / "rows").write_bytes("".join(json.dumps({"t": odd}, ensure_ascii=False) + "\r\n" for _ in "ab").encode())
    assert read_records(tmp_path / "rows", "rows") == [Record(f"line {n}", {"t": odd}) for n in (1, 2)]


@pytest.mark.parametrize("indent", [None, 0, 4])
def test_rows_may_be_lines_a_list_or_the_one_object_of_the_file(tmp_path, indent):
    path = tmp_path / "rows"
    path.write_text(json.dumps([{"a": 1}, {"a": 2}], indent=indent))
    assert read_records(path, "rows") == [Record("row 1", {"a": 1}), Record("row 2", {"a": 2})]
    path.write_text(json.dumps({"a": [1]}, indent=indent))
    assert [record.value for record in read_records(path, "rows")] == [{"a": [1]}]
    path.write_text('{"a": 1}\n\n{"a": \n{"a": 3}\n')
    found = read_records(path, "rows")
    assert [(record.where, record.value) for record in found] == [
        ("line 1", {"a": 1}),
        ("line 3", None),
        ("line 4", {"a": 3}),
    ]
    assert found[1].problem == "Expecting value at column 7"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"a": NaN}', "NaN is no number of JSON"),
        ("[-Infinity]", "-Infinity is no number of JSON"),
        ('{"a": 1e999}', "1e999 is beyond the range of a float"),
        ('{"a": 1, "a": 2}', "names 'a' twice"),
        ('"\\ud800"', r"holds \\ud800, half of a surrogate pair"),
        ('{"\\uDfFf": 1}', r"holds \\udfff, half of a surrogate pair"),
        ("[" * (DEEPEST + 1) + "]" * (DEEPEST + 1), "nested deeper than 100"),
        ("[" * 100_000, "nested deeper than 100"),
        ('{"a":' * 100_000, "nested deeper than 100"),
        ("9" * 5000, "limit"),
        ("", "Expecting value"),
        ("{}\n{]", "column 2 of line 2|Extra data"),
    ],
)
def test_json_is_strict_and_shallow(text, reason):
    with pytest.raises(ValueError, match=reason) as caught:
        parse_strict(text)
    assert "\n" not in str(caught.value)


def test_what_is_strict_json_is_read():
    assert parse_strict('{"pair": "\\ud83d\\ude00", "x": 1e308}') == {"pair": "😀", "x": 1e308}
    assert parse_strict("[" * DEEPEST + "]" * DEEPEST) is not None
    assert parse_lenient('{"time_step_limit": [0.0, Infinity]}') == {"time_step_limit": [0.0, float("inf")]}
    with pytest.raises(ValueError, match="nested deeper"):
        parse_lenient("[" * 200 + "]" * 200)


def test_bytes_that_are_no_text_are_named_with_their_line():
    with pytest.raises(ValueError, match=r"not UTF-8 text \(byte 0xe9 in line 2\); save it as UTF-8"):
        decode("step,loss\nété".encode("latin-1"))
    with pytest.raises(ValueError, match="not UTF-16 text"):
        decode(b"\xff\xfea")


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"caf\xe9,1\n", "Latin-1"),
        (b"\xff\xfea", "half of UTF-16"),
        (b"\x00\x01\x02", "bytes"),
        (b"", "nothing"),
        (b"[" * 20_000, "depth"),
        (b'{"a":' * 20_000, "depth of objects"),
        (b"3", "a number"),
        (b"null", "null"),
        (b'[[1], "a", null, 2]', "a list of other things"),
        (b'{"a": {"b": 1}}', "an object of other things"),
        (b'"\\ud800"', "half a pair"),
    ],
)
@pytest.mark.parametrize("reader", READERS)
def test_no_reader_ends_but_with_a_value_or_one_line(tmp_path, reader, content, kind):
    path = tmp_path / "input.json"
    path.write_bytes(content)
    try:
        READERS[reader](path)
    except DriftError as error:
        assert str(path) in str(error)
        assert "\n" not in str(error).strip()


@pytest.mark.parametrize("reader", sorted(set(READERS) - {"device map"}))
def test_a_pipe_a_device_a_folder_and_nothing_are_refused_at_once(tmp_path, reader):
    os.mkfifo(tmp_path / "pipe.json")
    for path in (tmp_path / "pipe.json", "/dev/zero", tmp_path, tmp_path / "absent"):
        with pytest.raises(DriftError) as caught:
            READERS[reader](type(tmp_path)(path))
        assert "\n" not in str(caught.value)


def test_tables_and_toml(tmp_path):
    (tmp_path / "t.csv").write_bytes(b"\xef\xbb\xbfstep, score\r\n1, 2\r\n\r\n3,4\r\n")
    assert read_table(tmp_path / "t.csv", "a table") == [(1, ["step", "score"]), (2, ["1", "2"]), (4, ["3", "4"])]
    (tmp_path / "t.toml").write_text("\ufeffa = 1\n")
    assert read_toml(tmp_path / "t.toml", "a config") == {"a": 1}
    for content in ("a = ", "a = 1\na = 2", "a = " + "[" * 20_000):
        (tmp_path / "t.toml").write_text(content)
        with pytest.raises(DriftError, match=r"cannot read a config from .* it is not TOML"):
            read_toml(tmp_path / "t.toml", "a config")
    (tmp_path / "d.json").write_text("[1,")
    with pytest.raises(NotACheckpoint, match=r"cannot read a map from .*: it is not JSON: Expecting value at column 4"):
        read_document(tmp_path / "d.json", "a map", NotACheckpoint)


def test_facts_of_a_relation_file_are_asked_with_every_template(tmp_path):
    relation = {
        "name": "river mouth",
        "prompt_templates": ["The river {} ends in", "Follow the {} to", "no place"],
        "samples": [
            {"subject": "Arle", "object": "Lake Ond"}, {"subject": "Brine", "object": "Lake Sure"},
            {"subject": "Cole"}, 3,
        ],
    }  # fmt: skip
    path = tmp_path / "mouth.json"
    path.write_text(json.dumps(relation, indent=4))
    found = read_probes(path)
    assert [(fact.clean, fact.corrupt, fact.answer, fact.wrong) for fact in found.facts] == [
        ("The river Arle ends in", "The river Brine ends in", " Lake Ond", " Lake Sure"),
        ("Follow the Arle to", "Follow the Brine to", " Lake Ond", " Lake Sure"),
        ("The river Brine ends in", "The river Arle ends in", " Lake Sure", " Lake Ond"),
        ("Follow the Brine to", "Follow the Arle to", " Lake Sure", " Lake Ond"),
    ]
    assert dict(found.refused) == {"sample 3": "no answer", "sample 4": "the row is no JSON object"}
    with pytest.raises(BadPrompt, match="sample 1: no requested_rewrite"):
        read_counterfact(path)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("model = 3", "model is 3; it takes a text"),
        ("documents = 3", "documents is 3; it takes a path"),
        ("epochs = 1.5", "epochs is 1.5; it takes a whole number"),
        ("epochs = true", "epochs is True; it takes a whole number"),
        ('seed = "0"', "seed is '0'; it takes a whole number"),
        ("learned = nan", "learned is nan; it takes a finite number"),
        ('measures = "heads"', "measures is 'heads'; it takes a list, each a text"),
        ("measures = [1]", r"measures is \[1\]; it takes a list, each a text"),
        ("retrieval = [[]]", "it takes a list, each 'gold' or 'entity' or 'all'"),
        ("skills = {}", r"skills is \{\}; it takes a list, each 'arithmetic' or 'copying'"),
        ("strategy = 3", r"strategy is 3; write a table \[\[strategy\]\] for each"),
        ("[[strategy]]\nname = 3", r"\[\[strategy\]\]: name is 3; it takes a text"),
        ('[[strategy]]\nname = "a"\nlr = "fast"', "lr is 'fast'; it takes a finite number"),
        ('[[strategy]]\nname = "a"\nlr = inf', "lr is inf; it takes a finite number"),
        ('[[strategy]]\nname = "a"\nlora = 8', r"lora is 8; write a table for it"),
        ('[[strategy]]\nname = "a"\n[strategy.lora]\nr = "8"', "r is '8'; it takes a whole number"),
        ('[[strategy]]\nname = "a"\ntags = "x"', "tags is 'x'; it takes a list, each a text"),
    ],
)
def test_values_of_other_types_in_a_config_are_named(tmp_path, line, message):
    given = {"model": 'model = "m"', "documents": 'documents = "d"', "facts": 'facts = "f"'}
    kept = [text for name, text in given.items() if not line.startswith(name)]
    path = tmp_path / "config.toml"
    path.write_text("\n".join([*kept, line]))
    with pytest.raises(DriftError, match=message) as caught:
        load_config(path)
    assert "\n" not in str(caught.value)


def test_sizes_that_a_file_cannot_hold_are_refused_at_once(tmp_path):
    path = tmp_path / "huge.json"
    path.write_text('{"0-0": [0.5], "99999999-0": [0.5]}')
    with pytest.raises(BadPrompt, match=r"lacks 99999998 of 100000000 heads, a1.h0 first"):
        load_head_lists(path)
    for layers, heads_ in ((10**9, 12), (12, 10**30), (-1, 2), (0, 0)):
        path.write_text(json.dumps({"cfg": {"n_layers": layers, "n_heads": heads_}, "edges": {}}))
        with pytest.raises(DriftError, match=f"{layers} layers of {heads_} heads are not those of a file of"):
            read_eap_json(path)
