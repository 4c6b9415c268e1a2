"""What happens between the steps of an epoch: progress, an interruption, a checkpoint."""

from collections.abc import Callable
from dataclasses import dataclass

from pyro_vae.training.ending import Interrupted

__all__ = ["Agreement", "Between"]


@dataclass(frozen=True)
class Agreement:
    """What several processes have agreed upon, in a step.

    Attributes:
        interrupted: Whether Ctrl-C was pressed in one of them.
        due: Whether a checkpoint is due after the step.
    """

    interrupted: bool
    due: bool


@dataclass
class Between:
    """Called after steps, with their number.

    Attributes:
        passed: Shows progress; raises Interrupted if Ctrl-C was pressed. Several processes agree
            first.
        requested: Whether Ctrl-C was pressed.
        is_due: Whether a checkpoint is to be written, after so many steps of the training.
        write: Writes a checkpoint.
        agreement: What the processes of the training agreed upon in the last step; None if there
            is one process, which decides by itself.
        batches: The number of batches of the epoch that have been taken.
        steps: The number of steps in this process.
    """

    passed: Callable[[int], object]
    requested: Callable[[], bool] = lambda: False
    is_due: Callable[[int], bool] = lambda steps: False
    write: Callable[[], object] = lambda: None
    agreement: Agreement | None = None
    batches: int = 0
    steps: int = 0

    def __call__(self, steps: int) -> None:
        """Counts steps that have been taken, with which the training's state goes.

        Raises:
            Interrupted: Ctrl-C was pressed.
        """
        self.count(steps)
        self.passed(steps)
        if self.agreement is None:
            due = self.is_due(self.steps)
        elif self.agreement.interrupted:
            raise Interrupted
        else:
            due = self.agreement.due
        if due:
            self.write()

    def count(self, steps: int) -> None:
        """Counts steps that have been taken."""
        self.batches += steps
        self.steps += steps
