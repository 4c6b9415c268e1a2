"""The papers' table: importance-weighted objectives on the IWAE paper's one-layer network."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR

from pyro_vae import datasets, plots
from pyro_vae.evaluation.log_likelihood import estimated
from pyro_vae.likelihoods import Bernoulli
from pyro_vae.networks import MLP
from pyro_vae.objectives import elbo as objectives
from pyro_vae.optim import Adam
from pyro_vae.posteriors import Normal
from pyro_vae.priors import StandardNormal, VampPrior
from pyro_vae.studies import engine as study
from pyro_vae.studies import parts as richer_parts
from pyro_vae.studies.engine import Z_DIM, Result, mlp
from pyro_vae.training.fit import Callback, fit
from pyro_vae.training.history import History
from pyro_vae.utils.random import seeded
from pyro_vae.utils.tables import markdown
from pyro_vae.vae import VAE

VAE_ROW = "VAE"
"""The row that the others are compared with."""

_POINTS = 6  # of a curve, about, for each stage
_CURVE_EXAMPLES, _CURVE_SAMPLES = 1000, 100  # of its log-likelihoods
_BATCH = 128
_WIDTHS = (400, 400)  # of the last row's networks, with ReLU: they learn faster than tanh
_PRECISION = "bf16"  # of training: four times as fast for many samples, where tiles multiply it


@dataclass(frozen=True)
class Stage:
    """A part of training, with one cycle of the learning rate.

    Attributes:
        objective: As :func:`objectives.parse` reads it.
        epochs: Passes over the training data.
        rate: The learning rate at the top of its cycle.
        plain: Whether a standard normal stands for the prior.
    """

    objective: str
    epochs: int
    rate: float
    plain: bool = False


@dataclass(frozen=True)
class Entry:
    """A row of the table.

    Attributes:
        make: Makes the VAE, for training levels.
        stages: Of its training; the last has the row's own objective.
        paper: The paper's negative log-likelihood, in nats.
        pythae: What Pythae obtained.
        source: The paper.
    """

    make: Callable[[Tensor], VAE]
    stages: tuple[Stage, ...]
    paper: float | None = None
    pythae: float | None = None
    source: str = ""


def _vae(train: Tensor) -> VAE:
    shape = train.shape[1:]
    return VAE(StandardNormal(Z_DIM), Bernoulli(mlp(Z_DIM, shape)), Normal(mlp(shape, 2 * Z_DIM)))


def _richer(train: Tensor) -> VAE:
    shape = train.shape[1:]
    decoder, encoder = MLP(Z_DIM, _WIDTHS, shape), MLP(shape, _WIDTHS, 2 * Z_DIM)
    posterior = Normal(encoder)
    prior = VampPrior(posterior, richer_parts.pseudo_inputs(train))
    return VAE(prior, Bernoulli(decoder), posterior)


def _grown(objective: str, epochs: int) -> tuple[Stage, ...]:
    """One VAE goes on with an objective of many samples, as in the IWAE paper's section 5.2."""
    return Stage("trace_elbo", 800, 3e-3), Stage(objective, epochs, 1e-3)


_IWAE, _TIGHTER = "arXiv 1509.00519", "arXiv 1802.04537"

ENTRIES: dict[str, Entry] = {
    VAE_ROW: Entry(_vae, (Stage("trace_elbo", 2500, 2e-3),), paper=86.76, source=_IWAE),
    "IWAE (k = 50)": Entry(_vae, _grown("iwae:50", 110), paper=84.78, source=_IWAE),
    "MIWAE (8, 8)": Entry(
        _vae, _grown("miwae:8:8", 70), paper=84.97, pythae=85.09, source=_TIGHTER
    ),
    "CIWAE (0.05, 64)": Entry(
        _vae, _grown("ciwae:0.05:64", 105), paper=84.57, pythae=84.74, source=_TIGHTER
    ),
    "PIWAE (8, 8)": Entry(
        _vae, _grown("piwae:8:8", 70), paper=84.46, pythae=84.58, source=_TIGHTER
    ),
    "VampPrior(500)": Entry(
        lambda train: richer_parts.makers(train)["VampPrior(500)"](),
        (Stage("trace_elbo", 5, 1e-3, plain=True), Stage("trace_elbo", 900, 1e-3)),
        paper=85.57,
        pythae=85.79,
        source="arXiv 1705.07120, fixed binarization",
    ),
    "VampPrior(500), 400-400 ReLU": Entry(
        _richer,
        (
            Stage("trace_elbo", 5, 1e-3, plain=True),
            Stage("trace_elbo", 400, 1e-3),
            Stage("iwae:16", 200, 5e-4),
        ),
    ),
}
"""The rows; the last has parts that none of the papers' has."""


