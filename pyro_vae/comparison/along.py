"""The log-likelihood of the test set along a run."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from pyro_vae.evaluation import estimated
from pyro_vae.pair import Pair
from pyro_vae.training import History
from pyro_vae.utils.checks import check_index, check_values, plain
from pyro_vae.utils.context import Batch

__all__ = ["LikelihoodAlong", "likelihood_points"]


def likelihood_points(
    likelihood_epochs: Sequence[int] | None, epochs: int, goal: float | None
) -> list[int]:
    """The epochs after which the log-likelihood is estimated, the last one among them.

    Arguments:
        likelihood_epochs: Those that are asked for. None is the last one, or all of them if there
            is a goal to be reached.
        epochs: The number of epochs.
        goal: The log-likelihood to be reached, or None.

    Raises:
        TypeError, ValueError: These are no epochs.
    """
    if likelihood_epochs is None:
        return [epochs] if goal is None else list(range(1, epochs + 1))
    check_values("likelihood_epochs", likelihood_epochs)
    points = [plain(point) for point in likelihood_epochs]
    for point in points:
        check_index("likelihood_epochs", point)
    if min(points) < 1 or max(points) > epochs:
        raise ValueError(
            f"likelihood_epochs: got {likelihood_epochs!r}, expected epochs from 1 to {epochs}"
        )
    return sorted({*points, epochs})


@dataclass
class LikelihoodAlong:
    """A callback of a run, which estimates the log-likelihood after some epochs.

    It changes no number of the training, and its time is not counted.

    Attributes:
        draw: The test data on which a pair has a density.
        epochs: The epochs.
        num_samples: The number of importance samples.
        seed: The seed of their noise.
        means: The means over the test set by epoch.
    """

    draw: Callable[[Pair], Batch]
    epochs: Sequence[int]
    num_samples: int
    seed: int
    means: dict[int, float] = field(default_factory=dict)

    def __call__(self, vae: Pair, history: History) -> None:
        """Estimates it, if this is one of the epochs."""
        epoch = int(history.epoch[-1])
        if epoch in self.epochs:
            found = estimated(vae, self.draw(vae), self.num_samples, seed=self.seed)
            self.means[epoch] = found.mean
