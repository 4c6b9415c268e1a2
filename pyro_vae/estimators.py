"""Estimators of log p(x): where their weights come from."""

from collections.abc import Iterator
from dataclasses import dataclass
from inspect import signature
from typing import ClassVar, Protocol

from torch import Tensor

from pyro_vae.annealed_sampling import Path
from pyro_vae.arguments import check_count
from pyro_vae.blocks import Block, chunks
from pyro_vae.programs import Latents


class Estimator(Protocol):
    """What gives weights whose mean over K of them estimates p(x) without bias."""

    name: ClassVar[str]

    def log_weights(self, block: Block, num_samples: int) -> Iterator[Tensor]:
        """Yields K log-weights of each example in chunks, shape ``(samples, N)``."""
        ...

    def both(self, block: Block, num_samples: int, z: Latents) -> tuple[Iterator[Tensor], Tensor]:
        """The same, and log-weights of draws z of the posterior: E[1 / w] = 1 / p(x)."""
        ...


@dataclass(frozen=True)
class Importance:
    r"""Importance weighting by the guide, :math:`w = p(x, z) / q(z|x)` with z of q.

    Source: Burda, Grosse and Salakhutdinov (2016), arXiv 1509.00519, section 3.
    """

    name: ClassVar[str] = "importance"

    def log_weights(self, block: Block, num_samples: int) -> Iterator[Tensor]:
        """Yields K log-weights of each example in chunks, shape ``(samples, N)``."""
        for log_p_x, log_ratio in block.samples(num_samples):
            yield log_p_x - log_ratio

    def both(self, block: Block, num_samples: int, z: Latents) -> tuple[Iterator[Tensor], Tensor]:
        """The same, and log-weights of draws z of the posterior: E[1 / w] = 1 / p(x)."""
        log_p_z, log_p_x = block.score(z)
        exact = log_p_z + log_p_x - block.program.score_guide(block.x, z)
        return self.log_weights(block, num_samples), exact


@dataclass(frozen=True)
class Prior:
    r"""The naive estimator, :math:`w = p(x|z)` with z of the prior, whatever the guide.

    Right in the mean, and useless where few z of the prior explain x: its variance grows with the
    KL of the posterior from the prior as its exponential. Source: Kingma and Welling (2014),
    appendix D, speaks of such estimates; it is the baseline that lectures warn of.
    """

    name: ClassVar[str] = "prior"

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


_NAMED = {kind.name: kind for kind in (Importance, Prior, AIS)}
EXACT = "exact"
"""The estimator that takes no samples, see :func:`pyro_vae.gaussian.evidence`."""


def names() -> list[str]:
    """The names of all estimators."""
    return [*_NAMED, EXACT]


def parse(estimator: "str | Estimator") -> "Estimator | None":
    """An estimator by its name and numbers, or as it is; None for the exact one.

    ``"ais:100:5"`` is ``AIS(temperatures=100, leapfrog_steps=5)``.

    Raises:
        ValueError: There is none of that name, with these numbers.
        TypeError: It is neither a name nor an estimator.
    """
    if not isinstance(estimator, str):
        if isinstance(estimator, type) or not hasattr(estimator, "log_weights"):
            raise TypeError(
                f"estimator: got {estimator!r}, expected a name or an estimator, such as AIS()"
            )
        return estimator
    if estimator == EXACT:
        return None
    name, *numbers = estimator.split(":")
    try:
        kind = _NAMED[name]
        values = [int(number) for number in numbers]
        signature(kind).bind(*values)
    except (KeyError, TypeError, ValueError):
        raise ValueError(
            f"estimator: got {estimator!r}, expected one of {', '.join(names())}; ais:T:L has "
            "T temperatures and L leapfrog steps"
        ) from None
    return kind(*values)
