"""The structures behind the names: networks of VAEs, and other pairs."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn

from pyro_vae.datasets import Pixels, Table
from pyro_vae.likelihoods import Bernoulli, Columns, Gaussian, Observed
from pyro_vae.models import (
    Classifier,
    HierarchicalVAE,
    MixtureVAE,
    NotMissingAtRandom,
    SemiSupervisedVAE,
)
from pyro_vae.networks import (
    MLP,
    Conditioned,
    ConvDecoder,
    ConvEncoder,
    SelfMasking,
    variance_scaling_,
    xavier_,
)
from pyro_vae.networks import Columns as ColumnsNetwork
from pyro_vae.networks import Observed as ObservedNetwork
from pyro_vae.posteriors import Normal
from pyro_vae.priors import GaussianMixture, StandardNormal
from pyro_vae.vae import VAE

CLASSES = 10
"""The number of class labels that a conditional preset takes."""


def _mlps(
    hidden: tuple[int, ...], **options: Any
) -> Callable[[int, tuple[int, ...], int], tuple[nn.Module, nn.Module]]:
    """A decoder that gives k numbers a pixel, and an encoder with the same hidden layers."""

    def make(z_dim: int, shape: tuple[int, ...], k: int) -> tuple[nn.Module, nn.Module]:
        out_shape = shape if k == 1 else (k, *shape)
        return MLP(z_dim, hidden, out_shape, **options), MLP(shape, hidden, 2 * z_dim, **options)

    return make


lecture_mlps = _mlps((500, 500), activation=nn.Sigmoid, init=variance_scaling_)
iwae_mlps = _mlps((200, 200), activation=nn.Tanh, init=xavier_)
pyro_mlps = _mlps((400,), activation=nn.Softplus)


def convolutions(z_dim: int, shape: tuple[int, ...], k: int) -> tuple[nn.Module, nn.Module]:
    """A decoder and an encoder of convolutions."""
    return ConvDecoder(z_dim, shape), ConvEncoder(shape, 2 * z_dim)


def labelled_mlps(z_dim: int, shape: tuple[int, ...], k: int) -> tuple[nn.Module, nn.Module]:
    """A decoder and an encoder whose inputs are joined by a one-hot label."""
    hidden = (500, 500)
    decoder = MLP(z_dim + CLASSES, hidden, shape if k == 1 else (k, *shape))
    encoder = MLP(math.prod(shape) + CLASSES, hidden, 2 * z_dim)
    return Conditioned(decoder, (), classes=CLASSES), Conditioned(encoder, (), classes=CLASSES)


def two_layers(z_dim: int, shape: tuple[int, ...], pixels: Pixels) -> HierarchicalVAE:
    """The IWAE paper's: the lower layer has twice the latents of the upper one."""
    mlp = partial(MLP, activation=nn.Tanh, init=xavier_)
    return HierarchicalVAE(
        [Normal(mlp(z_dim, (100, 100), 4 * z_dim)), StandardNormal(z_dim)],
        Bernoulli(mlp(2 * z_dim, (200, 200), shape), relaxed=pixels == "grey"),
        [
            Normal(mlp(shape, (200, 200), 4 * z_dim)),
            Normal(mlp(2 * z_dim, (100, 100), 2 * z_dim)),
        ],
    )


def mixture(z_dim: int, shape: tuple[int, ...], pixels: Pixels) -> MixtureVAE:
    """A normal of full covariance for each of ten classes, which are summed out."""
    hidden = (500, 500)
    return MixtureVAE(
        GaussianMixture(z_dim, CLASSES, covariance="full"),
        Bernoulli(MLP(z_dim, hidden, shape), relaxed=pixels == "grey"),
        Normal(MLP(shape, hidden, 2 * z_dim)),
    )


def semi_supervised(z_dim: int, shape: tuple[int, ...], pixels: Pixels) -> SemiSupervisedVAE:
    """M2, with networks whose inputs are joined by a one-hot class, and dropout for few labels."""
    decoder, encoder = labelled_mlps(z_dim, shape, 1)
    classifier = MLP(shape, (500, 500), CLASSES, activation=_relu_with_dropout)
    return SemiSupervisedVAE(
        StandardNormal(z_dim),
        Bernoulli(decoder, relaxed=pixels == "grey"),
        Normal(encoder),
        Classifier(nn.Sequential(nn.Dropout(), classifier)),
        CLASSES,
    )


def _relu_with_dropout() -> nn.Module:
    return nn.Sequential(nn.ReLU(), nn.Dropout())


def not_missing_at_random(
    z_dim: int, shape: tuple[int, ...], pixels: Pixels
) -> NotMissingAtRandom:
    """Gaussian elements, each of which is missing with a probability of its own value."""
    hidden = (128, 128)
    return NotMissingAtRandom(
        StandardNormal(z_dim),
        Gaussian(MLP(z_dim, hidden, shape), scale="shared"),
        Normal(ObservedNetwork(MLP((2, *shape), hidden, 2 * z_dim))),
        Bernoulli(SelfMasking(shape)),
    )


def table_mlps(z_dim: int, table: Table) -> VAE:
    """A decoder to the numbers of all columns, and an encoder of them with one-hot classes.

    Where the table has holes, the likelihood is that of what is observed.
    """
    hidden, inputs = (256, 256), table.inputs
    encoder = MLP(ColumnsNetwork.numbers(inputs, table.holes), hidden, 2 * z_dim)
    columns = Columns(MLP(z_dim, hidden, table.numbers), table.likelihoods)
    likelihood = Observed(columns) if table.holes else columns
    posterior = Normal(ColumnsNetwork(encoder, inputs, table.holes))
    return VAE(StandardNormal(z_dim), likelihood, posterior)
