"""Image data sets in memory, as uint8 levels, and four ways to make pixels of levels."""

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any, Literal, get_args, overload

import numpy as np
import torch
from torch import Tensor

from pyro_vae.utils.checks import check_count, check_path, check_seed, kind
from pyro_vae.utils.random import random_operator, random_words
from pyro_vae.utils.warn import warn

__all__ = [
    "PIXELS",
    "Dataset",
    "Pixels",
    "binarize",
    "bits_per_dim",
    "check_pixels",
    "dequantize",
    "fresh_pixels",
    "load",
    "names",
    "to_pixels",
]


Pixels = Literal["grey", "binary", "dequantized", "levels"]
"""How 8-bit levels become x; see :func:`to_pixels`."""

PIXELS: tuple[Pixels, ...] = get_args(Pixels)
"""The four kinds of pixels."""


@dataclass(frozen=True, repr=False)
class Dataset:
    """Images as 8-bit levels, with their labels.

    Attributes:
        train, test: uint8 levels from 0 to 255, shape ``(N, *shape)``.
        train_labels, test_labels: int64 class labels, shape ``(N,)``.
        shape: Shape of one image.

    Example:
        >>> data = datasets.load("digits")
        >>> data
        Dataset(train=10000, test=2000, shape=(28, 28))
        >>> data.test.shape, data.test.dtype
        (torch.Size([2000, 28, 28]), torch.uint8)
    """

    train: Tensor
    test: Tensor
    train_labels: Tensor
    test_labels: Tensor

    @property
    def shape(self) -> torch.Size:
        return self.train.shape[1:]

    def __repr__(self) -> str:
        sizes = f"train={len(self.train)}, test={len(self.test)}"
        return f"Dataset({sizes}, shape={tuple(self.shape)})"


def names() -> tuple[str, ...]:
    """The names of the data sets that :func:`load` knows.

    Example:
        >>> datasets.names()
        ('digits', 'mnist', 'fashion-mnist')
    """
    return ("digits", *_TORCHVISION)


def load(name: str, root: str | Path | None = None) -> Dataset:
    """Loads a whole data set into memory, as uint8 levels.

    ``digits`` comes with the package: the first 10,000 training and the first 2,000 test images of
    MNIST. ``mnist`` and ``fashion-mnist`` (60,000 and 10,000 images) are read through torchvision,
    and downloaded first where the folder does not have them. The folder is `root`, or else that in
    the environment variable ``PYRO_VAE_DATA``, or else ``~/.cache/pyro_vae``.

    Arguments:
        name: One of :func:`names`.
        root: Folder in torchvision's layout, for all data sets but ``digits``.

    Raises:
        TypeError: `root` is not a path.
        ValueError: The name is unknown, `root` is given for ``digits``, or the files are damaged.
        FileNotFoundError: The folder does not have the files, and the download failed.

    Example:
        >>> data = datasets.load("digits")
        >>> data.train.shape
        torch.Size([10000, 28, 28])
    """
    if name not in names():
        raise ValueError(f"name: got {name!r}, expected one of {', '.join(names())}")
    if name == "digits":
        if root is not None:
            raise ValueError(f"root: got {root!r}, expected None: digits comes with the package")
        return _load_digits()
    check_path("root", root, none=True)
    return _load_torchvision(name, _TORCHVISION[name], root)


def _load_digits() -> Dataset:
    with np.load(
        Path(__file__).parent.parent / "data" / "digits.npz", allow_pickle=False
    ) as arrays:
        return Dataset(
            train=torch.from_numpy(arrays["train"]),
            test=torch.from_numpy(arrays["test"]),
            train_labels=torch.from_numpy(arrays["train_labels"]).long(),
            test_labels=torch.from_numpy(arrays["test_labels"]).long(),
        )


_TORCHVISION = {"mnist": "MNIST", "fashion-mnist": "FashionMNIST"}


def _load_torchvision(name: str, class_name: str, root: str | Path | None) -> Dataset:
    import torchvision.datasets  # slow to import, and not needed for digits

    folder = root or os.environ.get("PYRO_VAE_DATA") or Path.home() / ".cache" / "pyro_vae"
    make = getattr(torchvision.datasets, class_name)

    def read(download: bool) -> tuple[Any, ...]:
        return tuple(make(folder, train=train, download=download) for train in (True, False))

    try:
        try:
            train, test = read(download=False)
        except RuntimeError:  # torchvision did not find the files
            train, test = read(download=True)
    except (AssertionError, ValueError) as error:  # it could not parse them
        raise ValueError(
            f"{name}: got damaged files in {Path(folder) / class_name / 'raw'}, expected those of "
            f"{class_name} ({error!r})"
        ) from error
    except (RuntimeError, OSError) as error:
        raise FileNotFoundError(
            f"{name}: not found in {folder}, and the download failed ({error}). Give a folder "
            f"that has {class_name}/raw, as root= or as the environment variable PYRO_VAE_DATA, "
            "or connect to the network; the data set 'digits' needs neither."
        ) from error
    return Dataset(train.data, test.data, train.targets, test.targets)


