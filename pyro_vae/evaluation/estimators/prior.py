"""The naive estimator, by samples of the prior."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from pyro_vae.evaluation.blocks import Block, chunks
from pyro_vae.evaluation.estimators.base import named
from pyro_vae.evaluation.log_densities import Latents


@named
@dataclass(frozen=True)
class Prior:
    r"""The naive estimator, :math:`w = p(x|z)` with z of the prior, whatever the guide.

    Right in the mean, and useless where few z of the prior explain x: its variance grows with the
    KL of the posterior from the prior as its exponential. Source: Kingma and Welling (2014),
    appendix D, speaks of such estimates; it is the baseline that lectures warn of.
    """

    name: ClassVar[str] = "prior"
    advice: ClassVar[tuple[str, ...]] = ("importance weights by a guide",)

    def log_weights(self, block: Block, num_samples: int) -> Iterator[Tensor]:
        """Yields K log-weights of each example in chunks, shape ``(samples, N)``."""
        for start, count in chunks(num_samples):
            with block.stream(start):
                z, log_p_x = block.draw_prior(count)
            if not start:
                block.check(z)
            yield log_p_x

    def both(self, block: Block, num_samples: int, z: Latents) -> tuple[Iterator[Tensor], Tensor]:
        """The same, and log-weights of draws z of the posterior: E[1 / w] = 1 / p(x)."""
        return self.log_weights(block, num_samples), block.score(z)[1]
