"""How an explanation is told, tabled and drawn."""

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from checkpoints.errors import BadPrompt
from checkpoints.results.figure import BLUE, GREY, VERMILLION, dress
from checkpoints.results.strict_json import plain_json
from checkpoints.results.text import counted
from circuit_drift.explanation.explanation import COMPLETE, ENOUGH, few_told

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from circuit_drift.explanation.explanation import Explanation

NAMED = 3
BARS = 12
MARGIN = 0.15
"""Room for the numbers above and below the bars, as a part of the axis."""
NUMBERS = 10
"""Size of the numbers on the bars, in pixels."""
SLIGHT = 0.25
"""Below this part of the behaviour's size the bars of a change are too small to see on an axis from 0."""
UNSEEN = 0.005
"""What is left over is drawn from this part of the change on."""
HALF = 0.5
BEYOND = 1.25
"""From this part of the change on, components put in are told to do more than all of it."""
FAR = 0.1
_OF_EXPERTS = re.compile(r"m\d+\.(router$|e\d+\.)")
WHAT = {True: "share of each component's weights in the change", False: "what each component changes when put in alone"}


def sentences(found: "Explanation") -> Iterator[str]:
    """The change, who made it, what putting it back does, and how complete that is."""
    n = found.asked
    if not found.changed:
        yield f"{found.a} and {found.b} have equal weights: there is nothing to explain."
        return
    change = found.change
    moved = f"{found.behaviour} goes {found.before.mean():.3g} → {found.after.mean():.3g} {found.unit}"
    if not found.is_certain:
        why = few_told(found.needle, len(found.before)) or f"[{change.low:+.2g}, {change.high:+.2g}]"
        yield (
            f"{moved} from {found.a} to {found.b}, over {n}: a change of {change.value:+.2g} ({why}) that is not told "
            "apart from none, so no component is claimed to have made it."
        )
        return
    yield _opening(found, n)
    yield from proof_sentences(found)
    yield from _outputs(found)
    yield _completeness(found)
    yield from _path(found)


def _opening(found: "Explanation", n: str) -> str:
    change = found.change
    way = "rise" if change.value > 0 else "fall"
    named: list[int] = []
    for place in found.order[:NAMED]:
        if named and found.part(tuple(named)).value >= ENOUGH:
            break
        named.append(place)
    first, *others = (
        f"{found.names[place]}{' make' if i == 0 else ''} {_percent(found, (place,))}" for i, place in enumerate(named)
    )
    parts = ", ".join([first, *(f"those of {other}" for other in others)])
    together = f", together {_percent(found, tuple(named))}" if len(named) > 1 and found.is_attributed else ""
    low, high = sorted((abs(change.low), abs(change.high)))
    lacks = found.is_attributed and found.residual > COMPLETE
    give = f", give or take the {_gap(found)} of it that shares miss" if lacks else ""
    return (
        f"Of the {way} of {abs(change.value):.3g} {found.unit} [{low:.2g}, {high:.2g}] in {found.behaviour} from "
        f"{found.a} to {found.b}, over {n}, the weights of {parts}{together}{give}; "
        f"{len(found.changed):,} of {counted(len(found.names), 'component')} "
        f"{'differs' if len(found.changed) == 1 else 'differ'}."
    )


def _whole(share: float) -> str:
    """A share in whole percent; none is 0 %, whatever its sign."""
    return f"{round(100 * share) + 0} %"


def _percent(found: "Explanation", places: tuple[int, ...]) -> str:
    part = found.part(places)
    interval = "" if np.isnan(part.low) else f" [{100 * part.low:.0f}, {100 * part.high:.0f}]"
    return f"{100 * part.value:.0f} %{interval}"


