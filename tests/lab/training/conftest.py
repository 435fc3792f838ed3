import pytest

from circuit_drift.lab import probes
from circuit_drift.lab.build import save_checkpoint
from circuit_drift.lab.documents import lab_documents
from circuit_drift.lab.train import build_model
from circuit_drift.training.strategies import write_documents


@pytest.fixture(scope="module")
def place(tiny_recipe, tokenizer, world, tmp_path_factory):
    """A model, new documents, old documents and facts."""
    folder = tmp_path_factory.mktemp("cpt")
    save_checkpoint(folder / "base", build_model(tiny_recipe, tokenizer), tokenizer)
    people = dict.fromkeys(fact.person for fact in world.batch(1))
    new = [fact for fact in world.batch(1) if fact.person in list(people)[:4]]
    write_documents(folder / "new.jsonl", lab_documents(new, per_person=4))
    write_documents(folder / "old.jsonl", lab_documents(world.controls[:20], per_person=2))
    probes.write_jsonl(folder / "facts.jsonl", _facts(new, world))
    return folder


def _facts(new, world):
    for fact in new:
        rival = next(f for f in world.batch(1) if f.relation == fact.relation and f.value != fact.value)
        labels = {"person": fact.person.name, "class": fact.kind}
        yield {"clean": fact.prompts[0], "corrupt": rival.prompts[0], "answer": fact.value, "wrong": rival.value} | {
            "labels": labels
        }
