"""Checks of the sites of a model and a guide against each other and against data."""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from pyro.poutine import Trace
from pyro.poutine.util import is_validation_enabled
from torch import Tensor
from torch.distributions import constraints

from pyro_vae.compat import changes, masked
from pyro_vae.distributions import (
    check_on_support,
    describe_distribution,
    describe_support,
    same_support,
    support_of,
    takes_nan,
)

__all__ = [
    "PLATE",
    "Refused",
    "check_latent_sites",
    "check_observed",
    "check_order",
    "check_same_sites",
    "check_site",
    "explained",
    "reason_of",
]

PLATE = "data"
"""The name of the plate over the examples."""

_EXPECTED = (
    f'a plate "{PLATE}" of the size of x, with any number of dimensions to its left; masks and '
    "other tensors that are computed from x or are the same for each example; networks that take "
    "further batch dimensions on the left (networks.Folded adds them); unobserved entries of x "
    "that are masked and hold a number on the support, or NaN where the site takes it "
    "(likelihoods.Observed)"
)


class Refused(ValueError):
    """A model or guide that does not have one log-density for each example.

    Example:
        >>> from pyro_vae.evaluation import Refused
        >>> issubclass(Refused, ValueError)
        True
    """


@contextmanager
def explained(what: str) -> Iterator[None]:
    """Adds to errors inside a model or guide what failed and what is expected.

    An argument that this package refuses there, such as a label, is named by its own error.

    Arguments:
        what: What failed, after ``"model, guide: "``.
    """
    try:
        yield
    except Refused:
        raise
    except (RuntimeError, ValueError, IndexError, AssertionError) as error:
        reason = reason_of(error)
        if _REFUSAL.match(reason):
            raise ValueError(reason) from error
        raise ValueError(f"model, guide: {what} ({reason}), expected {_EXPECTED}") from error


_REFUSAL = re.compile(r"(labels|(likelihood|posterior|classifier|prior)s?(\[\d+\])?): .*expected")
"""The messages of parts and labels, which say by themselves what is wrong."""


def reason_of(error: Exception) -> str:
    """The message of an error in a program, without the shapes of its parameters.

    Pyro adds those of all parameters and sites that came before the error. What a part or a label
    says of itself needs none of them.

    Example:
        >>> from pyro_vae.contracts import reason_of
        >>> shapes = "Trace Shapes:\\n Param Sites:\\nw 3 2\\n Sample Sites:\\nz dist 3 |"
        >>> reason_of(ValueError(f"sizes differ\\n {shapes}"))
        'sizes differ\\n Sample Sites:\\nz dist 3 |'
    """
    head, found, shapes = str(error).partition("Trace Shapes:")
    if not found or _REFUSAL.match(head):
        return head.rstrip()
    sites = shapes.partition("Sample Sites:")
    return "".join((head.rstrip(), "\n ", *sites[1:])).rstrip()


@contextmanager
def unchanged(values: Iterable[Tensor], where: str = "model, guide") -> Iterator[None]:
    """Raises Refused if a program changes one of some values in place, which others take too.

    Arguments:
        values: x, its context, and latents.
        where: What the program is, for the message.
    """
    before = [(value, changes(value)) for value in values]
    yield
    for value, count in before:
        if changes(value) != count:
            raise Refused(
                f"{where}: its input of shape {tuple(value.shape)} is changed in place, which "
                "other parts take too; expected a new tensor, as of a ReLU or a dropout without "
                "inplace=True"
            )


def check_site(program: str, name: str, site: Mapping[str, Any], size: int) -> None:
    """Raises ValueError unless a site has a log-density for each of `size` examples."""
    kind = "observed" if site["is_observed"] else "latent"
    where = f'{program}: the {kind} site "{name}"'
    frames = [frame for frame in site["cond_indep_stack"] if frame.name == PLATE]
    if not frames:
        raise Refused(
            f'{where} is outside of the plate "{PLATE}", expected all sites in it, because each '
            "example has importance weights of its own"
        )
    if not all(frame.vectorized for frame in site["cond_indep_stack"]):
        raise Refused(
            f'{where} is in a loop over a plate, expected "with pyro.plate(...):" instead'
        )
    scale = site["scale"]
    if is_scaled(scale):
        raise Refused(
            f"{where} has a log-probability scaled by {scale}, expected no poutine.scale and no "
            "subsampled plate: a scaled log-probability is not a log-density"
        )
    if frames[0].size != size:
        raise Refused(
            f'plate "{PLATE}": got size {frames[0].size} for x of length {size}, expected '
            f'pyro.plate("{PLATE}", len(x)): x comes in blocks of examples'
        )


def is_scaled(scale: Tensor | float) -> bool:
    """Whether a scale is another one than 1, or a tensor whose values are not to be read."""
    if not isinstance(scale, Tensor):
        return scale != 1
    # It reads values, so Pyro's switch for such checks applies.
    return not is_validation_enabled() or bool((scale != 1).any())


def check_same_sites(program: str, now: Collection[str], first: Collection[str]) -> None:
    """Raises ValueError unless a model or guide has the sites of its first call."""
    if set(now) != set(first):
        raise Refused(
            f"{program}: got the sites {_listed(now)}, expected those of its first call, "
            f"{_listed(first)}"
        )


