"""What a checkpoint costs: the time of an epoch, and that of its checkpoint after it."""

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from pyro_vae import VAE, fit, objectives, optim
from pyro_vae.training.resumption import Resumption
from pyro_vae.utils.tables import markdown


def cost(build: Callable[[], VAE], levels: Tensor, epochs: int) -> str:
    """A table of the times of epochs and their checkpoints, of which the first does not count.

    Arguments:
        build: Builds the VAE.
        levels: The images.
        epochs: The number of epochs.
    """
    seconds: list[float] = []
    own = Resumption.end_epoch

    def end_epoch(self: Resumption, *args: Any, **kwargs: Any) -> None:
        start = time.perf_counter()
        own(self, *args, **kwargs)
        seconds.append(time.perf_counter() - start)

    Resumption.end_epoch = end_epoch  # type: ignore[method-assign]
    try:
        with tempfile.TemporaryDirectory() as folder:
            objective = objectives.compiled(objectives.trace_elbo())
            history = fit(
                build(),
                levels,
                epochs=epochs + 1,
                pixels="binary",
                objective=objective,
                optim=optim.Adam(lr=1e-3),
                checkpoint=folder,
            )
            size = max(path.stat().st_size for path in Path(folder).iterdir()) / 2**20
    finally:
        Resumption.end_epoch = own  # type: ignore[method-assign]
    ratios = [w / e for w, e in zip(seconds[1:], history.seconds[1:], strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4)
    row = [
        f"{1e3 * statistics.median(history.seconds[1:]):.0f}",
        f"{1e3 * statistics.median(seconds[1:]):.1f}",
        f"{size:.1f}",
        f"{100 * middle:.2f} %",
        f"{100 * low:.2f}–{100 * high:.2f} %",
    ]
    names = ["an epoch: ms", "its checkpoint: ms", "MiB", "share (median)", "quartiles"]
    return markdown(names, [row])
