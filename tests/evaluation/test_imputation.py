"""Imputation against closed forms: what is missing of a linear-Gaussian x is normal."""

import math
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

from pyro_vae import (
    VAE,
    Pair,
    distributions,
    likelihoods,
    log_likelihood,
    networks,
    posteriors,
    priors,
)
from pyro_vae.distributions import Observed
from pyro_vae.evaluation import UnreliableWeights, impute
from pyro_vae.evaluation.imputation import _quantiles

from ..holes import NAN, holed, linear_gaussian_with_holes, observed_vae
from ..swaps import LIKELIHOODS, data, likelihood_of, mlp
from ..tolerances import CLOSE

LEVELS = (0.05, 0.5, 0.95)


@pytest.mark.parametrize("width", [1.0, 1.4])
def test_means_quantiles_and_draws_of_a_linear_gaussian(width: float) -> None:
    """By the exact posterior and by a wider one, whose weights differ; each within its error."""
    known = linear_gaussian_with_holes(width)
    samples, draws = 4000, 4000
    result = impute(known.vae, known.x, samples, num_draws=draws, seed=0)
    assert ((result.ess > samples - 1e-6) == (width == 1.0)).all()
    z = torch.distributions.Normal(0.0, 1.0).icdf(torch.tensor(LEVELS).double())
    slope = torch.distributions.Normal(0.0, 1.0).log_prob(z).exp()
    spread = torch.tensor(LEVELS).double() * (1 - torch.tensor(LEVELS).double())
    for n, x in enumerate(known.x):
        holes = torch.isnan(x)
        for made in (result.mean[n], *result.quantiles[:, n], *result.draws[:3, n]):
            assert torch.equal(made[~holes], x[~holes])
        if not holes.any():
            continue
        exact, ess = known.missing(n), result.ess[n]
        scale = exact.covariance_matrix.diagonal().sqrt()
        # The weights' errors are those of so many draws as the effective sample size, at most.
        error = 5 * scale / ess.sqrt()
        assert ((result.mean[n][holes] - exact.mean).abs() < error).all()
        off = result.quantiles[:, n][:, holes] - (exact.mean + z[:, None] * scale)
        assert (off.abs() < 5 * (spread / ess).sqrt()[:, None] / slope[:, None] * scale).all()
        joint = result.draws[:, n][:, holes]
        both = (1 / ess + 1 / draws).sqrt()
        assert ((joint.mean(0) - exact.mean).abs() < 5 * scale * both).all()
        # A covariance of draws of a normal has the variance (s_ii s_jj + s_ij^2) / n.
        covariance = torch.atleast_2d(torch.cov(joint.T))
        size = (torch.outer(scale, scale).square() + exact.covariance_matrix.square()).sqrt()
        assert ((covariance - exact.covariance_matrix).abs() < 5 * size * both).all()


def test_the_exact_posterior_has_weights_without_variance() -> None:
    known = linear_gaussian_with_holes()
    result = log_likelihood(known.vae, known.x, 100, seed=0)
    assert torch.allclose(result.values, known.evidence(), rtol=CLOSE, atol=CLOSE)
    assert result.mc_error < CLOSE
    assert torch.allclose(result.ess, torch.full_like(result.ess, 100.0))


@pytest.mark.parametrize("estimator", ["importance", "prior", "ais:15:3", "exact"])
def test_log_p_of_what_is_observed(estimator: str) -> None:
    known = linear_gaussian_with_holes(width=1.4)
    result = log_likelihood(known.vae, known.x, 1500, estimator=estimator, seed=0)
    if estimator == "exact":
        assert torch.allclose(result.values, known.evidence(), rtol=CLOSE, atol=CLOSE)
        return
    error = (1 / result.ess - 1 / 1500).clamp(min=0).sqrt()
    assert ((result.values - known.evidence()).abs() <= 3.5 * error + CLOSE).all()
    assert abs(result.mean - known.evidence().mean()) < 3 * result.mc_error


def test_the_weights_are_those_of_log_likelihood() -> None:
    vae, x = observed_vae(likelihoods.Gaussian(mlp(2, (2, 3)))), holed(torch.randn(70, 3))
    result, other = impute(vae, x, 200, seed=3), log_likelihood(vae, x, 200, seed=3)
    assert torch.equal(result.ess, other.ess)
    assert torch.equal(result.khat, other.khat)


