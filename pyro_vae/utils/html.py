"""HTML of results in a notebook: no script, no network, and the colours of the theme."""

import math
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from torch import nn
from torch.nn.parameter import is_lazy

from pyro_vae.utils.modules import counts_of
from pyro_vae.utils.tables import named

__all__ = [
    "Html",
    "block",
    "details",
    "escaped",
    "estimates",
    "modules",
    "sparkline",
    "spread",
    "table",
]

_WIDTH, _HEIGHT, _EDGE = 240, 48, 3  # pixels
_POINTS = 200  # of a curve, more than there are pixels to tell apart
_LINES = 8  # of shapes in a cell
_PLAIN = "background:transparent;color:inherit"
_CELL = "vertical-align:top;padding:0.2em 0.6em"
_DASHES = ("", ' stroke-dasharray="5 3"', ' stroke-dasharray="1 3"')
_ESTIMATES = {
    "mean": "mean",
    "stderr": "error over examples",
    "mc_error": "Monte Carlo error",
}
_LOOKS = ("solid", "dashed", "dotted")


class Html(str):
    """Text that is HTML already."""

    __slots__ = ()


def escaped(text: object) -> Html:
    """Text as HTML that shows it; what is HTML already stays as it is.

    Example:
        >>> from pyro_vae.utils.html import escaped
        >>> escaped("a < b")
        'a &lt; b'
    """
    return text if isinstance(text, Html) else Html(escape(str(text)))


def table(header: Sequence[object], rows: Sequence[Sequence[object]], left: int = 1) -> Html:
    """A table, whose first `left` columns are text and whose others are numbers."""

    def row(kind: str, cells: Sequence[object]) -> str:
        sides = ("left" if index < left else "right" for index in range(len(cells)))
        return "".join(
            f'<{kind} style="text-align:{side};{_CELL}">{escaped(cell)}</{kind}>'
            for side, cell in zip(sides, cells, strict=True)
        )

    body = "".join(f"<tr>{row('td', cells)}</tr>" for cells in rows)
    return Html(
        f'<table style="{_PLAIN};font-variant-numeric:tabular-nums">'
        f"<thead><tr>{row('th', header)}</tr></thead><tbody>{body}</tbody></table>"
    )


def estimates(result: Any, terms: Mapping[str, str]) -> Html:
    """A table of a result's means and their errors in nats.

    Arguments:
        result: A dataclass.
        terms: The prefix of its fields ``mean``, ``stderr`` and ``mc_error`` by what they are of.
    """
    own = named(result)
    columns = [c for c in _ESTIMATES if all(f"{p}{c}" in own for p in terms.values())]
    rows = [[term, *(own[f"{p}{c}"] for c in columns)] for term, p in terms.items()]
    return table(["nats per example", *(_ESTIMATES[column] for column in columns)], rows)


def details(title: str, text: str) -> Html:
    """What a click on the title shows: HTML, or text as it is on a terminal."""
    own = text if isinstance(text, Html) else f'<pre style="{_PLAIN}">{escaped(text)}</pre>'
    return Html(f"<details><summary>{escaped(title)}</summary>{own}</details>")


def block(title: str, *parts: str | None) -> str:
    """A title with what belongs to it: HTML as it is, text as paragraphs, and None left out."""
    shown = (
        part if isinstance(part, Html) else f"<p>{escaped(part)}</p>" for part in parts if part
    )
    return f'<div style="{_PLAIN}"><p><b>{escaped(title)}</b></p>{"".join(shown)}</div>'


