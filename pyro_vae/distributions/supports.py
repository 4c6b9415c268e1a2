"""Supports of distributions: whether two are the same set, and whether a tensor lies on one."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Transform, TransformedDistribution, constraints
from torch.distributions.constraints import Constraint

__all__ = [
    "check_finite",
    "check_on_support",
    "describe",
    "ends_of",
    "is_real",
    "same_support",
    "scored_support",
    "support_of",
    "takes_nan",
    "varies",
]


def describe(support: Constraint) -> str:
    """A support's name as users know it, without the event dimensions that wrap it.

    Example:
        >>> from pyro_vae.distributions import describe_support
        >>> describe_support(priors.Uniform(2, low=-1.0, high=1.0)().support)
        'Interval(-1, 1)'
    """
    end = " or NaN" if takes_nan(support) else ""
    support = _innermost(support)
    columns: Any = support
    if hasattr(columns, "names"):
        each = zip(columns.names, columns.cseq, strict=True)
        return "columns " + ", ".join(f"{name!r}: {describe(own)}" for name, own in each)
    bounds = [getattr(support, name, None) for name in ("lower_bound", "upper_bound")]
    values = ", ".join(_text(bound) for bound in bounds if bound is not None)
    return type(support).__name__.lstrip("_") + (f"({values})" if values else "") + end


def _text(bound: Any) -> str:
    values = torch.as_tensor(bound).unique().tolist()
    return f"{values[0]:g}" if len(values) == 1 else f"{values[0]:g}..{values[-1]:g}"


def same_support(a: Constraint, b: Constraint) -> bool:
    """Whether two supports are the same set up to their boundary, which has no mass.

    They are compared by what they contain and not as objects: ``real_vector`` equals
    ``independent(real, 1)``, and ``positive`` equals ``nonnegative``.

    Example:
        >>> from pyro_vae.distributions import same_support
        >>> constraints = pyro.distributions.constraints
        >>> same_support(constraints.real_vector, constraints.independent(constraints.real, 1))
        True
    """
    if takes_nan(a) != takes_nan(b):
        return False
    a, b = _innermost(a), _innermost(b)
    if hasattr(a, "cseq") or hasattr(b, "cseq"):  # cat and stack
        parts = [list(getattr(c, "cseq", ())) for c in (a, b)]
        return len(parts[0]) == len(parts[1]) and all(map(same_support, *parts))
    own, other = _bounds(a), _bounds(b)
    if own is None or other is None:
        # One-hot codes of other numbers of values are other vectors.
        levels = [getattr(c, "levels", None) for c in (a, b)]
        return own is other and type(a) is type(b) and levels[0] == levels[1]
    return a.is_discrete == b.is_discrete and all(
        _close(*ends, own[1] - own[0]) for ends in zip(own, other, strict=True)
    )


def _close(a: Tensor, b: Tensor, width: Tensor) -> bool:
    """Whether two end points are equal up to a few roundings of float32."""
    size = torch.maximum(a.abs(), width.nan_to_num(posinf=0.0)).nan_to_num(posinf=0.0)
    error = 4 * torch.finfo(torch.float32).eps * size
    return bool(((a == b) | ((a - b).abs() <= error)).all())


def support_of(distribution: Any) -> Constraint:
    """The support of a distribution, tightened where torch's own is too wide.

    torch takes the codomain of the last transform. That of an affine transform is all reals, even
    after a sigmoid, where the values lie in an interval.

    Example:
        >>> from pyro_vae.distributions import describe_support, support_of
        >>> normal = pyro.distributions.Normal(0.0, 1.0)
        >>> transforms = torch.distributions.transforms
        >>> onto = [transforms.SigmoidTransform(), transforms.AffineTransform(0.0, 2.0)]
        >>> p_z = pyro.distributions.TransformedDistribution(normal, onto)
        >>> describe_support(p_z.support), describe_support(support_of(p_z))
        ('Real', 'Interval(0, 2)')
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
    """The image of a set: by its end points if the transform is monotone and its domain wider."""
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
    # Independent and mixture constraints both wrap the one that says which values are allowed, and
    # so does OrNaN.
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    return support


def _bounds(support: Constraint) -> tuple[Tensor, Tensor] | None:
    """The least and the greatest value of a set of numbers; None for sets of another kind."""
    if isinstance(support, type(constraints.boolean)):
        return torch.zeros(()).double(), torch.ones(()).double()
    low, high = getattr(support, "lower_bound", None), getattr(support, "upper_bound", None)
    if low is None and high is None and not isinstance(support, type(constraints.real)):
        return None
    low, high = -math.inf if low is None else low, math.inf if high is None else high
    return torch.as_tensor(low).double(), torch.as_tensor(high).double()


def takes_nan(support: Constraint) -> bool:
    """Whether a support has NaN, which stands for elements that are not observed.

    Example:
        >>> from pyro_vae.distributions import OrNaN, takes_nan
        >>> real = pyro.distributions.constraints.real
        >>> takes_nan(real), takes_nan(OrNaN(real))
        (False, True)
    """
    while hasattr(support, "base_constraint") and not hasattr(support, "takes_nan"):
        support = support.base_constraint
    return bool(getattr(support, "takes_nan", False))