def test_the_result_depends_on_the_seed_alone() -> None:
    vae, x = observed_vae(likelihoods.Gaussian(mlp(2, (2, 3)))), holed(torch.randn(70, 3))

    def made(**settings: object) -> Tensor:
        result = impute(vae, x, 150, num_draws=4, **{"seed": 1, **settings})
        return torch.cat([result.mean[None], result.quantiles, result.draws])

    state = torch.random.get_rng_state()
    one = made()
    assert torch.equal(torch.random.get_rng_state(), state)
    assert one.isfinite().all()
    for limit in (1, 5000, 10**5):  # of which the first keeps the draws of a single entry
        assert torch.allclose(made(max_bytes=limit), one, atol=1e-5)
    assert not torch.equal(made(seed=2), one)
    torch.manual_seed(5)
    other = made(seed=None)
    torch.manual_seed(5)
    assert torch.equal(made(seed=None), other)


@pytest.mark.parametrize("name", [n for n in LIKELIHOODS if not n.startswith("Observed")])
def test_each_likelihood_is_imputed_on_its_support(name: str) -> None:
    vae, x = observed_vae(likelihood_of(name, 2)), holed(data(name))
    result = impute(vae, x, 60, num_draws=3, quantiles=(0, 0.5, 1), seed=0)
    holes = torch.isnan(x)
    support = vae.likelihood.likelihood(torch.zeros(2)).support
    for made in (result.quantiles, result.draws):
        assert support.check(made).all()
        assert torch.equal(made[:, ~holes], x[~holes].expand(3, -1))
    assert (result.quantiles.diff(dim=0) >= 0).all()
    assert ((result.mean >= result.quantiles[0]) & (result.mean <= result.quantiles[2]))[
        holes
    ].all()


def test_a_binary_pixel_has_the_probability_of_its_decoder() -> None:
    """Of a decoder without z, whatever the weights: E[x_mis|z] does not vary."""

    class Constant(nn.Module):
        def forward(self, z: Tensor) -> dist.Distribution:
            logits = torch.tensor([-1.0, 0.5, 2.0]).expand(*z.shape[:-1], 3)
            return dist.Bernoulli(logits=logits).to_event(1)

    x = torch.tensor([[NAN, 1.0, NAN], [NAN, NAN, NAN]])
    result = impute(observed_vae(Constant()), x, 400, quantiles=(0.2, 0.8), num_draws=2000, seed=0)
    expected = torch.tensor([[-1.0, 0.5, 2.0]]).sigmoid().expand(2, 3)
    assert torch.allclose(result.mean, torch.where(x.isnan(), expected, x), atol=1e-6)
    assert result.quantiles[:, 1].tolist() == [[0.0, 0.0, 1.0], [1.0, 1.0, 1.0]]
    error = 5 * (expected * (1 - expected) * (1 / 2000 + 1 / result.ess.min())).sqrt()
    assert ((result.draws[:, 1].mean(0) - expected[1]).abs() < error[1]).all()


def test_the_mean_of_columns_is_that_of_numbers_and_no_class() -> None:
    """The point value of a class is its most probable one, whose average is no probability."""
    columns = {
        "real": likelihoods.Gaussian,
        "flag": likelihoods.Bernoulli,
        "other": likelihoods.Gaussian,
        "class": partial(likelihoods.Categorical, levels=3),
    }
    network = networks.MLP(2, (8,), likelihoods.Columns.numbers(columns))
    vae = observed_vae(likelihoods.Columns(network, columns), x_dim=4)
    x = torch.tensor([[0.3, NAN, NAN, NAN], [NAN, 1.0, -0.5, 2.0]])
    result = impute(vae, x, 2000, num_draws=4000, seed=0)
    holes, draws = torch.isnan(x), result.draws.double()
    error = 5 * (draws.var(0) * (1 / 4000 + 1 / result.ess[:, None])).sqrt()
    assert ((result.mean - draws.mean(0)).abs() < error)[holes].all()
    assert 0.05 < result.mean[0, 1] < 0.95
    # The point value of a flag is 1 if its mean is above a half; reals have the mean.
    assert torch.equal(result.point[:, 1], (result.mean[:, 1] > 0.5).float())
    assert torch.equal(result.point[:, ::2], result.mean[:, ::2])
    assert torch.equal(result.point[~holes], x[~holes])
    assert vae.likelihood.likelihood(torch.zeros(2)).support.check(result.draws).all()


