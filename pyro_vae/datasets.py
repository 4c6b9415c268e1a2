"""Data sets as one uint8 tensor in memory, and the four ways in which levels become pixels."""

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args, overload

import numpy as np
import torch
from torch import Tensor

from pyro_vae.utils.checks import check_count, check_seed

Pixels = Literal["grey", "binary", "dequantized", "levels"]
"""How 8-bit levels become x; see :func:`to_pixels`."""

PIXELS: tuple[Pixels, ...] = get_args(Pixels)


@dataclass(frozen=True, repr=False)
class Dataset:
    """Images in 8-bit levels with their labels.

    Attributes:
        train, test: uint8 levels 0 ... 255 of shape ``(N, *shape)``.
        train_labels, test_labels: int64 class labels of shape ``(N,)``.
        shape: Shape of one image.
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
    """The data sets that :func:`load` knows."""
    return ("digits", *_TORCHVISION)


def load(name: str, root: str | Path | None = None) -> Dataset:
    """Loads a data set whole, as uint8 levels.

    `digits` comes with the package: the first 10,000 training and the first 2,000 test images of
    MNIST. `mnist` and `fashion-mnist` (60,000 and 10,000 images) are read through torchvision from
    `root`, or else from the folder that the environment variable ``PYRO_VAE_DATA`` names, or else
    from ``~/.cache/pyro_vae``; where they are not there yet, they are downloaded into it.

    Arguments:
        name: One of :func:`names`.
        root: Folder in torchvision's layout, for the data sets that are not embedded.

    Raises:
        ValueError: An unknown name, or a `root` for the embedded data.
        FileNotFoundError: The files are neither in the folder nor to be had by download.
    """
    if name not in names():
        raise ValueError(f"name: got {name!r}, expected one of {', '.join(names())}")
    if name == "digits":
        if root is not None:
            raise ValueError(f"root: got {root!r}, expected None: digits comes with the package")
        return _load_digits()
    return _load_torchvision(name, _TORCHVISION[name], root)


def _load_digits() -> Dataset:
    with np.load(Path(__file__).parent / "data" / "digits.npz", allow_pickle=False) as arrays:
        return Dataset(
            train=torch.from_numpy(arrays["train"]),
            test=torch.from_numpy(arrays["test"]),
            train_labels=torch.from_numpy(arrays["train_labels"]).long(),
            test_labels=torch.from_numpy(arrays["test_labels"]).long(),
        )


_TORCHVISION = {"mnist": "MNIST", "fashion-mnist": "FashionMNIST"}


def _load_torchvision(name: str, class_name: str, root: str | Path | None) -> Dataset:
    import torchvision.datasets  # costs as much as pyro itself, and `digits` does not need it

    folder = root or os.environ.get("PYRO_VAE_DATA") or Path.home() / ".cache" / "pyro_vae"
    make = getattr(torchvision.datasets, class_name)

    def read(download: bool) -> tuple[Any, ...]:
        return tuple(make(folder, train=train, download=download) for train in (True, False))

    try:
        try:
            train, test = read(download=False)
        except RuntimeError:  # torchvision's word for files that are not there
            train, test = read(download=True)
    except (AssertionError, ValueError) as error:  # and for files that are something else
        raise ValueError(
            f"{name}: the files in {Path(folder) / class_name / 'raw'} are damaged, expected "
            f"those of {class_name} ({error!r})"
        ) from error
    except (RuntimeError, OSError) as error:
        raise FileNotFoundError(
            f"{name}: not found in {folder}, and the download failed ({error}). Name a folder "
            f"that holds {class_name}/raw, by root= or the environment variable PYRO_VAE_DATA, or "
            "connect to the network; data set 'digits' needs neither."
        ) from error
    return Dataset(train.data, test.data, train.targets, test.targets)


def to_pixels(levels: Tensor, pixels: Pixels, seed: int | None = None) -> Tensor:
    """Turns 8-bit levels into pixels x of torch's default dtype; a seed fixes random draws.

    ============= ================================================ ===========================
    pixels        x                                                a density on it
    ============= ================================================ ===========================
    `grey`        level / 255                                      none: squared-error work
    `binary`      a Bernoulli(level / 255) draw, 0.0 or 1.0        Bernoulli
    `dequantized` (level + u) / 256 with u uniform, inside (0, 1)  Gaussian
    `levels`      0.0 ... 255.0                                    counts and categories
    ============= ================================================ ===========================

    Without a seed, they come from torch's global generator.

    Raises:
        TypeError: `levels` is not uint8, or the seed is no int.
        ValueError: `pixels` is none of the four, or the seed is out of range.
    """
    check_pixels(pixels)
    return _seeded_draw(levels, seed, _TO_PIXELS[pixels])


def binarize(levels: Tensor, seed: int | None) -> Tensor:
    """Draws x_d ~ Bernoulli(level_d / 255): float32 0.0 or 1.0, the same for the same seed.

    Raises:
        TypeError: `levels` is not uint8, or the seed is no int.
    """
    return _seeded_draw(levels, seed, _binary)


def dequantize(levels: Tensor, seed: int | None) -> Tensor:
    """Draws x = (level + u) / 256 with u uniform on (0, 1): float32 strictly inside (0, 1).

    u has 15 random bits and lies in the middle of its cell, so that no rounding reaches 0 or 1.
    Source: Uria, Murray and Larochelle (2013), section 5.1.

    Raises:
        TypeError: `levels` is not uint8, or the seed is no int.
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
    r"""-log p(x) in bits for each of the D numbers of x, :math:`-\log p(x) / (D \ln 2)`.

    For ``"levels"`` that is the code length of the levels. For ``"dequantized"`` pixels, which
    spread each level over a cell of 1 / levels, :math:`\log_2 levels` is added (8 bits for 256):
    in the mean that is an upper bound on the code length of the levels under the same model, so
    the two may stand in one table, where the latter may look worse than they are. Other pixels are
    other data: ``"binary"`` ones are not the levels, and on ``"grey"`` ones there is no density.

    Arguments:
        nats: -log p(x) of one x or many, a cost: minus ``log_likelihood(...).values``, say.
        shape: Shape of one x.
        levels: Number of levels that were dequantized.
        pixels: What x is, ``"levels"`` or ``"dequantized"``.

    Raises:
        ValueError: Other pixels, or a shape or number of levels that is not from 1 up.

    Source: Theis, van den Oord and Bethge (2016), arXiv 1511.01844, section 3.1.
    """
    check_pixels(pixels)
    check_count("levels", levels)
    if pixels not in ("levels", "dequantized"):
        raise ValueError(
            f"pixels: got {pixels!r}, expected 'levels' or 'dequantized': bits per dimension of "
            "8-bit images are those of their levels"
        )
    sizes = tuple(shape) if isinstance(shape, Sequence) else (shape,)
    for size in sizes:
        check_count("shape", size)
    bits = nats / (math.prod(sizes) * math.log(2))
    return bits + math.log2(levels) if pixels == "dequantized" else bits