def to_pixels(levels: Tensor, pixels: Pixels, seed: int | None = None) -> Tensor:
    """Turns 8-bit levels into pixels x of torch's default dtype.

    ============= ================================================ ===========================
    pixels        x                                                a density on it
    ============= ================================================ ===========================
    `grey`        level / 255                                      none: squared-error work
    `binary`      a Bernoulli(level / 255) draw, 0.0 or 1.0        Bernoulli
    `dequantized` (level + u) / 256 with u uniform, inside (0, 1)  Gaussian
    `levels`      0.0 ... 255.0                                    counts and categories
    ============= ================================================ ===========================

    Arguments:
        levels: uint8 levels of any shape.
        pixels: One of the four kinds.
        seed: Fixes the random draws; None draws from torch's global generator.

    Raises:
        TypeError: `levels` is not uint8, or `seed` is not an int.
        ValueError: `pixels` is not one of the four, or `seed` is out of range.

    Warns:
        UserWarning: The levels are 0 and 1 alone, as those of binary pixels.

    Example:
        >>> levels = datasets.load("digits").test
        >>> x = datasets.to_pixels(levels, "binary", seed=0)
        >>> x.shape, x.unique()
        (torch.Size([2000, 28, 28]), tensor([0., 1.]))
    """
    check_pixels(pixels)
    return _seeded_draw(levels, seed, _TO_PIXELS[pixels])


def binarize(levels: Tensor, seed: int | None) -> Tensor:
    """Draws binary pixels, x_d ~ Bernoulli(level_d / 255), as floats 0.0 and 1.0.

    The first n of a draw are not quite the draw of the first n: torch draws the last numbers of a
    tensor in another way, which changes a pixel in some thousands.

    Arguments:
        levels: uint8 levels of any shape.
        seed: Fixes the draw; None draws from torch's global generator.

    Raises:
        TypeError: `levels` is not uint8, or `seed` is not an int.
        ValueError: `seed` is out of range.

    Example:
        >>> levels = datasets.load("digits").test
        >>> datasets.binarize(levels, seed=0).unique()
        tensor([0., 1.])
    """
    return _seeded_draw(levels, seed, _binary)


def dequantize(levels: Tensor, seed: int | None) -> Tensor:
    """Draws x = (level + u) / 256 with u uniform on (0, 1), strictly inside (0, 1).

    u is the middle of one of 2**15 cells, so that x is exact in float32 and is never 0 or 1.

    Source: Uria, Murray and Larochelle (2013), section 5.1.

    Arguments:
        levels: uint8 levels of any shape.
        seed: Fixes the draw; None draws from torch's global generator.

    Raises:
        TypeError: `levels` is not uint8, or `seed` is not an int.
        ValueError: `seed` is out of range.

    Example:
        >>> x = datasets.dequantize(datasets.load("digits").test, seed=0)
        >>> bool((x > 0).all() and (x < 1).all())
        True
    """
    return _seeded_draw(levels, seed, _dequantized)


@overload
def bits_per_dim(
    nats: Tensor, shape: int | Sequence[int], levels: int = 256, *, pixels: Pixels
) -> Tensor: ...
@overload
def bits_per_dim(
    nats: float, shape: int | Sequence[int], levels: int = 256, *, pixels: Pixels
) -> float: ...
def bits_per_dim(
    nats: float | Tensor, shape: int | Sequence[int], levels: int = 256, *, pixels: Pixels
) -> float | Tensor:
    r"""Bits per dimension, :math:`-\log_2 p(x) / D`, where x has D numbers.

    For ``"levels"``, this is the code length of the levels. For ``"dequantized"`` pixels, which
    spread each level over a cell of width 1 / levels, :math:`\log_2` of `levels` is added (8 bits
    for 256). On average, the result is then an upper bound on the code length of the levels under
    the same model. So the two can be compared, but dequantized pixels may look worse than they
    are. Other pixels are refused: ``"binary"`` ones are other data, and ``"grey"`` ones have no
    density.

    Source: Theis, van den Oord and Bethge (2016), arXiv 1511.01844, section 3.1.

    Arguments:
        nats: :math:`-\log p(x)` of one x or many, such as ``-log_likelihood(...).values``.
        shape: Shape of one x.
        levels: Number of levels that were dequantized.
        pixels: What x is, ``"levels"`` or ``"dequantized"``.

    Raises:
        TypeError: `nats` is neither a number nor a tensor.
        ValueError: `pixels` is another kind, or `shape` or `levels` is not positive.

    Example:
        >>> round(datasets.bits_per_dim(2000.0, (28, 28), pixels="levels"), 2)
        3.68
    """
    if isinstance(nats, bool) or not isinstance(nats, Real | Tensor):
        raise TypeError(f"nats: got {kind(nats)}, expected a number or a torch.Tensor")
    check_pixels(pixels)
    check_count("levels", levels)
    if pixels not in ("levels", "dequantized"):
        raise ValueError(
            f"pixels: got {pixels!r}, expected 'levels' or 'dequantized': bits per dimension are "
            "those of the levels"
        )
    sizes = tuple(shape) if isinstance(shape, Sequence) else (shape,)
    for size in sizes:
        check_count("shape", size)
    bits = nats / (math.prod(sizes) * math.log(2))
    return bits + math.log2(levels) if pixels == "dequantized" else bits


