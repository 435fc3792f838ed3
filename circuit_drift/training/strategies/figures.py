"""Figures of a comparison of strategies, each titled by its finding; nothing is shown, all is returned."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from circuit_drift.knowledge.ledger_view import COLOURS
from circuit_drift.page import theme
from circuit_drift.training.strategies.comparison import EXPOSURE, LOSS, Trained

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

ACROSS = 4
FALLING = ("_ppl", "_perplexity", "_bits_per_byte")
"""Ends of the names of skills that are better the lower they are."""
_EVENTS = ("acquisitions", "relearned", "losses")


def loss_and_recall(trained: Sequence[Trained], references: "pd.DataFrame | None" = None) -> "go.Figure":
    """Loss on the documents above, mean recall of all units below, by epoch; the gold passage as a line."""
    from plotly.subplots import make_subplots

    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, vertical_spacing=0.07)
    for k, one in enumerate(trained):
        curve = one.ledger.to_frame()["mean"]
        for row, values in ((1, one.log[LOSS]), (2, curve)):
            figure.add_scatter(x=one.log["epoch"], y=values, **_line(k, one.name), showlegend=row == 1, row=row, col=1)
    for row in () if references is None else references.query("passages == 'gold'").itertuples():
        figure.add_hline(
            y=row.recall,
            row=2,
            col=1,
            line={"color": theme.GREY, "dash": "dot"},
            annotation={"text": "untrained, the right passage in front", "font": {"color": theme.GREY}},
        )
    figure.update_yaxes(title_text="loss on the documents", row=1, col=1)
    figure.update_yaxes(title_text="recall", range=[-0.03, 1.03], row=2, col=1)
    figure.update_xaxes(title_text="epoch", row=2, col=1)
    return theme.dress(
        figure, title=loss_finding(trained), subtitle="nats per token; mean recall of all units", height=560
    )


def loss_finding(trained: Sequence[Trained]) -> str:
    """In how many epochs the loss fell, and in how many of those recall did too, over all strategies."""
    parts = [one.divergence for one in trained]
    epochs, fell = sum(len(p.loss_fell) for p in parts), sum(sum(p.loss_fell) for p in parts)
    both = sum(len(p.diverged) for p in parts)
    return f"Loss fell in {fell} of {epochs} epochs; in {both} of those, recall fell too"


def transitions(trained: Sequence[Trained]) -> "go.Figure":
    """A panel a strategy: retained and acquired upward, forgotten downward, by epoch."""
    figure = _panels([one.name for one in trained])
    for k, one in enumerate(trained):
        table = one.ledger.to_frame()
        bars = {"retained": table["known"] - table["acquired"], "acquired": table["acquired"]}
        bars["forgotten"] = -table["forgotten"]
        for name, height in bars.items():
            figure.add_bar(x=one.log["epoch"], y=height, name=name, marker_color=COLOURS[name], legendgroup=name,
                           showlegend=k == 0, **_place(k))  # fmt: skip
    figure.update_layout(barmode="relative").update_yaxes(title_text="units", col=1)
    acquired, relearned, lost = (sum(one.ledger.outcome[n] for one in trained) for n in _EVENTS)
    return _dress(
        figure,
        title=f"{acquired} acquisitions, {relearned} of them for a second time, and {lost} losses",
        subtitle="units known; epoch 0 is the model before training",
        height=_height(len(trained)),
    )


def exposure(trained: Sequence[Trained]) -> "go.Figure":
    """A panel for each class of prior exposure: share of its units that is known, by epoch."""
    from plotly.subplots import make_subplots

    books = {one.name: one.ledger.by(EXPOSURE) for one in trained}
    classes = list(dict.fromkeys(name for parts in books.values() for name in parts))
    figure = make_subplots(rows=1, cols=len(classes), shared_yaxes=True, subplot_titles=classes)
    for k, one in enumerate(trained):
        for column, name in enumerate(classes, 1):
            share = books[one.name][name].known.mean(axis=0)
            figure.add_scatter(x=one.log["epoch"], y=share, **_line(k, one.name), showlegend=column == 1,
                               row=1, col=column)  # fmt: skip
    figure.update_xaxes(title_text="epoch")
    figure.update_yaxes(range=[-0.03, 1.03])
    figure.update_yaxes(title_text="share known", row=1, col=1)
    return _dress(figure, title=exposure_finding(trained), subtitle="units known, by prior exposure")


def exposure_finding(trained: Sequence[Trained]) -> str:
    """What is kept of what was known before, and held of what was newly learned, from worst to best strategy."""
    outcomes = {one.name: one.ledger.outcome for one in trained}
    first = next(iter(outcomes.values()))["known_first"]
    kept = {name: outcome["kept"] for name, outcome in outcomes.items()}
    held = [o["newly_learned_held"] / o["newly_learned"] for o in outcomes.values() if o["newly_learned"]]
    worst, best = (f"{pick(kept.values())} ({pick(kept, key=kept.__getitem__)})" for pick in (min, max))
    same = len(set(kept.values())) == 1
    said = f"Of {first} units known before, " + (f"{min(kept.values())}" if same else f"{worst} to {best}")
    if not held:
        return f"{said} are kept; none is newly learned"
    shares = dict.fromkeys(f"{share:.0%}" for share in (min(held), max(held)))
    return f"{said} are kept; {' to '.join(shares)} of those newly learned are held"


def skills(trained: Sequence[Trained]) -> "go.Figure":
    """A panel for each skill outside the domain, by epoch.

    Raises:
        ValueError: none was probed.
    """
    from plotly.subplots import make_subplots

    names = trained[0].skills
    if not names:
        raise ValueError("no skill was probed; name skills = or measures = in the config")
    titles, rows = [name.replace("_", " ") for name in names], -(-len(names) // ACROSS)
    figure = make_subplots(rows=rows, cols=min(len(names), ACROSS), subplot_titles=titles)
    for k, one in enumerate(trained):
        for panel, name in enumerate(names):
            figure.add_scatter(x=one.log["epoch"], y=one.log[name], **_line(k, one.name), showlegend=panel == 0,
                               **_place(panel))  # fmt: skip
    figure.update_xaxes(title_text="epoch", row=rows)
    return _dress(
        figure,
        title=skills_finding(trained),
        subtitle="nothing of this is in the documents",
        height=max(420, _height(len(names))),
    )


def skills_finding(trained: Sequence[Trained]) -> str:
    """Which strategy keeps the skills best, and which worst, by the last of them; of one strategy, what each became."""
    if len(trained) == 1:
        log = trained[0].log
        return ", ".join(
            f"{s.replace('_', ' ')} {log[s].iloc[0]:.3g} → {log[s].iloc[-1]:.3g}" for s in trained[0].skills
        )
    name = trained[0].skills[-1]
    change = {one.name: float(one.log[name].iloc[-1] - one.log[name].iloc[0]) for one in trained}
    worse = 1.0 if name.endswith(FALLING) else -1.0
    best, worst = (pick(change, key=lambda n: worse * change[n]) for pick in (min, max))
    return f"{name.replace('_', ' ')}: {best} {change[best]:+.2f}, {worst} {change[worst]:+.2f} by the last epoch"


def circuit_drift_figure(trained: Sequence[Trained]) -> "go.Figure":
    """Edge overlap of each epoch's circuit with the one before training, a panel a strategy over its noise floor."""
    drifts = {one.name: one.drift() for one in trained}
    drifts = {name: frame for name, frame in drifts.items() if len(frame)}
    figure = _panels(list(drifts))
    lines = (
        ("floor_low", "noise floor, 5 %", {"color": theme.GREY, "dash": "dot"}),
        ("floor", "noise floor: halves of the facts, one checkpoint", {"color": theme.GREY}),
        ("overlap", "overlap with the circuit before training", {"color": theme.VERMILLION}),
        ("chance", "random edges", {"color": "#000000", "dash": "dash", "width": 1}),
    )
    for k, frame in enumerate(drifts.values()):
        for name, label, line in lines:
            figure.add_scatter(x=frame["epoch"], y=frame[name], name=label, mode="lines+markers", line=line,
                               legendgroup=name, showlegend=k == 0, **_place(k))  # fmt: skip
    figure.update_yaxes(range=[-0.03, 1.03]).update_yaxes(title_text="edge Jaccard", col=1)
    beyond, epochs = (sum(int(v) for v in vs) for vs in zip(*map(_beyond, drifts.values()), strict=True))
    return _dress(
        figure,
        title=f"The circuit left its noise floor in {beyond} of {epochs} epochs",
        subtitle="facts that either epoch recalls, together; above the dots a change is neither shown nor ruled out",
        height=_height(len(drifts)),
    )


