"""What log-densities may depend on: decided to the last bit, for any two examples of a block."""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO
from torch import Tensor, nn

from pyro_vae import VAE, likelihoods, log_likelihood, networks, optim, posteriors, priors
from pyro_vae.evaluation.independence import _turns


def programs(change: Callable[[Tensor], Tensor]) -> tuple[Any, Any]:
    """A model and a guide whose mean is changed."""
    torch.manual_seed(0)
    encoder, decoder = nn.Linear(3, 2), nn.Linear(2, 3)

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(decoder(z), 1.0).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(change(encoder(x)), 0.5).to_event(1))

    return model, guide


def evaluated(change: Callable[[Tensor], Tensor], examples: int = 64) -> None:
    model, guide = programs(change)
    x = torch.randn(examples, 3)
    log_likelihood(x=x, num_samples=3, model=model, guide=guide, seed=0)


@pytest.mark.parametrize("size", [2, 3, 5, 20, 64])
def test_each_two_examples_are_apart_in_some_turn(size: int) -> None:
    turns = list(_turns(size))
    for one, other in itertools.permutations(range(size), 2):
        assert any(turn[one] and not turn[other] for turn in turns)


@pytest.mark.parametrize("pair", [(0, 1), (1, 0), (40, 50), (63, 2)])
def test_a_dependence_of_any_two_is_seen(pair: tuple[int, int]) -> None:
    to, of = pair

    def leak(mean: Tensor) -> Tensor:
        if mean.shape[-2] <= max(pair):
            return mean
        own = torch.zeros(mean.shape[-2], 1)
        own[to] = 1e-4
        return mean + own * mean[..., of : of + 1, :]

    with pytest.raises(ValueError, match=rf"of example {to} is .* beside others"):
        evaluated(leak)
    evaluated(lambda mean: mean)


@pytest.mark.parametrize("examples", [1, 2, 40])
def test_noise_is_seen_for_any_number_of_examples(examples: int) -> None:
    """Dropout in a closure, whose mode nobody knows, and noise of another generator."""
    drop, generator = nn.Dropout(0.5), np.random.default_rng(0)
    for noise in (drop, lambda mean: mean + float(generator.normal())):
        with pytest.raises(ValueError, match=r"at another call, .* nor on noise"):
            evaluated(noise, examples)
    evaluated(drop.eval(), examples)


def test_the_number_of_examples_is_seen() -> None:
    with pytest.raises(ValueError, match="alone, expected the same"):
        evaluated(lambda mean: mean / mean.shape[-2])


def test_sharp_posteriors_of_large_inputs_are_apart() -> None:
    """Their log-densities change by whole nats where torch rounds otherwise."""
    torch.manual_seed(0)
    x = torch.randint(0, 256, (64, 6)).float()
    encoder = networks.MLP(6, (32,), 4)
    with torch.no_grad():
        encoder.layers[-1].weight[2:] = 0.0
        encoder.layers[-1].bias[2:] = -9.0  # a scale of 1e-4 beside means of some 30
        encoder.layers[-1].weight[:2] *= 10.0
    vae = VAE(
        priors.StandardNormal(2),
        likelihoods.DiscretizedLogistic(networks.MLP(2, (8,), (2, 6))),
        posteriors.Normal(encoder),
    )
    log_likelihood(vae, x, 3, seed=0)
    svi = SVI(vae.model, vae.guide, optim.Adam(lr=1e-2), Trace_ELBO())
    for _ in range(20):
        svi.step(x)
        log_likelihood(vae, x, 3, seed=0)


