"""mutmut over what people read: `python -m tests.mutants run`, then `results`, `scores`, `show NAME`, `browse`.

`sample 100` runs 100 mutants, drawn with a seed from those of all modules together, and tells the score of all with
its interval, where the whole takes too long. `--first 40 --count 20` runs a slice of the same draw: slices of one seed
are one sample. Where the map of which test reaches what has just been made by running all tests, they are not run again
to see that they pass.

mutmut leaves out decorated methods and the text of f-strings. Verdicts are properties made of f-strings, so both are
taken in here. Left out are errors, arguments that decide no number (the order of ties, the length of zipped lists),
and a second and third change of one text.
"""

import json
import re
import tomllib
from collections.abc import Iterator, Sequence
from fnmatch import fnmatch
from itertools import islice
from pathlib import Path
from random import Random

import click
import libcst as cst
import mutmut.__main__
from mutmut.__main__ import cli, create_mutants, get_mutant_runner
from mutmut.mutation import file_mutation, mutators
from mutmut.mutation.trampoline import set_mutant_under_test
from mutmut.stats import status_by_exit_code
from mutmut.utils.file_utils import copy_also_copy_files, copy_src_dir, setup_source_paths
from scipy.stats import binomtest

PASSED_THROUGH = {"property", "cached_property", "lru_cache"}
NO_NUMBER = {"strict", "kind"}
TIMED_OUT = [code for code, status in status_by_exit_code.items() if status == "timeout"]

arranged = file_mutation.function_trampoline_arrangement
skipped = file_mutation.MutationVisitor._skip_node_and_children
with_argument_removed = mutators.operator_arg_removal
with_text_changed = mutators.operator_string


def decorators(node: cst.CSTNode) -> Sequence[cst.Decorator]:
    """Those of a function that mutmut would leave out and that a trampoline may stand below."""
    found = node.decorators if isinstance(node, cst.FunctionDef) else ()
    names = {getattr(getattr(d.decorator, "func", d.decorator), "value", None) for d in found}
    return found if names <= PASSED_THROUGH else ()


def silent(nodes: Sequence[cst.CSTNode]) -> list[cst.Arg]:
    return [n for n in nodes if isinstance(n, cst.Arg) and n.keyword is not None and n.keyword.value in NO_NUMBER]


def skip(visitor: file_mutation.MutationVisitor, node: cst.CSTNode) -> bool:
    if decorators(node):
        return False
    return isinstance(node, cst.Raise) or bool(silent([node])) or skipped(visitor, node)


def arrange_below_decorators(
    function: cst.FunctionDef, mutants: Sequence[object], class_name: str | None
) -> tuple[Sequence[object], list[cst.FunctionDef], Sequence[object], Sequence[str]]:
    kept = decorators(function)
    bare = function.with_changes(decorators=()) if kept else function
    declared, methods, assigned, names = arranged(bare, mutants, class_name)
    trampoline = methods[0].with_changes(decorators=(*kept, *methods[0].decorators))
    return declared, [trampoline, *methods[1:]], assigned, names


def remove_what_counts(call: cst.Call) -> Iterator[cst.Call]:
    yield from (mutated for mutated in with_argument_removed(call) if silent(mutated.args) == silent(call.args))


def change_string(node: cst.BaseString) -> Iterator[cst.BaseString]:
    yield from islice(with_text_changed(node), 1)


def change_text(node: cst.FormattedStringText) -> Iterator[cst.FormattedStringText]:
    """One digit more where it is the format of a number."""
    number = re.fullmatch(r"([+,]*\.)(\d)([gf%])", node.value)
    changed = f"{number[1]}{int(number[2]) + 1}{number[3]}" if number else f"XX{node.value}"
    yield node.with_changes(value=changed)


file_mutation.MutationVisitor._skip_node_and_children = skip
file_mutation.function_trampoline_arrangement = arrange_below_decorators
narrowed = {with_argument_removed: remove_what_counts, with_text_changed: change_string}
mutators.mutation_operators[:] = [
    *((kind, narrowed.get(operator, operator)) for kind, operator in mutators.mutation_operators),
    (cst.FormattedStringText, change_text),
]


