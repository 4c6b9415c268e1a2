"""HTML: well formed, in the theme's colours, and what comes from outside is text."""

import math
from itertools import pairwise

import pytest
from torch import nn

from pyro_vae.utils import html

from ..page import HOSTILE, Element, read


def points(figure: Element) -> list[list[tuple[float, float]]]:
    """The points of each line of a figure."""
    found = []
    for line in figure.all("polyline"):
        numbers = [point.split(",") for point in (line.attributes["points"] or "").split()]
        found.append([(float(x), float(y)) for x, y in numbers])
    return found


def test_what_comes_from_outside_is_text() -> None:
    page = read(
        html.block(
            HOSTILE,
            html.table([HOSTILE], [[HOSTILE], [1]]),
            HOSTILE,
            html.details(HOSTILE, HOSTILE),
            html.sparkline({HOSTILE: [1.0, 2.0]}, HOSTILE),
            None,
        )
    )
    for tag in ("b", "th", "td", "summary", "pre"):
        assert page.all(tag)[0].text == HOSTILE
    assert HOSTILE in page.all("figcaption")[0].text
    assert HOSTILE in (page.all("svg")[0].attributes["aria-label"] or "")
    assert page.rows() == [[HOSTILE], [HOSTILE], ["1"]]
    assert html.escaped(html.escaped(HOSTILE)) == html.escaped(HOSTILE)


@pytest.mark.parametrize("count", [0, 1, 2, 8, 9, 10, 1000])
def test_some_of_many_have_both_ends(count: int) -> None:
    own = html.spread(count, 9)
    assert own == sorted(set(own))
    assert len(own) == min(count, 9)
    assert own[:1] == ([0] if count else [])
    assert own[-1:] == ([count - 1] if count else [])
    gaps = {after - before for before, after in pairwise(own)}
    assert not gaps or max(gaps) - min(gaps) <= 1


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e300])
def test_a_curve_falls_as_its_data_do(scale: float) -> None:
    """Its points are in the figure; a higher number is higher, which in SVG is a smaller y."""
    values = [scale * value for value in (3.0, -1.0, 2.0, 2.0, -1.5, 1.0)]
    figure = read(html.sparkline({"cost": values, "test": values[::-1]}, "epoch"))
    width, height = (float(figure.all("svg")[0].attributes[k] or "") for k in ("width", "height"))
    first, second = points(figure)
    for line, own in ((first, values), (second, values[::-1])):
        xs, ys = zip(*line, strict=True)
        assert list(xs) == sorted(set(xs))
        assert all(0 <= x <= width for x in xs)
        assert all(0 <= y <= height for y in ys)
        for value, y in zip(own, ys, strict=True):
            for other, z in zip(own, ys, strict=True):
                assert (value > other) == (y < z)
    assert first[0][1] == second[-1][1], "curves have one scale"
    assert "cost (solid)" in figure.text
    assert "test (dashed)" in figure.text


def test_a_curve_has_gaps_where_data_are_not_finite() -> None:
    values = [math.nan, 1.0, 2.0, math.inf, 0.0, math.nan]
    figure = read(html.sparkline({"cost": values}, "epoch"))
    lines = points(figure)
    assert [len(line) for line in lines] == [2, 1]
    dots = [dot.attributes for dot in figure.all("circle")]
    assert [(float(dot["cx"] or ""), float(dot["cy"] or "")) for dot in dots] == lines[1]
    assert all(math.isfinite(number) for line in lines for point in line for number in point)


@pytest.mark.parametrize("values", [[2.0], [2.0, 2.0, 2.0], [0.0, 5e-324], [-1.7e308, 1.7e308]])
def test_a_curve_of_extremes_is_finite(values: list[float]) -> None:
    for line in points(read(html.sparkline({"cost": values}, "epoch"))):
        assert all(math.isfinite(number) for point in line for number in point)


@pytest.mark.parametrize("values", [[], [math.nan], [math.inf, -math.inf]])
def test_nothing_finite_is_no_figure(values: list[float]) -> None:
    assert html.sparkline({"cost": values}, "epoch") == ""
    assert html.sparkline({}, "epoch") == ""


def test_a_long_curve_has_no_more_points_than_a_screen() -> None:
    (line,) = points(read(html.sparkline({"cost": [float(n) for n in range(100_000)]}, "epoch")))
    assert len(line) == 200
    assert (line[0][1], line[-1][1]) == (45.0, 3.0)


class Own(nn.Module):
    """A module that says what it likes of itself."""

    in_shape = 3
    out_shape = (2, HOSTILE)

    def extra_repr(self) -> str:
        return HOSTILE


def test_modules_show_shapes_and_numbers() -> None:
    shared = nn.Linear(2, 3)
    shared.bias.requires_grad_(False)
    parts = {
        "own": Own(),
        "lazy": nn.LazyLinear(2),
        "list": nn.ModuleList([shared, nn.Identity()]),
        "dict": nn.ModuleDict({HOSTILE.replace(".", ""): shared}),
        "many": nn.Sequential(*(nn.Linear(1, 1) for _ in range(5))),
    }
    rows = {row[0]: row[1:] for row in read(html.modules(parts)).rows()[1:]}
    assert list(rows) == ["own", "lazy", "list.0", "list.1", f"dict.{HOSTILE}", "many"]
    assert rows["own"] == [f"Own({HOSTILE})", f"Own: (3,) → {(2, HOSTILE)}", "0 trained"]
    assert rows["lazy"][1] == "weight: not known yet\nbias: not known yet"
    assert rows["list.0"][1:] == [
        "weight: (3, 2)\nbias: (3,)",
        f"6 trained, 3 fixed (9 shared with the dict.{HOSTILE})",
    ]
    assert rows["many"][1].splitlines()[-1] == "and 3 others"
    assert len(rows["many"][1].splitlines()) == 8
