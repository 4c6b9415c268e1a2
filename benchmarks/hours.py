"""What a long training and its evaluations hold: memory, file handles, parameters in Pyro's store.

python -m benchmarks.hours MINUTES
"""

import gc
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pyro
from torch import Tensor

from pyro_vae import Pair, datasets, elbo, fit, load, log_likelihood, presets, save
from pyro_vae.training import Averaging, History, StopTraining, TensorBoard
from pyro_vae.utils.tables import markdown

EVERY = 10  # epochs between two evaluations


def main(minutes: float) -> None:
    data = datasets.load("digits")
    x = datasets.binarize(data.test[:200], seed=0)
    process, start = psutil.Process(), time.monotonic()
    rows: list[list[str]] = []

    def watch(pair: Pair, history: History) -> None:
        passed = (time.monotonic() - start) / 60
        epochs = len(history.epoch)
        if epochs % EVERY == 0:
            evaluate(pair, x, data.train[:500], epochs)
        if passed >= len(rows) * minutes / 12:
            gc.collect()
            rows.append(
                [
                    f"{passed:.0f}",
                    f"{epochs:,}",
                    f"{process.memory_info().rss / 2**20:,.0f}",
                    f"{process.num_fds()}",
                    f"{process.num_threads()}",
                    f"{len(pyro.get_param_store())}",
                    f"{sum(isinstance(each, Tensor) for each in gc.get_objects())}",
                ]
            )
            print(*rows[-1], flush=True)
        if passed >= minutes:
            raise StopTraining("the time is over")

    with tempfile.TemporaryDirectory() as folder:
        vae = presets.build("pyro-mlp", shape=data.shape)
        fit(
            vae,
            data.train,
            validation=0.1,
            epochs=10**6,
            pixels="binary",
            compile=True,
            average=Averaging(0.999),
            checkpoint=Path(folder, "checkpoints"),
            tracker=TensorBoard(Path(folder, "events")),
            callbacks=[watch],
        )
    names = ["minutes", "epochs", "MiB", "handles", "threads", "in Pyro's store", "tensors"]
    print("\n" + markdown(names, rows))


def evaluate(pair: Pair, x: Tensor, levels: Tensor, epochs: int) -> None:
    """Evaluates the pair, writes and reads it, and trains and evaluates another one."""
    elbo(pair, x, num_samples=2, seed=epochs)
    log_likelihood(pair, x, num_samples=200, seed=epochs)
    with tempfile.TemporaryDirectory() as folder:
        save(pair, Path(folder, "pair"))
        other = load(Path(folder, "pair"), into=presets.build("pyro-mlp", shape=x.shape[1:]))
    fit(other, levels, test=levels, epochs=2, pixels="binary", seed=epochs)
    log_likelihood(other, x[:50], num_samples=100, seed=epochs)


if __name__ == "__main__":
    main(float(sys.argv[1]))