def proof_sentences(found: "Explanation") -> Iterator[str]:
    """What putting the first components back did; none where nothing was put back."""
    patching = found.patching
    if patching is None or not len(patching.sizes):
        return
    k, inserted, removed, random = best_size(found)
    size = int(patching.sizes[k])
    what = found.names[patching.order[0]] if size == 1 else f"the first {size} components"
    low, high = min(random), max(random)
    chance = _whole(low) if _whole(low) == _whole(high) else f"{_whole(low)} to {_whole(high)}"
    yield (
        f"Put into {found.a}, {what} of {found.b} {'restores' if size == 1 else 'restore'} {_whole(inserted)} of it "
        f"(random components of the same kinds {chance}); put back to {found.a}'s in {found.b}, "
        f"{_whole(removed)} of it goes."
    )
    attributed = found.part(patching.order[:size]).value
    if inserted < HALF <= attributed:
        yield (
            f"Co-adapted: they make {_whole(attributed)} of the change "
            f"{'in the attribution' if found.is_attributed else 'one by one'}, yet by themselves restore "
            f"{_whole(inserted)}: they are of use only together with others."
        )
    elif inserted < HALF:
        yield f"Spread: the first {size} make {_whole(attributed)} of the change; no small set explains it."
    elif (most := max(restored := [found.restored(values) for values in patching.inserted])) > BEYOND:
        yield (
            f"More of them do more than the whole change (the first {patching.sizes[restored.index(most)]:,} "
            f"{_whole(most)}): components whose shares work against it take the rest back."
        )


def _outputs(found: "Explanation") -> Iterator[str]:
    """Where in the prompt the outputs tried do most of what they do everywhere."""
    frame = outputs_frame(found)
    if not len(frame):
        return
    told = []
    for node, rows in frame.groupby("output", sort=False):
        whole, *parts = zip(rows["positions"], rows["restored"] / 100, strict=True)
        most = max(parts, key=lambda each: abs(each[1]), default=None)
        where = "" if most is None else f", at {most[0]} alone {_whole(most[1])}"
        told.append(f"of {node} {_whole(whole[1])}{where}")
    yield f"On the same prompts, outputs of {found.b} put into {found.a} restore: {'; '.join(told)}."


def best_size(found: "Explanation") -> tuple[int, float, float, list[float]]:
    """The smallest set that restores the change to 5 %, else the largest tried, or where that overshoots the nearest.

    Returns:
        its place among the sizes, and the shares that it restores, takes back, and that random ones restore.

    Raises:
        BadPrompt: nothing was patched.
    """
    patching = found.patching
    if patching is None or not len(patching.sizes):
        raise BadPrompt(f"no component was patched between {found.a} and {found.b}; explain with patching")
    restored = [found.restored(values) for values in patching.inserted]
    misses = [abs(1 - value) for value in restored]
    largest = misses.index(min(misses)) if restored[-1] > 1 else len(restored) - 1
    k = next((i for i, miss in enumerate(misses) if miss <= 1 - ENOUGH), largest)
    removed = 1 - found.restored(patching.removed[k])
    return k, restored[k], removed, [found.restored(draw[k]) for draw in patching.random]


def _completeness(found: "Explanation") -> str:
    means = found.shares.mean(0)
    raised, lowered = (f"{value:+.3g}" if value else "0" for value in (means[means > 0].sum(), means[means < 0].sum()))
    sums = f"shares that raise {raised}, that lower {lowered} {found.unit}"
    if not found.is_attributed:
        return (
            f"{found.behaviour} has no gradient, so nothing is attributed: shares are exact patches, each component of "
            f"{found.b} put into {found.a} alone, and need not add up ({sums})."
        )
    if found.residual <= COMPLETE:
        return f"Complete to {_gap(found)} over {counted(found.steps, 'gradient')}: {sums}."
    return (
        f"Not complete: shares miss the change by {_gap(found)} after {counted(found.steps, 'gradient')} ({sums}); "
        f"{why_incomplete(found.names)}."
    )


def _gap(found: "Explanation") -> str:
    return f"{100 * found.residual:.2g} %"


def why_incomplete(names: Sequence[str]) -> str:
    """What keeps the shares of a model's components from the whole change."""
    if any(map(_OF_EXPERTS.match, names)):
        return "experts switch along the way, where the behaviour jumps, and a jump has no gradient"
    return "the behaviour bends along the way, and more gradients come nearer (Effort(steps=...) in Python)"


def _path(found: "Explanation") -> Iterator[str]:
    along = found.along.mean(1)
    low, high = sorted((along[0], along[-1]))
    beyond = max(low - along.min(), along.max() - high)
    if beyond > FAR * (high - low):
        place = int(np.argmin(along) if low - along.min() >= along.max() - high else np.argmax(along))
        yield (
            f"On the straight line between the weights it goes beyond both ends, to {along[place]:.3g} at "
            f"{found.at[place]:.2g} of the way: models in between are unlike either."
        )


