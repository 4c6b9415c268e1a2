"""Streamed statistics of importance weights against those of all weights at once."""

import math

import pytest
import torch
from pyro.ops.stats import fit_generalized_pareto
from torch import Tensor

from pyro_vae.evaluation.importance_weights import CHUNK, Statistics, Weights
from pyro_vae.evaluation.psis import khat, khat_threshold, tail_length


def streamed(log_w: Tensor) -> Statistics:
    """By a tensor that is filled anew for each chunk."""
    weights, memory = Weights(len(log_w)), torch.empty_like(log_w[:CHUNK])
    for chunk in log_w.split(CHUNK):
        weights.add(memory[: len(chunk)].copy_(chunk))
    return weights.statistics()


@pytest.mark.parametrize("count", [2, 7, 50, 64, 65, 1000, 1024, 1154, 2500])
def test_streamed_statistics_are_those_of_all_weights_at_once(count: int) -> None:
    log_w = 2 * torch.randn(count, 6).double() - 500
    found = streamed(log_w)
    value = log_w.logsumexp(0) - math.log(count)
    w = (log_w - value).exp()
    torch.testing.assert_close(found.value, value)
    torch.testing.assert_close(found.log_mean, log_w.mean(0))
    torch.testing.assert_close(found.ess, w.sum(0).square() / w.square().sum(0))
    torch.testing.assert_close(found.variance, w.var(0) / count)
    # Leaving out each weight in turn, and the jackknife's formula.
    left_out = torch.stack(
        [torch.cat((log_w[:i], log_w[i + 1 :])).logsumexp(0) for i in range(count)]
    ) - math.log(count - 1)
    jackknife = count * value - (count - 1) * left_out.mean(0)
    torch.testing.assert_close(found.jackknife, jackknife, rtol=0, atol=1e-8)


