"""The study of the closed-form KL, and of the estimators around it: what each does to gradients.

Everywhere 200-200 tanh networks (``iwae-mlp``) on binarized pixels, trained by ``fit``'s defaults.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from pyro.infer import ELBO
from torch import Tensor

from pyro_vae import gradients, plots
from pyro_vae.comparison import OnRun, compare
from pyro_vae.datasets import to_pixels
from pyro_vae.evaluation.inputs import data_hash
from pyro_vae.gradients import MIN_DRAWS, Gradient
from pyro_vae.likelihoods import Gaussian
from pyro_vae.networks import MLP
from pyro_vae.objectives import elbo as objectives
from pyro_vae.posteriors import SCALE_FLOOR, Normal
from pyro_vae.presets import build
from pyro_vae.priors import StandardNormal
from pyro_vae.studies.engine import keep_record, kept_record
from pyro_vae.training.fit import fit
from pyro_vae.training.history import History
from pyro_vae.utils.random import seeded
from pyro_vae.utils.tables import markdown, mean_and_error
from pyro_vae.vae import VAE

TRACE, ANALYTIC, STICKING = "trace_elbo", "analytic_kl", "sticking_the_landing"
Z_DIM, PARTICLES, BATCH = 50, 1, 128
SAMPLES = (1, 4, 16, 64)
"""Importance samples of which the gradients are measured."""
TRAINED = 16
"""Importance samples of the runs that are trained with them."""
DISTANCES = (1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.0)
"""Of the guide's weights from the exact posterior's, in units of where they start."""

PLAIN = "50 latents, L = 1, batch 128"
SETTINGS = {
    PLAIN: (Z_DIM, PARTICLES, BATCH),
    "10 latents": (10, PARTICLES, BATCH),
    "2 latents": (2, PARTICLES, BATCH),
    "L = 16": (Z_DIM, 16, BATCH),
    "batch 32": (Z_DIM, PARTICLES, 32),
    "batch 512": (Z_DIM, PARTICLES, 512),
}
"""Latents, particles and batch size of the comparisons, each but one as in the first."""
NOISE, SIGNAL, STARVED, LANDING = "noise of a step", "signal", "starved encoder", "landing"
NAMES = (*SETTINGS, NOISE, SIGNAL, STARVED, LANDING)
"""The rows of the study."""


@dataclass(frozen=True)
class Row:
    """One experiment, kept as a small JSON file.

    Attributes:
        name: One of :data:`NAMES`.
        settings: What it depends on, see :func:`settings_of`.
        test_cost: Test -ELBO in nats per example after each epoch, by objective, a list a seed.
        log_likelihood: Test log-likelihood in nats per example at the end, by objective and seed.
        gradients: By epoch (for :data:`LANDING` by distance), objective and part.
        elbo: ELBO of the same draw of test pixels as `log_likelihood`.
    """

    name: str
    settings: dict[str, Any]
    test_cost: Mapping[str, Sequence[Sequence[float]]]
    log_likelihood: Mapping[str, Sequence[float]]
    gradients: Mapping[float, Mapping[str, Mapping[str, Gradient]]]
    elbo: Mapping[str, Sequence[float]] = field(default_factory=dict)

    def save(self, folder: Path) -> None:
        """Writes it to a file of its name."""
        record: dict[str, Any] = {"name": self.name, "settings": self.settings}
        record["test_cost"] = {
            name: [[round(cost, 4) for cost in run] for run in runs]
            for name, runs in self.test_cost.items()
        }
        record["log_likelihood"], record["elbo"] = self.log_likelihood, self.elbo
        record["gradients"] = {
            at: {
                name: {part: _written(gradient) for part, gradient in by_part.items()}
                for name, by_part in by_name.items()
            }
            for at, by_name in self.gradients.items()
        }
        keep_record(folder, record)

    def variance(self, at: float, objective: str, part: str = "encoder") -> float:
        """Of one draw of the gradient, in units of that of the first objective."""
        by_name = self.gradients[at]
        first = next(iter(by_name))
        return by_name[objective][part].variance / by_name[first][part].variance

    def gain(self, objective: str) -> list[list[float]]:
        """How much lower the test -ELBO is than the first objective's, by seed and epoch."""
        first = self.test_cost[next(iter(self.test_cost))]
        return [
            [a - b for a, b in zip(one, other, strict=True)]
            for one, other in zip(first, self.test_cost[objective], strict=True)
        ]


