"""How results look: in a terminal, as JSON, in a notebook."""

import textwrap
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np

from checkpoints.errors import DriftError
from checkpoints.results.text import counted, visible, visible_line
from circuit_drift.cli.output.screen import ASIDE, screen_tables, shares_frame
from circuit_drift.comparison.pair_tables import pair_tables
from circuit_drift.measures.registry import kinds_in
from circuit_drift.record.pair import PairRecord
from circuit_drift.record.record import Point, RunRecord
from circuit_drift.report.asked import depth_sentence
from circuit_drift.report.pair_view import SHOWN
from circuit_drift.report.run_table import run_frame
from circuit_drift.report.verdict import run_verdict
from circuit_drift.report.verdict_pair import pair_statements
from circuit_drift.statements.statement import Statement

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console

    import heads
    from checkpoints import Checkpoint, Series
    from checkpoints.audit import AuditReport
    from circuit_drift.explanation.explanation import Explanation
    from circuit_drift.stages.emergence import RunEmergence
    from circuits.tracking.circuit_track import CircuitTrack
    from heads.tracking.head_track import HeadTrack

CROSSED = "births and deaths: edges that crossed the circuit's cut, chance included"
WIDE = 1000
MANY = 1e6


def print_run(run: RunRecord, verdict: Sequence[str] | None = None) -> None:
    """The table of a run, without columns that are empty, then its verdict, which is formed where it is not given."""
    console = _console()
    frame = run_frame(run).drop(columns=["checkpoint", "tokens"]).dropna(axis=1, how="all")
    for kind in kinds_in(run):
        frame = frame.rename(columns=kind.short)
    _show(console, frame, title=f"{run.name}: {counted(len(run), 'checkpoint')}")
    for sentence in run_verdict(run) if verdict is None else verdict:
        _tell(console, sentence)


def print_screen(pair: PairRecord, statements: Sequence[Statement] | None = None) -> None:
    """The verdict of a pair, its behaviour by group, and the strongest real changes of each kind: one screen."""
    console = _console()
    _print_verdict(console, pair, statements, left_out=ASIDE)
    for title, frame in screen_tables(pair, SHOWN):
        _show(console, frame, title=title)
    if pair.weights is not None:
        _tell(console, pair.weights.verdict)
    for found in pair.explanations:
        print_explanation(found, shares_frame(found))


def print_pair(pair: PairRecord, statements: Sequence[Statement] | None = None) -> None:
    """The verdict of a pair, then every table, its strongest rows first, and its weights."""
    console = _console()
    _print_verdict(console, pair, statements)
    for table in pair_tables(pair):
        if len(table.frame):
            _show(console, table.frame.head(SHOWN), title=table.title)
    if pair.weights is not None:
        _tell(console, pair.weights.verdict)
        changed = pair.weights.to_frame().query("relative != 0")
        if len(changed):
            _show(console, changed.head(SHOWN), title="Weights, largest relative changes")
    for found in pair.explanations:
        print_explanation(found, found.to_frame())


def _print_verdict(
    console: "Console", pair: PairRecord, statements: Sequence[Statement] | None, left_out: Sequence[str] = ()
) -> None:
    console.print(f"A  {_identity(pair.a)}\nB  {_identity(pair.b)}\n")
    statements = pair_statements(pair) if statements is None else statements
    told = [statement.text for statement in statements if statement.kind not in left_out]
    for sentence in told:
        _tell(console, sentence)
    if len(told) < len(statements):
        _tell(console, f"{counted(len(statements) - len(told), 'remark')} more, on what can be told and how: --all.")


