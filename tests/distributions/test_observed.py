"""Distributions of what is observed: holes count nothing, and what is complete is as without."""

import math
from typing import ClassVar

import pyro.distributions as dist
import pytest
import torch
from pyro.distributions import constraints
from torch import Tensor

from pyro_vae.distributions import (
    BernoulliEvent,
    Completed,
    CrossEntropy,
    Observed,
    OrNaN,
    check_on_support,
    describe_support,
    elementwise,
    inside,
    is_real,
    or_nan,
    same_support,
    scored_support,
    support_of,
    takes_nan,
    varies,
)

from ..holes import NAN


class Two(dist.TorchDistribution):
    """A real column beside one of 0 and 1: independent elements of two kinds, by the protocol."""

    class Support(constraints.Constraint):
        is_discrete = False
        event_dim = 1

        def check(self, value: Tensor) -> Tensor:
            real, binary = value.unbind(-1)
            return (real == real) & constraints.boolean.check(binary)

        def inside(self) -> Tensor:
            return torch.tensor([0.0, 1.0])

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    support = Support()

    def __init__(self, loc: Tensor, logits: Tensor) -> None:
        self.parts = dist.Normal(loc, 1.0), dist.Bernoulli(logits=logits)
        super().__init__(loc.shape, torch.Size([2]), validate_args=False)

    def elementwise_log_prob(self, value: Tensor) -> Tensor:
        scores = [p.log_prob(v) for p, v in zip(self.parts, value.unbind(-1), strict=True)]
        return torch.stack(scores, -1)

    def log_prob(self, value: Tensor) -> Tensor:
        return self.elementwise_log_prob(value).sum(-1)

    def expand(self, batch_shape, _instance=None):  # type: ignore[no-untyped-def]
        normal, binary = (part.expand(batch_shape) for part in self.parts)
        return Two(normal.loc, binary.logits)

    def sample(self, sample_shape=torch.Size()):  # type: ignore[no-untyped-def]  # noqa: B008
        return torch.stack([part.sample(sample_shape) for part in self.parts], -1)


def test_a_distribution_by_the_protocol_is_scored_where_it_is_observed() -> None:
    loc = torch.randn(4, requires_grad=True)
    logits = torch.randn(4, requires_grad=True)
    p_x = Observed(Two(loc, logits))
    x = torch.tensor([[0.5, 1.0], [NAN, 0.0], [-1.0, NAN], [NAN, NAN]])
    real = dist.Normal(loc, 1.0).log_prob(torch.tensor([0.5, 0.0, -1.0, 0.0]))
    binary = dist.Bernoulli(logits=logits).log_prob(torch.tensor([1.0, 0.0, 0.0, 0.0]))
    expected = torch.stack([real[0] + binary[0], binary[1], real[2], torch.zeros(())])
    assert torch.equal(p_x.log_prob(x), expected)
    gradients = torch.autograd.grad(p_x.log_prob(x).sum(), [loc, logits])
    assert torch.allclose(
        gradients[0],
        torch.stack([0.5 - loc[0], *loc.new_zeros(1), -1 - loc[2], *loc.new_zeros(1)]),
    )
    assert gradients[1][2:].tolist() == [0.0, 0.0]
    assert p_x.support.check(x).all()
    assert not p_x.support.check(torch.tensor([NAN, 0.5]))
    assert p_x.support.event_dim == p_x.scored_support.event_dim == 1
    assert same_support(scored_support(p_x), p_x.support)
    check_on_support("x", x, scored_support(p_x))
    with pytest.raises(ValueError, match=r"x: got inf .*, expected finite numbers or NaN"):
        check_on_support("x", torch.tensor([[math.inf, NAN]]), p_x.support)
    with pytest.raises(ValueError, match=r"x: got 1 of 1 events .*, expected .*Support or NaN"):
        check_on_support("x", torch.tensor([[NAN, 0.5]]), p_x.support)


def test_a_bernoulli_event_of_many_pixels_leaves_out_its_holes() -> None:
    """It sums sixteen elements by one logarithm, of which some may be holes."""
    logits = 5 * torch.randn(3, 7, 50, dtype=torch.float64)
    x = torch.bernoulli(torch.full((7, 50), 0.5, dtype=torch.float64))
    holes = torch.rand(7, 50) < 0.4
    for family in (dist.Bernoulli, CrossEntropy):
        base = BernoulliEvent(family(logits=logits), 1)
        left_out = base.base_dist.log_prob(x).masked_fill(holes, 0.0).sum(-1)
        found = Observed(base).log_prob(x.masked_fill(holes, NAN))
        assert torch.allclose(found, left_out, rtol=1e-13)
        assert torch.equal(Observed(base).log_prob(x), base.log_prob(x))
    grey = torch.rand(7, 50, dtype=torch.float64).masked_fill(holes, NAN)
    found = Observed(base).elementwise_log_prob(grey).sum(-1)
    assert torch.allclose(Observed(base).log_prob(grey), found, rtol=1e-13)


