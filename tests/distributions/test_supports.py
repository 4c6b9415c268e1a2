"""Supports: compared by what they contain, and held against data."""

import itertools
import math

import pyro.distributions as dist
import pytest
import torch
from torch.distributions import constraints

from pyro_vae import likelihoods, priors
from pyro_vae.distributions import check_on_support, same_support, scored_support, support_of

from ..vaes import Given


def test_supports_are_compared_by_what_they_contain() -> None:
    normal = dist.Normal(torch.zeros(2), 1.0).to_event(1)
    mixture = dist.MixtureSameFamily(
        dist.Categorical(torch.ones(3)), dist.Normal(torch.zeros(3, 2), 1.0).to_event(1)
    )
    full = dist.MultivariateNormal(torch.zeros(2), torch.eye(2))
    assert same_support(normal.support, full.support)
    assert same_support(normal.support, mixture.support)
    assert same_support(constraints.positive, constraints.nonnegative)
    assert same_support(constraints.unit_interval, dist.Beta(torch.ones(2), 2.0).support)
    different = [
        constraints.real,
        constraints.positive,
        constraints.unit_interval,
        constraints.interval(-1, 1),
        constraints.boolean,
        constraints.nonnegative_integer,
        constraints.integer_interval(0, 255),
        constraints.simplex,
    ]
    for a, b in itertools.combinations(different, 2):
        assert not same_support(a, b)
    for a in different:
        assert same_support(a, constraints.independent(a, 1))


def test_supports_of_many_parts_and_of_transforms() -> None:
    real, positive, unit = constraints.real, constraints.positive, constraints.unit_interval
    assert same_support(constraints.cat([real, positive]), constraints.cat([real, positive]))
    assert not same_support(constraints.cat([real, positive]), constraints.cat([unit, real]))
    assert not same_support(constraints.cat([real]), real)
    low, high = torch.tensor([0.0, 0.1]), torch.tensor([1.0, 2.0])
    wide = dist.Uniform(low, high).expand([8, 2]).to_event(1)
    assert same_support(dist.Uniform(low, high).to_event(1).support, wide.support)
    assert same_support(constraints.interval(0.0, 0.1), constraints.interval(0.0, low[1]))
    squashed = dist.TransformedDistribution(
        dist.Normal(torch.zeros(3), 1.0),
        [dist.transforms.SigmoidTransform(), dist.transforms.AffineTransform(1.0, -2.0)],
    ).to_event(1)
    assert same_support(support_of(squashed), constraints.interval(-1.0, 1.0))
    shifted = dist.TransformedDistribution(
        dist.Normal(torch.zeros(3), 1.0), [dist.transforms.AffineTransform(1.0, -2.0)]
    )
    assert same_support(support_of(shifted), real)
    mixture = dist.MixtureSameFamily(
        dist.Categorical(torch.ones(2)), dist.Beta(torch.ones(2), 2.0)
    )
    check_on_support("x", torch.rand(5), mixture.support)
    with pytest.raises(ValueError, match=r"x: got 1.5 at 1 of 3 places, expected values on Int"):
        check_on_support("x", torch.tensor([0.5, 1.5, 0.1]), mixture.support)
    with pytest.raises(
        ValueError, match=r"x: got 1 of 2 events off the support, expected .* Simplex"
    ):
        check_on_support("x", torch.eye(2) * torch.tensor([1.0, 2.0]), constraints.simplex)


T = torch.distributions.transforms


@pytest.mark.parametrize(
    ("base", "transforms", "ends"),
    [
        (dist.Normal(0.0, 1.0), [T.SigmoidTransform(), T.AffineTransform(1.0, 2.0)], (1, 3)),
        (dist.Normal(0.0, 1.0), [T.SigmoidTransform(), T.AffineTransform(0.0, 0.5).inv], (0, 2)),
        (dist.Normal(0.0, 1.0), [T.SigmoidTransform(), T.AffineTransform(0.0, -1.0)], (-1, 0)),
        (
            dist.Normal(0.0, 1.0),
            [T.SigmoidTransform(), T.PowerTransform(torch.tensor(2.0))],
            (0, 1),
        ),
        (dist.Uniform(0.0, 1.0), [T.ExpTransform()], (1, math.e)),
        (dist.Uniform(1.0, 2.0), [T.ExpTransform().inv], (0, math.log(2))),
        (dist.Normal(0.0, 1.0), [T.ExpTransform()], (0, math.inf)),
        (dist.Normal(0.0, 1.0), [T.ExpTransform(), T.AffineTransform(1.0, 2.0)], (1, math.inf)),
        (dist.Normal(0.0, 1.0), [T.SigmoidTransform(), T.SigmoidTransform().inv], None),
        (dist.Normal(0.0, 1.0), [T.AffineTransform(1.0, 2.0)], None),
    ],
)
def test_supports_of_transforms_are_where_the_draws_can_be(
    base: dist.Distribution, transforms: list[T.Transform], ends: tuple[float, float] | None
) -> None:
    own = dist.TransformedDistribution(base, transforms)
    expected = constraints.real if ends is None else constraints.interval(*ends)
    assert same_support(support_of(own), expected)
    assert same_support(support_of(own.expand((2,)).to_event(1)), expected)


def test_the_relaxed_bernoulli_scores_more_than_its_support() -> None:
    p_x = likelihoods.Bernoulli(Given(2), relaxed=True)(torch.zeros(3, 2)).expand((5, 3))
    grey = torch.full((5, 3, 2), 0.5)
    check_on_support("x", grey, scored_support(p_x))
    with pytest.raises(ValueError, match=r"x: got 0.5 at 30 of 30 places.*Boolean"):
        check_on_support("x", grey, p_x.support)


def test_boxes_are_compared_by_their_width() -> None:
    a, b = priors.Uniform(1, 1000.0, 1000.001)().support, priors.Uniform(1, 1000.005, 1000.006)()
    assert not same_support(a, b.support)
