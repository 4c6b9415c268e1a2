"""The charts of a report, by Bokeh, which brings its script in its own package.

A page has 0.9 MB of it, Plotly's has 4.8; Altair's is as small, and its installation larger.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from bokeh.models import ColumnDataSource, HoverTool, Range1d
from bokeh.plotting import figure
from torch import Tensor

from pyro_vae.plots import COLOURS
from pyro_vae.training import History

__all__ = ["bounds", "curves", "khats", "scatter", "units"]

_GREY = "#808080"  # legible on white and on black
_CLASSES = (
    "#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6",
    "#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd",
)  # fmt: skip
_MARKERS = ("circle", "square", "triangle", "diamond", "inverted_triangle", "plus", "x", "star")
_CURVES = {
    "cost": "cost, training",
    "reconstruction": "reconstruction, training",
    "validation_cost": "−ELBO, validation",
    "test_cost": "−ELBO, test",
}


def _figure(title: str, x: str, y: str, **options: Any) -> Any:
    """An empty chart without a background, whose lines are legible in both colour schemes."""
    chart = figure(
        x_axis_label=x,
        y_axis_label=y,
        height=options.pop("height", 320),
        sizing_mode="stretch_width",
        tools=options.pop("tools", "pan,box_zoom,reset"),
        toolbar_location="above",
        background_fill_alpha=0,
        border_fill_alpha=0,
        outline_line_color=_GREY,
        name=title,
        **options,
    )
    chart.toolbar.logo = None
    for axis in chart.axis:
        axis.axis_label_text_color = axis.major_label_text_color = _GREY
        axis.axis_line_color = axis.major_tick_line_color = axis.minor_tick_line_color = _GREY
        axis.axis_label_text_font_style = "normal"
    chart.grid.grid_line_color, chart.grid.grid_line_alpha = _GREY, 0.25
    return chart


def _legend(chart: Any) -> None:
    if chart.legend:
        legend = chart.legend[0]
        legend.background_fill_alpha, legend.border_line_alpha = 0, 0
        legend.label_text_color = _GREY
        legend.click_policy = "hide"
        chart.add_layout(legend, "below")
        legend.orientation = "horizontal"
        legend.ncols = 2


def curves(histories: Mapping[str, History]) -> tuple[Any, Any]:
    """The costs by epoch, and the KL on a scale of its own; one line a history."""
    costs = _figure("costs", "epoch", "nats per example")
    kl = _figure("KL", "epoch", "KL, nats per example", height=220, x_range=costs.x_range)
    several, place = len(histories) > 1, 0
    for name, history in histories.items():
        prefix = f"{name}: " if several else ""
        columns = ("test_cost", "cost") if several else tuple(_CURVES)
        for column in (c for c in columns if c in history):
            style: dict[str, Any] = {"color": COLOURS[place % len(COLOURS)], "line_width": 2}
            style["line_dash"] = "dashed" if column == "reconstruction" else "solid"
            style["legend_label"] = prefix + _CURVES[column]
            costs.line(history["epoch"], history[column], **style)
            place += 1
        colour = COLOURS[len(kl.renderers) % len(COLOURS)]
        options = {"color": colour, "line_width": 2} | ({"legend_label": name} if several else {})
        kl.line(history["epoch"], history["kl"], **options)
    for chart in (costs, kl):
        chart.add_tools(HoverTool(tooltips=[("epoch", "$x{0}"), ("nats", "$y{0.00}")]))
        _legend(chart)
    return costs, kl


def bounds(scores: Mapping[str, tuple[Sequence[int], Sequence[float], Sequence[float]]]) -> Any:
    """The mean of L_k by the number of samples, with bars of two errors."""
    chart = _figure("bounds", "samples k", "mean of L_k, nats per example", x_axis_type="log")
    for place, (name, (sizes, values, errors)) in enumerate(scores.items()):
        colour = COLOURS[place % len(COLOURS)]
        options = {"legend_label": name} if len(scores) > 1 else {}
        chart.line(list(sizes), list(values), color=colour, line_width=2, **options)
        chart.scatter(list(sizes), list(values), color=colour, size=6, **options)
        wide = torch.tensor(errors, dtype=torch.float64).nan_to_num() * 2
        low, high = (torch.tensor(values, dtype=torch.float64) + s * wide for s in (-1, 1))
        chart.segment(list(sizes), low.tolist(), list(sizes), high.tolist(), color=colour)
    chart.add_tools(HoverTool(tooltips=[("k", "@x"), ("nats", "@y{0.00}")], mode="vline"))
    _legend(chart)
    return chart


def khats(values: Tensor, threshold: float) -> Any:
    """A histogram of k-hat, with the threshold above which an estimate is not to be trusted."""
    finite = values[torch.isfinite(values)].double()
    chart = _figure("k-hat", "k-hat of an example", "examples", tools="")
    if len(finite):
        low, high = finite.min().item() - 0.05, max(finite.max().item(), threshold) + 0.05
        counts = torch.histc(finite, 30, low, high)
        edges = torch.linspace(low, high, 31).double()
        above = [e > threshold for e in edges[:-1].tolist()]
        colours = [COLOURS[1] if wrong else COLOURS[0] for wrong in above]
        chart.quad(
            left=edges[:-1].tolist(),
            right=edges[1:].tolist(),
            bottom=[0] * 30,
            top=counts.tolist(),
            fill_color=colours,
            line_color=None,
        )
    chart.vspan(x=[threshold], line_color=_GREY, line_dash="dashed", line_width=2)
    chart.y_range.start = 0
    return chart


def units(kl: Tensor | None, statistic: Tensor, threshold: float) -> Any:
    """The KL of each latent where it is known, else the variance of its points; largest first."""
    what = statistic if kl is None else kl
    order = what.argsort(descending=True).tolist()[:100]
    active = (statistic > threshold).tolist()
    names = [f"z{d + 1}" for d in order]
    label = "variance of the latent points" if kl is None else "KL, nats per example"
    chart = _figure("latents", "latent, the largest first", label, x_range=names, tools="")
    source = ColumnDataSource(
        {
            "name": names,
            "value": what[order].tolist(),
            "variance": statistic[order].tolist(),
            "colour": [COLOURS[0] if active[d] else _GREY for d in order],
        }
    )
    chart.vbar("name", top="value", width=0.8, color="colour", source=source)
    text = [("latent", "@name"), (label, "@value{0.000}"), ("variance", "@variance{0.0000}")]
    chart.add_tools(HoverTool(tooltips=text))
    chart.y_range.start = 0
    chart.xgrid.visible = False
    chart.xaxis.major_label_orientation = 1.2
    if len(names) > 24:
        chart.xaxis.major_label_text_font_size = "0px"
    return chart


def scatter(
    points: Tensor, labels: Sequence[str], dims: tuple[int, int], thumbnail: tuple[int, int] | None
) -> Any:
    """Latent points in two dimensions, by label, with the example under the pointer.

    Arguments:
        points: Shape ``(N, 2)``.
        labels: A name for each.
        dims: Which latents these are.
        thumbnail: Height and width of an image in the page's sheet of examples, or None.
    """
    chart = _figure("latent points", *(f"z{d + 1} of the latent point" for d in dims), height=460)
    names = sorted(set(labels), key=lambda name: (len(name), name))
    x, y = points.T.tolist()
    for place, name in enumerate(names):
        own = [i for i, label in enumerate(labels) if label == name]
        source = ColumnDataSource(
            {
                "x": [x[i] for i in own],
                "y": [y[i] for i in own],
                "label": [name] * len(own),
                "number": own,
                "down": [0 if thumbnail is None else -i * thumbnail[0] for i in own],
            }
        )
        chart.scatter(
            "x",
            "y",
            source=source,
            size=7,
            alpha=0.8,
            color=_CLASSES[place % len(_CLASSES)],
            marker=_MARKERS[place % len(_MARKERS)],
            **({"legend_label": name} if len(names) > 1 else {}),
        )
    picture = ""
    if thumbnail is not None:
        height, width = thumbnail
        # The sheet is a property of the page's root, which a tooltip inherits.
        picture = (
            f'<div style="width:{2 * width}px;height:{2 * height}px;overflow:hidden">'
            f'<div style="width:{width}px;height:{height}px;transform:scale(2);'
            "transform-origin:0 0;background-image:var(--examples);"
            'background-position:0 @{down}px"></div></div>'
        )
    hover = f"<div>{picture}<div>@label, example @number</div></div>"
    chart.add_tools(HoverTool(tooltips=hover, mode="mouse"))
    _legend(chart)
    if chart.legend:
        chart.legend[0].ncols = 10
    span = (points.max() - points.min()).item() / 2 * 1.05 or 1.0
    for axis, values in (("x_range", points[:, 0]), ("y_range", points[:, 1])):
        middle = ((values.max() + values.min()) / 2).item()
        setattr(chart, axis, Range1d(start=middle - span, end=middle + span))
    return chart
