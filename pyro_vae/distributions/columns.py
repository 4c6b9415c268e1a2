"""Columns of a table: independent numbers, each with a distribution and a support of its own."""

import copy
from collections.abc import Sequence
from typing import Any

import pyro.distributions as dist
import torch
import torch.nn.functional as F
from pyro.distributions import constraints
from torch import Tensor
from torch.distributions import transform_to
from torch.distributions.constraints import Constraint

from pyro_vae.distributions.points import point
from pyro_vae.distributions.supports import (
    check_on_support,
    describe,
    scored_support,
    support_of,
)

__all__ = ["Columns", "OnColumns", "by_element", "index_of", "is_class"]


class _Each(constraints.cat):
    """The supports of columns beside each other, for each number of a row; with their names."""

    def __init__(self, supports: Sequence[Constraint], names: Sequence[str]) -> None:
        super().__init__(list(supports), dim=-1, lengths=[1] * len(supports))
        self.names = tuple(names)


class OnColumns(constraints.independent):
    """Rows whose numbers are each on the support of their column.

    Arguments:
        supports: The support of each column, a set of numbers.
        names: The names of the columns.
        device: Where :meth:`inside` is.

    Example:
        >>> from pyro_vae.distributions import OnColumns
        >>> constraints = pyro.distributions.constraints
        >>> support = OnColumns([constraints.real, constraints.boolean], ["age", "sex"])
        >>> support.check(torch.tensor([[3.5, 1.0], [3.5, 0.5]]))
        tensor([ True, False])
    """

    def __init__(
        self,
        supports: Sequence[Constraint],
        names: Sequence[str],
        device: torch.device | None = None,
    ) -> None:
        super().__init__(_Each(supports, names), 1)
        self._device = device

    def __repr__(self) -> str:
        return describe(self)

    @property
    def supports(self) -> list[Constraint]:
        """The support of each column."""
        return self.base_constraint.cseq

    def inside(self) -> Tensor:
        """A value on the support of each column, of shape ``(columns,)`` and the default dtype.

        It is 0 for reals, the first of the classes, and the middle of an interval.

        Example:
            >>> from pyro_vae.distributions import OnColumns
            >>> constraints = pyro.distributions.constraints
            >>> supports = [constraints.real, constraints.unit_interval, constraints.positive]
            >>> OnColumns(supports, ["a", "b", "c"]).inside()
            tensor([0.0000, 0.5000, 1.0000])
        """
        values = [self._number(each) for each in self.supports]
        batch = torch.broadcast_shapes(*(value.shape[:-1] for value in values))
        return torch.cat([value.expand(*batch, 1) for value in values], -1)

    def _number(self, support: Constraint) -> Tensor:
        """A number on a support, of shape ``(1,)``, or of bounds that are tensors."""
        value = _inside(support)
        if isinstance(value, Tensor):
            return value.to(torch.get_default_dtype()).reshape(*value.shape[:-1], 1)
        # Filled on the device: a copy to a GPU could not be recorded as a part of a graph.
        return torch.full((1,), value, device=self._device)


def _inside(support: Constraint) -> Tensor | float:
    """A number on a set of numbers; a tensor where its bounds are tensors."""
    ends: Any = [getattr(support, name, None) for name in ("lower_bound", "upper_bound")]
    low, high = ends
    if isinstance(support, type(constraints.boolean) | type(constraints.real)):
        return 0.0
    if low is None and high is None:
        return transform_to(support)(torch.zeros(()))
    # Numbers are not made to tensors, so that a graph has them as constants.
    if support.is_discrete:
        return high if low is None else low
    if low is None or high is None:
        return high - 1 if low is None else low + 1
    return low + (high - low) / 2


def is_class(distribution: Any) -> bool:
    """Whether the values of a distribution are classes, of which no mean is one.

    Example:
        >>> from pyro_vae.distributions import is_class
        >>> is_class(pyro.distributions.Bernoulli(torch.tensor([0.5])).to_event(1))
        True
        >>> is_class(pyro.distributions.Poisson(torch.tensor([0.5])).to_event(1))
        False
    """
    return isinstance(_without_independent(distribution), dist.Categorical | dist.Bernoulli)


def _without_independent(distribution: Any) -> Any:
    while isinstance(distribution, dist.Independent):
        distribution = distribution.base_dist
    return distribution