def _written(gradient: Gradient) -> dict[str, float | None]:
    """To six digits; JSON has no NaN."""
    numbers = asdict(gradient).items()
    return {name: None if math.isnan(value) else float(f"{value:.6g}") for name, value in numbers}


def load(folder: Path, name: str, settings: Mapping[str, Any]) -> Row | None:
    """The row of an earlier run, or None; raises ValueError for a damaged one or another's."""
    return kept_record(folder, name, settings, _row)


def _row(record: dict[str, Any]) -> Row:
    record["gradients"] = {
        float(at): {
            name: {
                part: Gradient(**{n: math.nan if v is None else v for n, v in numbers.items()})
                for part, numbers in by_part.items()
            }
            for name, by_part in by_name.items()
        }
        for at, by_name in record["gradients"].items()
    }
    return Row(**record)


def settings_of(
    train: Tensor, test: Tensor, *, epochs: int, seeds: int, num_samples: int, draws: int
) -> dict[str, Any]:
    """What a row depends on, beside its name and this code.

    Arguments:
        train, test: uint8 levels of shape ``(N, *x_shape)``.
        epochs: Passes over the training data.
        seeds: Runs, on seeds 0, 1, ...
        num_samples: Importance samples for each test example.
        draws: Gradients of each objective at each point.
    """
    return {
        "train": data_hash(train),
        "test": data_hash(test),
        "epochs": epochs,
        "seeds": seeds,
        "num_samples": num_samples,
        "draws": draws,
    }


