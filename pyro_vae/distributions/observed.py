"""Distributions of which only some elements are observed: NaN stands for one that is not."""

from collections.abc import Callable
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from pyro.distributions.util import sum_rightmost
from torch import Tensor
from torch.distributions import Distribution, Independent
from torch.distributions.constraints import Constraint

from pyro_vae.distributions.kl import describe as describe_distribution
from pyro_vae.distributions.supports import describe, scored_support
from pyro_vae.utils.checks import kind

__all__ = ["Completed", "Observed", "OrNaN", "elementwise", "inside", "or_nan"]

Elementwise = Callable[[Tensor], Tensor]
"""The log-densities of the elements of a value, of shape ``batch + event``."""


class OrNaN(Constraint):
    """The values of a support, and NaN for each element that is not observed.

    Arguments:
        base_constraint: The support of what is observed.

    Example:
        >>> from pyro_vae.distributions import OrNaN
        >>> boolean = pyro.distributions.constraints.boolean
        >>> OrNaN(boolean).check(torch.tensor([0.0, 0.5, float("nan")]))
        tensor([ True, False,  True])
    """

    takes_nan = True

    def __init__(self, base_constraint: Constraint) -> None:
        self.base_constraint = base_constraint
        super().__init__()

    @property
    def is_discrete(self) -> bool:  # type: ignore[override]
        """Whether the observed values are discrete."""
        return self.base_constraint.is_discrete

    @property
    def event_dim(self) -> int:  # type: ignore[override]
        """The number of dimensions of an event."""
        return self.base_constraint.event_dim

    def check(self, value: Tensor) -> Tensor:
        """Whether each event is on the support, whatever its holes hold."""
        holes = torch.isnan(value)
        if not self.event_dim:
            return holes | self.base_constraint.check(value)
        return self.base_constraint.check(_filled(value, holes, self.base_constraint))


def or_nan(support: Constraint) -> Constraint:
    """A support whose elements may be NaN, too; it has the event dimensions of the support.

    Example:
        >>> from pyro_vae.distributions import describe_support, or_nan
        >>> describe_support(or_nan(pyro.distributions.constraints.real_vector))
        'Real or NaN'
    """
    if isinstance(support, type(constraints.real_vector)):
        dims = support.reinterpreted_batch_ndims
        return constraints.independent(or_nan(support.base_constraint), dims)
    return OrNaN(support)


def inside(support: Constraint) -> Tensor | float:
    """A number on a support: 0 among all reals, else the least one, the middle, or 1 from the end.

    A constraint that has a method ``inside()`` says so itself, by a tensor of the event's shape.

    Arguments:
        support: A support whose elements are independent of each other.

    Raises:
        ValueError: The support is none of numbers, such as a simplex.

    Example:
        >>> from pyro_vae.distributions import inside
        >>> constraints = pyro.distributions.constraints
        >>> inside(constraints.unit_interval), inside(constraints.boolean)
        (0.5, 0.0)
    """
    own = getattr(support, "inside", None)
    if callable(own):
        return own()
    if hasattr(support, "base_constraint"):
        return inside(support.base_constraint)
    if isinstance(support, type(constraints.boolean) | type(constraints.real)):
        return 0.0
    # Bounds that are numbers stay numbers, so that a graph has them as constants.
    low: Any = getattr(support, "lower_bound", None)
    high: Any = getattr(support, "upper_bound", None)
    if low is None and high is None:
        raise ValueError(
            f"support: got {describe(support)}, expected one of numbers, or a constraint with a "
            "method inside() that returns a value on it"
        )
    if support.is_discrete:
        return 0.0 + (high if low is None else low)
    if low is None:
        return high - 1.0
    return low + 1.0 if high is None else low + (high - low) / 2


def _filled(value: Tensor, holes: Tensor, support: Constraint) -> Tensor:
    """A value with numbers on a support in its holes."""
    filling = inside(support)
    if isinstance(filling, Tensor):
        return torch.where(holes, filling.to(value.device, value.dtype), value)
    return value.masked_fill(holes, filling)


def elementwise(distribution: Distribution) -> Elementwise | None:
    """The log-density of each element, or None if the elements are not independent.

    The elements of ``Independent`` are. Another distribution whose elements are independent says
    so by a method ``elementwise_log_prob(value)``, which takes values on the support and returns
    a tensor of shape ``batch + event``.

    Example:
        >>> from pyro_vae.distributions import elementwise
        >>> elementwise(pyro.distributions.Normal(torch.zeros(3), 1.0).to_event(1))(torch.zeros(3))
        tensor([-0.9189, -0.9189, -0.9189])
        >>> correlated = pyro.distributions.MultivariateNormal(torch.zeros(2), torch.eye(2))
        >>> print(elementwise(correlated))
        None
    """
    inner = distribution
    while True:
        own = getattr(inner, "elementwise_log_prob", None)
        if callable(own):
            return own
        if not isinstance(inner, Independent):
            return None if inner.event_shape else inner.log_prob
        inner = inner.base_dist


def _check_elements(base: Distribution) -> None:
    """Raises TypeError or ValueError unless the elements of a distribution are independent."""
    if not isinstance(base, Distribution):
        raise TypeError(f"base: got {kind(base)}, expected a distribution")
    if elementwise(base) is None:
        raise ValueError(
            f"base: got {describe_distribution(base)}, whose elements are not independent, "
            "expected Independent, or a distribution with elementwise_log_prob(value): the "
            "density of some elements alone is not known"
        )


