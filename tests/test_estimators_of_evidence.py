"""Estimators of log p(x) against closed forms and quadrature, and what their results say."""

import json
import logging
import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

from pyro_vae import VAE, likelihoods, log_likelihood, networks, posteriors, priors
from pyro_vae.compile.trace import compiled_function
from pyro_vae.evaluation import (
    LogLikelihood,
    UnreliableWeights,
    active_units,
    blocks,
    certify,
    elbo_gap,
    posterior_predictive,
)
from pyro_vae.evaluation.blocks import Block, Scorer
from pyro_vae.evaluation.estimators.annealed_path import Path, schedule
from pyro_vae.evaluation.estimators.base import AIS
from pyro_vae.evaluation.psis import khat_threshold
from pyro_vae.evaluation.log_densities import Program
from pyro_vae.studies import engine as study
from pyro_vae.utils.memory import peak_bytes

from .conftest import needs_compiler
from .models import bernoulli_vae, linear_gaussian, log_evidence


def annealed(vae: VAE, x: Tensor, temperatures: int, seed: int = 0) -> Path:
    program = Program(vae.model, vae.guide, x)
    return Path(Block(Scorer(program), x, seed, 0, 2**28), temperatures, leapfrog_steps=4)


def test_weights_of_annealing_have_the_evidence_as_their_mean() -> None:
    """Forward w / p(x) is one in the mean, and so is p(x) / w backward from the posterior."""
    case = linear_gaussian(exact=False, examples=40)
    vae, x = case.vae, case.x
    exact = case.evidence.log_prob(x)
    with torch.no_grad():
        path = annealed(vae, x, 6)
        forward = (path.forward(0, 100) - exact).exp()
        z = case.posterior_loc + case.posterior_scale * torch.randn(100, *case.posterior_loc.shape)
        backward = (exact - path.backward({"z": z.double()})).exp()
    for ratio in (forward, backward):
        error = ratio.std().item() / math.sqrt(ratio.numel())
        assert abs(ratio.mean().item() - 1) < 4 * error
        assert error < 0.05


def test_moves_accept_what_they_are_adapted_to() -> None:
    case = linear_gaussian(exact=False, examples=20)
    with torch.no_grad():
        path = annealed(case.vae, case.x, 60)
        state = path._start(200)
        for _, beta, step in path._steps():
            accepted = path._move(state, beta, step)
    assert 0.5 < accepted.mean().item() < 0.85
    # At the end of all temperatures the chains are where the posterior is.
    z = state.u["z"]
    error = case.posterior_scale / math.sqrt(200)
    assert ((z.mean(0) - case.posterior_loc).abs() < 5 * error).all()
    torch.testing.assert_close(
        z.std(0), case.posterior_scale.expand(20, -1), rtol=5 / math.sqrt(400), atol=0
    )


def test_moves_leave_the_prior_of_a_bounded_latent_alone() -> None:
    """Behind its transform a uniform prior has a density of its own, by the Jacobian."""
    vae = VAE(
        priors.Uniform(1, -1.0, 2.0),
        likelihoods.Bernoulli(networks.MLP(1, (), 6)),
        posteriors.Squashed(posteriors.Normal(networks.MLP(6, (), 2)), -1.0, 2.0),
    ).double()
    x = torch.bernoulli(torch.full((40, 6), 0.4)).double()
    with torch.no_grad():
        path = annealed(vae, x, 1)
        state = path._start(200)
        for _ in range(20):
            path._move(state, 0.0, torch.full((40,), 0.5).double())
        z = path.transforms["z"](state.u["z"])
    count = z.numel()
    assert abs(z.mean().item() - 0.5) < 4 * 3 / math.sqrt(12 * count)
    # The variance of a uniform's squared deviation is (3^4) / 180.
    assert abs((z - 0.5).square().mean().item() - 0.75) < 4 * math.sqrt(81 / 180 / count)


