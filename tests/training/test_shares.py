"""Steps in shares: the gradients of the parts of a batch, added before the step."""

from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO, TraceTailAdaptive_ELBO
from torch import Tensor, nn

from pyro_vae import (
    VAE,
    Pair,
    fit,
    likelihoods,
    networks,
    objectives,
    optim,
    posteriors,
    priors,
)
from pyro_vae.utils.random import seeded

from ..conftest import needs_compiler
from ..test_context import labelled
from ..vaes import bernoulli_vae, binary, parameters


def noiseless() -> Pair:
    """An autoencoder as a pair: the guide's z is a point."""
    torch.manual_seed(0)
    decoder, encoder = networks.MLP(2, (8,), 5), networks.MLP(5, (8,), 2)

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(decoder(z), 1.0).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Delta(encoder(x)).to_event(1))

    return Pair(model, guide, decoder=decoder, encoder=encoder)


@pytest.mark.parametrize(
    ("accumulate", "compile"),
    [(2, False), (50, False), pytest.param(3, True, marks=needs_compiler)],
)
@pytest.mark.parametrize("steps", [0, 11])
@pytest.mark.usefixtures("code", "float64")
def test_without_noise_the_steps_are_those_of_whole_batches(
    accumulate: int, compile: bool, steps: int
) -> None:
    """Also for shares that are uneven, or empty, and in a warm-up of so many steps."""
    x, found = torch.randn(44, 5), []
    for shares in (1, accumulate):
        pair = noiseless()
        rate = optim.Adam(1e-2, clip_norm=1.0)
        settings: dict[str, Any] = {"epochs": 5, "batch_size": 16, "optim": rate}
        if steps:
            settings["objective"] = objectives.warm_up(objectives.trace_elbo(), steps)
        history = fit(pair, x, accumulate=shares, compile=compile, **settings)
        found.append((parameters(pair), torch.tensor([history.cost, history.kl])))
    for ours, expected in zip(found[1], found[0], strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-9)


class Deaf(nn.Module):
    """A decoder that does not hear z, so that there is no noise."""

    out_shape = torch.Size((6,))

    def __init__(self) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(6))

    def forward(self, z: Tensor) -> Tensor:
        return self.logits.expand(*z.shape[:-1], 6)


@pytest.mark.parametrize("nats", [0.0, 0.3, 50.0])
@pytest.mark.parametrize(
    ("accumulate", "compile"), [(3, False), pytest.param(3, True, marks=needs_compiler)]
)
@pytest.mark.usefixtures("code", "float64")
def test_free_bits_are_counted_over_the_whole_batch(
    accumulate: int, compile: bool, nats: float
) -> None:
    x, found = binary(44), []
    for shares in (1, accumulate):
        torch.manual_seed(1)
        encoder = networks.MLP(6, (8,), 6)
        with torch.no_grad():
            encoder.layers[-1].weight.mul_(3.0)  # Some dimensions are above the threshold.
        vae = VAE(
            priors.StandardNormal(3), likelihoods.Bernoulli(Deaf()), posteriors.Normal(encoder)
        )
        settings: dict[str, Any] = {"epochs": 5, "batch_size": 16, "compile": compile}
        settings |= {"objective": objectives.free_bits(nats), "optim": optim.Adam(1e-2)}
        history = fit(vae, x, accumulate=shares, **settings)
        found.append((parameters(vae), torch.tensor([history.cost, history.kl])))
    torch.testing.assert_close(found[1][0], found[0][0], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found[1][1][0], found[0][1][0], rtol=1e-9, atol=1e-9)


@pytest.mark.usefixtures("float64")
def test_each_share_has_a_stream_of_its_own() -> None:
    vae, x = bernoulli_vae(), binary(24)
    order, expected = torch.randperm(24), 0.0
    with seeded(7, 1, 1):
        order = torch.randperm(24)
    for number, index in enumerate(order.split(8)):
        with seeded(7, 1, 1, number, 3):  # epoch, batch, share
            expected += Trace_ELBO().loss(vae.model, vae.guide, x[index]) / 24
    history = fit(vae, x, epochs=1, batch_size=24, accumulate=3, seed=7)
    assert history.cost[0] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("seed", [0, None])
def test_a_seed_repeats_it(seed: int | None) -> None:
    found = []
    for _ in range(2):
        torch.manual_seed(3)
        vae = labelled()
        batch = (torch.rand(40, 3, 2) < 0.5).float(), torch.randint(4, (40,))
        fit(vae, batch, epochs=2, batch_size=16, accumulate=2, seed=seed)
        found.append(parameters(vae))
    assert torch.equal(found[0], found[1])


def test_levels_become_pixels_in_the_stream_of_the_share(tmp_path: Path) -> None:
    """And a training goes on after a break."""
    levels, found = torch.randint(256, (40, 6), dtype=torch.uint8), []
    for folder, epochs in ((None, [3]), (tmp_path, [1, 3])):
        for last in epochs:
            torch.manual_seed(0)
            vae = bernoulli_vae()
            settings: dict[str, Any] = {"pixels": "binary", "accumulate": 2, "batch_size": 16}
            resumed = {"checkpoint": folder, "resume": folder is not None}
            fit(vae, levels, epochs=last, **settings, **resumed)
        found.append(parameters(vae))
    assert torch.equal(found[0], found[1])


def test_wrong_arguments() -> None:
    vae, x = bernoulli_vae(), binary(16)
    wrong: list[Any] = [0, 2.0]
    for number in wrong:
        with pytest.raises(ValueError, match=f"accumulate: got {number}, expected a positive"):
            fit(vae, x, epochs=1, accumulate=number)
    objective = TraceTailAdaptive_ELBO(num_particles=2, vectorize_particles=True)
    with pytest.raises(ValueError, match=r"accumulate: got 2 with .*no sum over examples"):
        fit(vae, x, epochs=1, accumulate=2, objective=objective)

    class Encoder(nn.Sequential):
        out_shape = torch.Size((2,))

    class Instance(nn.Sequential):
        out_shape = torch.Size((2,))

        def __init__(self, **settings: bool) -> None:
            norm = nn.InstanceNorm1d(1, **settings)
            super().__init__(nn.Unflatten(-1, (1, 6)), norm, nn.Flatten(), nn.Linear(6, 2))

    for encoder, path in (
        (Encoder(nn.BatchNorm1d(6), nn.Linear(6, 2)), 0),
        (Encoder(nn.LazyBatchNorm1d(), nn.Linear(6, 2)), 0),
        (Instance(track_running_stats=True), 1),
    ):
        vae.posterior = posteriors.Normal(encoder)
        with pytest.raises(ValueError, match=rf"batch norm in posterior\.network\.{path}"):
            fit(vae, x, epochs=1, accumulate=2)
    vae.posterior = posteriors.Normal(Instance())
    fit(vae, x, epochs=1, accumulate=2)
