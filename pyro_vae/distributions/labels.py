"""Labels: a class as it was observed, or -1 where it was not."""

from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints

__all__ = ["Labels"]


class Labels(dist.TorchDistribution):
    r"""A label of a class y: y itself, or -1 where it is missing.

    The probability of a label is 1 if it is y, and 0 if it is another class. A missing label has
    the factor 1, whatever y is. A draw is never missing.

    Arguments:
        y: Classes of shape ``batch_shape``.
        classes: The number of classes.

    Example:
        >>> from pyro_vae.distributions import Labels
        >>> Labels(torch.tensor([2, 2, 2]), classes=3).log_prob(torch.tensor([2, 1, -1]))
        tensor([0., -inf, 0.])
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    has_rsample = False

    def __init__(self, y: Tensor, classes: int, validate_args: bool | None = None) -> None:
        self.y = y
        self.classes = classes
        super().__init__(y.shape, torch.Size(), validate_args=validate_args)

    @constraints.dependent_property(is_discrete=True, event_dim=0)
    def support(self) -> constraints.Constraint:
        """The classes, and -1."""
        return constraints.integer_interval(-1, self.classes - 1)

    def log_prob(self, value: Tensor) -> Tensor:
        """0 for the class or a missing label, and -inf for another class."""
        if self._validate_args:
            self._validate_sample(value)
        fits = (value == self.y) | (value < 0)
        zero = torch.zeros((), device=self.y.device)
        return torch.where(fits, zero, zero.new_tensor(-torch.inf))

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """The classes."""
        return self.y.expand(self._extended_shape(torch.Size(sample_shape)))

    def expand(self, batch_shape: Any, _instance: Any = None) -> "Labels":
        """The same labels with another batch shape."""
        return Labels(self.y.expand(torch.Size(batch_shape)), self.classes, self._validate_args)
