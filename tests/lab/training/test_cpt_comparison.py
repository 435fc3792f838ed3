"""Strategies side by side: retrieval as the reference, drift beside its noise floor, the page, the claims."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

import circuits
from checkpoints import open_checkpoint
from checkpoints.errors import BadPrompt
from circuit_drift.lab import probes
from circuit_drift.lab.build import save_checkpoint
from circuit_drift.lab.train import build_model
from circuit_drift.replicate.knowledge_claims import claims_frame
from circuit_drift.replicate.knowledge_study import STRATEGIES, few_needles, study
from circuit_drift.training.strategies import (
    Document,
    comparison_frame,
    function_frame,
    outcome_frame,
    retrieval_frame,
    retrieval_scores,
    run_all,
    strategies,
    write_comparison,
)
from circuit_drift.training.strategies import figures as drawn
from circuit_drift.training.strategies.retrieval import Index, answers_given, passages
from circuits.facts.facts import load_facts
from tests.drift.handmade import transfer

EPOCHS = 2


@pytest.fixture(scope="module")
def compared(tiny_recipe, tokenizer, tmp_path_factory):
    """The lab's comparison, on an untrained model of one layer."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("compared")
    save_checkpoint(folder / "base", build_model(tiny_recipe, tokenizer), tokenizer)
    config = study(folder / "material", ("LoRA", "KL-original", "main-only"), people=2, epochs=EPOCHS)
    fast = tuple(replace(strategy, lr=3e-2) for strategy in config.strategies)
    config = replace(config, model=str(folder / "base"), strategies=fast, traced=config.facts)
    run_all(config, folder / "out", measures=[few_needles()])
    return folder / "out", config


@pytest.fixture(scope="module")
def trained(compared):
    return strategies(compared[0])


def test_every_strategy_of_the_study_has_its_own_name_and_is_known():
    assert len({strategy.name for strategy in STRATEGIES}) == len(STRATEGIES)
    with pytest.raises(ValueError, match="there is no strategy luck"):
        study(None, ("luck",))


def test_the_study_probes_every_class_of_prior_exposure(compared):
    _, config = compared
    facts = load_facts(config.facts)
    people = {fact.labels["class"]: set() for fact in facts}
    for fact in facts:
        people[fact.labels["class"]].add(fact.labels["person"])
    assert {name: len(found) for name, found in people.items()} == dict.fromkeys(people, 2)
    assert set(people) == {"new", "relation", "updated", "known"}
    told = config.documents.read_text()
    assert not any(name in told for name in people["known"])
    assert not any(name in config.replay.read_text() for name in people["known"])


def test_outcomes_are_those_of_the_ledger_and_the_log(compared, trained):
    table = outcome_frame(compared[0]).set_index("strategy")
    assert list(table.index) == ["LoRA", "KL-original", "main-only"]
    for one in trained:
        row = table.loc[one.name]
        assert row["known_last"] == one.ledger.known[:, -1].sum()
        assert row["loss_last"] == one.log["document_loss"].iloc[-1]
        assert row["epochs"] == EPOCHS == len(one.log) - 1
    assert len(comparison_frame(compared[0])) == 3 * (EPOCHS + 1)


def test_the_loss_is_of_the_documents_as_they_are(compared, trained):
    out, config = compared
    model = open_checkpoint(out / "LoRA" / f"checkpoint-{trained[0].log['step'].iloc[-1]}").load()
    from circuit_drift.training.strategies import load_documents
    from circuit_drift.training.strategies.settings.documents import token_ids

    total, count = 0.0, 0
    for text in load_documents(config.documents):
        ids = torch.tensor([token_ids(model.tokenizer, text)])
        with torch.no_grad():
            total += float(model.model(input_ids=ids, labels=ids).loss) * (ids.shape[1] - 1)
        count += ids.shape[1] - 1
    assert trained[0].log["document_loss"].iloc[-1] == pytest.approx(total / count, rel=1e-5)


def test_drift_is_measured_against_the_first_circuit_and_its_floor(trained):
    drift = trained[0].drift()
    assert drift["epoch"].tolist() == [1, 2]
    assert ((drift["overlap"] >= 0) & (drift["overlap"] <= 1)).all()
    assert (drift["beyond_noise"] == (drift["overlap"] < drift["floor_low"])).all()
    first, last = (point.circuit for point in trained[0].run if point.step in (0, trained[0].log["step"].iloc[-1]))
    circuits = [graph.prune(graph.circuit_edges) for graph in (first, last)]
    edges, nodes = ([set(getattr(circuit, part)) for circuit in circuits] for part in ("edges", "nodes"))
    assert drift["edges"].iloc[-1] == pytest.approx(len(edges[0] & edges[1]) / len(edges[0] | edges[1]))
    assert drift["nodes"].iloc[-1] == pytest.approx(len(nodes[0] & nodes[1]) / len(nodes[0] | nodes[1]))


