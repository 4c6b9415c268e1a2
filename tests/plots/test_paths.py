"""Traversals and interpolations: each picture is decoded from the point that its axes name."""

import math

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from torch import Tensor

from pyro_vae import plots, priors


def points(count: int = 50, z_dim: int = 4) -> Tensor:
    """Points whose dimensions have variances of about 1, 16, 0.0001 and 4."""
    scales = torch.tensor([1.0, 4.0, 0.01, 2.0])[:z_dim]
    return scales * torch.randn(count, z_dim, generator=torch.Generator().manual_seed(0))


class Decoder:
    """Remembers the points; each image has them as its pixels, scaled into [0, 1]."""

    seen: Tensor

    def __call__(self, z: Tensor) -> Tensor:
        self.seen = z
        return (0.5 + z[:, :, None].expand(-1, -1, z.shape[1]) / 100).clamp(0, 1)


def ticks(ax: Axes) -> list[str]:
    return [label.get_text() for label in ax.get_yticklabels()]


def test_each_row_moves_one_latent_along_the_quantiles_of_the_points() -> None:
    z, decode = points(), Decoder()
    ax = plots.traversal(decode, z, rows=3, columns=5, low=0.1, high=0.9)
    seen = decode.seen.view(3, 5, 4)
    mean = z.mean(0)
    shares = torch.linspace(0.1, 0.9, 5)
    for row, dim in enumerate((1, 3, 0)):  # by variance
        expected = mean.repeat(5, 1)
        expected[:, dim] = z[:, dim].quantile(shares)
        assert torch.allclose(seen[row], expected)
    names = ticks(ax)
    assert [name.split(",")[0] for name in names] == ["$z_{2}$", "$z_{4}$", "$z_{1}$"]
    assert names[0].endswith(f"variance {z[:, 1].var():.2f}")
    assert [label.get_text() for label in ax.get_xticklabels()] == ["10 %", "50 %", "90 %"]
    assert ax.get_xlabel() == "quantile of the latent points"
    # The picture has row 1, column 2 where the points say.
    sheet = np.asarray(ax.images[0].get_array())
    assert sheet[4:8, 8:12] == pytest.approx(
        (0.5 + seen[1, 2, :, None].expand(-1, 4) / 100).numpy()
    )


def test_the_quantiles_of_the_prior_and_another_start() -> None:
    z, decode = points(), Decoder()
    icdf = priors.StandardNormal(4)().base_dist.icdf
    start = torch.tensor([1.0, 2.0, 3.0, 4.0])
    ax = plots.traversal(decode, z, quantile=icdf, start=start)
    seen = decode.seen.view(4, 9, 4)
    assert ax.get_xlabel() == "quantile of the prior"
    for row, dim in enumerate((1, 3, 0, 2)):
        moved = seen[row, :, dim]
        uniform = torch.distributions.Normal(0.0, 1.0).cdf(moved)
        assert torch.allclose(uniform, torch.linspace(0.05, 0.95, 9), atol=1e-5)
        others = [other for other in range(4) if other != dim]
        assert torch.equal(seen[row][:, others], start[others].repeat(9, 1))


def test_all_latents_are_drawn_if_there_are_fewer_than_rows() -> None:
    ax = plots.traversal(Decoder(), points(z_dim=2), rows=10)
    assert len(ticks(ax)) == 2
    assert len(ticks(plots.traversal(Decoder(), points(z_dim=1), columns=1))) == 1


def test_what_a_traversal_cannot_draw_is_refused() -> None:
    z = points()
    with pytest.raises(ValueError, match="z: got 1 points of shape"):
        plots.traversal(Decoder(), z[:1])
    with pytest.raises(ValueError, match=r"low, high: got 0\.9 and 0\.1"):
        plots.traversal(Decoder(), z, low=0.9, high=0.1)
    with pytest.raises(ValueError, match=r"start: got shape \(3,\), expected \(4,\)"):
        plots.traversal(Decoder(), z, start=torch.zeros(3))
    with pytest.raises(ValueError, match=r"quantile: gave \(9, 1\), expected shape \(9, 4\)"):
        plots.traversal(Decoder(), z, quantile=lambda p: p[:, :1])
    with pytest.raises(ValueError, match=r"quantile: gave inf between 0\.05 and 0\.95"):
        plots.traversal(Decoder(), z, quantile=lambda p: p / 0)
    with pytest.raises(TypeError, match=r"decode: got a list, expected a torch\.Tensor of images"):
        plots.traversal(lambda z: z.tolist(), z)  # type: ignore[return-value]


