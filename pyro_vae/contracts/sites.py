"""What the sites of a model and a guide owe each other and the data."""

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from pyro.distributions import MaskedDistribution
from pyro.poutine import Trace
from torch import Tensor

from pyro_vae.distributions import (
    check_on_support,
    describe_distribution,
    describe_support,
    same_support,
    support_of,
)

PLATE = "data"
"""The plate that runs over the examples."""

_EXPECTED = (
    f'a plate "{PLATE}" of the size of x with any number of dimensions to its left, and masks and '
    "all else that is used to come from x or to be the same for each example; what is not seen is "
    "masked, and in x some number that the support holds"
)


class Refused(ValueError):
    """A model and guide that were looked at, and have no weight for each example."""


@contextmanager
def explained(what: str) -> Iterator[None]:
    """Says of an error inside a model or guide what was asked of them."""
    try:
        yield
    except Refused:
        raise
    except (RuntimeError, ValueError, IndexError, AssertionError) as error:
        raise ValueError(f"model, guide: {what} ({error}), expected {_EXPECTED}") from error


def check_site(program: str, name: str, site: Mapping[str, Any], size: int) -> None:
    """Raises ValueError unless a site has a log-density for each of `size` examples."""
    kind = "observed" if site["is_observed"] else "latent"
    where = f'{program}: the {kind} site "{name}"'
    frames = [frame for frame in site["cond_indep_stack"] if frame.name == PLATE]
    if not frames:
        raise Refused(
            f'{where} is outside of the plate "{PLATE}", expected all sites in it: only what is '
            "drawn for each example has a weight for each"
        )
    if not all(frame.vectorized for frame in site["cond_indep_stack"]):
        raise Refused(
            f'{where} is in a loop over a plate, expected "with pyro.plate(...):" around it'
        )
    scale = site["scale"]
    if isinstance(scale, Tensor) or scale != 1:
        raise Refused(
            f"{where} has a log-probability scaled by {scale}, expected no poutine.scale and no "
            "subsampled plate: a scaled one is no log-density"
        )
    if frames[0].size != size:
        raise Refused(
            f'plate "{PLATE}": has {frames[0].size} examples for {size} of x, expected '
            f'pyro.plate("{PLATE}", len(x)): examples come in blocks'
        )


def check_same_sites(program: str, now: Collection[str], first: Collection[str]) -> None:
    """Raises ValueError unless a model or guide has the sites that it had at its first call."""
    if set(now) != set(first):
        raise Refused(
            f"{program}: has the sites {_listed(now)}, and had {_listed(first)} at its "
            "first call, expected the same at each"
        )


def _listed(names: Collection[str]) -> str:
    return ", ".join(map(repr, sorted(names)))


def check_observed(name: str, site: Mapping[str, Any]) -> None:
    """Raises ValueError unless an observed value is on its site's support, or is masked."""
    fn, value = site["fn"], site["value"]
    inner = fn
    while inner is not None and not isinstance(inner, MaskedDistribution):
        inner = getattr(inner, "base_dist", None)
    if inner is not None:
        return  # only the distribution knows what its own mask leaves out
    mask = True if site["mask"] is None else site["mask"]
    if not value.numel():
        return  # a factor
    if mask is not False and not (fn.support.check(value) | ~torch.as_tensor(mask)).all():
        check_on_support(name, value, fn.support)


def check_latent_sites(drawn: Trace, guide: Trace, model: Trace) -> None:
    """Raises ValueError unless the guide draws what the model does, all of it, as densities.

    Arguments:
        drawn: A trace of the model alone.
        guide: A trace of the guide.
        model: A trace of the model, given the guide's latents.
    """
    names, latents = set(drawn.stochastic_nodes), tuple(guide.stochastic_nodes)
    for name in sorted(names ^ set(latents)):
        here, there = ("model", "guide") if name in names else ("guide", "model")
        raise ValueError(
            f'site "{name}": latent in the {here}, and not in the {there}, expected the same '
            "latents in both"
        )
    if not names:
        raise ValueError("model: has no latent sites, so that there is nothing to estimate")
    if not set(drawn.nodes) - names:
        raise ValueError(
            "model: has no observed site, expected pyro.sample(..., obs=x) in it, of what x is"
        )
    for name in latents:
        q, p = guide.nodes[name]["fn"], model.nodes[name]["fn"]
        if "Delta" in describe_distribution(q) and "Delta" not in describe_distribution(p):
            raise ValueError(
                f'site "{name}": the guide has {describe_distribution(q)}, expected a density: a point '
                "mass has no importance weights"
            )
        try:
            supports = support_of(q), support_of(p)
        except NotImplementedError:
            continue  # a distribution that does not say where it lives
        if not same_support(*supports):
            raise ValueError(
                f'site "{name}": the guide\'s support is {describe_support(supports[0])}, '
                f"expected the model's, {describe_support(supports[1])}"
            )
