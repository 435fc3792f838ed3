"""A training run as an ordered series of checkpoints."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Unpack, overload

from checkpoints.errors import NotACheckpoint
from checkpoints.files.formats import is_checkpoint, looked_for
from checkpoints.placement import Placement, Where
from checkpoints.results.text import counted
from checkpoints.series.checkpoint import Checkpoint
from checkpoints.series.downloads import Downloads
from checkpoints.series.hub import HUB_ID, HubRevision, find_revision, list_revisions
from checkpoints.series.layouts import (
    FoundCheckpoint,
    LeftOut,
    as_text,
    checkpoint_inside,
    choose,
    scan,
    tell_left_out,
    trainer_step,
    with_trainer_counts,
)
from checkpoints.series.lineage import lineage
from checkpoints.series.manifest import MANIFEST_FILE, read_manifest
from checkpoints.series.names import parse_name
from checkpoints.series.selection import select

if TYPE_CHECKING:
    import networkx as nx

    from checkpoints.loading.load import LoadedModel

SHIPPED = {"demo": "first-light", "natural": "natural", "factbook": "factbook/LoRA"}
"""What comes with a clone of the project: the series' short name, and its folder in ``series``."""
DEMO_VARIABLE = "CIRCUIT_DRIFT_DEMO"
_LOOKED_FOR = (
    f"{MANIFEST_FILE}, or folders named checkpoint-N, step-N, stepN, epoch_N, ckpt-250B, stageS-stepN-tokensMB"
)


