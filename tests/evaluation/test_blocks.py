"""Blocks of examples and samples: the same numbers by any memory, and no more memory."""

import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

from pyro_vae import VAE, elbo, likelihoods, log_likelihood, networks, posteriors, priors
from pyro_vae.utils.memory import peak_bytes
from pyro_vae.utils.random import seeded

from ..tolerances import CLOSE
from ..vaes import bernoulli_vae, binary


@pytest.mark.parametrize("judge", [log_likelihood, elbo])
def test_numbers_do_not_depend_on_memory(judge: Callable[..., Any]) -> None:
    vae, x = bernoulli_vae(2, x_dim=40).double(), binary(100, 40).double()
    wide = judge(vae, x, num_samples=130, seed=5)
    narrow = judge(vae, x, num_samples=130, seed=5, max_bytes=2**18)
    torch.testing.assert_close(wide.values, narrow.values, rtol=CLOSE, atol=0)
    assert torch.isfinite(judge(vae, x[:3], num_samples=3, seed=5, max_bytes=1).values).all()


class Steep(nn.Module):
    """A likelihood whose log-density at x = 0 is 60 z, or -inf for z below a threshold."""

    def __init__(self, threshold: float) -> None:
        super().__init__()
        self.threshold = threshold

    def forward(self, z: Tensor) -> dist.Distribution:
        rate = torch.where(z < self.threshold, math.inf, 1.0) + (0.0 * z)
        return _Steep(60 * z, rate).to_event(1)


class _Steep(dist.Normal):
    def __init__(self, height: Tensor, rate: Tensor) -> None:
        self.height, self.rate = height, rate
        super().__init__(torch.zeros_like(height), 1.0, validate_args=False)

    def expand(self, batch_shape: torch.Size, _instance: object = None) -> "_Steep":
        return _Steep(self.height.expand(batch_shape), self.rate.expand(batch_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        return torch.where(self.rate.isinf(), -math.inf, self.height) + 0.0 * value


@pytest.mark.parametrize("threshold", [-math.inf, 2.0, math.inf])
def test_streamed_sums_are_those_of_all_weights_at_once(threshold: float) -> None:
    """Over blocks whose largest weight rises by many nats, and some of which weigh nothing."""
    posterior = posteriors.Normal(networks.MLP(1, (), 2))
    vae = VAE(priors.StandardNormal(1), Steep(threshold), posterior).double()
    with torch.no_grad():
        posterior.network.layers[0].bias.copy_(torch.tensor([0.0, math.log(math.e - 1)]))
    x, k = torch.zeros(3, 1).double(), 200
    result = log_likelihood(vae, x, k, seed=4)
    with torch.no_grad():
        q_z = vae.posterior(x)
        draws = []
        for start in range(0, k, 64):  # the evaluator's own blocks
            with seeded(4, 0, start):
                draws.append(q_z.sample((min(64, k - start),)))
        z = torch.cat(draws)
        log_w = vae.likelihood(z).log_prob(x) + vae.prior().log_prob(z) - q_z.log_prob(z)
    assert torch.allclose(result.values, log_w.logsumexp(0) - math.log(k))
    if threshold == math.inf:
        assert result.mean == -math.inf
        assert not result.ess.any()
        return
    w = (log_w - log_w.amax(0)).exp()
    assert torch.allclose(result.ess, w.sum(0).square() / w.square().sum(0))
    variance = w.var(0) / w.mean(0).square() / k
    assert result.mc_error == pytest.approx(math.sqrt(variance.sum().item()) / 3)
    assert (log_w.amax(0) > log_w[:64].amax(0)).any()


MEMORY = """
import torch
from benchmarks.measure import peak_memory
from pyro_vae import VAE, likelihoods, log_likelihood, networks, posteriors, priors
# Narrow layers, so that the logits are most of it, and not what matrix products take themselves.
decoder, encoder = networks.MLP(2, (8,), {pixels}), networks.MLP({pixels}, (8,), 4)
vae = VAE(priors.StandardNormal(2), likelihoods.Bernoulli(decoder), posteriors.Normal(encoder))
x = torch.zeros({examples}, {pixels})
log_likelihood(vae, x[:64], 2, max_bytes=2**20)
print(peak_memory(lambda: log_likelihood(vae, x, {samples}, max_bytes=2**26)))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("pixels", "examples", "samples"),
    [
        (784, 256, 500),  # kept at once, logits of 256 x 500 x 784 x 4 bytes, 400 MB
        (784, 64, 3000),  # 600 MB
        (784, 1000, 130),
        # One chunk's, 1.6 GB; a step's results are small beside it.
        (100_000, 64, 64),
    ],
)
def test_memory_does_not_grow_with_samples_or_examples(
    pixels: int, examples: int, samples: int
) -> None:
    script = MEMORY.format(pixels=pixels, examples=examples, samples=samples)
    out = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    assert float(out.stdout) < 64  # MiB, as max_bytes


@pytest.mark.parametrize("estimator", ["importance", "prior"])
def test_memory_is_that_of_a_part(estimator: Any) -> None:
    """Four times the samples take no more of it, and nowhere are all pairs there at once."""
    vae = VAE(
        priors.StandardNormal(2),
        likelihoods.Bernoulli(networks.MLP(2, (), 400)),
        posteriors.Normal(networks.MLP(400, (), 4)),
    )
    x = binary(64, 400)
    few, many = (
        peak_bytes(lambda count=count: log_likelihood(  # type: ignore[misc]
            vae, x, count, estimator=estimator, seed=0, max_bytes=2**22
        ))
        for count in (64, 128)
    )  # fmt: skip
    all_pairs = 64 * 64 * 400 * 4
    assert few < all_pairs
    assert many < 1.5 * few