def print_explanation(found: "Explanation", shares: "pd.DataFrame") -> None:
    """Why a behaviour differs: the sentences, the largest shares as tabled, what putting components back did."""
    from circuit_drift.explanation.explanation_view import outputs_frame, patching_frame, sentences

    console = _console()
    for sentence in sentences(found):
        _tell(console, sentence)
    if found.is_certain:
        _show(console, shares.head(SHOWN), title=f"Why {found.behaviour} differs: shares of components")
        if found.patching is not None:
            _show(console, patching_frame(found), title="Put back, % of the change")
        if found.outputs is not None:
            _show(console, outputs_frame(found), title="Outputs put in at parts of the prompts, % of the change")


def print_heads(scored: "Sequence[tuple[str, heads.Scores]]", top: int) -> None:
    """The leading heads of each checkpoint with their intervals and the main detectors."""
    console = _console()
    for label, scores in scored:
        _tell(console, f"step {label}: {scores.verdict}")
        frame = scores.to_frame().sort_values("score", ascending=False, kind="stable").head(top)
        wanted = ["name", "n", "score", "low", "high", "accepted_mean", "chance", "needle_mass", "activation"]
        _show(console, frame[[c for c in wanted if c in frame]], title="Leading heads")
    for sentence in depth_sentence(scored[0][1].meta):
        _tell(console, sentence)


def heads_frame(scored: "Sequence[tuple[str, heads.Scores]]") -> "pd.DataFrame":
    """Every head of each checkpoint, in one table led by the step."""
    import pandas as pd

    frames = [scores.to_frame() for _, scores in scored]
    for frame, (label, _) in zip(frames, scored, strict=True):
        frame.insert(0, "step", label)
    return pd.concat(frames, ignore_index=True)


def print_audit(report: "AuditReport") -> None:
    """The audit's summary, then a fault a line with its evidence in public."""
    console = _console()
    console.print(report.verdict)
    for fault in report.faults:
        where = ", ".join(fault.checkpoints)
        _tell(console, f"{fault.severity}, {fault.kind} ({where}): {fault.message}")
        _tell(console, f"seen in: {fault.reference}", mark="  ")


def print_head_track(track: "HeadTrack") -> None:
    """The track's findings, then its table."""
    console = _console()
    for sentence in track.findings:
        _tell(console, sentence)
    _show(console, track.table(), title="Retrieval over training [95 % interval]")


def print_emergence(found: "RunEmergence") -> None:
    """When each metric emerges, and what comes before what, then both as tables."""
    console = _console()
    for sentence in found.findings:
        _tell(console, sentence)
    _show(console, found.to_frame(), title="Emergence [95 %: after low, by high]")
    if found.orders:
        _show(console, found.order_frame(), title="Order, as shares of resamples")


def print_circuit_track(track: "CircuitTrack", facts: str) -> None:
    """What became of the circuit over the series, then its table."""
    console = _console()
    _tell(console, f"On {facts}: {track.verdict}")
    columns = [
        "step",
        "phase",
        "clean_metric",
        "jaccard_previous",
        "jaccard_previous_across",
        "jaccard_previous_within",
    ]
    frame = track.to_frame()[[*columns, "jaccard_last", "births", "deaths", "centre of mass, layers"]]
    _show(
        console,
        frame.rename(columns=lambda name: name.replace("jaccard", "J")),
        title=f"Circuit over training; {CROSSED}",
    )


def print_series(series: "Series", frame: "pd.DataFrame", damaged: Mapping[str, str]) -> None:
    """What is in a series; what was left out, and what is damaged."""
    console = _console()
    _show(console, frame, title=f"{series.name}: {counted(len(series), 'checkpoint')}")
    for each in series.left_out:
        _tell(console, f"left out: {each.name} ({each.reason})")
    for reason in damaged.values():
        _tell(console, f"damaged: {reason}")


def series_frame(series: "Series") -> "tuple[pd.DataFrame, dict[str, str]]":
    """A row for each checkpoint of a series; and those whose files cannot be read, each with the reason."""
    import pandas as pd

    damaged: dict[str, str] = {}
    rows = [
        {
            "checkpoint": checkpoint.name,
            "step": checkpoint.step,
            "stage": checkpoint.stage,
            "branch": checkpoint.branch,
            "tokens": checkpoint.tokens,
            **_files_of(checkpoint, damaged),
        }
        for checkpoint in series
    ]
    frame = pd.DataFrame(rows)
    return (frame if frame["branch"].notna().any() else frame.drop(columns="branch")), damaged


