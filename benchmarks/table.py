"""A table of mixed columns: ``fit`` from a file on the disk against a loop by hand in memory.

python -m benchmarks.table                 # a million rows of twenty columns
python -m benchmarks.table --rows 20000    # few, so that it ends soon

Both train the same networks with the same batch size and Adam, compiled, and take turns.
"""

import argparse
import os
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pyro_vae import VAE, fit, likelihoods, networks, objectives, optim, posteriors, priors
from pyro_vae.likelihoods import Column

from .measure import compared

os.environ["TQDM_DISABLE"] = "1"

REALS, BINARY, CLASSES, COUNTS = 10, 4, 3, 3
LEVELS = 5
COLUMNS: dict[str, Column] = {
    **{f"real {i}": likelihoods.Gaussian for i in range(REALS)},
    **{f"binary {i}": likelihoods.Bernoulli for i in range(BINARY)},
    **{f"class {i}": partial(likelihoods.Categorical, levels=LEVELS) for i in range(CLASSES)},
    **{f"count {i}": likelihoods.Poisson for i in range(COUNTS)},
}
Z_DIM, HIDDEN = 8, (256, 256)


def written(path: Path, rows: int) -> np.memmap:
    """Rows of all kinds of columns, which depend on one latent number, in a file."""
    generator = np.random.default_rng(0)
    data = np.memmap(path, dtype=np.float32, mode="w+", shape=(rows, len(COLUMNS)))
    for start in range(0, rows, 100_000):
        size = min(100_000, rows - start)
        hidden = generator.normal(size=(size, 1))
        share = data[start : start + size]
        reals, binary, classes, counts = np.split(
            share, np.cumsum([REALS, BINARY, CLASSES]), axis=1
        )
        reals[:] = 0.7 * hidden + 0.7 * generator.normal(size=reals.shape)
        binary[:] = hidden + generator.normal(size=binary.shape) > 0
        levels = 2 + hidden + generator.normal(size=classes.shape)
        classes[:] = levels.round().clip(0, LEVELS - 1)
        counts[:] = generator.poisson(np.exp(0.5 * hidden + 1), size=counts.shape)
    data.flush()
    return np.memmap(path, dtype=np.float32, mode="r", shape=data.shape)


def build() -> VAE:
    torch.manual_seed(0)
    decoder = networks.MLP(Z_DIM, HIDDEN, likelihoods.Columns.numbers(COLUMNS))
    encoder = networks.MLP(len(COLUMNS), HIDDEN, 2 * Z_DIM)
    return VAE(
        priors.StandardNormal(Z_DIM),
        likelihoods.Columns(decoder, COLUMNS),
        posteriors.Normal(encoder),
    )


def by_hand(x: Tensor, batch_size: int) -> Callable[[], float]:
    """An epoch as one writes it in PyTorch, for columns in this order."""
    vae = build()
    encoder, decoder = vae.posterior.network, vae.likelihood.network
    optimizer = torch.optim.Adam(vae.parameters(), lr=1e-3, fused=True)

    @torch.compile
    def loss_of(x: Tensor) -> Tensor:
        loc, raw = encoder(x).chunk(2, -1)
        scale = F.softplus(raw) + 1e-4
        z = loc + scale * torch.randn_like(loc)
        pairs, logits, levels, log_rate = decoder(z).split(
            (2 * REALS, BINARY, LEVELS * CLASSES, COUNTS), -1
        )
        reals, binary, classes, counts = x.split((REALS, BINARY, CLASSES, COUNTS), -1)
        mean, raw = pairs.unflatten(-1, (REALS, 2)).unbind(-1)
        sigma = F.softplus(raw) + 1 / 256
        loss = (0.5 * ((reals - mean) / sigma) ** 2 + sigma.log() + 0.9189385).sum()
        loss = loss + F.binary_cross_entropy_with_logits(logits, binary, reduction="sum")
        levels = levels.reshape(-1, LEVELS)
        loss = loss + F.cross_entropy(levels, classes.reshape(-1).long(), reduction="sum")
        loss = loss + (log_rate.exp() - counts * log_rate + (counts + 1).lgamma()).sum()
        return loss + (-scale.log() - 0.5 * ((z - loc) / scale) ** 2 + 0.5 * z**2).sum()

    def epoch() -> float:
        total = 0.0
        for index in torch.randperm(len(x)).split(batch_size):
            optimizer.zero_grad()
            loss = loss_of(x[index])
            loss.backward()
            optimizer.step()
            total += loss.item()
        return total / len(x)

    return epoch


def ours(data: np.ndarray, batch_size: int) -> Callable[[], object]:
    """An epoch of ``fit``, with its history."""
    vae, optimizer = build(), optim.Adam(lr=1e-3)
    objective = objectives.compiled(objectives.trace_elbo())
    return lambda: fit(
        vae, data, epochs=1, batch_size=batch_size, objective=objective, optim=optimizer,
        compile=False,
    )  # fmt: skip


def main(rows: int, batch_size: int, rounds: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        data = written(Path(folder, "rows"), rows)
        x = torch.from_numpy(np.array(data))
        runs = {
            "PyTorch by hand, torch.compile, rows in memory": by_hand(x, batch_size),
            "ours: fit, compiled, rows in memory": ours(np.array(data), batch_size),
            "ours: fit, compiled, rows in a file": ours(data, batch_size),
        }
        what = f"an epoch of {rows:,} rows of {len(COLUMNS)} columns, batch {batch_size}"
        print(compared(what, runs, rounds, warm_up=1))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--batch-size", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    main(arguments.rows, arguments.batch_size, arguments.rounds)
