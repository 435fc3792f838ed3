"""What mkdocs adds to the pages as they lie here: the notebooks, and a page with every option of every command."""

import re
from pathlib import Path
from typing import Any

from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]


@event_priority(100)
def on_files(files: Files, config: Any) -> Files:
    """Add the notebooks of the project, before the plugin that renders them, and the options of all commands."""
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        uri = path.relative_to(ROOT).as_posix()
        files.append(File(uri, str(ROOT), config["site_dir"], config["use_directory_urls"]))
    files.append(File.generated(config, "options.md", content=options_page()))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links of pages to notebooks lead to the rendered ones; other links out of this folder have no target here."""
    up = "../" * page.file.src_uri.count("/")
    markdown = re.sub(r"\]\((?:\.\./)+notebooks/", f"]({up}notebooks/", markdown)
    return re.sub(r"\[([^]]+)\]\(((?:\.\./)+(?:series|benchmarks)/[^)]*)\)", r"\1", markdown)


def on_page_content(html: str, page: Any, **_: Any) -> str:
    """Links inside rendered notebooks lead to rendered pages: to other notebooks, and to the pages of this folder."""
    if not page.file.src_uri.endswith(".ipynb"):
        return html
    html = re.sub(r'href="([\w-]+)\.ipynb"', r'href="../\1/"', html)
    return re.sub(r'href="\.\./docs/([\w/-]+)\.md(#[^"]*)?"', r'href="../../\1/\2"', html)


def options_page() -> str:
    """Every command's help, under its heading."""
    from typer.main import get_command
    from typer.testing import CliRunner

    from circuit_drift.cli import app
    from circuit_drift.cli.help import by_heading

    commands = getattr(get_command(app), "commands")  # noqa: B009
    shown = tuple(name for name, command in commands.items() if not command.hidden)
    text = ["# Every option\n"]
    for heading, names in by_heading(shown).items():
        text.append(f"## {heading}\n")
        for name in names:
            done = CliRunner().invoke(app, [name, "-h"], env={"COLUMNS": "100", "TERM": "dumb"})
            text.append(f"### {name}\n\n```text\n{done.output.strip()}\n```\n")
    return "\n".join(text)
