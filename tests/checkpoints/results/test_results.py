"""What all results share: fields on disk and back, and how they show themselves."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import pytest
from numpy.typing import NDArray

import circuit_drift  # noqa: F401
import circuits
import heads
from checkpoints.audit import AuditReport, Fault
from checkpoints.errors import DamagedResult, StoreError
from checkpoints.model.architectures import Capability, CapabilityTable
from checkpoints.results.artifacts import read_artifact, write_artifact
from checkpoints.results.result import Result
from circuit_drift.behaviour.result import TaskScore, TaskScores
from circuit_drift.behaviour.table import BehaviourTable
from circuit_drift.knowledge.ledger import Ledger
from circuits.attribution.positions import PositionScores
from circuits.comparison.alignment import Alignment
from circuits.comparison.graph_diff import GraphDiff
from circuits.graph.circuit import Circuit
from circuits.graph.nodes import NodeScores
from circuits.intervention.faithfulness import Faithfulness, FaithfulnessCurve
from circuits.intervention.transfer import Transfer
from circuits.roles.roles import HeadRoles
from circuits.tracking.circuit_track import CircuitTrack
from heads.ablation.ablation import Ablation
from heads.comparison.diff import HeadDiff
from heads.niah.grid import NeedleMap
from heads.scores.scores import DetectorScores
from heads.tracking.head_track import HeadTrack

Floats = NDArray[np.floating]


@dataclass(frozen=True, slots=True)
class Part:
    low: Floats
    at: int


@dataclass(frozen=True, slots=True)
class Split:
    index: int
    p: float = 1.0


@dataclass(frozen=True, repr=False)
class Found(Result):
    artifact, title = "found", "What was <found>"
    stored_as: ClassVar[Mapping[str, str]] = {"meta": "about", "scores": "score"}

    values: Floats
    part: Part
    splits: tuple[Split, ...]
    pair: tuple[str, float]
    scores: Mapping[str, Floats]
    parts: Mapping[str, Part]
    absent: Floats | None = None
    maybe: Split | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)

    @property
    def verdict(self) -> str:
        return "many words " * 1000 if len(self.values) > 3 else "a < b"

    def to_frame(self):
        import pandas as pd

        return pd.DataFrame({"value": self.values})


def found(n: int = 2, **other: object) -> Found:
    return Found(
        np.arange(float(n)),
        Part(np.array([np.nan, 1.5]), 7),
        (Split(3, 0.25), Split(4, float("inf"))),
        ("a", 0.5),
        {"previous-token": np.ones(2), "own.name": np.zeros(1)},
        {"x": Part(np.zeros(1), 1)},
        meta={"n": np.int64(3), "list": (1, 2)},
        **other,
    )


def test_fields_lie_on_disk_by_their_names_and_come_back(tmp_path):
    document, arrays = read_artifact(found().save(tmp_path / "it"), "found")
    assert document["splits"] == [{"index": 3, "p": 0.25}, {"index": 4, "p": float("inf")}]
    assert document["about"] == {"n": 3, "list": [1, 2]}
    assert set(arrays) == {"values", "part.low", "score.previous-token", "score.own.name", "parts.x.low"}
    back = Found.load(tmp_path / "it")
    np.testing.assert_array_equal(back.values, [0.0, 1.0])
    np.testing.assert_array_equal(back.part.low, [np.nan, 1.5])
    assert back.part.at == 7
    assert back.splits == (Split(3, 0.25), Split(4, float("inf")))
    assert back.pair == ("a", 0.5)
    assert list(back.scores) == ["own.name", "previous-token"]
    assert back.parts["x"].at == 1
    assert (back.absent, back.maybe) == (None, None)
    there = Found.load(found(absent=np.ones(1), maybe=Split(9)).save(tmp_path / "more"))
    assert there.absent.tolist() == [1.0]
    assert there.maybe == Split(9)


def test_values_kept_in_the_order_of_their_fields_are_still_read(tmp_path):
    document, arrays = read_artifact(found().save(tmp_path / "it"), "found")
    write_artifact(tmp_path / "former", "found", {**document, "splits": [[3, 0.25], [4]]}, arrays)
    assert Found.load(tmp_path / "former").splits == (Split(3, 0.25), Split(4, 1.0))


def test_what_is_not_there_or_of_another_kind_is_named(tmp_path):
    document, arrays = read_artifact(found().save(tmp_path / "it"), "found")
    write_artifact(tmp_path / "lacking", "found", document, {n: a for n, a in arrays.items() if n != "part.low"})
    with pytest.raises(DamagedResult, match=r"lacks 'part\.low': delete the folder and run again"):
        Found.load(tmp_path / "lacking")
    del document["pair"]
    write_artifact(tmp_path / "bare", "found", document, arrays)
    with pytest.raises(DamagedResult, match="lacks 'pair'"):
        Found.load(tmp_path / "bare")
    write_artifact(tmp_path / "other", "lost", document, arrays)
    with pytest.raises(StoreError, match="lost"):
        Found.load(tmp_path / "other")


def test_a_result_shows_itself_in_a_line_and_on_a_page():
    assert repr(found()) == "<Found: a < b>"
    long = repr(found(30))
    assert len(long) < 30 * 120
    assert long.endswith(" …>")
    page = found(30)._repr_html_()
    assert page.startswith("<p><b>What was &lt;found&gt;</b>: many words")
    assert page.count("<tr") == 1 + 20


def test_what_a_checkpoint_can_do_is_told_with_its_tasks(tmp_path):
    one = TaskScore("lives", "exact", 0.5, 0.25, 0.75, 8)
    behaviour = TaskScores((one,), {"sft_lives": 0.5, "sft_codes": 0.125}, {"mrcr": "too long"})
    back = TaskScores.load(behaviour.save(tmp_path / "it"))
    assert repr(back) == "<TaskScores: sft_lives 0.5, sft_codes 0.125; 1 refused>"
    assert back.to_frame().values.tolist() == [["lives", "exact", 0.5, 0.25, 0.75, 8]]
    assert TaskScores((), {}).verdict == "nothing could be asked"
    assert list(TaskScores((), {}).to_frame()) == ["task", "metric", "value", "low", "high", "n"]


def test_what_every_checkpoint_can_do_is_told_and_saved_as_one(tmp_path):
    first, last = (TaskScores((), {"sft_lives": share}, meta={"step": step}) for step, share in ((10, 0.25), (20, 0.5)))
    table = BehaviourTable(((10, first), (20, last)), {"checkpoint-30": "too long"})
    assert table.verdict == "steps 10 to 20: sft_lives 0.25 to 0.5; 1 checkpoint not measured"
    assert BehaviourTable(((10, first),)).verdict == "step 10: sft_lives 0.25"
    assert BehaviourTable(()).verdict == "no checkpoint was measured"
    assert table._repr_html_().startswith(f"<p><b>Downstream scores</b>: {table.verdict}</p><table")
    back = BehaviourTable.load(table.save(tmp_path / "it"))
    assert back.downstream().equals(table.downstream())
    assert back.failures == table.failures


def test_an_audit_is_told_and_saved_as_every_result_is(tmp_path):
    fault = Fault("missing_steps", ("10", "30"), "20 is missing", {"steps": [20]})
    report = AuditReport("run", ("10", "30"), (fault,), "samples")
    assert report.verdict == "2 checkpoints of run (samples examined): 0 errors, 1 warning"
    assert repr(report) == f"<AuditReport: {report.verdict}>"
    assert report._repr_html_().startswith(f"<p><b>Audit</b>: {report.verdict}</p><table><tr><th>severity</th>")
    assert AuditReport.load(report.save(tmp_path / "it")) == report
    assert AuditReport("run", ("10",), (), "samples")._repr_html_().endswith("nothing found</p>")
    with pytest.warns(DeprecationWarning, match=r"AuditReport\.findings is now AuditReport\.faults"):
        assert report.findings == (fault,)
    with pytest.warns(DeprecationWarning, match=r"AuditReport\.summary is now AuditReport\.verdict"):
        assert report.summary == report.verdict


def test_architectures_are_told_as_every_result_is():
    eager = Capability("a", "A", ("eager",), "in place", (), "")
    plain = Capability("b", "B", ("sdpa", "eager"), "through a fresh load", (), "")
    assert CapabilityTable((eager, plain)).verdict == (
        "2 architectures proved; eager attention alone: a; loaded afresh for every checkpoint: b"
    )


RESULTS = [
    DetectorScores, heads.Scores, HeadDiff, HeadTrack, NeedleMap,
    Ablation, circuits.AttributionGraph, Circuit, GraphDiff, CircuitTrack,
    HeadRoles, Transfer, Faithfulness, FaithfulnessCurve, NodeScores,
    PositionScores, Alignment, Ledger, TaskScores,
    AuditReport, CapabilityTable, BehaviourTable,
]  # fmt: skip


@pytest.mark.parametrize("kind", RESULTS, ids=lambda kind: kind.__name__)
def test_every_result_has_the_same_parts(kind: type[Result]):
    assert issubclass(kind, Result)
    assert kind.verdict is not Result.verdict
    assert kind.to_frame is not Result.to_frame
    assert "__repr__" not in vars(kind) or kind is HeadTrack, "repr=False in its decorator"
    assert len({result.artifact for result in RESULTS}) == len(RESULTS)