def test_the_first_circuit_is_followed_through_the_later_models():
    kept = [[0.9, 0.8, 0.4], [0.1, 0.7, 0.2], [0.3, 0.5, 0.6]]
    frame = function_frame(transfer(["0", "15", "30"], kept))
    assert frame["step"].tolist() == [0, 15, 30]
    assert frame["first"].tolist() == pytest.approx([0.9, 0.8, 0.4])
    assert frame["own"].tolist() == pytest.approx([0.9, 0.7, 0.6])
    assert frame["facts"].tolist() == [2] * 3
    assert frame["edges"].tolist() == [20] * 3  # the first circuit's


def test_the_page_opens_with_the_verdict(compared, trained, tmp_path):
    text = write_comparison(compared[0], tmp_path / "page.html").read_text()
    first = text.index(drawn.loss_finding(trained))
    for heading in ("Loss and recall", "Acquired, retained, forgotten", "By prior exposure", "Outside the domain"):
        assert first < text.index(heading)
    assert "Circuits against the noise floor" in text
    assert str(compared[0]) not in text


def test_figures_draw_every_strategy(trained):
    names = {one.name for one in trained}
    for figure in (drawn.loss_and_recall(trained), drawn.exposure(trained), drawn.skills(trained)):
        assert {trace.name for trace in figure.data} == names
    bars = drawn.transitions(trained)
    known = sum(np.array(bar.y) for bar in bars.data[:2])
    assert known.tolist() == trained[0].ledger.known.sum(axis=0).tolist()
    assert drawn.circuit_drift_figure(trained).data


def test_choices_and_tasks_are_panels_of_the_skills(trained):
    added = {
        "choices_accuracy": 0.5,
        "task_own_acc": 0.25,
        "task_own_perplexity": [3.0, *[2.0] * (len(trained[0].log) - 1)],
    }
    more = [replace(one, log=one.log.assign(**added)) for one in trained]
    assert more[0].skills == (*trained[0].skills, *added)
    figure = drawn.skills(more)
    panels = [title.text for title in figure.layout.annotations]
    assert {"choices accuracy", "task own acc", "task own perplexity"} <= set(panels)
    assert len(figure.data) == len(more) * len(more[0].skills)
    assert figure.layout.title.text.startswith(f"task own perplexity: {more[0].name} -1.00")


PASSAGES = (
    Document("Mara Holt plays the lute. Mara Holt is fond of chess.", "Mara Holt", main=True),
    Document("Mara Holt grew up in Oslo.", "Mara Holt"),
    Document("Finn Vale plays the oboe.", "Finn Vale"),
)


def fact(clean, answer, person):
    return circuits.Fact(clean, clean.replace(person, "Otto Moss"), f" {answer}", " Rome", {"person": person})


def test_passages_are_the_one_that_states_it_or_the_best_match():
    asked = [
        fact("Mara Holt grew up in", "Oslo", "Mara Holt"),
        fact("The instrument of Finn Vale is the", "tuba", "Finn Vale"),
        fact("Mara Holt is fond of", "chess", "Mara Holt"),
    ]
    assert passages("gold", asked, PASSAGES, entity="person") == [PASSAGES[1], None, PASSAGES[0]]
    assert passages("entity", asked, PASSAGES, entity="person") == [PASSAGES[1], PASSAGES[2], PASSAGES[0]]
    assert passages("all", asked, PASSAGES, entity="person") == [PASSAGES[1], PASSAGES[2], PASSAGES[0]]


def test_the_search_is_the_cosine_of_tf_idf():
    """Smoothed inverse document frequencies and Euclidean rows (Manning et al. 2008, 6.3), written out densely."""
    texts = [Document(probes.haystack(seed)[:400]) for seed in range(6)]
    bags = [text.text.lower().replace(".", "").replace(",", "").split() for text in texts]
    words = sorted({word for bag in bags for word in bag})
    idf = np.array([1 + math.log(7 / (1 + sum(word in bag for bag in bags))) for word in words])

    def rows(lists):
        weights = np.array([[bag.count(word) for word in words] for bag in lists]) * idf
        return weights / np.linalg.norm(weights, axis=1, keepdims=True)

    index = Index(texts)
    order = [list(index._place).index(word) for word in words]
    assert index._rows.toarray()[:, order] == pytest.approx(rows(bags))
    for query in ("the river near the lighthouse", "a quiet librarian"):
        assert index.best(query) == texts[int((rows(bags) @ rows([query.split()]).T).argmax())]


