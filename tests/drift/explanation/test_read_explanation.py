"""How an explanation is told, from values made by hand."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from checkpoints.errors import BadPrompt
from checkpoints.results.figure import unbroken
from circuit_drift.cli.output.screen import shares_frame
from circuit_drift.explanation.explanation import (
    Effort,
    Explanation,
    OutputPatching,
    Patching,
    require_behaviour,
    share,
)
from circuit_drift.explanation.explanation_view import (
    best_size,
    outputs_frame,
    patching_frame,
    proof_sentences,
    sentences,
)
from circuit_drift.explanation.sections import explanation_sections
from circuit_drift.record.pair import PairRecord
from circuit_drift.report import pair_sections
from tests.drift.handmade import point
from tests.looks import looks

SHARES = np.array([[1.0, 0.5, -0.125, 0.0], [1.25, 0.25, -0.125, 0.0]])


def patched(inserted: list[float], removed: list[float], sizes: tuple[int, ...] = (1, 2)) -> Patching:
    """Four prompts that do the same."""

    def rows(values: list[float]) -> np.ndarray:
        return np.repeat(np.array(values)[:, None], 4, axis=1)

    return Patching(
        (0, 1, 2),
        np.array(sizes),
        rows(inserted),
        rows(removed),
        np.stack([rows([0.0] * len(sizes)), rows([0.1375] * len(sizes))]),
        rows([1.0]),
        rows([0.5]),
    )


def made(times: int = 2, **given: Any) -> Explanation:
    """Over two prompts, each so many times."""
    values: dict[str, Any] = {
        "a": "10",
        "b": "20",
        "behaviour": "needle answer NLL",
        "unit": "nats",
        "names": ("a0.h1.o", "m0.down", "embedding", "a0.norm"),
        "kinds": ("o", "m.down", "embedding", "a.norm"),
        "layers": (0, 0, -1, 0),
        "changed": (0, 1, 2),
        "shares": SHARES,
        "parts": ("needle", "rest", "not told apart"),
        "by_part": np.stack([SHARES.mean(0), np.zeros(4), np.zeros(4)]),
        "groups": ("new", "known"),
        "at": np.array([0.0, 1.0]),
        "along": np.array([[0.0, 0.0], [1.375, 1.375]]),
        "steps": 4,
        **given,
    }
    values["shares"] = np.tile(values["shares"], (times, 1))
    values["along"] = np.tile(values["along"], (1, times))
    values["groups"] *= times
    values["needle"] = values.get("needle", ()) * times
    return Explanation(**values)


def test_the_change_is_told_by_its_largest_shares_with_intervals():
    told = list(sentences(made()))
    assert told[0] == (
        "Of the rise of 1.38 nats [1.4, 1.4] in needle answer NLL from 10 to 20, over 4 prompts, the weights of "
        "a0.h1.o make 82 % [65, 99], those of m0.down 27 % [10, 44], together 109 % [109, 109]; 3 of 4 "
        "components differ."
    )
    assert told[1:] == ["Complete to 0 % over 4 gradients: shares that raise +1.5, that lower -0.125 nats."]


def test_prompts_of_one_needle_are_one_unit_of_every_interval():
    by_needle = np.array([[1.0, 0.5, -0.125, 0.0], [1.25, 0.25, -0.125, 0.0], [0.75, 0.75, 0.0, 0.0]])
    within = np.array([[0.25, 0.0, 0.0, 0.0], [-0.25, 0.0, 0.0, 0.0]])
    shares = np.concatenate([by_needle + each for each in within])
    asked = made(
        1, shares=shares, along=np.stack([np.zeros(6), shares.sum(1)]), groups=("all",) * 6, needle=(0, 1, 2) * 2
    )
    means = made(1, shares=by_needle, along=np.stack([np.zeros(3), by_needle.sum(1)]), groups=("all",) * 3)
    assert asked.change == means.change
    assert asked.part((0,)) == means.part((0,))
    ends = ["component", "share", "low", "high"]
    assert asked.to_frame()[ends].equals(means.to_frame()[ends])
    prompts = replace(asked, needle=())
    assert prompts.part((0,)).high - prompts.part((0,)).low < 0.9 * (asked.part((0,)).high - asked.part((0,)).low)
    assert ", over 6 prompts of 3 needles, the weights" in asked.verdict
    assert (asked.to_json()["prompts"], asked.to_json()["needles"]) == (6, 3)
    assert made().to_json()["needles"] is None


def test_one_needle_at_several_depths_claims_nothing():
    found = made(needle=(5, 5))
    assert not found.is_certain
    assert "over 4 prompts of 1 needle: a change of +1.4 (1 needle tells no spread)" in found.verdict


def test_two_units_claim_nothing_however_alike_and_three_may():
    for found in (made(1), made(needle=(5, 6))):
        assert not found.is_certain
        assert np.isnan([found.change.low, found.part((0,)).low, *found.to_frame()["high"]]).all()
    assert "over 2 prompts: a change of +1.4 (2 prompts tell no spread)" in made(1).verdict
    assert "over 4 prompts of 2 needles: a change of +1.4 (2 needles tell no spread)" in found.verdict
    three = made(1, along=np.array([[0.0] * 3, [1.0, 1.1, 1.2]]), shares=np.ones((3, 4)), groups=("all",) * 3)
    assert three.is_certain
    # t at two degrees of freedom
    assert three.change.high - three.change.value == pytest.approx(4.3027 * 0.1 / 3**0.5, rel=1e-4)
    one = made(1, shares=SHARES[:1], along=np.array([[0.0], [1.375]]), groups=("all",))
    assert "over 1 prompt: a change of +1.4 (1 prompt tells no spread)" in one.verdict


def test_a_fall_is_told_as_one_and_its_largest_share_is_first():
    found = made(shares=-SHARES, along=np.array([[1.375, 1.375], [0.0, 0.0]]))
    assert "Of the fall of 1.38 nats [1.4, 1.4]" in found.verdict
    assert found.order == (0, 1, 2)
    assert found.to_frame()["percent"].tolist() == pytest.approx([81.8182, 27.2727, -9.0909], abs=1e-3)


def test_the_proof_is_told_beside_random_components():
    found = made(patching=patched([0.6875, 1.375], [0.6875, 0.1375]))
    assert (
        "Put into 10, the first 2 components of 20 restore 100 % of it (random components of the same kinds 0 % to "
        "10 %); put back to 10's in 20, 90 % of it goes." in found.verdict
    )
    assert best_size(found) == (1, pytest.approx(1.0), pytest.approx(0.9), pytest.approx([0.0, 0.1]))
    table = patching_frame(found)
    assert table["components"].tolist() == [1, 2]
    assert table["attributed"].tolist() == pytest.approx([81.8182, 109.0909], abs=1e-3)
    assert table["restored"].tolist() == pytest.approx([50, 100])
    assert table["taken_back"].tolist() == pytest.approx([50, 90])
    assert table["random_least"].tolist() == pytest.approx([0, 0])
    assert table["random_most"].tolist() == pytest.approx([10, 10])


def test_outputs_tell_where_in_the_prompt_the_change_is_made():
    none, most, whole = (np.full(4, value) for value in (0.0, 1.1, 1.375))
    outputs = OutputPatching(
        ("a0.h1",), ("all positions", "needle", "rest"), none, whole,
        np.array([[whole, none, most]]), np.array([[none, whole, whole - most]]),
    )  # fmt: skip
    found = made(outputs=outputs)
    told = "On the same prompts, outputs of 20 put into 10 restore: of a0.h1 100 %, at rest alone 80 %."
    assert told in found.verdict
    frame = outputs_frame(found)
    assert frame["positions"].tolist() == ["all positions", "needle", "rest"]
    assert frame["restored"].tolist() == pytest.approx([100, 0, 80])
    assert frame["taken_back"].tolist() == pytest.approx([100, 0, 80])
    assert [section.slug for section in explanation_sections(found, anchor="x")] == ["why-x", "path-x", "outputs-x"]
    assert outputs_frame(made()).empty


def test_parts_that_restore_nothing_alone_are_co_adapted_or_spread():
    together = made(patching=patched([0.0, 0.06875], [0.6875, 0.1375]))
    assert list(proof_sentences(together)) == [
        "Put into 10, the first 2 components of 20 restore 5 % of it (random components of the same kinds 0 % to 10 %);"
        " put back to 10's in 20, 90 % of it goes.",
        "Co-adapted: they make 109 % of the change in the attribution, yet by themselves restore 5 %: they are of use "
        "only together with others.",
    ]
    assert list(proof_sentences(replace(together, steps=0)))[1] == (
        "Co-adapted: they make 109 % of the change one by one, yet by themselves restore 5 %: they are of use only "
        "together with others."
    )
    assert list(proof_sentences(made())) == []
    thin = made(shares=SHARES / 10, patching=patched([0.0, 0.06875], [1.375, 1.3])).verdict
    assert "Spread: the first 2 make 11 % of the change; no small set explains it." in thin
    assert "Co-adapted" not in thin
    assert "Not complete: shares miss the change by 90 % after 4 gradients" in thin
    assert thin.endswith(
        "the behaviour bends along the way, and more gradients come nearer (Effort(steps=...) in Python)."
    )
    assert "give or take the 90 % of it that shares miss; " in thin


def test_components_that_do_more_than_the_change_are_told_where_they_come_nearest_to_it():
    found = made(patching=patched([1.1, 2.75], [0.6875, 0.0]))
    assert best_size(found)[:2] == (0, pytest.approx(0.8))
    assert "Put into 10, a0.h1.o of 20 restores 80 % of it" in found.verdict
    assert "More of them do more than the whole change (the first 2 200 %)" in found.verdict
    assert "more than the whole" not in made(patching=patched([0.6875, 1.5], [0.6875, 0.0])).verdict


def test_what_is_not_told_apart_from_none_is_not_claimed():
    noisy = made(along=np.array([[0.0, 0.0], [1.4, -1.2]]), patching=patched([0.6875, 1.375], [0.6875, 0.1375]))
    assert list(sentences(noisy)) == [
        "needle answer NLL goes 0 → 0.1 nats from 10 to 20, over 4 prompts: a change of +0.1 ([-2.3, +2.5]) that is "
        "not told apart from none, so no component is claimed to have made it."
    ]
    assert made(changed=()).verdict == "10 and 20 have equal weights: there is nothing to explain."


def test_a_line_that_leaves_its_ends_is_told():
    bent = made(at=np.array([0.0, 0.5, 1.0]), along=np.array([[0.0, 0.0], [-0.5, -0.5], [1.375, 1.375]]))
    assert "it goes beyond both ends, to -0.5 at 0.5 of the way" in bent.verdict
    straight = made(at=np.array([0.0, 0.5, 1.0]), along=np.array([[0.0, 0.0], [-0.1, -0.1], [1.375, 1.375]]))
    assert "beyond both ends" not in straight.verdict


def test_the_table_has_groups_parts_and_single_components_put_back():
    frame = made(patching=patched([0.6875, 1.375], [0.6875, 0.1375])).to_frame()
    assert frame["component"].tolist() == ["a0.h1.o", "m0.down", "embedding"]
    assert frame["layer"].isna().tolist() == [False, False, True]
    assert frame["share"].tolist() == pytest.approx([1.125, 0.375, -0.125])
    assert frame["share, new"].tolist() == [1.0, 0.5, -0.125]
    assert frame["share, known"].tolist() == [1.25, 0.25, -0.125]
    assert frame["share, needle"].tolist() == pytest.approx([1.125, 0.375, -0.125])
    assert "share, rest" not in frame
    assert frame["restored"].tolist()[0] == pytest.approx(100 / 1.375)
    assert frame["taken_back"].tolist()[0] == pytest.approx(100 - 50 / 1.375)
    assert np.isnan(frame["restored"].tolist()[1])


def test_the_screen_has_shares_with_intervals_in_few_columns():
    frame = shares_frame(made(patching=patched([0.6875, 1.375], [0.6875, 0.1375])))
    assert list(frame) == ["component", "share, nats", "% of change", "% restored", "% taken back"]
    assert frame.iloc[0, :3].tolist() == ["a0.h1.o", "+1.1 [+0.9, +1.4]", 82.0]
    assert frame.iloc[0, 3:].tolist() == [73.0, 64.0]
    assert list(shares_frame(made())) == ["component", "share, nats", "% of change"]


def test_shares_of_one_sign_lower_nothing():
    found = made(shares=np.array([[1.375, 0.0, 0.0, 0.0], [1.375, 0.0, 0.0, 0.0]]))
    assert "shares that raise +1.38, that lower 0 nats" in found.verdict


def test_the_figures_add_up_from_a_to_b():
    found = made(patching=patched([0.6875, 1.375], [0.6875, 0.1375]))
    (bars,) = found.plot().data
    assert list(bars.x) == ["10", "a0.h1.o", "m0.down", "embedding", "20"]
    assert list(bars.measure) == ["absolute", "relative", "relative", "relative", "total"]
    assert sum(bars.y) == pytest.approx(1.375)
    assert "a0.h1.o leads" in found.plot().layout.title.text
    (turned,) = replace(found, shares=-found.shares, along=found.along[::-1]).plot().data
    assert list(turned.x)[1:-1] == ["a0.h1.o", "m0.down", "embedding"], "the way the change goes comes first"
    (risen,) = replace(found, shares=found.shares[:, [2, 1, 0]]).plot().data
    assert list(risen.x)[1:-1] == ["embedding", "m0.down", "a0.h1.o"]
    proof = found.plot_patching()
    assert [trace.name for trace in proof.data] == [
        "attributed", "restored", "taken back", "random, least", "random, most"
    ]  # fmt: skip
    assert list(proof.data[1].y) == pytest.approx([50, 100])
    with pytest.raises(BadPrompt, match="no component was patched"):
        made().plot_patching()


def test_a_slight_change_of_a_large_value_is_seen_and_the_figure_says_how():
    whole, slight = made().plot(), made(along=np.array([[20.0, 20.0], [21.375, 21.375]])).plot()
    assert whole.layout.yaxis.range[0] < 0 and whole.layout.yaxis.title.text == "nats"
    assert 19 < slight.layout.yaxis.range[0] < 20 and slight.layout.yaxis.range[1] > 21.5
    assert slight.layout.yaxis.title.text == "nats; not from 0"
    assert list(slight.data[0].text) == ["20", "+1.1", "+0.38", "−0.12", "21.4"]


def test_what_shares_miss_is_a_bar_where_it_can_be_seen():
    for change, left in ((1.376, []), (1.5, ["not explained"])):
        bars = made(along=np.array([[0.0, 0.0], [change, change]])).plot().data[0]
        assert list(bars.x)[4:-1] == left


def test_the_behaviour_on_the_way_is_drawn_beside_the_straight_line():
    found = made(at=np.array([0.0, 0.5, 1.0]), along=np.array([[0.0, 0.0], [-0.5, -0.25], [1.375, 1.375]]))
    straight, way = found.plot_path().data
    assert (list(straight.x), list(straight.y)) == ([0.0, 1.0], [0.0, 1.375])
    assert (list(way.x), list(way.y)) == ([0.0, 0.5, 1.0], [0.0, -0.375, 1.375])
    assert "shares miss the change by 0 % after 4 gradients" in found.plot_path().layout.title.subtitle.text


def test_the_page_has_shares_and_proof_where_something_is_claimed():
    whole = made(patching=patched([0.6875, 1.375], [0.6875, 0.1375]))
    assert [section.slug for section in explanation_sections(whole, anchor="x")] == ["why-x", "path-x", "proof-x"]
    (still,) = explanation_sections(made(changed=()), anchor="x")
    assert still.figure is None
    assert "nothing to explain" in still.text


def test_the_page_tells_shares_along_the_line_from_patches_one_by_one():
    for steps, how, legend in ((4, "Integrated gradients", "attributed"), (0, "Exact patches", "one by one, summed")):
        found = made(steps=steps, patching=patched([0.6875, 1.375], [0.6875, 0.1375]))
        why, *path, proof = explanation_sections(found, anchor="x")
        assert [section.slug for section in path] == (["path-x"] if steps else [])
        assert why.caption.startswith(how)
        assert proof.figure is not None
        assert proof.figure.data[0].name == legend


def test_json_holds_the_sentences_the_shares_and_the_path():
    document = made(patching=patched([0.6875, 1.375], [0.6875, 0.1375])).to_json()
    assert document["change"] == pytest.approx([1.375, 1.375, 1.375])
    assert document["path"] == [[0.0, 0.0], [1.0, 1.375]]
    assert document["shares"][0]["component"] == "a0.h1.o"
    assert document["patching"][1]["restored"] == pytest.approx(100)
    assert document["claimed"] is True
    assert made().to_json()["patching"] == []


def test_a_share_of_no_change_is_no_number():
    same = np.zeros(2)
    assert np.isnan(share(np.ones(2), same, same))


def test_a_behaviour_that_there_is_none_of_is_refused_with_those_there_are():
    with pytest.raises(BadPrompt, match=r"behaviour to explain.*recal.*facts:GROUP, a head as a18\.h6"):
        require_behaviour("recal")
    with pytest.raises(BadPrompt, match=r"only facts have groups.*write facts:old"):
        require_behaviour("needle:old")
    for name in ("facts", "facts:old", "needle", "a18.h6"):
        require_behaviour(name)


def test_an_explanation_as_json():
    found = made(patching=patched([0.5, 1.375], [0.5, 0.125])).to_json()
    assert list(found) == [
        "a", "b", "behaviour", "unit", "verdict", "prompts", "needles", "before", "after", "change", "claimed",
        "attributed", "residual", "gradients", "path", "shares", "patching", "outputs",
    ]  # fmt: skip
    assert (found["a"], found["b"], found["behaviour"], found["unit"]) == ("10", "20", "needle answer NLL", "nats")
    assert (found["prompts"], found["before"], found["after"], found["gradients"]) == (4, 0.0, 1.375, 4)
    assert found["change"] == pytest.approx([1.375] * 3)
    assert found["residual"] == pytest.approx(0, abs=1e-6)
    assert [list(step) for step in found["path"]] == [[0.0, 0.0], [1.0, 1.375]]
    assert [row["component"] for row in found["shares"]] == ["a0.h1.o", "m0.down", "embedding"]
    assert len(found["patching"]) == 2
    assert found["outputs"] == []


def test_how_shares_their_proof_and_the_way_are_drawn():
    found = made(patching=patched([0.6875, 1.375], [0.6875, 0.1375]), at=np.array([0.0, 1.0]))
    assert looks(found.plot()) == [
        "cliponaxis=False constraintext=none color=#0072B2 color=#D55E00 size=10 textposition=outside color=#767676",
        "yaxis range=[-0.225, 1.725] text=nats",
        "layout height=420",
    ]
    assert looks(found.plot_patching()) == [
        "color=#767676",
        "color=#D55E00",
        "color=#0072B2",
        "color=#767676 dash=dot",
        "color=#767676 dash=dot",
        "xaxis text=components, in the order of their shares",
        "yaxis text=% of the change",
        "layout height=420",
    ]
    assert looks(found.plot_path()) == [
        "color=#767676 dash=dot mode=lines",
        "color=#0072B2 mode=lines+markers",
        "xaxis text=part of the way from 10 to 20",
        "yaxis text=nats",
        "layout height=420",
    ]


def test_outputs_that_no_part_has_are_refused():
    assert Effort(outputs=("embedding", "a0.h1", "m0")).outputs == ("embedding", "a0.h1", "m0")
    assert (Effort().outputs, Effort(outputs=3).outputs) == (0, 3)
    with pytest.raises(BadPrompt, match="'first' is no output to put in"):
        Effort(outputs=("m0", "first"))


def test_figures_of_an_explanation_have_titles_subtitles_and_a_tick_for_each_size():
    found = made(patching=patched([0.6875, 1.375, 1.375], [0.6875, 0.1375, 0.0], sizes=(1, 2, 3)))

    def words(figure: Any) -> tuple[str, str]:
        return unbroken(figure.layout.title.text), unbroken(figure.layout.title.subtitle.text)

    assert words(found.plot()) == (
        "needle answer NLL, 10 → 20: a0.h1.o leads",
        "share of each component's weights in the change, mean over prompts; red raises, blue lowers",
    )
    assert words(replace(found, steps=0).plot()) == (
        "needle answer NLL, 10 → 20: a0.h1.o leads",
        "what each component changes when put in alone, mean over prompts; red raises, blue lowers",
    )
    assert words(made(1).plot())[0] == "needle answer NLL"
    assert words(found.plot_patching()) == (
        "needle answer NLL: what the first components restore",
        "put into 10; taken back: 10's put into 20; dotted: random ones of their kinds",
    )
    assert words(found.plot_path()) == (
        "needle answer NLL on the straight line between the weights",
        "mean over prompts; shares miss the change by 0 % after 4 gradients",
    )
    axis = found.plot_patching().layout.xaxis
    assert (axis.type, list(axis.tickvals)) == ("log", [1, 2, 3])
    assert [trace.name for trace in found.plot_patching().data] == [
        "attributed", "restored", "taken back", "random, least", "random, most"
    ]  # fmt: skip


def test_a_waterfall_shows_the_twelve_largest_shares_and_sums_the_others():
    means = np.array([0.01, -0.02, *np.arange(1, 15) / 10])
    names = tuple(f"m{place}.down" for place in range(16))
    found = made(
        names=names, kinds=("m.down",) * 16, layers=tuple(range(16)), changed=tuple(range(16)),
        shares=np.tile(means, (2, 1)), along=np.array([[0.0, 0.0], [means.sum()] * 2]), by_part=np.zeros((3, 16)),
    )  # fmt: skip
    (bars,) = found.plot().data
    assert list(bars.x) == ["10", *names[:3:-1], "others that raise", "others that lower", "20"]
    assert list(bars.y) == pytest.approx([0, *means[:3:-1], 0.31, -0.02, 0])


def test_what_explains_a_pair_is_in_its_report():
    pair = PairRecord(point(0), point(1), 0.05, explanations=(made(),))
    assert [(each.slug, each.chapter) for each in pair_sections(pair)] == [
        ("why-needle-answer-NLL", "What changed and why"), ("path-needle-answer-NLL", "What changed and why")
    ]  # fmt: skip
