"""``python -m circuit_drift.cli``."""

from circuit_drift.cli import main

main()
