"""ELBOs that leave the work to another ELBO."""

from collections.abc import Iterator
from typing import Any

from pyro.infer import ELBO

from pyro_vae.objectives.traits import Traits, traits


class Wrapper(ELBO):
    """An ELBO that leaves the work to another one.

    Arguments:
        elbo: The ELBO that does the work and makes the traces.
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
        """Those of the ELBO that does the work."""
        return traits(self.elbo)

    @property
    def num_particles(self) -> int:
        """The number of particles of the ELBO that does the work."""
        return self.elbo.num_particles

    @num_particles.setter
    def num_particles(self, number: int) -> None:
        """Sets it."""
        self.elbo.num_particles = number

    def _get_trace(self, model: Any, guide: Any, args: Any, kwargs: Any) -> Any:
        return self.elbo._get_trace(model, guide, args, kwargs)


def layers(elbo: ELBO) -> Iterator[ELBO]:
    """An ELBO, the one that it wraps, and so on to the one that makes the traces."""
    yield elbo
    if isinstance(elbo, Wrapper):
        yield from layers(elbo.elbo)