def spread(count: int, at_most: int) -> list[int]:
    """Indices of `count` entries, no more than `at_most`: the first, the last and some between.

    Example:
        >>> from pyro_vae.utils.html import spread
        >>> spread(3, 5), spread(100, 4)
        ([0, 1, 2], [0, 33, 66, 99])
    """
    if count <= at_most:
        return list(range(count))
    return [index * (count - 1) // (at_most - 1) for index in range(at_most)]


def sparkline(curves: Mapping[str, Sequence[float]], along: str) -> Html:
    """Curves on one scale as a small figure, whose alternative text has their ends.

    What is not finite is left out, with a gap in the line.

    Arguments:
        curves: Up to three curves by name, of equal lengths.
        along: What one number is of, such as ``"epoch"``.
    """
    kept = spread(max(map(len, curves.values()), default=0), _POINTS)
    finite = [v for values in curves.values() for v in values if math.isfinite(v)]
    if not finite:
        return Html("")
    low, high = min(finite), max(finite)
    lines, says = [], []
    for dash, look, (name, values) in zip(_DASHES, _LOOKS, curves.items(), strict=False):
        for run in _runs([values[index] for index in kept], low, high):
            points = " ".join(f"{x:.2f},{y:.2f}" for x, y in run)
            lines.append(f'<polyline points="{points}"{dash}/>')
            if len(run) == 1:  # A line of one point is not drawn.
                lines.append(f'<circle cx="{run[0][0]:.2f}" cy="{run[0][1]:.2f}" r="2"/>')
        says.append(f"{name} ({look}) {values[0]:.2f} to {values[-1]:.2f}")
    text = escaped(f"{', '.join(says)}, by {along}")
    return Html(
        f'<figure style="margin:0"><svg role="img" aria-label="{text}" width="{_WIDTH}" '
        f'height="{_HEIGHT}" viewBox="0 0 {_WIDTH} {_HEIGHT}" fill="none" stroke="currentColor" '
        f'stroke-width="1.5" stroke-linecap="round" stroke-linejoin="round">{"".join(lines)}</svg>'
        f"<figcaption>{text}</figcaption></figure>"
    )


def _runs(values: Sequence[float], low: float, high: float) -> list[list[tuple[float, float]]]:
    """The points of finite values, high ones on top, cut where values are not finite."""
    span = high / 2 - low / 2  # high - low may overflow.
    step = (_WIDTH - 2 * _EDGE) / max(len(values) - 1, 1)
    runs: list[list[tuple[float, float]]] = [[]]
    for index, value in enumerate(values):
        if math.isfinite(value):
            share = (high / 2 - value / 2) / span if span else 0.5
            runs[-1].append((_EDGE + index * step, _EDGE + share * (_HEIGHT - 2 * _EDGE)))
        elif runs[-1]:
            runs.append([])
    return [run for run in runs if run]


def modules(parts: Mapping[str, nn.Module]) -> Html:
    """A table of modules, or those in a list, with their shapes and numbers of parameters."""
    own: dict[str, nn.Module] = {}
    for name, module in parts.items():
        if isinstance(module, nn.ModuleList):
            own |= {f"{name}.{index}": inner for index, inner in enumerate(module)}
        elif isinstance(module, nn.ModuleDict):
            own |= {f"{name}.{key}": inner for key, inner in module.items()}
        else:
            own[name] = module
    rows = [
        [name, _kind(own[name]), _lines(_shapes(own[name])), count]
        for name, count in counts_of(own).items()
    ]
    return table(["part", "module", "shapes", "parameters"], rows, left=4)


def _kind(module: nn.Module) -> str:
    """The class, and what the module says of itself if that is one line."""
    own = module.extra_repr()
    return type(module).__name__ + (f"({own})" if own and "\n" not in own else "")


def _shapes(module: nn.Module, prefix: str = "") -> Iterator[str]:
    """The shapes that networks take and give, and of the parameters beside them."""
    if hasattr(module, "out_shape"):
        taken = f"{_shape(module.in_shape)} " if hasattr(module, "in_shape") else ""
        yield f"{type(module).__name__}: {taken}→ {_shape(module.out_shape)}"
        if taken:
            return
    else:
        for name, own in module.named_parameters(recurse=False):
            yield f"{prefix}{name}: {'not known yet' if is_lazy(own) else _shape(own.shape)}"
    for name, child in module.named_children():  # A wrapper may not know what its network takes.
        yield from _shapes(child, f"{prefix}{name}.")


def _shape(shape: object) -> str:
    """A shape as a tuple; users may write one dimension as an int."""
    return str(tuple(shape)) if isinstance(shape, tuple | list) else f"({shape},)"


def _lines(lines: Iterator[str]) -> Html:
    """Lines of a cell; of many, the first ones and the number of the others."""
    own = list(lines)
    if len(own) > _LINES:
        own[_LINES - 1 :] = [f"and {len(own) - _LINES + 1} others"]
    return Html("<br>".join(map(escaped, own)))
