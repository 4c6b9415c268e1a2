"""The evaluator against closed forms and quadrature; what it must not depend on."""

import math
import subprocess
import sys
from pathlib import Path

import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

from pyro_vae import VAE, elbo, likelihoods, log_likelihood, networks, posteriors, presets, priors
from pyro_vae.datasets import Dataset, binarize, to_pixels
from pyro_vae.evaluation import data_hash, density_draw
from pyro_vae.utils.random import seeded

from .models import bernoulli_vae, linear_gaussian, log_evidence


def test_exact_posterior_gives_the_evidence_without_variance() -> None:
    model = linear_gaussian(exact=True)
    exact = model.evidence.log_prob(model.x)
    bound = elbo(model.vae, model.x, num_samples=50)
    assert torch.allclose(bound.values, exact, rtol=1e-10)
    # What is left is the rounding of a sum of squares.
    assert bound.mc_error < 1e-7
    assert bound.reconstruction_mc_error > 1e-3
    result = log_likelihood(model.vae, model.x, 50)
    assert torch.allclose(result.values, exact, rtol=1e-10)
    assert torch.allclose(result.ess, torch.tensor(50.0).double())
    assert result.mc_error < 1e-7


def test_log_likelihood_finds_the_evidence_with_a_guide_that_is_not_exact() -> None:
    model = linear_gaussian(exact=False, examples=50)
    exact = model.evidence.log_prob(model.x)
    result = log_likelihood(model.vae, model.x, 20000, seed=0)
    assert abs(result.mean - exact.mean().item()) < 3 * result.mc_error
    assert result.stderr == pytest.approx(exact.std().item() / math.sqrt(50), rel=0.1)
    bound = elbo(model.vae, model.x, num_samples=2000, seed=0)
    assert (bound.values < exact).all()


def test_log_likelihood_agrees_with_quadrature() -> None:
    vae = bernoulli_vae(1).double()
    x = torch.bernoulli(torch.full((40, 6), 0.4)).double()
    exact = log_evidence(vae, x)
    result = log_likelihood(vae, x, 20000, seed=0)
    assert abs(result.mean - exact.mean().item()) < 3 * result.mc_error
    each = (1 / result.ess - 1 / 20000).sqrt()
    assert ((result.values - exact).abs() < 4.5 * each).all()


def test_evidence_is_the_elbo_plus_the_kl_to_the_true_posterior() -> None:
    vae = bernoulli_vae(1).double()
    x = torch.bernoulli(torch.full((3, 6), 0.4)).double()
    line = torch.linspace(-10, 10, 4001, dtype=torch.float64)
    step = (line[1] - line[0]).item()
    with torch.no_grad():
        z = line[:, None, None].expand(-1, 3, 1)
        log_q = vae.posterior(x).log_prob(z)
        log_joint = vae.likelihood(z).log_prob(x) + vae.prior().log_prob(z)
        evidence = log_evidence(vae, x)
        bound = (log_q.exp() * (log_joint - log_q)).sum(0) * step
        gap = (log_q.exp() * (log_q - (log_joint - evidence))).sum(0) * step
    assert torch.allclose(evidence, bound + gap, rtol=1e-10)
    estimate = elbo(vae, x, num_samples=4000, seed=0)
    assert abs(estimate.mean - bound.mean().item()) < 4 * estimate.mc_error


def test_bounds_grow_with_the_number_of_samples() -> None:
    vae = bernoulli_vae(1).double()
    x = torch.bernoulli(torch.full((200, 6), 0.4)).double()
    exact = log_evidence(vae, x).mean().item()
    values = [log_likelihood(vae, x.repeat(5, 1), k, seed=0) for k in (1, 10, 100)]
    spread = (values[0].values - log_evidence(vae, x.repeat(5, 1))).std().item() / math.sqrt(1000)
    assert values[0].mean < values[1].mean < values[2].mean
    assert values[2].mean < exact + 4 * values[2].mc_error
    assert values[0].mean < exact - 4 * spread
    assert values[0].mean == pytest.approx(values[0].elbo.mean().item())


