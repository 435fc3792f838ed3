"""mutmut over what people read: `python -m tests.mutants run`, then `results`, `scores`, `show NAME`, `browse`.

`sample 100` runs 100 mutants, drawn with a seed from those of all modules together, and tells the score of all with
its interval, where the whole takes too long. `--first 40 --count 20` runs a slice of the same draw: slices of one seed
are one sample. Only what is drawn is written out, since writing out a mutant takes far longer than finding it, and
tests that passed without a mutant are not run again for that before a file of code or tests changes.

mutmut leaves out decorated methods and the text of f-strings. Verdicts are properties made of f-strings, so both are
taken in here. Left out are errors, arguments that decide no number (the order of ties, the length of zipped lists),
and a second and third change of one text.
"""

import json
import os
import re
import tomllib
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from fnmatch import fnmatch
from hashlib import sha256
from itertools import compress, islice
from pathlib import Path
from random import Random

import click
import libcst as cst
import mutmut.__main__
from mutmut.__main__ import cli, create_mutants
from mutmut.mutation import file_mutation, mutators
from mutmut.mutation.diff_apply import get_diff_for_mutant
from mutmut.mutation.trampoline import set_mutant_under_test
from mutmut.runners.harness import collected_test_names
from mutmut.state import state
from mutmut.stats import status_by_exit_code
from mutmut.utils.file_utils import copy_also_copy_files, copy_src_dir, setup_source_paths, walk_source_files
from mutmut.workers.isolation import MutantRunner, get_mutant_runner
from scipy.stats import binomtest

PASSED_THROUGH = {"property", "cached_property", "lru_cache"}
NO_NUMBER = {"strict", "kind"}
TIMED_OUT = [code for code, status in status_by_exit_code.items() if status == "timeout"]

WRITTEN = re.compile(r"def (x\w*__mutmut_\d+)\(")
PASSED = Path("mutants/passed.json")

arranged = file_mutation.function_trampoline_arrangement
replaced = file_mutation.deep_replace
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


class Written:
    """Which mutants are written out, by the last part of their names: all where that is None."""

    wanted: Collection[str] | None = None

    @classmethod
    def out(cls, name: str) -> bool:
        return cls.wanted is None or name in cls.wanted


def replace_where_written(tree: cst.FunctionDef, old: cst.CSTNode, new: cst.CSTNode) -> object:
    return replaced(tree, old, new) if Written.out(tree.name.value) else tree


def arrange_below_decorators(
    function: cst.FunctionDef, mutants: Sequence[object], class_name: str | None
) -> tuple[Sequence[object], list[cst.FunctionDef], Sequence[object], Sequence[str]]:
    kept = decorators(function)
    bare = function.with_changes(decorators=()) if kept else function
    declared, methods, assigned, names = arranged(bare, mutants, class_name)
    trampoline = methods[0].with_changes(decorators=(*kept, *methods[0].decorators))
    out = [Written.out(name) for name in names]
    methods = [trampoline, methods[1], *compress(methods[2:], out)]
    return declared, methods, [assigned[0], *compress(assigned[1:], out)], names


def remove_what_counts(call: cst.Call) -> Iterator[cst.Call]:
    yield from (mutated for mutated in with_argument_removed(call) if silent(mutated.args) == silent(call.args))


def change_string(node: cst.BaseString) -> Iterator[cst.BaseString]:
    yield from islice(with_text_changed(node), 1)


def change_text(node: cst.FormattedStringText) -> Iterator[cst.FormattedStringText]:
    """One digit more where it is the format of a number."""
    number = re.fullmatch(r"([+,]*\.)(\d)([gf%])", node.value)
    changed = f"{number[1]}{int(number[2]) + 1}{number[3]}" if number else f"XX{node.value}"
    yield node.with_changes(value=changed)


def runner_that_remembers(children: int = 1) -> MutantRunner:
    """The runner of mutmut, which does not run tests again to see that they pass without a mutant."""
    runner = get_mutant_runner(children)
    runner.collect_stats = remembering(runner.collect_stats)  # type: ignore[method-assign]
    runner.run_clean_tests = remembering(runner.run_clean_tests)  # type: ignore[method-assign]
    submit = runner.submit

    def submit_quick_first(name: str, tests: list[str], *limits: float) -> None:
        submit(name, quick_first(tests), *limits)  # type: ignore[arg-type]

    runner.submit = submit_quick_first  # type: ignore[method-assign, assignment]
    return runner