def frame_of(found: "Explanation") -> "pd.DataFrame":
    """See `Explanation.to_frame`."""
    import pandas as pd

    from checkpoints.stats.ttests import skewed_interval

    order = list(found.order)
    low, high = skewed_interval(found.shares[:, order], found.cluster) if order else (np.zeros(0), np.zeros(0))
    total = found.change.value
    means = found.shares.mean(0)
    frame = pd.DataFrame(
        {
            "component": [found.names[place] for place in order],
            "kind": [found.kinds[place] for place in order],
            "layer": pd.Series([None if found.layers[p] < 0 else found.layers[p] for p in order], dtype=object),
            "share": means[order],
            "low": low,
            "high": high,
            "percent": 100 * means[order] / total if total else np.full(len(order), np.nan),
        }
    )
    groups = sorted(set(found.groups))
    for group in groups if len(groups) > 1 else ():
        rows = np.array([own == group for own in found.groups])
        frame[f"share, {group}"] = found.shares[rows].mean(0)[order]
    for name, shares in zip(found.parts, found.by_part, strict=True):
        if len(found.parts) > 2 and np.any(shares):
            frame[f"share, {name}"] = shares[order]
    if found.patching is not None:
        tried = {place: i for i, place in enumerate(found.patching.order[: len(found.patching.single)])}
        single, out = found.patching.single, found.patching.left_out
        frame["restored"] = [100 * found.restored(single[tried[p]]) if p in tried else np.nan for p in order]
        frame["taken_back"] = [100 * (1 - found.restored(out[tried[p]])) if p in tried else np.nan for p in order]
    return frame


def patching_frame(found: "Explanation") -> "pd.DataFrame":
    """What the first components restore and take back together, in percent of the change, beside random ones."""
    import pandas as pd

    patching = found.patching
    if patching is None:
        return pd.DataFrame()
    random = np.array([[100 * found.restored(values) for values in draw] for draw in patching.random])
    return pd.DataFrame(
        {
            "components": patching.sizes,
            "attributed": [100 * found.part(patching.order[:k]).value for k in patching.sizes],
            "restored": [100 * found.restored(values) for values in patching.inserted],
            "taken_back": [100 * (1 - found.restored(values)) for values in patching.removed],
            "random_least": random.min(0) if len(random) else np.nan,
            "random_most": random.max(0) if len(random) else np.nan,
        }
    )


def path_frame(found: "Explanation") -> "pd.DataFrame":
    """The behaviour on the line from A's weights to B's, mean over prompts, by place from 0 to 1."""
    import pandas as pd

    return pd.DataFrame({"place": found.at, "mean": found.along.mean(1)})


def outputs_frame(found: "Explanation") -> "pd.DataFrame":
    """What outputs restore and take back at single parts of the prompts, in percent of the change."""
    import pandas as pd

    columns = ["output", "positions", "restored", "taken_back"]
    outputs = found.outputs
    if outputs is None:
        return pd.DataFrame(columns=columns)
    rows = [
        (node, part, 100 * found.restored(outputs.inserted[i, j]), 100 * (1 - found.restored(outputs.removed[i, j])))
        for i, node in enumerate(outputs.nodes)
        for j, part in enumerate(outputs.parts)
    ]
    return pd.DataFrame(rows, columns=columns)