def test_the_most_probable_class_is_that_of_the_average_probability() -> None:
    """Of two components, whose weights are known: p(c|x) = sum_k p(k|x) p(c|k)."""
    probs = torch.tensor([[0.5, 0.2, 0.3], [0.1, 0.2, 0.7]])  # The mean of the first is near 1.

    class Table(nn.Module):
        def forward(self, z: Tensor) -> dist.Distribution:
            own = probs[(z[..., 0] > 0).long()]
            normal = dist.Normal(4 * z[..., :1].sign(), 1.0).to_event(1)
            levels = distributions.Levels(own.unsqueeze(-2)).to_event(1)
            return distributions.Columns([levels, normal], [0, 1], ["class", "real"])

    x = torch.tensor([[NAN, -4.0], [NAN, 4.0], [NAN, 0.0], [NAN, NAN], [2.0, NAN]])
    result = impute(observed_vae(Table(), x_dim=2), x, 4000, seed=0)
    # Between the components the probabilities are 0.3, 0.2 and 0.5.
    assert result.point[:, 0].tolist() == [0.0, 2.0, 2.0, 2.0, 2.0]
    assert torch.equal(result.point[:, 1], result.mean[:, 1])
    expected = torch.tensor([0.8, 1.6, 1.2, 1.2, 2.0])
    assert (result.mean[:, 0] - expected).abs().max() < 5 * 0.4 / result.ess.min().sqrt()


def test_a_mean_that_is_not_finite_is_that_of_draws() -> None:
    class Cauchy(nn.Module):
        def forward(self, z: Tensor) -> dist.Distribution:
            return dist.Cauchy(z.new_zeros(*z.shape[:-1], 3), 1.0).to_event(1)

    x = holed(torch.randn(6, 3))
    result = impute(observed_vae(Cauchy()), x, 500, seed=0)
    assert result.mean.isfinite().all()
    expected = torch.tan(math.pi * (torch.tensor([0.25, 0.75]) - 0.5))
    quartiles = impute(observed_vae(Cauchy()), x, 4000, quantiles=(0.25, 0.75), seed=0)
    # The density at the quartiles is 1 / (2 pi).
    error = 5 * 2 * math.pi * math.sqrt(0.25 * 0.75) / quartiles.ess[0].sqrt()
    assert ((quartiles.quantiles[:, 0] - expected[:, None]).abs() < error).all()


def test_weighted_quantiles_are_those_of_repeated_draws() -> None:
    """Weights that are whole numbers count how often a draw is there."""
    kept, counts = torch.randn(9, 4).double(), torch.randint(0, 4, (9, 2)).double()
    counts[0] = 1.0
    example = torch.tensor([0, 1, 1, 0])
    levels = (0.0, 0.1, 0.5, 0.77, 1.0)
    found = _quantiles(kept, counts / counts.sum(0), example, levels)
    for entry, n in enumerate(example.tolist()):
        every = kept[:, entry].repeat_interleave(counts[:, n].long())
        expected = torch.quantile(every, torch.tensor(levels).double(), interpolation="higher")
        ranks = [max(0, math.ceil(level * len(every) - 1e-9) - 1) for level in levels]
        assert torch.equal(found[:, entry], every.sort().values[ranks])
        assert ((found[:, entry] <= expected) | (found[:, entry] == expected)).all()


def test_complete_data_are_given_back_without_a_word(recwarn: pytest.WarningsRecorder) -> None:
    vae, x = observed_vae(likelihoods.Gaussian(mlp(2, (2, 3)))), torch.randn(6, 3)
    result = impute(vae, x, 5, num_draws=2, seed=0)
    assert not recwarn
    for made in (result.mean, *result.quantiles, *result.draws):
        assert torch.equal(made, x)


def test_doubtful_weights_are_warned_of() -> None:
    known = linear_gaussian_with_holes(width=0.2)
    with pytest.warns(UnreliableWeights, match="examples with NaN"):
        impute(known.vae, known.x, 500, seed=0)
    with pytest.warns(UnreliableWeights, match="5 samples are too few"):
        impute(known.vae, known.x, 5, seed=0)


def test_weights_that_are_all_zero_give_nan_in_holes_alone() -> None:
    class Impossible(nn.Module):
        def forward(self, z: Tensor) -> dist.Distribution:
            return dist.Normal(z.new_zeros(*z.shape[:-1], 2), 1.0).to_event(1)

    x = torch.tensor([[NAN, 1e30], [NAN, 0.0]])  # whose square is infinite
    with pytest.warns(UnreliableWeights):
        result = impute(observed_vae(Impossible(), x_dim=2), x, 50, num_draws=2, seed=0)
    assert result.ess[0] == 0
    for made in (result.mean, result.point, *result.quantiles, *result.draws):
        assert made.isnan().tolist() == [[True, False], [False, False]]


