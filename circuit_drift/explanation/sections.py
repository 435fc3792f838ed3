"""The sections of a page that show an explanation."""

from collections.abc import Iterator

from circuit_drift.explanation.explanation import Explanation
from circuit_drift.explanation.explanation_view import outputs_frame, patching_frame, path_frame, sentences
from circuit_drift.page.page import Section


def explanation_sections(found: Explanation, *, anchor: str) -> Iterator[Section]:
    """Its sections of a pair's report: the shares with their sentences; then what putting components back did."""
    how = {
        True: "Integrated gradients along the straight line from A's weights to B's",
        False: "Exact patches: what a component of B changes when it alone is put into A",
    }
    caption = (
        f"{how[found.is_attributed]}; a share is in the behaviour's unit, and positive where it raises the behaviour. "
        "Intervals are over prompts; those of one needle are one unit. a2.h1.q: the queries of head 1 of layer 2; "
        "a2.h1.o: its columns of the output projection; a2.kv0.k, a2.kv0.v: keys and values of a group of heads; "
        "m3.down: a projection of layer 3's MLP."
    )
    text, frame = " ".join(sentences(found)), found.to_frame()
    if not found.changed:
        yield Section(f"why-{anchor}", f"Why {found.behaviour} differs", text=text)
        return
    yield Section(
        f"why-{anchor}", f"Why {found.behaviour} differs", text=text, figure=found.plot(), caption=caption, frame=frame
    )
    if found.is_attributed and found.is_certain:
        yield Section(
            f"path-{anchor}",
            f"On the way: {found.behaviour}",
            figure=found.plot_path(),
            caption="All weights go together along the straight line from A's to B's; dots are where gradients were "
            "taken. No checkpoint of the run stands between the ends.",
            frame=path_frame(found),
        )
    if found.patching is not None and found.is_certain:
        yield Section(
            f"proof-{anchor}",
            f"Put back: {found.behaviour}",
            figure=found.plot_patching(),
            caption="Exact: the model runs with the other checkpoint's weights in these components. Percent of the "
            "change from A to B; random components are of the same kinds and, where there are others, layers; fewer "
            "where a kind has no others left.",
            frame=patching_frame(found),
        )
    if found.outputs is not None and found.is_certain:
        yield Section(
            f"outputs-{anchor}",
            f"Where in the prompt: {found.behaviour}",
            caption="Exact: both models run on the same prompts, and what a head, a layer's attention or an MLP of one "
            "writes at these positions goes into the other. Percent of the change from A to B.",
            frame=outputs_frame(found),
        )
