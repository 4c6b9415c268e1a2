"""Discrete latents that the evaluator sums out: which they are, and how a program runs for all."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from pyro import poutine
from pyro.poutine import Trace
from torch import Tensor

from pyro_vae.compat import masked
from pyro_vae.contracts import PLATE, Refused
from pyro_vae.utils.traces import Site

__all__ = ["LIMIT", "Summed", "drawn_from", "is_summed", "sum_out", "summed_sites", "summing"]

LIMIT = 1024
"""Sites of the guide are summed out while the product of their numbers of values is at most so."""


@dataclass(frozen=True)
class Summed:
    """The sites that are summed out.

    Attributes:
        guide: Those of the guide, which are also in the model.
        alone: Those that the model alone has.
        expand: Whether a site's values have the sizes of its plates. A program that takes sizes
            from a value needs that; any other is faster without.
    """

    guide: tuple[str, ...] = ()
    alone: tuple[str, ...] = ()
    expand: bool = False

    @property
    def model(self) -> tuple[str, ...]:
        """Those of the model."""
        return (*self.alone, *self.guide)

    def of(self, program: str) -> tuple[str, ...]:
        """Those of ``"model"`` or ``"guide"``."""
        return self.model if program == "model" else self.guide


def summed_sites(model: Trace, guide: Trace, of_the_guide: bool) -> Summed:
    """The sites to sum out: all of the model alone, and of the guide while they are few values.

    A site of the guide has to have finitely many values in both programs, in the plate of the
    examples alone, and without a mask. One with more values is drawn, as continuous ones are.

    Arguments:
        model: A trace of the model alone.
        guide: A trace of the guide.
        of_the_guide: Whether to sum out sites of the guide.

    Raises:
        Refused: A site of the model alone is in a further plate, or its distribution is masked.
    """
    alone = [name for name in model.stochastic_nodes if name not in guide.stochastic_nodes]
    total = 1
    for name in alone:
        site = model.nodes[name]
        plates = [frame.name for frame in site["cond_indep_stack"] if frame.name != PLATE]
        if plates:
            raise Refused(
                f'model: the site "{name}", which the guide has not, is in the plate '
                f'"{plates[0]}", expected it in the plate "{PLATE}" alone, where it can be summed '
                "out, or a guide that draws it"
            )
        if masked(site["fn"]) is not None:
            raise Refused(
                f'model: the site "{name}", which the guide has not, has a mask in its '
                "distribution, expected poutine.mask, or a guide that draws it"
            )
        total *= _count(site)
    found = []
    for name in model.stochastic_nodes if of_the_guide else ():
        if name not in alone and all(_is_countable(t.nodes[name]) for t in (model, guide)):
            number = max(_count(model.nodes[name]), _count(guide.nodes[name]))
            if total * number <= LIMIT:
                found.append(name)
                total *= number
    return Summed(tuple(found), tuple(alone))


def _is_countable(site: Site) -> bool:
    plates = {frame.name for frame in site["cond_indep_stack"]}
    return (
        site["fn"].has_enumerate_support
        and plates == {PLATE}
        and site["mask"] is None
        and masked(site["fn"]) is None
    )


def _count(site: Site) -> int:
    return len(site["fn"].enumerate_support(expand=False))


def summing(
    program: Callable[..., Any], names: tuple[str, ...], dim: int, expand: bool
) -> Callable[..., Any]:
    """A program in which some sites have all their values, each site in a dimension of its own.

    Arguments:
        program: A Pyro program.
        names: The sites.
        dim: The first of these dimensions, counted from the right. The others are left of it.
        expand: See :class:`Summed`.
    """
    if not names:
        return program

    def mark(site: Any) -> dict[str, Any]:
        wanted = site["name"] in names
        return {"enumerate": "parallel" if wanted else None, "num_samples": None, "expand": expand}

    return poutine.enum(poutine.infer_config(program, mark), first_available_dim=dim)


def is_summed(site: Site) -> bool:
    """Whether a site of a trace has all its values."""
    return site["infer"].get("_enumerate_dim") is not None


def sum_out(log_prob: Tensor, dims: int) -> Tensor:
    """The logarithm of the sum of probabilities over all but the last dimensions.

    Arguments:
        log_prob: Log-probabilities, with the values of summed sites on the left.
        dims: The number of dimensions that stay.
    """
    extra = log_prob.dim() - dims
    return torch.logsumexp(log_prob.flatten(0, extra - 1), 0) if extra > 0 else log_prob


def drawn_from(trace: Trace, log_joint: Tensor, dims: int) -> dict[str, Tensor]:
    r"""Draws of the summed sites y from :math:`p(y|x, z) \propto p(x, y, z)`, by site.

    Arguments:
        trace: The trace of the model.
        log_joint: log p(x, y, z), with the values of summed sites on the left.
        dims: The number of dimensions of samples and plates.
    """
    sizes = log_joint.shape[: log_joint.dim() - dims]
    flat = log_joint.flatten(0, len(sizes) - 1).movedim(0, -1)
    index = torch.distributions.Categorical(logits=flat).sample()
    drawn = {}
    places = torch.unravel_index(index, sizes)
    for name, site in trace.nodes.items():
        if is_summed(site):
            dim = site["infer"]["_enumerate_dim"]
            events = site["fn"].event_dim
            value = site["value"]
            value = value.movedim(dim - events, 0)
            value = value[(slice(None), *[0] * (value.dim() - events - 1))]
            drawn[name] = value[places[dim + dims]]
    return drawn
