"""One-hot codes: probabilities, relaxed scores, moments and supports."""

import itertools
import math

import pytest
import torch
from torch.distributions import Categorical, RelaxedOneHotCategorical, kl_divergence

from pyro_vae.distributions import (
    OneHotCodes,
    RelaxedOneHotCodes,
    describe_support,
    same_support,
)

from ..tolerances import CLOSE, within


def logits(*shape: int) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.float64)


def test_codes_are_independent_categorical_variables() -> None:
    own = logits(5, 2, 3)
    p = OneHotCodes(own)
    values = p.enumerate_support(expand=False)
    assert values.shape == (9, 1, 6)
    assert p.enumerate_support().shape == (9, 5, 6)
    each = Categorical(logits=own)
    for value, (a, b) in zip(values, itertools.product(range(3), repeat=2), strict=True):
        expected = each.log_prob(torch.tensor([a, b]).expand(5, 2)).sum(-1)
        torch.testing.assert_close(p.log_prob(value), expected, rtol=CLOSE, atol=CLOSE)
    torch.testing.assert_close(p.log_prob(values).exp().sum(0), torch.ones(5).double())
    weights = p.log_prob(values).exp()[..., None]
    torch.testing.assert_close((weights * values).sum(0), p.mean)
    torch.testing.assert_close((weights * (values - p.mean).square()).sum(0), p.variance)
    torch.testing.assert_close(-(weights[..., 0] * p.log_prob(values)).sum(0), p.entropy())
    assert (p.log_prob(p.mode) == p.log_prob(values).amax(0)).all()


def test_draws_have_the_probabilities() -> None:
    p = OneHotCodes(logits(2, 3))
    z = p.sample((4000,))
    assert p.support.check(z).all()
    within(z, p.mean)


def test_kl_is_the_sum_over_codes() -> None:
    q, p = logits(5, 2, 3), logits(2, 3)
    expected = kl_divergence(Categorical(logits=q), Categorical(logits=p)).sum(-1)
    torch.testing.assert_close(kl_divergence(OneHotCodes(q), OneHotCodes(p)), expected)


def test_probabilities_of_zero() -> None:
    """Their terms are zero in a code without them, and gradients are finite."""
    own = torch.tensor([[0.0, -math.inf, 0.5]], dtype=torch.float64, requires_grad=True)
    p = OneHotCodes(own)
    values = p.enumerate_support()
    log_p = p.log_prob(values)
    expected = Categorical(logits=own).log_prob(torch.arange(3)[:, None])[:, 0]
    torch.testing.assert_close(log_p, expected)
    assert log_p[1] == -math.inf
    kl = kl_divergence(p, OneHotCodes(torch.zeros(1, 3).double()))
    (log_p[0] + log_p[2] + kl + p.mean[0]).backward()
    assert own.grad is not None
    assert torch.isfinite(own.grad).all()
    torch.testing.assert_close(p.entropy(), Categorical(logits=own[0, ::2]).entropy())


def test_a_relaxed_code_has_a_linear_score() -> None:
    q = RelaxedOneHotCodes(logits(5, 2, 3), torch.tensor(0.7).double())
    z = q.rsample((4,))
    assert not q.has_enumerate_support
    torch.testing.assert_close(z.unflatten(-1, (2, 3)).sum(-1), torch.ones(4, 5, 2).double())
    expected = (z.unflatten(-1, (2, 3)) * q.logits).sum((-2, -1))
    torch.testing.assert_close(OneHotCodes(q.logits).log_prob(z), expected)
    torch.manual_seed(0)
    own = q.rsample((4,))
    torch.manual_seed(0)
    theirs = RelaxedOneHotCategorical(q.temperature, logits=q.logits).rsample((4,))
    assert torch.equal(own, theirs.flatten(-2))


def test_values_off_the_simplex_are_refused() -> None:
    p = OneHotCodes(torch.zeros(2, 3), validate_args=True)
    p.log_prob(torch.tensor([0.2, 0.3, 0.5, 1.0, 0.0, 0.0]))
    for wrong in ([0.2, 0.3, 0.6, 1.0, 0.0, 0.0], [1.5, -0.5, 0.0, 1.0, 0.0, 0.0]):
        with pytest.raises(ValueError, match="z: got a code that is neither one-hot nor relaxed"):
            p.log_prob(torch.tensor(wrong))
    with pytest.raises(ValueError, match=r"z: got shape \(3,\), expected \(6,\)"):
        p.log_prob(torch.zeros(3))


def test_supports_are_those_of_the_same_levels() -> None:
    two, three = (OneHotCodes(torch.zeros(6 // n, n)).support for n in (2, 3))
    relaxed = RelaxedOneHotCodes(torch.zeros(2, 3), torch.tensor(1.0)).support
    assert same_support(three, relaxed)
    assert not same_support(two, three)
    assert describe_support(three) == "OneHot"
    assert not three.check(torch.tensor([0.5, 0.5, 0.0, 1.0, 0.0, 0.0]))


def test_expanded_codes_are_the_same() -> None:
    own = logits(2, 3)
    p = OneHotCodes(own).expand([5])
    assert p.batch_shape == (5,)
    z = p.sample()
    torch.testing.assert_close(p.log_prob(z), OneHotCodes(own).log_prob(z))
    q = RelaxedOneHotCodes(own, torch.tensor(1.0)).expand([5])
    assert q.rsample((7,)).shape == (7, 5, 6)


def test_too_many_values_are_not_enumerated() -> None:
    assert OneHotCodes(torch.zeros(10, 2)).has_enumerate_support
    p = OneHotCodes(torch.zeros(11, 2))
    assert not p.has_enumerate_support
    with pytest.raises(NotImplementedError, match="got 11 codes of 2 levels, expected at most"):
        p.enumerate_support()
