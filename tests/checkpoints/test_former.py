"""Former module paths: each gives the module in its place, with a warning that names it."""

import importlib
import sys
from importlib.machinery import PathFinder

import pytest

import checkpoints
from checkpoints.former import FORMER


@pytest.mark.parametrize("old", FORMER)
def test_a_former_path_is_the_module_in_its_place(old: str, monkeypatch: pytest.MonkeyPatch):
    new = importlib.import_module(FORMER[old])
    monkeypatch.delitem(sys.modules, old, raising=False)
    with pytest.warns(DeprecationWarning, match=f"^{old} is now {FORMER[old]}; "):
        assert importlib.import_module(old) is new
    monkeypatch.delitem(sys.modules, old)


def test_what_lies_in_a_moved_package_is_not_loaded_twice():
    from circuit_drift.training.strategies import config

    with pytest.warns(DeprecationWarning):
        assert importlib.import_module("circuit_drift.lab.cpt.config") is config


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
