"""How the command line is laid out in its help: commands by what one wants, and an example of each."""

import re
from collections.abc import Mapping
from typing import Any

from typer.core import TyperCommand, TyperGroup

OTHER = "Others"
GROUPS: Mapping[str, tuple[str, ...]] = {
    "Measure a series": ("run", "status", "heads", "sft", "evaluate"),
    "Compare and follow": ("diff", "track", "explain", "transfer", "report", "export"),
    "Train": ("benchmark", "train"),
    "Prepare and check": ("show", "audit", "facts", "architectures", "schema", "store", "verify"),
}
EXAMPLES: Mapping[str, tuple[str, ...]] = {
    "run": (
        "circuit-drift run demo --html report.html",
        "circuit-drift run checkpoints/ --plan",
        "circuit-drift run checkpoints/ --track-to tensorboard:logs",
        "circuit-drift run checkpoints/ --steps 'adaptive 15'",
        "circuit-drift run checkpoints/ --steps 'log 12' --needles needles.jsonl --facts facts.jsonl",
        "circuit-drift run 'EleutherAI/pythia-160m@step*' --steps 'log 10' --measures heads,circuit",
    ),
    "heads": (
        "circuit-drift heads demo --steps last",
        "circuit-drift heads checkpoints/ --steps 500,1000 --needles needles.jsonl --json",
    ),
    "status": ("circuit-drift status store/",),
    "sft": ("circuit-drift sft demo --steps 'log 5'",),
    "evaluate": ("circuit-drift evaluate checkpoints/ --tasks arc_easy",),
    "diff": (
        "circuit-drift diff demo@1000 demo@9000",
        "circuit-drift diff checkpoints/@500 checkpoints/@1000 --facts facts.jsonl --html pair.html",
        "circuit-drift diff demo@9000 demo@9600 --all",
        "circuit-drift diff demo@9000 demo@9600 --json > pair.json",
        "circuit-drift diff demo@9000 demo@9600 --cluster relation,template",
        "circuit-drift diff demo@9000 demo@9600 --explain facts:known --outputs 3",
        "circuit-drift diff demo@9000 demo@9600 --floor demo@7500 --floor demo@6500 --delta recall=0.2",
    ),
    "track": (
        "circuit-drift track --stage pretrain",
        "circuit-drift track store/ --run first-light --downstream scores.csv",
        "circuit-drift track --measures heads --csv > heads.csv",
    ),
    "explain": (
        "circuit-drift explain demo --behaviour needle --steps 500,1000,1500,2000",
        "circuit-drift explain checkpoints/ --behaviour facts --html who.html",
    ),
    "transfer": ("circuit-drift transfer demo",),
    "report": ("circuit-drift report report.html --store store/",),
    "export": ("circuit-drift export 9000 circuit.json",),
    "benchmark": ("circuit-drift benchmark factbook/ --recipe recipe.toml --out bench --reference corpus/",),
    "train": (
        "circuit-drift train strategies.toml --out out/strategies --html strategies.html",
        "circuit-drift train strategies.toml --out out/strategies --plan",
    ),
    "show": ("circuit-drift show checkpoints/",),
    "audit": ("circuit-drift audit checkpoints/",),
    "facts": ("circuit-drift facts counterfact.json --format counterfact --out facts.jsonl",),
    "architectures": ("circuit-drift architectures",),
    "schema": ("circuit-drift schema", "circuit-drift schema fact"),
    "store": ("circuit-drift store", "circuit-drift store --prune --older-than 30d --dry-run"),
    "verify": ("circuit-drift verify store/",),
}


class Grouped(TyperGroup):
    """A group whose help lists commands under headings, and each command's help ends with examples."""

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of that name, its examples in its epilog."""
        command = super().get_command(ctx, cmd_name)
        if isinstance(command, TyperCommand) and command.epilog is None and cmd_name in EXAMPLES:
            command.epilog = "\b\nExamples:\n" + "\n".join(f"  {line}" for line in EXAMPLES[cmd_name])
        return command

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the visible commands under their headings; one that no heading names stands under the last."""
        visible = {name: self.get_command(ctx, name) for name in self.list_commands(ctx)}
        visible = {name: command for name, command in visible.items() if not command.hidden}
        widest = max(map(len, visible), default=0)
        for heading, names in by_heading(tuple(visible)).items():
            with formatter.section(heading):
                formatter.write_dl([(name.ljust(widest), _first_clause(visible[name].help or "")) for name in names])


def _first_clause(text: str) -> str:
    """What a command does, up to the first stop of any kind."""
    return re.split(r"[.:;]\s|[.:;]$|, which|\n", text.strip())[0]


def by_heading(names: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    """The given commands by heading, in the order of `GROUPS`; empty headings are left out."""
    placed = {heading: tuple(name for name in known if name in names) for heading, known in GROUPS.items()}
    known = {name for members in GROUPS.values() for name in members}
    placed[OTHER] = tuple(name for name in names if name not in known)
    return {heading: members for heading, members in placed.items() if members}
