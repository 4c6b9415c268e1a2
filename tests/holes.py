"""Data with holes, and a linear-Gaussian VAE of them of which everything is known."""

import math
from dataclasses import dataclass

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import MultivariateNormal

from pyro_vae import VAE, likelihoods, networks, posteriors, priors

NAN = math.nan


def holed(x: Tensor, share: float = 0.3) -> Tensor:
    """x with holes: all of the first example, one entry of the second, none of the last."""
    holes = torch.rand_like(x) < share
    holes[0], holes[1], holes[-1] = True, False, False
    holes[1].view(-1)[0] = True
    return x.masked_fill(holes, NAN)


def observed_vae(
    likelihood: nn.Module, x_dim: int = 3, z_dim: int = 2, posterior: nn.Module | None = None
) -> VAE:
    """A small VAE whose likelihood takes NaN, and whose encoder is given the mask."""
    encoder = networks.Observed(networks.MLP((2, x_dim), (8,), 2 * z_dim, nn.Tanh))
    return VAE(
        priors.StandardNormal(z_dim),
        likelihoods.Observed(likelihood),
        posteriors.Normal(encoder) if posterior is None else posterior,
    )


class ExactPosterior(nn.Module):
    """q(z|x_obs) of x ~ N(W z + b, s^2 I), from the mask; wider by a factor if that is not 1."""

    weight: Tensor
    bias: Tensor

    def __init__(self, weight: Tensor, bias: Tensor, s: float, width: float = 1.0) -> None:
        super().__init__()
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)
        self.s, self.width = s, width

    def forward(self, x: Tensor) -> dist.Distribution:
        seen = (~torch.isnan(x)).to(x.dtype)
        weight = self.weight * seen.unsqueeze(-1) / self.s**2
        precision = torch.eye(weight.shape[-1]).to(x) + weight.mT @ self.weight
        residual = torch.where(torch.isnan(x), 0.0, x - self.bias)
        covariance = torch.linalg.inv(precision)
        loc = (covariance @ (weight.mT @ residual.unsqueeze(-1))).squeeze(-1)
        return dist.MultivariateNormal(loc, covariance_matrix=self.width**2 * covariance)


@dataclass
class LinearGaussian:
    """z ~ N(0, I), x ~ N(W z + b, s^2 I) in float64, with holes in x."""

    vae: VAE
    complete: MultivariateNormal
    x: Tensor

    def evidence(self) -> Tensor:
        """log p(x_obs) of each example."""
        return torch.stack([self._evidence(each) for each in self.x])

    def _evidence(self, x: Tensor) -> Tensor:
        seen = ~torch.isnan(x)
        if not seen.any():
            return torch.zeros(()).double()
        covariance = self.complete.covariance_matrix[seen][:, seen]
        return MultivariateNormal(self.complete.mean[seen], covariance).log_prob(x[seen])

    def missing(self, n: int) -> MultivariateNormal:
        """p(x_mis | x_obs) of an example."""
        mean, covariance = self.complete.mean, self.complete.covariance_matrix
        holes = torch.isnan(self.x[n])
        seen = ~holes
        if not seen.any():
            return self.complete
        gain = torch.linalg.solve(covariance[seen][:, seen], covariance[seen][:, holes]).T
        loc = mean[holes] + gain @ (self.x[n][seen] - mean[seen])
        rest = covariance[holes][:, holes] - gain @ covariance[seen][:, holes]
        return MultivariateNormal(loc, (rest + rest.T) / 2)


def linear_gaussian_with_holes(
    width: float = 1.0, examples: int = 8, x_dim: int = 5, s: float = 0.7
) -> LinearGaussian:
    decoder = networks.MLP(2, (), x_dim).double()
    weight, bias = torch.randn(x_dim, 2).double(), torch.randn(x_dim).double()
    with torch.no_grad():
        decoder.layers[0].weight.copy_(weight)
        decoder.layers[0].bias.copy_(bias)
    vae = VAE(
        priors.StandardNormal(2),
        likelihoods.Observed(likelihoods.Gaussian(decoder, scale=s)),
        ExactPosterior(weight, bias, s, width),
    ).double()
    covariance = weight @ weight.T + s**2 * torch.eye(x_dim).double()
    complete = MultivariateNormal(bias, covariance)
    return LinearGaussian(vae, complete, holed(complete.sample((examples,)), 0.4))
