"""An explanation in a pair's report."""

from collections.abc import Iterator

from circuit_drift.explanation.explanation import Explanation
from circuit_drift.explanation.explanation_view import patching_frame, sentences
from circuit_drift.page.page import Section


def explanation_sections(found: Explanation, *, anchor: str) -> Iterator[Section]:
    """The shares with their sentences; then what putting components back did."""
    caption = (
        "Integrated gradients along the straight line from A's weights to B's; a share is in the behaviour's unit, and "
        "positive where it raises the behaviour. Intervals are over prompts."
    )
    text, frame = " ".join(sentences(found)), found.to_frame()
    if not found.changed:
        yield Section(f"why-{anchor}", f"Why {found.behaviour} differs", text=text)
        return
    yield Section(
        f"why-{anchor}", f"Why {found.behaviour} differs", text=text, figure=found.plot(), caption=caption, frame=frame
    )
    if found.patching is not None and found.is_certain:
        yield Section(
            f"proof-{anchor}",
            f"Put back: {found.behaviour}",
            figure=found.plot_patching(),
            caption="Exact: the model runs with the other checkpoint's weights in these components. Percent of the "
            "change from A to B; random components are of the same kinds and, where there are others, layers.",
            frame=patching_frame(found),
        )
