"""The comparison of objectives, with the same initial parameters, batches and seeds."""

import copy
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyro.infer import ELBO
from torch import nn

from pyro_vae.datasets import Pixels, to_pixels
from pyro_vae.evaluation import LogLikelihood, density_draw, estimated
from pyro_vae.gradients import Gradient, advanced, measure, peak_of_step
from pyro_vae.objectives import analytic_kl, check_elbo, trace_elbo
from pyro_vae.pair import Pair, check_pair
from pyro_vae.plots import bands
from pyro_vae.training import Callback, History, fit
from pyro_vae.utils.checks import check_count, check_seed, kind
from pyro_vae.utils.context import Batch, Examples, as_batch, rows
from pyro_vae.utils.modules import device_of, dtype_of
from pyro_vae.utils.random import seeded
from pyro_vae.utils.tables import markdown, mean_and_error, write_csv

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Comparison", "OnRun", "compare"]


def __dir__() -> list[str]:
    return __all__


OnRun = Callable[[str, int, History, LogLikelihood], object]
"""Called after each run with the objective's name, the seed, its history and log-likelihood."""


@dataclass(frozen=True, repr=False)
class Comparison:
    """The results of :func:`compare`. Printing one shows its tables.

    Attributes:
        seeds: The seeds, the same for all objectives.
        histories: The histories by objective, in the order of the seeds.
        log_likelihoods: The log-likelihoods of the test set by objective, in the same order.
        pixels: The pixels of the x in the log-likelihoods; None for float data.
        gradients: The gradients by epoch, objective and part (``"encoder"`` or ``"decoder"``), all
            at the parameters that the first objective has on the first seed.
        peak_bytes: The peak memory of the tensors of one uncompiled step by objective, without
            data and parameters, in bytes.
        steps: The number of training steps in an epoch.
        goal: A test -ELBO in nats per example; the table has the seconds of training up to it.
        complete: Whether all seeds have run; False after an interruption.

    Example:
        >>> from pyro_vae.comparison import compare
        >>> make_vae, x = lambda: presets.build("pyro-mlp", z_dim=2, shape=16), torch.eye(16)
        >>> result = compare(make_vae, x, x, seeds=(0,), epochs=2, batch_size=8, draws=20)
        >>> result.steps, len(result.seconds_to_goal("trace_elbo"))
        (2, 1)
    """

    seeds: tuple[int, ...]
    histories: Mapping[str, Sequence[History]]
    log_likelihoods: Mapping[str, Sequence[LogLikelihood]]
    pixels: Pixels | None
    gradients: Mapping[int, Mapping[str, Mapping[str, Gradient]]]
    peak_bytes: Mapping[str, int]
    steps: int
    goal: float
    complete: bool = True

    def seconds_a_step(self, name: str) -> float:
        """Returns the median over epochs of the seconds of a training step.

        The first epoch of a run is left out, since it may include the compilation.
        """
        runs = self.histories[name]
        return statistics.median(s for h in runs for s in h.seconds[1:] or h.seconds) / self.steps

    def seconds_to_goal(self, name: str) -> list[float]:
        """Returns the seconds of training of each run up to the goal; NaN if not reached."""
        found = []
        for history in self.histories[name]:
            times = zip(accumulate(history.seconds), history.test_cost, strict=True)
            found.append(next((time for time, cost in times if cost <= self.goal), math.nan))
        return found

    def table(self) -> str:
        """Returns a Markdown table of means over seeds, with differences from the first objective.

        The unit is nats per example. Differences are paired by seed; ± is the standard error over
        seeds.
        """
        header = ["objective", "test −ELBO", "difference", "log-likelihood", "difference"]
        header += ["ms/step", f"s to {self.goal:.1f}", "MiB/step"]
        costs = {n: [h.test_cost[-1] for h in runs] for n, runs in self.histories.items()}
        means = {n: [r.mean for r in runs] for n, runs in self.log_likelihoods.items()}
        rows, first = [], next(iter(self.histories))
        for name in self.histories:
            row = [name]
            for values in (costs, means):
                own, other = values[name], values[first]
                difference = mean_and_error([a - b for a, b in zip(own, other, strict=True)])
                row += [mean_and_error(own), "" if name == first else difference]
            step, memory = 1e3 * self.seconds_a_step(name), self.peak_bytes[name] / 2**20
            to_goal = _seconds(self.seconds_to_goal(name))
            rows.append([*row, f"{step:.2f}", to_goal, f"{memory:.1f}"])
        return markdown(header, rows)

    def gradient_table(self) -> str:
        """Returns a Markdown table of each objective's gradients by epoch and part.

        See :class:`pyro_vae.gradients.Gradient` for the columns. ± is the standard error.
        """
        header = ["epoch", "objective"]
        parts = list(next(iter(next(iter(self.gradients.values())).values())))
        for part in parts:
            header += [f"{part}: bias", "variance", "signal / noise"]
        rows = []
        for epoch, by_name in self.gradients.items():
            for index, (name, by_part) in enumerate(by_name.items()):
                row = [str(epoch), name]
                for part in parts:
                    g = by_part[part]
                    bias = f"{g.bias:z.4f} ± {g.bias_error:.4f}" if index else ""
                    row += [bias, f"{g.variance:.3g}", f"{g.snr:.3g}"]
                rows.append(row)
        return markdown(header, rows)

    def save_csv(self, path: str | Path) -> None:
        """Writes a CSV file with a row for each run, with all digits."""
        header = ["objective", "seed", "cost", "test_cost", "log_likelihood", "mc_error", "bias"]
        rows: list[list[object]] = [[*header, "khat_above", "seconds", "seconds_to_goal"]]
        for name, histories in self.histories.items():
            results, times = self.log_likelihoods[name], self.seconds_to_goal(name)
            for seed, h, r, time in zip(self.seeds, histories, results, times, strict=True):
                above = "" if r.khat.isnan().all() else int(r.unreliable.sum())
                ends = [h.cost[-1], h.test_cost[-1], r.mean, r.mc_error, r.bias, above]
                to_goal = "" if math.isnan(time) else time
                rows.append([name, seed, *ends, sum(h.seconds), to_goal])
        write_csv(path, rows)

    def save_gradients_csv(self, path: str | Path) -> None:
        """Writes a CSV file with a row for each gradient, with all digits."""
        columns = ("norm", "variance", "snr", "bias", "bias_error")
        rows: list[list[object]] = [["epoch", "objective", "part", *columns]]
        for epoch, by_name in self.gradients.items():
            for name, by_part in by_name.items():
                for part, gradient in by_part.items():
                    rows.append([epoch, name, part, *(getattr(gradient, c) for c in columns)])
        write_csv(path, rows)

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Plots the mean and range of the test -ELBO over seeds against the epoch."""
        curves = {name: [h.test_cost for h in runs] for name, runs in self.histories.items()}
        epochs = next(iter(self.histories.values()))[0].epoch
        return bands(epochs, curves, "test −ELBO in nats per example", ax=ax)

    def plot_gradients(self, part: str = "encoder", ax: "Axes | None" = None) -> "Axes":
        """Plots the signal-to-noise ratio of each objective's gradient against the epoch.

        Arguments:
            part: ``"encoder"`` or ``"decoder"``.
            ax: The matplotlib axes to draw on; None makes a new figure.
        """
        points = self.gradients.values()
        curves = {n: [[point[n][part].snr for point in points]] for n in self.histories}
        label = f"signal / noise of the {part}'s gradient"
        return bands(list(self.gradients), curves, label, log=True, ax=ax)

    @property
    def doubt(self) -> str | None:
        """What k-hat says against the log-likelihoods of the worst run; None if nothing does."""
        results = [r for runs in self.log_likelihoods.values() for r in runs]
        worst = max(results, key=lambda r: int(r.unreliable.sum()))
        if worst.doubt is None:
            return None
        biases = [r.bias for r in results if math.isfinite(r.bias)]
        bias = f" Estimated bias: up to {max(biases, key=abs):.2f}." if biases else ""
        return f"Log-likelihoods of the worst run: {worst.doubt}.{bias}"

    def __repr__(self) -> str:
        parts = (self.table(), self.doubt, self.gradient_table())
        return "\n\n".join(part for part in parts if part is not None)


def compare(
    vae_factory: Callable[[], Pair],
    train: Batch,
    test: Batch,
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
    """Trains a VAE with each objective on each seed, and compares the results.

    On each seed, all objectives start with the same parameters and see the same batches and
    pixels, so that differences between them are paired. The gradients of all objectives are
    measured on one batch, at several points of the first objective's first run. A ``warm_up`` then
    has the weight of the KL at that step.

    Arguments:
        vae_factory: Returns a VAE or another :class:`Pair` with new parameters; called once for
            each run, within the run's seed.
        train, test, epochs, batch_size, pixels: As in :func:`pyro_vae.fit`.
        objectives: Pyro ELBOs by name; each run has its own copy. None compares ``trace_elbo`` and
            ``analytic_kl``.
        seeds: The seeds, with a run for each.
        num_samples: The number of importance samples for the log-likelihood of the test set. With
            `pixels`, x is drawn once with seed 0, of pixels on which the model has a density.
        draws: The number of gradients for each objective, see :func:`pyro_vae.gradients.measure`.
        gradient_epochs: The epochs after which gradients are measured, 0 for before training; None
            is 0, a tenth of `epochs`, and `epochs`.
        goal: A test -ELBO in nats per example, up to which the seconds of training are counted;
            None is the final one of the first objective's worst run.
        on_run: Called after each run, for instance to report progress.

    Returns:
        The histories, log-likelihoods, gradients and memory of all objectives. After Ctrl-C, those
        of the seeds on which all objectives have run.

    Raises:
        KeyboardInterrupt: Ctrl-C was pressed before all objectives had run on the first seed.
        TypeError: `vae_factory` is not a function that returns a pair, `objectives` is not a
            mapping to ELBOs, or an argument has the wrong type.
        ValueError: `objectives` or `seeds` is empty, a seed is given twice, an argument is out of
            range, or the data do not fit the pair.
        pyro_vae.training.NonFiniteLoss: A loss or a parameter became NaN or infinite.

    Example:
        >>> from pyro_vae.comparison import compare
        >>> make_vae, x = lambda: presets.build("pyro-mlp", z_dim=2, shape=16), torch.eye(16)
        >>> bounds = {"elbo": objectives.trace_elbo(), "iwae": objectives.iwae(5)}
        >>> result = compare(make_vae, x, x, bounds, (0, 1), epochs=1, batch_size=8, draws=20)
        >>> list(result.histories), list(result.gradients), len(result.histories["iwae"])
        (['elbo', 'iwae'], [0, 1], 2)
    """
    if objectives is None:
        objectives = {"trace_elbo": trace_elbo(), "analytic_kl": analytic_kl()}
    _check_arguments(vae_factory, objectives, seeds)
    batch = as_batch(train, "train")
    points, steps = _points(gradient_epochs, epochs), math.ceil(len(batch[0]) / batch_size)
    measured = _Measured(objectives, points, steps, draws)
    histories: dict[str, list[History]] = {name: [] for name in objectives}
    likelihoods: dict[str, list[LogLikelihood]] = {name: [] for name in objectives}
    first = rows(batch, slice(batch_size))
    how: Any = {"test": test, "epochs": epochs, "batch_size": batch_size, "pixels": pixels}
    complete = False
    try:
        for seed, (name, objective) in product(seeds, objectives.items()):
            with seeded(seed):
                vae = vae_factory()
            check_pair(vae)
            # Gradients and memory are measured in the first objective's first run.
            callbacks = [] if measured.peaks else [measured.along(vae, first, pixels)]
            own = copy.deepcopy(objective)
            history = fit(vae, train, objective=own, seed=seed, callbacks=callbacks, **how)
            if history.ended == "interrupted":
                raise KeyboardInterrupt
            x, density_pixels = _scored(vae, test, pixels)
            likelihoods[name].append(estimated(vae, x, num_samples, seed=seed))
            histories[name].append(history)
            if on_run is not None:
                on_run(name, seed, history, likelihoods[name][-1])
        complete = True
    except KeyboardInterrupt:
        if not all(histories.values()):
            raise
    done = min(map(len, histories.values()))  # the seeds of which all runs are there
    costs = [h.test_cost[-1] for h in next(iter(histories.values()))[:done]]
    return Comparison(
        tuple(seeds)[:done],
        {name: runs[:done] for name, runs in histories.items()},
        {name: results[:done] for name, results in likelihoods.items()},
        density_pixels,
        measured.gradients,
        measured.peaks,
        steps,
        max(costs) if goal is None else goal,
        complete,
    )


def _scored(vae: Pair, test: Batch, pixels: Pixels | None) -> tuple[Batch, Pixels | None]:
    """The test data on which a pair has a density, and their pixels."""
    if pixels is None:
        return test, None
    x, density_pixels = density_draw(vae, test, pixels, seed=0)
    return (x, *as_batch(test)[1:]), density_pixels


@dataclass
class _Measured:
    """Measures gradients and memory of all objectives in one run, at the run's parameters.

    Attributes:
        objectives: The objectives by name.
        epochs: The epochs after which gradients are measured; 0 is before training.
        steps: The number of training steps in an epoch.
        draws: The number of gradients for each objective.
        gradients: The measured gradients by epoch, objective and part.
        peaks: The peak memory of a step in bytes, by objective.
    """

    objectives: Mapping[str, ELBO]
    epochs: Sequence[int]
    steps: int
    draws: int
    gradients: dict[int, dict[str, dict[str, Gradient]]] = field(default_factory=dict)
    peaks: dict[str, int] = field(default_factory=dict)

    def along(self, vae: Pair, batch: Examples, pixels: Pixels | None) -> Callback:
        """Measures on a batch before a run; returns a callback that does so during the run."""
        x, *context = batch
        if pixels is not None:
            x = to_pixels(x, pixels, seed=0).to(dtype_of(vae))
        batch = tuple(entry.to(device_of(vae)) for entry in (x, *context))

        def measure_after(epoch: int) -> None:
            if epoch in self.epochs:
                objectives = advanced(self.objectives, epoch * self.steps)
                self.gradients[epoch] = measure(vae, batch, objectives, self.draws)

        measure_after(0)
        self.peaks = {
            name: peak_of_step(vae, batch, each) for name, each in self.objectives.items()
        }
        return lambda vae, history: measure_after(int(history.epoch[-1]))


def _points(gradient_epochs: Sequence[int] | None, epochs: int) -> list[int]:
    """Returns the epochs after which gradients are measured, or raises ValueError."""
    check_count("epochs", epochs)
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
            f"vae_factory: got {kind(vae_factory)}, expected a function that returns a "
            "VAE or a Pair with new parameters at each call"
        )
    if not isinstance(objectives, Mapping):
        raise TypeError(
            f"objectives: got {kind(objectives)}, expected a mapping of names to ELBOs"
        )
    for name, objective in objectives.items():
        check_elbo(objective, f"objectives[{name!r}]")
    if isinstance(seeds, str) or not isinstance(seeds, Sequence):
        raise TypeError(f"seeds: got {seeds!r}, expected a sequence of ints")
    for argument, given in (("objectives", objectives), ("seeds", seeds)):
        if not given:
            raise ValueError(f"{argument}: got none, expected at least one")
    for seed in seeds:
        check_seed(seed)
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"seeds: got {list(seeds)}, expected each once")


def _seconds(times: Sequence[float]) -> str:
    """Formats the mean over the runs that reached the goal, and their number if not all did."""
    reached = [t for t in times if not math.isnan(t)]
    if not reached:
        return "not reached"
    mean = f"{sum(reached) / len(reached):.1f}"
    return mean if len(reached) == len(times) else f"{mean} ({len(reached)} of {len(times)})"
