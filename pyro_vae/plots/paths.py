"""Paths through the latent space, decoded: along one dimension, and between two points."""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pyro_vae.plots.axes import axes_or_new, check_axes
from pyro_vae.plots.latent import by_variance, variance_text
from pyro_vae.plots.pictures import image_shape, images
from pyro_vae.utils.checks import (
    check_bounds,
    check_count,
    check_flag,
    check_function,
    check_number,
    check_tensor,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["interpolation", "traversal"]

_OPPOSITE = 1e-4  # radians from opposite directions, between which all arcs are equally long


def traversal(
    decode: Callable[[Tensor], Tensor],
    z: Tensor,
    *,
    rows: int = 10,
    columns: int = 9,
    low: float = 0.05,
    high: float = 0.95,
    quantile: Callable[[Tensor], Tensor] | None = None,
    start: Tensor | None = None,
    ax: "Axes | None" = None,
) -> "Axes":
    r"""What each of the most active latents does: it goes from a low to a high quantile.

    Each row is a latent. The others stay at `start`. Rows are sorted by the variance of the
    points, :math:`\mathrm{Var}_x(E_{q(z|x)}[z_u])`, the most active latent first; the variance
    stands beside each row. A latent of variance near 0 changes nothing that the data need.

    Source: Higgins et al. (2017), beta-VAE, ICLR, for the figure; Burda, Grosse and Salakhutdinov
    (2016), arXiv 1509.00519, section 5.2, for the variance.

    Arguments:
        decode: Maps z of shape ``(rows * columns, z_dim)`` to images, such as ``vae.decode``.
        z: Latent points of data, shape ``(N, z_dim)``, such as ``vae.embed(x)``.
        rows: The number of latents, or all if there are fewer.
        columns: The number of points along each.
        low, high: The quantiles at both ends. The points between them are evenly spaced in
            probability.
        quantile: The inverse distribution function of the prior, elementwise on shape
            ``(columns, z_dim)``, such as ``vae.prior().base_dist.icdf``. None takes the quantiles
            of `z`.
        start: The point of the other latents, shape ``(z_dim,)``; None is the mean of `z`.
        ax: Axes to draw on; None makes a figure.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: A shape or a number is out of range, there is one point, or a variance or a
            quantile is not finite.

    Example:
        >>> vae = presets.build("pyro-mlp", z_dim=5, shape=(28, 28))
        >>> z = vae.embed(torch.rand(20, 28, 28))
        >>> ax = plots.traversal(vae.decode, z, quantile=vae.prior().base_dist.icdf)
        >>> ax.images[0].get_array().shape  # five latents, nine points along each
        (140, 252)
    """
    check_function("decode", decode)
    _check_points("z", z)
    check_count("rows", rows)
    check_count("columns", columns)
    check_number("low", low, above=0, below=1)
    check_number("high", high, above=0, below=1)
    check_bounds(low, high)
    check_function("quantile", quantile, none=True)
    check_axes(ax)
    dims = by_variance(z)[:rows]
    shares = torch.linspace(float(low), float(high), columns, dtype=z.dtype, device=z.device)
    places = _quantiles(z, dims, shares, quantile)
    points = _start(start, z).repeat(len(dims), columns, 1)
    for row, dim in enumerate(dims):
        points[row, :, dim] = places[:, row]
    x = decode(points.flatten(0, 1))
    height, width = image_shape("decode", x)
    ax = axes_or_new(ax, (1.3 + 0.6 * columns, 0.6 + 0.6 * len(dims) * height / width))
    images(x, columns, ax=ax)
    ticks = sorted({0, (columns - 1) // 2, columns - 1})
    ax.set(
        xticks=[(tick + 0.5) * width for tick in ticks],
        xticklabels=[f"{100 * shares[tick].item():.3g} %" for tick in ticks],
        xlabel=f"quantile of the {'latent points' if quantile is None else 'prior'}",
        yticks=[(row + 0.5) * height for row in range(len(dims))],
        yticklabels=[f"$z_{{{dim + 1}}}$, variance {variance_text(z, dim)}" for dim in dims],
    )
    ax.tick_params(length=0)
    return ax


def _check_points(argument: str, z: Tensor) -> None:
    """Raises TypeError or ValueError unless these are latent points, on whose way others lie."""
    check_tensor(argument, z, "N", "z_dim")
    if not z.is_floating_point():
        raise TypeError(f"{argument}: got {z.dtype}, expected floating-point numbers")


def _quantiles(
    z: Tensor, dims: list[int], shares: Tensor, quantile: Callable[[Tensor], Tensor] | None
) -> Tensor:
    """The places along each of the dimensions, shape ``(columns, dims)``."""
    if quantile is None:
        return z[:, dims].detach().double().quantile(shares.double(), 0).to(z.dtype)
    given = shares[:, None].expand(-1, z.shape[1])
    found = quantile(given)
    got = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
    if got != tuple(given.shape):
        raise ValueError(f"quantile: gave {got}, expected shape {tuple(given.shape)}")
    if not bool(found.isfinite().all()):
        raise ValueError(
            f"quantile: gave {found[~found.isfinite()][0].item()} between "
            f"{shares[0].item():g} and {shares[-1].item():g}, expected finite numbers"
        )
    return found.detach().to(z)[:, dims]


def _start(start: Tensor | None, z: Tensor) -> Tensor:
    """The point from which each latent goes off, shape ``(z_dim,)``."""
    if start is None:
        return z.detach().mean(0)
    check_tensor("start", start, "z_dim")
    if start.shape != z.shape[1:]:
        raise ValueError(
            f"start: got shape {tuple(start.shape)}, expected {tuple(z.shape[1:])}, as the points"
        )
    return start.detach().to(z)


def interpolation(
    decode: Callable[[Tensor], Tensor],
    first: Tensor,
    second: Tensor,
    *,
    columns: int = 10,
    spherical: bool = False,
    ax: "Axes | None" = None,
) -> "Axes":
    r"""What lies between pairs of examples in latent space, a row for each pair.

    .. math:: z_t = (1 - t)\, z_0 + t\, z_1 \quad\text{or}\quad
        z_t = \frac{\sin((1 - t)\, \omega)\, z_0 + \sin(t\, \omega)\, z_1}{\sin \omega}

    for evenly spaced t from 0 to 1, where :math:`\omega` is the angle between the two points. In
    many dimensions, draws of a standard normal have nearly one length, :math:`\sqrt{z_{dim}}`. The
    middle of a straight line is shorter, and the arc of the spherical path stays at the length of
    its ends. So spherical paths are for priors that are centred normals. For others they have no
    meaning.

    Source: Shoemake (1985), Animating rotation with quaternion curves, SIGGRAPH, for the arc;
    White (2016), Sampling generative networks, arXiv 1609.04468, for its use here.

    Arguments:
        decode: Maps z of shape ``(N * columns, z_dim)`` to images, such as ``vae.decode``.
        first: The points at which paths begin, shape ``(N, z_dim)``, such as ``vae.embed(x)``.
        second: Those at which they end, of the same shape.
        columns: The number of points on each path, two or more, with its ends.
        spherical: Takes the arc in place of the straight line.
        ax: Axes to draw on; None makes a figure.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: The shapes differ or are none, there are no pairs or too few columns; or a
            spherical path has an end at zero, or its ends lie in opposite directions.

    Example:
        >>> vae = presets.build("pyro-mlp", z_dim=5, shape=(28, 28))
        >>> z = vae.embed(torch.rand(6, 28, 28))
        >>> ax = plots.interpolation(vae.decode, z[:3], z[3:], spherical=True)
        >>> ax.images[0].get_array().shape  # three pairs, ten points between each
        (84, 280)
    """
    check_function("decode", decode)
    _check_points("first", first)
    _check_points("second", second)
    if first.shape != second.shape or not first.numel():
        raise ValueError(
            f"first, second: got shapes {tuple(first.shape)} and {tuple(second.shape)}, expected "
            "one shape (N, z_dim) of one pair or more"
        )
    check_count("columns", columns)
    if columns < 2:
        raise ValueError(f"columns: got {columns}, expected two or more, the ends of a path")
    check_flag("spherical", spherical)
    check_axes(ax)
    a, b = (end.detach().double() for end in (first, second.to(first.device)))
    t = torch.linspace(0, 1, columns, dtype=a.dtype, device=a.device)[:, None]
    of_a, of_b = _arc(a, b, t) if spherical else (1 - t, t)
    points = of_a * a[:, None] + of_b * b[:, None]  # (N, columns, z_dim)
    x = decode(points.flatten(0, 1).to(first.dtype))
    height, width = image_shape("decode", x)
    ax = axes_or_new(ax, (0.6 * columns, 0.5 + 0.6 * len(a) * height / width))
    images(x, columns, ax=ax)
    ax.set(
        xticks=[0.5 * width, (columns - 0.5) * width],
        xticklabels=["first", "second"],
        xlabel=f"{'spherical' if spherical else 'linear'} path between latent points",
    )
    ax.tick_params(length=0)
    return ax


def _arc(a: Tensor, b: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """The weights of both ends on the arc between them, shape ``(N, columns, 1)``."""
    for name, end in (("first", a), ("second", b)):
        if not bool(end.norm(dim=-1).all()):
            raise ValueError(
                f"{name}: got a point at zero, expected others: it has no direction for a "
                "spherical path"
            )
    u, v = (end / end.norm(dim=-1, keepdim=True) for end in (a, b))
    # By both differences, the angle keeps its digits near 0 and near pi, where a cosine has none.
    angle = 2 * torch.atan2((u - v).norm(dim=-1), (u + v).norm(dim=-1))
    if bool((angle > math.pi - _OPPOSITE).any()):
        raise ValueError(
            "first, second: got points in opposite directions, expected others: no arc between "
            "them is the shortest"
        )
    turns = angle[:, None, None] / math.pi
    # sin(t w) / sin(w) = t sinc(t w) / sinc(w), which is t where w is 0.
    both = [share * torch.sinc(share * turns) / torch.sinc(turns) for share in (1 - t, t)]
    return both[0], both[1]