def _beyond(frame: "pd.DataFrame") -> tuple[int, int]:
    return int(frame["beyond_noise"].sum()), len(frame)


def _panels(names: Sequence[str]) -> "go.Figure":
    """A panel for each name, so many in a row, on one scale."""
    from plotly.subplots import make_subplots

    rows, cols = -(-len(names) // ACROSS), min(len(names), ACROSS)
    return make_subplots(rows=rows, cols=cols, shared_xaxes=True, shared_yaxes="all", subplot_titles=names)


def _dress(figure: "go.Figure", *, title: str, subtitle: str, height: int = 420) -> "go.Figure":
    """As `theme.dress`, with room for the panels' own titles."""
    return theme.dress(figure, title=title, subtitle=subtitle, height=height, top=120)


def _place(k: int) -> dict[str, int]:
    return {"row": k // ACROSS + 1, "col": k % ACROSS + 1}


def _height(panels: int) -> int:
    return 210 + 240 * -(-panels // ACROSS)


def _line(k: int, name: str) -> dict[str, object]:
    return {
        "name": name,
        "legendgroup": name,
        "mode": "lines+markers",
        "line": {"color": theme.CATEGORIES[k % len(theme.CATEGORIES)], "dash": theme.DASHES[k % len(theme.DASHES)]},
        "marker": {"symbol": theme.SYMBOLS[k % len(theme.SYMBOLS)]},
    }
