"""What an importance-weighted objective cannot take, and what masks do to it."""

from collections.abc import Callable

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import ELBO

from pyro_vae import objectives

from ..losses import COPIES, exact_elbo_gradient, gradient, gradients, program_of
from ..tolerances import within
from ..vaes import bernoulli_vae, linear_gaussian

WEIGHTED = [
    lambda: objectives.iwae(2),
    lambda: objectives.dreg(2),
    lambda: objectives.piwae(2, 1),
    lambda: objectives.renyi(0.5, 2),
]


@pytest.mark.parametrize("make", WEIGHTED)
def test_scaled_sites_are_refused_inside_a_logarithm(make: Callable[[], ELBO]) -> None:
    vae, x = bernoulli_vae(), torch.bernoulli(torch.full((4, 6), 0.5))
    one = poutine.scale(vae.model, torch.tensor(1.0))  # as a weight at the end of its warm-up
    assert make().loss(one, vae.guide, x) > 0
    scaled = poutine.scale(vae.model, 0.5)
    with pytest.raises(ValueError, match=r'site ".": .* scaled by 0.5, expected no poutine.scale'):
        make().loss_and_grads(scaled, vae.guide, x)

    def model() -> None:
        with pyro.plate("data", 4, subsample_size=2) as index:
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x[index, 0])

    def guide() -> None:
        with pyro.plate("data", 4, subsample_size=2):
            pyro.sample("z", dist.Normal(torch.zeros(2), 1.0))

    with pytest.raises(ValueError, match="subsampled plate"):
        make().loss(model, guide)


def test_an_elbo_takes_scaled_sites() -> None:
    """Half of the data stands for all: the gradient is that of Pyro's, in the mean."""
    case = linear_gaussian(exact=False)
    model, guide, args, parameters = program_of(case, COPIES)
    scaled = poutine.scale(model, 2.0), poutine.scale(guide, 2.0)
    own = gradients(objectives.sticking_the_landing(), (*scaled, args, parameters))
    within(own, 2 * COPIES * exact_elbo_gradient(case))


def test_masked_examples_have_no_part() -> None:
    case = linear_gaussian(exact=False)
    vae, x = case.vae, case.x
    mask = torch.tensor([True, False] * 3 + [True])
    for make in (*WEIGHTED, lambda: objectives.sticking_the_landing(2)):
        masked = poutine.mask(vae.model, mask), poutine.mask(vae.guide, mask)
        own = gradient(make(), (*masked, (x,), list(vae.parameters())))[1]
        changed = torch.where(mask.unsqueeze(-1), x, x + 3)
        same = gradient(make(), (*masked, (changed,), list(vae.parameters())))[1]
        for a, b in zip(own, same, strict=True):
            torch.testing.assert_close(a, b)


@pytest.mark.parametrize("make", [*WEIGHTED, lambda: objectives.sticking_the_landing()])
def test_guides_must_be_reparameterized_and_whole(make: Callable[[], ELBO]) -> None:
    def model() -> None:
        with pyro.plate("data", 3):
            z = pyro.sample("z", dist.Bernoulli(0.5))
            pyro.sample("x", dist.Normal(z, 1.0), obs=torch.zeros(3))

    def guide() -> None:
        with pyro.plate("data", 3):
            pyro.sample("z", dist.Bernoulli(0.3))

    with pytest.raises(ValueError, match=r'site "z": the guide\'s Bernoulli has no rsample'):
        make().loss(model, guide)
    with (
        pytest.warns(UserWarning, match="Found vars in model but not guide"),
        pytest.raises(ValueError, match=r'site "z": latent in the model, and not in the guide'),
    ):
        make().loss(model, lambda: None)
