"""scVI's kind of model on simulated counts: found if the library size is known."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR

from pyro_vae import (
    VAE,
    fit,
    likelihoods,
    log_likelihood,
    networks,
    objectives,
    optim,
    posteriors,
    priors,
)

GENES, CELLS, EPOCHS, BATCH = 8, 800, 300, 200


class Logs(nn.Module):
    """A network of the logarithms of counts, and of the batch of the experiment."""

    takes_context = True

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.out_shape = network.out_shape

    def forward(self, x: Tensor, *context: Tensor) -> Tensor:
        return self.network(torch.log1p(x), *context)


def vae_of_counts(exposure: int | None) -> VAE:
    """log rate = z w + b[batch] for one latent z, times the library size or not."""
    decoder = networks.Conditioned(networks.MLP(1 + 2, (), GENES), (), classes=2, entry=1)
    encoder = networks.Conditioned(networks.MLP(GENES + 2, (32,), 2), (), classes=2, entry=1)
    return VAE(
        priors.StandardNormal(1),
        likelihoods.Poisson(decoder, exposure=exposure),
        posteriors.Normal(Logs(encoder)),
    )


def simulated(numbers: Tensor, cells: int) -> tuple[Tensor, Tensor, Tensor]:
    w, b = numbers[0], numbers[1:]
    library, batch = (0.7 * torch.randn(cells) + 3.5).exp(), torch.randint(2, (cells,))
    rates = (torch.randn(cells, 1) * w + b[batch]).exp()
    return torch.poisson(library[:, None] * rates), library, batch


def trained(vae: VAE, data: tuple[Tensor, Tensor, Tensor]) -> VAE:
    steps = EPOCHS * CELLS // BATCH
    rate = optim.Adam(lr=2e-2, schedule=lambda adam: CosineAnnealingLR(adam, steps))
    bound = objectives.dreg(8)
    fit(vae, data, epochs=EPOCHS, batch_size=BATCH, objective=bound, optim=rate, compile=False)
    return vae


def log_evidence(numbers: Tensor, data: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """log p(x | library, batch) of each cell, by the trapezoidal rule over z, in float64."""
    x, library, batch = data
    z = torch.linspace(-5, 5, 201, dtype=torch.float64)[:, None, None]
    rates = library.double()[:, None] * (z * numbers[0] + numbers[1:][batch]).exp()
    log_p = (x * rates.log() - rates - torch.lgamma(x.double() + 1)).sum(-1)
    log_prior = -0.5 * z[..., 0].square() - 0.5 * math.log(2 * math.pi)
    return torch.logsumexp(log_p + log_prior, 0) + math.log(10 / 200)


@pytest.mark.slow
def test_parameters_are_found_within_their_errors_if_the_library_size_is_known() -> None:
    truth = torch.cat((0.5 * torch.randn(1, GENES), 0.5 * torch.randn(2, GENES) - 1)).double()
    data = simulated(truth.float(), CELLS)
    vae = trained(vae_of_counts(exposure=0), data)
    layer = vae.likelihood.network.network.layers[0]
    weight, bias = layer.weight.detach().double(), layer.bias.detach().double()
    sign = torch.sign((weight[:, 0] * truth[0]).sum())  # z and -z are the same model
    found = torch.cat((sign * weight[None, :, 0], weight[:, 1:].T + bias))
    # The covariance of a maximum of the likelihood is the inverse of the scores' products.
    scores = torch.func.jacfwd(lambda numbers: log_evidence(numbers, data))(found).flatten(1)
    information = scores.T @ scores
    off = (found - truth).flatten()
    errors = torch.linalg.inv(information).diagonal().sqrt()
    assert (off / errors).abs().max() < 5
    count = len(off)
    assert off @ information @ off < count + 5 * (2 * count) ** 0.5  # a chi-squared of `count`
    # The estimate of the library agrees with quadrature.
    some = tuple(entry[:100] for entry in data)
    result = log_likelihood(vae, some, 2000, seed=0)
    exact = log_evidence(found, some)
    assert abs(result.mean - exact.mean().item()) < 5 * result.mc_error + abs(result.bias) + 1e-3

    blind = trained(vae_of_counts(exposure=None), data)
    new = simulated(truth.float(), 800)
    seen, unseen = (log_likelihood(own, new, 200, seed=0).values for own in (vae, blind))
    difference = seen - unseen
    assert difference.mean() > 5 * difference.std() / len(difference) ** 0.5
