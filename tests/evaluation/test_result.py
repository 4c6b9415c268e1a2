"""Results: errors, intervals, bias, files, and figures."""

import json
import math
import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from pyro_vae import elbo, log_likelihood
from pyro_vae.evaluation import LogLikelihood, UnreliableWeights, data_hash, elbo_gap
from pyro_vae.evaluation.psis import khat_threshold

from ..vaes import bernoulli_vae, linear_gaussian


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


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [25, pytest.param(400, marks=pytest.mark.slow)])
def test_the_interval_covers_the_bounds_expectation(seeds: int) -> None:
    """In 95 % of the seeds, and log p(x) where the guide is near to exact."""
    case = linear_gaussian(exact=False, examples=10)
    near = linear_gaussian(exact=False, examples=10, shift=0.02, width=1.02)
    expected = log_likelihood(case.vae, case.x.repeat(2000, 1), 100, seed=1000).mean
    evidence = near.evidence.log_prob(near.x).mean().item()
    # As wide as 5 binomial standard deviations, but that all may lie inside where seeds are few.
    error = 5 * math.sqrt(0.95 * 0.05 * seeds)
    for vae, x, value in ((case.vae, case.x, expected), (near.vae, near.x, evidence)):
        inside = 0
        for seed in range(seeds):
            low, high = log_likelihood(vae, x, 100, seed=seed).interval(0.95)
            inside += low < value < high
        assert 0.95 * seeds - error < inside < 0.95 * seeds + error


def test_intervals_are_normal() -> None:
    case = linear_gaussian(exact=False)
    result = log_likelihood(case.vae, case.x, 100, seed=0)
    low, high = result.interval(0.6827)
    assert (high - low) / 2 == pytest.approx(result.mc_error, rel=1e-4)
    assert (high + low) / 2 == pytest.approx(result.mean)
    with pytest.raises(ValueError, match="level: got 95, expected a number between 0 and 1"):
        result.interval(95)


def test_a_paired_difference_is_exact_where_both_are() -> None:
    """Between two linear-Gaussian models, and nothing between a result and itself."""
    first, second = (linear_gaussian(exact=True, examples=50) for _ in range(2))
    own, other = (
        log_likelihood(case.vae, first.x, 10, estimator="exact") for case in (first, second)
    )
    difference = first.evidence.log_prob(first.x) - second.evidence.log_prob(first.x)
    gain, error = own.above(other)
    assert gain == pytest.approx(difference.mean().item(), rel=1e-9)
    assert error == pytest.approx(difference.std().item() / math.sqrt(50), rel=1e-9)
    back, _ = other.above(own)
    assert back == pytest.approx(-gain, rel=1e-12)
    sampled = log_likelihood(first.vae, first.x, 10, seed=0)  # the guide is exact
    assert own.above(own) == (0.0, 0.0)
    assert own.above(sampled) == pytest.approx((0.0, 0.0), abs=1e-9)
    with pytest.raises(ValueError, match="other: got a result of other data"):
        own.above(log_likelihood(first.vae, second.x, estimator="exact"))
    fewer = replace(own, values=own.values[:20], complete=False)
    with pytest.raises(ValueError, match="other: got 20 examples, expected 50"):
        own.above(fewer)


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
    with pytest.raises(ValueError, match='estimator: got "exact", which has no samples'):
        exact.plot()


def test_the_estimated_bias_is_that_of_the_bound() -> None:
    case = linear_gaussian(exact=False, examples=50)
    exact = case.evidence.log_prob(case.x).mean().item()
    copies = 200
    result = log_likelihood(case.vae, case.x.repeat(copies, 1), 20, seed=0)
    bias = result.mean - exact
    each = torch.stack((result.values, result.jackknife)).view(2, copies, 50).mean(2)
    error = each.std(1).norm().item() / math.sqrt(copies)
    assert bias < -5 * error
    # What is left of it is of second order in 1 / K.
    assert abs(bias - result.bias) < 5 * error + 0.1 * abs(bias)
    assert result.bias == pytest.approx((result.values - result.jackknife).mean().item())


def test_bounds_of_one_run_rise_to_its_value() -> None:
    case = linear_gaussian(exact=False, examples=70)
    result = log_likelihood(case.vae, case.x, 500, seed=0)
    assert result.sizes == (1, 2, 4, 8, 16, 32, 64, 128)
    assert result.bounds[0] == pytest.approx(result.elbo[:].mean().item(), abs=1e-9)
    assert all(a < b for a, b in zip(result.bounds[:5], result.bounds[1:6], strict=True))
    exact = case.evidence.log_prob(case.x).mean().item()
    assert result.bounds[-1] < exact + 5 * result.bound_errors[-1]


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
    assert (read["mc_error"] is None) == (count == 1)


def test_a_result_as_a_figure() -> None:
    case = linear_gaussian(exact=False)
    result = log_likelihood(case.vae, case.x, 100, seed=0)
    first, second = result.plot()
    assert first.containers[0].lines[0].get_xdata().tolist() == [*result.sizes, 100]
    assert sum(patch.get_height() for patch in second.patches) == 7
    assert result.plot((first, second)) == (first, second)
