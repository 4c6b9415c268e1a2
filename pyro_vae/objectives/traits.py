"""Traits of objectives, on which fit, compilation and annealing depend."""

from dataclasses import dataclass
from typing import Literal

from pyro.infer import (
    ELBO,
    JitTrace_ELBO,
    RenyiELBO,
    Trace_ELBO,
    TraceEnum_ELBO,
    TraceMeanField_ELBO,
    TraceTailAdaptive_ELBO,
)

__all__ = ["Traits", "check_elbo", "no_graph", "traits"]

_LOSSES = {"loss", "differentiable_loss", "loss_and_grads"}
_LOSSES |= {"_loss_particle", "_differentiable_loss_particle", "_get_traces"}


@dataclass(frozen=True)
class Traits:
    """The traits of an objective. Any ELBO may have them as an attribute ``traits``.

    Attributes:
        kl_by_difference: The value is a negative ELBO, whose KL may be in closed form. ``fit``
            then reports the value minus the reconstruction as KL. If False, it reports the KL of
            the samples.
        is_linear: The bound is linear in the log-weights, so :func:`warm_up` can scale its KL.
            False for an importance-weighted bound, None if unknown.
        is_static: The objective can be compiled if the model and guide are static.
        is_sum: The loss of a batch is the sum of those of its parts, so a step can take them one
            by one.
        sums_out: Latents of the model alone are summed out if they have finitely many values, all
            of them or those that are ``"marked"``. Any other objective is wrong for them, because
            the guide has to draw them.
        in_order: The guide has to draw its sites in the model's order.

    Example:
        >>> objectives.Traits(is_static=True).is_linear is None
        True
    """

    kl_by_difference: bool = False
    is_linear: bool | None = None
    is_static: bool = False
    is_sum: bool = True
    sums_out: bool | Literal["marked"] = False
    in_order: bool = False


def traits(objective: object) -> Traits:
    """The traits of an objective: its attribute ``traits``, or those of Pyro's own classes.

    Arguments:
        objective: An objective. Unknown ones get the default :class:`Traits`.

    Example:
        >>> objectives.traits(objectives.iwae(8)).is_linear
        False
        >>> objectives.traits(pyro.infer.Trace_ELBO()).is_linear
        True
    """
    own = getattr(objective, "traits", None)
    if isinstance(own, Traits):
        return own
    if isinstance(objective, RenyiELBO):
        return Traits(is_linear=False)
    if isinstance(objective, JitTrace_ELBO | TraceTailAdaptive_ELBO):
        is_sum = isinstance(objective, JitTrace_ELBO)
        return Traits(kl_by_difference=True, is_static=True, is_sum=is_sum)
    if isinstance(objective, Trace_ELBO):  # and its subclass TraceMeanField_ELBO
        known = _has_the_loss_of_pyro(objective)
        in_order = isinstance(objective, TraceMeanField_ELBO)
        linear, static = True if known else None, not no_graph(objective)
        return Traits(known, is_linear=linear, is_static=static, in_order=in_order)
    if isinstance(objective, TraceEnum_ELBO):
        return Traits(_has_the_loss_of_pyro(objective), sums_out="marked")
    return Traits()


def _has_the_loss_of_pyro(objective: ELBO) -> bool:
    """Whether a subclass has left the loss of Pyro's class as it is, so that it is the ELBO."""
    if not _LOSSES.isdisjoint(vars(objective)):
        return False
    owners = [cls for cls in type(objective).__mro__ if not _LOSSES.isdisjoint(vars(cls))]
    return all(cls.__module__.partition(".")[0] in ("pyro", "pyro_vae") for cls in owners)


def no_graph(objective: ELBO) -> str:
    """Why an objective cannot be compiled, which takes its ``differentiable_loss``, or ``""``."""
    if not hasattr(objective, "differentiable_loss"):
        return "has no differentiable_loss"
    if _is_own(objective, "loss_and_grads") and not _is_own(objective, "differentiable_loss"):
        return "has a loss_and_grads of its own, and no differentiable_loss of its own"
    return ""


def _is_own(objective: ELBO, name: str) -> bool:
    """Whether a method is the user's."""
    return name in vars(objective) or _owner(objective, name) not in ("pyro", "pyro_vae")


def _owner(objective: ELBO, name: str) -> str:
    """The package of the class that has a method."""
    cls = next(cls for cls in type(objective).__mro__ if name in vars(cls))
    return cls.__module__.partition(".")[0]


def check_elbo(objective: object, argument: str) -> None:
    """Raises TypeError unless `objective` is a Pyro ELBO, of which SVI takes all losses."""
    if not isinstance(objective, ELBO):
        raise TypeError(
            f"{argument}: got {objective!r}, expected a pyro.infer.ELBO such as Trace_ELBO()"
        )
    own = hasattr(objective, "differentiable_loss") and _is_own(objective, "differentiable_loss")
    kept = "loss_and_grads" not in vars(objective) and _owner(objective, "loss_and_grads")
    if own and kept == "pyro":
        raise TypeError(
            f"{argument}: got {type(objective).__name__}, which has a differentiable_loss of its "
            "own, and the loss_and_grads of Pyro, which does not call it; expected both"
        )
