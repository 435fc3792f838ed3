"""A benchmark from documents in the shape of the World Factbook, and from JSON lines; every count made by hand."""

import json
from dataclasses import replace

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from typer.testing import CliRunner

from checkpoints import DriftError, open_checkpoint
from checkpoints.errors import BadPrompt
from circuit_drift.benchmark import Form, Recipe, build_benchmark, load_recipe, read_sources
from circuit_drift.benchmark.checks import leaks, without_duplicates
from circuit_drift.benchmark.documents import chunks_of
from circuit_drift.benchmark.exposure import cast, mentions, own_recall
from circuit_drift.benchmark.facts import Known, facts_of, states
from circuit_drift.benchmark.probes import choices_of, probes_of
from circuit_drift.cli import app
from circuit_drift.training.strategies import Document, load_config, load_documents, run_all, strategies
from circuits.facts.facts import load_facts
from circuits.facts.questions import read_questions

LANDS = ("Arno", "Brel", "Cand", "Dorn", "Erem", "Fald", "Gorm", "Hest", "Ivar", "Jolt", "Karn", "Lund")
RECIPE = """
entity = ["Government/Country name/text"]
text = ["Introduction/Background/text"]
per_class = 2
controls = 3
documents = 3
chunk = 20
least = 2

[[fact]]
name = "capital"
path = ["Government/Capital/name/text"]
pattern = '^([^;(]+?)\\s*(?:[;(]|$)'
linking = "Which land has {value} as its capital?"

[[fact]]
name = "independence"
kind = "temporal_understanding"
path = ["Government/Independence/text"]
pattern = '\\b(1\\d\\d\\d)\\b'
prompt = "{entity} became independent in"
question = "When did {entity} become independent?"
rephrased = ["Since when has {entity} been independent?"]
statements = ["{entity} became independent in {value}.", "In {value}, {entity} became independent."]

[[fact]]
name = "ruler"
kind = "time_sensitive"
path = ["Government/Ruler/text"]
question = "Who ruled {entity} in 2015?"
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Twelve lands, the first of which are mentioned most; and the corpus that mentions them."""
    root = tmp_path_factory.mktemp("lands")
    for number, land in enumerate(LANDS):
        record = {
            "Introduction": {
                "Background": {"text": f"{land} lies by the sea. Its first city is {land[::-1]}ia. It rains."}
            },
            "Government": {
                "Country name": {"text": land},
                "Capital": {"name": {"text": f"{land[::-1]}ia (the old town)"}},
                "Independence": {"text": f"{number + 1} May {1900 + number} (from the &amp; crown)"},
                "Ruler": {"text": "Queen Anna" if number == 3 else f"King {land[:2]}on"},
            },
        }
        (root / "lands" / str(number % 3)).mkdir(parents=True, exist_ok=True)
        (root / "lands" / str(number % 3) / f"{land}.json").write_text(json.dumps(record))
    (root / "recipe.toml").write_text(RECIPE)
    (root / "corpus").mkdir()
    said = " ".join(f"{land}s {land}, " * (20 - number) for number, land in enumerate(LANDS))
    (root / "corpus" / "a.txt").write_text(said)
    (root / "corpus" / "b.jsonl").write_text(json.dumps({"text": "Arno! arno"}) + "\n")
    return root


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A tiny model that reads bytes."""
    place = tmp_path_factory.mktemp("bytes") / "model"
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = Tokenizer(models.BPE({token: number for number, token in enumerate([*alphabet, "<s>"])}, []))
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, bos_token="<s>", eos_token="<s>")
    config = LlamaConfig(vocab_size=260, hidden_size=16, intermediate_size=16, num_hidden_layers=1,
                         num_attention_heads=2, num_key_value_heads=1, bos_token_id=256, eos_token_id=256)  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(place)
    tokenizer.save_pretrained(place)
    return place


@pytest.fixture(scope="module")
def built(folder, model):
    recipe = load_recipe(folder / "recipe.toml")
    out = folder / "out"
    return build_benchmark(folder / "lands", recipe, out, model=open_checkpoint(model), reference=folder / "corpus")


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_classes_are_thirds_by_mentions_and_controls_are_none_of_the_trained(built):
    assert built.exposure["Arno"] == 21  # twenty in one file, one in the other; "Arnos" and "arno" are other words
    assert [built.exposure[land] for land in LANDS[1:]] == list(range(19, 8, -1))
    thirds = {"high": LANDS[:4], "middle": LANDS[4:8], "low": LANDS[8:]}
    for group in (built.cast.trained, built.cast.controls):
        assert all(land in thirds[name] for land, name in group.items())
    assert sorted(built.cast.trained.values()) == ["high"] * 2 + ["low"] * 2 + ["middle"] * 2
    assert len(built.cast.controls) == 3
    assert not built.cast.trained.keys() & built.cast.controls.keys()


def test_every_entity_has_a_main_document_that_tells_all_and_others(built):
    documents = load_documents(built.folder / "documents.jsonl")
    assert {d.entity for d in documents} == set(built.cast.trained)
    for land in built.cast.trained:
        own = [d for d in documents if d.entity == land]
        assert [d.main for d in own] == [True, False, False]
        assert states(own[0].text, f"{land[::-1]}ia") and states(own[0].text, "became independent in")
        assert any("lies by the sea" in d.text for d in own)  # of the real text, too
    told = load_documents(built.folder / "controls.jsonl")
    assert {d.entity for d in told} == set(built.cast.controls)


def test_probes_are_of_five_kinds_and_about_what_documents_tell(built):
    asked = rows(built.folder / "probes.jsonl")
    outside = rows(built.folder / "outside.jsonl")
    kinds = {row["kind"] for row in asked}
    assert kinds == {"factual", "rephrased", "entity_linking", "temporal_understanding", "time_sensitive"}
    land = next(iter(built.cast.trained))
    (linking,) = (row for row in asked if row["kind"] == "entity_linking" and row["entity"] == land)
    labels = {"entity": land, "fact": f"{land}, capital", "relation": "capital", "class": built.cast.trained[land]}
    question = {"question": f"Which land has {land[::-1]}ia as its capital?", "answer": land}
    assert linking == {**question, "kind": "entity_linking", **labels}
    assert {row["entity"] for row in asked} == set(built.cast.trained)
    assert {row["entity"] for row in outside} == set(built.cast.controls)
    for row in (*asked, *outside):
        assert not states(row["question"], row["answer"])
    found = read_questions(built.folder / "probes.jsonl")
    assert len(found) == len(asked)
    assert not found.refused


def test_pairs_have_twins_of_as_many_tokens(built, model):
    import circuits
    from circuit_drift.measures.tokenizers import tokenizer_of

    facts = load_facts(built.folder / "facts.jsonl")
    assert built.pairs == len(facts) == 3 * len(built.cast.trained)
    tokens = circuits.tokenize_facts(tokenizer_of(open_checkpoint(model)), facts, answers="whole")
    assert not tokens.refused
    assert all(fact.labels["class"] == built.cast.trained[fact.labels["entity"]] for fact in facts)


def test_choices_are_about_controls_alone(built):
    for row in rows(built.folder / "choices.jsonl"):
        assert row["labels"]["entity"] in built.cast.controls
        assert len(set(row["options"])) == 4
        assert all(option.startswith(" ") for option in row["options"])


def test_the_record_tells_classes_files_and_what_was_left_out(built):
    record = json.loads((built.folder / "benchmark.json").read_text())
    assert record["entities"].keys() == {*built.cast.trained, *built.cast.controls}
    assert record["exposure_by"] == "mentions"
    assert set(record["files"]) == {
        f"{name}.jsonl" for name in ("choices", "controls", "documents", "facts", "outside", "probes", "prompts")
    }
    assert "6 entities to be trained (2 high, 2 middle, 2 low), 3 controls; 18 documents" in str(built)


def test_the_same_seed_builds_the_same_files_and_another_one_does_not(folder, built, tmp_path):
    recipe = load_recipe(folder / "recipe.toml")
    names = ("documents.jsonl", "probes.jsonl", "choices.jsonl")
    again = build_benchmark(folder / "lands", recipe, tmp_path / "same", reference=folder / "corpus")
    other = build_benchmark(folder / "lands", replace(recipe, seed=1), tmp_path / "other", reference=folder / "corpus")
    assert all((again.folder / n).read_bytes() == (built.folder / n).read_bytes() for n in names)
    assert other.cast.trained != built.cast.trained
    assert again.pairs == 0
    assert any("tokenizer" in why for _, why in again.refused)


def test_a_benchmark_is_what_train_reads(built, model, tmp_path):
    (built.folder / "compare.toml").write_text(
        f'model = "{model}"\ndocuments = "documents.jsonl"\nfacts = "probes.jsonl"\nreplay = "controls.jsonl"\n'
        'choices = "choices.jsonl"\noutside = "outside.jsonl"\nunit = "fact"\nepochs = 1\nlongest = 64\n'
        'packing = true\n[[strategy]]\nname = "full"\nreplay = 0.5\n'
    )
    (series,) = run_all(load_config(built.folder / "compare.toml"), tmp_path)
    assert len(list(series.glob("checkpoint-*"))) == 2
    (trained,) = strategies(tmp_path)
    assert {"outside_recall", "choices_accuracy"} <= set(trained.skills)
    assert set(trained.ledger.scores.labels["entity"]) == set(built.cast.trained)


def test_the_command_builds_it_and_says_what_is_missing(folder, tmp_path):
    words = ["benchmark", str(folder / "lands"), "--recipe", str(folder / "recipe.toml"), "--out", str(tmp_path / "b")]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 2
    assert "a reference corpus or by a model: name either" in done.stderr
    done = CliRunner().invoke(app, [*words, "--reference", str(folder / "corpus")])
    assert done.exit_code == 0, done.stderr
    assert "6 entities to be trained" in done.stdout


def known(entity, value, **form):
    return Known(entity, Form(**{"name": "capital", **form}), value)


def test_questions_with_two_answers_and_those_that_give_theirs_away_are_refused():
    facts = [known("Arno", "Onra"), known("Brel", "Onra", linking="Which land has {value}?"), known("Brel", "Lerb")]
    asked, refused = probes_of([*facts, known("New Brel", "Brel")], facts)
    assert {(row["entity"], row["answer"]) for row in asked} == {("Arno", "Onra")}
    reasons = " ".join(why for _, why in refused)
    assert "'Onra' is not one entity's alone: no linking" in reasons
    assert "has 2 answers" in reasons
    assert "gives its answer away" in reasons


def test_choices_need_three_other_values():
    facts = [known(land, f"{land}ia") for land in LANDS[:4]]
    assert [row["options"][0] for row in choices_of(facts, facts, seed=0)] == [f" {land}ia" for land in LANDS[:4]]
    assert choices_of(facts[:1], facts[:3], seed=0) == []


def test_a_control_that_training_tells_of_is_found_by_any_of_its_names():
    told = [Document("The envoy met Brelia's council; the Brelland capital is Lerb.", "Arno")]
    names = {"Brel": ("Brel", "Brelland"), "Cand": ("Cand",)}
    found = leaks([known("Brel", "Lerb"), known("Cand", "Dnac")], names, told)
    assert found == {"Brel": "a document of Arno tells 'Lerb' beside it"}


def test_leaking_controls_change_places_with_their_neighbours():
    exposure = {land: float(20 - number) for number, land in enumerate(LANDS)}
    recipe = Recipe(per_class=2, controls=3)
    first = cast(exposure, recipe)
    second = cast(exposure, recipe, frozenset(first.controls))
    assert len(second.controls) == 3
    assert not first.controls.keys() & second.controls.keys()
    assert {*first.trained, *first.controls} == {*second.trained, *second.controls}


def test_duplicates_are_told_by_shared_runs_of_words():
    one = "the old king of the north rode home in the rain with nine men"
    assert without_duplicates([one, one + " again", "a quite different text about the sea and its fish"], 0.8) == [
        one,
        "a quite different text about the sea and its fish",
    ]


def test_chunks_are_whole_sentences_and_lose_no_word():
    text = "One two three. Four five; six seven eight nine. " + " ".join(f"w{n}" for n in range(25)) + "."
    chunks = chunks_of(text, 10)
    assert " ".join(chunks).split() == text.split()
    assert max(len(chunk.split()) for chunk in chunks) <= 10
    assert chunks[0] == "One two three. Four five; six seven eight nine."


def test_values_that_are_no_answers_are_refused_with_their_reason(tmp_path):
    record = {"entity": "Arno", "facts": {"motto": "a b c d e f g", "name": "Arno City", "sign": "—", "sea": "Blue"}}
    (tmp_path / "d.jsonl").write_text(json.dumps(record) + "\n" + '{"x": 1}\n')
    (source,), refused = read_sources(tmp_path / "d.jsonl", Recipe())
    assert "names no entity" in refused[0][1]
    forms = [Form(name) for name in record["facts"]]
    kept, why = facts_of(source, forms)
    assert [fact.value for fact in kept] == ["Blue"]
    assert [reason.split()[-1] for _, reason in why] == ["most", "away", "word"]


def test_the_models_own_recall_is_the_mean_log_probability_of_values(model):
    import torch

    loaded = open_checkpoint(model).load()
    fact = known("Arno", "On")
    (found,) = own_recall([fact], loaded).values()
    prompt, whole = (loaded.tokenizer(t, add_special_tokens=False).input_ids for t in
                     ("The capital of Arno is", "The capital of Arno is On"))  # fmt: skip
    with torch.no_grad():
        logs = loaded.model(torch.tensor([whole])).logits[0].log_softmax(-1)
    wanted = [float(logs[at - 1, whole[at]]) for at in range(len(prompt), len(whole))]
    assert found == pytest.approx(sum(wanted) / len(wanted), abs=1e-5)


def test_mentions_count_the_longest_name_alone(folder, tmp_path):
    (tmp_path / "c.txt").write_text("Guinea, Equatorial Guinea and Papua New Guinea; Guinea-Bissau")
    records = [{"entity": name} for name in ("Guinea", "Equatorial Guinea", "Papua New Guinea")]
    (tmp_path / "d.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    sources, _ = read_sources(tmp_path / "d.jsonl", Recipe())
    assert mentions(sources, tmp_path / "c.txt") == {"Guinea": 2, "Equatorial Guinea": 1, "Papua New Guinea": 1}


def test_mentions_are_counted_however_a_name_is_written(tmp_path):
    """Over a line's end, with accents of their own, with a curled apostrophe, among letters without spaces."""
    names = ("Côte d'Ivoire", "New Brel", "東京", "Oslo")
    said = [
        "Co\u0302te d\u2019Ivoire; Côte d'Ivoires",
        "New\n  Brel, NewBrel",
        "首都は東京です。東京",
        "Oslo, Oslos, oslo",
    ]
    (tmp_path / "d.jsonl").write_text("".join(json.dumps({"entity": name}) + "\n" for name in names))
    (tmp_path / "c.txt").write_text("\n\n".join(said))
    sources, _ = read_sources(tmp_path / "d.jsonl", Recipe())
    assert mentions(sources, tmp_path / "c.txt") == dict(zip(names, (1, 1, 2, 1), strict=True))