@dataclass(frozen=True, slots=True, repr=False)
class Series:
    """Checkpoints of one run, ordered by (stage, branch, step).

    ``len``, iteration and integer indexing give checkpoints, slices give a shorter series.

    Attributes:
        path: the folder of the series.
        name: its name, for titles.
        checkpoints: the checkpoints in order.
        left_out: what lies there and is no part of it, with the reason.
        chosen_from: the whole series, where these are a selection of its checkpoints.
    """

    path: Path
    name: str
    checkpoints: tuple[Checkpoint, ...]
    left_out: tuple[LeftOut, ...] = ()
    chosen_from: "Series | None" = field(default=None, repr=False, compare=False)

    def __repr__(self) -> str:
        ends = f", {self.checkpoints[0].label} to {self.checkpoints[-1].label}" if self.checkpoints else ""
        return f"<Series {self.name}: {counted(len(self), 'checkpoint')}{ends}, in {self.path}>"

    def __len__(self) -> int:
        return len(self.checkpoints)

    def __iter__(self) -> Iterator[Checkpoint]:
        return iter(self.checkpoints)

    @overload
    def __getitem__(self, key: int) -> Checkpoint: ...
    @overload
    def __getitem__(self, key: slice) -> "Series": ...
    def __getitem__(self, key: int | slice) -> "Checkpoint | Series":
        if isinstance(key, slice):
            return self.only(self.checkpoints[key])
        return self.checkpoints[key]

    @property
    def steps(self) -> tuple[int | None, ...]:
        """The steps in order."""
        return tuple(checkpoint.step for checkpoint in self.checkpoints)

    def at(self, step: int | str) -> Checkpoint:
        """The checkpoint of a step, by its number, its name, its label, ``"first"`` or ``"last"``.

        Raises:
            NotACheckpoint: there is none (the message names the nearest), or several stages have that step.
        """
        text = str(step).strip()
        if text in ("first", "last"):
            return self.checkpoints[0 if text == "first" else -1]
        found = [c for c in self.checkpoints if text in (c.name, c.label)]
        if not found and text.isdigit():
            found = [c for c in self.checkpoints if c.step == int(text)]
        if len(found) == 1:
            return found[0]
        if found:
            labels = ", ".join(checkpoint.label for checkpoint in found)
            raise NotACheckpoint(f"step {text} of {self.name} is ambiguous: name one of {labels}")
        raise NotACheckpoint(f"{self.name} has no step {text!r}; {self._near(text)}")

    def parents(self, checkpoint: Checkpoint) -> tuple[Checkpoint, ...]:
        """The checkpoints that one continues, several where branches were merged; see `checkpoints.series.lineage`."""
        return self._lineage()[checkpoint]

    def _lineage(self) -> dict[Checkpoint, tuple[Checkpoint, ...]]:
        found = lineage([(checkpoint.stage, checkpoint.branch) for checkpoint in self.checkpoints])
        return {
            checkpoint: tuple(self.checkpoints[place] for place in before)
            for checkpoint, before in zip(self.checkpoints, found, strict=True)
        }

    def paths(self) -> tuple[tuple[Checkpoint, ...], ...]:
        """Every line of descent from a first checkpoint to one that nothing continues, in training order."""
        parents = self._lineage()
        continued = {parent for found in parents.values() for parent in found}

        open_paths: list[tuple[Checkpoint, ...]] = [
            (checkpoint,) for checkpoint in reversed(self.checkpoints) if checkpoint not in continued
        ]
        paths = []
        while open_paths:
            path = open_paths.pop()
            if not parents[path[0]]:
                paths.append(path)
            open_paths.extend((parent, *path) for parent in reversed(parents[path[0]]))
        return tuple(paths)

    def to_networkx(self) -> "nx.DiGraph[str]":
        """The series as a graph: an edge from each checkpoint's label to those that continue it."""
        import networkx as nx

        graph: nx.DiGraph[str] = nx.DiGraph()
        parents = self._lineage()
        for checkpoint in self.checkpoints:
            graph.add_node(checkpoint.label, step=checkpoint.step, stage=checkpoint.stage, branch=checkpoint.branch)
            graph.add_edges_from((parent.label, checkpoint.label) for parent in parents[checkpoint])
        return graph

    def select(self, words: str) -> "Series":
        """Choose steps in words: ``"last"``, ``"every 3"``, ``"log 8"``, ``"100:2000"``, ``"0,500,last"``.

        Raises:
            NotACheckpoint: a word is not understood, a step is not there, or nothing is chosen.
        """
        return self.only(select(self.checkpoints, words, at=self.at))

    def models(
        self,
        placement: Placement | None = None,
        *,
        reuse: bool = False,
        keep_downloads: int | None = None,
        **where: Unpack[Where],
    ) -> Iterator["LoadedModel"]:
        """Load one checkpoint after the other, one model alive at a time; the next one's files are read ahead.

        Args:
            placement: as for `Checkpoint.load`.
            reuse: put each checkpoint's weights into one and the same model object where its config is the same:
                faster, and hooks stay in place. Do not keep the model beyond its turn: its weights change.
            keep_downloads: of the hub revisions that this sweep fetches, how many to keep once done with (beside the
                current one and the next); None keeps all.
            where: fields of a `Placement` by themselves.
        """
        return self._models(Placement.of(placement, where, device="cpu"), reuse, keep_downloads)

    def _models(self, placement: Placement, reuse: bool, keep_downloads: int | None) -> Iterator["LoadedModel"]:
        from checkpoints.loading.stream import stream

        with Downloads(keep_downloads) as downloads:
            yield from stream(self.checkpoints, placement, reuse=reuse, downloads=downloads)

    def only(self, checkpoints: tuple[Checkpoint, ...]) -> "Series":
        """The same series with some of its checkpoints, which remembers what they were chosen from."""
        return Series(self.path, self.name, checkpoints, self.left_out, self.chosen_from or self)

    def _near(self, text: str) -> str:
        import difflib

        if text.isdigit():
            ranked = sorted(self.checkpoints, key=lambda c: abs((c.position or 0) - int(text)))[:3]
            near = ", ".join(c.label for c in self.checkpoints if c in ranked)
        else:
            names = [name for c in self.checkpoints for name in (c.label, c.name)]
            near = ", ".join(difflib.get_close_matches(text, names, n=3, cutoff=0.5))
        span = f"it has {len(self)} steps from {self.checkpoints[0].label} to {self.checkpoints[-1].label}"
        return f"near it: {near} ({span})" if near else span

    def _repr_html_(self) -> str:
        from html import escape

        cells = "".join(
            f"<tr><td>{escape(c.stage or '')}</td><td>{escape(c.branch or '')}</td><td>{c.step}</td>"
            f"<td>{'' if c.tokens is None else f'{c.tokens:,}'}</td><td>{escape(c.name)}</td></tr>"
            for c in self.checkpoints[:60]
        )
        more = f"<p>and {len(self) - 60} more</p>" if len(self) > 60 else ""
        head = "<tr><th>stage</th><th>branch</th><th>step</th><th>tokens</th><th>name</th></tr>"
        return f"<b>{escape(self.name)}</b>: {counted(len(self), 'checkpoint')}<table>{head}{cells}</table>{more}"


def open_series(ref: str | Path) -> Series:
    """Open a series: a folder of checkpoints, one with a manifest.csv, a shipped one, or ``"org/name@step*"``.

    Shipped are ``"demo"``, ``"natural"`` and ``"factbook"`` (`SHIPPED`); a folder of the name "natural" or "factbook"
    where you are comes first. The last form lists the revisions of a hub repository that match the pattern, pinned to
    their commits; it is the only one that uses a network, and reads the client's cache where there is none. What lies
    there and is left out is warned of.

    Raises:
        NotACheckpoint: there is no series there; the message says what was looked for.
        DriftError: the hub could not be reached.
    """
    series = _open(ref)
    tell_left_out(series.name, series.left_out)
    return series