def test_temperatures_rise_from_nothing_to_one() -> None:
    betas = schedule(50)
    assert betas[0] == 0
    assert betas[-1] == 1
    assert (betas.diff() > 0).all()
    assert schedule(1).tolist() == [0, 1]
    torch.testing.assert_close(betas + betas.flip(0), torch.ones(51).double())


def test_moves_out_of_the_float_range_are_rejected() -> None:
    """Rates that overflow on the way, and a latent that underflows."""
    vae = bernoulli_vae(1)
    wild = VAE(
        vae.prior,
        likelihoods.Poisson(networks.MLP(1, (), 6)),
        vae.posterior,
    )
    with torch.no_grad():
        wild.likelihood.network.layers[0].weight.mul_(20)
    x = torch.full((5, 6), 200.0)
    result = log_likelihood(wild, x, 4, estimator=AIS(5, 10), seed=0)
    assert not result.values.isnan().any()


@pytest.mark.parametrize("estimator", ["importance", "prior"])
def test_memory_is_that_of_a_part(estimator: Any) -> None:
    """Four times the samples take no more of it, and nowhere are all pairs there at once."""
    vae = VAE(
        priors.StandardNormal(2),
        likelihoods.Bernoulli(networks.MLP(2, (), 400)),
        posteriors.Normal(networks.MLP(400, (), 4)),
    )
    x = torch.bernoulli(torch.full((64, 400), 0.4))
    few, many = (
        peak_bytes(lambda count=count: log_likelihood(  # type: ignore[misc]
            vae, x, count, estimator=estimator, seed=0, max_bytes=2**22
        ))
        for count in (64, 128)
    )  # fmt: skip
    all_pairs = 64 * 64 * 400 * 4
    assert few < all_pairs
    assert many < 1.5 * few


def test_wrong_estimators_and_vaes() -> None:
    vae, x = bernoulli_vae(), torch.zeros(2, 6)
    for wrong in (AIS, None, 3):
        with pytest.raises(TypeError, match=r"estimator: got .*, expected a name or an est"):
            log_likelihood(vae, x, 5, estimator=wrong)
    for call in (
        lambda: certify(nn.Identity()),
        lambda: active_units(nn.Identity(), x),
        lambda: posterior_predictive(nn.Identity(), x, torch.sum),
    ):
        with pytest.raises(TypeError, match="vae: got a Identity, expected a VAE"):
            call()


PRIORS: dict[str, Callable[[], nn.Module]] = {
    "StudentT": lambda: priors.StudentT(1, df=3.0),
    "Laplace": lambda: priors.Laplace(1),
    "GaussianMixture": lambda: priors.GaussianMixture(1, 3),
}


@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize("estimator", ["importance", "prior", AIS(40, 4)])
def test_estimators_agree_with_quadrature(prior: str, estimator: Any) -> None:
    vae = bernoulli_vae(1)
    vae = VAE(PRIORS[prior](), vae.likelihood, vae.posterior).double()
    x = torch.bernoulli(torch.full((20, 6), 0.4)).double()
    exact = log_evidence(vae, x, points=40_001, limit=100.0)
    count = 32 if isinstance(estimator, AIS) else 4000
    result = log_likelihood(vae, x, count, estimator=estimator, seed=0)
    bias = 20 * result.mc_error**2 / 2
    # A Student t and a normal guide: its errors are a little too small, by their tails.
    assert abs(result.mean + bias - exact.mean().item()) < 5 * result.mc_error + 1e-6


