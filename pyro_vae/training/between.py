"""What happens between the steps of an epoch: progress, an interruption, a checkpoint."""

from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Between"]


@dataclass
class Between:
    """Called after steps, with their number.

    Attributes:
        passed: Shows progress; raises Interrupted if Ctrl-C was pressed.
        is_due: Whether a checkpoint is to be written, after so many steps of the training.
        write: Writes a checkpoint.
        batches: The number of batches of the epoch that have been taken.
        steps: The number of steps in this process.
    """

    passed: Callable[[int], object]
    is_due: Callable[[int], bool] = lambda steps: False
    write: Callable[[], object] = lambda: None
    batches: int = 0
    steps: int = 0

    def __call__(self, steps: int) -> None:
        """Counts steps that have been taken, with which the training's state goes.

        Raises:
            Interrupted: Ctrl-C was pressed.
        """
        self.count(steps)
        self.passed(steps)
        if self.is_due(self.steps):
            self.write()

    def count(self, steps: int) -> None:
        """Counts steps that have been taken."""
        self.batches += steps
        self.steps += steps
