"""Models with their guides, of which everything is known."""

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

WEIGHT = torch.tensor([[1.0, -0.5], [0.3, 0.8], [-0.7, 0.2]]).double()


def two_layers(x: Tensor) -> None:
    """z2 ~ N(0, 1), z1 | z2 ~ N(z2, 1) twice, x | z1 ~ N(W z1, 1/4)."""
    with pyro.plate("data", len(x)):
        zero = torch.zeros(2).double()
        z2 = pyro.sample("z2", dist.Normal(zero, 1.0).to_event(1))
        z1 = pyro.sample("z1", dist.Normal(z2, 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z1 @ WEIGHT.T, 0.5).to_event(1), obs=x)


def two_layers_guide(x: Tensor) -> None:
    """Draws the layers from the data up, the other way round."""
    with pyro.plate("data", len(x)):
        z1 = pyro.sample("z1", dist.Normal(0.8 * x @ WEIGHT, 0.8).to_event(1))
        pyro.sample("z2", dist.Normal(0.5 * z1, 0.9).to_event(1))


def two_layers_evidence() -> MultivariateNormal:
    covariance = 2 * WEIGHT @ WEIGHT.T + 0.25 * torch.eye(3).double()
    return MultivariateNormal(torch.zeros(3).double(), covariance)


def fine(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z[..., None], 1.0).to_event(1), obs=x)


def guide(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(0.5 * x[:, 0], 0.8))
