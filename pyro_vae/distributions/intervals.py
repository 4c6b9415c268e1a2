"""Intervals without their end points, the transform of the reals onto one, and a clamp."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Transform, biject_to, constraints, transform_to

from pyro_vae.compat import changes
from pyro_vae.distributions.versions import is_unchanged

__all__ = ["OntoInterval", "OpenInterval", "clamp_inwards"]


class OpenInterval(type(constraints.unit_interval)):  # type: ignore[misc]
    """An interval without its end points.

    Arguments:
        lower_bound, upper_bound: The end points, numbers or tensors.

    Example:
        >>> from pyro_vae.distributions import OpenInterval
        >>> OpenInterval(0.0, 1.0).check(torch.tensor([0.0, 0.5, 1.0]))
        tensor([False,  True, False])
    """

    def check(self, value: Tensor) -> Tensor:
        """Whether each value is strictly inside."""
        return (value > self.lower_bound) & (value < self.upper_bound)


@biject_to.register(OpenInterval)
@transform_to.register(OpenInterval)
def _onto_open_interval(support: OpenInterval) -> Transform:
    return biject_to(constraints.interval(support.lower_bound, support.upper_bound))


class OntoInterval(Transform):
    r"""The transform :math:`z = a + (b - a)\,\sigma(y)`, strictly inside of the interval.

    torch's sigmoid and affine transforms round to the end points, where a uniform prior has no
    density, and lose the log-derivative of values near them. The inverse of the last z is the y
    that it came from.

    Arguments:
        low, high: The end points a and b.

    Example:
        >>> from pyro_vae.distributions import OntoInterval
        >>> onto = OntoInterval(torch.tensor(0.0), torch.tensor(1.0))
        >>> bool((onto(torch.tensor([-200.0, 200.0])) % 1 > 0).all())
        True
    """

    domain = constraints.real
    bijective = True
    sign = 1
    is_fixed = True  # it has no parameters, so path derivatives may be taken before it

    def __init__(self, low: Tensor, high: Tensor, cache_size: int = 1) -> None:
        super().__init__(cache_size)
        self.low, self.high = low, high
        self._count = -1

    def with_cache(self, cache_size: int = 1) -> "OntoInterval":
        """The same transform with another cache size, as of any torch transform."""
        return OntoInterval(self.low, self.high, cache_size)

    @property
    def codomain(self) -> constraints.Constraint:  # type: ignore[override]
        """The open interval."""
        return OpenInterval(self.low, self.high)

    def _call(self, x: Tensor) -> Tensor:
        y = self.low + (self.high - self.low) * x.sigmoid()
        inner = torch.nextafter(self.low, self.high), torch.nextafter(self.high, self.low)
        y = y.clamp(*inner)
        self._count = changes(y)
        return y

    def _inv_call(self, y: Tensor) -> Tensor:
        if not is_unchanged(y, self._count):  # the cached x belongs to the old values
            self._cached_x_y = None, None
        return super()._inv_call(y)

    def _inverse(self, y: Tensor) -> Tensor:
        # The last value before an end point is a part of the width that may round to 1, of which
        # the logit is infinite; its distance to the end point is exact.
        width = self.high - self.low
        return ((y - self.low) / width).log() - ((self.high - y) / width).log()

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """The logarithm of the derivative at x, where y is the transformed x."""
        return (self.high - self.low).log() - F.softplus(x) - F.softplus(-x)


def clamp_inwards(value: Tensor, low: float, high: float) -> Tensor:
    """A clamp that lets gradients through, unless they lead further out of the range.

    With the gradient of ``torch.clamp``, a value that left the range could never return.

    Example:
        >>> from pyro_vae.distributions import clamp_inwards
        >>> raw = torch.tensor([1.5], requires_grad=True)
        >>> clamp_inwards(raw, 0.0, 1.0).sum().backward()  # a descent leads back inside
        >>> raw.grad
        tensor([1.])
    """
    clamped: Tensor = _Clamp.apply(value, low, high)
    return clamped


class _Clamp(torch.autograd.Function):
    """The clamp and its gradient."""

    generate_vmap_rule = True

    @staticmethod
    def forward(value: Tensor, low: float, high: float) -> Tensor:
        return value.clamp(low, high)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, float, float], output: Tensor) -> None:
        value, ctx.low, ctx.high = inputs
        ctx.save_for_backward(value)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (value,) = ctx.saved_tensors
        outwards = (value < ctx.low) & (gradient > 0) | (value > ctx.high) & (gradient < 0)
        return gradient.masked_fill(outwards, 0.0), None, None