def _open(ref: str | Path) -> Series:
    repo, at, pattern = str(ref).rpartition("@")
    if at and HUB_ID.fullmatch(repo) and not Path(ref).exists():
        return _from_hub(repo, pattern)
    path = shipped_folder(str(ref)) if _is_shipped(ref) else Path(ref).expanduser()
    if not path.is_dir():
        raise NotACheckpoint(f"{path} is no series: there is no such folder")
    found, left = _from_manifest(path) if (path / MANIFEST_FILE).exists() else _from_folders(path)
    if not found:
        if is_checkpoint(path):
            raise NotACheckpoint(
                f"{path} is a single checkpoint, not a series; open it with open_checkpoint in Python, or name the "
                "folder in which it lies as checkpoint-0"
            )
        seen = f"; left out {', '.join(each.name for each in left[:8])}: {left[0].reason}" if left else ""
        raise NotACheckpoint(f"{path} is no series: looked for {_LOOKED_FOR}{seen}")
    return Series(path, as_text(path.resolve().name), found, left)


def open_checkpoint(ref: str | Path) -> Checkpoint:
    """Open one checkpoint: a folder, ``SERIES@STEP`` (``runs/a@500``, ``demo@last``) or ``org/name@revision``.

    A folder that lies in a series is given the place that the series' manifest or its own name says.

    Raises:
        NotACheckpoint: there is none; the message says what was looked for.
    """
    path = Path(ref).expanduser()
    if path.is_dir():
        return _single(path)
    series, at, step = str(ref).rpartition("@")
    if at and series:
        if HUB_ID.fullmatch(series) and not Path(series).expanduser().is_dir():
            return _hub_checkpoint(find_revision(series, step))
        return _open(series).at(step)
    raise NotACheckpoint(f"{ref} is no checkpoint: there is no such folder, and it is not of the form SERIES@STEP")


def shipped_folder(name: str = "demo") -> Path:
    """Where a shipped series lies: in ``series`` of the project; the demo where the environment names its folder.

    Raises:
        NotACheckpoint: it is not there (an installed wheel carries none).
    """
    named = os.environ.get(DEMO_VARIABLE) if name == "demo" else None
    path = Path(named) if named else Path(__file__).resolve().parents[2] / "series" / SHIPPED[name]
    if not path.is_dir():
        way_out = f"; set {DEMO_VARIABLE} to its folder" if name == "demo" else "; name its folder"
        raise NotACheckpoint(
            f"the {name} series is not at {path}: it comes with a clone of the project, not with the installed "
            f"package{way_out}"
        )
    return path


def _is_shipped(ref: str | Path) -> bool:
    return str(ref) in SHIPPED and (str(ref) == "demo" or not Path(ref).is_dir())


def _from_manifest(root: Path) -> tuple[tuple[Checkpoint, ...], tuple[LeftOut, ...]]:
    rows = read_manifest(root / MANIFEST_FILE)
    listed = {row.path.resolve() for row in rows}
    unlisted = [each for each in scan(root)[0] if each.path.resolve() not in listed]
    found = tuple(
        Checkpoint(row.path, row.path.name, row.step, row.tokens, row.stage, row.branch, root) for row in rows
    )
    return found, tuple(LeftOut(each.name.text, f"{MANIFEST_FILE} does not list it") for each in unlisted)


def _from_folders(root: Path) -> tuple[tuple[Checkpoint, ...], tuple[LeftOut, ...]]:
    found, left = scan(root)
    return tuple(_placed(each, root) for each in with_trainer_counts(found)), left


def _from_hub(repo: str, pattern: str) -> Series:
    revisions, unread = list_revisions(repo, pattern)
    by_name = {revision.revision: revision for revision in revisions}
    named = [FoundCheckpoint(name, by_name[text].path) for text in by_name if (name := parse_name(text)) is not None]
    chosen, left = choose(named)
    found = tuple(_placed(each, None, by_name[each.name.text]) for each in chosen)
    no_step = tuple(LeftOut(name, "its name gives no step") for name in unread)
    return Series(found[0].path.parent, repo, found, (*no_step, *left))


def _placed(found: FoundCheckpoint, root: Path | None, hub: HubRevision | None = None) -> Checkpoint:
    name = found.name
    return Checkpoint(found.path, name.text, name.step, name.tokens, name.stage, name.branch, root, hub)


def _hub_checkpoint(revision: HubRevision) -> Checkpoint:
    name = parse_name(revision.revision)
    if name is None:
        return Checkpoint(revision.path, revision.revision, hub=revision)
    return _placed(FoundCheckpoint(name, revision.path), None, revision)


def _single(folder: Path) -> Checkpoint:
    path = folder if parse_name(folder.resolve().name) is None else checkpoint_inside(folder)
    resolved = path.resolve()
    if (resolved.parent / MANIFEST_FILE).exists():
        for checkpoint in _from_manifest(resolved.parent)[0]:
            if checkpoint.path.resolve() == resolved:
                return checkpoint
    if not is_checkpoint(path):
        raise NotACheckpoint(f"{path} is no checkpoint: looked for {looked_for()}")
    for place in (resolved, *resolved.parents[:2]):
        name = parse_name(place.name)
        if name is not None and (place == resolved or name.plain):
            for each in with_trainer_counts(
                [each for each in scan(place.parent)[0] if each.path.resolve() == resolved]
            ):
                return _placed(FoundCheckpoint(each.name, path), place.parent)
    return Checkpoint(path, as_text(resolved.name), trainer_step(path))