@pytest.mark.parametrize("estimator", ["importance", "prior", AIS(40, 4)])
def test_a_bounded_latent_agrees_with_quadrature(estimator: Any) -> None:
    narrow = posteriors.Normal(networks.MLP(6, (), 2))
    vae = VAE(
        priors.Uniform(1, -1.0, 2.0),
        likelihoods.Bernoulli(networks.MLP(1, (8,), 6, nn.Tanh)),
        posteriors.Squashed(narrow, -1.0, 2.0),
    ).double()
    x = torch.bernoulli(torch.full((20, 6), 0.4)).double()
    line = torch.linspace(-1, 2, 20_001).double()
    middle = (line[1:] + line[:-1]) / 2
    with torch.no_grad():
        z = middle[:, None, None].expand(-1, 20, 1)
        exact = vae.likelihood(z).log_prob(x).logsumexp(0) - math.log(20_000)
    count = 32 if isinstance(estimator, AIS) else 4000
    result = log_likelihood(vae, x, count, estimator=estimator, seed=0)
    bias = 20 * result.mc_error**2 / 2
    assert abs(result.mean + bias - exact.mean().item()) < 5 * result.mc_error + 1e-6


@pytest.mark.parametrize(
    ("estimator", "count"), [("importance", 50), ("prior", 50), (AIS(20, 4), 8)]
)
def test_a_certificate_holds_the_evidence_between_its_bounds(estimator: Any, count: int) -> None:
    case = linear_gaussian(exact=False)
    result = certify(case.vae, 200, count, estimator=estimator, seed=0)
    exact = case.evidence.log_prob(result.x)
    for side, bound in ((1, exact - result.lower), (-1, exact - result.upper)):
        error = bound.std().item() / math.sqrt(200)
        assert side * bound.mean().item() > -4 * error
    assert result.gap == pytest.approx((result.upper - result.lower).mean().item())
    assert result.gap > 0
    assert "gap=" in repr(result)


def test_a_certificate_is_tight_at_the_exact_posterior() -> None:
    case = linear_gaussian(exact=True)
    result = certify(case.vae, 70, 3, estimator="importance", seed=0)
    exact = case.evidence.log_prob(result.x)
    torch.testing.assert_close(result.lower, exact)
    torch.testing.assert_close(result.upper, exact)
    with pytest.raises(ValueError, match='estimator: got "exact", which has no error'):
        certify(case.vae, estimator="exact")


def test_the_naive_estimator_fails_as_latents_grow() -> None:
    """Its error grows far faster with z_dim than that of a guide that is a little off."""
    errors: dict[str, list[float]] = {"prior": [], "importance": []}
    for z_dim in (1, 4, 12):
        case = linear_gaussian(
            exact=False, examples=30, z_dim=z_dim, x_dim=20, shift=0.05, width=1.2, s=0.2
        )
        exact = case.evidence.log_prob(case.x).mean().item()
        for name, found in errors.items():
            found.append(exact - log_likelihood(case.vae, case.x, 100, estimator=name).mean)
    assert errors["prior"][-1] > 10 * errors["prior"][0] + 10
    assert errors["prior"][-1] > 50 * errors["importance"][-1]


class TestExact:
    def test_priors_that_are_not_standard(self) -> None:
        """Against importance weights of many samples."""
        covariance = torch.tensor([[1.0, 0.6], [0.6, 2.0]]).double()

        def prior() -> dist.Distribution:
            return dist.MultivariateNormal(torch.tensor([0.5, -1.0]).double(), covariance)

        vae = linear_gaussian(exact=False, examples=20).vae
        vae = VAE(prior, vae.likelihood, vae.posterior)
        x = vae.generate(20, sample=True)
        exact = log_likelihood(vae, x, estimator="exact")
        result = log_likelihood(vae, x, 20_000, estimator="prior", seed=0)
        error = (1 / result.ess - 1 / 20_000).sqrt()
        assert ((result.values - exact.values).abs() < 5 * error).all()
        assert exact.num_samples == 0
        assert exact.mc_error == 0
        assert exact.estimator == "exact"
        assert exact.interval() == (exact.mean, exact.mean)

    @pytest.mark.parametrize(
        ("prior", "likelihood", "message"),
        [
            (priors.Laplace(2), None, r"prior: got .*Laplace.*, expected a normal"),
            (None, likelihoods.Bernoulli(networks.MLP(2, (), 5)), "expected independent normals"),
            (
                None,
                likelihoods.Gaussian(networks.MLP(2, (4,), 5), scale=1.0),
                "its mean is not affine in z",
            ),
            (
                None,
                likelihoods.Gaussian(networks.MLP(2, (), (2, 5)), scale="pixel"),
                "its scale depends on z",
            ),
        ],
    )
    def test_what_has_no_closed_form(
        self, prior: nn.Module | None, likelihood: nn.Module | None, message: str
    ) -> None:
        vae = VAE(
            prior or priors.StandardNormal(2),
            likelihood or likelihoods.Gaussian(networks.MLP(2, (), 5), scale=1.0),
            posteriors.Normal(networks.MLP(5, (), 4)),
        )
        with pytest.raises(ValueError, match=message):
            log_likelihood(vae, torch.zeros(3, 5), estimator="exact")


