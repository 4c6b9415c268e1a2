"""Callbacks for ``fit``, which calls them after each epoch."""

from collections.abc import Callable
from pathlib import Path

from pyro_vae.pair import Pair
from pyro_vae.training.history import History

__all__ = ["Callback", "TensorBoard"]

Callback = Callable[[Pair, History], object]
"""A function that :func:`fit` calls after each epoch with the pair and the history so far.

It may raise :class:`StopTraining`. An object may have two further methods:
``before_training(pair, columns)`` is called before the first step with the names of the history's
columns, and ``after_training(pair, history)`` after the last, unless there was an error.
"""


class TensorBoard:
    """A callback for :func:`fit` that writes the history as TensorBoard scalars.

    Each column of :class:`History` is one scalar, in nats per example, or seconds. The cost is
    named ``avg_loss``, as in the lecture. The step is the epoch.

    Arguments:
        folder: The folder of the event file; it is created if it does not exist.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from pyro_vae.training import TensorBoard
        >>> vae = presets.build("bernoulli-mlp", z_dim=2, shape=(28, 28))
        >>> x = torch.zeros(7, 28, 28)
        >>> with TemporaryDirectory() as folder:
        ...     history = fit(vae, x, epochs=1, batch_size=7, callbacks=[TensorBoard(folder)])
    """

    def __init__(self, folder: str | Path) -> None:
        from torch.utils.tensorboard import SummaryWriter  # slow to import, and rarely used

        self._writer = SummaryWriter(str(folder))

    def __call__(self, vae: Pair, history: History) -> None:
        """Writes the last row of the history."""
        for name, values in history.items():
            if name != "epoch":
                tag = "avg_loss" if name == "cost" else name
                self._writer.add_scalar(tag, values[-1], history.epoch[-1])
        self._writer.flush()
