"""The circuits of a stored run as ``circuit-drift transfer`` prepares them, before it opens a model."""

import sys

import circuit_drift
from circuit_drift.record.recall import recalled


def main() -> None:
    found = [point.circuit for point in circuit_drift.load_run(sys.argv[1])]
    chosen, what = recalled([graph for graph in found if graph is not None], "")
    pruned = [graph.prune() for graph in chosen]
    print(f"{len(pruned)} circuits of {sum(circuit.n_edges for circuit in pruned)} edges together, over {what}")


if __name__ == "__main__":
    main()
