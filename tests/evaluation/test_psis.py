"""k-hat: that of Pyro, of Pareto tails, and where there is no tail."""

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


@pytest.mark.parametrize(
    ("count", "threshold"), [(100, 0.5), (1000, 2 / 3), (5000, 0.7), (10**6, 0.7)]
)
def test_thresholds_of_khat(count: int, threshold: float) -> None:
    assert khat_threshold(count) == pytest.approx(threshold)
    assert math.isnan(khat_threshold(20))
    assert khat_threshold(21) > 0


def random_weights(kind: str, size: int, sets: int) -> Tensor:
    """Log-weights of some distribution, in float64, shape ``(size, sets)``."""
    normal, uniform = torch.randn(size, sets).double(), torch.rand(size, sets).double()
    return {
        "lognormal": lambda: 2 * normal,
        "narrow": lambda: 0.01 * normal,
        "wide": lambda: 30 * normal,
        "pareto": lambda: -0.7 * uniform.log(),
        "heavy pareto": lambda: -3 * uniform.log(),
        "light": lambda: uniform.log(),
        "quadratic": lambda: -5 * normal.square(),
        "shifted": lambda: 1.5 * normal - 700,
    }[kind]()


KINDS = "lognormal", "narrow", "wide", "pareto", "heavy pareto", "light", "quadratic", "shifted"


@pytest.mark.parametrize("size", [25, 100, 225, 400, 900, 2500])
def test_khat_is_that_of_arviz(size: int) -> None:
    """For a thousand weight sets in all, of sizes for which both take tails of one length."""
    from arviz_stats.base import array_stats

    for kind in KINDS:
        log_w = random_weights(kind, size, 21)
        own = streamed(log_w).khat
        _, other = array_stats.psislw(-log_w.numpy(), axis=0)  # It takes log-likelihoods.
        assert own.isfinite().all()
        torch.testing.assert_close(own, torch.as_tensor(other), rtol=1e-6, atol=1e-6)


def test_where_khat_differs_from_that_of_arviz() -> None:
    """What the page "Can I trust the draws?" lists."""
    from arviz_stats.base import array_stats

    def other(log_w: Tensor) -> Tensor:
        return torch.as_tensor(array_stats.psislw(-log_w.numpy(), axis=0)[1])

    # 1,000 weights: our tail is rounded up to 95, theirs down to 94.
    log_w = 2 * torch.randn(1000, 3).double()
    w = log_w.sort(0, descending=True).values
    torch.testing.assert_close(khat(w[: 94 + 1]), other(log_w), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(khat(w[: 95 + 1]), streamed(log_w).khat, rtol=1e-9, atol=1e-9)
    # Most weights zero, or nothing beside the largest: theirs is 0.17, that of good weights.
    zeros = torch.cat((torch.randn(5, 2).double(), torch.full((95, 2), -math.inf).double()))
    for few in (zeros, 3000 * torch.randn(100, 2).double()):
        assert streamed(few).khat.eq(math.inf).all()
        assert other(few).lt(0.2).all()
    equal = torch.cat((torch.ones(1, 2), torch.zeros(99, 2))).double()
    assert streamed(equal).khat.isnan().all()
    assert other(equal).lt(0.2).all()
    rounded = -300 + 1e-4 * torch.randn(100, 2).double()
    assert streamed(rounded).khat.isneginf().all()
    assert other(rounded).isfinite().all()
    for refused in (torch.full((100, 2), -3.0).double(), torch.randn(20, 2).double()):
        with pytest.raises(ValueError, match="tail"):
            other(refused)