def waterfall(found: "Explanation") -> "go.Figure":
    """See `Explanation.plot`."""
    import plotly.graph_objects as go

    means, size = found.shares.mean(0), abs(found.change.value)
    shown = sorted(found.changed, key=lambda place: -abs(float(means[place])))[:BARS]
    shown = sorted((p for p in shown if means[p]), key=lambda place: -float(means[place]) * np.sign(found.change.value))
    rest = np.array([means[place] for place in found.changed if place not in shown])
    steps = [(found.names[place], float(means[place])) for place in shown]
    steps += [("others that raise", float(rest[rest > 0].sum())), ("others that lower", float(rest[rest < 0].sum()))]
    left = float(found.change.value - means.sum())
    steps += [("not explained" if found.is_attributed else "only together", left)] if abs(left) > UNSEEN * size else []
    steps = [(name, value) for name, value in steps if value]
    ends = float(found.before.mean()), float(found.after.mean())
    heights = np.cumsum([ends[0], *(value for _, value in steps)])
    cut = float(np.ptp(heights)) < SLIGHT * float(np.abs(heights).max())
    seen = heights if cut else np.append(heights, 0.0)
    room = MARGIN * float(np.ptp(seen))
    numbers = (f"{ends[0]:.3g}", *(f"{value:+.2g}" for _, value in steps), f"{ends[1]:.3g}")
    figure = go.Figure(
        go.Waterfall(
            x=[found.a, *(name for name, _ in steps), found.b],
            y=[ends[0], *(value for _, value in steps), 0.0],
            measure=["absolute", *["relative"] * len(steps), "total"],
            text=[told.replace("-", "−") for told in numbers],
            textposition="outside",
            textfont={"size": NUMBERS},
            constraintext="none",
            cliponaxis=False,
            increasing={"marker": {"color": VERMILLION}},
            decreasing={"marker": {"color": BLUE}},
            totals={"marker": {"color": GREY}},
        )
    )
    figure.update_yaxes(
        title=f"{found.unit}{'; not from 0' if cut else ''}", range=[float(seen.min()) - room, float(seen.max()) + room]
    )
    lead = found.names[found.order[0]] if found.changed else "nothing"
    return dress(
        figure,
        title=f"{found.behaviour}, {found.a} → {found.b}: {lead} leads" if found.is_certain else f"{found.behaviour}",
        subtitle=f"{WHAT[found.is_attributed]}, mean over prompts; red raises, blue lowers",
    )


def restored_figure(found: "Explanation") -> "go.Figure":
    """See `Explanation.plot_patching`."""
    import plotly.graph_objects as go

    best_size(found)
    frame = patching_frame(found)
    figure = go.Figure()
    shares = "attributed" if found.is_attributed else "one by one, summed"
    looks = {"attributed": (shares, GREY), "restored": ("restored", VERMILLION), "taken_back": ("taken back", BLUE)}
    for column, (name, colour) in looks.items():
        figure.add_scatter(x=frame["components"], y=frame[column], name=name, line={"color": colour})
    for column in ("random_least", "random_most"):
        figure.add_scatter(
            x=frame["components"], y=frame[column], name=column.replace("_", ", "), line={"color": GREY, "dash": "dot"}
        )
    figure.update_xaxes(title="components, in the order of their shares", type="log", tickvals=frame["components"])
    figure.update_yaxes(title="% of the change")
    return dress(
        figure,
        title=f"{found.behaviour}: what the first components restore",
        subtitle=f"put into {found.a}; taken back: {found.a}'s put into {found.b}; dotted: random ones of their kinds",
    )


def path_figure(found: "Explanation") -> "go.Figure":
    """See `Explanation.plot_path`."""
    import plotly.graph_objects as go

    frame = path_frame(found)
    ends = frame.iloc[[0, -1]]
    figure = go.Figure()
    figure.add_scatter(
        x=ends["place"], y=ends["mean"], mode="lines", line={"color": GREY, "dash": "dot"}, name="straight"
    )
    figure.add_scatter(
        x=frame["place"], y=frame["mean"], mode="lines+markers", line={"color": BLUE}, name=found.behaviour
    )
    figure.update_xaxes(title=f"part of the way from {found.a} to {found.b}")
    figure.update_yaxes(title=found.unit)
    return dress(
        figure,
        title=f"{found.behaviour} on the straight line between the weights",
        subtitle=f"mean over prompts; shares miss the change by {100 * found.residual:.2g} % after "
        f"{counted(found.steps, 'gradient')}",
    )


def json_of(found: "Explanation") -> dict[str, Any]:
    """See `Explanation.to_json`."""
    document: dict[str, Any] = plain_json(
        {
            "a": found.a,
            "b": found.b,
            "behaviour": found.behaviour,
            "unit": found.unit,
            "verdict": list(sentences(found)),
            "prompts": len(found.before),
            "needles": len(set(found.needle)) or None,
            "before": found.before.mean(),
            "after": found.after.mean(),
            "change": [found.change.value, found.change.low, found.change.high],
            "claimed": found.is_certain,
            "attributed": found.is_attributed,
            "residual": found.residual,
            "gradients": found.steps,
            "path": zip(found.at, found.along.mean(1), strict=True),
            "shares": frame_of(found).to_dict("records"),
            "patching": patching_frame(found).to_dict("records"),
            "outputs": outputs_frame(found).to_dict("records"),
        }
    )
    return document