@pytest.mark.parametrize("count", [64, 100, 130, 1000, 1024, 1154, 4500])
def test_bounds_of_fewer_samples_are_means_over_groups(count: int) -> None:
    log_w = torch.randn(count, 3).double()
    found = streamed(log_w)
    assert found.sizes == tuple(2**i for i in range(len(found.sizes)))
    assert count / 4 < found.sizes[-1] <= count / 2
    for size, bound, variance in zip(
        found.sizes, found.bounds, found.bound_variances, strict=True
    ):
        # Groups do not reach over the end of a chunk that is not whole.
        groups = torch.cat(
            [
                part[: len(part) // size * size].unflatten(0, (-1, size)).logsumexp(1)
                for part in ([log_w] if size > CHUNK else log_w.split(CHUNK))
                if len(part) >= size
            ]
        ) - math.log(size)
        torch.testing.assert_close(bound, groups.mean(0))
        torch.testing.assert_close(variance, groups.var(0) / len(groups))


def test_khat_is_that_of_pyro() -> None:
    log_w = 2 * torch.randn(1000, 20).double()
    found = streamed(log_w).khat
    tail = tail_length(1000)
    assert tail == 95
    w = log_w.sort(0, descending=True).values.exp()
    for i in range(20):
        expected, _ = fit_generalized_pareto(w[:tail, i] - w[tail, i])
        assert found[i].item() == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize("shape", [0.2, 0.7, 1.5])
def test_khat_finds_the_shape_of_a_pareto_tail(shape: float) -> None:
    """Weights u^-k have a tail of shape k."""
    log_w = -shape * torch.rand(20_000, 50).double().log()
    found = streamed(log_w).khat
    # The estimate's standard error is about (1 + k) / sqrt(M), M = 425, and it is drawn to 1/2.
    tail = tail_length(20_000)
    expected = (tail * shape + 5) / (tail + 10)
    assert abs(found.mean().item() - expected) < 4 * (1 + shape) / math.sqrt(tail * 50)


def test_khat_where_there_is_no_tail() -> None:
    assert streamed(torch.full((100, 2), -3.0)).khat.eq(-math.inf).all()
    assert streamed(torch.randn(20, 2)).khat.isnan().all()  # a tail of 4
    assert not streamed(torch.randn(21, 2)).khat.isnan().any()
    equal = torch.cat((torch.ones(1), torch.zeros(99)))[:, None]
    assert streamed(equal).khat.isnan().all()
    # It does not depend on what all weights are multiplied with.
    log_w = torch.randn(200, 3).double()
    torch.testing.assert_close(streamed(log_w).khat, streamed(log_w - 700).khat)
    assert khat(torch.tensor([[5.0], [4.0]])).isnan().all()
    rounded = -300.0 + 1e-4 * torch.randn(100, 4).sort(0, descending=True).values.double()
    assert khat(rounded).isneginf().all()


@pytest.mark.parametrize("spread", [100, 300, 1000, 10_000])
def test_khat_of_the_worst_weights_is_large(spread: float) -> None:
    """Where the tail's lower quarter is nothing beside the largest weight, it is infinite."""
    log_w = spread * torch.randn(1000, 100).double()
    found = streamed(log_w).khat
    assert not found.isnan().any()
    assert (found > 0.7).all()
    some = torch.full((1000, 1), -math.inf).double()
    some[:10] = torch.randn(10, 1)
    assert streamed(some).khat == math.inf
    assert streamed(torch.full((100, 1), -math.inf)).khat == math.inf


def test_bounds_where_some_weights_are_zero() -> None:
    log_w = torch.randn(128, 2).double()
    log_w[::2, 0] = -math.inf
    found = streamed(log_w)
    assert found.bounds[0].tolist() == [-math.inf, pytest.approx(log_w[:, 1].mean().item())]
    assert found.bound_variances[0, 0] == math.inf
    assert found.bounds[1].isfinite().all()


@pytest.mark.parametrize(
    ("count", "threshold"), [(100, 0.5), (1000, 2 / 3), (5000, 0.7), (10**6, 0.7)]
)
def test_thresholds_of_khat(count: int, threshold: float) -> None:
    assert khat_threshold(count) == pytest.approx(threshold)
    assert math.isnan(khat_threshold(20))
    assert khat_threshold(21) > 0


def test_one_weight_that_rules() -> None:
    log_w = torch.full((100, 2), -math.inf)
    log_w[3, 0] = 2.0
    found = streamed(log_w)
    assert found.value.tolist() == pytest.approx([2 - math.log(100), -math.inf])
    assert found.ess.tolist() == [1, 0]
    assert found.jackknife[0] == math.inf
    # The others are 1e-20 of it, which 1 - 1 would lose.
    log_w = torch.full((100, 1), -50.0).double()
    log_w[3] = 0.0
    rest = 99 * math.exp(-50)
    logs = math.log(rest) - 99 * math.exp(-50)
    expected = -(100 * math.log(100) - 99 * math.log(99)) - 0.99 * logs
    assert streamed(log_w).jackknife.item() == pytest.approx(expected, rel=1e-12)


def test_the_jackknife_takes_the_bias_of_first_order_out() -> None:
    """Weights exp(s e - s^2 / 2) have the mean 1: the logarithm of theirs is to be 0."""
    count, spread, repeats = 40, 0.5, 20_000
    log_w = spread * torch.randn(count, repeats).double() - spread**2 / 2
    found = streamed(log_w)
    error = found.value.std().item() / math.sqrt(repeats)  # terms of second order are 1e-4
    bias = -(math.exp(spread**2) - 1) / (2 * count)  # of the plain one, to first order
    assert abs(found.value.mean().item() - bias) < 4 * error + 2e-4
    assert abs(found.jackknife.mean().item()) < 4 * error + 2e-4
    assert abs(bias) > 5 * error


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_weights_are_numbers(wrong: float) -> None:
    log_w = torch.zeros(5, 4)
    log_w[2, 3] = wrong
    with pytest.raises(FloatingPointError, match=r"examples \[3\] of a block are NaN or infinite"):
        Weights(5).add(log_w)