class Observed(dist.TorchDistribution):
    r"""A distribution with independent elements, of which those are scored that are not NaN.

    .. math:: \log p(x) = \sum_{d:\; x_d \ne \mathrm{NaN}} \log p_d(x_d)

    It is 0 where all elements are NaN. Gradients are never NaN. Draws have no holes; mean and mode
    are those of `base`.

    Source: Mattei and Frellsen (2019), arXiv 1812.02633, section 2.

    Arguments:
        base: A distribution whose elements are independent, see :func:`elementwise`.

    Raises:
        TypeError: `base` is no distribution.
        ValueError: The elements of `base` are not independent.

    Example:
        >>> from pyro_vae.distributions import Observed
        >>> p_x = Observed(pyro.distributions.Normal(torch.zeros(3), 1.0).to_event(1))
        >>> p_x.log_prob(torch.tensor([0.0, float("nan"), float("nan")]))
        tensor(-0.9189)
    """

    arg_constraints: ClassVar[dict[str, Constraint]] = {}

    def __init__(self, base: dist.Distribution, validate_args: bool | None = None) -> None:
        _check_elements(base)
        self.base = base
        super().__init__(base.batch_shape, base.event_shape, validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "Observed":
        new = self._get_checked_instance(Observed, _instance)
        new.base = self.base.expand(batch_shape)
        super(Observed, new).__init__(torch.Size(batch_shape), self.event_shape, False)
        new._validate_args = self._validate_args
        return new

    @property
    def support(self) -> Constraint:
        """That of the base, or NaN, for each element."""
        return or_nan(self.base.support)

    @property
    def scored_support(self) -> Constraint:
        """What the base scores, or NaN, for each element."""
        return or_nan(scored_support(self.base))

    @property
    def has_rsample(self) -> bool:
        """Whether draws are reparameterized, as those of the base."""
        return self.base.has_rsample

    def log_prob(self, value: Tensor) -> Tensor:
        """The log-density of the elements that are not NaN, shape ``batch``."""
        without = getattr(self.base, "log_prob_without", None)
        if callable(without):  # It sums as the base does, and so gives the same digits.
            holes, filled = self._filled(value)
            return without(filled, holes)
        return sum_rightmost(self.elementwise_log_prob(value), len(self.event_shape))

    def elementwise_log_prob(self, value: Tensor) -> Tensor:
        """The log-density of each element, and 0 for those that are NaN."""
        holes, filled = self._filled(value)
        scored = elementwise(self.base)
        assert scored is not None
        log_prob = scored(filled)  # It is finite in holes, and so is its gradient.
        return log_prob.masked_fill(holes, 0.0)

    def _filled(self, value: Tensor) -> tuple[Tensor, Tensor]:
        """Where the holes of a value are, and the value with numbers on the support in them."""
        holes = torch.isnan(value)
        return holes, _filled(value, holes, self.base.support)

    # What is drawn is complete.

    @property
    def mean(self) -> Tensor:
        return self.base.mean

    @property
    def expectation(self) -> Tensor:
        """The mean as a number, also where that of the base is a point value, as of classes."""
        own = getattr(self.base, "expectation", None)
        return self.base.mean if own is None else own

    @property
    def mode(self) -> Tensor:
        return self.base.mode

    @property
    def variance(self) -> Tensor:
        return self.base.variance

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        return self.base.sample(sample_shape)

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        return self.base.rsample(sample_shape)


class Completed(dist.TorchDistribution):
    r"""The distribution of a complete x of which some elements are known: those that are not NaN.

    .. math:: \log p(x_{mis}) = \sum_{d:\; x_d = \mathrm{NaN}} \log p_d(x_d)

    Draws have the known elements as they are, and the others drawn. The known elements of a value
    do not count in its log-density.

    Arguments:
        base: A distribution whose elements are independent, see :func:`elementwise`.
        known: x with NaN where it is not known; its shape broadcasts against that of draws.

    Raises:
        ValueError: The elements of `base` are not independent.

    Example:
        >>> from pyro_vae.distributions import Completed
        >>> normal = pyro.distributions.Normal(torch.zeros(3), 1.0).to_event(1)
        >>> p_x = Completed(normal, torch.tensor([0.5, float("nan"), 0.5]))
        >>> p_x.sample()[[0, 2]], p_x.log_prob(torch.zeros(3))
        (tensor([0.5000, 0.5000]), tensor(-0.9189))
    """

    arg_constraints: ClassVar[dict[str, Constraint]] = {}

    def __init__(
        self, base: dist.Distribution, known: Tensor, validate_args: bool | None = None
    ) -> None:
        _check_elements(base)
        self.base = base
        self.known = known
        super().__init__(base.batch_shape, base.event_shape, validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "Completed":
        new = self._get_checked_instance(Completed, _instance)
        new.base = self.base.expand(batch_shape)
        new.known = self.known
        super(Completed, new).__init__(torch.Size(batch_shape), self.event_shape, False)
        new._validate_args = self._validate_args
        return new

    @property
    def support(self) -> Constraint:
        """That of the base."""
        return self.base.support

    @property
    def has_rsample(self) -> bool:
        """Whether draws are reparameterized, as those of the base."""
        return self.base.has_rsample

    def log_prob(self, value: Tensor) -> Tensor:
        """The log-density of the elements that are not known, shape ``batch``."""
        known = ~torch.isnan(self.known)
        scored = elementwise(self.base)
        assert scored is not None
        log_prob = scored(_filled(value, known, self.base.support)).masked_fill(known, 0.0)
        return sum_rightmost(log_prob, len(self.event_shape))

    def complete(self, value: Tensor) -> Tensor:
        """A value with the known elements as they are."""
        return torch.where(torch.isnan(self.known), value, self.known)

    @property
    def mean(self) -> Tensor:
        return self.complete(self.base.mean)

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        return self.complete(self.base.sample(sample_shape))

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        return self.complete(self.base.rsample(sample_shape))
