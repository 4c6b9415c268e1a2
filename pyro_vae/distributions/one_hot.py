"""One-hot codes: several independent categorical variables, as one flat vector."""

from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import RelaxedOneHotCategorical, constraints, register_kl
from torch.distributions.constraints import Constraint

__all__ = ["OneHotCodes", "RelaxedOneHotCodes"]

_MOST = 1024  # values that are enumerated
_ROUNDING = 1e-4  # of the sum of a relaxed code, which is one


class _OneHot(Constraint):
    """Vectors of one-hot codes, one after the other.

    Arguments:
        levels: The number of values of each code.
    """

    is_discrete = True
    event_dim = 1

    def __init__(self, levels: int) -> None:
        self.levels = levels

    def check(self, value: Tensor) -> Tensor:
        codes = value.unflatten(-1, (-1, self.levels))
        on: Tensor = constraints.one_hot.check(codes).all(-1)
        return on

    def __repr__(self) -> str:
        return f"OneHot(levels={self.levels})"


class OneHotCodes(dist.TorchDistribution):
    r"""Independent one-hot codes z of some levels, one after the other in one vector.

    .. math:: \log p(z) = \sum_c \sum_k z_{ck} \log \pi_{ck}

    This is linear in z, and also scores relaxed codes, whose numbers are positive and add up to
    one. There it is no log-density: ``support`` is the one-hot vectors alone. All values can be
    enumerated if there are at most 1024, ``levels ** codes``.

    Arguments:
        logits: Of shape ``(*batch, codes, levels)``, up to a constant for each code.

    Raises:
        ValueError: In ``log_prob`` with validation on, a code is neither one-hot nor relaxed.

    Example:
        >>> from pyro_vae.distributions import OneHotCodes
        >>> p_z = OneHotCodes(torch.zeros(3, 4))
        >>> p_z.event_shape, p_z.enumerate_support().shape
        (torch.Size([12]), torch.Size([64, 12]))
        >>> p_z.log_prob(p_z.sample((7,))).shape
        torch.Size([7])
    """

    arg_constraints = {"logits": constraints.independent(constraints.real_vector, 1)}  # noqa: RUF012
    has_rsample = False

    def __init__(self, logits: Tensor, validate_args: bool | None = None) -> None:
        self.logits = logits
        self.codes, self.levels = logits.shape[-2:]
        super().__init__(
            logits.shape[:-2],
            torch.Size((self.codes * self.levels,)),
            validate_args=validate_args,
        )
        self.logits = logits.log_softmax(-1)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "OneHotCodes":
        new = self._get_checked_instance(type(self), _instance)
        batch_shape = torch.Size(batch_shape)
        vars(new).update(vars(self))
        new.logits = self.logits.expand(*batch_shape, self.codes, self.levels)
        dist.TorchDistribution.__init__(new, batch_shape, self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    @constraints.dependent_property(is_discrete=True, event_dim=1)
    def support(self) -> Constraint:
        return _OneHot(self.levels)

    @property
    def has_enumerate_support(self) -> bool:
        return self.levels**self.codes <= _MOST

    def enumerate_support(self, expand: bool = True) -> Tensor:
        if not OneHotCodes.has_enumerate_support.fget(self):  # type: ignore[attr-defined]
            raise NotImplementedError(
                f"OneHotCodes: got {self.codes} codes of {self.levels} levels, expected at most "
                f"{_MOST} values to enumerate"
            )
        each = torch.eye(self.levels, dtype=self.logits.dtype, device=self.logits.device)
        index = torch.cartesian_prod(
            *[torch.arange(self.levels, device=each.device)] * self.codes
        ).view(-1, self.codes)
        values = each[index].flatten(-2)
        values = values.view(-1, *[1] * len(self.batch_shape), *self.event_shape)
        return values.expand(-1, *self.batch_shape, -1) if expand else values

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        base = torch.distributions.OneHotCategorical(logits=self.logits, validate_args=False)
        return base.sample(torch.Size(sample_shape)).flatten(-2)

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        codes = value.unflatten(-1, (self.codes, self.levels))
        # A number of zero counts nothing, also where its probability is zero.
        logits = torch.where(codes == 0, torch.zeros_like(self.logits), self.logits)
        return (codes * logits).sum((-2, -1))

    def _validate_sample(self, value: Tensor) -> None:
        if value.shape[-1:] != self.event_shape:
            raise ValueError(
                f"z: got shape {tuple(value.shape)}, expected {tuple(self.event_shape)} as its "
                "last dimension"
            )
        total = value.unflatten(-1, (self.codes, self.levels)).sum(-1)
        if not ((value >= 0).all() and ((total - 1).abs() <= _ROUNDING).all()):
            raise ValueError(
                "z: got a code that is neither one-hot nor relaxed, expected numbers from 0 up "
                "that add up to 1"
            )

    @property
    def probs(self) -> Tensor:
        """The probabilities, of the shape of ``logits``."""
        return self.logits.exp()

    @property
    def mean(self) -> Tensor:
        return self.probs.flatten(-2)

    @property
    def mode(self) -> Tensor:
        best = self.logits.argmax(-1, keepdim=True)
        return torch.zeros_like(self.logits).scatter(-1, best, 1.0).flatten(-2)

    @property
    def variance(self) -> Tensor:
        return self.mean * (1 - self.mean)

    def entropy(self) -> Tensor:
        return -torch.special.xlogy(self.probs, self.probs).sum((-2, -1))


class RelaxedOneHotCodes(OneHotCodes):
    r"""One-hot codes whose draws are relaxed, :math:`\mathrm{softmax}((\log \pi + g) / \tau)`.

    The noise g is Gumbel, and :math:`\tau` the temperature. Draws have gradients, and are one-hot
    in the limit of 0. Everything but the draws is that of the one-hot codes: the support, the mean
    and the score, which is linear in z.

    Source: Jang, Gu and Poole (2017), arXiv 1611.01144, section 2; Maddison, Mnih and Teh (2017),
    arXiv 1611.00712, section 3.

    Arguments:
        logits: Of shape ``(*batch, codes, levels)``, up to a constant for each code.
        temperature: A scalar tensor above 0.

    Example:
        >>> from pyro_vae.distributions import RelaxedOneHotCodes
        >>> q_z = RelaxedOneHotCodes(torch.zeros(7, 3, 4), torch.tensor(0.5))
        >>> q_z.rsample().shape
        torch.Size([7, 12])
    """

    has_rsample = True

    def __init__(
        self, logits: Tensor, temperature: Tensor, validate_args: bool | None = None
    ) -> None:
        self.temperature = temperature
        super().__init__(logits, validate_args=validate_args)

    @property
    def has_enumerate_support(self) -> bool:
        return False

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        base = RelaxedOneHotCategorical(self.temperature, logits=self.logits, validate_args=False)
        return base.rsample(torch.Size(sample_shape)).flatten(-2)

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        with torch.no_grad():
            return self.rsample(sample_shape)


@register_kl(OneHotCodes, OneHotCodes)
def _kl_one_hot_codes(q: OneHotCodes, p: OneHotCodes) -> Tensor:
    r"""The KL of the one-hot codes, :math:`\sum_{ck} \pi_{ck} (\log \pi_{ck} - \log p_{ck})`."""
    ratio = torch.where(q.probs == 0, torch.zeros_like(q.logits), q.logits - p.logits)
    return (q.probs * ratio).sum((-2, -1))