def test_standard_errors_are_those_of_repeated_runs() -> None:
    model = linear_gaussian(exact=False, examples=10)
    runs = 60
    likelihoods_ = [log_likelihood(model.vae, model.x, 2000, seed=s) for s in range(runs)]
    bounds = [elbo(model.vae, model.x, num_samples=100, seed=s) for s in range(runs)]
    for results, mean, error in (
        (likelihoods_, "mean", "mc_error"),
        (bounds, "mean", "mc_error"),
        (bounds, "reconstruction_mean", "reconstruction_mc_error"),
        (bounds, "kl_mean", "kl_mc_error"),
    ):
        spread = torch.tensor([getattr(r, mean) for r in results]).double().std().item()
        stated = torch.tensor([getattr(r, error) for r in results]).double().mean().item()
        # A standard deviation from 60 runs has a relative error of 1 / sqrt(118) = 0.09.
        assert spread == pytest.approx(stated, rel=4 * 0.092)


def test_numbers_do_not_depend_on_memory(digits: Dataset) -> None:
    vae = presets.build("pyro-mlp", shape=digits.shape)
    x = binarize(digits.test[:100], seed=0)
    for kind, options in (
        (log_likelihood, {"num_samples": 130}),
        (elbo, {"num_samples": 130}),
    ):
        wide = kind(vae, x, seed=5, **options)
        narrow = kind(vae, x, seed=5, max_bytes=2**19, **options)
        tiny = kind(vae, x[:3], seed=5, max_bytes=1, num_samples=3)
        # float32 sums over 784 pixels near 540 nats, taken in another order.
        assert torch.allclose(wide.values, narrow.values, rtol=1e-6, atol=0)
        assert torch.isfinite(tiny.values).all()