def run(
    name: str,
    train: Tensor,
    test: Tensor,
    settings: Mapping[str, Any],
    on_run: OnRun | None = None,
) -> Row:
    """One experiment; arguments are as of :func:`settings_of` and :func:`comparison.compare`."""
    if name in SETTINGS:
        z_dim, particles, batch = SETTINGS[name]
        losses: dict[str, ELBO] = {
            TRACE: objectives.trace_elbo(particles),
            ANALYTIC: objectives.analytic_kl(particles),
            STICKING: objectives.sticking_the_landing(particles),
        }
        return _compared(name, train, test, settings, losses, z_dim, batch, on_run)
    if name == STARVED:
        losses = _parsed(TRACE, f"iwae:{TRAINED}", f"dreg:{TRAINED}")
        return _compared(name, train, test, settings, losses, Z_DIM, BATCH, on_run)
    if name == NOISE:
        losses = _parsed(TRACE, ANALYTIC, STICKING)
        epochs = points(settings["epochs"])
        measured = _along(train, losses, epochs, settings["draws"], batch_size=BATCH)
    elif name == SIGNAL:
        losses = _parsed(*(f"{kind}:{k}" for kind in ("iwae", "dreg") for k in SAMPLES))
        draws = max(MIN_DRAWS, settings["draws"] // 4)  # each takes far longer
        measured = _along(train, losses, sorted({1, settings["epochs"]}), draws)
    else:
        measured = _landing(settings["draws"])
    return Row(name, dict(settings), {}, {}, measured)


def _parsed(*texts: str) -> dict[str, ELBO]:
    return {text: objectives.parse(text) for text in texts}


def points(epochs: int) -> list[int]:
    """After which epochs gradients are measured."""
    return sorted({p for p in (0, 1, 2, 5, 10, 20) if p < epochs} | {epochs})


def _compared(
    name: str,
    train: Tensor,
    test: Tensor,
    settings: Mapping[str, Any],
    losses: Mapping[str, ELBO],
    z_dim: int,
    batch: int,
    on_run: OnRun | None,
) -> Row:
    result = compare(
        lambda: build("iwae-mlp", z_dim=z_dim, shape=train.shape[1:]),
        train,
        test,
        losses,
        range(settings["seeds"]),
        epochs=settings["epochs"],
        batch_size=batch,
        pixels="binary",
        num_samples=settings["num_samples"],
        draws=settings["draws"],
        gradient_epochs=points(settings["epochs"]),
        on_run=on_run,
    )
    return Row(
        name,
        dict(settings),
        {n: [h.test_cost for h in runs] for n, runs in result.histories.items()},
        {n: [r.mean for r in runs] for n, runs in result.log_likelihoods.items()},
        {float(epoch): by_name for epoch, by_name in result.gradients.items()},
        {n: [r.elbo.mean().item() for r in runs] for n, runs in result.log_likelihoods.items()},
    )


def _along(
    train: Tensor,
    losses: Mapping[str, ELBO],
    epochs: Sequence[int],
    draws: int,
    batch_size: int | None = None,
) -> dict[float, Mapping[str, Mapping[str, Gradient]]]:
    """Gradients along the first run of :data:`PLAIN`.

    They are taken after some epochs, and of one batch, as in the comparisons, or with
    `batch_size` of random ones.
    """
    with seeded(0):
        vae = build("iwae-mlp", z_dim=Z_DIM, shape=train.shape[1:])
        x = to_pixels(train if batch_size else train[:BATCH], "binary")
    found: dict[float, Mapping[str, Mapping[str, Gradient]]] = {}

    def measure(epoch: int) -> None:
        found[float(epoch)] = gradients.measure(vae, x, losses, draws, batch_size=batch_size)

    def watch(vae: VAE, history: History) -> None:
        if history.epoch[-1] in epochs:
            measure(int(history.epoch[-1]))

    if 0 in epochs:
        measure(0)
    fit(vae, train, epochs=max(epochs), pixels="binary", seed=0, callbacks=[watch])
    return found


def _landing(draws: int) -> dict[float, Mapping[str, Mapping[str, Gradient]]]:
    """Gradients of a linear-Gaussian VAE whose guide comes up to the exact posterior.

    z ~ N(0, I), x ~ N(W z, s^2 I), where the columns of W are orthogonal: the exact posterior is
    N(C W'x / s^2, C) with the diagonal C = (I + W'W / s^2)^-1, and the guide can be set to it.
    """
    x_dim, z_dim, s = 20, 5, 0.5
    with seeded(0):
        decoder, encoder = MLP(z_dim, (), x_dim), MLP(x_dim, (), 2 * z_dim)
        vae = VAE(StandardNormal(z_dim), Gaussian(decoder, scale=s), Normal(encoder)).double()
        weight = torch.linalg.qr(torch.randn(x_dim, z_dim).double()).Q
        noise = s * torch.randn(BATCH, x_dim).double()
        x = torch.randn(BATCH, z_dim).double() @ weight.T + noise
    start = {name: value.clone() for name, value in encoder.state_dict().items()}
    variance = 1 / (1 + weight.square().sum(0) / s**2)
    gain = variance[:, None] * weight.T / s**2
    raw_scale = torch.log(torch.expm1(variance.sqrt() - SCALE_FLOOR))
    exact = {
        "layers.0.weight": torch.cat((gain, torch.zeros_like(gain))),
        "layers.0.bias": torch.cat((torch.zeros_like(raw_scale), raw_scale)),
    }
    with torch.no_grad():
        decoder.load_state_dict({"layers.0.weight": weight, "layers.0.bias": 0 * x[0]})
    losses = _parsed(TRACE, ANALYTIC, STICKING)
    found: dict[float, Mapping[str, Mapping[str, Gradient]]] = {}
    for distance in DISTANCES:
        encoder.load_state_dict(
            {name: torch.lerp(exact[name], start[name], distance) for name in exact}
        )
        found[distance] = gradients.measure(vae, x, losses, draws)
    return found


def table(rows: Mapping[str, Row | None]) -> str:
    """A line for each comparison in Markdown: variances by epoch, and what came out."""
    header = ["", "objective"]
    done = [row for name in SETTINGS if (row := rows[name]) is not None]
    epochs = list(done[0].gradients) if done else []
    header += [f"variance, epoch {epoch:.0f}" for epoch in epochs]
    header += ["test −ELBO lower by", "log-likelihood higher by"]
    lines = []
    for name in SETTINGS:
        row = rows[name]
        if row is None:
            lines.append([name, "not run", *[""] * (len(header) - 2)])
            continue
        for objective in (ANALYTIC, STICKING):
            own, first = (row.log_likelihood[n] for n in (objective, TRACE))
            higher = [a - b for a, b in zip(own, first, strict=True)]
            lines.append(
                [
                    name,
                    objective,
                    *(f"{row.variance(epoch, objective):.3f}" for epoch in epochs),
                    mean_and_error([run[-1] for run in row.gain(objective)]),
                    mean_and_error(higher),
                ]
            )
    return markdown(header, lines)


def noise_table(noise: Row, plain: Row) -> str:
    """How much of a step's noise is of z, by epoch, in Markdown; the rest is of the batches."""
    header = ["epoch", *(f"{name}: of z" for name in (TRACE, ANALYTIC, STICKING))]
    header += [f"{name}: noise of a step" for name in (ANALYTIC, STICKING)]
    lines = []
    for epoch, by_name in noise.gradients.items():
        line = [f"{epoch:.0f}"]
        for name in (TRACE, ANALYTIC, STICKING):
            own = plain.gradients[epoch][name]["encoder"].variance
            line.append(f"{100 * own / by_name[name]['encoder'].variance:.0f} %")
        line += [f"{noise.variance(epoch, name):.2f}" for name in (ANALYTIC, STICKING)]
        lines.append(line)
    return markdown(header, lines)


def signal_table(signal: Row) -> str:
    """Signal-to-noise ratios by number of importance samples, in Markdown."""
    header = ["epoch", "part", "objective", *(f"k = {k}" for k in SAMPLES)]
    lines = []
    for epoch in signal.gradients:
        for part in ("encoder", "decoder"):
            for kind in ("iwae", "dreg"):
                snr = [signal.gradients[epoch][f"{kind}:{k}"][part].snr for k in SAMPLES]
                lines.append([f"{epoch:.0f}", part, kind, *(f"{value:.2f}" for value in snr)])
    return markdown(header, lines)


def starved_table(starved: Row) -> str:
    """What the guide is worth after training with importance-weighted bounds, in Markdown."""
    header = ["objective", "log-likelihood", "ELBO", "gap"]
    lines = []
    for name, likelihoods in starved.log_likelihood.items():
        elbos = starved.elbo[name]
        gaps = [a - b for a, b in zip(likelihoods, elbos, strict=True)]
        lines.append([name, *map(mean_and_error, (likelihoods, elbos, gaps))])
    return markdown(header, lines)


def landing_table(landing: Row) -> str:
    """The guide's gradient by its distance from the exact posterior, in Markdown."""
    header = ["distance", *(f"variance, {name}" for name in (TRACE, ANALYTIC, STICKING))]
    return markdown(
        header,
        [
            [f"{at:g}", *(f"{by_name[n]['encoder'].variance:.3g}" for n in by_name)]
            for at, by_name in landing.gradients.items()
        ],
    )


def save(
    rows: Mapping[str, Row | None], folder: Path, command: str, *, train: int, test: int
) -> list[Path]:
    """Writes `results.md` and the figures from the rows that there are; returns their paths."""
    settings = next(row for row in rows.values() if row is not None).settings
    folder.mkdir(parents=True, exist_ok=True)
    text, files = folder / "results.md", []

    def figure(name: str, title: str, *panels: Callable[[Any], object]) -> str:
        from matplotlib import pyplot as plt

        size = (5.2 * len(panels), 4.0)
        _, axes = plt.subplots(1, len(panels), figsize=size, layout="constrained", squeeze=False)
        for draw, ax in zip(panels, axes[0], strict=True):
            draw(ax)
        files.append(folder / f"{name}.png")
        plots.save(axes[0, 0], files[-1])
        return f"![{title}]({name}.png)"

    parts = [
        "# The closed-form KL and its neighbours: the measurements",
        f"Made by `{command}`: {train:,} training and {test:,} test images, binarized, 200-200 "
        "tanh networks, Adam at 1e-3, "
        f"{settings['epochs']} epochs, {settings['seeds']} seeds, {settings['draws']} draws of "
        "each gradient. Nats per example, ± the standard error over seeds; differences are paired "
        "by seed, from trace_elbo's. A variance is that of one draw of the encoder's gradient on "
        "one batch, in units of trace_elbo's at the same weights, which are those of its first "
        "run. What it means is in [analytic_kl.md](../analytic_kl.md).",
        "## Latents, particles and batches",
        table(rows),
    ]
    done = {name: row for name in SETTINGS if (row := rows[name]) is not None}
    if done:
        parts += [
            figure(
                "variance",
                "Variance of the encoder's gradient by epoch",
                lambda ax: _variances(done, ANALYTIC, ax),
                lambda ax: _variances(done, STICKING, ax),
            ),
            figure("gain", "Gain in test −ELBO at the end", lambda ax: _gains(done, ax)),
        ]
    plain, noise = rows[PLAIN], rows[NOISE]
    parts.append("## How much of a step's noise is of z")
    if plain is None or noise is None:
        parts.append("Not run.")
    else:
        parts += [
            "The variance of the encoder's gradient on one batch, in per cent of its variance "
            "over random batches of as many examples; and the latter in units of trace_elbo's.",
            noise_table(noise, plain),
        ]
    parts.append("## Near the exact posterior")
    if (landing := rows[LANDING]) is None:
        parts.append("Not run.")
    else:
        parts += [
            "A linear-Gaussian VAE, its guide's weights on the line from random ones (distance 1) "
            "to those of the exact posterior (0).",
            landing_table(landing),
            figure("landing", "Variance by distance", lambda ax: _landings(landing, ax)),
        ]
    parts.append("## Importance-weighted bounds")
    if (signal := rows[SIGNAL]) is None:
        parts.append("Signal: not run.")
    else:
        parts += [
            "Signal-to-noise ratio (length of the mean gradient over the root of the variance) "
            "at the weights of trace_elbo's first run, from a quarter as many draws.",
            signal_table(signal),
            figure(
                "signal",
                "Signal-to-noise ratio by importance samples",
                lambda ax: _signals(signal, "encoder", ax),
                lambda ax: _signals(signal, "decoder", ax),
            ),
        ]
    if (starved := rows[STARVED]) is None:
        parts.append("Starved encoder: not run.")
    else:
        parts += [
            f"Trained with each, by {TRAINED} samples; the gap is how far the guide's ELBO is "
            "below the log-likelihood, on the same draw of the test images.",
            starved_table(starved),
        ]
    text.write_text("\n\n".join(parts) + "\n")
    return [text, *files]


def _variances(rows: Mapping[str, Row], objective: str, ax: Any) -> None:
    epochs = list(next(iter(rows.values())).gradients)
    curves = {n: [[row.variance(e, objective) for e in epochs]] for n, row in rows.items()}
    label = f"variance of {objective} / trace_elbo"
    plots.bands(epochs, curves, label, log=True, ax=ax)
    ax.set_xscale("symlog", linthresh=1)
    ax.set_xlim(0, max(epochs))
    ax.set_xticks(epochs, [f"{epoch:.0f}" for epoch in epochs])
    ax.axhline(1, color="black", lw=0.8)


def _gains(rows: Mapping[str, Row], ax: Any) -> None:
    """What each objective ends with, and bars of two standard errors over seeds."""
    for place, objective in enumerate((ANALYTIC, STICKING)):
        ends = torch.tensor([[run[-1] for run in row.gain(objective)] for row in rows.values()])
        errors = 2 * ends.std(1) / ends.shape[1] ** 0.5 if ends.shape[1] > 1 else None
        y = torch.arange(len(rows)) + 0.3 * place
        ax.errorbar(ends.mean(1), y, xerr=errors, fmt="os"[place], capsize=3, label=objective,
                    color=plots.COLOURS[place + 1])  # fmt: skip
    ax.set_yticks(range(len(rows)), list(rows))
    ax.invert_yaxis()
    ax.axvline(0, color="black", lw=0.8)
    ax.set(xlabel="test −ELBO lower than trace_elbo's by, nats per example")
    ax.grid(alpha=0.3)
    ax.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)


def _landings(landing: Row, ax: Any) -> None:
    distances = [at for at in landing.gradients if at > 0]
    curves = {
        name: [[landing.gradients[at][name]["encoder"].variance for at in distances]]
        for name in (TRACE, ANALYTIC, STICKING)
    }
    label = "variance of the guide's gradient"
    plots.bands(distances, curves, label, log=True, xlabel="distance from the posterior", ax=ax)
    ax.set_xscale("log")


def _signals(signal: Row, part: str, ax: Any) -> None:
    curves = {
        f"{kind}, epoch {epoch:.0f}": [
            [signal.gradients[epoch][f"{kind}:{k}"][part].snr for k in SAMPLES]
        ]
        for epoch in signal.gradients
        for kind in ("iwae", "dreg")
    }
    label = f"signal / noise of the {part}'s gradient"
    plots.bands(SAMPLES, curves, label, xlabel="importance samples k", ax=ax)
    ax.set_ylim(bottom=0)
    ax.set_xscale("log", base=4)
    ax.set_xticks(SAMPLES, [str(k) for k in SAMPLES])
