"""Graphs for other tools: GraphML, node-link JSON, EAP-IG's and Neuronpedia's JSON, a parquet table of edges."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from checkpoints.errors import BadPrompt, StoreError
from checkpoints.files.reading import parse_lenient, read_text
from checkpoints.results.disk import whole_file, write_file
from circuits.graph.circuit import Circuit
from circuits.graph.shape import GraphShape, shape_document

FEATURE = "cross layer transcoder"
_LARGEST, _CELLS = 1 << 26, 16  # pairs of heads that a file may ask for: at most, and for each character


def export(circuit: Circuit, path: Path | str) -> Path:
    """Write a circuit in the format that the file's name ends in.

    ``.graphml``; ``.eap.json`` (EAP-IG and MIB); ``.neuronpedia.json``; any other ``.json``, node-link data of
    networkx; ``.parquet``, a table of all edges. The file appears whole, its folder is made where there is none.

    Raises:
        BadPrompt: another ending.
        StoreError: the format needs scores and there are none, a package is missing, or the file cannot be written.
    """
    path = Path(path)
    for ending, write in _WRITERS.items():
        if path.name.endswith(ending):
            return write(circuit, path)
    raise BadPrompt(f"{path.name!r} ends in no format that is known: take one of {', '.join(_WRITERS)}")


def write_graphml(circuit: Circuit, path: Path | str) -> Path:
    """Write a circuit as GraphML; nodes carry ``layer``, edges ``readers`` and, where there are any, ``score``."""
    import networkx as nx

    with whole_file(path) as draft:
        nx.write_graphml(_laid_out(circuit), draft)
    return Path(path)


def node_link(circuit: Circuit) -> dict[str, Any]:
    """A circuit as networkx's node-link data, ready for JSON."""
    import networkx as nx

    data: dict[str, Any] = nx.node_link_data(_laid_out(circuit), edges="edges")
    return data


def write_node_link(circuit: Circuit, path: Path | str) -> Path:
    """Write what `node_link` gives."""
    return _write_json(node_link(circuit), path)


def write_parquet(circuit: Circuit, path: Path | str) -> Path:
    """Write all edges of a circuit's graph as a table: writer, reader, score, in_circuit; `read_parquet` reads it.

    Raises:
        StoreError: pyarrow is not installed.
    """
    import pandas as pd

    writers, readers = np.array(circuit.shape.writers), np.array(circuit.shape.readers)
    rows, columns = np.nonzero(circuit.shape.mask)
    scores = np.full(len(rows), np.nan) if circuit.scores is None else circuit.scores[rows, columns]
    frame = pd.DataFrame(
        {
            "writer": pd.Categorical.from_codes(rows, writers),
            "reader": pd.Categorical.from_codes(columns, readers),
            "score": scores,
            "in_circuit": circuit.mask[rows, columns],
        }
    )
    frame.attrs = {"shape": shape_document(circuit.shape)}
    try:
        with whole_file(path) as draft:
            frame.to_parquet(draft, index=False, engine="pyarrow")
    except ImportError as error:
        raise _no_pyarrow(path) from error
    return Path(path)


def read_parquet(path: Path | str) -> Circuit:
    """Read a circuit from what `write_parquet` wrote; without scores where none were.

    Raises:
        StoreError: pyarrow is not installed, there is no such file, or it is not of that form.
    """
    import pandas as pd

    try:
        frame = pd.read_parquet(path, engine="pyarrow")
        shape = GraphShape(**frame.attrs["shape"])
        mask, scores = np.zeros(shape.mask.shape, dtype=bool), np.zeros(shape.mask.shape)
        mask[shape.mask], scores[shape.mask] = frame["in_circuit"], frame["score"]
    except ImportError as error:
        raise _no_pyarrow(path) from error
    except OSError as error:
        raise StoreError(f"cannot read {path}: {' '.join(str(error.strerror or error).split())}") from error
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise StoreError(f"{path} is not a table of edges that write_parquet wrote: {error!r}") from error
    return Circuit(shape, mask, None if frame["score"].isna().all() else scores)


