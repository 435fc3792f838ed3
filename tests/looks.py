"""How a figure is drawn, a line for each trace, axis and mark: what the tests of its numbers and words leave out."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

ELSEWHERE = {"x", "y", "z", "text", "name", "customdata", "type", "array", "arrayminus", "dtype", "bdata", "shape"}
ELSEWHERE |= {"anchor", "domain", "colorscale", "ticktext", "tickvals", "measure"}
"""What is drawn and written, which tests of numbers and words hold, and what plotly derives."""


def looks(figure: Any) -> list[str]:
    """Colours, dashes, symbols, legend and panel of every trace, then axes, marks and size, each on its line."""
    drawn = json.loads(figure.to_json(), parse_float=lambda number: float(f"{float(number):.6g}"))
    layout = drawn["layout"]
    axes = {name: axis for name, axis in layout.items() if name.startswith(("xaxis", "yaxis", "coloraxis"))}
    size = {key: layout[key] for key in ("height", "barmode", "showlegend") if key in layout}
    parts = [("", trace) for trace in drawn["data"]]
    parts += [*axes.items(), *(("mark", shape) for shape in layout.get("shapes", ())), ("layout", size)]
    return [" ".join((name, *_flat(part))).strip() for name, part in parts]


def _flat(part: Mapping[str, Any], path: str = "") -> Iterator[str]:
    for key, value in sorted(part.items()):
        if isinstance(value, Mapping):
            yield from _flat(value, f"{path}{key}.")
        elif path == "title." or key not in ELSEWHERE:
            yield f"{key}={value}"
