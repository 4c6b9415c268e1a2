"""Annealed importance sampling."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from pyro_vae.evaluation.blocks import Block, chunks
from pyro_vae.evaluation.estimators.annealed_path import Path
from pyro_vae.evaluation.estimators.base import named
from pyro_vae.evaluation.log_densities import Latents
from pyro_vae.utils.checks import check_count


@named
@dataclass(frozen=True)
class AIS:
    r"""Annealed importance sampling from the prior to the posterior, with Hamiltonian moves.

    A chain moves z through the densities :math:`f_t(z) \propto p(z)\, p(x|z)^{\beta_t}` with
    :math:`0 = \beta_0 < \dots < \beta_T = 1`. Its weight is

    .. math:: w = \prod_{t=1}^T p(x|z_{t-1})^{\beta_t - \beta_{t-1}}

    K samples are K chains. A first run with other noise finds a step size for each example and
    temperature, at which 65 % of the moves are accepted. The step sizes are then fixed, so that
    the weights are unbiased for p(x). Latents on bounded sets are moved in an unconstrained space.
    All latents have to be continuous, but for those that :func:`log_likelihood` sums out.

    Source: Neal (2001), Statistics and Computing 11; Wu, Burda, Salakhutdinov and Grosse (2017),
    arXiv 1611.04273, section 3.

    Arguments:
        temperatures: T, the number of temperatures.
        leapfrog_steps: Leapfrog steps of each move.

    Raises:
        ValueError: An argument is not a positive integer.

    Example:
        >>> vae = presets.build("pyro-mlp", z_dim=2, shape=16)
        >>> ais = estimators.AIS(temperatures=5, leapfrog_steps=2)
        >>> result = log_likelihood(vae, torch.ones(7, 16), 10, estimator=ais, seed=0)
        >>> result.estimator, result.estimator_settings
        ('ais', {'temperatures': 5, 'leapfrog_steps': 2})
    """

    temperatures: int = 500
    leapfrog_steps: int = 10
    name: ClassVar[str] = "ais"
    advice: ClassVar[tuple[str, ...]] = ("more temperatures",)

    def __post_init__(self) -> None:
        for name in ("temperatures", "leapfrog_steps"):
            check_count(name, getattr(self, name))
            # A NumPy integer cannot be written as JSON.
            object.__setattr__(self, name, int(getattr(self, name)))

    def log_weights(self, block: Block, num_samples: int) -> Iterator[Tensor]:
        """Yields the K log-weights of each example in chunks, see :class:`Estimator`."""
        return self._chains(Path(block, self.temperatures, self.leapfrog_steps), num_samples)

    def both(self, block: Block, num_samples: int, z: Latents) -> tuple[Iterator[Tensor], Tensor]:
        """Returns the log-weights, and those of exact draws z, see :class:`Estimator`."""
        path = Path(block, self.temperatures, self.leapfrog_steps)
        return self._chains(path, num_samples), path.backward(z)

    @staticmethod
    def _chains(path: Path, num_samples: int) -> Iterator[Tensor]:
        for start, count in chunks(num_samples):
            yield path.forward(start, count)
