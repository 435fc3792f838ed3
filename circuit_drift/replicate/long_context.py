"""Has it stopped learning to retrieve? The questions of arXiv 2604.02650, put to a series small enough to answer them.

Three levels, as there: what a checkpoint does after a short fine-tune (`circuit_drift.behaviour.sft`), how likely it
finds the answer (`needle_maps`, `interference_maps`), and which heads retrieve (`follow`, `causal_heads`). Which of the
paper's claims hold is said by `circuit_drift.replicate.long_context_claims`.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

import heads
from checkpoints import Checkpoint, Series
from checkpoints.errors import UnsupportedArchitecture
from checkpoints.stats.bootstrap import Estimate
from circuit_drift.measures.tokenizers import tokenizer_of
from circuit_drift.prompts import prompts_for
from heads.ablation.ablation import Ablation
from heads.niah.grid import NeedleMap
from heads.niah.maps import NeedleMaps
from heads.tracking.head_track import HeadTrack

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from circuit_drift.record.record import RunRecord

Maps = Mapping[float, NeedleMap]
"""Step, or another number that tells checkpoints apart -> map."""
TRAINED = 512
"""Tokens of the longest rows that the shipped series was trained on."""
STILL = 0.1
"""Change of the mean NLL, in nats, below which a title does not speak of it."""
LENGTHS = (128, 256, 512, 768)
EXTENDED = (256, 512, 768, 1000)
DEPTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
DISTANCES = (32, 128)
BEFORES = (0, 64, 128, 256, 384)


def follow(
    run: "RunRecord",
    *,
    stage: str = "pretrain",
    since: int = 0,
    top_k: int = 10,
    downstream: Mapping[str, Mapping[int, float]] | str | None = None,
) -> HeadTrack:
    """Track one stage of a run from a step on: the heads that retrieve at that step are the frozen initial set.

    Args:
        run: with retrieval scores.
        stage: of training.
        since: first step; choose one at which some head retrieves.
        top_k: length of the lists whose overlap is reported; a small share of all heads, or chance will fill it.
        downstream: column -> {step: value}, to correlate with; or a measure of the run, as ``"sft"``.
    """
    from circuit_drift.report.run_table import readings

    table = readings(run, downstream) if isinstance(downstream, str) else downstream
    points = [p for p in run if p.stage == stage and p.step is not None and p.step >= since and p.heads is not None]
    series = [(p.step, p.tokens, p.heads) for p in points if p.step is not None and p.heads is not None]
    return heads.track(series, top_k=top_k, downstream=table)


def stored_maps(run: "RunRecord", stage: str | None = None) -> tuple[dict[float, NeedleMap], dict[float, NeedleMap]]:
    """The maps of a run that was measured with ``--measures maps``: over length and depth, and over interference.

    Args:
        run: with maps.
        stage: of training; None = every checkpoint.

    Returns:
        step -> map, of both kinds; a checkpoint without one is not there.
    """
    points = [point for point in run if "maps" in point.results and stage in (None, point.stage)]
    kept: list[tuple[float, NeedleMaps]] = [
        (point.step, point.results["maps"]) for point in points if point.step is not None
    ]
    interference = {step: maps.interference for step, maps in kept if maps.interference is not None}
    return {step: maps.depth for step, maps in kept}, interference


def needle_maps(
    series: Series, *, lengths: Sequence[int] = LENGTHS, depths: Sequence[float] = DEPTHS, needles: int = 4
) -> dict[float, NeedleMap]:
    """Answer NLL over length and depth at every checkpoint of a series: step -> map, one needle a prompt.

    Args:
        series: the checkpoints to map; `Series.select` chooses some.
        lengths: tokens of the prompts.
        depths: of the needle.
        needles: how many of the series' own needles.
    """
    from heads.niah.measure import needle_map

    def measure(model: Any, tokenizer: Any, hidden: Sequence[heads.Needle], haystack: str) -> NeedleMap:
        return needle_map(model, tokenizer, hidden, haystack, lengths=lengths, depths=depths)

    return _mapped(series, needles, measure)


def interference_maps(
    series: Series, *, distances: Sequence[int] = DISTANCES, befores: Sequence[int] = BEFORES, needles: int = 8
) -> dict[float, NeedleMap]:
    """Answer NLL over the text after and before the needle at every checkpoint: step -> map.

    Args:
        series: the checkpoints to map.
        distances: tokens between needle and question.
        befores: tokens before the needle.
        needles: how many of the series' own needles.
    """
    from heads.niah.measure import interference_map

    def measure(model: Any, tokenizer: Any, hidden: Sequence[heads.Needle], haystack: str) -> NeedleMap:
        return interference_map(model, tokenizer, hidden, haystack, distances=distances, befores=befores)

    return _mapped(series, needles, measure)


def causal_heads(series: Series, *, top_k: int, needles: int = 8, length: int = 256, **options: Any) -> Ablation:
    """Ablate the top heads of a series' last checkpoint, ranked on some of its needles and tested on others.

    Args:
        series: whose last checkpoint is taken.
        top_k: heads to ablate.
        needles: how many to rank by, and how many others to test with.
        length: tokens of a prompt.
        options: passed on to `heads.ablate`.
    """
    checkpoint = series[-1]
    source = prompts_for(checkpoint.fetch()).needles
    with checkpoint.open() as loaded:
        parts = (source.needles[:needles], source.needles[needles : 2 * needles])
        rank, test = (
            heads.needle_prompts(tokenizer_of(loaded), part, source.haystack, length=length, depths=(0.1, 0.5, 0.9))
            for part in parts
        )
        scores = heads.score(loaded.model, rank)
        return heads.ablate(loaded.model, test, scores=scores, top_k=top_k, **options)


def extension_maps(
    checkpoint: Checkpoint,
    bases: Sequence[float],
    *,
    lengths: Sequence[int] = EXTENDED,
    depths: Sequence[float] = DEPTHS,
    needles: int = 3,
) -> dict[float, NeedleMap]:
    """Answer NLL of one checkpoint under other bases of its rotary embedding, its weights untouched: base -> map.

    Args:
        checkpoint: of a model with rotary embedding.
        bases: theta of the rotary embedding; a larger one turns slower, and positions beyond the trained ones come to
            lie among them.
        lengths: tokens of the prompts.
        depths: of the needle.
        needles: how many of the series' own needles.

    Raises:
        UnsupportedArchitecture: a model without one rotary embedding for all layers.
    """
    from heads.niah.measure import needle_map

    source = prompts_for(checkpoint.fetch()).needles
    alone = [replace(needle, distractors=()) for needle in source.needles[:needles]]
    found: dict[float, NeedleMap] = {}
    with checkpoint.open() as loaded:
        for base in bases:
            _turn(loaded.model, base)
            found[base] = needle_map(
                loaded.model, tokenizer_of(loaded), alone, source.haystack, lengths=lengths, depths=depths
            )
    return found


def _turn(model: Any, base: float) -> None:
    """Give a model another base of its rotary embedding, in place."""
    config, rotary = copy.deepcopy(model.config), getattr(model.base_model, "rotary_emb", None)
    if rotary is None or "rope_theta" not in (getattr(config, "rope_parameters", None) or {}):
        raise UnsupportedArchitecture(f"{type(model).__name__} has no rotary embedding with one base for all layers")
    config.rope_parameters["rope_theta"] = float(base)
    model.base_model.rotary_emb = type(rotary)(config=config).to(model.device)


def _mapped(series: Series, needles: int, measure: Callable[..., NeedleMap]) -> dict[float, NeedleMap]:
    found: dict[float, NeedleMap] = {}
    for checkpoint in series:
        source = prompts_for(checkpoint.fetch()).needles
        alone = [replace(needle, distractors=()) for needle in source.needles[:needles]]
        with checkpoint.open() as loaded:
            found[int(checkpoint.step or 0)] = measure(loaded.model, tokenizer_of(loaded), alone, source.haystack)
    return found


def maps_figure(maps: Maps, *, by: str = "step") -> "go.Figure":
    """Answer PPL over length and depth, one panel a map, on one colour scale.

    Args:
        maps: of `needle_maps` or `extension_maps`.
        by: what tells them apart.
    """
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    from circuit_drift.page import theme

    first, last = (maps[step] for step in (min(maps), max(maps)))
    changes = dict(zip((f"{n:g}" for n in last.rows), last.row_nll - first.row_nll, strict=True))
    better = [n for n, change in changes.items() if change < -STILL]
    worse = [n for n, change in changes.items() if change > STILL]
    figure = make_subplots(cols=len(maps), shared_yaxes=True, subplot_titles=[f"{by} {key:,}" for key in maps])
    for column, found in enumerate(maps.values(), 1):
        heat = go.Heatmap(
            z=np.log10(found.cell_ppl),
            x=[f"{depth:g}" for depth in found.columns],
            y=[f"{length:g}" for length in found.rows],
            text=[[f"{ppl:.3g}" for ppl in row] for row in found.cell_ppl],
            texttemplate="%{text}",
            coloraxis="coloraxis",
        )
        figure.add_trace(heat, row=1, col=column)
    figure.update_xaxes(title_text="depth", type="category")
    figure.update_yaxes(type="category")
    figure.update_yaxes(title_text="length (tokens)", col=1)
    figure.update_layout(
        coloraxis={"colorscale": f"{theme.UNSIGNED}_r", "cmin": 0, "colorbar": {"title": {"text": "log10 PPL"}}}
    )
    said = [f"falls at {', '.join(better)} tokens"] * bool(better) + [f"rises at {', '.join(worse)}"] * bool(worse)
    how = " and ".join(said) or "changes at no length"
    title = f"From {by} {min(maps):,} to {max(maps):,} the answer's perplexity {how}"
    about = f"cells: answer PPL; changes of the mean NLL under {STILL:g} nats are left out of the title"
    return theme.dress(figure, title=title, subtitle=about, top=110)


def interference_figure(maps: Maps) -> "go.Figure":
    """Answer NLL against the text before the needle, a line a checkpoint, mean over the distances."""
    import plotly.graph_objects as go

    from circuit_drift.page import theme

    figure = go.Figure()
    for i, (step, found) in enumerate(maps.items()):
        line = {"color": theme.CATEGORIES[i % 8], "dash": theme.DASHES[i % 6]}
        figure.add_scatter(x=found.columns, y=found.column_nll, name=f"step {step:,}", mode="lines+markers", line=line)
    costs = [maps[step].interference_cost() for step in (min(maps), max(maps))]
    figure.update_xaxes(title_text="tokens before the needle")
    figure.update_yaxes(title_text="answer NLL (nats per token)")
    least, most = (f"{value:g}" for value in (min(maps[max(maps)].columns), max(maps[max(maps)].columns)))
    return theme.dress(
        figure,
        title=f"{most} tokens before the needle cost {nats(costs[0])} nats at step {min(maps):,}, "
        f"{nats(costs[1])} at {max(maps):,}",
        subtitle=f"against {least} tokens, at the same distance to the question; 95 % intervals over needles; "
        "> 0: interference disturbs",
    )


def nats(estimate: Estimate) -> str:
    """An estimate in nats, two digits."""
    return f"{estimate.value:.2f} [{estimate.low:.2f}, {estimate.high:.2f}]"
