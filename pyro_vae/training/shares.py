"""The shares of a batch: which of them this process takes, and with which noise."""

from collections.abc import Iterator
from dataclasses import dataclass

from pyro_vae.utils.processes import Processes

__all__ = ["SHARE", "Shares"]

SHARE = 3
"""Marks the random streams of shares, beside those of an epoch."""


@dataclass(frozen=True)
class Shares:
    """How a batch is cut into shares, whose gradients are added before the step.

    Each has a random stream of its own, of the seed, the epoch, the batch and its number. Which
    process takes it makes no difference.

    Attributes:
        count: The number of shares, those of all processes together.
        seed: The seed; None draws from torch's global generator.
        processes: The processes that take them; None for this one alone.
    """

    count: int
    seed: int | None
    processes: Processes | None = None

    def of(self, size: int) -> Iterator[tuple[int, slice]]:
        """Yields this process's shares of so many examples, but for those that are empty.

        Each is its number among all shares, and its examples.
        """
        rank, processes = 0, 1
        if self.processes is not None:
            rank, processes = self.processes.rank, self.processes.size
        own = self.count // processes
        for number in range(rank * own, (rank + 1) * own):
            first, last = (size * end // self.count for end in (number, number + 1))
            if first < last:
                yield number, slice(first, last)
