"""Supports: whether two of them are the same set, and whether a tensor lies on one."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Transform, TransformedDistribution, constraints
from torch.distributions.constraints import Constraint


def describe(support: Constraint) -> str:
    """A support's name as users know it, without the event dimensions that wrap it."""
    support = _innermost(support)
    bounds = [getattr(support, name, None) for name in ("lower_bound", "upper_bound")]
    values = ", ".join(_text(bound) for bound in bounds if bound is not None)
    return type(support).__name__.lstrip("_") + (f"({values})" if values else "")


def _text(bound: Any) -> str:
    values = torch.as_tensor(bound).unique().tolist()
    return f"{values[0]:g}" if len(values) == 1 else f"{values[0]:g}..{values[-1]:g}"


def same_support(a: Constraint, b: Constraint) -> bool:
    """Whether two supports hold the same points, up to their boundary, which has no mass.

    They are compared by what they contain, not as objects: ``real_vector`` is
    ``independent(real, 1)``, and ``positive`` is ``nonnegative``.
    """
    a, b = _innermost(a), _innermost(b)
    if hasattr(a, "cseq") or hasattr(b, "cseq"):  # cat and stack
        parts = [list(getattr(c, "cseq", ())) for c in (a, b)]
        return len(parts[0]) == len(parts[1]) and all(map(same_support, *parts))
    own, other = _bounds(a), _bounds(b)
    if own is None or other is None:
        return own is other and type(a) is type(b)
    return a.is_discrete == b.is_discrete and all(
        _close(*pair, own[1] - own[0]) for pair in zip(own, other, strict=True)
    )


def _close(a: Tensor, b: Tensor, width: Tensor) -> bool:
    """Whether two ends are the same but for a few roundings of float32."""
    size = torch.maximum(a.abs(), width.nan_to_num(posinf=0.0)).nan_to_num(posinf=0.0)
    error = 4 * torch.finfo(torch.float32).eps * size
    return bool(((a == b) | ((a - b).abs() <= error)).all())


def support_of(distribution: Any) -> Constraint:
    """A distribution's support, tightened where torch's own is too wide.

    torch takes the codomain of the last transform; an affine one has that of all reals, though
    it maps the interval that a sigmoid gives it to an interval, and a power maps that to another.
    """
    base = distribution
    while not isinstance(base, TransformedDistribution) and hasattr(base, "base_dist"):
        base = base.base_dist
    plain = getattr(type(base), "support", None) is TransformedDistribution.support
    if not isinstance(base, TransformedDistribution) or not plain:
        return distribution.support
    support = support_of(base.base_dist)
    for transform in _flat(base.transforms):
        support = _image(transform, support)
    return support


def _image(transform: Transform, support: Constraint) -> Constraint:
    """Where a transform brings a set: by its ends, if it is monotone and more could go in."""
    bounds = _bounds(_innermost(support))
    elementwise = transform.bijective and transform.domain.event_dim == 0
    if bounds is None or not elementwise or same_support(support, transform.domain):
        return transform.codomain
    ends = [transform(bound.to(torch.get_default_dtype())) for bound in bounds]
    return constraints.interval(torch.minimum(*ends), torch.maximum(*ends))


def _flat(transforms: Sequence[Transform]) -> Iterator[Transform]:
    for transform in transforms:
        parts = getattr(transform, "parts", None) or getattr(transform, "base_transform", None)
        if parts is None:
            yield transform
        else:
            yield from _flat(parts if isinstance(parts, list | tuple) else [parts])


def _innermost(support: Constraint) -> Constraint:
    # Independent and mixture constraints both wrap the one that says which values are allowed.
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    return support


def _bounds(support: Constraint) -> tuple[Tensor, Tensor] | None:
    """Least and greatest value of a set of numbers; None for sets of another kind."""
    if isinstance(support, type(constraints.boolean)):
        return torch.zeros(()).double(), torch.ones(()).double()
    low, high = getattr(support, "lower_bound", None), getattr(support, "upper_bound", None)
    if low is None and high is None and not isinstance(support, type(constraints.real)):
        return None
    low, high = -math.inf if low is None else low, math.inf if high is None else high
    return torch.as_tensor(low).double(), torch.as_tensor(high).double()


def is_real(support: Constraint) -> bool:
    """Whether a support is all reals, or all real vectors."""
    support = _innermost(support)
    if isinstance(support, type(constraints.real)):
        return True
    bounds = _bounds(support)
    return bounds is not None and all(bool(torch.isinf(bound).all()) for bound in bounds)


def ends_of(support: Constraint) -> tuple[float, float] | None:
    """The ends of a finite interval, the same in each dimension; None for any other set."""
    bounds = None if support.is_discrete else _bounds(_innermost(support))
    if bounds is None:
        return None
    low, high = (bound.unique() for bound in bounds)
    if low.numel() > 1 or high.numel() > 1 or not torch.isfinite(high - low):
        return None
    return low.item(), high.item()


def scored_support(distribution: Any) -> Constraint:
    """Where a distribution scores values: its support, or the wider set that it declares.

    A distribution whose ``log_prob`` is used beyond the set on which it is a density, as cross
    entropy is on grey pixels, names that wider set as ``scored_support``.
    """
    base = distribution
    while not hasattr(base, "scored_support") and hasattr(base, "base_dist"):
        base = base.base_dist
    if not hasattr(base, "scored_support"):
        return distribution.support
    return constraints.independent(base.scored_support, len(distribution.event_shape))


def check_finite(argument: str, value: Tensor) -> None:
    """Raises ValueError, with the first offending value, unless all of `value` is finite."""
    if torch.isfinite(value.sum()):  # a tenth of the time; where a sum overflows, look closer
        return
    finite = torch.isfinite(value)
    if not finite.all():
        raise ValueError(
            f"{argument}: got {value[~finite][0].item()} at {int((~finite).sum())} of "
            f"{value.numel()} places, expected finite numbers"
        )


def check_on_support(argument: str, value: Tensor, support: Constraint) -> None:
    """Raises ValueError, with the first offending value, unless all of `value` is on `support`."""
    check_finite(argument, value)
    on = support.check(value)
    if on.all():
        return
    # Which single value is to blame, where the support is one of numbers rather than of events.
    while isinstance(support, type(constraints.real_vector)):
        support = support.base_constraint
        on = support.check(value)
    got = (
        f"{value[~on][0].item():g} at {int((~on).sum())} of {value.numel()} places"
        if on.shape == value.shape
        else f"{int((~on).sum())} of {on.numel()} events off it"
    )
    raise ValueError(f"{argument}: got {got}, expected values on {describe(support)}")
