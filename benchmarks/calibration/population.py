"""Graphs of every known fact of a lab world that one checkpoint recalls, from which simulations draw facts."""

import argparse
from pathlib import Path

import torch

import circuits
from benchmarks.circuits_calibration import recalled, world_facts
from checkpoints import open_checkpoint
from circuits.graph.scores import AttributionGraph


def arguments(description: str | None, *, draws: int) -> argparse.ArgumentParser:
    """What every simulation on such graphs is told."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", help="SERIES@STEP or a checkpoint folder of a lab series")
    parser.add_argument("--against", action="append", required=True, help="the other checkpoint of a pair; repeatable")
    parser.add_argument("--draws", type=int, default=draws, help="sets of facts for each row")
    parser.add_argument("--sizes", type=int, nargs="+", default=[8, 16, 32, 53, 100], help="facts in a set")
    parser.add_argument("--kept", type=Path, help="folder of graphs that an earlier call left, else left there")
    parser.add_argument("--world", type=int, default=0, help="seed of the series' world")
    parser.add_argument("--seed", type=int, default=0, help="of the draws")
    return parser


def graphs(options: argparse.Namespace) -> dict[str, AttributionGraph]:
    """By checkpoint, the first one's among them, all over the facts that the first recalls."""
    torch.set_num_threads(1)
    names = [options.checkpoint, *options.against]
    folders = {name: options.kept and options.kept / name.replace("/", "-").replace("@", "-") for name in names}
    if options.kept and all((folder / "result.json").is_file() for folder in folders.values()):
        return {name: AttributionGraph.load(folder) for name, folder in folders.items()}
    loaded = open_checkpoint(options.checkpoint).load()
    facts = recalled(loaded.model, world_facts(loaded.tokenizer, options.world))
    found = {}
    for name, folder in folders.items():
        found[name] = circuits.attribute(open_checkpoint(name).load().model, facts)
        if folder:
            found[name].save(folder)
    return found