def is_real(support: Constraint) -> bool:
    """Whether a support is all reals, or all real vectors.

    Example:
        >>> from pyro_vae.distributions import is_real
        >>> is_real(priors.StandardNormal(2)().support)
        True
    """
    support = _innermost(support)
    if isinstance(support, type(constraints.real)):
        return True
    bounds = _bounds(support)
    return bounds is not None and all(bool(torch.isinf(bound).all()) for bound in bounds)


def ends_of(support: Constraint) -> tuple[float, float] | None:
    """The end points of a finite interval that is the same in each dimension, or else None.

    Example:
        >>> from pyro_vae.distributions import ends_of
        >>> ends_of(priors.Uniform(2, low=-1.0, high=1.0)().support)
        (-1.0, 1.0)
    """
    bounds = None if support.is_discrete else _bounds(_innermost(support))
    if bounds is None:
        return None
    low, high = (bound.unique() for bound in bounds)
    if low.numel() > 1 or high.numel() > 1 or not torch.isfinite(high - low):
        return None
    return low.item(), high.item()


def varies(support: Constraint) -> bool:
    """Whether the bounds of a support are tensors, which may differ between examples.

    Example:
        >>> from pyro_vae.distributions import varies
        >>> trials = torch.tensor([3, 5])
        >>> varies(pyro.distributions.Binomial(trials, 0.5).support)
        True
        >>> varies(pyro.distributions.Normal(0.0, 1.0).support)
        False
    """
    inner = _innermost(support)
    if hasattr(inner, "cseq"):  # cat and stack
        return any(map(varies, inner.cseq))
    return any(isinstance(bound, Tensor) for bound in vars(inner).values())


def scored_support(distribution: Any) -> Constraint:
    """The values that a distribution scores: its support, or the wider set that it declares.

    A distribution whose ``log_prob`` is meant for values off its support, such as cross entropy on
    grey pixels, declares them as ``scored_support``.

    Example:
        >>> from pyro_vae.distributions import CrossEntropy, describe_support, scored_support
        >>> p_x = CrossEntropy(logits=torch.zeros(3))
        >>> describe_support(p_x.support), describe_support(scored_support(p_x))
        ('Boolean', 'Interval(0, 1)')
    """
    base = distribution
    while not hasattr(base, "scored_support") and hasattr(base, "base_dist"):
        base = base.base_dist
    if not hasattr(base, "scored_support"):
        return distribution.support
    scored = base.scored_support
    rest = len(distribution.event_shape) - scored.event_dim
    return constraints.independent(scored, rest) if rest else scored


def check_finite(argument: str, value: Tensor, *, nan: bool = False, hint: str = "") -> None:
    """Checks that all values are finite.

    Arguments:
        argument: Name of the argument, for the error message.
        value: Any tensor.
        nan: Whether NaN is taken too.
        hint: The end of the error message.

    Raises:
        ValueError: Some value is NaN or infinite; the message has the first one.

    Example:
        >>> from pyro_vae.distributions import check_finite
        >>> check_finite("x", torch.tensor([0.0, float("nan")]))
        Traceback (most recent call last):
        ValueError: x: got nan at 1 of 2 places, expected finite numbers
    """
    if torch.isfinite(value.sum()):  # faster than a test of each value
        return
    finite = torch.isfinite(value)
    if nan:
        finite = finite | torch.isnan(value)
    if not finite.all():
        raise ValueError(
            f"{argument}: got {value[~finite][0].item()} at {int((~finite).sum())} of "
            f"{value.numel()} places, expected finite numbers{' or NaN' if nan else ''}{hint}"
        )


def check_on_support(argument: str, value: Tensor, support: Constraint) -> None:
    """Checks that all values are finite, or NaN where the support takes it, and on the support.

    Arguments:
        argument: Name of the argument, for the error message.
        value: Any tensor.
        support: A constraint of ``torch.distributions``.

    Raises:
        ValueError: Some value is not; the message has the first one.

    Example:
        >>> from pyro_vae.distributions import check_on_support
        >>> check_on_support("x", torch.tensor([0.0, 0.5]), pyro.distributions.constraints.boolean)
        Traceback (most recent call last):
        ValueError: x: got 0.5 at 1 of 2 places, expected values on Boolean
    """
    check_finite(argument, value, nan=takes_nan(support))
    on = support.check(value)
    if on.all():
        return
    # Name the single value, unless the constraint holds for whole events only.
    while isinstance(support, type(constraints.real_vector)):
        support = support.base_constraint
        on = support.check(value)
    columns: Any = _innermost(support)
    if hasattr(columns, "names") and on.shape == value.shape:
        place = int((~on).nonzero()[0, -1])
        argument = f"{argument}, column {columns.names[place]!r}"
        support, value, on = columns.cseq[place], value[..., place], on[..., place]
    got = (
        f"{value[~on][0].item():g} at {int((~on).sum())} of {value.numel()} places"
        if on.shape == value.shape
        else f"{int((~on).sum())} of {on.numel()} events off the support"
    )
    raise ValueError(f"{argument}: got {got}, expected values on {describe(support)}")
