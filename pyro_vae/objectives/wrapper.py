"""The base class of ELBOs that wrap another ELBO."""

import math
from collections.abc import Iterator
from typing import Any

from pyro.infer import ELBO, TraceEnum_ELBO

from pyro_vae import compat
from pyro_vae.objectives.traits import Traits, traits

__all__ = ["Wrapper", "guess_plates", "layers"]


class Wrapper(ELBO):
    """An ELBO that wraps another one, which makes the traces and computes the loss.

    Arguments:
        elbo: The ELBO to wrap.
    """

    def __init__(self, elbo: ELBO) -> None:
        self.elbo = elbo
        super().__init__(
            elbo.num_particles,
            elbo.max_plate_nesting,
            vectorize_particles=elbo.vectorize_particles,
            retain_graph=elbo.retain_graph,
        )

    @property
    def traits(self) -> Traits:
        """The traits of the wrapped ELBO."""
        return traits(self.elbo)

    @property
    def num_particles(self) -> int:
        """The number of particles of the wrapped ELBO."""
        return self.elbo.num_particles

    @num_particles.setter
    def num_particles(self, number: int) -> None:
        """Sets the number of particles of the wrapped ELBO."""
        self.elbo.num_particles = number

    def _call(self, method: str, model: Any, guide: Any, args: Any, kwargs: Any) -> Any:
        """Calls a method of the wrapped ELBO; subclasses change what is around the call."""
        return getattr(self.elbo, method)(model, guide, *args, **kwargs)

    def loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Any:
        """The loss as a number, in nats, summed over examples."""
        return self._call("loss", model, guide, args, kwargs)

    def loss_and_grads(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Any:
        """The loss as a number, in nats; adds its gradient to those of the parameters."""
        return self._call("loss_and_grads", model, guide, args, kwargs)

    def differentiable_loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Any:
        """The loss as a scalar tensor, in nats, whose gradient is the estimator's."""
        return self._call("differentiable_loss", model, guide, args, kwargs)

    def _get_trace(self, model: Any, guide: Any, args: Any, kwargs: Any) -> Any:
        return self.elbo._get_trace(model, guide, args, kwargs)


def guess_plates(elbo: ELBO, model: Any, guide: Any, args: Any, kwargs: Any) -> None:
    """Sets the ``max_plate_nesting`` of the innermost ELBO before a loss that needs it."""
    *_, inner = layers(elbo)
    needed = inner.vectorize_particles or isinstance(inner, TraceEnum_ELBO)
    if needed and inner.max_plate_nesting == math.inf:
        compat.guess_plates(inner, model, guide, args, kwargs)


def layers(elbo: ELBO) -> Iterator[ELBO]:
    """Yields an ELBO, the one that it wraps, and so on to the one that makes the traces."""
    yield elbo
    if isinstance(elbo, Wrapper):
        yield from layers(elbo.elbo)