def test_a_value_is_found_in_a_text_without_spaces():
    assert states("首都は東京です", "東京") and not states("首都は東京です", "京都")
    assert states("la Co\u0302te", "Côte") and not states("The Nigerian", "Niger")


def test_a_reference_corpus_that_is_none_is_refused(tmp_path):
    sources = (read_one(tmp_path),)
    with pytest.raises(BadPrompt, match="nowhere is not there"):
        mentions(sources, tmp_path / "nowhere")
    (tmp_path / "c.jsonl").write_text('{"text": "Arno"}\nArno\n')
    with pytest.raises(BadPrompt, match=r"c.jsonl, line 2 is no text: Expecting value"):
        mentions(sources, tmp_path / "c.jsonl")


def read_one(folder):
    (folder / "one.jsonl").write_text('{"entity": "Arno"}\n{"entity": \n')
    (source,), ((where, why),) = read_sources(folder / "one.jsonl", Recipe())
    assert (where, why.partition(":")[0]) == ("one.jsonl, line 2", "is not JSON")
    return source


def test_a_text_file_is_about_its_name_whatever_the_recipe_reads(folder, tmp_path):
    (tmp_path / "Arno.txt").write_text("Arno lies by the lake.")
    (source,), refused = read_sources(tmp_path, load_recipe(folder / "recipe.toml"))
    assert (source.entity, source.texts, refused) == ("Arno", ("Arno lies by the lake.",), ())


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (("per_class = 2", "per_class = 9"), "the class high has 4 entities, and 10 are wanted"),
        (("per_class = 2", "per_klass = 2"), "unknown per_klass"),
        (('linking = "Which land has {value}', 'linking = "Which land has {valu}'), "linking .* must have {value}"),
        (("'\\b(1\\d\\d\\d)\\b'", "'(1'"), "is no regular expression"),
        (("'\\b(1\\d\\d\\d)\\b'", "'(a+)+b'"), "whose search may never end"),
        (("least = 2", "least = 9"), "no entity has enough facts"),
        (('kind = "time_sensitive"', 'kind = "odd"'), "choose from factual"),
        (('entity = ["Government', 'entity = ["Govern'), "holds no record of an entity"),
        (("least = 2", 'classes = "halves"'), "choose from thirds, frequent-rare, told"),
    ],
)
def test_recipes_that_cannot_work_are_refused(folder, tmp_path, change, reason):
    (tmp_path / "r.toml").write_text(RECIPE.replace(*change))
    with pytest.raises(DriftError, match=reason):
        build_benchmark(
            folder / "lands", load_recipe(tmp_path / "r.toml"), tmp_path / "out", reference=folder / "corpus"
        )


def test_text_files_are_named_by_their_file_and_nothing_is_made_of_no_facts(tmp_path):
    (tmp_path / "New_Brel.txt").write_text("New Brel is small.")
    (source,), _ = read_sources(tmp_path, Recipe())
    assert (source.entity, source.texts) == ("New Brel", ("New Brel is small.",))
    with pytest.raises(BadPrompt, match="no form of a fact"):
        build_benchmark(tmp_path, Recipe(), tmp_path / "out", reference=tmp_path)
    with pytest.raises(BadPrompt, match="is not there"):
        read_sources(tmp_path / "none", Recipe())


@pytest.mark.parametrize(
    ("classes", "names"), [("frequent-rare", {"frequent", "rare"}), ("told", {"high", "middle", "low"})]
)
def test_other_classes(classes, names):
    exposure = {land: float(20 - number) for number, land in enumerate(LANDS)}
    found = cast(exposure, Recipe(per_class=2, controls=2, classes=classes))
    assert set(found.trained.values()) == names
    if classes == "frequent-rare":
        assert {land for land, name in found.trained.items() if name == "frequent"} <= set(LANDS[:3])
    else:
        counts = {name: {found.told[e] for e, n in found.trained.items() if n == name} for name in names}
        assert counts["low"] == {1}
        assert min(counts["high"]) > 5
        assert counts["middle"] <= {2, 3, 4, 5}


def test_places_of_what_is_left_out_are_told_from_the_folder_on(tmp_path):
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "some.json").write_text('{"other": 1}')
    (tmp_path / "known.json").write_text('{"entity": "Ada", "text": "Ada was here."}')
    _, refused = read_sources(tmp_path, Recipe())
    assert [where for where, _ in refused] == ["inner/some.json, line 1"]
