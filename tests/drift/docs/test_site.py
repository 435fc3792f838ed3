"""The site: every page and notebook has its place in the navigation, and what it imports is there."""

import importlib.util
import json
import posixpath
import re
import sys
import tomllib
from types import ModuleType, SimpleNamespace

import yaml

from circuit_drift.cli.help import GROUPS
from tests.drift.docs.fences import ROOT


def _pages(nav):
    for entry in nav:
        for value in entry.values() if isinstance(entry, dict) else [entry]:
            yield from _pages(value) if isinstance(value, list) else [value]


def test_every_page_and_notebook_stands_in_the_navigation_once():
    nav = sorted(_pages(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]))
    docs = ROOT / "docs"
    pages = [path.relative_to(docs).as_posix() for path in docs.rglob("*.md")]
    books = [path.relative_to(ROOT).as_posix() for path in (ROOT / "notebooks").glob("*.ipynb")]
    assert nav == sorted([*pages, *books, "options.md"])


def test_links_in_notebooks_lead_to_pages_of_the_site(monkeypatch):
    stubs = {"mkdocs": {}, "mkdocs.structure": {}, "mkdocs.plugins": {"event_priority": lambda _: lambda event: event}}
    for name, content in (stubs | {"mkdocs.structure.files": {"File": object, "Files": object}}).items():
        module = ModuleType(name)
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, name, module)
    spec = importlib.util.spec_from_file_location("site_hooks", ROOT / "docs" / "site.py")
    hooks = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hooks)
    found = []
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        page = SimpleNamespace(file=SimpleNamespace(src_uri=f"notebooks/{path.name}"))
        cells = json.loads(path.read_text())["cells"]
        text = "".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
        for link in re.findall(r"\]\((?!https?:)([^)]+)\)", text):
            shown = hooks.on_page_content(f'<a href="{link}">', page)
            found.append(posixpath.normpath(f"notebooks/{path.stem}/{re.search('href=.(.*).>', shown)[1]}"))
    assert len(found) >= 8
    books, pages = ROOT.glob("notebooks/*.ipynb"), (ROOT / "docs").rglob("*.md")
    known = [path.relative_to(ROOT) for path in books] + [path.relative_to(ROOT / "docs") for path in pages]
    assert set(found) <= {path.with_suffix("").as_posix() for path in known}


def test_what_the_python_page_documents_is_there():
    import importlib

    page = (ROOT / "docs" / "api.md").read_text()
    for name in re.findall(r"^::: ([\w.]+)$", page, re.MULTILINE):
        module, _, last = name.rpartition(".")
        try:
            found = importlib.import_module(name)
        except ModuleNotFoundError:
            found = getattr(importlib.import_module(module), last)
        assert found.__doc__, name
    for listed, members in re.findall(r"^::: ([\w.]+)\n    options:\n      members: \[(.*)\]", page, re.MULTILINE):
        module = importlib.import_module(listed)
        assert [member for member in members.split(", ") if not getattr(module, member).__doc__] == []


def test_the_command_line_page_tells_of_every_command():
    page = (ROOT / "docs" / "command-line.md").read_text()
    told = set(re.findall(r"^circuit-drift (\w+)", page, re.MULTILINE)) | set(re.findall(r"`(\w+) STORE", page))
    assert {name for names in GROUPS.values() for name in names} - told == {"status"}, "status: howto/clusters.md"
    assert "circuit-drift status" in (ROOT / "docs" / "howto" / "clusters.md").read_text()


def test_the_site_is_built_with_tools_that_the_extra_names():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["docs"]
    named = {re.split(r"[\[>=]", each)[0] for each in extras}
    config = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    plugins = {each if isinstance(each, str) else next(iter(each)) for each in config["plugins"]}
    assert plugins - {"search"} <= named
    assert {"mkdocs", f"mkdocs-{config['theme']['name']}"} <= named
