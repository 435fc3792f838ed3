"""Where the nodes that some edges touch are drawn."""

from circuits.graph.shape import GraphShape
from circuits.graph.touched import Touched, kind_of, layer_of, node_of

DEEP = GraphShape(n_layers=30, n_heads=9, n_kv_heads=3)


def test_rows_are_the_touched_layers_from_the_input_up():
    edges = [("input", "a3.kv1<v>"), ("a3.h4", "m29"), ("m3", "a29.h8<q>"), ("m29", "logits")]
    drawn = Touched(DEEP, edges)
    assert drawn.rows == (("input",), ("a3.h4", "a3.kv1", "m3"), ("a29.h8", "m29"), ("logits",))
    assert drawn.labels == ["input", "layer 3", "layer 29", "logits"]
    assert drawn.at["input"] == (0.5, 0.0)
    assert drawn.at["a3.h4"] == (0.25, 1.0)
    assert drawn.at["a3.kv1"] == (0.75, 1.0)
    assert drawn.at["m3"] == (1.15, 1.25)
    assert drawn.at["a29.h8"] == (0.5, 2.0)


def test_heads_stand_by_number_and_no_two_nodes_in_one_place():
    edges = [(f"a1.h{i}", f"a{j}.h{i}<q>") for i in (8, 2, 0) for j in (2, 5)]
    drawn = Touched(DEEP, edges)
    assert drawn.rows[0] == ("a1.h0", "a1.h2", "a1.h8")
    assert len(set(drawn.at.values())) == len(drawn.at) == 9


def test_kinds_and_layers_of_nodes():
    assert [kind_of(name) for name in ("input", "a0.h3", "a0.kv1", "m12", "logits")] == [
        "input or logits", "head", "shared key/value head", "MLP", "input or logits"
    ]  # fmt: skip
    assert [layer_of(DEEP, name) for name in ("input", "a7.h3", "a0.kv1", "m12", "logits")] == [-1, 7, 0, 12, 30]
    assert node_of("a7.h3<k>") == "a7.h3"
