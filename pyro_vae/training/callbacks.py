"""Callbacks of ``fit``, which are called after each epoch."""

from collections.abc import Callable
from pathlib import Path

from pyro_vae.training.history import History
from pyro_vae.vae import VAE

Callback = Callable[[VAE, History], object]
"""Called after each epoch with the VAE and the history so far."""


class TensorBoard:
    """A callback of :func:`fit` that writes the history's columns as TensorBoard scalars.

    `avg_loss` is the lecture's name for the cost; the other scalars have the columns' names. The
    step is the epoch; units are nats per example, and seconds.

    Arguments:
        folder: Where the event file goes.
    """

    def __init__(self, folder: str | Path) -> None:
        from torch.utils.tensorboard import SummaryWriter  # slow to import, and seldom asked for

        self._writer = SummaryWriter(str(folder))

    def __call__(self, vae: VAE, history: History) -> None:
        for name, values in history.items():
            if name != "epoch":
                tag = "avg_loss" if name == "cost" else name
                self._writer.add_scalar(tag, values[-1], history.epoch[-1])
        self._writer.flush()
