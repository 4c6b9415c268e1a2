"""Named VAEs: the lecture's structures, those of papers and of Pyro's example, and of tables."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, overload

from pyro_vae.composed import Composed
from pyro_vae.datasets import Pixels, Table, check_pixels
from pyro_vae.likelihoods import Bernoulli, Gaussian
from pyro_vae.models import HierarchicalVAE, MixtureVAE, NotMissingAtRandom, SemiSupervisedVAE
from pyro_vae.posteriors import Normal
from pyro_vae.presets import structures
from pyro_vae.priors import StandardNormal
from pyro_vae.utils.checks import check_count, kind, plain
from pyro_vae.utils.shapes import Shape, as_shape
from pyro_vae.vae import VAE

__all__ = ["Preset", "build", "get", "names"]


@dataclass(frozen=True)
class Preset:
    """A named VAE.

    Attributes:
        about: One line that describes it.
        z_dim: Its default number of latent dimensions.
        pixels: The pixels that fit its likelihood, the default first; none for a table's.
        build: Maps z_dim, the shape of x and the pixels to a pair; a preset of tables maps z_dim
            and the table.
        conditional: Whether it takes the class label of x as context.
        objective: The objective that suits it, a name of ``objectives.parse``.
        labelled: Whether class labels are data of it, of which some may be missing.

    Example:
        >>> preset = presets.get("pyro-mlp")
        >>> preset.z_dim, preset.pixels
        (50, ('binary', 'grey'))
    """

    about: str
    z_dim: int
    pixels: tuple[Pixels, ...]
    build: Callable[..., Composed] = field(repr=False)
    conditional: bool = False
    objective: str = "trace_elbo"
    labelled: bool = False


def names() -> tuple[str, ...]:
    """The names of the presets that :func:`build` knows.

    Example:
        >>> presets.names()[:2]
        ('bernoulli-mlp', 'gaussian-mlp')
    """
    return tuple(_PRESETS)


def get(name: str) -> Preset:
    """The preset of a name, with its description and defaults.

    Raises:
        ValueError: The name is unknown.

    Example:
        >>> presets.get("pyro-mlp").about
        "the network of Pyro's VAE example: 400 softplus, 50 latents"
    """
    if name not in _PRESETS:
        raise ValueError(f"preset: got {name!r}, expected one of {', '.join(_PRESETS)}")
    return _PRESETS[name]


_OfVAE = Literal[
    "bernoulli-mlp",
    "gaussian-mlp",
    "gaussian-unit-mlp",
    "iwae-mlp",
    "pyro-mlp",
    "conditional-mlp",
    "conv",
]


@overload
def build(
    name: _OfVAE, *, z_dim: int | None = None, shape: Shape, pixels: Pixels | None = None
) -> VAE: ...
@overload
def build(
    name: Literal["table-mlp"],
    *,
    z_dim: int | None = None,
    table: Table | Mapping[str, Any],
) -> VAE: ...
@overload
def build(
    name: Literal["two-layers-mlp"],
    *,
    z_dim: int | None = None,
    shape: Shape,
    pixels: Pixels | None = None,
) -> HierarchicalVAE: ...
@overload
def build(
    name: Literal["mixture-mlp"],
    *,
    z_dim: int | None = None,
    shape: Shape,
    pixels: Pixels | None = None,
) -> MixtureVAE: ...
@overload
def build(
    name: Literal["semi-supervised-mlp"],
    *,
    z_dim: int | None = None,
    shape: Shape,
    pixels: Pixels | None = None,
) -> SemiSupervisedVAE: ...
@overload
def build(
    name: Literal["not-missing-at-random-mlp"],
    *,
    z_dim: int | None = None,
    shape: Shape,
    pixels: Pixels | None = None,
) -> NotMissingAtRandom: ...
@overload
def build(
    name: str,
    *,
    z_dim: int | None = None,
    shape: Shape | None = None,
    pixels: Pixels | None = None,
    table: Table | Mapping[str, Any] | None = None,
) -> Any: ...
def build(
    name: str,
    *,
    z_dim: int | None = None,
    shape: Shape | None = None,
    pixels: Pixels | None = None,
    table: Table | Mapping[str, Any] | None = None,
) -> Composed:
    """Builds a VAE or another pair by name.

    Its parameters are initialized from torch's global generator.

    Arguments:
        name: One of :func:`names`.
        z_dim: Number of latent dimensions; None takes the preset's default.
        shape: Shape of one x; None for a preset of tables.
        pixels: The kind of x, see ``datasets.to_pixels``; a Bernoulli likelihood is relaxed for
            ``"grey"``. None takes the preset's default: ``"binary"`` for a Bernoulli likelihood,
            ``"dequantized"`` for a Gaussian one.
        table: What the columns of a table are, or its ``to_dict()``, for a preset of tables.

    Raises:
        TypeError: `table` is no table, or has a likelihood that is not of this package.
        ValueError: The name is unknown, the pixels do not fit the preset's likelihood, or images
            and tables are mixed up.

    Example:
        >>> vae = presets.build("bernoulli-mlp", z_dim=2, shape=(28, 28))
        >>> vae.generate(7).shape
        torch.Size([7, 28, 28])
    """
    preset = get(name)
    z_dim = preset.z_dim if z_dim is None else z_dim
    check_count("z_dim", z_dim)
    if not preset.pixels:
        return _of_table(name, z_dim, shape, pixels, table)
    if table is not None:
        raise ValueError(f"table: got {kind(table)}, expected None: preset {name!r} is of images")
    if shape is None:
        raise ValueError(f"shape: got None, expected that of one x for preset {name!r}")
    pixels = preset.pixels[0] if pixels is None else pixels
    check_pixels(pixels)
    if pixels not in preset.pixels:
        raise ValueError(
            f"pixels: got {pixels!r}, expected one of {', '.join(preset.pixels)} for the "
            f"likelihood of preset {name!r}"
        )
    x_shape = tuple(as_shape("shape", shape))
    vae = preset.build(z_dim, x_shape, pixels)
    vae.preset = {"name": name, "z_dim": plain(z_dim), "shape": list(x_shape), "pixels": pixels}
    return vae


def _of_table(
    name: str,
    z_dim: int,
    shape: Shape | None,
    pixels: Pixels | None,
    table: Table | Mapping[str, Any] | None,
) -> Composed:
    """The VAE of a preset of tables."""
    for argument, value in (("shape", shape), ("pixels", pixels)):
        if value is not None:
            raise ValueError(
                f"{argument}: got {value!r}, expected None: preset {name!r} takes a table"
            )
    if table is None:
        raise ValueError(f"table: got None, expected a datasets.Table for preset {name!r}")
    if not isinstance(table, Table | Mapping):
        raise TypeError(f"table: got {kind(table)}, expected a datasets.Table, or its to_dict()")
    own = table if isinstance(table, Table) else Table.from_dict(table)
    vae = get(name).build(z_dim, own)
    vae.preset = {"name": name, "z_dim": plain(z_dim), "table": own.to_dict()}
    return vae


def _bernoulli(
    about: str, z_dim: int, networks: Callable[..., Any], conditional: bool = False
) -> Preset:
    def build(z: int, shape: tuple[int, ...], pixels: Pixels) -> VAE:
        decoder, encoder = networks(z, shape, 1)
        likelihood = Bernoulli(decoder, relaxed=pixels == "grey")
        return VAE(StandardNormal(z), likelihood, Normal(encoder))

    return Preset(about, z_dim, ("binary", "grey"), build, conditional)


def _gaussian(about: str, z_dim: int, networks: Callable[..., Any], scale: Any) -> Preset:
    def build(z: int, shape: tuple[int, ...], pixels: Pixels) -> VAE:
        decoder, encoder = networks(z, shape, 2 if scale == "pixel" else 1)
        return VAE(StandardNormal(z), Gaussian(decoder, scale=scale), Normal(encoder))

    return Preset(about, z_dim, ("dequantized", "grey"), build)


_PRESETS = {
    "bernoulli-mlp": _bernoulli(
        "the lecture's structure 1: Bernoulli pixels, 500-500 sigmoid", 2, structures.lecture_mlps
    ),
    "gaussian-mlp": _gaussian(
        "the lecture's structure 2: Gaussian pixels, mean and scale from the network, 500-500 "
        "sigmoid",
        2,
        structures.lecture_mlps,
        "pixel",
    ),
    "gaussian-unit-mlp": _gaussian(
        "the lecture's structure 3: Gaussian pixels of unit variance, 500-500 sigmoid",
        2,
        structures.lecture_mlps,
        1.0,
    ),
    "iwae-mlp": _bernoulli(
        "the one-layer network of the IWAE paper: 200-200 tanh, 50 latents",
        50,
        structures.iwae_mlps,
    ),
    "pyro-mlp": _bernoulli(
        "the network of Pyro's VAE example: 400 softplus, 50 latents", 50, structures.pyro_mlps
    ),
    "conditional-mlp": _bernoulli(
        "Bernoulli pixels given one of 10 class labels, 500-500 ReLU",
        5,  # More latents fit better, and leave more room between the digits of the prior's draws.
        structures.labelled_mlps,
        conditional=True,
    ),
    "conv": _bernoulli(
        "two 3 x 3 convolutions of stride 2 each way, ReLU", 20, structures.convolutions
    ),
    "two-layers-mlp": Preset(
        "the two-layer network of the IWAE paper: 200-200 and 100-100 tanh, 100 and 50 latents",
        50,
        ("binary", "grey"),
        structures.two_layers,
    ),
    "mixture-mlp": Preset(
        "a normal for each of 10 classes that no label names, 500-500 ReLU",
        10,
        ("binary", "grey"),
        structures.mixture,
        objective="enumerated",
    ),
    "semi-supervised-mlp": Preset(
        "Bernoulli pixels given one of 10 classes, which are labels or latent, 500-500 ReLU",
        20,
        ("binary", "grey"),
        structures.semi_supervised,
        objective="classified:1:enumerated",
        labelled=True,
    ),
    "not-missing-at-random-mlp": Preset(
        "Gaussian numbers, each missing with a probability that its value decides, 128-128 ReLU",
        8,
        ("dequantized", "grey"),
        structures.not_missing_at_random,
    ),
    "table-mlp": Preset(
        "the columns of a table, each with a likelihood of its own, 256-256 ReLU",
        8,
        (),
        structures.table_mlps,
    ),
}