@pytest.mark.parametrize("value", [float("inf"), -float("inf"), float("nan")])
def test_what_is_not_finite_is_refused_unless_it_is_masked(value: float) -> None:
    def model(x: Tensor, seen: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            with pyro.poutine.mask(mask=seen):
                pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x: Tensor, seen: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(torch.where(seen, 0.5 * x, 0.0), 1.0))

    x, seen = torch.zeros(5), torch.ones(5, dtype=torch.bool)
    x[3] = value
    arguments: dict[str, Any] = {"num_samples": 5, "model": model, "guide": guide, "seed": 0}
    with pytest.raises(ValueError, match=r"\bx: got|constraint|fail on the first"):
        log_likelihood(x=(x, seen), **arguments)
    x[3], seen[3] = 0.0, False
    log_likelihood(x=(x, seen), **arguments)


@pytest.mark.parametrize("masked", ["both", "model", "guide", "guide, by its distribution"])
def test_a_latent_is_masked_alike_in_model_and_guide(masked: str) -> None:
    """As a step after the end of a sequence is; masked in one alone it has no weight."""

    def latents(x: Tensor, seen: Tensor, is_masked: bool, by_distribution: bool = False) -> Tensor:
        z, w = dist.Normal(x.new_zeros(()), 1.0), dist.Normal(x.new_zeros(()), 1.0)
        drawn = pyro.sample("z", z)
        with pyro.poutine.mask(mask=seen if is_masked else True):
            fn = w.expand(seen.shape).mask(seen) if by_distribution else w
            return drawn + torch.where(seen, pyro.sample("w", fn), 0.0)

    def model(x: Tensor, seen: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1):
            loc = latents(x, seen, masked in ("both", "model"))
            pyro.sample("x", dist.Normal(loc, 1.0), obs=x)

    def guide(x: Tensor, seen: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1):
            latents(x, seen, masked in ("both", "guide"), "distribution" in masked)

    # The first example has all its latents.
    x, seen = torch.tensor([0.3, -1.0, 2.0]), torch.tensor([True, False, True])
    arguments: dict[str, Any] = {"num_samples": 4000, "model": model, "guide": guide, "seed": 0}
    if masked == "both":
        found = log_likelihood(x=(x, seen), **arguments)
        expected = dist.Normal(0.0, torch.where(seen, 3.0, 2.0).sqrt()).log_prob(x)
        # The weights of a draw from the prior are densities of x, at most 0.4.
        errors = (0.4 / expected.exp()).log1p() / 4000**0.5
        assert ((found.values - expected).abs() <= 5 * errors).all()
    else:
        with pytest.raises(ValueError, match='site "w": its mask in the guide is another one'):
            log_likelihood(x=(x, seen), **arguments)


WAYS = ["handler", "inside of the event", "around the event", "all"]


@pytest.mark.parametrize("size", [3, 4])  # of the latent, and of as many examples
def test_a_mask_may_be_written_in_several_ways(size: int) -> None:
    def latent(way: str, loc: Tensor, seen: Tensor) -> Tensor:
        fn = dist.Normal(loc, 1.0)
        if way in ("inside of the event", "all"):
            fn = fn.mask(seen[..., None].expand(loc.shape))
        fn = fn.to_event(1)
        if way in ("around the event", "all"):
            fn = fn.mask(seen)
        with pyro.poutine.mask(mask=seen if way in ("handler", "all") else True):
            return pyro.sample("z", fn)

    x, seen = torch.randn(4, size), torch.tensor([True, False, True, True])
    values = []
    for first, second in itertools.product(WAYS, WAYS):

        def model(x: Tensor, seen: Tensor, way: str = first) -> None:
            with pyro.plate("data", len(x)):
                z = latent(way, torch.zeros(len(x), size), seen)
                with pyro.poutine.mask(mask=seen):
                    pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

        def guide(x: Tensor, seen: Tensor, way: str = second) -> None:
            with pyro.plate("data", len(x)):
                latent(way, 0.5 * x, seen)

        arguments: dict[str, Any] = {"num_samples": 30, "model": model, "guide": guide}
        values.append(log_likelihood(x=(x, seen), seed=0, **arguments).values)
    torch.testing.assert_close(values, values[:1] * len(values))
