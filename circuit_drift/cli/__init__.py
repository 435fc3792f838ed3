"""The command line, ``circuit-drift COMMAND``: one module for each group of commands, and how results are printed."""

from typing import Any

from circuit_drift.cli.status import end

__all__ = ["app", "main"]


def main() -> None:
    """Entry point of the ``circuit-drift`` script; its commands are imported where an interrupt is awaited."""
    end(_run)


def _run() -> None:
    from circuit_drift.cli.commands import start

    start()


def __getattr__(name: str) -> Any:
    if name == "app":
        from circuit_drift.cli.commands import app

        return app
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
