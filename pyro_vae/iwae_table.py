"""The papers' table: importance-weighted objectives on the IWAE paper's one-layer network."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR

from pyro_vae import datasets, objectives, plots, richer_parts, study
from pyro_vae.arguments import check_count
from pyro_vae.estimates import estimated
from pyro_vae.history import History
from pyro_vae.likelihoods import Bernoulli
from pyro_vae.optim import Adam
from pyro_vae.posteriors import Normal
from pyro_vae.priors import Flow, StandardNormal
from pyro_vae.seeding import seeded
from pyro_vae.study import Z_DIM, Result, mlp
from pyro_vae.tables import markdown
from pyro_vae.training import fit
from pyro_vae.vae import VAE

VAE_ROW = "VAE"
"""The row that the others are compared with."""

_POINTS = 12  # of a curve
_CURVE_EXAMPLES, _CURVE_SAMPLES = 1000, 100  # of its log-likelihoods


@dataclass(frozen=True)
class Entry:
    """A row of the table.

    Attributes:
        make: Makes the VAE, for training levels.
        objective: As :func:`objectives.parse` reads it.
        epochs: Passes over the training data.
        rate: The learning rate at the top of its one cycle.
        paper: The paper's negative log-likelihood, in nats.
        pythae: What Pythae obtained.
        source: The paper.
        plain_epochs: First epochs that have a standard normal prior.
    """

    make: Callable[[Tensor], VAE]
    objective: str
    epochs: int
    rate: float = 2e-3
    paper: float | None = None
    pythae: float | None = None
    source: str = ""
    plain_epochs: int = 0


def _vae(train: Tensor, prior: nn.Module | None = None) -> VAE:
    shape = train.shape[1:]
    return VAE(
        prior or StandardNormal(Z_DIM), Bernoulli(mlp(Z_DIM, shape)), Normal(mlp(shape, 2 * Z_DIM))
    )


_IWAE, _TIGHTER = "arXiv 1509.00519", "arXiv 1802.04537"

ENTRIES: dict[str, Entry] = {
    VAE_ROW: Entry(_vae, "trace_elbo", 1500, paper=86.76, source=_IWAE),
    "IWAE (k = 50)": Entry(_vae, "iwae:50", 130, paper=84.78, source=_IWAE),
    "MIWAE (8, 8)": Entry(_vae, "miwae:8:8", 50, paper=84.97, pythae=85.09, source=_TIGHTER),
    "CIWAE (0.05, 64)": Entry(
        _vae, "ciwae:0.05:64", 50, paper=84.57, pythae=84.74, source=_TIGHTER
    ),
    "PIWAE (8, 8)": Entry(_vae, "piwae:8:8", 50, paper=84.46, pythae=84.58, source=_TIGHTER),
    "VampPrior(500)": Entry(
        lambda train: richer_parts.makers(train)["VampPrior(500)"](),
        "trace_elbo",
        250,
        paper=85.57,
        pythae=85.79,
        source="arXiv 1705.07120, fixed binarization",
        plain_epochs=5,
    ),
    "Flow prior, IWAE (k = 8)": Entry(lambda train: _vae(train, Flow(Z_DIM)), "iwae:8", 120),
}
"""The rows; the last has a richer prior than any of the papers'."""