def test_a_seed_repeats_and_leaves_the_generator() -> None:
    vae, x = bernoulli_vae(), torch.bernoulli(torch.full((70, 6), 0.4))
    state = torch.get_rng_state()
    first, second = (log_likelihood(vae, x, 70, seed=3).values for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(elbo(vae, x, seed=3).values, elbo(vae, x, seed=3).values)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(first, log_likelihood(vae, x, 70, seed=4).values)
    torch.manual_seed(7)
    third = log_likelihood(vae, x, 70)
    torch.manual_seed(7)
    assert torch.equal(third.values, log_likelihood(vae, x, 70).values)
    assert third.seed is None
    # Blocks of examples and of samples have noise of their own.
    twice = log_likelihood(vae, torch.cat((x[:64], x[:64])), 64, seed=0).values
    assert not torch.equal(twice[:64], twice[64:])


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


def test_a_point_mass_is_no_posterior_to_weigh_with() -> None:
    class Point(nn.Module):
        def forward(self, x: Tensor) -> dist.Distribution:
            return dist.Delta(x[:, :1]).to_event(1)

    decoder = likelihoods.Bernoulli(networks.MLP(1, (), 6))
    vae = VAE(priors.StandardNormal(1), decoder, Point())
    with pytest.raises(ValueError, match=r"posterior: got Independent\(Delta\)"):
        log_likelihood(vae, torch.zeros(3, 6), 5)


def test_eval_mode_is_used_and_put_back() -> None:
    encoder = networks.MLP(6, (4,), 2)
    encoder.layers.append(nn.Dropout(0.9))
    vae = VAE(
        priors.StandardNormal(1),
        likelihoods.Bernoulli(networks.MLP(1, (), 6)),
        posteriors.Normal(encoder),
    )
    x = torch.bernoulli(torch.full((5, 6), 0.4))
    first = log_likelihood(vae, x, 10, seed=0)
    assert torch.equal(first.values, log_likelihood(vae, x, 10, seed=0).values)
    assert all(m.training for m in vae.modules())
    assert not first.values.requires_grad


def test_results_say_what_they_are() -> None:
    vae, x = bernoulli_vae(), torch.bernoulli(torch.full((5, 6), 0.4))
    result = log_likelihood(vae, x, 20, seed=3)
    assert (result.num_samples, result.seed, result.estimator) == (20, 3, "importance")
    assert result.data_hash == data_hash(x)
    assert data_hash(x) != data_hash(1 - x)
    assert ((result.ess >= 1 - 1e-9) & (result.ess <= 20 + 1e-9)).all()
    assert result.mean == pytest.approx(result.values.mean().item())
    assert "mean=" in repr(result)
    assert "tensor" not in repr(result)
    bound = elbo(vae, x, num_samples=1)
    assert torch.allclose(bound.values, -(bound.reconstruction + bound.kl))
    assert math.isnan(bound.mc_error)
    assert math.isnan(log_likelihood(vae, x[:1], 20).stderr)
    assert math.isnan(log_likelihood(vae, x, 1).mc_error)
    assert data_hash(x.bfloat16()) != data_hash(x)


def test_grey_pixels_are_judged_on_a_density(digits: Dataset) -> None:
    levels = digits.test[:20]
    relaxed = presets.build("bernoulli-mlp", shape=digits.shape, pixels="grey")
    with pytest.raises(ValueError, match=r"x: got 0\.\d+ at .*Boolean"):
        log_likelihood(relaxed, to_pixels(levels, "grey"), 10)
    with pytest.raises(ValueError, match="Boolean"):
        elbo(relaxed, to_pixels(levels, "grey"))
    x, pixels = density_draw(relaxed, levels, "grey", seed=3)
    assert pixels == "binary"
    assert torch.equal(x, binarize(levels, seed=3))
    assert math.isfinite(log_likelihood(relaxed, x, 10).mean)
    gaussian = presets.build("gaussian-mlp", shape=digits.shape, pixels="grey")
    x, pixels = density_draw(gaussian, levels, "grey", seed=3)
    assert pixels == "dequantized"
    assert density_draw(gaussian, levels, "dequantized", seed=3)[1] == "dequantized"


def test_wrong_input_is_named(digits: Dataset) -> None:
    vae = presets.build("bernoulli-mlp", shape=digits.shape)
    x = binarize(digits.test[:4], seed=0)
    bad = x.clone()
    bad[1, 2, 3] = math.nan
    for judge in (elbo, log_likelihood):
        with pytest.raises(ValueError, match="x: got nan at 1 of 3136 places"):
            judge(vae, bad)
        bad[1, 2, 3] = math.inf
        with pytest.raises(ValueError, match="x: got inf at 1 of 3136 places"):
            judge(vae, bad)
        bad[1, 2, 3] = math.nan
        with pytest.raises(TypeError, match=r"uint8"):
            judge(vae, digits.test[:4])
        with pytest.raises(ValueError, match=r"\(4, 784\)"):
            judge(vae, x.reshape(4, 784))
        with pytest.raises(ValueError, match=r"x: got shape \(28, 28\), expected \(N, 28, 28\)"):
            judge(vae, x[0])
        with pytest.raises(TypeError, match=r"x: got torch.float64, expected the VAE's"):
            judge(vae, x.double())
        with pytest.raises(ValueError, match="no examples"):
            judge(vae, x[:0])
        with pytest.raises(ValueError, match="num_samples: got 0"):
            judge(vae, x, num_samples=0)
        with pytest.raises(ValueError, match="seed: got -1"):
            judge(vae, x, seed=-1)
        with pytest.raises(ValueError, match="max_bytes: got 0"):
            judge(vae, x, max_bytes=0)
    with pytest.raises(ValueError, match="kl: got 'exact'"):
        elbo(vae, x, kl="exact")


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


@pytest.mark.parametrize(
    ("pixels", "examples", "samples"),
    [
        (784, 64, 3000),  # kept at once, logits of 64 x 3000 x 784 x 4 bytes, 600 MB
        (784, 1000, 130),
        (100_000, 64, 64),  # one chunk's, 1.6 GB; a step's results are small beside it
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
        cwd=Path(__file__).parent.parent,
    )
    assert float(out.stdout) < 64  # MiB, as max_bytes