def by_element(distribution: dist.Distribution) -> bool:
    """Whether a distribution of a vector gives the log-density of each number.

    Example:
        >>> from pyro_vae.distributions.columns import by_element
        >>> by_element(pyro.distributions.Normal(torch.zeros(3), 1.0).to_event(1))
        True
        >>> by_element(pyro.distributions.MultivariateNormal(torch.zeros(3), torch.eye(3)))
        False
    """
    if len(distribution.event_shape) != 1:
        return False
    if distribution.event_shape == (1,):
        return True
    return isinstance(distribution, dist.Independent) and not distribution.base_dist.event_shape


def index_of(places: Sequence[int]) -> Tensor:
    """A permutation and its inverse, as int64 of shape ``(2, columns)``.

    Example:
        >>> from pyro_vae.distributions.columns import index_of
        >>> index_of([2, 0, 1])
        tensor([[2, 0, 1],
                [1, 2, 0]])
    """
    inverse = sorted(range(len(places)), key=lambda i: places[i])
    return torch.tensor([list(places), inverse])


class Columns(dist.TorchDistribution):
    r"""Rows of independent columns, :math:`\log p(x) = \sum_c \log p_c(x_c)`.

    Its event shape is ``(columns,)``. The point value `mean` has the most probable value of
    columns that are classes, whose mean is no class, and that of :func:`point` of all others.

    Arguments:
        parts: Distributions of one or more columns each, with event shape ``(of_the_part,)`` and
            the same batch shape, which say the log-density of each number, see
            :func:`by_element`.
        places: The column of each number of the parts, a permutation of ``0, ..., columns - 1``.
        names: The name of each column, in the order of x.
        index: :func:`index_of` the places, on the device of the parts; None makes it.

    Raises:
        ValueError: The parts do not fit each other or the names. In ``log_prob`` with validation
            on: a number is off the support of its column, which is named.

    Example:
        >>> from pyro_vae.distributions import Columns
        >>> ages = pyro.distributions.Normal(torch.zeros(7, 2), 1.0).to_event(1)
        >>> sex = pyro.distributions.Bernoulli(torch.full((7, 1), 0.5)).to_event(1)
        >>> p_x = Columns([ages, sex], [0, 2, 1], ["age", "sex", "age at entry"])
        >>> p_x.event_shape, p_x.log_prob(p_x.sample()).shape
        (torch.Size([3]), torch.Size([7]))
    """

    arg_constraints: dict[str, Constraint] = {}  # noqa: RUF012

    def __init__(
        self,
        parts: Sequence[dist.Distribution],
        places: Sequence[int],
        names: Sequence[str],
        index: Tensor | None = None,
        validate_args: bool | None = None,
    ) -> None:
        self.parts, self.names = list(parts), tuple(names)
        batch = {part.batch_shape for part in self.parts}
        for part in self.parts:
            if len(batch) > 1 or not by_element(part):
                raise ValueError(
                    f"parts: got a {type(part).__name__} of batch_shape {tuple(part.batch_shape)} "
                    f"and event_shape {tuple(part.event_shape)}, expected a distribution of "
                    "independent numbers with an event_shape of one dimension, and one batch_shape"
                )
        self._sizes = [part.event_shape[0] for part in self.parts]
        self.places = tuple(places)
        if sorted(self.places) != list(range(len(self.names))) or sum(self._sizes) != len(names):
            raise ValueError(
                f"places: got {self.places} of {sum(self._sizes)} columns with {len(names)} "
                "names, expected a column for each number and a name for each column"
            )
        self.index = index_of(places) if index is None else index
        super().__init__(batch.pop(), torch.Size((len(self.names),)), validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "Columns":
        new = self._get_checked_instance(Columns, _instance)
        new.parts = [part.expand(batch_shape) for part in self.parts]
        new.names, new.places, new.index = self.names, self.places, self.index
        new._sizes = self._sizes
        super(Columns, new).__init__(torch.Size(batch_shape), self.event_shape, False)
        new._validate_args = self._validate_args
        return new

    @property
    def support(self) -> OnColumns:
        """The rows whose numbers are on the supports of their columns."""
        return self._on_columns([support_of(part) for part in self.parts])

    @property
    def scored_support(self) -> OnColumns:
        """The rows whose numbers are scored, see :func:`scored_support`."""
        return self._on_columns([scored_support(part) for part in self.parts])

    def _on_columns(self, supports: Sequence[Constraint]) -> OnColumns:
        flat = [
            _of_number(support, place, size)
            for support, size in zip(supports, self._sizes, strict=True)
            for place in range(size)
        ]
        by_column = dict(zip(self.places, flat, strict=True))
        in_order = [by_column[column] for column in range(len(flat))]
        return OnColumns(in_order, self.names, self.index.device)

    def log_prob(self, value: Tensor) -> Tensor:
        """The log-density of each row, shape ``batch``."""
        return self.elementwise_log_prob(value).sum(-1)  # as what is observed sums them

    def elementwise_log_prob(self, value: Tensor) -> Tensor:
        """The log-density of each number, shape ``batch + event``.

        Arguments:
            value: Rows on the support.
        """
        return self._in_order(self._each(value))

    def _each(self, value: Tensor) -> list[Tensor]:
        """The log-densities of the numbers of each part."""
        if value.shape[-1:] != self.event_shape:
            raise ValueError(
                f"value: got shape {tuple(value.shape)}, expected (*batch, {len(self.names)}): a "
                "number for each column"
            )
        ordered = value if self._is_ordered else value.index_select(-1, self.index[0])
        shares = ordered.split(self._sizes, -1)
        try:
            each = [_each_of(part, own) for part, own in zip(self.parts, shares, strict=True)]
        except ValueError:
            if self._validate_args:  # A part knows its own columns only.
                check_on_support("x", value, self.scored_support)
            raise
        if len({log_prob.shape[:-1] for log_prob in each}) == 1:
            return each
        batch = torch.broadcast_shapes(*(log_prob.shape[:-1] for log_prob in each))
        return [log_prob.expand(*batch, log_prob.shape[-1]) for log_prob in each]

    def _in_order(self, parts: Sequence[Tensor], dim: int = -1) -> Tensor:
        """The numbers of all parts, in the order of the columns."""
        joined = torch.cat(list(parts), dim)
        return joined if self._is_ordered else joined.index_select(dim, self.index[1])

    @property
    def _is_ordered(self) -> bool:
        """Whether the parts have the columns in their order."""
        return self.places == tuple(range(len(self.places)))

    @property
    def mean(self) -> Tensor:
        """The point value of each column."""
        return self._in_order([p.mode if is_class(p) else point(p) for p in self.parts])

    @property
    def expectation(self) -> Tensor:
        """The mean of each column, of classes as numbers; NaN where a distribution has none."""
        return self._in_order([_mean_or_nan(part) for part in self.parts])

    @property
    def class_probs(self) -> Tensor:
        """The probabilities of the classes 0, 1, ..., of shape ``batch + (columns, classes)``.

        They are 0 in columns that are no classes, and above the number of a column's classes.
        """
        each = [_class_probs(part, self.index.device) for part in self.parts]
        most = max(probs.shape[-1] for probs in each)
        return self._in_order([F.pad(p, (0, most - p.shape[-1])) for p in each], dim=-2)

    @property
    def mode(self) -> Tensor:
        return self._in_order([part.mode for part in self.parts])

    @property
    def variance(self) -> Tensor:
        return self._in_order([part.variance for part in self.parts])

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        with torch.no_grad():
            return self._in_order([part.sample(torch.Size(sample_shape)) for part in self.parts])


def _mean_or_nan(part: dist.Distribution) -> Tensor:
    try:
        return part.mean
    except NotImplementedError:
        return torch.full_like(part.sample(), torch.nan)


def _class_probs(part: dist.Distribution, device: torch.device) -> Tensor:
    """The probabilities of classes, of shape ``batch + (columns, classes)``; else no classes."""
    base = _without_independent(part)
    if isinstance(base, dist.Bernoulli):
        return torch.stack((1 - base.probs, base.probs), -1)
    if isinstance(base, dist.Categorical):
        return base.probs
    return torch.zeros(*part.batch_shape, *part.event_shape, 0, device=device)


def _each_of(part: dist.Distribution, value: Tensor) -> Tensor:
    """The log-density of each number of a part."""
    if isinstance(part, dist.Independent) and not part.base_dist.event_shape:
        return part.base_dist.log_prob(value)
    return part.log_prob(value).unsqueeze(-1)


def _of_number(support: Constraint, place: int, size: int) -> Constraint:
    """The support of one number of a vector whose numbers are independent."""
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    if support.event_dim:
        raise ValueError(f"parts: got the support {describe(support)}, expected one of numbers")
    own = copy.copy(support)
    for name, bound in vars(support).items():
        if isinstance(bound, Tensor) and bound.dim() and bound.shape[-1] == size:
            setattr(own, name, bound[..., place : place + 1])
    return own
