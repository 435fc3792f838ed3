"""The matrix of transfers as a heat map; figures are returned, never shown."""

from typing import TYPE_CHECKING

import numpy as np

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
            texttemplate="%{z:.2f}" if values.size <= 144 else None,
            customdata=ranges,
            hovertemplate="circuit of %{y} in model %{x}: %{z:.2f} %{customdata}<extra></extra>",
        )
    )
    figure.update_xaxes(title_text="model", type="category")
    figure.update_yaxes(title_text="circuit of", type="category", autorange="reversed")
    apart = values[~np.eye(len(values), dtype=bool)]
    dress(
        figure,
        title=f"Own circuits keep {np.diag(values).mean():.2f}, foreign ones {apart.mean() if len(apart) else 1:.2f}",
        subtitle="faithfulness of each checkpoint's circuit in each one's model, exact runs; hover for 95 % intervals",
        height=480,
    )
    return figure
