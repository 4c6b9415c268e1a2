"""Holes: NaN in x, which stands for what is not observed, and whether a pair takes it.

A pair says so by the support of the site that observes x, see :class:`distributions.OrNaN`.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from pyro import poutine
from pyro.poutine.util import is_validation_enabled
from torch import Tensor, nn

from pyro_vae.contracts.sites import Refused
from pyro_vae.distributions import check_finite, scored_support, takes_nan
from pyro_vae.utils.modules import device_of, evaluating
from pyro_vae.utils.random import seeded

__all__ = ["check_entries", "check_no_nan", "holes_named", "observes_holes", "takes_holes"]


_OF_NAN = "Expected parameter", "elements of std"
"""In what torch says of a distribution whose parameters are NaN, with and without validation."""


def check_entries(argument: str, x: Tensor, pair: Any, context: Sequence[Tensor] = ()) -> None:
    """Raises ValueError unless x is finite, or NaN where the pair takes it.

    Arguments:
        argument: The name of x.
        x: The data, of shape ``(N, *x_shape)``.
        pair: A pair whose model draws x if it is None; or None, which takes no NaN.
        context: What is given with x.
    """
    if torch.isfinite(x.sum()):  # faster than a test of each value
        return
    holes = pair is not None and bool(torch.isnan(x).any())
    nan = holes and takes_holes(pair, context)
    hint = "; NaN for what is not observed takes a likelihoods.Observed(likelihood)"
    check_finite(argument, x, nan=nan, hint=hint if holes and not nan else "")


@torch.no_grad()
def takes_holes(pair: Any, context: Sequence[Tensor] = ()) -> bool:
    """Whether the support of the site "x" of a pair has NaN.

    The answer is kept until a part of the pair is another one. Modes and random generators are
    unchanged afterwards.

    Arguments:
        pair: A pair that draws an example for each row of a context, ``drawing(*context)``.
        context: What is given with x, with one row or more.
    """
    parts, known = getattr(pair, "holes", ((), False))
    now = tuple(pair.children())
    if len(parts) == len(now) and all(map(_is, parts, now)):
        return known
    device = device_of(pair)
    with poutine.block(), evaluating(pair), seeded(0, device=device):
        given = [entry[:1].to(device) for entry in context]
        drawn = poutine.trace(pair.drawing).get_trace(*given)
    pair.holes = now, takes_nan(scored_support(drawn.nodes["x"]["fn"]))
    return pair.holes[1]


def _is(a: nn.Module, b: nn.Module) -> bool:
    return a is b


def observes_holes(model: Callable[..., Any], batch: Sequence[Tensor]) -> bool:
    """Whether some site at which a model observes values has NaN in its support.

    Arguments:
        model: A Pyro model.
        batch: Examples, ``(x, *context)``.
    """
    with torch.no_grad(), poutine.block():
        trace = poutine.trace(model).get_trace(*batch)
    sites = (trace.nodes[name] for name in trace.observation_nodes)
    return any(takes_nan(s["fn"].support) for s in sites if not s["infer"].get("_deterministic"))


@contextmanager
def holes_named(
    x: Tensor, program: str, takes: Callable[[], bool] = lambda: True
) -> Iterator[None]:
    """Names ``networks.Observed`` in an error that NaN in x causes in a posterior or a guide.

    Arguments:
        x: The data.
        program: What takes it.
        takes: Whether the model takes NaN; else the error stays as it is.
    """
    try:
        yield
    except Refused:
        raise
    except (ValueError, RuntimeError) as error:
        wrong = any(text in str(error) for text in _OF_NAN)
        if not wrong or not torch.isnan(x).any() or not takes():
            raise
        raise _without_mask(program) from error


def check_no_nan(
    program: str, x: Tensor, value: Tensor, takes: Callable[[], bool] = lambda: True
) -> None:
    """Raises ValueError if a draw of latents has NaN, and x has it too.

    Arguments:
        program: What drew it.
        x: The data.
        value: The draw.
        takes: Whether the model takes NaN.
    """
    # It reads values, so Pyro's switch for such checks applies.
    if is_validation_enabled() and torch.isnan(value).any() and torch.isnan(x).any() and takes():
        raise _without_mask(program)


def _without_mask(program: str) -> Refused:
    return Refused(
        f"{program}: gives NaN for x with NaN, which stands for what is not observed, expected a "
        "network in networks.Observed(network), which is given the observed values and their mask"
    )
