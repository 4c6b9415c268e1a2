"""A mask with a model: against quadrature, and against a VAE where the mask says nothing."""

import copy
import math
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyro_vae import (
    VAE,
    elbo,
    fit,
    likelihoods,
    load,
    log_likelihood,
    models,
    networks,
    objectives,
    optim,
    posteriors,
    priors,
    save,
)
from pyro_vae.evaluation import (
    active_units,
    calibration,
    certify,
    elbo_gap,
    impute,
    posterior_predictive,
)

from ..conftest import needs_compiler
from ..holes import NAN, holed
from ..swaps import mlp
from ..tolerances import CLOSE
from ..vaes import common_noise, parameters

SCALE = 0.7


class SelfCensored(nn.Module):
    """Each entry is observed by its own value, P(s_d = 1 | x) = sigmoid(a x_d + b)."""

    def __init__(self, slope: float = -2.0, offset: float = 0.5) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(slope))
        self.offset = nn.Parameter(torch.tensor(offset))

    def forward(self, x: Tensor) -> dist.Distribution:
        return dist.Bernoulli(logits=self.slope * x + self.offset).to_event(1)


def censored(slope: float = -2.0) -> models.NotMissingAtRandom:
    """z ~ N(0, 1), x | z ~ N(W z + b, 0.49), and a self-censoring mask, in float64."""
    decoder = networks.MLP(1, (), 2)
    with torch.no_grad():
        decoder.layers[0].weight.copy_(torch.tensor([[1.0], [0.6]]))
        decoder.layers[0].bias.copy_(torch.tensor([0.3, -0.2]))
    return models.NotMissingAtRandom(
        priors.StandardNormal(1),
        likelihoods.Gaussian(decoder, scale=SCALE),
        posteriors.Normal(networks.Observed(mlp((2, 2), 2))),
        SelfCensored(slope),
    ).double()


X = torch.tensor([[0.5, NAN], [NAN, NAN], [NAN, 0.2], [0.1, 0.9]]).double()


