"""Charts have the columns, units and labels that they promise."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from pyro_vae import plots
from pyro_vae.training import History


def test_latent_points_by_label() -> None:
    z, labels = torch.randn(30, 3), torch.arange(30) % 10
    ax = plots.latent(z, labels, dims=(0, 2))
    assert len(ax.collections) == 10
    for label, points in enumerate(ax.collections):
        assert np.asarray(points.get_offsets()) == pytest.approx(
            z[labels == label][:, [0, 2]].numpy()
        )
    assert "z_{3}" in ax.get_ylabel()


def test_curves_have_the_lectures_columns_and_units() -> None:
    columns = ("epoch", "cost", "reconstruction", "kl", "test_cost", "seconds")
    history = History({name: [1.0, 2.0] for name in columns})
    ax = history.plot()
    assert len(ax.lines) == 4
    assert ax.get_ylabel() == "nats per example"
    assert ax.get_xlabel() == "epoch"
    one = History({name: [1.0] for name in columns}).plot()
    assert one.lines[0].get_marker() == "o"


def test_bands_are_mean_and_range() -> None:
    ax = plots.bands([1, 2], {"a": [[1.0, 2.0], [3.0, 6.0]]}, "nats")
    assert list(ax.lines[0].get_ydata()) == [2.0, 4.0]


def test_given_axes_are_used() -> None:
    _, ax = plt.subplots()
    assert plots.latent(torch.randn(3, 2), torch.arange(3), ax=ax) is ax


def test_panels_share_a_figure() -> None:
    left, right = plots.panels()
    assert left is not right
    assert left.figure is right.figure


def test_a_history_without_a_column_to_draw_is_named() -> None:
    with pytest.raises(ValueError, match="history: got the columns epoch, seconds, expected one"):
        plots.training_curves({"epoch": [1], "seconds": [0.1]})
    assert not plt.get_fignums()


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