def _files_of(checkpoint: "Checkpoint", damaged: dict[str, str]) -> dict[str, Any]:
    """Size and hash of a checkpoint's files; why there are none is added to ``damaged``."""
    try:
        return {"MB": checkpoint.size / 1e6, "weights": checkpoint.weights_hash[:12]}
    except DriftError as error:
        damaged[checkpoint.name] = str(error)
    except OSError as error:
        damaged[checkpoint.name] = f"{checkpoint.path} cannot be read: {error.strerror}; restore it"
    return {"MB": None, "weights": None}


def _identity(point: Point) -> str:
    tokens = f"{point.tokens:,} tokens" if point.tokens is not None else None
    step = f"step {point.step:,}" if point.step is not None else None
    return " · ".join(part for part in (point.name, step, tokens, point.stage, point.branch) if part)


def _console() -> "Console":
    """Standard output; wide enough for every column of any table where it is no terminal."""
    from rich.console import Console

    class Output(Console):
        """Goes quiet when its reader has gone, so that the command still ends with its own exit status."""

        def print(self, *objects: Any, **options: Any) -> None:
            """What is printed, with what the terminal would obey written out."""
            super().print(*(visible(each) if isinstance(each, str) else each for each in objects), **options)

        def on_broken_pipe(self) -> None:
            with suppress(SystemExit):
                super().on_broken_pipe()

    console = Output(highlight=False, markup=False)
    return console if console.is_terminal else Output(highlight=False, markup=False, width=WIDE)


def _tell(console: "Console", sentence: str, *, mark: str = "• ") -> None:
    """Print a sentence: broken between words on a terminal, in one line where a program reads it."""
    if not console.is_terminal:
        console.print(f"{mark}{sentence}", soft_wrap=True)
        return
    for line in textwrap.wrap(visible(sentence), max(20, console.width - len(mark)), break_on_hyphens=False):
        console.print(f"{mark}{line}", soft_wrap=True)
        mark = " " * len(mark)


def _show(console: "Console", frame: "pd.DataFrame", *, title: str) -> None:
    """Print a table; columns that do not fit go below, beside the first again, so that no number is cut short."""
    from rich.table import Table
    from rich.text import Text

    cells = [[_cell(value) for value in frame.iloc[:, place]] for place in range(frame.shape[1])]
    widths = [max(map(len, (str(name), *column))) + 3 for name, column in zip(frame.columns, cells, strict=True)]
    console.print(Text(visible_line(title), style="bold"))  # a table's own title is broken at the table's width
    for places in _parts(widths, console.width - 1):
        table = Table()
        for place in places:
            left = str(frame.dtypes.iloc[place]).startswith(("object", "str"))
            table.add_column(visible_line(str(frame.columns[place])), justify="left" if left else "right")
        for row in zip(*(cells[place] for place in places), strict=True):
            table.add_row(*row)
        console.print(table)


def _parts(widths: Sequence[int], room: int) -> list[list[int]]:
    """Columns of a table in parts that fit the room, each led by the first column."""
    parts = [[0]]
    for place in range(1, len(widths)):
        taken = sum(widths[shown] for shown in parts[-1])
        if len(parts[-1]) > 1 and taken + widths[place] > room:
            parts.append([0])
        parts[-1].append(place)
    return parts


def _cell(value: Any) -> str:
    if value is None or value != value:
        return "n/a"
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if isinstance(value, float):
        whole = abs(value) >= 999.5 and (value.is_integer() or abs(value) < MANY)
        return f"{value:,.0f}" if whole else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else visible_line(str(value))