def settings_of(
    name: str, train: Tensor, test: Tensor, *, num_samples: int, quick: bool = False
) -> dict[str, Any]:
    """What a row depends on, beside its name and this code.

    Arguments:
        name: One of :data:`ENTRIES`.
        train, test: uint8 levels of shape ``(N, *x_shape)``.
        num_samples: Importance samples for each test example.
        quick: Whether each stage has one epoch.
    """
    stages = [replace(s, epochs=1) if quick else s for s in ENTRIES[name].stages]
    settings = study.settings_of(
        train,
        test,
        pixels="binary",
        epochs=sum(stage.epochs for stage in stages),
        num_samples=num_samples,
        plain_epochs=sum(stage.epochs for stage in stages if stage.plain),
    )
    return settings | {
        "stages": [asdict(stage) for stage in stages],
        "batch_size": _BATCH,
        "precision": _PRECISION,
    }


def run(name: str, train: Tensor, test: Tensor, settings: Mapping[str, Any]) -> Result:
    """Trains a row on uint8 levels, one stage after the other, and judges it.

    Its seconds are the processor's, over all threads: half of them are the seconds that two cores
    take with nothing else to do.
    """
    seed, batch_size = settings["seed"], settings["batch_size"]
    with seeded(seed):
        vae = ENTRIES[name].make(train)
    with seeded(seed):
        _vae(train)  # the pixels of the curve are those that follow a plain VAE's weights
        x = datasets.to_pixels(test[:_CURVE_EXAMPLES], "binary")
    plain = VAE(StandardNormal(Z_DIM), vae.likelihood, vae.posterior)
    curve = _Curve(x, seed)
    for number, given in enumerate(settings["stages"]):
        stage = Stage(**given)
        fit(
            plain if stage.plain else vae,
            train,
            epochs=stage.epochs,
            batch_size=batch_size,
            objective=objectives.parse(stage.objective),
            optim=Adam(lr=stage.rate, schedule=_cycle(stage, math.ceil(len(train) / batch_size))),
            pixels="binary",
            seed=seed + number,
            precision=settings["precision"],
            callbacks=[curve.of(stage)],
        )
    return study.judged(name, vae, test, settings, curve.seconds, curve.points)


def _cycle(stage: Stage, steps: int) -> Callable[[torch.optim.Optimizer], LRScheduler]:
    """One cycle of a stage's learning rate, for epochs of so many steps."""
    return lambda optimizer: OneCycleLR(
        optimizer, stage.rate, stage.epochs * steps, pct_start=0.1, cycle_momentum=False
    )


class _Curve:
    """Test log-likelihood on the way: epochs, minutes of two cores, nats.

    The processor's time is counted up to each point, those of the curve itself left out.
    """

    def __init__(self, x: Tensor, seed: int) -> None:
        self.x, self.seed = x, seed
        self.points: list[list[float]] = []
        self.epochs, self.seconds = 0, 0.0

    def of(self, stage: Stage) -> Callback:
        """Watches a stage that begins now, after those before."""
        before, began = self.epochs, time.process_time()
        every = max(1, stage.epochs // _POINTS)
        self.epochs += stage.epochs

        def watch(vae: VAE, history: History) -> None:
            nonlocal began
            done = int(history.epoch[-1])
            if done % every and done != stage.epochs:
                return
            self.seconds += time.process_time() - began
            mean = estimated(vae, self.x, _CURVE_SAMPLES, seed=self.seed).mean
            self.points.append([before + done, round(self.seconds / 120, 3), round(mean, 3)])
            began = time.process_time()

        return watch


def table(results: Mapping[str, Result | None]) -> str:
    """A line a model in Markdown: negative log-likelihoods in nats, as in the papers."""
    header = [
        "model",
        "paper",
        "Pythae",
        "here",
        "below the VAE by",
        "epochs",
        "minutes of two cores",
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
                _schedule(result),
                f"{result.seconds / 120:.0f}",
                f"{result.median_ess:.0f}",
            ]
        )
    return markdown(header, lines)