# What a result says.


def test_the_interval_covers_the_bounds_expectation() -> None:
    """Over 200 seeds, in 90 to 99 %, and log p(x) where the guide is near to exact."""
    case = linear_gaussian(exact=False, examples=10)
    expected = log_likelihood(case.vae, case.x.repeat(4000, 1), 100, seed=1000).mean
    inside = 0
    for seed in range(200):
        low, high = log_likelihood(case.vae, case.x, 100, seed=seed).interval(0.95)
        inside += low < expected < high
    assert 180 <= inside <= 198

    near = linear_gaussian(exact=False, examples=10, shift=0.02, width=1.02)
    evidence = near.evidence.log_prob(near.x).mean().item()
    inside = 0
    for seed in range(200):
        low, high = log_likelihood(near.vae, near.x, 100, seed=seed).interval(0.95)
        inside += low < evidence < high
    assert 180 <= inside <= 198


def test_intervals_are_normal() -> None:
    case = linear_gaussian(exact=False)
    result = log_likelihood(case.vae, case.x, 100, seed=0)
    low, high = result.interval(0.6827)
    assert (high - low) / 2 == pytest.approx(result.mc_error, rel=1e-4)
    assert (high + low) / 2 == pytest.approx(result.mean)
    with pytest.raises(ValueError, match="level: got 95, expected a number between 0 and 1"):
        result.interval(95)


def test_heavy_tails_are_told() -> None:
    case = linear_gaussian(exact=False, examples=30)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = log_likelihood(case.vae, case.x, 1000, seed=0)
    assert not result.unreliable.any()
    tight = linear_gaussian(exact=False, examples=30, width=0.3)
    with pytest.warns(UnreliableWeights, match=r"k-hat is above 0\.67, .* for \d+ of 30 exam"):
        result = log_likelihood(tight.vae, tight.x, 1000, seed=0)
    assert torch.equal(result.unreliable, result.khat > khat_threshold(1000))
    # The gap that rests on such a value is no better.
    with pytest.warns(UnreliableWeights, match=r"k-hat is above 0\.67"):
        elbo_gap(tight.vae, tight.x, 1000, steps=1, seed=0)


def test_too_few_samples_for_a_khat_are_told() -> None:
    case = linear_gaussian(exact=False, examples=3)
    with pytest.warns(UnreliableWeights, match="20 samples are too few for a k-hat, which takes"):
        result = log_likelihood(case.vae, case.x, 20, seed=0)
    assert result.khat.isnan().all()
    assert not result.unreliable.any()
    log_likelihood(case.vae, case.x, 20, seed=0).plot()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        exact = log_likelihood(case.vae, case.x, estimator="exact")
        log_likelihood(linear_gaussian(exact=True).vae, case.x, 21, seed=0)  # equal weights
    with pytest.raises(ValueError, match="estimator: an exact log-likelihood has no samples"):
        exact.plot()