def test_points_between_which_there_are_no_others_are_refused() -> None:
    z = torch.arange(6).reshape(3, 2)
    with pytest.raises(TypeError, match=r"z: got torch\.int64, expected floating-point numbers"):
        plots.traversal(Decoder(), z)
    with pytest.raises(TypeError, match=r"second: got torch\.int64, expected floating-point"):
        plots.interpolation(Decoder(), z.double(), z)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_points_keep_their_precision(dtype: torch.dtype) -> None:
    z, decode = points().to(dtype), Decoder()
    plots.traversal(decode, z)
    assert decode.seen.dtype == dtype
    plots.interpolation(decode, z[:2], z[2:4], spherical=True)
    assert decode.seen.dtype == dtype


def path(first: Tensor, second: Tensor, columns: int, spherical: bool) -> Tensor:
    decode = Decoder()
    plots.interpolation(decode, first, second, columns=columns, spherical=spherical)
    return decode.seen.view(len(first), columns, -1)


def test_a_straight_line_has_equal_steps() -> None:
    z = points(6)
    seen = path(z[:3], z[3:], 7, spherical=False)
    steps = seen.diff(dim=1)
    assert torch.allclose(steps, ((z[3:] - z[:3]) / 6)[:, None].expand_as(steps), atol=1e-6)


@pytest.mark.parametrize("z_dim", [2, 3, 50])
def test_a_spherical_path_turns_evenly_at_the_length_of_its_ends(z_dim: int) -> None:
    z = torch.randn(8, z_dim, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    z = 3 * z / z.norm(dim=-1, keepdim=True)
    a, b = z[:4], z[4:]
    seen = path(a, b, 9, spherical=True)
    assert torch.allclose(seen.norm(dim=-1), torch.tensor(3.0, dtype=z.dtype))
    cosines = (seen[:, 1:] * seen[:, :-1]).sum(-1) / 9
    whole = torch.acos((a * b).sum(-1) / 9)
    # The rounding of a cosine near 1 is that of the angle's square.
    assert torch.allclose(torch.acos(cosines), (whole / 8)[:, None].expand(4, 8), atol=1e-6)


@pytest.mark.parametrize("spherical", [False, True])
def test_paths_begin_and_end_at_the_points_and_are_the_same_backwards(spherical: bool) -> None:
    z = points(8)
    a, b = z[:4], z[4:]
    seen, back = path(a, b, 6, spherical), path(b, a, 6, spherical)
    assert torch.allclose(seen[:, 0], a, atol=1e-6)
    assert torch.allclose(seen[:, -1], b, atol=1e-6)
    assert torch.allclose(seen.flip(1), back, atol=1e-6)


@pytest.mark.parametrize("near", [0.0, 1e-12, 1e-7, 1e-3])
def test_an_arc_between_near_points_is_a_line(near: float) -> None:
    """Its distance from the line is of the order of the angle's square."""
    a = torch.tensor([[3.0, 4.0]], dtype=torch.float64)
    b = a + near * torch.tensor([[4.0, -3.0]], dtype=torch.float64)
    arc, line = (path(a, b, 5, spherical) for spherical in (True, False))
    assert torch.allclose(arc, line, rtol=0, atol=1e-14 + 5 * near**2)


def test_an_arc_whose_ends_have_two_lengths_keeps_to_their_plane() -> None:
    a, b = torch.tensor([[1.0, 0.0, 0.0]]), torch.tensor([[0.0, 3.0, 0.0]])
    seen = path(a, b, 3, spherical=True)
    half = math.sqrt(0.5)
    assert torch.allclose(seen[0, 1], torch.tensor([half, 3 * half, 0.0]))


def test_arcs_that_there_are_not_are_refused() -> None:
    z = points(4)
    with pytest.raises(ValueError, match="second: got a point at zero"):
        plots.interpolation(Decoder(), z[:1], torch.zeros(1, 4), spherical=True)
    with pytest.raises(ValueError, match="first, second: got points in opposite directions"):
        plots.interpolation(Decoder(), z, -2 * z, spherical=True)
    plots.interpolation(Decoder(), z, -2 * z)  # a line through zero
    with pytest.raises(ValueError, match="columns: got 1, expected two or more"):
        plots.interpolation(Decoder(), z, z, columns=1)
    with pytest.raises(ValueError, match=r"first, second: got shapes \(4, 4\) and \(3, 4\)"):
        plots.interpolation(Decoder(), z, z[:3])
