"""Options that several commands share."""

import re
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast, get_args

import typer
from typer.core import TyperCommand, TyperOption

from checkpoints.errors import BadPrompt, DriftError
from checkpoints.files.reading import read_document
from checkpoints.placement import DeviceMap, Placement
from circuit_drift.cli import completion

if TYPE_CHECKING:
    from circuits.facts.facts import Answers

FIRST_BEHAVIOUR = "needle"
SeriesArgument = Annotated[
    str,
    typer.Argument(
        metavar="SERIES",
        help="A folder of checkpoints, 'demo', 'natural', 'factbook', or 'org/name@step*'.",
        autocompletion=completion.series,
    ),
]
FirstArgument = Annotated[
    str,
    typer.Argument(
        metavar="A",
        help="A checkpoint folder, SERIES@STEP or org/name@revision.",
        autocompletion=completion.series,
    ),
]
SecondArgument = Annotated[str, typer.Argument(metavar="B", help="The other one.", autocompletion=completion.series)]
StepsOption = Annotated[
    str | None,
    typer.Option("--steps", help="Which checkpoints: 'last', 'every 3', 'log 8', '100:2000', '0,500'."),
]
RunStepsOption = Annotated[
    str | None,
    typer.Option(
        "--steps",
        help="Which checkpoints: 'last', 'every 3', 'log 8', '100:2000', '0,500'; 'adaptive 15': so many, chosen where "
        "the circuit, the heads or recall change most.",
    ),
]
StoreOption = Annotated[
    str | None,  # a Path would lose a slash of file://HOST/FOLDER, which is no folder here
    typer.Option(
        "--store",
        metavar="<path>",
        help="Where results are kept. Default: $CIRCUIT_DRIFT_STORE, else .circuit-drift here.",
    ),
]
StoreArgument = Annotated[str | None, typer.Argument(metavar="STORE", help="A store, in place of --store.")]
RunOption = Annotated[
    str | None,
    typer.Option("--run", help="Which run of the store. Default: the newest.", autocompletion=completion.runs),
]
DeviceOption = Annotated[str, typer.Option("--device", help="A torch device; auto = an accelerator if there is one.")]
DtypeOption = Annotated[str, typer.Option("--dtype", help="Dtype of weights and passes; nf4, int8: packed.")]
LengthOption = Annotated[int, typer.Option("--length", help="Needle prompt length in tokens.", min=16)]
DepthsOption = Annotated[
    str | None,
    typer.Option("--depths", help="Needle depths, comma-separated, 0 = start. Default: 0.1,0.3,0.5,0.7,0.9."),
]
LengthsOption = Annotated[
    str | None,
    typer.Option("--lengths", help="Prompt lengths of the maps, comma-separated. Default: up to --length."),
]
AttentionOption = Annotated[str, typer.Option("--attention", help="Attention implementation: auto, sdpa, eager, ...")]
DeviceMapOption = Annotated[
    str | None,
    typer.Option("--device-map", help="For models larger than one device: auto, balanced, sequential, or a JSON file."),
]
FactsOption = Annotated[
    str | None,
    typer.Option(
        "--facts", help="JSONL of clean/corrupt facts, or ioi, capital, language, landmark. Default: the series' own."
    ),
]
AnswersOption = Annotated[
    str,
    typer.Option(
        "--answers",
        help="Answers of several tokens: whole, first-token, one-token (refuse them); auto: one-token, whole if that "
        "would refuse most facts.",
    ),
]
MethodOption = Annotated[
    str,
    typer.Option(
        "--method",
        help="How edges are scored: eap, eap-ig, clean-corrupted, conductance, activations, activations-eapig or flow.",
    ),
]
IgStepsOption = Annotated[
    int, typer.Option("--ig-steps", help="Gradients along the path from corrupt to clean.", min=1)
]
RuleOption = Annotated[str, typer.Option("--rule", help="Point of each step: left, right or midpoint.")]
MetricOption = Annotated[
    str, typer.Option("--metric", help="What is attributed: 'logit difference', 'log probability' or kl.")
]
EdgesOption = Annotated[
    int | None, typer.Option("--edges", help="Edges of the circuit that is compared. Default: 5 %, at least 20.", min=1)
]
BackwardOption = Annotated[str, typer.Option("--backward", help="Backward pass: plain, gim or relp.")]
NeedlesOption = Annotated[Path | None, typer.Option("--needles", help="JSONL of needles. Default: the series' own.")]
HaystackOption = Annotated[Path | None, typer.Option("--haystack", help="Text to hide them in.")]
SeedOption = Annotated[int, typer.Option("--seed", help="Seed of the haystack cut.")]
ExecutorOption = Annotated[str, typer.Option("--executor", help="Where workers run: serial, processes, ray or slurm.")]
WorkersOption = Annotated[int | None, typer.Option("--workers", help="How many. Default: one per GPU.", min=1)]
GpusOption = Annotated[int | None, typer.Option("--gpus-per-worker", help="GPUs that each worker holds.", min=0)]
KeepOption = Annotated[
    int,
    typer.Option(
        "--keep-downloads",
        help="Hub revisions that the run fetched to keep on disk once measured; -1 = all. What was there before stays.",
        min=-1,
    ),
]
NameOption = Annotated[
    str | None, typer.Option("--run", help="What the store calls this run. Default: the series' name.")
]
PlanOption = Annotated[
    bool,
    typer.Option("--plan", help="Say what the run will read, compute and store, and what that costs; then stop."),
]
TrainPlanOption = Annotated[
    bool,
    typer.Option(
        "--plan",
        help="Say what will be trained, probed and stored, and what that costs, after a short trial; then stop.",
    ),
]
MaxDiskOption = Annotated[
    str | None,
    typer.Option("--max-disk", help="Most that this run may add on disk, results and downloads, as in 50GB."),
]
MaxHoursOption = Annotated[
    float | None, typer.Option("--max-hours", help="Begin no further checkpoint after so many hours.", min=0)
]
TrackToOption = Annotated[
    list[str] | None,
    typer.Option(
        "--track-to",
        help="Tell a logger the numbers as they come: tensorboard:DIR, wandb:DIR (offline; WANDB_MODE=online sends "
        "them) or mlflow:DIR; once for each. Each needs its extra, as in circuit-drift[tensorboard].",
    ),
]
MeasuresOption = Annotated[
    str | None,
    typer.Option(
        "--measures",
        help="Comma-separated, as heads or harness:TASK. Default: the usual ones, and of a run without a step 0 an "
        "untrained twin.",
        autocompletion=completion.measures,
    ),
]
ExplainOption = Annotated[
    str | None,
    typer.Option(
        "--explain",
        metavar="[BEHAVIOUR]",
        help="Which component's weights made a behaviour change, proved by putting them back: needle (the default), "
        "accuracy (by patching alone), facts, facts:GROUP (a label, or learned, lost, kept, "
        "neither), log-probability, text, or a head as a18.h6 (its attention on the needle); several with commas.",
    ),
]