def test_settings_of_an_estimator_are_kept(tmp_path: Any) -> None:
    case = linear_gaussian(exact=False, examples=3)
    named = log_likelihood(case.vae, case.x, 3, estimator="ais:4:2", seed=0)
    given = log_likelihood(case.vae, case.x, 3, estimator=AIS(np.int64(4), 2), seed=0)
    given.save(tmp_path / "result.json")
    assert torch.equal(named.values, given.values)
    assert named.to_dict()["estimator_settings"] == {"temperatures": 4, "leapfrog_steps": 2}
    assert log_likelihood(case.vae, case.x, 3, seed=0).estimator_settings == {}


def test_the_estimated_bias_is_that_of_the_bound() -> None:
    case = linear_gaussian(exact=False, examples=50)
    exact = case.evidence.log_prob(case.x).mean().item()
    results = [log_likelihood(case.vae, case.x, 20, seed=seed) for seed in range(200)]
    bias = torch.tensor([r.mean for r in results]).double() - exact
    told = torch.tensor([r.bias for r in results]).double()
    error = math.hypot(bias.std().item(), told.std().item()) / math.sqrt(200)
    assert bias.mean().item() < -5 * error
    # What is left of it is of second order in 1 / K.
    assert abs(bias.mean().item() - told.mean().item()) < 4 * error + 0.1 * abs(bias.mean().item())
    each = (results[0].values - results[0].jackknife).mean().item()
    assert results[0].bias == pytest.approx(each)


def test_bounds_of_one_run_rise_to_its_value() -> None:
    case = linear_gaussian(exact=False, examples=70)
    result = log_likelihood(case.vae, case.x, 500, seed=0)
    assert result.sizes == (1, 2, 4, 8, 16, 32, 64, 128)
    assert result.bounds[0] == pytest.approx(result.elbo[:].mean().item(), abs=1e-9)
    assert all(a < b for a, b in zip(result.bounds[:5], result.bounds[1:6], strict=True))
    exact = case.evidence.log_prob(case.x).mean().item()
    assert result.bounds[-1] < exact + 4 * result.bound_errors[-1]


class Interrupted(nn.Module):
    """A likelihood in the middle of whose calls the user presses Ctrl-C."""

    def __init__(self, likelihood: nn.Module) -> None:
        super().__init__()
        self.likelihood = likelihood
        self.left = math.inf

    def forward(self, z: Tensor) -> dist.Distribution:
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        return self.likelihood(z)


def test_an_interruption_returns_what_is_done() -> None:
    vae = bernoulli_vae()
    part = Interrupted(vae.likelihood)
    vae = VAE(vae.prior, part, vae.posterior)
    x = torch.bernoulli(torch.full((200, 6), 0.4))
    whole = log_likelihood(vae, x, 100, seed=0)
    assert whole.complete
    state = torch.get_rng_state()
    part.left = 15
    result = log_likelihood(vae, x, 100, seed=0)
    assert not result.complete
    assert 0 < len(result.values) < 200
    assert len(result.values) % 64 == 0
    assert torch.equal(result.values, whole.values[: len(result.values)])
    assert result.mean == pytest.approx(result.values.mean().item())
    assert result.data_hash == whole.data_hash
    assert torch.equal(torch.get_rng_state(), state)
    assert vae.training
    part.left = 5
    with pytest.raises(KeyboardInterrupt):
        log_likelihood(vae, x, 100, seed=0)


def test_an_interruption_ends_what_is_made_of_log_likelihoods() -> None:
    """A study keeps no part of a row as if it were the row."""
    vae = bernoulli_vae()
    part = Interrupted(vae.likelihood)
    vae = VAE(vae.prior, part, vae.posterior)
    x = torch.bernoulli(torch.full((200, 6), 0.4))
    part.left = 15
    with pytest.raises(KeyboardInterrupt):
        elbo_gap(vae, x, 100, seed=0)
    levels = (255 * x).to(torch.uint8)
    settings = study.settings_of(levels, levels, pixels="binary", epochs=1, num_samples=100)
    part.left = 15
    with pytest.raises(KeyboardInterrupt):
        study.judged("row", vae, levels, settings, 0.0)