def check_pixels(pixels: str | None) -> None:
    """Raises ValueError unless `pixels` is one of the four kinds."""
    if pixels not in PIXELS:
        raise ValueError(f"pixels: got {pixels!r}, expected one of {', '.join(PIXELS)}")


_Draw = Callable[[Tensor, torch.Generator | None], Tensor]


def _seeded_draw(levels: Tensor, seed: int | None, draw: _Draw) -> Tensor:
    if levels.dtype != torch.uint8:
        raise TypeError(f"levels: got {levels.dtype}, expected torch.uint8")
    check_seed(seed)
    if seed is None:
        return draw(levels, None)
    return draw(levels, torch.Generator(levels.device).manual_seed(int(seed)))


def _grey(levels: Tensor, generator: torch.Generator | None) -> Tensor:
    return levels / 255


def _binary(levels: Tensor, generator: torch.Generator | None) -> Tensor:
    # torch.bernoulli(levels / 255), exact and in less time: a random byte is below the level with
    # probability level / 256, and where it equals it, a second draw adds what is left to 1 / 255.
    words = torch.empty(-(-levels.numel() // 8), dtype=torch.int64, device=levels.device)
    words.random_(-(2**63), None, generator=generator)
    random = words.view(torch.uint8)[: levels.numel()].view(levels.shape)
    x = torch.lt(random, levels, out=torch.empty(levels.shape, device=levels.device))
    ties = (random == levels).nonzero(as_tuple=True)
    x[ties] = torch.bernoulli(levels[ties] / 255, generator=generator)
    return x


def _dequantized(levels: Tensor, generator: torch.Generator | None) -> Tensor:
    # 8 bits of level, 15 of u and one for the half make 24, which float32 holds exactly.
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
