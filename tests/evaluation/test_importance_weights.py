"""Streamed statistics of importance weights against those of all weights at once."""

import math

import pytest
import torch
from torch import Tensor

from pyro_vae.evaluation.importance_weights import CHUNK, Statistics, Weights


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


def test_bounds_where_some_weights_are_zero() -> None:
    log_w = torch.randn(128, 2).double()
    log_w[::2, 0] = -math.inf
    found = streamed(log_w)
    assert found.bounds[0].tolist() == [-math.inf, pytest.approx(log_w[:, 1].mean().item())]
    assert found.bound_variances[0, 0] == math.inf
    assert found.bounds[1].isfinite().all()


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