def order(results: Mapping[str, Result | None]) -> str:
    """Each model against the next in the papers' order, in Markdown: by how much it is better.

    Empty where fewer than two of the papers' models have run.
    """
    done = {name: result for name, result in results.items() if result is not None}
    paper = {name: e.paper for name, e in ENTRIES.items() if name in done and e.paper is not None}
    lines = []
    for worse, better in pairwise(sorted(paper, key=lambda name: -paper[name])):
        mean, error = richer_parts.gain(done[better], done[worse])
        papers = paper[worse] - paper[better]
        lines.append([better, worse, f"{papers:.2f}", f"{mean:.2f} ± {error:.2f}"])
    return markdown(["model", "below", "papers", "here"], lines) if lines else ""


def _schedule(result: Result) -> str:
    """How a row was trained: epochs and objective of each stage."""
    stages = [Stage(**given) for given in result.settings["stages"]]
    return ", ".join(f"{s.epochs} {s.objective}{' (plain)' * s.plain}" for s in stages)


def save(results: Mapping[str, Result | None], folder: Path, command: str) -> list[Path]:
    """Writes `results.md` and `.png` from the rows that there are; returns their paths."""
    done = {name: result for name, result in results.items() if result is not None}
    first = next(iter(done.values()))
    settings = first.settings
    folder.mkdir(parents=True, exist_ok=True)
    text, figure = folder / "results.md", folder / "results.png"
    plots.save(_curves(done), figure)
    ordered = order(results)
    if ordered:
        ordered = (
            "Each against the next in the papers' order, by how many nats it is below, ± the "
            f"standard error of the mean paired difference:\n\n{ordered}\n\n"
        )
    text.write_text(
        "# The papers' table\n\n"
        f"Made by `{command}`: dynamically binarized pixels, {Z_DIM} latents, 200-200 tanh each "
        "way (the one-layer network of the IWAE paper) but in the last row, Adam, batch "
        f"{settings['batch_size']}, networks in {settings['precision']} while they train and in "
        "float32 when they are judged, one seed, and one cycle of the learning rate for each "
        "stage of training. Objectives of many samples go on from a VAE, as in the IWAE paper's "
        "section 5.2; a prior that learns comes in after epochs with a standard normal one "
        "(plain, left out of the curves). Negative log-likelihoods in nats, from "
        f"{settings['num_samples']} importance samples of each of {len(first.values):,} test "
        "images, one seeded binarization of the levels with hash "
        f"`{settings['test']}`, ± the standard error over images; below the VAE "
        "by: the mean paired difference, ± its standard error over images, which does not cover "
        "the luck of a seed. The papers trained for thousands of epochs, at batch 20. Minutes of "
        "two cores: half of the processor's time that training took, over all threads, the "
        "evaluations for the curves left out: two rows can train side by side, a thread each. "
        "Rates and epochs, and the last row's parts, were chosen by short runs judged as the "
        "curves are, on the first of the test images, with no validation set. "
        "Sources: "
        + "; ".join(f"{n}: {e.source}" for n, e in ENTRIES.items() if e.source)
        + f".\n\n{table(results)}\n\n{ordered}"
        f"Log-likelihood of the first {_CURVE_EXAMPLES:,} test images ({_CURVE_SAMPLES} samples) "
        f"against minutes of training, on two cores:\n\n![Curves]({figure.name})\n"
    )
    return [text, figure]


def _curves(results: Mapping[str, Result]) -> Any:
    lines: dict[str, tuple[Sequence[float], Sequence[float]]] = {}
    for name, result in results.items():
        # The few plain epochs, far below all others, would press these into one line.
        points = [p for p in result.curve if p[0] > result.settings["plain_epochs"]]
        lines[name] = [p[1] for p in points], [p[2] for p in points]
    return plots.lines(lines, "minutes of two cores", "test log-likelihood in nats per example")