@pytest.mark.parametrize("count", [1, 100])
def test_a_result_as_json(count: int, tmp_path: Any) -> None:
    case = linear_gaussian(exact=True)
    result = log_likelihood(case.vae, case.x, np.int64(count), seed=np.int64(5))
    record = result.to_dict()
    assert record.keys() == LogLikelihood.__dataclass_fields__.keys()
    assert record["values"] == result.values.tolist()
    result.save(tmp_path / "result.json")
    text = (tmp_path / "result.json").read_text()
    read = json.loads(text, parse_constant=pytest.fail)
    assert read["values"] == result.values.tolist()
    assert read["seed"] == 5
    assert [float(v) for v in read["ess"]] == result.ess.tolist()
    assert (read["mc_error"] == "nan") == (count == 1)


def test_a_result_as_a_figure() -> None:
    case = linear_gaussian(exact=False)
    result = log_likelihood(case.vae, case.x, 100, seed=0)
    first, second = result.plot()
    assert first.containers[0].lines[0].get_xdata().tolist() == [*result.sizes, 100]
    assert sum(patch.get_height() for patch in second.patches) == 7
    assert result.plot((first, second)) == (first, second)


@needs_compiler
def test_compiled_scores_are_those_of_the_program(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """For shapes that come often; what is no static program runs as it is."""
    vae, x = bernoulli_vae(2), torch.bernoulli(torch.full((342, 6), 0.4))
    plain = log_likelihood(vae, x, 300, seed=0)
    monkeypatch.setattr(blocks, "COMPILED_FROM", 0)
    compiled = []

    def counted(*arguments: Any) -> Any:
        compiled.append(arguments)
        return compiled_function(*arguments)

    monkeypatch.setattr(blocks, "compiled_function", counted)
    result = log_likelihood(vae, x, 300, seed=0)
    # Whole blocks alone: a single pair, of which memory is asked, is none to compile for.
    assert {len(arguments[1][0]) for arguments in compiled} <= {64, 22}
    torch.testing.assert_close(result.values, plain.values, rtol=1e-5, atol=0)
    torch.testing.assert_close(result.khat, plain.khat, rtol=1e-2, atol=1e-2)

    class Reads(nn.Module):
        def forward(self, z: Tensor) -> dist.Distribution:
            if z.sum() > 1e9:
                raise AssertionError
            return vae.likelihood(z)

    dynamic = VAE(vae.prior, Reads(), vae.posterior)
    with caplog.at_level(logging.INFO, "pyro_vae.blocks"):
        result = log_likelihood(dynamic, x, 300, seed=0)
    assert "a score runs uncompiled: compiled: the model or the guide reads" in caplog.text
    torch.testing.assert_close(result.values, plain.values, rtol=1e-5, atol=0)


@needs_compiler
def test_compiled_scores_say_where_nan_comes_from() -> None:
    vae, x = bernoulli_vae(2), torch.bernoulli(torch.full((64, 6), 0.4))
    with torch.no_grad():
        scorer = Scorer(Program(vae.model, vae.guide, x), blocks.COMPILED_FROM)
        for _ in range(5):
            z, _ = scorer.draw(x, 8)
            scorer.score(x, z)
        assert len(scorer._compiled) == 2
        with pytest.raises(ValueError, match="likelihood: Expected parameter logits"):
            scorer.score(x, {"z": torch.full_like(z["z"], math.inf)})
        next(vae.posterior.parameters()).fill_(math.nan)
        with pytest.raises(ValueError, match="posterior: Expected parameter loc"):
            scorer.draw(x, 8)
