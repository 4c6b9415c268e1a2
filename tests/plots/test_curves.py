"""Curves have the columns, units and axes that they promise."""

import matplotlib.pyplot as plt
import pytest

from pyro_vae import plots
from pyro_vae.training import History

COLUMNS = ("epoch", "cost", "reconstruction", "kl", "test_cost", "seconds")


def test_curves_have_the_lectures_columns_and_units() -> None:
    history = History({name: [1.0, 2.0] for name in COLUMNS})
    ax = history.plot()
    assert len(ax.lines) == 3
    assert ax.get_ylabel() == "nats per example"
    assert ax.get_xlabel() == "epoch"
    one = History({name: [1.0] for name in COLUMNS}).plot()
    assert {line.get_marker() for each in one.figure.axes for line in each.lines} == {"o"}


def test_the_kl_has_an_axis_of_its_own() -> None:
    """A KL of 3 to 5 beside costs of 100 to 200 fills its axis, and the legend names all."""
    columns = {"epoch": [1, 2, 3], "cost": [200.0, 120.0, 100.0], "kl": [3.0, 4.0, 5.0]}
    ax = plots.training_curves(columns)
    _, right = ax.figure.axes
    assert list(right.lines[0].get_ydata()) == columns["kl"]
    low, high = right.get_ylim()
    assert high - low < 1.2 * (5 - 3)
    assert right.yaxis.get_ticks_position() == "right"
    assert right.get_ylabel() == "KL in nats per example"
    legend = ax.get_legend()
    assert legend is not None
    labels = [text.get_text() for text in legend.get_texts()]
    assert labels == ["cost (−ELBO), training", "KL, training (right)"]


def test_a_kl_alone_is_drawn_on_the_left() -> None:
    ax = plots.training_curves({"epoch": [1, 2], "kl": [3.0, 4.0]})
    assert ax.figure.axes == [ax]
    assert len(ax.lines) == 1


def test_bands_are_mean_and_range() -> None:
    ax = plots.bands([1, 2], {"a": [[1.0, 2.0], [3.0, 6.0]]}, "nats")
    assert list(ax.lines[0].get_ydata()) == [2.0, 4.0]
    (band,) = ax.collections
    low, high = band.get_datalim(ax.transData).intervaly
    assert (low, high) == (1.0, 6.0)


@pytest.mark.parametrize(
    ("counts", "title"),
    [
        ((2, 2), "mean of 2 runs, band from least to greatest"),
        ((1, 3), "mean of 1 to 3 runs, band from least to greatest"),
        ((1, 1), ""),
    ],
)
def test_the_legend_says_what_a_band_is(counts: tuple[int, int], title: str) -> None:
    curves = {name: [[1.0, 2.0]] * n for name, n in zip("ab", counts, strict=True)}
    legend = plots.bands([1, 2], curves, "nats").get_legend()
    assert legend is not None
    assert legend.get_title().get_text() == title


def test_a_history_without_a_column_to_draw_is_named() -> None:
    with pytest.raises(ValueError, match="history: got the columns epoch, seconds, expected one"):
        plots.training_curves({"epoch": [1], "seconds": [0.1]})
    assert not plt.get_fignums()


def test_whole_places_have_whole_ticks() -> None:
    """An epoch is no 2.5; a rate may be."""
    epochs = list(range(1, 21))
    ax = plots.lines({"a": (epochs, [1.0] * 20)}, "epoch", "nats")
    assert all(tick % 1 == 0 for tick in ax.get_xticks())
    ax = plots.lines({"a": ([0.5, 1.0, 3.0], [1.0] * 3)}, "rate", "nats")
    assert any(tick % 1 for tick in ax.get_xticks())


def test_a_logarithmic_axis_has_plain_numbers() -> None:
    ax = plots.bands([0, 1], {"a": [[1.8, 6.3]]}, "signal / noise", log=True)
    ax.figure.canvas.draw()
    labels = [*ax.yaxis.get_majorticklabels(), *ax.yaxis.get_minorticklabels()]
    texts = {label.get_text() for label in labels if label.get_text()}
    assert "2" in texts
    assert all(float(text) > 0 for text in texts)