PromptsOption = Annotated[
    int, typer.Option("--prompts", help="Explain over at most so many prompts, drawn by a fixed seed.", min=1)
]

OutputsOption = Annotated[
    str | None,
    typer.Option(
        "--outputs",
        help="With --explain, on the same prompts: also put what these write at each part of the prompts into the "
        "other checkpoint: heads, layers' attention, MLPs as a18.h6,a18,m3; or how many of the first components'.",
    ),
]


def outputs_of(text: str | None) -> int | tuple[str, ...]:
    """What ``--outputs`` asks for."""
    return int(text) if text and text.isdecimal() else tuple(names(text or "")) or 0


class OneValue(TyperCommand):
    """A command that refuses an option of one value when it is given again: the last would win unseen."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """The arguments, each option of one value once.

        Raises:
            BadPrompt: a value that an option cannot have.
        """
        given, _, order = self.make_parser(ctx).parse_args(args=list(args))
        times = Counter(each for each in order if isinstance(each, TyperOption))
        again = [each for each, count in times.items() if count > 1 and not (each.multiple or each.is_flag)]
        if again and not ctx.resilient_parsing:
            names = ", ".join(each.opts[0] for each in again)
            ctx.fail(
                f"{names} holds one value and is given again: give it once; several names, where it takes them, are "
                "joined by commas"
            )
        try:
            return super().parse_args(ctx, args)
        except typer.BadParameter as error:
            option = error.param
            if option is None or given.get(option.name) is None:  # a missing one: its command's usage is shown
                raise
            raise BadPrompt(
                f"{option.opts[0]} cannot be {given[option.name]!r}: {error.message.rstrip('.')}; "
                f"{ctx.command_path} -h tells what it takes"
            ) from None


class Explaining(OneValue):
    """A command whose ``--explain`` may stand alone, and then means the first behaviour."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """The arguments, with what a lone ``--explain`` means."""
        following = [*args, "-"][1:]
        alone = [one == "--explain" and after.startswith("-") for one, after in zip(args, following, strict=True)]
        meant = [f"--explain={FIRST_BEHAVIOUR}" if each else one for one, each in zip(args, alone, strict=True)]
        return super().parse_args(ctx, meant)


DeltaOption = Annotated[
    list[str] | None,
    typer.Option(
        "--delta",
        help="A change below this counts as none: recall=0.1, heads=0.1, nll=0.05, wiring=0.1, strength=0.25, edge=0.1 "
        "unless set; once for each.",
    ),
]
FloorOption = Annotated[
    list[str] | None,
    typer.Option(
        "--floor",
        help="A sibling of A (another seed or data order, a step beside it): is A to B more than training does anyway? "
        "Once for each.",
    ),
]

ClusterOption = Annotated[
    str | None,
    typer.Option(
        "--cluster",
        help="Labels of the facts, as relation or relation,template: facts that agree in them are one unit of "
        "recall and of circuits, since they are not independent; needles have none. Default: every fact is a unit.",
    ),
]


def deltas_of(given: list[str] | None) -> dict[str, float]:
    """Margins by name, from ``name=value``.

    Raises:
        BadPrompt: no name and number.
    """
    found = {}
    for each in given or ():
        name, _, value = each.partition("=")
        try:
            found[name] = float(value)
        except ValueError:
            raise BadPrompt(f"--delta takes NAME=NUMBER, as recall=0.05; got {each!r}") from None
    return found


def depths_of(given: str | None) -> dict[str, Any]:
    """The needle depths that were named; the usual ones where none was.

    Raises:
        BadPrompt: no numbers from 0 to 1.
    """
    if given is None:
        return {}
    try:
        found = tuple(float(part) for part in names(given))
    except ValueError:
        found = ()
    if not found or not all(0 <= depth <= 1 for depth in found):
        raise BadPrompt(f"--depths takes numbers from 0 (start) to 1 (end), as 0,0.5,1; got {given!r}")
    return {"depths": found}


def answers_of(given: str) -> "Answers":
    """The kind of answers of that name.

    Raises:
        DriftError: there is none.
    """
    from circuits.facts.facts import Answers

    known = get_args(Answers)
    if (name := given.replace("-", " ")) not in known:
        raise DriftError(f"--answers cannot be {given!r}; choose from {', '.join(known).replace(' t', '-t')}")
    return cast("Answers", name)


def adaptive_of(steps: str | None) -> int | None:
    """How many checkpoints ``adaptive N`` chooses; None where steps are told otherwise.

    Raises:
        DriftError: no number is told.
    """
    found = re.fullmatch(r"adaptive(?:[\s:=]+(.*)|(\d*))", (steps or "").strip(), re.IGNORECASE)
    if found is None:
        return None
    count = found[1] or found[2] or ""
    if not count.isdecimal() or int(count) < 2:
        raise DriftError(f"--steps {steps!r} needs a number of checkpoints from 2 on, as in 'adaptive 15'")
    return int(count)


def names(text: str) -> list[str]:
    """A comma-separated list."""
    return [name.strip() for name in text.split(",") if name.strip()]


def placed(device: str, dtype: str, attention: str, device_map: str | None) -> Placement:
    """The placement that four options ask for.

    Raises:
        DriftError: no such dtype, or a device map that cannot be read.
    """
    return Placement(device, dtype, attention, _device_map(device_map))


def _device_map(given: str | None) -> DeviceMap | None:
    """The map of that name, or of a JSON file with module names and their devices.

    Raises:
        DriftError: the file cannot be read.
    """
    if given is None or not given.endswith(".json"):
        return given
    if not Path(given).is_file():
        raise DriftError(f"there is no device map {given}; name a JSON file, or auto, balanced or sequential")
    found = read_document(given, "the device map", DriftError)
    places = found.values() if isinstance(found, dict) else ()
    if not places or not all(type(place) in (str, int) for place in places):
        raise DriftError(f'the device map {given} is an object of module names with their devices, such as "cuda:0"')
    return {str(name): place for name, place in found.items()}


def measures_of(measures: str | None, lengths: str | None = None) -> dict[str, Any]:
    """The measures that were named; those of `circuit_drift.run` and `circuit_drift.diff` where none was.

    Args:
        measures: their names.
        lengths: of the maps.

    Raises:
        BadPrompt: lengths, and no maps to have them.
    """
    found = [] if measures is None else names(measures)
    if lengths is not None:
        if not any(name.partition(":")[0] == "maps" for name in found):
            raise BadPrompt("--lengths are those of maps, which is not among the measures: add --measures maps")
        found.append(f"maps:{'+'.join(names(lengths))}")
    return {"measures": found} if found else {}
