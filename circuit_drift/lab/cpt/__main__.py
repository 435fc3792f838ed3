"""Command line: train every strategy of a config and print their table."""

import argparse
import sys
from pathlib import Path

from checkpoints import DriftError
from circuit_drift.lab.cpt.comparison import comparison_frame
from circuit_drift.lab.cpt.config import load_config
from circuit_drift.lab.cpt.runner import run_all


def main() -> None:
    """Train, then write the comparison to standard output as CSV."""
    parser = argparse.ArgumentParser(prog="python -m circuit_drift.lab.cpt", description=__doc__)
    parser.add_argument("config", type=Path, help="TOML with the model, the documents and a [[strategy]] each")
    parser.add_argument("--out", type=Path, required=True, help="where series and store are written")
    options = parser.parse_args()
    try:
        run_all(load_config(options.config), options.out)
        comparison_frame(options.out).to_csv(sys.stdout, index=False, float_format="%.4g")
    except DriftError as error:
        parser.exit(2, f"{error}\n")


if __name__ == "__main__":
    main()
