"""Networks in bfloat16, with all else in float32."""

import copy
import math

import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

from pyro_vae import VAE, fit, likelihoods, networks, posteriors, priors
from pyro_vae.datasets import Dataset

from ..compiling import small_vae
from ..conftest import needs_compiler
from ..vaes import bernoulli_vae, binary


def test_bf16_is_in_the_networks_alone(digits: Dataset) -> None:
    seen = []

    class Watched(networks.MLP):
        def forward(self, x: Tensor) -> Tensor:
            out = super().forward(x)
            seen.append(out.dtype)
            return out

    vae = VAE(
        priors.StandardNormal(2),
        likelihoods.Bernoulli(Watched(2, (20,), (28, 28))),
        posteriors.Normal(Watched((28, 28), (20,), 4)),
    )
    costs = []
    start = copy.deepcopy(vae.state_dict())
    for precision in ("float32", "bf16"):
        vae.load_state_dict(start)
        seen.clear()
        data = {"test": digits.test[:50], "pixels": "binary", "compile": False}
        history = fit(vae, digits.train[:512], epochs=2, precision=precision, **data)
        costs.append(history.cost[-1])
        inside = torch.bfloat16 if precision == "bf16" else torch.float32
        # Checks and the test set are in float32, whatever the training is in.
        assert seen.count(inside) >= 2 * 4 * 2
        assert set(seen) <= {inside, torch.float32}
        assert all(p.dtype == torch.float32 for p in vae.parameters())
        assert vae.likelihood(torch.zeros(1, 2)).base_dist.logits.dtype == torch.float32
        assert seen[-1] == torch.float32
    assert costs[0] != costs[1]
    # bfloat16 rounds each activation by up to 2^-9; costs move by less than that.
    assert costs[1] == pytest.approx(costs[0], rel=2**-9)


@pytest.mark.slow
def test_bf16_of_a_network_that_two_parts_share() -> None:
    q = posteriors.Normal(networks.MLP(6, (), 4))
    vae = VAE(
        priors.VampPrior(q, torch.rand(4, 6)), likelihoods.Bernoulli(networks.MLP(2, (), 6)), q
    )
    history = fit(vae, binary(), epochs=1, batch_size=4, precision="bf16")
    assert math.isfinite(history.cost[0])
    assert vae.posterior(binary()).rsample().dtype == torch.float32


@pytest.mark.slow
@needs_compiler
@pytest.mark.usefixtures("code")
def test_bf16_compiled_agrees_with_bf16() -> None:
    x, start = torch.randn(20, 3), small_vae()
    compiled, plain = (
        fit(copy.deepcopy(start), x, epochs=3, batch_size=10, compile=compile, precision="bf16")
        for compile in (True, False)
    )
    assert compiled.cost == pytest.approx(plain.cost, rel=2**-9)


def test_wrong_speed_settings() -> None:
    vae, x = bernoulli_vae(), binary(20)
    for wrong in ("yes", None, 1):
        with pytest.raises(TypeError, match="compile: got"):
            fit(vae, x, epochs=1, batch_size=5, compile=wrong)
    with pytest.raises(ValueError, match=r"precision: got 'float16'"):
        fit(vae, x, epochs=1, batch_size=5, precision="float16")
    with pytest.raises(ValueError, match=r"for a pair of torch\.float64"):
        fit(vae.double(), x.double(), epochs=1, batch_size=5, precision="bf16")

    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(6))

        def forward(self, z: Tensor) -> dist.Distribution:
            return dist.Bernoulli(logits=z * self.weight).to_event(1)

    class Posterior(nn.Module):
        def forward(self, x: Tensor) -> dist.Distribution:
            return dist.Normal(x[..., :1], 1.0).to_event(1)

    bare = VAE(priors.StandardNormal(1), Plain(), Posterior())
    with pytest.raises(ValueError, match="no part holds a network"):
        fit(bare, x, epochs=1, batch_size=5, precision="bf16")
