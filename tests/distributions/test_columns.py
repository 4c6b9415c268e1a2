"""Rows of independent columns: their support, a value inside of it, and their point values."""

import math

import pyro.distributions as dist
import pytest
import torch
from torch.distributions import constraints

from pyro_vae import likelihoods
from pyro_vae.distributions import (
    Columns,
    CrossEntropy,
    OnColumns,
    check_on_support,
    describe_support,
    same_support,
    scored_support,
    varies,
)

from ..likelihoods.test_columns import EVERY, TAKES, numbers_of
from ..tolerances import within
from ..vaes import Given


def every() -> Columns:
    return likelihoods.Columns(Given(sum(TAKES)), EVERY).double()(numbers_of())


def three(**options: bool) -> Columns:
    """A column of classes between two reals, which share a part."""
    reals = dist.Normal(torch.zeros(5, 2), 1.0).to_event(1)
    classes = dist.Bernoulli(torch.full((5, 1), 0.7)).to_event(1)
    return Columns([reals, classes], [0, 2, 1], ["age", "sex", "height"], **options)


def test_draws_are_on_the_support_and_follow_the_density() -> None:
    p_x = every()
    x = p_x.sample((4000,))
    assert p_x.support.check(x).all()
    assert p_x.support.event_dim == 1
    for place, name in enumerate(EVERY):
        if "class" in name or name == "bernoulli":  # whose mean is the most probable class
            row = x[0].clone()
            row[:, place] = p_x.mean[:, place]
            chance = p_x.elementwise_log_prob(row)[:, place].exp()
            within((x[..., place] == row[:, place]).double(), chance)
        elif name != "student":  # has no variance
            within(x[..., place], p_x.mean[:, place])


def test_the_density_sums_to_one() -> None:
    columns = [
        dist.Bernoulli(torch.tensor([0.3, 0.6])).to_event(1),
        dist.Categorical(torch.tensor([[0.2, 0.3, 0.5]])).to_event(1),
    ]
    p_x = Columns(columns, [2, 0, 1], ["a", "b", "c"])
    values = torch.cartesian_prod(torch.arange(2.0), torch.arange(3.0), torch.arange(2.0))
    torch.testing.assert_close(p_x.log_prob(values).exp().sum(), torch.tensor(1.0))


def test_a_value_inside_is_on_each_support() -> None:
    supports = [
        constraints.real,
        constraints.boolean,
        constraints.integer_interval(2, 5),
        constraints.nonnegative_integer,
        constraints.unit_interval,
        constraints.interval(-3.0, -1.0),
        constraints.greater_than(2.0),
        constraints.less_than(-2.0),
        constraints.positive,
        constraints.positive_integer,
    ]
    support = OnColumns(supports, [str(place) for place in range(len(supports))])
    assert support.inside().shape == (len(supports),)
    assert support.check(support.inside())
    p_x = every()
    assert p_x.support.inside().shape == p_x.event_shape
    assert p_x.support.check(p_x.support.inside())
    assert p_x.elementwise_log_prob(p_x.support.inside().double()).isfinite().all()
    ends = dist.Uniform(torch.tensor([[1.0, 5.0]]), torch.tensor([[2.0, 7.0]])).to_event(1)
    own = Columns([ends], [1, 0], ["a", "b"]).support
    assert own.inside().tolist() == [[6.0, 1.5]]
    assert varies(own)
    assert not varies(p_x.support)


def test_supports_are_compared_column_by_column() -> None:
    p_x = three()
    same = OnColumns([constraints.real, constraints.boolean, constraints.real], ["a", "b", "c"])
    other = OnColumns([constraints.real, constraints.real, constraints.boolean], ["a", "b", "c"])
    assert same_support(p_x.support, same)
    assert same_support(p_x.expand((3, 5)).support, same)
    assert not same_support(p_x.support, other)
    assert not same_support(p_x.support, constraints.real_vector)
    text = "columns 'age': Real, 'sex': Boolean, 'height': Real"
    assert describe_support(p_x.support) == text == repr(p_x.support)


def test_a_value_off_its_support_is_named_with_its_column() -> None:
    p_x, x = three(validate_args=True), torch.zeros(5, 3)
    check_on_support("x", x, p_x.support)
    x[2, 1] = x[4, 1] = 0.5
    message = "x, column 'sex': got 0.5 at 2 of 5 places, expected values on Boolean"
    with pytest.raises(ValueError, match=message):
        check_on_support("x", x, p_x.support)
    with pytest.raises(ValueError, match=message):
        p_x.log_prob(x)
    assert not p_x.support.check(x)[2]
    with pytest.raises(ValueError, match=r"value: got shape \(5, 4\)"):
        p_x.log_prob(torch.zeros(5, 4))


def test_what_is_scored_may_be_wider_than_the_support() -> None:
    grey = CrossEntropy(logits=torch.zeros(5, 1)).to_event(1)
    real = dist.Normal(torch.zeros(5, 1), 1.0).to_event(1)
    p_x = Columns([grey, real], [1, 0], ["a", "b"])
    x = torch.tensor([3.0, 0.25])
    assert scored_support(p_x).check(x)
    assert not p_x.support.check(x)
    assert p_x.log_prob(x).isfinite().all()


def test_the_point_value_of_classes_is_the_most_probable_one() -> None:
    classes = dist.Categorical(torch.tensor([[0.4, 0.1, 0.3, 0.2]])).to_event(1)
    cauchy = dist.StudentT(torch.ones(1), torch.tensor([2.0])).to_event(1)  # has no mean
    counts = dist.Poisson(torch.tensor([2.5, math.inf])).to_event(1)
    p_x = Columns([classes, cauchy], [1, 0], ["a", "b"])
    assert p_x.mean.tolist() == [2.0, 0.0] == p_x.mode.tolist()
    assert dist.Poisson(torch.tensor([2.5])).mean.item() == 2.5
    assert Columns([counts], [0, 1], ["a", "b"]).parts[0].mean[0] == 2.5
    assert three().variance.shape == (5, 3)


def test_parts_that_do_not_fit_are_refused() -> None:
    normal, names = dist.Normal(torch.zeros(5, 2), 1.0), ["a", "b"]
    Columns([normal.to_event(1)], [1, 0], names)
    joint = dist.MultivariateNormal(torch.zeros(5, 2), torch.eye(2))
    for part in (normal, normal.to_event(2), joint):
        with pytest.raises(ValueError, match="parts: got a"):
            Columns([part], [0, 1], names)
    wide = dist.Normal(torch.zeros(4, 1), 1.0).to_event(1)
    with pytest.raises(ValueError, match="one batch_shape"):
        Columns([normal.to_event(1), wide], [0, 1, 2], [*names, "c"])
    for places in ([0, 0], [1, 2], [0], [0, 1, 2]):
        with pytest.raises(ValueError, match="places: got"):
            Columns([normal.to_event(1)], places, names)
    simplex = dist.Dirichlet(torch.ones(5, 1))
    with pytest.raises(ValueError, match="parts: got the support Simplex"):
        _ = Columns([simplex], [0], ["a"]).support
