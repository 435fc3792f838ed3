"""Former module paths and names: each gives what took its place, with a warning that names it."""

import importlib
import sys
from importlib.machinery import PathFinder

import pytest

import checkpoints
import heads
from checkpoints.former import FORMER, NAMES


@pytest.mark.parametrize("old", FORMER)
def test_a_former_path_is_the_module_in_its_place(old: str, monkeypatch: pytest.MonkeyPatch):
    new = importlib.import_module(FORMER[old])
    monkeypatch.delitem(sys.modules, old, raising=False)
    with pytest.warns(DeprecationWarning, match=f"^{old} is now {FORMER[old]}; "):
        assert importlib.import_module(old) is new
    monkeypatch.delitem(sys.modules, old)


def test_what_lies_in_a_moved_package_is_not_loaded_twice():
    from circuit_drift.training.strategies import comparison

    with pytest.warns(DeprecationWarning):
        assert importlib.import_module("circuit_drift.lab.cpt.comparison") is comparison


def test_the_finder_is_installed_once():
    before = list(sys.meta_path)
    checkpoints.former.install()
    assert sys.meta_path == before


def test_no_former_path_is_a_module_again():
    for old in FORMER:
        package, _, leaf = old.rpartition(".")
        if package not in FORMER:
            home = importlib.import_module(package).__path__[0]
            assert PathFinder.find_spec(leaf, [home]) is None


@pytest.mark.parametrize("old", NAMES)
def test_a_former_name_is_what_took_its_place(old: str):
    package, _, name = old.rpartition(".")
    home, _, new = NAMES[old].rpartition(".")
    with pytest.warns(DeprecationWarning, match=f"^{old} is now {NAMES[old]}; ") as caught:
        given = getattr(importlib.import_module(package), name)
    assert given is getattr(importlib.import_module(home), new)
    assert {warning.filename for warning in caught} == {__file__}


def test_a_former_name_is_imported_as_it_was():
    with pytest.warns(DeprecationWarning, match=r"^heads.compare is now heads.diff; "):
        from heads import compare  # type: ignore[attr-defined]
    assert compare is heads.diff


PUBLIC = {
    "checkpoints": "Checkpoint DriftError Placement Series audit open_checkpoint open_series",
    "heads": "Needle Scores ablate diff needle_prompts score track",
    "circuits": "AttributionGraph Fact attribute diff faithfulness tokenize_facts track",
    "circuit_drift": "Measure diff explain load_run run",
}


@pytest.mark.parametrize("package", PUBLIC)
def test_the_names_that_are_promised(package: str):
    face = importlib.import_module(package)
    assert face.__all__ == dir(face) == PUBLIC[package].split()
    assert not {f"{package}.{name}" for name in face.__all__} & set(NAMES)
    with pytest.raises(AttributeError, match="no_such_name"):
        getattr(face, "no_such_name")  # noqa: B009


def test_the_audit_is_a_function_and_its_room_beside_it():
    import checkpoints.audit.report
    from checkpoints.audit import audit

    assert checkpoints.audit is audit
