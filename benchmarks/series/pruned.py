"""The circuits of a stored run as ``circuit-drift transfer`` prepares them, before it opens a model."""

import sys

import circuit_drift
from circuit_drift.comparison.transfer import bare_circuits


def main() -> None:
    found = [point.circuit for point in circuit_drift.load_run(sys.argv[1])]
    pruned = bare_circuits([graph for graph in found if graph is not None])
    print(f"{len(pruned)} circuits of {sum(circuit.n_edges for circuit in pruned)} edges together")


if __name__ == "__main__":
    main()