def test_a_context_and_pairs_of_functions() -> None:
    """The same programs as a VAE and as functions give the same numbers."""
    joined = networks.Conditioned(networks.MLP(2 + 3, (8,), 3), (), classes=3)
    likelihood = likelihoods.Gaussian(joined, scale=0.5)
    vae = observed_vae(likelihood)
    x, label = holed(torch.randn(9, 3)), torch.arange(9) % 3

    def model(x: Tensor, label: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            given = label.expand(z.shape[:-1])
            pyro.sample("x", distributions.Observed(likelihood(z, given)), obs=x)

    def guide(x: Tensor, label: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", vae.posterior(x))

    pair = Pair(model, guide, likelihood=likelihood, posterior=vae.posterior)
    one, two = (impute(each, (x, label), 64, num_draws=2, seed=0) for each in (vae, pair))
    for name in ("mean", "quantiles", "draws", "ess"):
        assert torch.allclose(getattr(one, name), getattr(two, name), atol=1e-5)
    other = impute(vae, (x, (label + 1) % 3), 64, seed=0)
    assert not torch.allclose(one.mean, other.mean)


def test_images_keep_their_shape() -> None:
    encoder = networks.Observed(networks.ConvEncoder((2, 8, 8), 4))
    likelihood = likelihoods.Observed(likelihoods.Bernoulli(networks.MLP(2, (), (8, 8))))
    vae = VAE(priors.StandardNormal(2), likelihood, posteriors.Normal(encoder))
    x = holed(torch.bernoulli(torch.full((3, 8, 8), 0.5)))
    result = impute(vae, x, 30, num_draws=2, seed=0)
    assert result.mean.shape == x.shape
    assert result.quantiles.shape == (3, *x.shape)
    assert result.draws.shape == (2, *x.shape)
    assert repr(result) == "Imputation(3 examples, num_samples=30, seed=0)"


def test_what_cannot_be_imputed_is_named() -> None:
    plain = VAE(
        priors.StandardNormal(2), likelihoods.Bernoulli(mlp(2, 3)), posteriors.Normal(mlp(3, 4))
    )
    with pytest.raises(ValueError, match=r'observes values on Boolean at the site "x", expected'):
        impute(plain, torch.zeros(2, 3))
    with pytest.raises(ValueError, match="got nan"):
        impute(plain, torch.full((2, 3), NAN))
    vae = observed_vae(likelihoods.Bernoulli(mlp(2, 3)))
    with pytest.raises(ValueError, match=r"quantiles: got 1\.5, expected a number from 0 to 1"):
        impute(vae, torch.zeros(2, 3), quantiles=(0.5, 1.5))
    with pytest.raises(ValueError, match="num_draws: got -1"):
        impute(vae, torch.zeros(2, 3), num_draws=-1)
    with pytest.raises(TypeError, match="vae: got a str"):
        impute("vae", torch.zeros(2, 3))

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
            p_x = dist.Normal(z.unsqueeze(-1).expand(*z.shape, 2), 1.0).to_event(1)
            pyro.sample("x", distributions.Observed(p_x), obs=x[..., :2])

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))

    with pytest.raises(ValueError, match=r"values of shape \(1, 2\) .* expected x itself"):
        impute(Pair(model, guide), torch.zeros(4, 3))


def test_x_may_depend_on_a_class_of_the_model_alone() -> None:
    """The class is drawn given what is observed, so a hole is beside its neighbour."""
    loc = torch.tensor([-3.0, 3.0])

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.Categorical(logits=torch.zeros(2)))
            pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            normal = dist.Normal(loc[y][..., None].expand(*y.shape, 2), torch.ones(2))
            pyro.sample("x", Observed(normal.to_event(1)), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(len(x), 1), 1.0).to_event(1))

    x = torch.tensor([[3.0, NAN], [-3.0, NAN]])
    found = impute(Pair(model, guide), x, 4000, seed=0)
    # Means are those of the class, whose probability is 1 - e^-18.
    torch.testing.assert_close(found.mean[:, 1], torch.tensor([3.0, -3.0]), atol=0.01, rtol=0)
    error = 5 * 2.11 / 4000**0.5  # of a quantile of a normal: sqrt(p (1 - p)) / density / sqrt(K)
    ends = torch.tensor([[3 - 1.645, -3 - 1.645], [3 + 1.645, -3 + 1.645]])
    assert ((found.quantiles[[0, 2], :, 1] - ends).abs() < error).all()
