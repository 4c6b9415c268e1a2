"""The charts of a report, by Bokeh, which brings its script in its own package.

They have no tools but a tooltip, so that a finger scrolls the page; legends and numbers are HTML.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from bokeh.models import BasicTicker, ColumnDataSource, FactorRange, HoverTool
from bokeh.plotting import figure
from torch import Tensor

from pyro_vae.evaluation import ActiveUnits
from pyro_vae.plots import COLOURS
from pyro_vae.report.parts import Drawn, Key, Table
from pyro_vae.training import History

__all__ = ["Score", "bounds", "curves", "khats", "latent_units", "scatter"]

Line = tuple[Sequence[float], Sequence[float]]
"""The horizontal and the vertical numbers of a line."""
Score = tuple[Sequence[int], Sequence[float], Sequence[float]]
"""Numbers of samples k, the mean of L_k at each, and its Monte Carlo error."""

_GREY = "#808080"  # legible on white and on black
_LINES = COLOURS[:6]  # without black, which a dark page would hide
_DASHES = "solid", "dashed", "dotted"
_CLASSES = (
    "#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6",
    "#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd",
)  # fmt: skip
_MARKS = {
    "circle": "●", "square": "■", "triangle": "▲", "diamond": "◆",
    "inverted_triangle": "▼", "plus": "✚", "x": "✕", "star": "★",
}  # fmt: skip
_CURVES = {
    "cost": "cost, training",
    "reconstruction": "reconstruction, training",
    "validation_cost": "−ELBO, validation",
    "test_cost": "−ELBO, test",
}
_BINS = 30
_BARS = 100  # of latents, and their names up to a quarter of it


def _figure(x: str, y: str, height: int = 320, **options: Any) -> Any:
    """An empty chart without a background, whose axes are legible in both colour schemes."""
    chart = figure(
        x_axis_label=x,
        y_axis_label=y,
        height=height,
        sizing_mode="stretch_width",
        tools="",
        toolbar_location=None,
        background_fill_alpha=0,
        border_fill_alpha=0,
        outline_line_color=_GREY,
        min_border_left=64,
        min_border_right=12,
        **options,
    )
    if x == "epoch":  # There is nothing between two of them.
        chart.xaxis.ticker = BasicTicker(min_interval=1, num_minor_ticks=0)
    for axis in chart.axis:
        axis.axis_label_text_color = axis.major_label_text_color = _GREY
        axis.axis_line_color = axis.major_tick_line_color = axis.minor_tick_line_color = _GREY
        axis.axis_label_text_font_style = "normal"
    chart.grid.grid_line_color, chart.grid.grid_line_alpha = _GREY, 0.25
    return chart


def _lines(chart: Any, title: str, x: str, lines: Mapping[str, Line]) -> Drawn:
    """Draws lines, with a legend where there are several."""
    keys = []
    for place, (name, (across, up)) in enumerate(lines.items()):
        key = Key(name, _LINES[place % len(_LINES)], _DASHES[place % len(_DASHES)])
        style = {"line_color": key.colour, "line_dash": key.mark, "line_width": 2}
        chart.line(list(across), list(up), name=name, **style)
        chart.scatter(list(across), list(up), name=name, color=key.colour, size=5)
        keys.append(key)
    tooltip = [("", "$name"), (x, "@x"), ("nats", "@y{0.00}")]
    chart.add_tools(HoverTool(tooltips=tooltip, renderers=chart.renderers[1::2]))
    known = {name: dict(zip(*line, strict=True)) for name, line in lines.items()}
    rows = [
        (f"{at:g}", *("" if at not in own else f"{own[at]:.2f}" for own in known.values()))
        for at in sorted({at for own in known.values() for at in own})
    ]
    return Drawn(chart, keys if len(keys) > 1 else (), Table(title, [x, *lines], rows))


def curves(histories: Mapping[str, History]) -> tuple[Drawn, Drawn]:
    """The costs by epoch, and the KL on a scale of its own.

    Arguments:
        histories: The histories by name. Of several, only the costs of training and test.
    """
    costs: dict[str, Line] = {}
    kl: dict[str, Line] = {}
    several = len(histories) > 1
    for name, history in histories.items():
        for column in ("cost", "test_cost") if several else _CURVES:
            if column in history:
                what = f"{name}: {_CURVES[column]}" if several else _CURVES[column]
                costs[what] = history["epoch"], history[column]
        if "kl" in history:
            kl[name if several else "KL"] = history["epoch"], history["kl"]
    above = _figure("epoch", "nats per example")
    below = _figure("epoch", "KL, nats per example", 220, x_range=above.x_range)
    return (
        _lines(above, "Costs, in nats per example", "epoch", costs),
        _lines(below, "KL, in nats per example", "epoch", kl),
    )


def bounds(scores: Mapping[str, Score]) -> Drawn:
    """The mean of L_k by the number of samples, with bars of two Monte Carlo errors."""
    chart = _figure("samples k", "mean of L_k, nats per example", x_axis_type="log")
    lines = {name: (sizes, values) for name, (sizes, values, _) in scores.items()}
    drawn = _lines(chart, "Mean of L_k, in nats per example", "samples", lines)
    for place, (sizes, values, errors) in enumerate(scores.values()):
        middle, wide = (torch.tensor(v, dtype=torch.float64) for v in (values, errors))
        low, high = ((middle + side * wide.nan_to_num()).tolist() for side in (-2, 2))
        chart.segment(list(sizes), low, list(sizes), high, color=_LINES[place % len(_LINES)])
    return drawn


def khats(values: Tensor, threshold: float) -> Drawn:
    """A histogram of the finite k-hats; the threshold, above which they are too high, is an edge.

    Arguments:
        values: The k-hat of each example, shape ``(N,)``.
        threshold: The threshold.
    """
    finite = values[torch.isfinite(values)].double()
    ends = torch.cat([finite, finite.new_tensor([threshold])])
    width = max((ends.max() - ends.min()).item() / (_BINS - 2), 0.01)
    place = ((finite - threshold) / width).ceil().long() - 1  # bin i is (t + iw, t + (i + 1)w]
    found, counts = place.unique(return_counts=True)
    left = (threshold + width * found.double()).tolist()
    right = [edge + width for edge in left]
    chart = _figure("k-hat of an example", "examples")
    chart.quad(
        left=left,
        right=right,
        bottom=0,
        top=counts.tolist(),
        fill_color=[_LINES[1] if at >= 0 else _LINES[0] for at in found.tolist()],
        line_color=None,
    )
    chart.vspan(x=[threshold], line_color=_GREY, line_dash="dashed", line_width=2)
    chart.y_range.start = 0
    title = "Examples by k-hat"
    rows = [
        (f"{low:.2f} to {high:.2f}", f"{count:,}")
        for low, high, count in zip(left, right, counts.tolist(), strict=True)
    ]
    return Drawn(chart, (), Table(title, ["k-hat", "examples"], rows))


def latent_units(units: ActiveUnits, kl: Tensor | None) -> Drawn:
    """How active each latent is, the most active first.

    Arguments:
        units: The variance of the latent points.
        kl: The mean KL of each latent, shape ``(z_dim,)``; None draws the variance.
    """
    what = units.statistic if kl is None else kl
    order = what.argsort(descending=True).tolist()[:_BARS]
    names = [f"z{d + 1}" for d in order]
    label = "variance of the latent points" if kl is None else "KL, nats per example"
    factors = FactorRange(factors=names, range_padding=max(0.1, 4 - len(names)))
    chart = _figure("latent", label, x_range=factors)
    source = ColumnDataSource(
        {
            "name": names,
            "value": what[order].tolist(),
            "variance": units.statistic[order].tolist(),
            "colour": [_LINES[0] if units.active[d] else _GREY for d in order],
        }
    )
    chart.vbar("name", top="value", width=0.8, color="colour", source=source)
    text = [("latent", "@name"), (label, "@value{0.000}"), ("variance", "@variance{0.0000}")]
    chart.add_tools(HoverTool(tooltips=text))
    chart.y_range.start = 0
    chart.xgrid.visible = False
    if len(names) > _BARS // 4:
        chart.xaxis.major_label_text_font_size = "0px"
    elif len(names) > _BARS // 10:
        chart.xaxis.major_label_orientation = 1.2
    rows = [
        (
            f"z{d + 1}",
            *([] if kl is None else [f"{kl[d].item():.3f}"]),
            f"{units.statistic[d].item():.4f}",
            "yes" if units.active[d] else "no",
        )
        for d in order
    ]
    header = ["latent", *([] if kl is None else ["KL"]), "variance of the points", "active"]
    return Drawn(chart, (), Table("Latents, the most active first", header, rows))


def scatter(
    points: Tensor, labels: Sequence[str], dims: tuple[int, int], thumbnail: tuple[int, int] | None
) -> Drawn:
    """Latent points in two dimensions, by label, with the example under the pointer.

    Arguments:
        points: Shape ``(N, 2)``.
        labels: A name for each.
        dims: Which latents these are.
        thumbnail: Height and width of an image in the page's sheet of examples, or None.
    """
    across, up = (f"z{d + 1} of the latent point" for d in dims)
    chart = _figure(across, up, 460, match_aspect=True, max_width=620)
    x, y = points.T.tolist()
    names = sorted(set(labels), key=lambda name: (len(name), name))
    keys = []
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
        marker = list(_MARKS)[place % len(_MARKS)]
        colour = _CLASSES[place % len(_CLASSES)]
        chart.scatter("x", "y", source=source, size=7, alpha=0.8, color=colour, marker=marker)
        keys.append(Key(name, colour, _MARKS[marker]))
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
    tooltip = f"<div>{picture}<div>@label, example @number</div></div>"
    chart.add_tools(HoverTool(tooltips=tooltip, renderers=list(chart.renderers)))
    ring = ColumnDataSource({"x": [], "y": []}, name="chosen")
    chart.scatter("x", "y", source=ring, size=18, fill_color=None, line_color=_GREY, line_width=3)
    return Drawn(chart, keys if len(keys) > 1 else (), None)
