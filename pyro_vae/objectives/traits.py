"""What fit, compilation and annealing ask of an objective; an objective says it of itself."""

from dataclasses import dataclass

from pyro.infer import (
    ELBO,
    JitTrace_ELBO,
    RenyiELBO,
    Trace_ELBO,
    TraceTailAdaptive_ELBO,
)


@dataclass(frozen=True)
class Traits:
    """What is known of an objective; any ELBO may have these as its attribute ``traits``.

    Attributes:
        kl_by_difference: Its value is the negative ELBO with a KL that may be in closed form: the
            KL is the value less the reconstruction. Else it is taken from the samples.
        is_linear: It is linear in the log-weights, so that a weight at its KL is one at the
            bound's KL; False for a bound of importance weights, None where it is not known.
        is_static: It compiles, for a model and guide of static structure.
    """

    kl_by_difference: bool = False
    is_linear: bool | None = None
    is_static: bool = False


def traits(objective: object) -> Traits:
    """The traits of an objective: its own, or those that Pyro's classes are known to have."""
    own = getattr(objective, "traits", None)
    if isinstance(own, Traits):
        return own
    if isinstance(objective, RenyiELBO):
        return Traits(is_linear=False)
    if isinstance(objective, JitTrace_ELBO | TraceTailAdaptive_ELBO):
        return Traits(kl_by_difference=True, is_static=True)
    if isinstance(objective, Trace_ELBO):  # and its subclass TraceMeanField_ELBO
        return Traits(kl_by_difference=True, is_linear=True, is_static=True)
    return Traits()


def check_elbo(objective: object, argument: str) -> None:
    """Raises TypeError unless `objective` is a Pyro ELBO."""
    if not isinstance(objective, ELBO):
        raise TypeError(
            f"{argument}: got {objective!r}, expected a pyro.infer.ELBO, Trace_ELBO() for instance"
        )
