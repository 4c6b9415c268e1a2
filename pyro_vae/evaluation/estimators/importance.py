"""Importance weighting by the guide."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from pyro_vae.evaluation.blocks import Block
from pyro_vae.evaluation.estimators.base import named
from pyro_vae.evaluation.log_densities import Latents


@named
@dataclass(frozen=True)
class Importance:
    r"""Importance weighting by the guide, :math:`w = p(x, z) / q(z|x)` with z of q.

    Source: Burda, Grosse and Salakhutdinov (2016), arXiv 1509.00519, section 3.
    """

    name: ClassVar[str] = "importance"
    advice: ClassVar[tuple[str, ...]] = ("a better guide", "AIS with enough temperatures")

    def log_weights(self, block: Block, num_samples: int) -> Iterator[Tensor]:
        """Yields K log-weights of each example in chunks, shape ``(samples, N)``."""
        for log_p_x, log_ratio in block.samples(num_samples):
            yield log_p_x - log_ratio

    def both(self, block: Block, num_samples: int, z: Latents) -> tuple[Iterator[Tensor], Tensor]:
        """The same, and log-weights of draws z of the posterior: E[1 / w] = 1 / p(x)."""
        log_p_z, log_p_x = block.score(z)
        exact = log_p_z + log_p_x - block.densities.score_guide(block.x, z)
        return self.log_weights(block, num_samples), exact