def _listed(names: Collection[str]) -> str:
    return ", ".join(map(repr, sorted(names)))


def check_order(guide: Sequence[str], model: Sequence[str]) -> None:
    """Raises ValueError unless a guide draws its latent sites in the model's order.

    A KL in closed form is conditional on the sites before it.
    """
    drawn = [name for name in guide if name in model]
    order = [name for name in model if name in drawn]
    if drawn != order:
        raise ValueError(
            f"analytic KL: the guide draws its sites in the order {', '.join(drawn)}, "
            f"expected the model's, {', '.join(order)}: a KL in closed form is conditional "
            "on the sites before it; use a sampled KL, such as objectives.trace_elbo()"
        )


def check_observed(
    name: str, site: Mapping[str, Any], support: constraints.Constraint | None = None
) -> None:
    """Raises ValueError if an unmasked observed value is off its site's support.

    Arguments:
        name: The name of the site.
        site: The site.
        support: The set in place of the support.
    """
    fn, value = site["fn"], site["value"]
    if masked(fn) is not None:
        return  # Its mask is inside the distribution, where it cannot be read elementwise.
    mask = True if site["mask"] is None else site["mask"]
    if not value.numel():
        return  # pyro.factor has an empty value.
    support = fn.support if support is None else support
    if mask is False:
        return
    on, finite = support.check(value), torch.isfinite(value)  # Infinity is among torch's reals.
    if takes_nan(support):
        finite = finite | torch.isnan(value)
    for _ in range(support.event_dim):
        finite = finite.all(-1)
    if not ((on & finite) | ~torch.as_tensor(mask)).all():
        check_on_support(name, value, support)


def check_masks(guide: Trace, model: Trace, latents: Iterable[str]) -> None:
    """Raises Refused unless latents are masked alike in model and guide.

    A masked log-density counts as 0. If only one of p(z) and q(z|x) does, the importance weights
    are those of no distribution.
    """
    for name in latents:
        masks = [_mask(trace.nodes[name]) for trace in (guide, model)]
        if not torch.equal(*torch.broadcast_tensors(*masks)):
            raise Refused(
                f'site "{name}": its mask in the guide is another one than in the model, expected '
                "the same: a latent that is masked in one alone has no importance weights"
            )


def _mask(site: Mapping[str, Any]) -> Tensor:
    """The mask of each number of a site's value, by handlers and by its distribution."""
    device = site["value"].device
    mask = torch.as_tensor(True if site["mask"] is None else site["mask"], device=device)
    mask = mask[(..., *[None] * len(site["fn"].event_shape))]
    if (inner := masked(site["fn"])) is not None:
        own, events = inner  # which may be a mask inside of the event
        mask = mask & torch.as_tensor(own, device=device)[(..., *[None] * events)]
    return mask


def check_latent_sites(
    drawn: Trace, guide: Trace, model: Trace, densities: bool = True, sums_out: bool | str = True
) -> None:
    """Raises ValueError unless model and guide have the same latents, on the same supports.

    The model may have further ones of finitely many values, if these are summed out.

    Arguments:
        drawn: A trace of the model alone.
        guide: A trace of the guide.
        model: A trace of the model that is conditioned on the guide's latents.
        densities: Whether the guide's distributions have to be densities, and no point masses.
        sums_out: Whether latents of the model alone are summed out; ``"marked"`` for those that
            are marked for it.
    """
    names = set(drawn.stochastic_nodes)
    latents = tuple(  # An autoguide has auxiliary sites of its own.
        name
        for name in guide.stochastic_nodes
        if densities or not guide.nodes[name]["infer"].get("is_auxiliary")
    )
    for name in sorted(names ^ set(latents)):
        here, there = ("model", "guide") if name in names else ("guide", "model")
        countable = name in names and drawn.nodes[name]["fn"].has_enumerate_support
        marked = countable and drawn.nodes[name]["infer"].get("enumerate")
        if countable and sums_out and (sums_out != "marked" or marked):
            continue
        hint = ", or objectives.enumerated(), which sums it out" if countable else ""
        raise ValueError(
            f'site "{name}": latent in the {here}, and not in the {there}, expected the same '
            f"latents in both{hint}"
        )
    if not names:
        raise ValueError("model: has no latent sites, expected at least one to integrate over")
    if not set(drawn.nodes) - names:
        raise ValueError("model: has no observed site, expected pyro.sample(..., obs=x) in it")
    for name in latents:
        q, p = guide.nodes[name]["fn"], model.nodes[name]["fn"]
        if not densities and "Delta" in describe_distribution(q):
            continue
        if "Delta" in describe_distribution(q) and "Delta" not in describe_distribution(p):
            raise ValueError(
                f'site "{name}": the guide has {describe_distribution(q)}, expected a density: '
                "a point mass has no importance weights"
            )
        try:
            supports = support_of(q), support_of(p)
        except NotImplementedError:
            continue  # A distribution without a support cannot be compared.
        if not same_support(*supports):
            raise ValueError(
                f'site "{name}": the guide\'s support is {describe_support(supports[0])}, '
                f"expected the model's, {describe_support(supports[1])}"
            )
