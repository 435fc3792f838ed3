"""The command line, ``circuit-drift COMMAND``.

Commands on stored runs are in `stored`.

Results go to standard output, everything else to standard error; exit statuses are listed in `status`.
"""

import json
import logging
import os
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from typer.core import TyperCommand

from checkpoints.errors import DriftError
from checkpoints.results.text import counted
from circuit_drift import __version__
from circuit_drift.cli import behaviour, completion
from circuit_drift.cli.comparing import add_comparing
from circuit_drift.cli.groups import (
    BoundOptions,
    FactOptions,
    NeedleOptions,
    PlacementOptions,
    ScoringOptions,
    WorkerOptions,
    grouped,
)
from circuit_drift.cli.help import Grouped
from circuit_drift.cli.looking import add_looking
from circuit_drift.cli.options import (
    DepthsOption,
    LengthsOption,
    MeasuresOption,
    NameOption,
    OneValue,
    PlanOption,
    RunStepsOption,
    SeriesArgument,
    StoreOption,
    TrackToOption,
    TrainPlanOption,
    adaptive_of,
    depths_of,
    measures_of,
    names,
)
from circuit_drift.cli.output.forms import CsvOption, Form, Found, JsonOption, csv_table, form_of, put
from circuit_drift.cli.status import (
    INTERRUPT,
    INTERRUPTED,
    TROUBLE,
    advise,
    describe_error,
    leave_partly,
    one_line,
    say,
)
from circuit_drift.cli.stored import add_stored
from circuit_drift.cli.upkeep import add_upkeep

if TYPE_CHECKING:
    from checkpoints import Series
    from circuit_drift.record.record import RunRecord
    from circuit_drift.statements.statement import Statement


class _Group(Grouped):
    """Turns what goes wrong inside a command into one clear message and the documented exit status."""

    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        with _one_line():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: typer.Context) -> Any:  # type: ignore[override]
        with _one_line():
            return super().invoke(ctx)


@contextmanager
def _one_line() -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        say(INTERRUPT)
        raise typer.Exit(INTERRUPTED) from None
    except DriftError as error:
        say(str(error))
        raise typer.Exit(TROUBLE) from None
    except OSError as error:
        say(describe_error(error))
        raise typer.Exit(TROUBLE) from None


Command = TypeVar("Command", bound=Callable[..., Any])


class _App(typer.Typer):
    """An application whose commands take an option of one value once."""

    def command(
        self, name: str | None = None, *, cls: type[TyperCommand] | None = OneValue, **options: Any
    ) -> Callable[[Command], Command]:
        return super().command(name, cls=cls, **options)