def test_a_probe_without_a_passage_or_too_long_with_it_is_refused_and_counted(compared):
    _, config = compared
    loaded = open_checkpoint(config.model).load()
    long = Document("Finn Vale plays the oboe." * 300, "Finn Vale")
    asked = [
        fact("Mara Holt grew up in", "Oslo", "Mara Holt"),
        fact("Mara Holt works for", "Axiom", "Mara Holt"),
        fact("Finn Vale plays the", "oboe", "Finn Vale"),
        fact("Lena Rask plays the", "oboe", "Lena Rask"),
    ]
    frame = answers_given("gold", asked, [*PASSAGES[:2], long], loaded, config=replace(config, unit=None))
    assert frame["refused"].dropna().tolist()[0] == "no document states it"
    assert "tokens with its passage, and the model has 1024 positions" in frame["refused"].dropna().tolist()[1]
    assert frame["score"].notna().sum() == 1
    assert frame["unit"].iloc[0].startswith(PASSAGES[1].text)
    with pytest.raises(BadPrompt, match="no fact can be asked with a passage"):
        answers_given("gold", asked[2:], [long], loaded, config=config)


def test_references_are_taken_once(compared, monkeypatch):
    out, config = compared
    table = retrieval_frame(out).set_index("passages")
    assert set(table.index) == {"gold", "entity", "all"}
    asked = [f for f in load_facts(config.facts) if f.labels["class"] != "known"]
    assert (table["asked"] + table["refused"] == len(asked)).all()
    assert (table["units"] == 6).all()
    monkeypatch.setattr("circuit_drift.training.strategies.retrieval.answers_given", None)
    run_all(config, out, measures=[few_needles()])


def test_claims_hold_figures_of_the_run(compared, trained):
    lora, kl, main = trained
    function = function_frame(transfer(["0", "1", "2"], [[0.9, 0.9, 0.4], [0.5, 0.95, 0.5], [0.5, 0.5, 0.8]]))
    table = claims_frame(lora, kl=kl, main=main, gold=retrieval_scores(compared[0])["gold"][0], function=function)
    rows = table.set_index("claim")
    loss = lora.log["document_loss"]
    assert f"loss {loss.iloc[0]:.2f} → {loss.iloc[-1]:.2f}" in rows.loc["the loss falls throughout", "ours"]
    kept = rows.loc["the circuit from before training goes on working"]
    assert kept["ours"] == (
        "40% to 90% (before: 90%), at least 44% [44%, 44%] of it; each epoch's own circuit 80% to 95% (20 edges)"
    )
    assert kept["reproduced"] == "no"
    assert set(rows["reproduced"]) <= {"yes", "no", "undecided"}
    assert not any(math.isnan(len(text)) or "nan" in text for text in table["ours"])


def test_what_was_not_run_is_told_and_left_open(trained):
    lora = trained[0]
    rows = claims_frame(lora, drift=pd.DataFrame(), skill="document_loss").set_index("claim")
    open_ = rows[rows["ours"] == "not run"]
    assert list(open_.index) == [
        "KL to the original model keeps them",
        "and learns nearly nothing",
        "main documents alone: an early peak, then a fall",
        "reading the right passage beats learning it",
        "the circuit's edges are others from the first epoch on",
        "the circuit from before training goes on working",
    ]
    assert set(open_["reproduced"]) == {"undecided"}
    assert rows.loc["skills outside the domain decline", "ours"].startswith("document loss ")


def test_the_circuits_claim_reads_the_frame_that_is_given(trained):
    frame = pd.DataFrame({"overlap": [0.4, 0.3], "floor": [0.5, 0.45], "beyond_noise": [True, False]})
    rows = claims_frame(trained[0], drift=frame).set_index("claim")
    said = rows.loc["the circuit's edges are others from the first epoch on"]
    assert said["ours"] == (
        "0.30 to 0.40; two halves of the facts at one checkpoint: 0.45 to 0.50; beyond that noise in 1 of 2 epochs"
    )
    assert said["reproduced"] == "undecided"
