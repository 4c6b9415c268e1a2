"""Trackers: where the configuration, the history and the figures of a training are sent."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pyro_vae.utils.checks import check_path, kind
from pyro_vae.utils.tables import markdown

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["TensorBoard", "Tracker", "check_tracker"]

_METHODS = "config", "scalars", "figure", "close"


class Tracker(Protocol):
    """What :func:`fit` tells about a training. Any object with these methods is one."""

    def config(self, values: Mapping[str, Any]) -> None:
        """Takes the settings of the training: strings, numbers, bools and None by name.

        It is called once, before the first step.
        """
        ...

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Takes a row of the history by column, without the epoch, which is the step.

        It is called after each epoch, before the callbacks.
        """
        ...

    def figure(self, name: str, figure: "Figure", step: int) -> None:
        """Takes a figure. :func:`fit` gives it the curves of the history at the end."""
        ...

    def close(self) -> None:
        """Ends the tracking. It is called last, after an error too."""
        ...


class TensorBoard:
    """A tracker that writes TensorBoard's event files.

    Each column of :class:`History` is one scalar, in nats per example, or seconds. The cost is
    named ``avg_loss``, as in the lecture. The step is the epoch.

    Arguments:
        folder: The folder of the event files; it is created if it does not exist.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from pyro_vae.training import TensorBoard
        >>> vae = presets.build("bernoulli-mlp", z_dim=2, shape=(28, 28))
        >>> x = torch.zeros(7, 28, 28)
        >>> with TemporaryDirectory() as folder:
        ...     history = fit(vae, x, epochs=1, batch_size=7, tracker=TensorBoard(folder))
    """

    def __init__(self, folder: str | Path) -> None:
        check_path("folder", folder)
        from torch.utils.tensorboard import SummaryWriter  # slow to import, and rarely used

        self._writer = SummaryWriter(str(folder))

    def config(self, values: Mapping[str, Any]) -> None:
        """Writes the settings as a table."""
        table = markdown(["setting", "value"], [(name, str(v)) for name, v in values.items()])
        self._writer.add_text("config", table)
        self._writer.flush()

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Writes a row of the history."""
        for name, value in values.items():
            self._writer.add_scalar("avg_loss" if name == "cost" else name, value, step)
        self._writer.flush()

    def figure(self, name: str, figure: "Figure", step: int) -> None:
        """Writes a figure as an image."""
        self._writer.add_figure(name, figure, step, close=False)
        self._writer.flush()

    def close(self) -> None:
        """Closes the event file. What is tracked later goes to a new one."""
        self._writer.close()


def check_tracker(tracker: object) -> None:
    """Raises TypeError unless an object is None or has the methods of a tracker."""
    missing = [name for name in _METHODS if not callable(getattr(tracker, name, None))]
    if tracker is not None and (missing or isinstance(tracker, type)):
        lacks = f" without a method {missing[0]}" if missing else ""
        raise TypeError(
            f"tracker: got {kind(tracker)}{lacks}, expected an object with the methods "
            f"{', '.join(_METHODS)}, such as training.TensorBoard(folder)"
        )
