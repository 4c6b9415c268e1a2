"""The VAEs that studies share, and their networks."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pyro_vae.composed import Composed
from pyro_vae.evaluation import active_units
from pyro_vae.likelihoods import Bernoulli, Gaussian
from pyro_vae.models import HierarchicalVAE
from pyro_vae.networks import MLP, xavier_
from pyro_vae.posteriors import SCALE_FLOOR, Normal
from pyro_vae.priors import StandardNormal, VampPrior
from pyro_vae.utils.random import seeded
from pyro_vae.vae import VAE

Z_DIM = 50
"""The number of latents of the VAEs here."""


def mlp(in_shape: Sequence[int] | int, out_shape: Sequence[int] | int) -> MLP:
    """Makes a network of the IWAE paper's one-layer model: 200-200 tanh."""
    return MLP(in_shape, (200, 200), out_shape, activation=nn.Tanh, init=xavier_)


def bernoulli_vae(
    train: Tensor, prior: nn.Module | None = None, posterior: nn.Module | None = None
) -> VAE:
    """Makes the IWAE paper's one-layer VAE for images, or one that differs in a part.

    Arguments:
        train: Images of shape ``(N, *x_shape)``.
        prior: None is a standard normal.
        posterior: None is a diagonal normal.
    """
    shape = train.shape[1:]
    return VAE(
        prior or StandardNormal(Z_DIM),
        Bernoulli(mlp(Z_DIM, shape)),
        posterior or Normal(mlp(shape, 2 * Z_DIM)),
    )


def vamp_vae(train: Tensor) -> VAE:
    """Makes a :func:`bernoulli_vae` whose prior is a VampPrior of 500 pseudo-inputs."""
    posterior = Normal(mlp(train.shape[1:], 2 * Z_DIM))
    return bernoulli_vae(train, VampPrior(posterior, pseudo_inputs(train)), posterior)


def pseudo_inputs(train: Tensor) -> Tensor:
    """Picks 500 images at random, as grey levels in [0, 1], the means of binarized pixels."""
    return train[torch.randperm(len(train))[:500]] / 255


def plain(vae: Composed) -> Composed:
    """The same pair with a standard normal prior, at the top if there are several layers."""
    if isinstance(vae, VAE):
        return VAE(StandardNormal(Z_DIM), vae.likelihood, vae.posterior)
    assert isinstance(vae, HierarchicalVAE)
    top = StandardNormal(vae.priors[-1]().event_shape[0])
    below = list(vae.priors)[:-1]
    parts = [*below, top], vae.likelihood, list(vae.posteriors)
    return HierarchicalVAE(*parts, vae.inference, vae.skip)


def active_by_layer(vae: Composed, x: Tensor, seed: int) -> list[int]:
    """Returns the number of active units of each layer, if there are several."""
    if not isinstance(vae, HierarchicalVAE):
        return []
    units = active_units(vae, x, seed=seed)
    by_site = units.by_site()
    return [int((by_site[name] > units.threshold).sum()) for name in sorted(by_site)]


@dataclass(frozen=True)
class LinearGaussian:
    r"""A linear-Gaussian VAE in float64, whose guide can be moved to the exact posterior.

    :math:`z \sim N(0, I)`, :math:`x \sim N(W z, s^2 I)`, where the columns of W are orthogonal.
    The exact posterior is :math:`N(C W^T x / s^2, C)` with the diagonal
    :math:`C = (I + W^T W / s^2)^{-1}`.

    Attributes:
        vae: The VAE.
        x: Examples that it generated, shape ``(N, x_dim)``.
        start: The parameters of the encoder at first, by name.
        exact: Those of the exact posterior.
    """

    vae: VAE
    x: Tensor
    start: dict[str, Tensor]
    exact: dict[str, Tensor]

    def move(self, distance: float) -> None:
        """Sets the guide to a point between the exact posterior (0) and its start (1)."""
        self.vae.posterior.network.load_state_dict(
            {name: torch.lerp(self.exact[name], self.start[name], distance) for name in self.exact}
        )


def linear_gaussian(
    examples: int, x_dim: int = 20, z_dim: int = 5, s: float = 0.5, seed: int = 0
) -> LinearGaussian:
    """Makes a :class:`LinearGaussian` with random W."""
    with seeded(seed):
        decoder, encoder = MLP(z_dim, (), x_dim), MLP(x_dim, (), 2 * z_dim)
        vae = VAE(StandardNormal(z_dim), Gaussian(decoder, scale=s), Normal(encoder)).double()
        weight = torch.linalg.qr(torch.randn(x_dim, z_dim).double()).Q
        noise = s * torch.randn(examples, x_dim).double()
        x = torch.randn(examples, z_dim).double() @ weight.T + noise
    start = {name: value.clone() for name, value in encoder.state_dict().items()}
    variance = 1 / (1 + weight.square().sum(0) / s**2)
    gain = variance[:, None] * weight.T / s**2
    raw_scale = torch.log(torch.expm1(variance.sqrt() - SCALE_FLOOR))
    exact = {
        "layers.0.weight": torch.cat((gain, torch.zeros_like(gain))),
        "layers.0.bias": torch.cat((torch.zeros_like(raw_scale), raw_scale)),
    }
    decoder.load_state_dict({"layers.0.weight": weight, "layers.0.bias": torch.zeros_like(x[0])})
    return LinearGaussian(vae, x, start, exact)
