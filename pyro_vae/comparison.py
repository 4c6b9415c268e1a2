"""The comparison of objectives: the same weights, batches and seeds, and what comes of each."""

import copy
import csv
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pyro.infer import ELBO
from torch import Tensor, nn

from pyro_vae import datasets, gradients, plots
from pyro_vae.datasets import Pixels
from pyro_vae.evaluation import LogLikelihood, density_draw, estimated
from pyro_vae.gradients import Gradient
from pyro_vae.objectives import analytic_kl, check_elbo, schedule_of, trace_elbo
from pyro_vae.training import Callback, History, fit
from pyro_vae.utils.checks import check_count, check_seed
from pyro_vae.utils.memory import peak_bytes
from pyro_vae.utils.modules import device_of, dtype_of
from pyro_vae.utils.random import seeded
from pyro_vae.utils.tables import markdown, mean_and_error
from pyro_vae.vae import VAE, check_vae

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Comparison", "OnRun", "compare"]


def __dir__() -> list[str]:
    return __all__


OnRun = Callable[[str, int, History, LogLikelihood], object]
"""Called after each run with its objective's name, its seed, and what came of it."""


@dataclass(frozen=True, repr=False)
class Comparison:
    """What :func:`compare` measured, by the name of the objective and in the order of the seeds.

    Attributes:
        seeds: The seeds, the same for each objective.
        histories: The training of each run.
        log_likelihoods: The test set's importance-weighted log-likelihood after each run.
        pixels: The pixels on which the log-likelihood is taken; None where data came as floats.
        gradients: By epoch, objective and part (``"encoder"``, ``"decoder"``), all at the weights
            that the first objective has on the first seed.
        peak_bytes: The most that one uncompiled step holds in tensors beside weights and data.
        steps: In an epoch.
        goal: Test -ELBO in nats per example, the time to which is taken.
    """

    seeds: tuple[int, ...]
    histories: Mapping[str, Sequence[History]]
    log_likelihoods: Mapping[str, Sequence[LogLikelihood]]
    pixels: Pixels | None
    gradients: Mapping[int, Mapping[str, Mapping[str, Gradient]]]
    peak_bytes: Mapping[str, int]
    steps: int
    goal: float

    def seconds_a_step(self, name: str) -> float:
        """Median over epochs, the first of each run left out, in which compilation may be."""
        runs = self.histories[name]
        return statistics.median(s for h in runs for s in h.seconds[1:] or h.seconds) / self.steps

    def seconds_to_goal(self, name: str) -> list[float]:
        """Seconds of training of each run until an epoch reached the goal; NaN where none did."""
        return [_seconds_to(self.goal, history) for history in self.histories[name]]

    def table(self) -> str:
        """Means over seeds in Markdown, and each objective's paired differences from the first.

        In nats per example; ± is the standard error over seeds.
        """
        header = [
            "objective",
            "test −ELBO",
            "difference",
            "log-likelihood",
            "difference",
            "ms/step",
            f"s to {self.goal:.1f}",
            "MiB/step",
        ]
        rows = []
        first = next(iter(self.histories))
        for name in self.histories:
            ends = [
                [[h.test_cost[-1] for h in self.histories[n]] for n in (name, first)],
                [[r.mean for r in self.log_likelihoods[n]] for n in (name, first)],
            ]
            row = [name]
            for own, other in ends:
                apart = [a - b for a, b in zip(own, other, strict=True)]
                row += [mean_and_error(own), "" if name == first else mean_and_error(apart)]
            row += [
                f"{1e3 * self.seconds_a_step(name):.2f}",
                _seconds(self.seconds_to_goal(name)),
                f"{self.peak_bytes[name] / 2**20:.1f}",
            ]
            rows.append(row)
        return markdown(header, rows)

    def gradient_table(self) -> str:
        """Each objective's gradient by epoch in Markdown, encoder and decoder apart.

        Bias is the squared distance of the mean gradient from the first objective's, relative to
        the latter's squared length, ± its standard error; it scatters about 0 for objectives of
        one target.
        """
        header = ["epoch", "objective"]
        parts = list(next(iter(next(iter(self.gradients.values())).values())))
        for part in parts:
            header += [f"{part}: bias", "variance", "signal / noise"]
        rows = []
        for epoch, by_name in self.gradients.items():
            for place, (name, by_part) in enumerate(by_name.items()):
                row = [str(epoch), name]
                for part in parts:
                    g = by_part[part]
                    row += [
                        f"{g.bias:z.4f} ± {g.bias_error:.4f}" if place else "",
                        f"{g.variance:.3g}",
                        f"{g.snr:.3g}",
                    ]
                rows.append(row)
        return markdown(header, rows)

    def save_csv(self, path: str | Path) -> None:
        """Writes a row a run: what it ended with, all digits kept."""
        with Path(path).open("w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(
                [
                    "objective",
                    "seed",
                    "cost",
                    "test_cost",
                    "log_likelihood",
                    "mc_error",
                    "bias",
                    "khat_above",
                    "seconds",
                    "seconds_to_goal",
                ]
            )
            for name, histories in self.histories.items():
                for seed, h, r, to_goal in zip(
                    self.seeds,
                    histories,
                    self.log_likelihoods[name],
                    self.seconds_to_goal(name),
                    strict=True,
                ):
                    above = "" if r.khat.isnan().all() else int(r.unreliable.sum())
                    judged = [r.mean, r.mc_error, r.bias, above]
                    ends = [h.cost[-1], h.test_cost[-1], *judged, sum(h.seconds)]
                    writer.writerow([name, seed, *ends, "" if math.isnan(to_goal) else to_goal])

    def save_gradients_csv(self, path: str | Path) -> None:
        """Writes a row for each gradient, all digits kept."""
        with Path(path).open("w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            columns = ("norm", "variance", "snr", "bias", "bias_error")
            writer.writerow(["epoch", "objective", "part", *columns])
            for epoch, by_name in self.gradients.items():
                for name, by_part in by_name.items():
                    for part, gradient in by_part.items():
                        numbers = [getattr(gradient, column) for column in columns]
                        writer.writerow([epoch, name, part, *numbers])

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Test -ELBO against the epoch: the mean over seeds, and their range."""
        curves = {name: [h.test_cost for h in runs] for name, runs in self.histories.items()}
        epochs = next(iter(self.histories.values()))[0].epoch
        return plots.bands(epochs, curves, "test −ELBO in nats per example", ax=ax)

    def plot_gradients(self, part: str = "encoder", ax: "Axes | None" = None) -> "Axes":
        """Signal-to-noise ratio of each objective's gradient for one part against the epoch."""
        epochs = list(self.gradients)
        curves = {
            name: [[self.gradients[epoch][name][part].snr for epoch in epochs]]
            for name in self.histories
        }
        label = f"signal / noise of the {part}'s gradient"
        return plots.bands(epochs, curves, label, log=True, ax=ax)

    @property
    def doubt(self) -> str | None:
        """What k-hat says against the log-likelihoods, of the worst run; None where nothing."""
        results = [r for runs in self.log_likelihoods.values() for r in runs]
        worst = max(results, key=lambda r: int(r.unreliable.sum()))
        if worst.doubt is None:
            return None
        biases = [r.bias for r in results if math.isfinite(r.bias)]
        bias = f" Estimated bias: up to {max(biases, key=abs):.2f}." if biases else ""
        return f"Of the log-likelihoods, in the worst run: {worst.doubt}.{bias}"

    def __repr__(self) -> str:
        parts = (self.table(), self.doubt, self.gradient_table())
        return "\n\n".join(part for part in parts if part is not None)


def compare(
    vae_factory: Callable[[], VAE],
    train: Tensor,
    test: Tensor,
    objectives: Mapping[str, ELBO] | None = None,
    seeds: Sequence[int] = (0, 1, 2),
    *,
    epochs: int,
    batch_size: int = 128,
    pixels: Pixels | None = None,
    num_samples: int = 1000,
    draws: int = 100,
    gradient_epochs: Sequence[int] | None = None,
    goal: float | None = None,
    on_run: OnRun | None = None,
) -> Comparison:
    """Trains with each objective on each seed, and compares what comes out.

    For one seed every objective starts with the same weights and sees the same batches and pixels,
    so their differences are paired. Gradients are measured on one batch at a few points of the
    first objective's first run, all objectives at its weights, and a ``warm_up`` at the KL's
    weight of that step.

    Arguments:
        vae_factory: Makes a VAE with new weights; called once a run, inside the run's seed.
        train, test, epochs, batch_size, pixels: As in :func:`pyro_vae.fit`.
        objectives: Pyro ELBOs by name; None is ``trace_elbo`` and ``analytic_kl``. Each run has a
            copy of its own.
        seeds: A run for each.
        num_samples: Importance samples for the log-likelihood of the test set, which is drawn
            once, with seed 0, on pixels on which the model has a density.
        draws: Gradients of each objective, see :func:`pyro_vae.gradients.measure`.
        gradient_epochs: After which epochs, 0 being before training; None is 0, a tenth of all,
            and all.
        goal: Test -ELBO in nats per example, the time to which is taken; None is what the first
            objective ends with in its worst run.
        on_run: Called after each run, for a program to say how far it is.

    Raises:
        TypeError, ValueError: No function, no ELBOs by name, or no seeds, each of them once; what
            :func:`pyro_vae.fit` and :func:`pyro_vae.gradients.measure` raise.
    """
    if objectives is None:
        objectives = {"trace_elbo": trace_elbo(), "analytic_kl": analytic_kl()}
    _check_arguments(vae_factory, objectives, seeds)
    check_count("epochs", epochs)
    points = _points(gradient_epochs, epochs)
    steps = math.ceil(len(train) / batch_size)
    measured = _Measured(objectives, points, steps, draws)
    histories: dict[str, list[History]] = {name: [] for name in objectives}
    likelihoods: dict[str, list[LogLikelihood]] = {name: [] for name in objectives}
    judged = pixels
    for seed in seeds:
        for name, objective in objectives.items():
            with seeded(seed):
                vae = vae_factory()
            check_vae(vae)
            callbacks = []
            if not measured.peaks:  # the first objective's first run
                callbacks = [measured.along(vae, _batch(vae, train[:batch_size], pixels))]
            history = fit(
                vae,
                train,
                test=test,
                epochs=epochs,
                batch_size=batch_size,
                objective=copy.deepcopy(objective),
                pixels=pixels,
                seed=seed,
                callbacks=callbacks,
            )
            x = test
            if pixels is not None:
                x, judged = density_draw(vae, test, pixels, seed=0)
            likelihood = estimated(vae, x, num_samples, seed=seed)
            histories[name].append(history)
            likelihoods[name].append(likelihood)
            if on_run is not None:
                on_run(name, seed, history, likelihood)
    first = next(iter(histories.values()))
    return Comparison(
        tuple(seeds),
        histories,
        likelihoods,
        judged,
        measured.gradients,
        measured.peaks,
        steps,
        max(h.test_cost[-1] for h in first) if goal is None else goal,
    )


class _Measured:
    """What is measured along one run, for all objectives at its weights.

    Arguments:
        objectives: By name.
        epochs: After which gradients are measured; 0 is before training.
        steps: In an epoch.
        draws: Gradients of each objective.

    Attributes:
        gradients: By epoch, objective and part.
        peaks: Bytes that a step of each objective holds.
    """

    def __init__(
        self, objectives: Mapping[str, ELBO], epochs: Sequence[int], steps: int, draws: int
    ) -> None:
        self.objectives, self.epochs = objectives, epochs
        self.steps, self.draws = steps, draws
        self.gradients: dict[int, dict[str, dict[str, Gradient]]] = {}
        self.peaks: dict[str, int] = {}

    def along(self, vae: VAE, x: Tensor) -> Callback:
        """Measures before a run, on one batch; returns the callback that does so along it."""
        if 0 in self.epochs:
            self.gradients[0] = gradients.measure(vae, x, self.objectives, self.draws)
        self.peaks = {name: _peak(vae, x, each) for name, each in self.objectives.items()}

        def watch(vae: VAE, history: History) -> None:
            epoch = int(history.epoch[-1])
            if epoch in self.epochs:
                there = _after(epoch * self.steps, self.objectives)
                self.gradients[epoch] = gradients.measure(vae, x, there, self.draws)

        return watch


def _points(gradient_epochs: Sequence[int] | None, epochs: int) -> list[int]:
    """After which epochs gradients are measured; raises ValueError unless they are trained."""
    if gradient_epochs is None:
        return sorted({0, max(1, epochs // 10), epochs})
    points = list(gradient_epochs)
    if not points or points[0] < 0 or points[-1] > epochs:
        raise ValueError(
            f"gradient_epochs: got {gradient_epochs!r}, expected epochs from 0 to {epochs}"
        )
    return points


def _check_arguments(vae_factory: object, objectives: object, seeds: object) -> None:
    if isinstance(vae_factory, nn.Module) or not callable(vae_factory):
        raise TypeError(
            f"vae_factory: got a {type(vae_factory).__name__}, expected a function that makes a "
            "VAE with new weights at each call"
        )
    if not isinstance(objectives, Mapping):
        raise TypeError(
            f"objectives: got a {type(objectives).__name__}, expected a mapping of names to ELBOs"
        )
    for name, objective in objectives.items():
        check_elbo(objective, f"objectives[{name!r}]")
    if isinstance(seeds, str) or not isinstance(seeds, Sequence):
        raise TypeError(f"seeds: got {seeds!r}, expected a sequence of ints, a run for each")
    for argument, given in (("objectives", objectives), ("seeds", seeds)):
        if not given:
            raise ValueError(f"{argument}: got none, expected at least one")
    for seed in seeds:
        check_seed(seed)
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"seeds: got {list(seeds)}, expected each once: a run twice says nothing")


def _batch(vae: VAE, data: Tensor, pixels: Pixels | None) -> Tensor:
    """The first examples as x, on the VAE's device."""
    if pixels is not None:
        data = datasets.to_pixels(data, pixels, seed=0).to(dtype_of(vae))
    return data.to(device_of(vae))


def _after(steps: int, objectives: Mapping[str, ELBO]) -> dict[str, ELBO]:
    """The objectives, with what changes over the steps as it is after so many."""
    after = {name: copy.deepcopy(objective) for name, objective in objectives.items()}
    for objective in after.values():
        if (schedule := schedule_of(objective)) is not None:
            schedule.taken += steps
    return after


def _peak(vae: VAE, x: Tensor, objective: ELBO) -> int:
    """Of a step's loss and gradients; the weights' own gradients count too."""
    objective = copy.deepcopy(objective)
    with seeded(0, device=x.device):
        objective.loss(vae.model, vae.guide, x)  # Pyro's first looks at the plates
        vae.zero_grad()
        peak = peak_bytes(lambda: objective.loss_and_grads(vae.model, vae.guide, x))
        vae.zero_grad()
    return peak


def _seconds_to(goal: float, history: History) -> float:
    seconds = 0.0
    for cost, epoch in zip(history.test_cost, history.seconds, strict=True):
        seconds += epoch
        if cost <= goal:
            return seconds
    return math.nan


def _seconds(times: Sequence[float]) -> str:
    """The mean of the runs that reached the goal, and how many did where not all."""
    reached = [t for t in times if not math.isnan(t)]
    if not reached:
        return "not reached"
    mean = f"{sum(reached) / len(reached):.1f}"
    return mean if len(reached) == len(times) else f"{mean} ({len(reached)} of {len(times)})"
