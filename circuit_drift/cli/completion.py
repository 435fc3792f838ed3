"""What a shell offers after a tab: series, steps of a series or a stored run, runs of a store, measures, formats."""

import io
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stdout, suppress
from importlib.resources import files
from pathlib import Path

import typer

from checkpoints.errors import DriftError


def series(incomplete: str) -> list[str]:
    """The shipped series and folders; behind an ``@``, the steps of what stands before it."""
    name, at, _ = incomplete.partition("@")
    found = (f"{name}@{step}" for step in _steps(name)) if at else _folders(incomplete)
    return [word for word in found if word.startswith(incomplete)]


def runs(ctx: typer.Context, incomplete: str) -> list[str]:
    """Runs of the store that the words before name."""
    from circuit_drift.store.store import Store

    with suppress(DriftError, OSError):
        store = Store.existing(ctx.params.get("folder") or ctx.params.get("store"))
        return [path.stem for path in store.run_files() if path.stem.startswith(incomplete)]
    return []


def stored_steps(ctx: typer.Context, incomplete: str) -> list[str]:
    """Steps of the stored run that the words before name, the newest without a name; and first, last."""
    from circuit_drift.store.store import Store

    with suppress(DriftError, OSError):
        points = Store.existing(ctx.params.get("store")).read_run(ctx.params.get("name"))["points"]
        steps = [str(point["step"]) for point in points if point.get("step") is not None]
        return [word for word in ("first", "last", *steps) if word.startswith(incomplete)]
    return []


def schemas(incomplete: str) -> list[str]:
    """Names of the formats that have a JSON Schema."""
    names = sorted(Path(each.name).stem for each in (files("circuit_drift") / "schemas").iterdir())
    return [name for name in names if name.startswith(incomplete)]


def measures(incomplete: str) -> list[str]:
    """Known measures, behind those that are written already."""
    from circuit_drift.measures.registry import known

    written, comma, last = incomplete.rpartition(",")
    return [f"{written}{comma}{name}" for name in known() if name.startswith(last)]


def in_bash(complete: Callable[[], object]) -> None:
    """Complete words that bash hands over broken at an ``@``: joined first, and the reply cut at the same place."""
    words, at = os.environ["COMP_WORDS"].splitlines(), int(os.environ["COMP_CWORD"])
    whole, place = joined(words, at)
    os.environ.update(COMP_WORDS="\n".join(whole), COMP_CWORD=str(place))
    wanted = whole[place] if place < len(whole) else ""
    own = words[at] if at < len(words) else ""
    cut = wanted[: wanted.rfind("@") + 1] if wanted != own else ""
    said = io.StringIO()
    try:
        with redirect_stdout(said):
            complete()
    finally:
        print(*(line.removeprefix(cut) for line in said.getvalue().splitlines()), sep="\n")  # noqa: T201


def joined(words: Sequence[str], at: int) -> tuple[list[str], int]:
    """Words with those joined that stand around an ``@``, and the place of the one to complete among them."""
    found: list[str] = []
    place = at
    for index, word in enumerate(words):
        if found and word and (word == "@" or found[-1].endswith("@")):
            found[-1] += word
        else:
            found.append(word)
        if index == at:
            place = len(found) - 1
    return found, place if at < len(words) else len(found)


def _steps(name: str) -> Iterator[int]:
    from checkpoints import open_series

    with suppress(DriftError, OSError):
        yield from (step for step in open_series(name).steps if step is not None)


def _folders(incomplete: str) -> Iterator[str]:
    from checkpoints.series.series import SHIPPED

    yield from SHIPPED
    path = Path(incomplete)
    parent = path if incomplete.endswith("/") else path.parent
    with suppress(OSError):
        for place in sorted(parent.iterdir()):
            if place.is_dir() and not place.name.startswith("."):
                yield f"{place}/"
