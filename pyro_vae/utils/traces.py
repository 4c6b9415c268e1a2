"""The log-probability of a trace's sites, in the one way in which this package sums it."""

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

import torch
from pyro.distributions.util import scale_and_mask
from torch import Tensor

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
        sites: Names and sample sites.
        summed: From a number of dimensions to the dimensions to sum over, counted from the right;
            they stay, with size 1. None sums over all of them, to a number.
        scale: The scale of a site, its own if not told otherwise.
        check: Looks at each site's log-probability before it is summed.

    Returns:
        The sum in nats, whose dimensions are those of all sites, broadcast.
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
    """A site's log-probability; what Pyro has computed already is not computed again."""
    if "log_prob" in site and scale is site["scale"]:
        return site["log_prob"]
    unscaled = site.get("unscaled_log_prob")
    if unscaled is None:
        unscaled = site["fn"].log_prob(site["value"], *site["args"], **site["kwargs"])
    return scale_and_mask(unscaled, scale, site["mask"])
