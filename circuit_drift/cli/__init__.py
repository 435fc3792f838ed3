"""The command line, ``circuit-drift COMMAND``: one module for each group of commands, and how results are printed."""

from circuit_drift.cli.app import app, main

__all__ = ["app", "main"]
