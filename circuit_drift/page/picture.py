"""Figures as pictures, all of a page drawn by kaleido in one browser of this machine."""

import base64
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from checkpoints.errors import DriftError

if TYPE_CHECKING:
    import plotly.graph_objects as go

WIDTH = 1000
NEEDED = (
    "figures as pictures need kaleido and a Chrome or Chromium on this machine: pip install 'circuit-drift[images]'"
)


def pictures(figures: "Sequence[go.Figure]") -> list[str]:
    """Figures as SVG in addresses of images; of one that slides through training the drawing it opens with.

    Raises:
        DriftError: kaleido is not installed, or finds no browser.
    """
    import plotly.io as pio

    if not figures:
        return []
    with TemporaryDirectory(prefix="circuit-drift-") as folder:
        files = [Path(folder) / f"{place}.svg" for place in range(len(figures))]
        try:
            stills, heights = [_still(figure) for figure in figures], [figure.layout.height for figure in figures]
            pio.write_images(stills, files, format="svg", width=WIDTH, height=heights)
        except (ValueError, RuntimeError, ImportError, OSError) as error:
            raise DriftError(f"{NEEDED} ({str(error).strip().splitlines()[0].rstrip(',.')})") from error
        return ["data:image/svg+xml;base64," + base64.b64encode(file.read_bytes()).decode() for file in files]


def _still(figure: "go.Figure") -> "go.Figure":
    import plotly.graph_objects as go

    still = go.Figure(figure.data, figure.layout)
    still.layout.sliders, still.layout.updatemenus = (), ()
    return still
