"""Figures: each image is where its label says it is, and axes say what they are."""

import math
from collections.abc import Iterator

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from torch import Tensor

from pyro_vae import plots, priors
from pyro_vae.training.history import History


@pytest.fixture(autouse=True)
def _close() -> Iterator[None]:
    yield
    plt.close("all")


def sheet(ax: plt.Axes) -> np.ndarray:
    return np.asarray(ax.images[0].get_array())


def test_images_are_laid_out_row_by_row() -> None:
    x = torch.arange(7)[:, None, None].expand(-1, 2, 3) / 10
    got = sheet(plots.images(x, columns=3))
    assert got.shape == (6, 9)
    for i in range(7):
        row, column = divmod(i, 3)
        tile = got[2 * row : 2 * row + 2, 3 * column : 3 * column + 3]
        assert tile == pytest.approx(i / 10)
    assert got[4:, 3:] == pytest.approx(0)


@pytest.mark.parametrize("shape", [(4, 16), (4, 4, 4), (4, 1, 4, 4), (4, 3, 4, 4)])
def test_images_of_all_shapes(shape: tuple[int, ...]) -> None:
    x = torch.rand(shape)
    got = sheet(plots.images(x, columns=4))
    assert got.shape == ((4, 16, 3) if shape[1] == 3 else (4, 16))
    levels = (x * 255).round().to(torch.uint8)
    assert sheet(plots.images(levels, columns=4)) == pytest.approx(got, abs=1 / 255)


def test_reconstructions_stand_below_what_they_are_of() -> None:
    x = torch.rand(20, 3, 3)
    ax = plots.reconstructions(x, 1 - x, columns=5)
    got = sheet(ax)
    assert got[:3] == pytest.approx(1 - got[3:])
    assert [t.get_text() for t in ax.get_yticklabels()] == ["real", "reconstructed"]
    with pytest.raises(ValueError, match="reconstructed: got shape"):
        plots.reconstructions(x, x[:3])


def corner_codes(z: Tensor) -> Tensor:
    """Each image is constant, 0.5 + (z_1 + 10 z_2) / 100."""
    return (0.5 + (z[:, 0] + 10 * z[:, 1]) / 100)[:, None, None].expand(-1, 2, 2)


def test_manifold_shows_each_point_where_its_axes_say() -> None:
    ax = plots.manifold(corner_codes)
    got = sheet(ax)
    assert got.shape == (30, 30)
    line = np.linspace(-1.5, 1.5, 15)
    # z_1 grows to the right, z_2 upwards.
    expected = 0.5 + (line[None, :] + 10 * line[::-1, None]) / 100
    assert got[::2, ::2] == pytest.approx(expected, abs=1e-6)
    assert [t.get_text() for t in ax.get_xticklabels()] == ["-1.5", "0.0", "1.5"]
    # The middle label stands at the middle tile.
    assert ax.get_yticks()[1] == 15
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("$z_1$", "$z_2$")


def test_manifold_through_the_priors_quantiles() -> None:
    seen: list[Tensor] = []

    def decode(z: Tensor) -> Tensor:
        seen.append(z)
        return corner_codes(z)

    icdf = priors.StandardNormal(2)().base_dist.icdf
    ax = plots.manifold(decode, size=9, quantile=icdf)
    probabilities = torch.distributions.Normal(0.0, 1.0).cdf(seen[0])
    assert torch.allclose(
        probabilities[:, 0].unique(), torch.arange(9) / 9 + 1 / 18, atol=1e-6
    ) or math.isclose(probabilities.min().item(), 1 / 18, abs_tol=1e-6)
    assert "probability" in ax.get_xlabel()


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
    assert plots.images(torch.rand(2, 2, 2), ax=ax) is ax
    assert plots.latent(torch.randn(3, 2), torch.arange(3), ax=ax) is ax
    assert plots.manifold(corner_codes, ax=ax) is ax


def test_what_is_no_image_is_named() -> None:
    with pytest.raises(ValueError, match="D a square"):
        plots.images(torch.rand(2, 7))
    with pytest.raises(ValueError, match="got 2 channels"):
        plots.images(torch.rand(2, 2, 4, 4))
