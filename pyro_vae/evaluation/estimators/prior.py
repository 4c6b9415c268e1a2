"""The naive estimator, with samples of the prior."""

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
    r"""The naive estimator, which samples the prior and ignores the guide.

    .. math:: w = p(x|z), \quad z \sim p(z)

    It is unbiased for p(x), but useless if few samples of the prior explain x: its variance grows
    exponentially with the KL of the posterior from the prior. It is a baseline to compare with.

    Source: Kingma and Welling (2014), appendix D, discuss estimates of this kind.

    Example:
        >>> vae = presets.build("pyro-mlp", z_dim=2, shape=16)
        >>> result = log_likelihood(vae, torch.ones(7, 16), 100, estimator="prior", seed=0)
        >>> result.values.shape, result.estimator
        (torch.Size([7]), 'prior')
    """

    name: ClassVar[str] = "prior"
    advice: ClassVar[tuple[str, ...]] = ("importance weights by a guide",)

    def log_weights(self, block: Block, num_samples: int) -> Iterator[Tensor]:
        """Yields the K log-weights of each example in chunks, see :class:`Estimator`."""
        for start, count in chunks(num_samples):
            with block.stream(start):
                z, log_p_x = block.draw_prior(count)
            if not start:
                block.check(z)
            yield log_p_x

    def both(self, block: Block, num_samples: int, z: Latents) -> tuple[Iterator[Tensor], Tensor]:
        """Returns the log-weights, and those of exact draws z, see :class:`Estimator`."""
        return self.log_weights(block, num_samples), block.score(z)[1]
