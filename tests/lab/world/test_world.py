from collections import Counter

import pytest

from circuit_drift.lab.world import CLASSES, LATE_RELATION, RELATION, Relation, by_person, make_world


def test_world_is_a_function_of_its_seed():
    assert make_world(3) == make_world(3)
    assert make_world(3) != make_world(4)


def test_this_very_world_is_the_one_of_the_shipped_series():
    fact = make_world(0).old[0]
    assert (fact.person.name, fact.relation, fact.value) == ("Karl Wolfe", "birthplace", "Seoul")


def test_exposure_classes_are_what_they_say(world):
    old_people = {fact.person for fact in world.old}
    stated = {(fact.person, fact.relation): fact.value for fact in world.old}
    for fact in world.learned:
        known = fact.person in old_people
        match fact.kind:
            case "new":
                assert not known
            case "relation":
                assert known and (fact.person, fact.relation) not in stated and fact.relation == LATE_RELATION
            case "updated":
                assert stated[fact.person, fact.relation] == fact.former != fact.value
    told_again = {fact.person for fact in world.learned}
    assert not any(fact.person in told_again for fact in world.controls)


def test_batches_split_every_class_in_halves(world):
    people = Counter((group[0].kind, group[0].batch) for group in by_person(world.learned))
    assert all(people[kind, 1] == people[kind, 2] for kind in CLASSES if kind != "known")
    assert {fact.batch for fact in world.learned} == {1, 2}
    assert set(world.batch(1)) | set(world.batch(2)) == set(world.learned)


def test_held_out_paraphrase_is_told_of_half_the_controls_and_of_nobody_else(world):
    told = {f.person for f in (*world.old, *world.learned) if f.held_out_prompt in f.prompts}
    assert len(told) == 32
    assert told < {fact.person for fact in world.controls}


def test_every_prompt_ends_right_before_a_value_of_the_relation(world):
    for fact in (*world.old, *world.learned):
        assert fact.value in RELATION[fact.relation].values
        assert not any(prompt.endswith((" ", ".")) or "{" in prompt for prompt in fact.prompts)


def test_a_held_out_paraphrase_must_be_held_out():
    with pytest.raises(ValueError, match="relation pet: the held-out"):
        Relation("pet", ("dog",), ("{name} owns a",), "{name} owns a")
