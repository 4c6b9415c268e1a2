"""Small VAEs of which everything is known."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import MultivariateNormal

from pyro_vae import VAE, likelihoods, networks, posteriors, presets, priors
from pyro_vae.datasets import Pixels


@dataclass
class LinearGaussian:
    """z ~ N(0, I), x ~ N(W z + b, s^2 I) in float64, with the exact log p(x) and posterior.

    The columns of W are orthogonal, so that the exact posterior is diagonal and the guide can be
    set to it: q(z|x) = N(C W'(x - b) / s^2, C) with C = (I + W'W / s^2)^-1. Where it is not to be
    exact it is 0.3 off and 1.4 times as wide, which keeps importance weights bounded, or as said.
    """

    vae: VAE
    evidence: MultivariateNormal
    posterior_loc: Tensor
    posterior_scale: Tensor
    x: Tensor


def linear_gaussian(
    *,
    exact: bool,
    examples: int = 7,
    z_dim: int = 2,
    x_dim: int = 5,
    shift: float = 0.3,
    width: float = 1.4,
    s: float = 0.7,
) -> LinearGaussian:
    decoder = networks.MLP(z_dim, (), x_dim)
    encoder = networks.MLP(x_dim, (), 2 * z_dim)
    vae = VAE(
        priors.StandardNormal(z_dim),
        likelihoods.Gaussian(decoder, scale=s),
        posteriors.Normal(encoder),
    ).double()
    weight = torch.linalg.qr(torch.randn(x_dim, z_dim).double()).Q
    weight = weight * torch.linspace(1.0, 0.4, z_dim)
    bias = torch.randn(x_dim).double()
    with torch.no_grad():
        decoder.layers[0].weight.copy_(weight)
        decoder.layers[0].bias.copy_(bias)
    covariance = weight @ weight.T + s**2 * torch.eye(x_dim).double()
    evidence = MultivariateNormal(bias, covariance)
    variance = 1 / (1 + weight.square().sum(0) / s**2)
    scale = variance.sqrt()
    x = evidence.sample((examples,))
    gain = variance[:, None] * weight.T / s**2
    shift, width = (0.0, 1.0) if exact else (shift, width)
    raw = torch.log(torch.expm1(width * scale - posteriors.SCALE_FLOOR))
    with torch.no_grad():
        encoder.layers[0].weight.copy_(torch.cat((gain, torch.zeros_like(gain))))
        encoder.layers[0].bias.copy_(torch.cat((shift - gain @ bias, raw)))
    return LinearGaussian(vae, evidence, (x - bias) @ gain.T, scale, x)


class Given(nn.Module):
    """A network that gives back its input, whatever it stands for."""

    def __init__(self, *out_shape: int) -> None:
        super().__init__()
        self.out_shape = torch.Size(out_shape)

    def forward(self, numbers: Tensor) -> Tensor:
        return numbers


class Interrupted(nn.Module):
    """A likelihood in the middle of whose calls the user presses Ctrl-C."""

    def __init__(self, likelihood: nn.Module) -> None:
        super().__init__()
        self.likelihood = likelihood
        self.left = math.inf

    def forward(self, z: Tensor) -> dist.Distribution:
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        return self.likelihood(z)


def binary(examples: int = 8, x_dim: int = 6, probability: float = 0.3) -> Tensor:
    """Binary pixels for :func:`bernoulli_vae`."""
    return torch.bernoulli(torch.full((examples, x_dim), probability))


def bernoulli_vae(z_dim: int = 1, x_dim: int = 6, hidden: int = 8) -> VAE:
    """A small nonlinear Bernoulli VAE with a guide that is not exact."""
    return VAE(
        priors.StandardNormal(z_dim),
        likelihoods.Bernoulli(networks.MLP(z_dim, (hidden,), x_dim, nn.Tanh)),
        posteriors.Normal(networks.MLP(x_dim, (hidden,), 2 * z_dim, nn.Tanh)),
    )


IMAGE_PRESETS = [name for name in presets.names() if presets.get(name).pixels]
"""The presets of images."""
VAE_PRESETS = [n for n in IMAGE_PRESETS if isinstance(presets.build(n, shape=(2, 2)), VAE)]
"""Those that are a VAE, with three parts."""


def small(pixels: Pixels = "binary", name: str = "pyro-mlp") -> VAE:
    """A preset for the digits, with the same parameters each time."""
    torch.manual_seed(1)
    return presets.build(name, z_dim=3, shape=(28, 28), pixels=pixels)


def given(preset: str, batch: tuple[int, ...], labels: Tensor | None = None) -> tuple[Tensor, ...]:
    """The context that a preset takes: class labels, or nothing."""
    if not presets.get(preset).conditional:
        return ()
    return (torch.randint(presets.CLASSES, batch) if labels is None else labels,)


def parameters(vae: VAE) -> Tensor:
    """All parameters of a VAE as one vector."""
    return torch.cat([p.detach().flatten() for p in vae.parameters()])


def common_noise(loss: Callable[[], float]) -> float:
    """A loss by the same noise each time, and without a trace in torch's generator."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return loss()


def log_evidence(vae: VAE, x: Tensor, points: int = 4001, limit: float = 10.0) -> Tensor:
    """log p(x) of a VAE with one latent, by the trapezoidal rule on [-limit, limit]."""
    line = torch.linspace(-limit, limit, points, dtype=x.dtype)
    with torch.no_grad():
        z = line[:, None, None].expand(-1, len(x), 1)
        log_joint = vae.likelihood(z).log_prob(x) + vae.prior().log_prob(z)
    step = 2 * limit / (points - 1)
    return torch.logsumexp(log_joint, 0) + math.log(step)
