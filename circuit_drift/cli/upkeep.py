"""Commands for the upkeep of a store: what is in it, whether it is whole, and what may go."""

import json
import re
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from checkpoints.errors import DriftError
from circuit_drift.cli.options import StoreArgument, StoreOption
from circuit_drift.cli.output.forms import JsonOption
from circuit_drift.cli.status import DIFFERENT, DONE, leave, one_line

if TYPE_CHECKING:
    from circuit_drift.store.store import Store
    from circuit_drift.store.upkeep import Entry

SHOWN = 5
UNITS = {"h": 3600.0, "d": 86400.0, "w": 604800.0}


def add_upkeep(app: typer.Typer) -> None:
    """Add them to the command line."""
    app.command()(verify)
    app.command()(status)
    app.command("store")(store_command)


def status(folder: StoreArgument = None, store: StoreOption = None, as_json: JsonOption = False) -> None:
    """Say how far the sweeps of a store are, here or on other machines; without one, which runs it holds."""
    from circuit_drift.sweep.workers.watching import is_store, runs_in, sweeps_in

    opened = named_store(folder, store)
    if not is_store(opened):
        raise DriftError(f"{opened.path} is no store: it holds other files, and no run, result or sweep; name a store")
    found = sweeps_in(opened)
    if as_json:
        typer.echo(json.dumps([each.to_dict() for each in found], indent=1))
        return
    for each in found:
        typer.echo(one_line(each.sentence))
    if not found:
        runs = "; ".join(runs_in(opened)) or "none"
        typer.echo(one_line(f"no sweep is at work in {opened.path}; its runs: {runs}"))


def verify(folder: StoreArgument = None, store: StoreOption = None, as_json: JsonOption = False) -> None:
    """Check every byte of a store; name what is damaged, missing, of another version, orphaned or left over.

    Exit status: 0 = whole, 1 = something is damaged, missing, or a newer version's, 2 = trouble.
    """
    from circuit_drift.store import upkeep

    found = upkeep.verify(named_store(folder, store))
    if as_json:
        typer.echo(json.dumps(found.to_dict(), indent=1))
    else:
        typer.echo(f"{found.store}: {found.results} results and {found.runs} runs checked")
        for kind in upkeep.KINDS:
            _list(kind, [notice.message for notice in found.notices if notice.kind == kind], kind in upkeep.FAULTS)
        typer.echo("everything is what was written" if found.whole else "not everything is what was written")
    leave(DONE if found.whole else DIFFERENT)


def store_command(
    folder: StoreArgument = None,
    store: StoreOption = None,
    run: Annotated[str | None, typer.Option("--run", help="Only what belongs to this run and to no other.")] = None,
    measure: Annotated[str | None, typer.Option("--measure", help="Only results of this measure.")] = None,
    older_than: Annotated[str | None, typer.Option("--older-than", help="Only what is older: 12h, 30d, 2w.")] = None,
    orphans: Annotated[bool, typer.Option("--orphans", help="Only results of no run, such as a diff's.")] = False,
    prune: Annotated[
        bool, typer.Option("--prune", help="Remove what is selected, and what killed writers left.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="With --prune: only say what would be removed.")] = False,
    as_json: JsonOption = False,
) -> None:
    """List the runs and results of a store with their sizes; with --prune, remove those that are selected."""
    from circuit_drift.store import upkeep

    opened = named_store(folder, store)
    selection = upkeep.Selection(run, measure, _seconds(older_than), orphans)
    if dry_run and not prune:
        raise DriftError("--dry-run says what --prune would remove: give both")
    if prune and selection.empty:
        raise DriftError("say what --prune removes: --run, --measure, --older-than or --orphans")
    if prune and not dry_run:
        found, left = upkeep.prune(opened, selection), upkeep.collect(opened)
    else:
        select = upkeep.prunable if prune else upkeep.chosen
        found, left = select(opened, selection), upkeep.leftovers(opened)
    if as_json:
        results = [{"measure": e.result.measure, "key": e.result.key, "bytes": e.size, "written": e.written,
                    "runs": list(e.runs)} for e in found]  # fmt: skip
        about = {"store": str(opened.path), "removed": prune and not dry_run}
        typer.echo(json.dumps({**about, "results": results, "leftovers": [str(path) for path in left]}, indent=1))
        return
    if not prune:
        _list_runs(opened, found)
        _list("leftover", [str(path) for path in left], whole=False)
        return
    verb = "would remove" if dry_run else "removed"
    for entry in found:
        typer.echo(f"{verb} {entry.result.measure}/{entry.result.key}, {_bytes(entry.size)}, of {_owners(entry)}")
    record = f" and the record of the run {run}" if selection.whole_run else ""
    typer.echo(
        f"{verb} {len(found)} results, {_bytes(sum(entry.size for entry in found))}{record}; {len(left)} leftovers"
    )


def named_store(folder: str | None, store: str | None) -> "Store":
    """The store that a command names, which must be there.

    Raises:
        DriftError: two are named, or there is none.
    """
    from circuit_drift.store.store import Store

    if folder is not None and store is not None:
        raise DriftError(f"two stores are named, {folder} and --store {store}: name one")
    return Store.existing(folder or store)


def _list_runs(store: "Store", entries: "Iterable[Entry]") -> None:
    entries = list(entries)
    rows: dict[str, list[Any]] = {}
    for entry in entries:
        for group in (*(f"run {name}" for name in entry.runs or ("(none)",)), f"measure {entry.result.measure}"):
            row = rows.setdefault(group, [0, 0, 0.0])
            row[0], row[1], row[2] = row[0] + 1, row[1] + entry.size, max(row[2], entry.written)
    for group in sorted(rows, key=lambda name: (not name.startswith("run"), name)):
        count, size, written = rows[group]
        day = time.strftime("%Y-%m-%d", time.localtime(written))
        typer.echo(f"{one_line(group):40}  {count:6} results  {_bytes(size):>10}  {day}")
    typer.echo(f"{store.path}: {len(entries)} results, {_bytes(sum(entry.size for entry in entries))}")


def _list(kind: str, messages: list[str], whole: bool) -> None:
    if messages:
        typer.echo(f"{kind}: {len(messages)}")
    for message in messages if whole else messages[:SHOWN]:
        typer.echo(f"  {one_line(message)}")
    if not whole and len(messages) > SHOWN:
        typer.echo(f"  ... and {len(messages) - SHOWN} more, all with --json")


def _owners(entry: "Entry") -> str:
    return "no run" if not entry.runs else "the run " + " and ".join(one_line(name) for name in entry.runs)


def _bytes(size: int) -> str:
    for power, unit in enumerate(("B", "kB", "MB")):
        if size < 1000 ** (power + 1):
            return f"{size / 1000**power:.3g} {unit}"
    return f"{size / 1e9:,.3g} GB"


def _seconds(age: str | None) -> float | None:
    if age is None:
        return None
    found = re.fullmatch(r"(\d{1,6})([hdw])", age.strip())
    if found is None:
        raise DriftError(f"{age!r} is no age; give a number of hours, days or weeks: 12h, 30d, 2w")
    return int(found[1]) * UNITS[found[2]]
