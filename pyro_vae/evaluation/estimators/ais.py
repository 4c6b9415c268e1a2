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
    r"""Annealed importance sampling from the prior to the posterior, by Hamiltonian moves.

    A chain goes through :math:`f_t(z) \propto p(z)\, p(x|z)^{\beta_t}`, :math:`\beta_0 = 0` to
    :math:`\beta_T = 1`, and its weight is
    :math:`w = \prod_t p(x|z_{t-1})^{\beta_t - \beta_{t-1}}`. Step sizes of each example and
    temperature are found on a run of other noise, to accept 65 % of the moves, and then stay as
    they are: so that the weights are right in the mean. K samples are K chains. Latents on bounded
    sets move behind a transform; all have to be continuous. Source: Neal (2001), Statistics and
    Computing 11; Wu, Burda, Salakhutdinov and Grosse (2017), arXiv 1611.04273, section 3.

    Arguments:
        temperatures: T.
        leapfrog_steps: Of each move.
    """

    temperatures: int = 500
    leapfrog_steps: int = 10
    name: ClassVar[str] = "ais"
    advice: ClassVar[tuple[str, ...]] = ("more temperatures",)

    def __post_init__(self) -> None:
        for name in ("temperatures", "leapfrog_steps"):
            check_count(name, getattr(self, name))
            object.__setattr__(self, name, int(getattr(self, name)))  # NumPy's are no JSON

    def log_weights(self, block: Block, num_samples: int) -> Iterator[Tensor]:
        """Yields K log-weights of each example in chunks, shape ``(samples, N)``."""
        return self._chains(Path(block, self.temperatures, self.leapfrog_steps), num_samples)

    def both(self, block: Block, num_samples: int, z: Latents) -> tuple[Iterator[Tensor], Tensor]:
        """The same, and log-weights of draws z of the posterior: E[1 / w] = 1 / p(x)."""
        path = Path(block, self.temperatures, self.leapfrog_steps)
        return self._chains(path, num_samples), path.backward(z)

    @staticmethod
    def _chains(path: Path, num_samples: int) -> Iterator[Tensor]:
        for start, count in chunks(num_samples):
            yield path.forward(start, count)