def outcomes(module: str = "*") -> dict[str, dict[str, int | None]]:
    """Module -> planted mutant -> exit status of its tests: 0 where none failed, 33 where none reaches it."""
    metas = ((path, json.loads(path.read_text())) for path in sorted(Path("mutants").rglob("*.py.meta")))
    found = {".".join(path.with_suffix("").with_suffix("").parts[1:]): meta["exit_code_by_key"] for path, meta in metas}
    return {name: planted for name, planted in found.items() if planted and fnmatch(name, module)}


@cli.command()
@click.argument("number", type=int)
@click.argument("module", default="*")
@click.option("--seed", default=0, show_default=True, help="Draws another sample.")
@click.option("--first", default=0, show_default=True, help="Place in the draw of the first one to run.")
@click.option("--count", default=None, type=int, help="How many of the draw to run.  [default: all]")
def sample(number: int, module: str, seed: int, first: int, count: int | None) -> None:
    """Plant mutants in all modules, and run NUMBER of those of every MODULE, drawn at random."""
    plant()
    without_effect = equivalent()
    names = [name for planted in outcomes(module).values() for name in planted if name not in without_effect]
    drawn = draw(names, number, seed)[first : None if count is None else first + count]
    run_drawn(drawn)
    status = {name: status for planted in outcomes(module).values() for name, status in planted.items()}
    for name in drawn:
        if not killed(status[name]):
            click.echo(f"survived: {name}")
    hits = sum(killed(status[name]) for name in drawn)
    timed_out = sum(status[name] in TIMED_OUT for name in drawn)
    low, high = binomtest(hits, len(drawn)).proportion_ci()
    click.echo(
        f"{hits} of {len(drawn)} killed ({timed_out} by the clock), drawn from {len(names)} with seed {seed}: "
        f"{hits / len(drawn):.1%}, 95 % interval {low:.1%} to {high:.1%} (exact binomial)"
    )


def run_drawn(names: Sequence[str]) -> None:
    """Run the tests of these mutants; those that the map was just made with are known to pass."""
    known_to_pass = not Path("mutants/mutmut-stats.json").exists()

    def made(children: int) -> object:
        runner = get_mutant_runner(children)
        if known_to_pass:
            runner.run_clean_tests = lambda tests: 0  # type: ignore[method-assign]
        return runner

    mutmut.__main__.get_mutant_runner = made
    mutmut.__main__._run(list(names), 1)


def plant() -> None:
    """Write the mutants of what has changed since they were last written."""
    set_mutant_under_test("mutant_generation")
    Path("mutants").mkdir(exist_ok=True)
    copy_src_dir()
    copy_also_copy_files()
    setup_source_paths()
    create_mutants(1)


def draw(planted: Sequence[str], number: int, seed: int) -> list[str]:
    return Random(seed).sample(sorted(planted), min(number, len(planted)))


def killed(status: int | None) -> bool:
    """Whether a test failed, or took far longer; 0 where none failed, 5 and 33 where none reaches the mutant."""
    return status not in (None, 0, 5, 33)


def equivalent() -> dict[str, str]:
    """Mutants that change nothing -> why."""
    return tomllib.loads(Path("tests/mutants_equivalent.toml").read_text())


@cli.command()
def scores() -> None:
    """Killed of those that were run, by module; those without an effect stand in tests/mutants_equivalent.toml."""
    without_effect = equivalent()
    totals = [0, 0, 0]
    for module, planted in outcomes().items():
        run = {name: status for name, status in planted.items() if status is not None and name not in without_effect}
        hits = sum(map(killed, run.values()))
        totals = [total + more for total, more in zip(totals, (hits, len(run), len(planted)), strict=True)]
        click.echo(
            f"{hits / len(run) if run else 0:4.0%} {hits:5} of {len(run):5} run, {len(planted):5} planted  {module}"
        )
    hits, ran, planted_in_all = totals
    click.echo(f"{hits / max(ran, 1):4.1%} {hits} of {ran} run, {planted_in_all} planted")


if __name__ == "__main__":
    cli()
