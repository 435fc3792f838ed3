"""The fenced blocks of README and docs: what a reader copies."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^( *)```([^\n]*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A fenced block: its page, the line it begins in, its language and its text."""

    page: str
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks(page: Path) -> Iterator[Block]:
    """The fenced blocks of a page in their order."""
    text = page.read_text(encoding="utf-8")
    for found in FENCE.finditer(text):
        indent, language, inside = found.groups()
        lines = "\n".join(line.removeprefix(indent) for line in inside.splitlines())
        yield Block(str(page.relative_to(ROOT)), text.count("\n", 0, found.start()) + 1, language.strip(), lines)


def command_lines(block: Block) -> Iterator[list[str]]:
    """The words of each line of a shell block; lines that end in a backslash are joined, comments left out."""
    for line in block.text.replace("\\\n", " ").splitlines():
        if words := shlex.split(line.split(" > ")[0], comments=True):
            yield words


BLOCKS = [block for page in PAGES for block in blocks(page)]