class Grid:
    """Everything of :func:`censored` by sums over z and, for each entry, over its value."""

    def __init__(self, pair: models.NotMissingAtRandom) -> None:
        self.line = torch.linspace(-9, 9, 1801).double()
        self.step = (self.line[1] - self.line[0]).item()
        layer = pair.likelihood.network.layers[0]
        self.loc = (self.line[:, None] * layer.weight[:, 0] + layer.bias).detach()
        self.seen = lambda x: F.logsigmoid(pair.missing.slope * x + pair.missing.offset).detach()
        self.lost = lambda x: F.logsigmoid(-pair.missing.slope * x - pair.missing.offset).detach()

    def given_z(self, d: int, value: float) -> Tensor:
        """log p(x_d, s_d | z) for each z; if x_d is missing, for each z and each x_d."""
        loc = self.loc[:, d]
        if math.isnan(value):
            return dist.Normal(loc[:, None], SCALE).log_prob(self.line) + self.lost(self.line)
        x = torch.tensor(value).double()
        return dist.Normal(loc, SCALE).log_prob(x) + self.seen(x)

    def joint(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        parts = [self.given_z(d, value) for d, value in enumerate(x.tolist())]
        summed = [p if p.dim() == 1 else p.logsumexp(1) + math.log(self.step) for p in parts]
        log_z = dist.Normal(0.0, 1.0).log_prob(self.line) + sum(summed)
        return log_z, [
            p - s[:, None] if p.dim() == 2 else p for p, s in zip(parts, summed, strict=True)
        ]

    def evidence(self, x: Tensor) -> Tensor:
        return torch.stack([self.joint(e)[0].logsumexp(0) + math.log(self.step) for e in x])

    def density(self, x: Tensor, d: int) -> Tensor:
        """p(x_d | x_obs, s) of a missing entry, on the grid."""
        log_z, parts = self.joint(x)
        return (log_z.softmax(0)[:, None] * parts[d].exp()).sum(0)


@pytest.mark.parametrize(
    "estimator", ["importance", "prior", pytest.param("ais:40:5", marks=pytest.mark.slow)]
)
def test_log_likelihood_is_that_of_what_is_observed_and_of_the_mask(estimator: str) -> None:
    pair = censored()
    result = log_likelihood(pair, X, 2000, estimator=estimator, seed=0)
    error = (1 / result.ess - 1 / 2000).sqrt()
    assert ((result.values - Grid(pair).evidence(X)).abs() < 4 * error).all()
    assert abs(result.mean - Grid(pair).evidence(X).mean()) < 3 * result.mc_error


def test_imputations_know_why_an_entry_is_missing() -> None:
    """High values are missing, so what is missing is higher than a VAE would think."""
    pair, levels = censored(), (0.05, 0.5, 0.95)
    result = impute(pair, X, 20000, quantiles=levels, num_draws=4000, seed=0)
    grid = Grid(pair)
    for n, d in torch.isnan(X).nonzero().tolist():
        density, ess = grid.density(X[n], d), result.ess[n]
        assert density.sum().item() * grid.step == pytest.approx(1.0, abs=1e-6)
        mean = (density * grid.line).sum() * grid.step
        spread = ((density * grid.line.square()).sum() * grid.step - mean.square()).sqrt()
        assert (result.mean[n, d] - mean).abs() < 4 * spread / ess.sqrt()
        both = (1 / ess + 1 / 4000).sqrt()
        assert (result.draws[:, n, d].mean() - mean).abs() < 4 * spread * both
        reached = density.cumsum(0) * grid.step
        for level, found in zip(levels, result.quantiles[:, n, d], strict=True):
            place = int((reached < level).sum())
            error = math.sqrt(level * (1 - level) / ess) / density[place]
            assert (found - grid.line[place]).abs() < 4 * error + grid.step
    vae = VAE(pair.prior, likelihoods.Observed(pair.likelihood), pair.posterior)
    naive = impute(vae, X, 2000, seed=0)
    assert (result.mean - naive.mean)[X.isnan()].min() > 0.2


def test_a_mask_that_does_not_depend_on_x_changes_nothing() -> None:
    """log p(x_obs, s) = log p(x_obs) + log p(s), weight by weight, and the ELBO alike."""
    pair, x = censored(slope=0.0), holed(torch.randn(40, 2).double())
    vae = VAE(pair.prior, likelihoods.Observed(pair.likelihood), pair.posterior)
    log_p_s = pair.missing(x.nan_to_num()).log_prob((~x.isnan()).double()).detach()
    one, other = (log_likelihood(p, x, 2000, seed=0) for p in (pair, vae))
    error = (1 / one.ess + 1 / other.ess - 2 / 2000).clamp(min=0).sqrt()
    assert ((one.values - log_p_s - other.values).abs() <= 4.5 * error + CLOSE).all()
    # The latent entries are those of the likelihood in model and guide, so their KL is zero.
    own, theirs = (elbo(p, x, 200, seed=0) for p in (pair, vae))
    gap = own.kl - theirs.kl
    assert gap.abs().max() < 5 * (own.kl_mc_error + theirs.kl_mc_error) * len(x) ** 0.5


def test_complete_data_are_those_of_a_vae_and_a_classifier() -> None:
    pair, x = censored(), torch.randn(7, 2).double()
    vae = VAE(pair.prior, pair.likelihood, pair.posterior)
    expected = pair.missing(x).log_prob(torch.ones(7, 2).double()).detach()
    model = pair.model
    for each in (pair, vae):
        trace = pyro.poutine.trace(
            pyro.poutine.condition(each.model, data={"z": torch.ones(7, 1).double()})
        ).get_trace(x)
        trace.compute_log_prob()
        if each is pair:
            own = trace
    assert torch.equal(own.nodes["x"]["log_prob"], trace.nodes["x"]["log_prob"])
    assert not own.nodes["x_missing"]["log_prob"].any()
    assert torch.equal(own.nodes["mask"]["log_prob"].detach(), expected)
    assert torch.equal(model(x), x)


@pytest.mark.parametrize("name", ["trace_elbo", "iwae", "sticking_the_landing"])
def test_gradients_are_those_of_finite_differences(name: str) -> None:
    objective = {
        "trace_elbo": objectives.trace_elbo(num_particles=2),
        "iwae": objectives.iwae(3),
        "sticking_the_landing": objectives.trace_elbo(),
    }[name]
    pair = censored()

    def loss() -> Tensor:
        return torch.as_tensor(objective.differentiable_loss(pair.model, pair.guide, X))

    own = list(pair.parameters())
    loss()  # The first call finds the plates.
    torch.manual_seed(1)
    gradients = torch.autograd.grad(loss(), own)
    for parameter, gradient in zip(own, gradients, strict=True):
        place = (0,) * parameter.dim()
        ends = []
        for sign in (1, -1):
            with torch.no_grad():
                parameter[place] += sign * 1e-5
                ends.append(common_noise(lambda: loss().item()))
                parameter[place] -= sign * 1e-5
        assert gradient[place].item() == pytest.approx(
            (ends[0] - ends[1]) / 2e-5, rel=1e-5, abs=1e-7
        )


@needs_compiler
@pytest.mark.usefixtures("float64", "code")
@pytest.mark.parametrize("name", ["trace_elbo", "iwae", "dreg"])
def test_compiled_it_is_the_same_training(name: str) -> None:
    start = censored()
    x = start.model(num_samples=23).detach()
    trained = []
    for compile in (True, False):
        pair = copy.deepcopy(start)
        objective = getattr(objectives, name)(3)
        fit(pair, x, epochs=2, batch_size=5, objective=objective, compile=compile)
        trained.append(parameters(pair))
    assert torch.allclose(trained[0], trained[1], rtol=CLOSE, atol=CLOSE)
    assert not torch.equal(trained[0], parameters(start))


@pytest.mark.slow
def test_training_finds_the_censoring() -> None:
    """With the rest held at what is true, the slope of the mask comes back."""
    truth = censored()
    x = truth.model(num_samples=4000).detach()
    pair = copy.deepcopy(truth)
    for part in (pair.likelihood, pair.prior):
        part.requires_grad_(False)
    with torch.no_grad():
        pair.missing.slope.zero_()
        pair.missing.offset.zero_()
    settings: dict[str, Any] = {"objective": objectives.iwae(20), "optim": optim.Adam(lr=1e-2)}
    fit(pair, x, epochs=40, batch_size=200, compile=False, **settings)
    assert pair.missing.slope.item() == pytest.approx(-2.0, abs=0.4)
    assert pair.missing.offset.item() == pytest.approx(0.5, abs=0.2)


def test_binary_x_trains_by_the_score_function() -> None:
    pair = models.NotMissingAtRandom(
        priors.StandardNormal(2),
        likelihoods.Bernoulli(mlp(2, 3)),
        posteriors.Normal(networks.Observed(mlp((2, 3), 4))),
        lambda x: dist.Bernoulli(logits=1 - x).to_event(1),
    )
    x = holed(torch.bernoulli(torch.full((20, 3), 0.5)))
    history = fit(pair, x, epochs=2, batch_size=8, compile=False)
    assert torch.tensor(history.cost).isfinite().all()
    result = impute(pair, x, 200, num_draws=5, seed=0)
    assert set(result.draws.unique().tolist()) == {0.0, 1.0}


def test_a_likelihood_of_what_is_observed_is_taken_as_that_of_complete_x() -> None:
    pair = censored()
    other = models.NotMissingAtRandom(
        pair.prior, likelihoods.Observed(pair.likelihood), pair.posterior, pair.missing
    )
    one, two = (log_likelihood(p, X, 64, seed=0) for p in (pair, other))
    assert torch.equal(one.values, two.values)


def test_criticism_and_simulated_data() -> None:
    pair = censored()
    x = pair.model(num_samples=150).detach()
    assert x.isnan().any(0).all()
    shares = (~x.isnan()).double()
    assert ((shares.mean(0) > 0.2) & (shares.mean(0) < 0.9)).all()
    bounds = certify(pair, x=x, num_samples=64, estimator="importance", seed=0)
    assert bounds.gap > -3 * bounds.gap_error
    assert bounds.x.isnan().any()
    assert list(active_units(pair, x, seed=0).shapes) == ["z"]
    gap = elbo_gap(pair, x[:9], 100, steps=20, seed=0)
    assert gap.amortization_mean > -0.5
    some = x[x.isnan().sum(1) < 2]
    check = posterior_predictive(pair, some, lambda x: x.nanmean(-1), 20, seed=0)
    assert 0 <= check.p_value <= 1


@pytest.mark.slow
def test_chains_draw_from_the_posterior_of_latents_and_missing_entries() -> None:
    pair = censored()
    result = calibration(pair, 300, 19, method="ais:30:5", x=torch.zeros(1, 2).double(), seed=0)
    assert set(result.verdicts) == {"calibrated"}


def test_points_and_files(tmp_path) -> None:  # type: ignore[no-untyped-def]
    pair = censored()
    assert pair.embed(X).shape == (4, 1)
    for made in (pair.reconstruct(X), pair.decode(torch.zeros(4, 1)), pair.generate(4)):
        assert made.shape == (4, 2)
        assert made.isfinite().all()
    assert pair.generate(4, sample=True).isfinite().all()
    assert pair.guide(X).shape == (4, 1)
    save(pair, tmp_path / "run")
    other = censored(slope=1.0)
    load(tmp_path / "run", into=other)
    assert torch.equal(parameters(pair), parameters(other))


def test_a_context_reaches_every_part() -> None:
    class Missing(nn.Module):
        def forward(self, x: Tensor, label: Tensor) -> dist.Distribution:
            return dist.Bernoulli(logits=x - label.unsqueeze(-1)).to_event(1)

    joined = networks.Conditioned(networks.MLP(2 + 3, (), 3), (), classes=3)
    pair = models.NotMissingAtRandom(
        priors.StandardNormal(2),
        likelihoods.Gaussian(joined, scale=1.0),
        posteriors.Normal(networks.Observed(mlp((2, 3), 4))),
        Missing(),
    )
    x, label = holed(torch.randn(6, 3)), torch.arange(6) % 3
    fit(pair, (x, label), epochs=1, compile=False)
    assert log_likelihood(pair, (x, label), 30, seed=0).values.isfinite().all()
    assert impute(pair, (x, label), 30, seed=0).mean.isfinite().all()
    assert pair.generate(2, context=label[:3]).shape == (6, 3)
    assert pair.model(None, label[:3], num_samples=2).shape == (6, 3)


def test_parts_that_do_not_fit_are_named() -> None:
    pair = censored()
    parts = pair.prior, pair.likelihood, pair.posterior
    wrong = models.NotMissingAtRandom(*parts, lambda x: dist.Bernoulli(logits=x))
    with pytest.raises(
        ValueError, match=r"missing: got batch_shape \(1, 2\) and event_shape \(\)"
    ):
        wrong.model(X)
    with pytest.raises(TypeError, match="missing: got a str"):
        models.NotMissingAtRandom(*parts, "mask")

    class Full(nn.Module):
        def forward(self, z: Tensor) -> dist.Distribution:
            return dist.MultivariateNormal(z.new_zeros(*z.shape[:-1], 2), torch.eye(2).double())

    full = models.NotMissingAtRandom(pair.prior, Full(), pair.posterior, pair.missing)
    with pytest.raises(ValueError, match=r"MultivariateNormal.* not independent"):
        full.guide(X)
    with pytest.raises(ValueError, match=r"got shape \(4, 3\)"):
        pair.model(torch.zeros(4, 3).double())
    with pytest.raises(ValueError, match=r"estimator: got \"exact\" for a pair"):
        log_likelihood(pair, X, estimator="exact")
    with pytest.raises(ValueError, match=r"analytic KL .*x_missing"):
        elbo(pair, X, kl="analytic")
