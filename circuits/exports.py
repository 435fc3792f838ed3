"""Graphs for other tools: GraphML and node-link JSON through networkx, and the JSON of EAP-IG and MIB, in and out."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from checkpoints.errors import StoreError
from circuits.graph import Circuit, GraphShape


def write_graphml(circuit: Circuit, path: Path | str) -> Path:
    """Write a circuit as GraphML; nodes carry ``layer``, edges ``score`` and ``readers``."""
    import networkx as nx

    path = Path(path)
    nx.write_graphml(_laid_out(circuit), path)
    return path


def node_link(circuit: Circuit) -> dict[str, Any]:
    """A circuit as networkx's node-link data, ready for JSON."""
    import networkx as nx

    data: dict[str, Any] = nx.node_link_data(_laid_out(circuit), edges="edges")
    return data


def write_eap_json(circuit: Circuit, path: Path | str) -> Path:
    """Write a circuit and all scores in the JSON of EAP-IG and MIB.

    The sign is turned to theirs (loss): positive = corrupting the edge lowers the metric. With shared key/value heads
    each query head's edge carries an equal part of its group's score, since that format knows no groups.
    """
    shape, scores = circuit.shape, circuit.scores
    if scores is None:
        raise StoreError("a circuit without scores cannot be written as EAP-IG JSON; prune it from a graph")
    group = shape.n_heads // shape.n_kv_heads
    edges, inside = {}, set(circuit.nodes)
    for row, column in np.argwhere(shape.mask):
        writer, reader = shape.writers[row], shape.readers[column]
        readers = [reader]
        if ".kv" in reader:
            readers = [f"{head}<{reader[-2]}>" for head in shape.heads_reading(reader)]
        part = -float(scores[row, column]) / (group if len(readers) > 1 else 1)
        for name in readers:
            edges[f"{writer}->{name}"] = {"score": part, "in_graph": bool(circuit.mask[row, column])}
    document = {
        "cfg": {
            "n_layers": shape.n_layers,
            "n_heads": shape.n_heads,
            "parallel_attn_mlp": shape.parallel,
        },
        "nodes": {name: {"in_graph": name in inside} for name in (*shape.writers, "logits")},
        "edges": edges,
    }
    path = Path(path)
    path.write_text(json.dumps(document), encoding="utf-8")
    return path


def read_eap_json(path: Path | str) -> Circuit:
    """Read a circuit from the JSON of EAP-IG or MIB (one key and value reader for each query head).

    Raises:
        StoreError: no such file, or not of that form; the message names what is missing.
    """
    path = Path(path)
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        cfg = document["cfg"]
        parallel = bool(cfg.get("parallel_attn_mlp", False))
        shape = GraphShape(int(cfg["n_layers"]), int(cfg["n_heads"]), int(cfg["n_heads"]), parallel)
        rows = {name: i for i, name in enumerate(shape.writers)}
        columns = {name: i for i, name in enumerate(shape.readers)}
        mask, scores = np.zeros(shape.mask.shape, dtype=bool), np.zeros(shape.mask.shape)
        for name, edge in document["edges"].items():
            writer, _, reader = name.partition("->")
            place = rows[writer], columns[reader]
            mask[place], scores[place] = bool(edge["in_graph"]), -float(edge.get("score") or 0.0)
    except OSError as error:
        raise StoreError(f"cannot read {path}: {error.strerror}") from error
    except (KeyError, TypeError, ValueError) as error:
        raise StoreError(f"{path} is not the JSON of an EAP-IG graph: {error!r}") from error
    return Circuit(shape, mask & shape.mask, scores)


def _laid_out(circuit: Circuit) -> Any:
    graph = circuit.to_networkx()
    for name in graph.nodes:
        layer = {"input": -1, "logits": circuit.shape.n_layers}.get(name)
        graph.nodes[name]["layer"] = int(name[1:].split(".")[0]) if layer is None else layer
    return graph
