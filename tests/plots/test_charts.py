"""Charts: what is marked where, and what is refused."""

import itertools
import math

import numpy as np
import pytest
import torch

from pyro_vae import plots


def test_panels_share_a_figure() -> None:
    left, right = plots.panels()
    assert left is not right
    assert left.figure is right.figure


@pytest.mark.parametrize(
    ("ranks", "message"),
    [
        ([[0, 6, 5], [7, 1, 2]], "ranks: got 6 at 2 of 6 places, expected ranks from 0 to 5"),
        ([[-1, 0]], "ranks: got -1 at 1 of 2 places"),
        ([[]], r"ranks: got none \(shape \(1, 0\)\), expected at least one"),
    ],
)
def test_ranks_out_of_range_are_named(ranks: list[list[int]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plots.ranks(torch.tensor(ranks, dtype=torch.int64), 5, ["a"] * len(ranks))


def test_dots_are_each_run_their_mean_and_its_error() -> None:
    runs = {"a": {"ELBO": [1.0, 3.0], "log": [4.0, 4.5]}, "b": {"ELBO": [2.0, 2.0]}}
    ax = plots.dots(runs, "nats")
    elbo, log = ax.containers
    assert list(elbo.lines[0].get_xdata()) == [2.0, 2.0]
    assert list(log.lines[0].get_xdata()) == [4.25]  # the second row has none
    (bars,) = elbo.lines[2]
    low, high = np.asarray(bars.get_segments()[0])[:, 0]
    assert (low, high) == pytest.approx((1.0, 3.0))  # 2 +- sqrt(2) / sqrt(2)
    each = [np.asarray(c.get_offsets())[:, 0].tolist() for c in ax.collections]
    assert [1.0, 3.0] in each
    assert [4.0, 4.5] in each
    assert [label.get_text() for label in ax.get_yticklabels()] == ["a", "b"]
    legend = ax.get_legend()
    assert legend is not None
    assert legend.get_title().get_text() == "open: mean of 2 runs ± std. error; small: each run"


def test_dots_of_one_run_have_no_error_and_what_is_not_finite_no_mark() -> None:
    ax = plots.dots({"a": {"ELBO": [-3.0]}, "b": {"ELBO": [math.nan]}}, "nats")
    legend = ax.get_legend()
    assert legend is not None
    assert not legend.get_title().get_text()
    assert ax.get_xlim()[0] < -3 < ax.get_xlim()[1]
    with pytest.raises(TypeError, match=r"runs\['a'\]\['ELBO'\]: got a str, expected numbers"):
        plots.dots({"a": {"ELBO": ["3"]}}, "nats")


def test_numbers_below_dots_do_not_touch() -> None:
    name = "sticking_the_landing"
    runs = {name: {"ELBO": [-166.25, -149.5]}, "b": {"ELBO": [-155.0, -152.5]}}
    _, right = plots.panels()
    ax = plots.dots(runs, "nats per example", ax=right)
    ax.figure.canvas.draw()
    boxes = [label.get_window_extent() for label in ax.get_xticklabels() if label.get_text()]
    low, high = ax.get_window_extent().intervalx
    shown = sorted((b for b in boxes if low <= b.x0 and b.x1 <= high), key=lambda box: box.x0)
    assert len(shown) > 2
    for left, beside in itertools.pairwise(shown):
        assert left.x1 + 4 < beside.x0
