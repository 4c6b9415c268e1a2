"""Within ``torch.autocast``, whose cache keeps the casts of parameters when they change."""

import math
import warnings
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from pyro_vae import (
    VAE,
    elbo,
    fit,
    likelihoods,
    log_likelihood,
    models,
    networks,
    optim,
    posteriors,
    priors,
)
from pyro_vae.evaluation import UnreliableWeights
from pyro_vae.training import Averaging

from .conftest import needs_compiler
from .vaes import bernoulli_vae, parameters


@pytest.fixture
def x() -> Tensor:
    return torch.bernoulli(torch.full((40, 6), 0.4))


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "autocast: got")
        yield


def autocast(cache: bool = True) -> torch.autocast:
    return torch.autocast("cpu", torch.bfloat16, cache_enabled=cache)


def trained(x: Tensor, cache: bool, **settings: object) -> tuple[list[float], Tensor]:
    torch.manual_seed(1)
    vae = bernoulli_vae()
    given = {"epochs": 4, "batch_size": 20, "optim": optim.Adam(0.05), "test": x, **settings}
    with autocast(cache):
        history = fit(vae, x, seed=0, **given)
    return [*history.cost, *history.test_cost], parameters(vae)


@pytest.mark.parametrize("settings", [{}, {"average": Averaging(0.5)}, {"accumulate": 2}])
def test_a_training_steps_from_the_parameters_of_the_last_step(
    x: Tensor, settings: dict[str, object]
) -> None:
    """With torch's cache each step would see the first parameters, and the cost would stay."""
    costs, found = trained(x, True, compile=False, **settings)
    expected_costs, expected = trained(x, False, compile=False, **settings)
    assert costs == expected_costs
    assert torch.equal(found, expected)


@needs_compiler
def test_a_compiled_training_too(x: Tensor) -> None:
    costs, _ = trained(x, True, compile=True)
    expected, _ = trained(x, False, compile=False)
    # A density is a sum of numbers that are rounded to bfloat16.
    assert costs == pytest.approx(expected, rel=2**-6)


def test_an_evaluation_sees_the_parameters_of_now(x: Tensor) -> None:
    torch.manual_seed(1)
    a, b = bernoulli_vae(), bernoulli_vae()
    with autocast(cache=False):
        expected = [log_likelihood(each, x, 10, seed=0).mean for each in (a, b)]
    with autocast():
        found = [log_likelihood(a, x, 10, seed=0).mean]
        a.load_state_dict(b.state_dict())
        found.append(log_likelihood(a, x, 10, seed=0).mean)
    assert found == expected


def test_a_context_that_autocast_does_not_round_is_taken(x: Tensor) -> None:
    def conditioned(into: int, out: int) -> networks.Conditioned:
        return networks.Conditioned(networks.MLP(into + 1, (4,), out), ())

    vae = VAE(
        priors.StandardNormal(2),
        likelihoods.Bernoulli(conditioned(2, 6)),
        posteriors.Normal(conditioned(6, 4)),
    )
    with autocast():
        assert log_likelihood(vae, (x, torch.randn(40)), 10, seed=0).values.isfinite().all()


def test_a_layer_that_autocast_rounds_is_taken_beside_x() -> None:
    """x is float32, and the layer above it bfloat16."""
    lower = networks.Conditioned(networks.MLP(6 + 2, (4,), 4), 2)
    vae = models.HierarchicalVAE(
        [posteriors.Normal(networks.MLP(2, (4,), 4)), priors.StandardNormal(2)],
        likelihoods.Gaussian(networks.MLP(2, (4,), 6), scale=0.7),
        [posteriors.Normal(lower), posteriors.Normal(networks.MLP(6, (4,), 4))],
        "top-down",
    )
    with autocast():
        history = fit(vae, torch.randn(40, 6), epochs=1, batch_size=40, compile=False)
    assert math.isfinite(history.cost[0])


@pytest.mark.parametrize("name", ["fit", "log_likelihood", "elbo"])
def test_numbers_that_autocast_rounds_are_told_of(x: Tensor, name: str) -> None:
    vae = bernoulli_vae()
    call = {
        "fit": lambda: fit(vae, x, epochs=1, batch_size=40, compile=False),
        "log_likelihood": lambda: log_likelihood(vae, x, 40),
        "elbo": lambda: elbo(vae, x),
    }[name]
    with autocast(), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    (told,) = [each for each in caught if "autocast: got" in str(each.message)]
    assert told.filename == __file__
    with networks.bfloat16(vae), warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", UnreliableWeights)
        call()
