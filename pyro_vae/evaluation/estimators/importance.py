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
    r"""Importance weighting with the guide as the proposal.

    .. math:: w = \frac{p(x, z)}{q(z|x)}, \quad z \sim q(z|x)

    It is as good as the guide. The variance of the weights is small if the guide is near the
    posterior and has no lighter tails.

    Source: Burda, Grosse and Salakhutdinov (2016), arXiv 1509.00519, section 3.

    Example:
        >>> vae = presets.build("pyro-mlp", z_dim=2, shape=16)
        >>> result = log_likelihood(vae, torch.ones(7, 16), 100, estimator="importance", seed=0)
        >>> result.values.shape, result.estimator
        (torch.Size([7]), 'importance')
    """

    name: ClassVar[str] = "importance"
    advice: ClassVar[tuple[str, ...]] = ("a better guide", "AIS with enough temperatures")

    def log_weights(self, block: Block, num_samples: int) -> Iterator[Tensor]:
        """Yields the K log-weights of each example in chunks, see :class:`Estimator`."""
        for log_p_x, log_ratio in block.samples(num_samples):
            yield log_p_x - log_ratio

    def both(self, block: Block, num_samples: int, z: Latents) -> tuple[Iterator[Tensor], Tensor]:
        """Returns the log-weights, and those of exact draws z, see :class:`Estimator`."""
        log_p_z, log_p_x = block.score(z)
        exact = log_p_z + log_p_x - block.densities.score_guide(block.batch, z)
        return self.log_weights(block, num_samples), exact
