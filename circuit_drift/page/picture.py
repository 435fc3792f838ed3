"""A figure as a picture, drawn by kaleido in a browser of this machine."""

import base64
from typing import TYPE_CHECKING

from checkpoints.errors import DriftError

if TYPE_CHECKING:
    import plotly.graph_objects as go

WIDTH = 1000
NEEDED = (
    "figures as pictures need kaleido and a Chrome or Chromium on this machine: pip install 'circuit-drift[images]'"
)


def picture(figure: "go.Figure") -> str:
    """The figure as SVG in the address of an image; of one that slides through training the drawing it opens with.

    Raises:
        DriftError: kaleido is not installed, or finds no browser.
    """
    import plotly.graph_objects as go

    still = go.Figure(figure.data, figure.layout)
    still.layout.sliders, still.layout.updatemenus = (), ()
    try:
        drawn: bytes = still.to_image(format="svg", width=WIDTH)
    except (ValueError, RuntimeError, ImportError, OSError) as error:
        raise DriftError(f"{NEEDED} ({str(error).strip().splitlines()[0].rstrip(',.')})") from error
    return "data:image/svg+xml;base64," + base64.b64encode(drawn).decode()