app = _App(
    name="circuit-drift",
    cls=_Group,
    help="Retrieval heads and knowledge circuits over training checkpoints: what changed, and is the change real?",
    epilog="Exit status: 0 = done, 1 = diff: they differ; audit, verify: something was found, 2 = trouble, "
    "3 = done in part, 130 = interrupted. COMMAND -h shows examples.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


@app.command()
@grouped
def run(
    series: SeriesArgument,
    *,
    steps: RunStepsOption = None,
    html: Annotated[Path | None, typer.Option("--html", help="Write the report here.")] = None,
    as_json: JsonOption = False,
    as_csv: CsvOption = False,
    strict: Annotated[bool, typer.Option("--strict", help="Refuse a series whose audit finds an error.")] = False,
    store: StoreOption = None,
    needles: NeedleOptions,
    depths: DepthsOption = None,
    facts: FactOptions,
    scoring: ScoringOptions,
    measures: MeasuresOption = None,
    lengths: LengthsOption = None,
    placing: PlacementOptions,
    working: WorkerOptions,
    bounds: BoundOptions,
    plan: PlanOption = False,
    track_to: TrackToOption = None,
    name: NameOption = None,
) -> None:
    """Measure every checkpoint of a series; print the table and the verdict; write the report."""
    import circuit_drift
    from circuit_drift.comparison.transfer import transfer_over_stages
    from circuit_drift.prompts import prompts_for
    from circuit_drift.report import write_report
    from circuit_drift.sweep.adaptive import not_looked_at

    form = form_of(as_json, as_csv)
    workers = working.given
    opened, adaptive = _opened(series, steps)
    prompts = prompts_for(opened.path, **needles.given, **depths_of(depths), **facts.given, scoring=scoring.given)
    asked = {
        "store": store,
        "prompts": prompts,
        "placement": placing.placement,
        "keep_downloads": bounds.kept,
        **measures_of(measures, lengths),
    }
    if plan:
        if form != "table":
            raise DriftError(f"--plan tells lines: leave --{form} out")
        _say_plan(opened, {**asked, **workers, "adaptive": adaptive})
        return
    with redirect_stdout(sys.stderr):  # what Ray and other libraries print meanwhile
        result = circuit_drift.run(
            opened,
            **asked,
            **workers,
            **bounds.given,
            strict=strict,
            adaptive=adaptive,
            name=name,
            track_to=track_to or (),
        )
    statements = _put_run(result, form)
    if html is not None:
        if working.executor == "serial":
            transfer_over_stages(result, opened, prompts, placing.placement, bounds.kept)
        else:
            say("the report has no functional transfer, which needs the models here: circuit-drift diff adds a pair's")
        typer.echo(write_report(result, html, statements=statements), err=form != "table")
    leave_partly(_lacking(result, opened, adaptive), f"the run {result.name}")
    if adaptive is not None and (passed := not_looked_at(opened, {point.name for point in result})):
        say(passed)
    if form == "table":
        advise(_after_run(series, result, html))


def _opened(series: str, steps: str | None) -> "tuple[Series, int | None]":
    """The checkpoints asked for, and how many of them are to be chosen while they are measured, where some are."""
    from checkpoints import open_series

    opened, adaptive = open_series(series), adaptive_of(steps)
    return opened.select(steps) if steps and adaptive is None else opened, adaptive


def _say_plan(series: "Series", asked: Mapping[str, Any]) -> None:
    from circuit_drift.sweep.sweep import plan_series

    typer.echo("\n".join(map(one_line, plan_series(series, **asked).lines())))


def _put_run(run: "RunRecord", form: Form) -> "tuple[Statement, ...]":
    """Print a run's checkpoints and its verdict; the statements that the verdict is made of."""
    from circuit_drift.cli.render import print_run
    from circuit_drift.report.run_table import run_frame
    from circuit_drift.report.verdict import run_statements

    statements = run_statements(run)
    verdict = tuple(statement.text for statement in statements)
    shown = partial(print_run, run, verdict)
    put(form, [Found("checkpoints", run_frame(run), shown, verdict)], run=run.name)
    return statements


def _lacking(run: "RunRecord", asked: "Series", adaptive: int | None) -> list[str]:
    """The checkpoints that were asked for and not measured whole."""
    whole = {point.name for point in run if not point.failures}
    lacking = [each.name for each in (run if adaptive else asked) if each.name not in whole]
    more = min(adaptive, len(asked)) - len(run) if adaptive else 0
    return [*lacking, f"{counted(more, 'checkpoint')} to be chosen"] if more else lacking


def _after_run(series: str, run: "RunRecord", page: Path | None) -> str:
    """What to do with a run that was measured: ask what the model knows, where it answered nothing; else look."""
    if _asked_in_vain(run):
        return (
            "none of the built-in facts and needles is answered; ask what this model was taught, with --facts FILE and "
            "--needles FILE (circuit-drift schema fact and schema needle tell their lines)"
        )
    name = shlex.quote(series)
    steps = [point.step for point in run if point.step is not None]
    two = f"; circuit-drift diff {name}@{steps[0]} {name}@{steps[-1]} compares two" if len(steps) > 1 else ""
    look = "circuit-drift report report.html writes the page" if page is None else f"open {page} in a browser"
    return f"{look}{two}"


def _asked_in_vain(run: "RunRecord") -> bool:
    """Whether both prompts are the built-in ones, were asked, and no checkpoint answers any of them."""
    built_in = all(run.origins.get(name, "").startswith("built-in") for name in ("facts", "needles"))
    answered = [float(point.heads.needle_accuracy) for point in run if point.heads is not None]
    recalled = [int((point.circuit.answer_rank == 0).sum()) for point in run if point.circuit is not None]
    return built_in and bool(answered) and bool(recalled) and not any((*answered, *recalled))


@app.command("heads")
@grouped
def retrieval_heads(
    series: SeriesArgument,
    *,
    steps: Annotated[str, typer.Option("--steps", help="Which checkpoints, as for run.")] = "last",
    top: Annotated[int, typer.Option("--top", help="How many heads to show of each.", min=1)] = 15,
    as_json: Annotated[
        bool, typer.Option("--json", help='Print {"layer-head": [scores]} of the last one, as other tools load it.')
    ] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print every head of every one as CSV.")] = False,
    store: StoreOption = None,
    needles: NeedleOptions,
    placing: PlacementOptions,
) -> None:
    """Score the heads of chosen checkpoints: which retrieve, with their intervals."""
    from checkpoints import open_series
    from circuit_drift.cli.render import heads_frame, print_heads
    from circuit_drift.prompts import prompts_for
    from circuit_drift.store.store import Store
    from circuit_drift.sweep.sweep import measure_each

    form, chosen = form_of(as_json, as_csv), open_series(series).select(steps)
    prompts = prompts_for(chosen.path, **needles.given)
    kept = Store.open(store)
    points = list(measure_each(chosen.checkpoints, kept, prompts, measures=["heads"], placement=placing.placement))
    scored = [(point.label, point.heads) for point in points if point.heads is not None]
    for index, reason in scored[-1][1].meta.get("refused", ()) if scored else ():
        say(f"needle {index} of {prompts.needles.origin} was refused: {reason}")
    if not scored:
        raise DriftError(f"no checkpoint of {chosen.name} could be scored; the reasons are above")
    if form == "table":
        print_heads(scored, top)
    elif form == "csv":
        typer.echo(csv_table(heads_frame(scored)), nl=False)
    elif points[-1].heads is not None:
        typer.echo(json.dumps(points[-1].heads.to_head_lists()))
    else:
        raise DriftError(f"{chosen[-1].label}, the last one chosen, could not be scored; the reason is above")
    leave_partly([point.name for point in points if point.failures], f"what was asked of {chosen.name}")


@app.command()
def train(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="TOML: model, documents, a [[strategy]] each.")],
    out: Annotated[Path, typer.Option("--out", help="Where the series and their store are written.")],
    html: Annotated[Path | None, typer.Option("--html", help="Write the strategies' comparison here.")] = None,
    only: Annotated[
        str | None, typer.Option("--only", help="Comma-separated strategies to train now. Default: all.")
    ] = None,
    plan: TrainPlanOption = False,
    track_to: TrackToOption = None,
) -> None:
    """Continual pre-training under every strategy of a config, probed as it goes; print their comparison as CSV.

    What is finished is not trained again: the same command goes on after a kill, and compares afterwards.
    """
    from circuit_drift.training.strategies import (
        comparison_frame,
        load_config,
        plan_training,
        run_all,
        write_comparison,
    )

    asked = load_config(config)
    asked = asked if only is None else asked.only(names(only))
    if plan:
        typer.echo("\n".join(map(one_line, plan_training(asked, out).lines())))
        return
    run_all(asked, out, track_to=track_to or ())
    typer.echo(csv_table(comparison_frame(out)), nl=False)
    if html:
        typer.echo(write_comparison(out, html), err=True)


add_looking(app)
add_stored(app)
behaviour.add_commands(app)
add_comparing(app)
add_upkeep(app)


class _OneLine(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return one_line(super().format(record))


class _Once(logging.Filter):
    """Lets a notice pass once, however many checkpoints it holds for; progress always."""

    def __init__(self) -> None:
        super().__init__()
        self.said: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        if record.levelno < logging.WARNING:
            return True
        new = message not in self.said
        self.said.add(message)
        return new


def start() -> None:
    """Run the command that the program was called with."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_OneLine("circuit-drift: %(message)s"))
    handler.addFilter(_Once())
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    logging.getLogger("circuit_drift.progress").setLevel(logging.INFO)
    if os.environ.get("_CIRCUIT_DRIFT_COMPLETE") == "complete_bash":
        completion.in_bash(app)
    else:
        app()


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"circuit-drift {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass
