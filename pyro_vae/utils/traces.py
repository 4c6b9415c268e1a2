"""Sums of log-probabilities over the sites of a trace."""

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

import torch
from pyro.distributions.util import scale_and_mask
from torch import Tensor

__all__ = ["Site", "log_prob_sum"]

Site = Mapping[str, Any]
"""A sample site of a ``pyro.poutine.Trace``."""


def log_prob_sum(
    sites: Iterable[tuple[str, Site]],
    summed: Callable[[int], Collection[int]] | None = None,
    *,
    scale: Callable[[Site], Tensor | float] = lambda site: site["scale"],
    check: Callable[[str, Site, Tensor], None] = lambda name, site, log_prob: None,
) -> Tensor:
    """Sums scaled and masked log-probabilities over sites and over some of their dimensions.

    Arguments:
        sites: Sample sites with their names.
        summed: Maps a number of dimensions to the dimensions to sum over, counted from the right.
            These keep size 1. None sums over all dimensions, to a scalar.
        scale: Returns the scale of a site; the default is the site's own.
        check: Called with each site's name, the site and its log-probability before the sum over
            dimensions.

    Returns:
        The sum in nats. The sites' log-probabilities are broadcast against each other.

    Example:
        >>> from pyro_vae.utils.traces import log_prob_sum
        >>> vae = presets.build("bernoulli-mlp", z_dim=2, shape=(28, 28))
        >>> trace = pyro.poutine.trace(vae.model).get_trace(torch.zeros(7, 28, 28))
        >>> log_prob_sum([("z", trace.nodes["z"])]).shape
        torch.Size([])
        >>> log_prob_sum([("z", trace.nodes["z"])], lambda count: ()).shape
        torch.Size([7])
    """
    total: Tensor | float = 0.0
    for name, site in sites:
        value = _of_site(site, scale(site))
        check(name, site, value)
        total = total + _summed(value, summed)
    return torch.as_tensor(total)


def _summed(value: Tensor, summed: Callable[[int], Collection[int]] | None) -> Tensor:
    if summed is None:
        return value.sum()
    dims = [dim for dim in summed(value.dim()) if -dim <= value.dim()]
    return value.sum(dims, keepdim=True) if dims else value


def _of_site(site: Site, scale: Tensor | float) -> Tensor:
    """A site's log-probability, taken from the trace if Pyro has computed it already."""
    if "log_prob" in site and scale is site["scale"]:
        return site["log_prob"]
    unscaled = site.get("unscaled_log_prob")
    if unscaled is None:
        unscaled = site["fn"].log_prob(site["value"], *site["args"], **site["kwargs"])
    return scale_and_mask(unscaled, scale, site["mask"])
