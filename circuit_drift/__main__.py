"""``python -m circuit_drift``."""

from circuit_drift.cli import main

if __name__ == "__main__":
    main()