def quick_first(tests: Sequence[str]) -> list[str]:
    """The quickest first, whatever their files, so that most mutants are killed before the slow ones run."""
    return sorted(tests, key=lambda test: (state().duration_by_test[test], test))


def remembering(run: Callable[[Iterable[str]], int]) -> Callable[[Iterable[str]], int]:
    """Leaves out tests that have passed with the code and tests of now; none are named where all are meant."""

    def run_new(tests: Iterable[str]) -> int:
        key, known = digest(), json.loads(PASSED.read_text()) if PASSED.exists() else {}
        passed, asked = set(known.get(key, ())), set(tests)
        left = asked - passed
        status = run(left) if left or not asked else 0
        if status == 0:
            PASSED.write_text(json.dumps({key: sorted(passed | (left or collected_test_names()))}))
        return status

    return run_new


def digest() -> str:
    """Of the code and the tests as they are now."""
    files = sorted([*walk_source_files(), *Path("tests").rglob("*.py")])
    return sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


file_mutation.MutationVisitor._skip_node_and_children = skip
file_mutation.function_trampoline_arrangement = arrange_below_decorators
file_mutation.deep_replace = replace_where_written
narrowed = {with_argument_removed: remove_what_counts, with_text_changed: change_string}
mutators.mutation_operators[:] = [
    *((kind, narrowed.get(operator, operator)) for kind, operator in mutators.mutation_operators),
    (cst.FormattedStringText, change_text),
]
mutmut.__main__.get_mutant_runner = runner_that_remembers


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
    """Find the mutants of all modules, and write out and run NUMBER of those of every MODULE, drawn at random."""
    plant(())
    without_effect = equivalent()
    names = [name for planted in outcomes(module).values() for name in planted if name not in without_effect]
    drawn = draw(names, number, seed)
    plant(drawn)
    drawn = drawn[first : None if count is None else first + count]
    mutmut.__main__._run(drawn, 1)
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


def plant(names: Collection[str] | None) -> None:
    """Write out these mutants, all where it is None; every function gets its trampoline, every mutant its name."""
    set_mutant_under_test("mutant_generation")
    Path("mutants").mkdir(exist_ok=True)
    copy_src_dir()
    copy_also_copy_files()
    setup_source_paths()
    Written.wanted = None if names is None else {name.rpartition(".")[2] for name in names}
    for module, planted in outcomes().items():
        file = Path("mutants", *module.split(".")).with_suffix(".py")
        wanted = {name for name in (name.rpartition(".")[2] for name in planted) if Written.out(name)}
        if not wanted <= set(WRITTEN.findall(file.read_text())):
            os.utime(file, (0, 0))  # older than its source: written again
    create_mutants(1)


@cli.command()
@click.argument("names", nargs=-1)
@click.option("--max-children", default=1, show_default=True, help="How many to run at a time.")
def run(names: Sequence[str], max_children: int) -> None:
    """Run all mutants, or those of these NAMES, in which * stands for anything."""
    plant(None if not names or "*" in "".join(names) else names)
    mutmut.__main__._run(list(names), max_children)


@cli.command()
@click.argument("name")
def show(name: str) -> None:
    """Show what a mutant changes."""
    plant([name])
    click.echo(get_diff_for_mutant(name))


def draw(planted: Sequence[str], number: int, seed: int) -> list[str]:
    return Random(seed).sample(sorted(planted), min(number, len(planted)))


def killed(status: int | None) -> bool:
    """Whether a test failed, or took far longer; 0 where none failed, 5 and 33 where none reaches the mutant."""
    return status not in (None, 0, 5, 33)


def equivalent() -> dict[str, str]:
    """Mutants that change nothing -> why."""
    listed = tomllib.loads(Path("tests/mutants_equivalent.toml").read_text())
    return {
        f"{function}__mutmut_{number}": why
        for function, about in listed.items()
        for number, why in about.items()
        if number != "text"
    }


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