def settings_of(
    name: str, train: Tensor, test: Tensor, *, num_samples: int, epochs: int | None = None
) -> dict[str, Any]:
    """What a row depends on, beside its name and this code.

    Arguments:
        name: One of :data:`ENTRIES`.
        train, test: uint8 levels of shape ``(N, *x_shape)``.
        num_samples: Importance samples for each test example.
        epochs: In place of the row's own.
    """
    entry = ENTRIES[name]
    epochs = entry.epochs if epochs is None else epochs
    check_count("epochs", epochs)
    settings = study.settings_of(
        train,
        test,
        pixels="binary",
        epochs=epochs,
        num_samples=num_samples,
        plain_epochs=min(entry.plain_epochs, epochs // 2),
    )
    return settings | {"objective": entry.objective, "rate": entry.rate, "batch_size": 128}


def run(name: str, train: Tensor, test: Tensor, settings: Mapping[str, Any]) -> Result:
    """Trains a row on uint8 levels, one cycle of the learning rate, and judges it."""
    seed, batch_size = settings["seed"], settings["batch_size"]
    with seeded(seed):
        vae = ENTRIES[name].make(train)
        x = datasets.to_pixels(test[:_CURVE_EXAMPLES], "binary")
    epochs, seconds, curve = 0, 0.0, []
    steps = math.ceil(len(train) / batch_size)

    def cycle(total: int) -> Callable[[torch.optim.Optimizer], LRScheduler]:
        return lambda optimizer: OneCycleLR(
            optimizer, settings["rate"], total * steps, pct_start=0.1, cycle_momentum=False
        )

    def watch(vae: VAE, history: History) -> None:
        done = epochs + int(history.epoch[-1])
        if done % max(1, settings["epochs"] // _POINTS) and done != settings["epochs"]:
            return
        result = estimated(vae, x, _CURVE_SAMPLES, seed=seed)
        minutes = (seconds + sum(history.seconds)) / 60
        curve.append([done, round(minutes, 3), round(result.mean, 3)])

    def train_for(vae: VAE, count: int) -> None:
        nonlocal epochs, seconds
        history = fit(
            vae,
            train,
            epochs=count,
            batch_size=batch_size,
            objective=objectives.parse(settings["objective"]),
            optim=Adam(lr=settings["rate"], schedule=cycle(count)),
            pixels="binary",
            seed=seed + epochs,
            callbacks=[watch],
        )
        epochs, seconds = epochs + count, seconds + sum(history.seconds)

    plain = settings["plain_epochs"]
    if plain:
        train_for(VAE(StandardNormal(Z_DIM), vae.likelihood, vae.posterior), plain)
    train_for(vae, settings["epochs"] - plain)
    return study.judged(name, vae, test, settings, seconds, curve)


def table(results: Mapping[str, Result | None]) -> str:
    """A line a model in Markdown: negative log-likelihoods in nats, as in the papers."""
    header = [
        "model",
        "paper",
        "Pythae",
        "here",
        "below the VAE by",
        "epochs",
        "minutes",
        "median ESS",
    ]
    plain = results[VAE_ROW]
    lines = []
    for name, result in results.items():
        entry = ENTRIES[name]
        published = ["" if v is None else f"{v:.2f}" for v in (entry.paper, entry.pythae)]
        if result is None:
            lines.append([name, *published, "not run", "", "", "", ""])
            continue
        lower = ""
        if plain is not None and result is not plain:
            mean, error = richer_parts.gain(result, plain)
            lower = f"{mean:.2f} ± {error:.2f}"
        lines.append(
            [
                name,
                *published,
                f"{-result.mean:.2f} ± {result.stderr:.2f}",
                lower,
                str(result.settings["epochs"]),
                f"{result.seconds / 60:.0f}",
                f"{result.median_ess:.0f}",
            ]
        )
    return markdown(header, lines)


def save(results: Mapping[str, Result | None], folder: Path, command: str) -> list[Path]:
    """Writes `results.md` and `.png` from the rows that there are; returns their paths."""
    done = {name: result for name, result in results.items() if result is not None}
    settings = next(iter(done.values())).settings
    folder.mkdir(parents=True, exist_ok=True)
    text, figure = folder / "results.md", folder / "results.png"
    plots.save(_curves(done), figure)
    first = next(iter(done.values()))
    text.write_text(
        "# The papers' table\n\n"
        f"Made by `{command}`: dynamically binarized pixels, {Z_DIM} latents, 200-200 tanh each "
        "way (the one-layer network of the IWAE paper), Adam with one cycle of the learning rate "
        f"up to {settings['rate']:g}, batch {settings['batch_size']}, one seed. Negative "
        f"log-likelihoods in nats, from {settings['num_samples']} importance samples of each of "
        f"{len(first.values):,} test images, one seeded binarization of the levels with hash "
        f"`{settings['test']}`, ± the standard error over images; below the VAE by: the mean "
        "paired difference, ± its standard error over images, which does not cover the luck of a "
        "seed. The papers trained for thousands of epochs, at batch 20; minutes are of training, "
        "by the wall clock, whatever else ran, the evaluations for the curves left out. Sources: "
        + "; ".join(f"{n}: {e.source}" for n, e in ENTRIES.items() if e.source)
        + f".\n\n{table(results)}\n\n"
        f"Log-likelihood of the first {_CURVE_EXAMPLES:,} test images ({_CURVE_SAMPLES} samples) "
        f"against minutes of training:\n\n![Curves]({figure.name})\n"
    )
    return [text, figure]


def _curves(results: Mapping[str, Result]) -> Any:
    lines: dict[str, tuple[Sequence[float], Sequence[float]]] = {
        name: ([p[1] for p in r.curve], [p[2] for p in r.curve]) for name, r in results.items()
    }
    return plots.lines(lines, "minutes of training", "test log-likelihood in nats per example")
