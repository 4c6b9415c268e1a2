"""Simulation-based calibration: ranks are uniform for exact draws, and say what others are."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from matplotlib import pyplot as plt
from torch import Tensor, nn

from pyro_vae import VAE, Pair, estimators, likelihoods, networks, posteriors, priors
from pyro_vae.evaluation import calibration

from ..swaps import LIKELIHOODS, POSTERIORS, PRIORS, X_DIM, likelihood_of, vae_of
from ..vaes import linear_gaussian


def moved(vae: VAE) -> VAE:
    """The VAE, with parameters away from where they start."""
    with torch.no_grad():
        for parameter in vae.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return vae


def bimodal() -> VAE:
    """A VAE with two modes in z, and a guide that knows nothing of them."""
    network = networks.MLP(1, (), 2)
    with torch.no_grad():
        network.layers[0].weight.copy_(torch.tensor([[1.5], [0.3]]))
        network.layers[0].bias.zero_()

    class Squared(nn.Module):
        out_shape = (2,)

        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, z: Tensor) -> Tensor:
            return self.network(z.square())

    encoder = networks.MLP(2, (), 2)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.zero_()
        encoder.layers[0].bias.copy_(torch.tensor([0.0, 0.5]))
    return VAE(
        priors.StandardNormal(1),
        likelihoods.Gaussian(Squared(), scale=0.6),
        posteriors.Normal(encoder),
    )


def test_an_exact_guide_is_calibrated() -> None:
    """Over seeds, the p-values are uniform."""
    results = [
        calibration(linear_gaussian(exact=True, examples=1).vae, 150, 19, seed=seed)
        for seed in range(25)
    ]
    p = torch.stack([result.p_values for result in results]).flatten()
    for level in (0.05, 0.25, 0.5, 0.75):
        error = math.sqrt(level * (1 - level) / len(p))
        # The quantities of a seed are nearly independent: a half more for what they share.
        assert abs((p < level).double().mean() - level) < 5 * error
    flagged = sum(verdict != "calibrated" for r in results for verdict in r.verdicts)
    assert flagged <= 5  # one seed in twenty, by Holm
    pooled = torch.stack([result.ranks for result in results]).flatten()
    shares = pooled.bincount(minlength=20) / len(pooled)
    assert (shares - 1 / 20).abs().max() < 5 * math.sqrt(1 / 20 / len(pooled)) * 1.3


@pytest.mark.parametrize(
    ("width", "shift", "verdict"),
    [
        (1.5, 0.0, "too wide"),
        (0.7, 0.0, "too narrow"),
        (1.0, 0.4, "too high"),
        (1.0, -0.4, "too low"),
    ],
)
def test_what_a_guide_is(width: float, shift: float, verdict: str) -> None:
    vae = linear_gaussian(exact=False, width=width, shift=shift).vae
    result = calibration(vae, 600, 39, seed=0)
    assert set(result.verdicts[:2]) == {verdict}
    assert (result.corrected[:2] < 1e-4).all()
    assert verdict in repr(result)


@pytest.mark.parametrize(
    ("method", "right"),
    [
        ("ais:20:4", True),
        pytest.param("mcmc:60:5", True, marks=pytest.mark.slow),
        ("ais:1:1", False),
        ("mcmc:1:2", False),
        ("guide", False),
    ],
)
def test_methods_that_draw_from_the_posterior(method: str, right: bool) -> None:
    """Two modes, of which a chain from the prior finds both."""
    result = calibration(bimodal(), 400, 19, method=method, seed=1)
    assert (set(result.verdicts) == {"calibrated"}) is right
    assert result.method == method


def test_an_estimator_is_a_method() -> None:
    vae = bimodal()
    one = calibration(vae, 20, 9, method=estimators.AIS(5, 2), seed=0)
    other = calibration(vae, 20, 9, method="ais:5:2", seed=0)
    assert torch.equal(one.ranks, other.ranks)
    assert one.method == other.method


def discrete(x: Tensor) -> None:
    """Two classes, and a number given the class."""
    with pyro.plate("data", len(x)):
        y = pyro.sample("y", dist.Bernoulli(x.new_tensor(0.3)))
        pyro.sample("x", dist.Normal(2 * y, 1.0), obs=x)


def discrete_guide(x: Tensor) -> None:
    odds = torch.tensor(0.3 / 0.7).log() + 2 * x - 2
    with pyro.plate("data", len(x)):
        pyro.sample("y", dist.Bernoulli(logits=odds))


def test_ties_of_a_discrete_latent_are_broken_at_random() -> None:
    """An exact guide of two classes has uniform ranks; a wrong one has not."""
    pair, x = Pair(discrete, discrete_guide), torch.zeros(3)
    result = calibration(pair, 800, 19, x=x, seed=0)
    assert result.names == ("y", "log p(x, z)")
    assert set(result.verdicts) == {"calibrated"}
    shares = result.ranks[0].bincount(minlength=20) / 800
    assert (shares - 1 / 20).abs().max() < 5 * math.sqrt(1 / 20 / 800)

    def wrong(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Bernoulli(x.new_tensor(0.5)))

    assert "calibrated" not in calibration(Pair(discrete, wrong), 800, 19, x=x, seed=0).verdicts[0]
    with pytest.raises(ValueError, match="all its latents are summed out"):
        calibration(pair, 8, 9, method="ais:2:2", x=x, seed=0)


def test_a_context_is_taken_in_turn() -> None:
    """x ~ N(z + c, 1): the exact guide reads the context, and another one is seen to be wrong."""

    class Shifted(nn.Module):
        def __init__(self, sign: float) -> None:
            super().__init__()
            self.sign = nn.Parameter(torch.tensor(sign))

        def forward(self, z: Tensor, context: Tensor) -> dist.Distribution:
            return dist.Normal(z + self.sign * context, 1.0).to_event(1)

    class Exact(nn.Module):
        def __init__(self, sign: float) -> None:
            super().__init__()
            self.sign = nn.Parameter(torch.tensor(sign))

        def forward(self, x: Tensor, context: Tensor) -> dist.Distribution:
            return dist.Normal((x - self.sign * context) / 2, math.sqrt(0.5)).to_event(1)

    context = torch.tensor([[0.0], [3.0], [-1.0]])
    right = VAE(priors.StandardNormal(1), Shifted(1.0), Exact(1.0))
    wrong = VAE(priors.StandardNormal(1), Shifted(1.0), Exact(0.0))
    assert set(calibration(right, 500, 19, context=context, seed=0).verdicts) == {"calibrated"}
    assert "calibrated" not in calibration(wrong, 500, 19, context=context, seed=0).verdicts


def test_the_same_seed_gives_the_same_ranks() -> None:
    vae, state = linear_gaussian(exact=True).vae.train(), torch.get_rng_state()
    first = calibration(vae, 70, 9, seed=3)
    again = calibration(vae, 70, 9, seed=3, max_bytes=10**6)
    assert torch.equal(first.ranks, again.ranks)
    assert not torch.equal(first.ranks, calibration(vae, 70, 9, seed=4).ranks)
    assert torch.equal(torch.get_rng_state(), state)
    assert vae.training
    ax = first.plot()
    assert [line.get_label() for line in ax.lines[1:]] == ["z[0]", "z[1]", "log p(x, z)"]
    plt.close(ax.figure)


def test_wrong_arguments_are_named() -> None:
    vae = bimodal()
    for method, error in (("hmc", ValueError), ("mcmc:0:1", ValueError), (3, TypeError)):
        with pytest.raises(error, match="method: got"):
            calibration(vae, 5, 5, method=method)
    with pytest.raises(ValueError, match="num_datasets: got 0"):
        calibration(vae, 0)
    with pytest.raises(ValueError, match="num_samples: got 0"):
        calibration(vae, 5, 0)
    with pytest.raises(TypeError, match="x: got it with a VAE"):
        calibration(vae, 5, x=torch.zeros(3, 2))
    with pytest.raises(TypeError, match="x: got None, expected examples"):
        calibration(Pair(discrete, discrete_guide), 5)
    with pytest.raises(ValueError, match="context: got no rows"):
        calibration(vae, 5, context=torch.zeros(0, 1))


@pytest.mark.slow
@pytest.mark.parametrize("method", ["ais:40:5", "mcmc:80:5"])
@pytest.mark.parametrize("prior", PRIORS)
def test_ais_and_mcmc_draw_from_the_posterior_of_every_prior(prior: str, method: str) -> None:
    """One of the 42 p-values is below 1e-4 by chance once in 250 seeds."""
    vae = moved(vae_of(prior, "Normal", "Gaussian-fixed"))
    result = calibration(vae, 300, 19, method=method, seed=0)
    assert (result.p_values > 1e-4).all(), result


@pytest.mark.slow
@pytest.mark.parametrize("method", ["ais:40:5", "mcmc:80:5"])
@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_ais_and_mcmc_draw_from_the_posterior_by_every_likelihood(
    likelihood: str, method: str
) -> None:
    """One of the 96 p-values is below 1e-4 by chance once in 100 seeds."""
    vae = moved(vae_of("StandardNormal", "Normal", likelihood))
    result = calibration(vae, 300, 19, method=method, seed=0)
    assert (result.p_values > 1e-4).all(), result


class FixedPosterior(nn.Module):
    """The prior that is a posterior's q(z|x) for one x."""

    def __init__(self, q: nn.Module) -> None:
        super().__init__()
        self.q = q

    def forward(self) -> dist.Distribution:
        """Returns p(z)."""
        return self.q(torch.zeros(X_DIM))


def blind(network: nn.Module) -> None:
    """Lets a network's output not depend on its input."""
    with torch.no_grad():
        network.layers[0].weight.zero_()


@pytest.mark.parametrize("posterior", POSTERIORS)
def test_every_posterior_is_calibrated_where_it_is_exact(posterior: str) -> None:
    """x says nothing of z, and the prior is the guide itself. If x does, the guide is wrong."""
    q = POSTERIORS[posterior](2)
    vae = moved(VAE(FixedPosterior(q), likelihood_of("Gaussian-fixed", 2), q))
    encoder, decoder = (m for m in vae.modules() if isinstance(m, networks.MLP))
    blind(encoder)
    wrong = calibration(vae, 400, 19, seed=0)
    assert set(wrong.verdicts) != {"calibrated"}
    blind(decoder)
    right = calibration(vae, 400, 19, seed=0)
    assert (right.p_values > 1e-4).all(), right
