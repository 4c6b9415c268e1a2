"""Pictures: each image is where its label says it is, and none is drawn with wrong channels."""

import math

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from torch import Tensor

from pyro_vae import VAE, plots, presets, priors


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


@pytest.mark.parametrize(
    "shape",
    [(4, 16), (4, 4, 4), (4, 1, 4, 4), (4, 3, 4, 4), (4, 4, 4, 1), (4, 4, 4, 3), (4, 1, 3, 4, 4)],
)
def test_images_of_all_shapes(shape: tuple[int, ...]) -> None:
    x = torch.rand(shape)
    got = sheet(plots.images(x, columns=4))
    assert got.shape == ((4, 16, 3) if 3 in shape else (4, 16))
    levels = (x * 255).round().to(torch.uint8)
    assert sheet(plots.images(levels, columns=4)) == pytest.approx(got, abs=1 / 255)


@pytest.mark.parametrize("channels", [1, 3])
def test_channels_first_and_last_are_the_same_picture(channels: int) -> None:
    first = torch.rand(6, channels, 5, 4)
    expected = sheet(plots.images(first))
    assert np.array_equal(sheet(plots.images(first.movedim(1, -1))), expected)
    assert np.array_equal(sheet(plots.images(first.unsqueeze(1))), expected)


@pytest.mark.parametrize("shape", [(2, 3, 5, 3), (2, 1, 5, 3), (2, 3, 5, 1), (2, 1, 1, 1)])
def test_channels_that_could_be_first_or_last_are_refused(shape: tuple[int, ...]) -> None:
    x = torch.rand(shape)
    with pytest.raises(ValueError, match=r"x: got shape .* second or the last"):
        plots.images(x)
    got = sheet(plots.images(x.unsqueeze(1), columns=1))
    assert got.shape[:2] == (2 * shape[2], shape[3])


def test_reconstructions_stand_below_what_they_are_of() -> None:
    x = torch.rand(20, 3, 3)
    ax = plots.reconstructions(x, 1 - x, columns=5)
    got = sheet(ax)
    assert got[:3] == pytest.approx(1 - got[3:])
    assert [t.get_text() for t in ax.get_yticklabels()] == ["real", "reconstructed"]
    with pytest.raises(ValueError, match="reconstructed: got shape"):
        plots.reconstructions(x, x[:3])


@pytest.fixture
def vae() -> VAE:
    return presets.build("pyro-mlp", z_dim=2, shape=(4, 4))


def test_reconstructions_of_a_vae(vae: VAE) -> None:
    x = torch.rand(20, 4, 4)
    expected = sheet(plots.reconstructions(x, vae.reconstruct(x), columns=5))
    # Its networks may round otherwise for another number of examples.
    assert sheet(plots.reconstructions(vae, x, columns=5)) == pytest.approx(expected, abs=1e-5)
    assert sheet(plots.reconstructions(vae, x[:3])).shape == (8, 12)


def test_generated_images_of_a_vae(vae: VAE) -> None:
    torch.manual_seed(0)
    ax = plots.generated(vae)
    torch.manual_seed(0)
    assert np.array_equal(sheet(ax), sheet(plots.generated(vae.generate(100))))
    assert ax.get_title() == "generated"
    assert sheet(plots.generated(vae, columns=20)).shape == (20, 80)


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
    assert [t.get_text() for t in ax.get_xticklabels()] == ["−1.5", "0.0", "1.5"]
    # The middle label stands at the middle tile.
    assert ax.get_yticks()[1] == 15
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("$z_1$", "$z_2$")


def test_a_manifold_needs_a_decoder_of_two_latents() -> None:
    vae = presets.build("pyro-mlp", z_dim=10, shape=(4, 4))
    with pytest.raises(ValueError, match=r"decode: got one that fails .*traversal draws more"):
        plots.manifold(vae.decode)
    with pytest.raises(TypeError, match="decode: got a VAE, expected its method decode"):
        plots.manifold(vae)


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


def test_given_axes_are_used() -> None:
    _, ax = plt.subplots()
    assert plots.images(torch.rand(2, 2, 2), ax=ax) is ax
    assert plots.manifold(corner_codes, ax=ax) is ax


def test_what_is_no_image_is_named() -> None:
    for shape in ((2, 7), (2, 2, 4, 4), (2, 4, 4, 5), (7,)):
        with pytest.raises(ValueError, match=r"x: got shape .* D a square"):
            plots.images(torch.rand(shape))
    with pytest.raises(ValueError, match="expected at least one image"):
        plots.images(torch.rand(0, 4, 4))


def test_what_is_neither_images_nor_a_vae_is_named(vae: VAE) -> None:
    x = torch.rand(2, 4, 4)
    with pytest.raises(TypeError, match=r"x: got a VAE, expected a torch\.Tensor of images"):
        plots.images(vae)
    with pytest.raises(TypeError, match=r"x: got a ndarray, expected .* or a VAE, .* generate"):
        plots.generated(x.numpy())
    with pytest.raises(TypeError, match=r"x: got an int, expected .* or a VAE, .* reconstruct"):
        plots.reconstructions(3, x)
    with pytest.raises(TypeError, match="x: got a list, expected"):
        plots.reconstructions(vae, [x])
    with pytest.raises(TypeError, match="reconstructed: got a VAE, expected"):
        plots.reconstructions(x, vae)
    with pytest.raises(TypeError, match=r"rows\['a'\]: got a VAE, expected"):
        plots.side_by_side({"a": vae})  # type: ignore[dict-item]


def test_rows_of_images_are_of_one_number() -> None:
    ax = plots.side_by_side({"a": torch.rand(3, 4, 4), "b": torch.rand(3, 4, 4)})
    assert [label.get_text() for label in ax.get_yticklabels()] == ["a", "b"]
    assert ax.images[0].get_array().shape == (8, 12)
    with pytest.raises(
        ValueError, match=r"rows: got images of shapes \[\(2, 4, 4\), \(3, 4, 4\)\]"
    ):
        plots.side_by_side({"a": torch.rand(3, 4, 4), "b": torch.rand(2, 4, 4)})