def check_pixels(pixels: str | None) -> None:
    """Raises ValueError unless `pixels` is one of the four kinds.

    Example:
        >>> datasets.check_pixels("gray")
        Traceback (most recent call last):
        ValueError: pixels: got 'gray', expected one of grey, binary, dequantized, levels
    """
    if pixels not in PIXELS:
        raise ValueError(f"pixels: got {pixels!r}, expected one of {', '.join(PIXELS)}")


_Draw = Callable[[Tensor, torch.Generator | None], Tensor]


def _seeded_draw(levels: Tensor, seed: int | None, draw: _Draw) -> Tensor:
    if not isinstance(levels, Tensor):
        raise TypeError(f"levels: got {kind(levels)}, expected a torch.Tensor of torch.uint8")
    if levels.dtype != torch.uint8:
        raise TypeError(f"levels: got {levels.dtype}, expected torch.uint8")
    check_seed(seed)
    if draw is not _levels and levels.numel() and levels.max() == 1:
        warn(
            "levels: got none above 1 on a scale of 255, so x is almost zero everywhere; pixels "
            "that are 0 or 1 already are x itself: levels.float()"
        )
    if seed is None:
        return draw(levels, None)
    return draw(levels, torch.Generator(levels.device).manual_seed(int(seed)))


def _grey(levels: Tensor, generator: torch.Generator | None) -> Tensor:
    return levels / 255


def _binary(levels: Tensor, generator: torch.Generator | None) -> Tensor:
    # The distribution of torch.bernoulli(levels / 255), drawn faster. A random byte is below the
    # level with probability level / 256. Where it equals the level, a second draw makes up the
    # difference to level / 255.
    words = torch.empty(-(-levels.numel() // 8), dtype=torch.int64, device=levels.device)
    words.random_(-(2**63), None, generator=generator)
    flat = levels.flatten()
    random = words.view(torch.uint8)[: len(flat)]
    x = torch.lt(random, flat, out=torch.empty(len(flat), device=levels.device))
    ties = (random == flat).nonzero().squeeze(1)
    # In float32, whatever the default dtype is, by which the numbers drawn would be others.
    drawn = torch.bernoulli(flat[ties].to(torch.float32) / 255, generator=generator)
    x.index_copy_(0, ties, drawn.to(x.dtype))
    return x.view(levels.shape)


def fresh_pixels(levels: Tensor, pixels: Pixels) -> Tensor:
    """Turns levels into pixels as :func:`to_pixels` does; on a GPU without waiting for it.

    There, binary pixels have the same distribution and are other draws than those of `to_pixels`.

    Arguments:
        levels: uint8 levels of any shape.
        pixels: One of the four kinds.
    """
    if pixels == "binary":
        return _binary_bits(levels) if levels.device.type == "cpu" else _drawn_bits(levels)
    return _TO_PIXELS[pixels](levels, None)


# The number of ties is not known beforehand, so a traced graph holds the draw as one operator.
_binary_bits = random_operator(
    "binary_bits(Tensor levels) -> Tensor",
    lambda levels: _binary(levels, None),
    lambda levels: torch.empty(levels.shape, device=levels.device),
)


def _drawn_bits(levels: Tensor) -> Tensor:
    # level / 255 has the level as each of its digits to base 256. A random integer of four digits
    # is below the first four with probability level / 255, up to 2**-32.
    words = random_words(-(-levels.numel() // 2), levels.device)
    random = words.view(torch.int32)[: levels.numel()].view(levels.shape)
    signed = levels.to(torch.int32) - 128
    # The digits minus 2**31, in steps that do not overflow.
    digits = signed * 2**24 + (signed * 65793 + 8421504)
    x = (random < digits) | (levels == 255)
    return x.to(torch.get_default_dtype())


def _dequantized(levels: Tensor, generator: torch.Generator | None) -> Tensor:
    # 8 bits of the level, 15 of u and one for the half make 24, which float32 represents exactly.
    cells = torch.randint(
        2**15, levels.shape, generator=generator, device=levels.device, dtype=torch.int32
    )
    return (levels + (cells + 0.5) / 2**15) / 256


def _levels(levels: Tensor, generator: torch.Generator | None) -> Tensor:
    return levels.to(torch.get_default_dtype())


_TO_PIXELS: dict[Pixels, _Draw] = {
    "grey": _grey,
    "binary": _binary,
    "dequantized": _dequantized,
    "levels": _levels,
}
