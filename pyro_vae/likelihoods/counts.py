"""Likelihoods of counts: 0, 1, ..."""

import math
from collections.abc import Sequence

import pyro.distributions as dist
import torch
import torch.nn.functional as F
from pyro.poutine.util import is_validation_enabled
from torch import Tensor, nn

from pyro_vae import distributions
from pyro_vae.utils.checks import check_index, plain
from pyro_vae.utils.context import entry_of, given, takes_context
from pyro_vae.utils.shapes import event_dim, out_shape

__all__ = ["NegativeBinomial", "Poisson"]


class _Counts(nn.Module):
    """A likelihood of counts, whose means may be proportional to an entry of the context."""

    network: nn.Module

    def __init__(self, exposure: int | None) -> None:
        super().__init__()
        if exposure is not None:
            check_index("exposure", exposure)
        self.exposure = plain(exposure)

    @property
    def takes_context(self) -> bool:
        """Whether ``forward`` takes a context: for the exposure, or for the network."""
        return self.exposure is not None or takes_context(self.network)

    def check_context(self, *context: Tensor) -> None:
        """Raises ValueError unless the exposure is positive."""
        if self.exposure is not None:
            value = entry_of(context, self.exposure)
            if not ((value > 0) & (value < math.inf)).all():
                raise ValueError(
                    f"context: got an exposure of {value.min().item():g} as entry "
                    f"{self.exposure}, expected positive numbers"
                )

    def _exposed(self, z: Tensor, context: Sequence[Tensor], event_dim: int) -> Tensor | None:
        """The exposure in a shape that broadcasts against x, or None."""
        if self.exposure is None:
            return None
        if is_validation_enabled():  # It reads values, so Pyro's switch for such checks applies.
            self.check_context(*context)
        value = entry_of(context, self.exposure)
        if value.dtype != z.dtype:
            raise TypeError(
                f"context: got an exposure of {value.dtype} as entry {self.exposure}, expected "
                f"{z.dtype}"
            )
        if value.shape != z.shape[:-1]:
            raise ValueError(
                f"context: got shape {tuple(value.shape)} as entry {self.exposure}, expected "
                f"{tuple(z.shape[:-1])}: one exposure for each example"
            )
        return value[(..., *[None] * event_dim)]

    def extra_repr(self) -> str:
        return "" if self.exposure is None else f"exposure={self.exposure}"


class Poisson(_Counts):
    r"""Independent Poisson counts with rates :math:`e^{f_d(z)} + 10^{-4}`.

    x is a count: 0.0, 1.0, ... (pixels ``"levels"``). With an exposure e from the context (a
    library size, a time of observation), the rates are :math:`e\, e^{f_d(z)} + 10^{-4}`.

    Arguments:
        network: Maps z of shape ``(*batch, z_dim)`` to log-rates of shape ``(*batch, *x_shape)``.
        exposure: The index of the exposure in the context, a positive number for each example;
            None for no exposure.

    Raises:
        ValueError: `exposure` is no index. In ``forward``: the context has no such entry, or it is
            not one positive number for each example (its values are checked while Pyro validates).
        TypeError: In ``forward``: the exposure is not of z's dtype.

    Example:
        >>> likelihood = likelihoods.Poisson(networks.MLP(20, (500,), 2000))
        >>> likelihood(torch.randn(7, 20)).event_shape
        torch.Size([2000])
    """

    def __init__(self, network: nn.Module, exposure: int | None = None) -> None:
        super().__init__(exposure)
        self.network = network
        self._event_dim = len(out_shape(network))

    @staticmethod
    def numbers(exposure: int | None = None) -> int:
        """How many numbers it takes for each pixel: the log-rate."""
        return 1

    def forward(self, z: Tensor, *context: Tensor) -> dist.Distribution:
        log_rate = given(self.network, z, context)
        exposure = self._exposed(z, context, self._event_dim)
        log_rate = log_rate if exposure is None else log_rate + exposure.log()
        floor = log_rate.new_tensor(math.log(1e-4))
        return distributions.Poisson(torch.logaddexp(log_rate, floor)).to_event(self._event_dim)


class NegativeBinomial(_Counts):
    r"""Independent counts with mean :math:`\mu_d` and variance :math:`\mu_d + \mu_d^2 / r_d`.

    x is a count: 0.0, 1.0, ... (pixels ``"levels"``). The network gives log-means f and raw
    dispersions g: :math:`\mu = e^f` and :math:`r = \mathrm{softplus}(g) + 10^{-4}`. As r grows,
    the distribution approaches a Poisson. With an exposure e from the context (a library size),
    :math:`\mu = e\, e^f`, as in the source.

    Source: Lopez et al. (2018), "Deep generative modeling for single-cell transcriptomics".

    Arguments:
        network: Maps z of shape ``(*batch, z_dim)`` to shape ``(*batch, 2, *x_shape)``.
        exposure: As that of :class:`Poisson`.

    Raises:
        ValueError: The network does not give two numbers a pixel, or as :class:`Poisson`.
        TypeError: As :class:`Poisson`.

    Example:
        >>> likelihood = likelihoods.NegativeBinomial(networks.MLP(20, (500,), (2, 2000)))
        >>> likelihood(torch.randn(7, 20)).event_shape
        torch.Size([2000])
    """

    def __init__(self, network: nn.Module, exposure: int | None = None) -> None:
        super().__init__(exposure)
        self._event_dim = event_dim(network, self.numbers(), "a log-mean and a raw r")
        self.network = network

    @staticmethod
    def numbers(exposure: int | None = None) -> int:
        """How many numbers it takes for each pixel: the log-mean and the raw r."""
        return 2

    def forward(self, z: Tensor, *context: Tensor) -> dist.Distribution:
        log_mean, raw_r = given(self.network, z, context).unbind(-1 - self._event_dim)
        exposure = self._exposed(z, context, self._event_dim)
        log_mean = log_mean if exposure is None else log_mean + exposure.log()
        r = F.softplus(raw_r) + 1e-4
        pixels = distributions.NegativeBinomial(r, logits=log_mean - r.log())
        return pixels.to_event(self._event_dim)