def test_supports_with_nan_are_compared_described_and_held_against_data() -> None:
    real, boolean = or_nan(constraints.real_vector), or_nan(constraints.boolean)
    assert same_support(real, OrNaN(constraints.real))
    for other in (constraints.real, constraints.real_vector, boolean):
        assert not same_support(real, other)
        assert not same_support(other, real)
    assert [describe_support(each) for each in (real, boolean)] == [
        "Real or NaN",
        "Boolean or NaN",
    ]
    assert takes_nan(real)
    assert not takes_nan(constraints.real_vector)
    assert is_real(real)
    assert real.event_dim == 1
    assert boolean.is_discrete
    trials = dist.Binomial(torch.tensor([3.0, 5.0]), 0.5).support
    assert varies(or_nan(trials))
    assert not varies(real)
    x = torch.tensor([[0.0, NAN], [NAN, 0.5]])
    assert boolean.check(x).tolist() == [[True, True], [True, False]]
    assert constraints.independent(boolean, 1).check(x).tolist() == [True, False]
    with pytest.raises(ValueError, match=r"x: got 0.5 at 1 of 4 places, .* Boolean or NaN"):
        check_on_support("x", x, constraints.independent(boolean, 1))
    check_on_support("x", x, real)
    p_x = Observed(BernoulliEvent(CrossEntropy(logits=torch.zeros(3)), 1))
    assert describe_support(scored_support(p_x)) == "Interval(0, 1) or NaN"
    assert describe_support(support_of(p_x)) == "Boolean or NaN"
    masked = p_x.expand([2]).mask(torch.tensor([True, False]))
    assert describe_support(scored_support(masked)) == "Interval(0, 1) or NaN"


@pytest.mark.parametrize(
    "support",
    [
        constraints.real,
        constraints.boolean,
        constraints.unit_interval,
        constraints.half_open_interval(2.0, 3.0),
        constraints.positive,
        constraints.greater_than(3.0),
        constraints.less_than(-2.0),
        constraints.nonnegative_integer,
        constraints.positive_integer,
        constraints.integer_interval(-5, -2),
        constraints.interval(torch.tensor([0.0, 1.0]), torch.tensor([2.0, 5.0])),
        dist.Binomial(torch.tensor([3.0, 4.0]), 0.5).support,
        dist.MixtureSameFamily(
            dist.Categorical(torch.ones(2)), dist.Beta(torch.ones(2), torch.ones(2))
        ).support,
    ],
)
def test_a_number_on_each_support(support: constraints.Constraint) -> None:
    assert torch.as_tensor(support.check(torch.as_tensor(inside(support)))).all()
    assert torch.as_tensor(
        inside(constraints.independent(or_nan(support), 1)) == inside(support)
    ).all()


def test_what_has_no_number_inside_or_no_independent_elements_is_refused() -> None:
    with pytest.raises(ValueError, match="support: got Simplex, expected one of numbers"):
        inside(constraints.simplex)
    full = dist.MultivariateNormal(torch.zeros(2), torch.eye(2))
    for base in (
        full,
        full.expand([3]).to_event(1),
        dist.Normal(torch.zeros(2), 1.0).to_event(1).mask(False),
    ):
        assert elementwise(base) is None
        for family in (Observed, lambda base: Completed(base, torch.zeros(2))):
            with pytest.raises(
                ValueError, match=r"base: got .*(Multivariate|Masked).*, expected Indep"
            ):
                family(base)


def test_shapes_and_draws_are_those_of_the_base() -> None:
    base = dist.Normal(torch.zeros(4, 3), 2.0).to_event(1)
    p_x = Observed(base).expand([5, 4])
    assert p_x.batch_shape == (5, 4)
    assert p_x.event_shape == (3,)
    assert p_x.has_rsample
    for seeded, other in (
        (p_x.rsample, base.expand([5, 4]).rsample),
        (p_x.sample, base.expand([5, 4]).sample),
    ):
        torch.manual_seed(1)
        drawn = seeded((2,))
        torch.manual_seed(1)
        assert torch.equal(drawn, other((2,)))
    assert torch.equal(p_x.mean, base.expand([5, 4]).mean)
    assert torch.equal(p_x.mode, p_x.mean)
    assert torch.equal(p_x.variance, torch.full((5, 4, 3), 4.0))
    assert not Observed(dist.Poisson(torch.ones(3)).to_event(1)).has_rsample


def test_known_and_missing_elements_are_the_whole() -> None:
    """log p(x_obs) + log p(x_mis) = log p(x), and what is known of a value does not matter."""
    base = dist.Normal(torch.randn(4, 3).double(), 2.0).to_event(1)
    x = torch.randn(4, 3).double()
    known = x.masked_fill(torch.rand(4, 3) < 0.5, NAN)
    missing = Completed(base, known)
    parts = Observed(base).log_prob(known) + missing.log_prob(x)
    assert torch.allclose(parts, base.log_prob(x), rtol=1e-13)
    elsewhere = torch.where(known.isnan(), x, 100.0)
    assert torch.equal(missing.log_prob(elsewhere), missing.log_prob(x))
    assert torch.equal(missing.log_prob(torch.where(known.isnan(), x, NAN)), missing.log_prob(x))
    assert torch.equal(missing.complete(x), x)
    for drawn in (
        missing.sample(),
        missing.rsample((2,))[1],
        missing.mean,
        missing.expand([4]).sample(),
    ):
        assert torch.equal(drawn[~known.isnan()], x[~known.isnan()])
        assert drawn.isfinite().all()
    assert missing.support is base.support or same_support(missing.support, base.support)
    assert missing.expand([5, 4]).sample().shape == (5, 4, 3)
