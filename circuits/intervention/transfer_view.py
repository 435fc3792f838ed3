"""The matrix of transfers as a heat map; figures are returned, never shown."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from checkpoints.results.figure import UNSIGNED, dress

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from circuits.intervention.transfer import Transfer


def transfer_figure(transfer: "Transfer") -> "go.Figure":
    """Faithfulness of each circuit in each model."""
    import plotly.graph_objects as go

    values = transfer.values
    places = np.ndindex(values.shape)
    ranges = np.array(["[{:.2f}, {:.2f}]".format(*transfer.interval(*place)) for place in places]).reshape(values.shape)
    figure = go.Figure(
        go.Heatmap(
            z=values.astype(np.float32),
            x=list(transfer.models),
            y=list(transfer.names),
            zmin=0,
            zmax=1,
            colorscale=UNSIGNED,
            colorbar={"title": {"text": "faithfulness"}},
            text=np.where(np.isnan(values), "n/a", [[f"{value:.2f}" for value in row] for row in values]),
            texttemplate="%{text}" if values.size <= 144 else None,
            customdata=ranges,
            hovertemplate="circuit of %{y} in model %{x}: %{z:.2f} %{customdata}<extra></extra>",
        )
    )
    figure.update_xaxes(title_text="model", type="category")
    figure.update_yaxes(title_text="circuit of", type="category", autorange="reversed")
    dress(
        figure,
        title=_finding(values),
        subtitle="faithfulness of each checkpoint's circuit in each one's model, exact runs; hover for 95 % intervals; "
        "n/a: the model has no effect to keep",
        height=480,
    )
    return figure


def _finding(values: NDArray[np.floating]) -> str:
    """What circuits keep in their own model and in others, over the models that have an effect to keep."""
    told = ~np.isnan(values)
    own = np.eye(len(values), dtype=bool)
    parts = [
        f"{name} {values[cells].mean():.2f}"
        for name, cells in (("own circuits keep", own & told), ("foreign ones", ~own & told))
        if cells.any()
    ]
    return ", ".join(parts).capitalize() or "No model has an effect of which a circuit could keep a share"