def write_neuronpedia(
    circuit: Circuit, path: Path | str, *, prompt: str = "", model: str = "", slug: str | None = None
) -> Path:
    """Write a circuit in the JSON of circuit-tracer and Neuronpedia's graph viewer, as far as it fits.

    That format is made for transcoder features at positions: heads and MLPs stand in for features (feature number =
    head, or the number of heads for the MLP), all at one position, since scores are summed over positions. A head's
    q, k and v edges are one link, those of a shared key/value head are parted among its query heads; a weight is
    positive where corrupting the edge lowers the metric, and a node's activation is the sum of its outgoing weights.

    Args:
        circuit: with scores.
        path: where to.
        prompt: shown above the graph.
        model: what the format calls ``scan``, by which the viewer looks features up; none will be found.
        slug: the graph's name; by default the file's.
    """
    if circuit.scores is None:
        raise StoreError("a circuit without scores cannot be written for Neuronpedia; prune it from a graph")
    graph = circuit.to_networkx()
    places = {name: _place(name, circuit.shape) for name in graph.nodes}
    ids = {name: f"{layer}_{number}_0" for name, (layer, number) in places.items()}
    links = [
        {"source": ids[start], "target": ids[end], "weight": -edge["score"], "readers": edge["readers"]}
        for start, end, edge in graph.edges(data=True)
    ]
    sent = {name: -sum(edge["score"] for _, _, edge in graph.out_edges(name, data=True)) for name in graph.nodes}
    metadata = {
        "slug": slug or Path(path).name.removesuffix(".json").removesuffix(".neuronpedia"),
        "scan": model,
        "transcoder_list": [],
        "prompt_tokens": ["(all positions)"],
        "prompt": prompt,
        "node_threshold": None,
        "schema_version": 1,
    }
    view = {"pinnedIds": [], "supernodes": [], "linkType": "both", "clickedId": "", "sg_pos": ""}
    nodes = [_neuronpedia_node(name, ids[name], *places[name], sent[name]) for name in graph.nodes]
    return _write_json({"metadata": metadata, "qParams": view, "nodes": nodes, "links": links}, path)


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
        if np.isnan(part):
            raise StoreError(f"{writer}->{reader} was not measured, and EAP-IG JSON holds a score for every edge")
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
    return _write_json(document, path)


def read_eap_json(path: Path | str) -> Circuit:
    """Read a circuit from the JSON of EAP-IG or MIB (one key and value reader for each query head).

    Raises:
        StoreError: no such file, or not of that form; the message names what is missing.
    """
    path = Path(path)
    text = read_text(path, "a graph", StoreError)
    try:
        document = parse_lenient(text)
        cfg = document["cfg"]
        parallel = bool(cfg.get("parallel_attn_mlp", False))
        layers, heads = int(cfg["n_layers"]), int(cfg["n_heads"])
        if min(layers, heads) < 1 or layers * heads * layers * heads > max(_LARGEST, _CELLS * len(text)):
            raise ValueError(f"{layers} layers of {heads} heads are not those of a file of {len(text)} characters")
        shape = GraphShape(layers, heads, heads, parallel)
        rows = {name: i for i, name in enumerate(shape.writers)}
        columns = {name: i for i, name in enumerate(shape.readers)}
        mask, scores = np.zeros(shape.mask.shape, dtype=bool), np.zeros(shape.mask.shape)
        for name, edge in document["edges"].items():
            writer, _, reader = name.partition("->")
            place = rows[writer], columns[reader]
            mask[place], scores[place] = bool(edge["in_graph"]), -float(edge.get("score") or 0.0)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, MemoryError) as error:
        raise StoreError(f"{path} is not the JSON of an EAP-IG graph: {error!r}") from error
    return Circuit(shape, mask & shape.mask, scores)


def _laid_out(circuit: Circuit) -> Any:
    graph = circuit.to_networkx()
    for name in graph.nodes:
        layer = {"input": -1, "logits": circuit.shape.n_layers}.get(name)
        graph.nodes[name]["layer"] = int(name[1:].split(".")[0]) if layer is None else layer
    if circuit.scores is None:
        for _, _, edge in graph.edges(data=True):
            del edge["score"]
    return graph


def _place(name: str, shape: GraphShape) -> tuple[str, int]:
    """A node's layer and number as circuit-tracer has them: ``E`` for the input, one above the last for the logits."""
    if name in ("input", "logits"):
        return ("E" if name == "input" else str(shape.n_layers + 1)), 0
    layer, _, head = name[1:].partition(".h")
    return layer, int(head) if head else shape.n_heads


def _neuronpedia_node(name: str, node_id: str, layer: str, number: int, activation: float) -> dict[str, Any]:
    kind = {"input": "embedding", "logits": "logit"}.get(name, FEATURE)
    paired = number
    if kind == FEATURE:  # the viewer takes layer and number apart again (Cantor's pairing)
        total = int(layer) + number
        paired = total * (total + 1) // 2 + number
    return {
        "node_id": node_id,
        "feature": paired,
        "layer": layer,
        "ctx_idx": 0,
        "feature_type": kind,
        "token_prob": 0.0,
        "is_target_logit": name == "logits",
        "run_idx": 0,
        "reverse_ctx_idx": 0,
        "jsNodeId": f"{'L' if name == 'logits' else layer}_{number}-0",
        "clerp": name,
        "influence": None,
        "activation": activation,
    }


def _write_json(document: dict[str, Any], path: Path | str) -> Path:
    return write_file(path, json.dumps(document))


def _no_pyarrow(path: Path | str) -> StoreError:
    return StoreError(f"{path} is parquet, which needs the package pyarrow: pip install 'circuit-drift[parquet]'")


_WRITERS: dict[str, Callable[[Circuit, Path], Path]] = {
    ".graphml": write_graphml,
    ".eap.json": write_eap_json,
    ".neuronpedia.json": write_neuronpedia,
    ".json": write_node_link,
    ".parquet": write_parquet,
}
