"""Pictures: images as a grid, reconstructions, generated images, and the latent plane decoded."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, overload

import torch
from torch import Tensor

from pyro_vae.plots.axes import axes_or_new, check_axes
from pyro_vae.utils.checks import (
    check_count,
    check_function,
    check_mapping,
    check_positive,
    check_text,
    kind,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["generated", "images", "manifold", "reconstructions", "side_by_side"]

_GENERATED = 100


class _Generates(Protocol):
    def generate(self, num_samples: int) -> Tensor: ...


class _Reconstructs(Protocol):
    def reconstruct(self, x: Tensor) -> Tensor: ...


def images(x: Tensor, columns: int = 10, title: str = "", ax: "Axes | None" = None) -> "Axes":
    """Images as a grid, row by row, from 0 (white) to 1 (black); values outside are clipped.

    The shape of `x` is one of these:

    * ``(N, H, W)``: grey images;
    * ``(N, D)``: grey images of D pixels, where D is a square;
    * ``(N, C, H, W)`` or ``(N, H, W, C)`` with C = 1 or 3: grey or colour images, channels first
      or last. Where both readings are possible, since H or W is 1 or 3 too, the shape is refused.
      ``x.unsqueeze(1)`` is then read as channels first;
    * ``(N, *channels, H, W)`` of five or more dimensions, channels first.

    Arguments:
        x: The images, floats from 0 to 1 or uint8 levels from 0 to 255.
        columns: Number of images in a row.
        title: Title of the figure.
        ax: Axes to draw on; None makes a figure.

    Raises:
        TypeError: `x` is not a tensor.
        ValueError: The shape is none of these, or there are no images.

    Example:
        >>> ax = plots.images(torch.rand(20, 3, 32, 32), columns=5)
        >>> ax.images[0].get_array().shape  # four rows of five images
        (128, 160, 3)
    """
    check_count("columns", columns)
    check_text("title", title)
    flat = _as_images("x", x)
    rows = -(-len(flat) // columns)
    height, width = flat.shape[1:3]
    blank = torch.zeros(rows * columns - len(flat), *flat.shape[1:])
    tiles = torch.cat((flat, blank)).reshape(rows, columns, height, width, -1)
    sheet = tiles.permute(0, 2, 1, 3, 4).reshape(rows * height, columns * width, -1)
    ax = axes_or_new(ax, (0.6 * columns, 0.6 * rows * height / width + (0.4 if title else 0)))
    _show(ax, sheet)
    ax.set(xticks=[], yticks=[], title=title)
    return ax


@overload
def reconstructions(
    x: Tensor, reconstructed: Tensor, columns: int = 10, ax: "Axes | None" = None
) -> "Axes": ...
@overload
def reconstructions(
    vae: _Reconstructs, x: Tensor, /, columns: int = 10, ax: "Axes | None" = None
) -> "Axes": ...
def reconstructions(
    x: Any, reconstructed: Tensor, columns: int = 10, ax: "Axes | None" = None
) -> "Axes":
    """Images above their reconstructions: ``reconstructions(vae, x)``, or of two tensors.

    Arguments:
        x: Images, as for :func:`images`; or a VAE, and the images come second.
        reconstructed: Their reconstructions, of the same shape; or the images that the VAE's
            method ``reconstruct`` is called with.
        columns: How many images are drawn, from the first on.
        ax: Axes to draw on; None makes a figure.

    Raises:
        TypeError: An argument is not a tensor, nor a VAE with a method ``reconstruct``.
        ValueError: The two shapes differ, or they are not those of images.

    Example:
        >>> vae = presets.build("pyro-mlp", shape=(28, 28))
        >>> x = torch.rand(7, 28, 28)
        >>> ax = plots.reconstructions(vae, x)
        >>> ax = plots.reconstructions(x, vae.reconstruct(x))  # the same
        >>> ax.images[0].get_array().shape
        (56, 196)
    """
    check_count("columns", columns)
    check_axes(ax)
    if not isinstance(x, Tensor):
        reconstruct = getattr(x, "reconstruct", None)
        if not callable(reconstruct):
            raise TypeError(
                f"x: got {kind(x)}, expected a torch.Tensor of images, or a VAE, which "
                "has a method reconstruct"
            )
        x = _checked("x", reconstructed)[:columns]
        reconstructed = reconstruct(x)
    _checked("reconstructed", reconstructed)
    if x.shape != reconstructed.shape:
        raise ValueError(
            f"reconstructed: got shape {tuple(reconstructed.shape)}, expected that of x, "
            f"{tuple(x.shape)}"
        )
    x, reconstructed = x[:columns], reconstructed[:columns]
    return side_by_side({"real": x, "reconstructed": reconstructed.to(x.device)}, ax)


def side_by_side(rows: Mapping[str, Tensor], ax: "Axes | None" = None) -> "Axes":
    """Named rows of images, one above the other.

    Arguments:
        rows: Images by name, as for :func:`images`, all of the same shape ``(columns, *x_shape)``.
        ax: Axes to draw on; None makes a figure.

    Raises:
        TypeError: A row is not a tensor.
        ValueError: The shapes differ or are not those of images, or there are none.

    Example:
        >>> x = torch.rand(7, 28, 28)
        >>> ax = plots.side_by_side({"x": x, "1 - x": 1 - x, "thresholded": (x > 0.5).float()})
        >>> ax.images[0].get_array().shape
        (84, 196)
    """
    check_mapping("rows", rows, "names to images")
    shapes = {tuple(_checked(f"rows[{name!r}]", x).shape) for name, x in rows.items()}
    if len(shapes) != 1 or not len(next(iter(rows.values()))):
        raise ValueError(
            f"rows: got images of shapes {sorted(shapes)}, expected one shape (columns, *x_shape)"
        )
    tensors = list(rows.values())
    ax = images(torch.cat(tensors), len(tensors[0]), ax=ax)
    height, _ = image_shape("rows", tensors[0])
    places = [(i + 0.5) * height for i in range(len(rows))]
    ax.set(yticks=places, yticklabels=list(rows))
    ax.tick_params(axis="y", length=0)
    return ax


def generated(
    x: Tensor | _Generates,
    columns: int = 10,
    ax: "Axes | None" = None,
    *,
    context: Tensor | Sequence[Tensor] | None = None,
) -> "Axes":
    """Images from draws of the prior: ``generated(vae)`` draws 100, or those of a tensor.

    Arguments:
        x: Images, as for :func:`images`; or a VAE, whose ``generate(100)`` is drawn.
        columns: Number of images in a row.
        ax: Axes to draw on; None makes a figure.
        context: What is given to the VAE: `columns` images are drawn for each of its rows, in a
            row of their own. A row has its class label, if the context has one.

    Raises:
        TypeError: `x` is neither a tensor nor a VAE with a method ``generate``.
        ValueError: The shape is not one of images.

    Example:
        >>> vae = presets.build("pyro-mlp", shape=(28, 28))
        >>> ax = plots.generated(vae)
        >>> ax = plots.generated(vae.generate(30))
        >>> ax.images[0].get_array().shape
        (84, 280)
        >>> vae = presets.build("conditional-mlp", shape=(28, 28))
        >>> ax = plots.generated(vae, context=torch.arange(10))  # a row for each class
    """
    check_count("columns", columns)
    check_axes(ax)
    if isinstance(x, Tensor):
        if context is not None:
            raise TypeError("context: got it with images, expected a VAE that generates them")
        return images(x, columns, "generated", ax)
    generate = getattr(x, "generate", None)
    if not callable(generate):
        raise TypeError(
            f"x: got {kind(x)}, expected a torch.Tensor of images, or a VAE, which has "
            "a method generate"
        )
    if context is None:
        return images(generate(_GENERATED), columns, "generated", ax)
    drawn = generate(columns, context=context)
    ax = images(drawn, columns, "generated", ax)
    label = context if isinstance(context, Tensor) else context[0]
    if label.dim() == 1 and not label.is_floating_point():
        height, _ = image_shape("x", drawn)
        places = [(row + 0.5) * height for row in range(len(label))]
        ax.set(yticks=places, yticklabels=[str(value) for value in label.tolist()])
        ax.tick_params(axis="y", length=0)
    return ax


def manifold(
    decode: Callable[[Tensor], Tensor],
    *,
    size: int = 15,
    limit: float = 1.5,
    quantile: Callable[[Tensor], Tensor] | None = None,
    ax: "Axes | None" = None,
) -> "Axes":
    """Images decoded from a grid of points of a two-dimensional latent space.

    The default is the lecture's grid of 15 x 15 points over [-1.5, 1.5]^2.

    Arguments:
        decode: Maps z of shape ``(size ** 2, 2)`` to images, such as ``vae.decode``.
        size: Number of points along each axis.
        limit: The grid reaches from -`limit` to `limit`.
        quantile: The inverse distribution function of the prior, elementwise on shape
            ``(size ** 2, 2)``, such as ``vae.prior().base_dist.icdf``. If it is given, the points
            are evenly spaced in prior probability, and `limit` is not used.
        ax: Axes to draw on; None makes a figure.

    Raises:
        TypeError: `decode` is a pair, and not its method.
        ValueError: `decode` fails on such points, or does not give images.

    Example:
        >>> vae = presets.build("bernoulli-mlp", shape=(28, 28))
        >>> ax = plots.manifold(vae.decode, size=5, quantile=vae.prior().base_dist.icdf)
        >>> ax.images[0].get_array().shape
        (140, 140)
    """
    check_function("decode", decode)
    if hasattr(decode, "decode"):
        raise TypeError(f"decode: got {kind(decode)}, expected its method decode")
    check_count("size", size)
    check_positive("limit", limit)
    check_function("quantile", quantile, none=True)
    check_axes(ax)
    if quantile is None:
        line = torch.linspace(-limit, limit, size)
        labels = [f"{value + 0.0:.1f}" for value in line.round(decimals=6).tolist()]
        labels = [label.replace("-", "−") for label in labels]  # as matplotlib writes them
        names = ("$z_1$", "$z_2$")
    else:
        line = (torch.arange(size) + 0.5) / size
        labels = [f"{value:.2f}" for value in line.tolist()]
        names = ("$P(z_1)$, prior probability below", "$P(z_2)$, prior probability below")
    # The first row of the sheet is its top, where the second coordinate is largest.
    points = torch.cartesian_prod(line.flip(0), line).flip(1)
    z = points if quantile is None else quantile(points)
    try:
        x = decode(z)
    except (RuntimeError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"decode: got one that fails on points of two latents ({reason}), expected one that "
            "takes z of shape (N, 2); plots.traversal draws more latents"
        ) from error
    height, width = image_shape("decode", x)
    ax = axes_or_new(ax, (6.5, 6.5 * height / width))
    images(x, size, ax=ax)
    ticks = sorted({0, (size - 1) // 2, size - 1})
    ax.set(
        xticks=[(i + 0.5) * width for i in ticks],
        xticklabels=[labels[i] for i in ticks],
        yticks=[(size - i - 0.5) * height for i in ticks],
        yticklabels=[labels[i] for i in ticks],
        xlabel=names[0],
        ylabel=names[1],
    )
    return ax


def check_images(argument: str, x: object) -> None:
    """Raises TypeError or ValueError unless x has images of a shape that :func:`images` takes."""
    _as_images(argument, _checked(argument, x)[:1] if getattr(x, "ndim", 0) else x)


def image_shape(argument: str, x: object) -> tuple[int, int]:
    """The height and width of images; raises TypeError or ValueError if they are none."""
    height, width = _as_images(argument, _checked(argument, x)[:1]).shape[1:3]
    return height, width


def _checked(argument: str, x: object) -> Tensor:
    if not isinstance(x, Tensor):
        raise TypeError(f"{argument}: got {kind(x)}, expected a torch.Tensor of images")
    return x


def _as_images(argument: str, x: object) -> Tensor:
    """Images on the CPU as ``(N, height, width, channels)``, uint8 levels scaled to [0, 1]."""
    x = _checked(argument, x).detach().cpu()
    shape = tuple(x.shape)
    if not x.numel():
        raise ValueError(f"{argument}: got shape {shape}, expected at least one image")
    x = x / 255 if x.dtype == torch.uint8 else x.float()
    if x.dim() == 2:
        side = round(x.shape[1] ** 0.5)
        if side * side == x.shape[1]:
            return x.reshape(-1, side, side, 1)
    if x.dim() == 4:
        first, last = (x.shape[dim] in (1, 3) for dim in (1, 3))
        if first and last:
            raise ValueError(
                f"{argument}: got shape {shape}, whose channels may be the second or the last "
                "dimension, expected only one of the two to be 1 or 3; x.unsqueeze(1) is drawn "
                "with channels first"
            )
        if last:
            return x
    if x.dim() > 2:
        x = x.reshape(len(x), -1, *x.shape[-2:]).movedim(1, -1)
        if x.shape[-1] in (1, 3):
            return x
    raise ValueError(
        f"{argument}: got shape {shape}, expected (N, H, W), (N, C, H, W) or (N, H, W, C) with 1 "
        "or 3 channels, or (N, D) with D a square"
    )


def _show(ax: "Axes", sheet: Tensor) -> None:
    height, width, channels = sheet.shape
    keywords: dict[str, Any] = {"extent": (0, width, height, 0), "interpolation": "nearest"}
    if channels == 1:
        ax.imshow(sheet[..., 0].clamp(0, 1).numpy(), cmap="gray_r", vmin=0, vmax=1, **keywords)
    else:
        ax.imshow(sheet.clamp(0, 1).numpy(), **keywords)
