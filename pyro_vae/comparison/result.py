"""The result of a comparison: tables, files and figures."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING

from pyro_vae.datasets import Pixels
from pyro_vae.evaluation import LogLikelihood
from pyro_vae.gradients import Gradient
from pyro_vae.plots import bands, dots, panels
from pyro_vae.training import History
from pyro_vae.utils import html
from pyro_vae.utils.tables import markdown, mean_and_error, write_csv

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Comparison"]


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
        likelihoods: The mean log-likelihood of the test set by epoch, at the epochs at which it
            was estimated, by objective and in the order of the seeds. The last is that of
            `log_likelihoods`.
        likelihood_goal: A log-likelihood of the test set in nats per example, for which the table
            has the seconds too; or None.

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
    likelihoods: Mapping[str, Sequence[Mapping[int, float]]] = field(default_factory=dict)
    likelihood_goal: float | None = None

    def step_seconds(self, name: str) -> list[float]:
        """Returns the seconds of a training step in each epoch of all runs.

        The first epoch of a run is left out, since it may include the compilation.
        """
        return [seconds for history in self._runs(name) for seconds in self._steps(history)]

    def _runs(self, name: str) -> Sequence[History]:
        """The histories of an objective; raises ValueError for another name."""
        if not isinstance(name, str) or name not in self.histories:
            raise ValueError(f"name: got {name!r}, expected one of {', '.join(self.histories)}")
        return self.histories[name]

    def _steps(self, history: History) -> list[float]:
        return [seconds / self.steps for seconds in history.seconds[1:] or history.seconds]

    def seconds_a_step(self, name: str) -> float:
        """Returns the median of :meth:`step_seconds`."""
        return statistics.median(self.step_seconds(name))

    def seconds_to_goal(self, name: str) -> list[float]:
        """Returns the seconds of training of each run up to the goal; NaN if not reached."""
        found = []
        for history in self._runs(name):
            times = zip(accumulate(history.seconds), history.test_cost, strict=True)
            found.append(next((time for time, cost in times if cost <= self.goal), math.nan))
        return found

    def seconds_to_likelihood(self, name: str) -> list[float]:
        """Returns the seconds of training of each run up to the goal in log-likelihood.

        They are those up to the first epoch at which the estimate was at least
        `likelihood_goal`; NaN if there is none, or no such goal.
        """
        goal = math.inf if self.likelihood_goal is None else self.likelihood_goal
        found = []
        for history, means in zip(self._runs(name), self._likelihoods(name), strict=True):
            times = dict(zip(history.epoch, accumulate(history.seconds), strict=True))
            reached = (epoch for epoch in sorted(means) if means[epoch] >= goal)
            found.append(next((times[epoch] for epoch in reached), math.nan))
        return found

    def _likelihoods(self, name: str) -> list[dict[int, float]]:
        """The log-likelihoods of each run by epoch, that of the end among them."""
        runs = list(zip(self.histories[name], self.log_likelihoods[name], strict=True))
        along = self.likelihoods.get(name, [{}] * len(runs))
        return [
            {**means, int(history.epoch[-1]): result.mean}
            for means, (history, result) in zip(along, runs, strict=True)
        ]

    def table(self) -> str:
        """Returns a Markdown table of means over seeds, with differences from the first objective.

        The unit is nats per example. Differences are paired by seed; ± is the standard error over
        seeds. Milliseconds of a step are the median over epochs, with the quartiles in brackets.
        """
        return markdown(*self._table())

    def _table(self) -> tuple[list[str], list[list[str]]]:
        header = ["objective", "test −ELBO", "difference", "log-likelihood", "difference"]
        header += ["ms/step", f"s to {self.goal:.1f}"]
        if self.likelihood_goal is not None:
            header.append(f"s to log-likelihood {self.likelihood_goal:.1f}")
        header.append("MiB/step")
        costs = {n: [h.test_cost[-1] for h in runs] for n, runs in self.histories.items()}
        means = {n: [r.mean for r in runs] for n, runs in self.log_likelihoods.items()}
        rows, first = [], next(iter(self.histories))
        for name in self.histories:
            row = [name]
            for values in (costs, means):
                own, other = values[name], values[first]
                difference = mean_and_error([a - b for a, b in zip(own, other, strict=True)])
                row += [mean_and_error(own), "" if name == first else difference]
            row += [_milliseconds(self.step_seconds(name)), _seconds(self.seconds_to_goal(name))]
            if self.likelihood_goal is not None:
                row.append(_seconds(self.seconds_to_likelihood(name)))
            rows.append([*row, f"{self.peak_bytes[name] / 2**20:.1f}"])
        return header, rows

    def gradient_table(self) -> str:
        """Returns a Markdown table of each objective's gradients by epoch and part.

        See :class:`pyro_vae.gradients.Gradient` for the columns. ± is the standard error.
        """
        return markdown(*self._gradient_table())

    def _gradient_table(self) -> tuple[list[str], list[list[str]]]:
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
        return header, rows

    def save_csv(self, path: str | Path) -> None:
        """Writes a CSV file with a row for each run, with all digits.

        The seconds of a step are the median over the run's epochs and its quartiles.
        """
        header = ["objective", "seed", "cost", "test_cost", "log_likelihood", "mc_error", "bias"]
        header += ["khat_above", "seconds", "seconds_to_goal", "seconds_to_likelihood_goal"]
        header += ["step_seconds", "step_seconds_25", "step_seconds_75"]
        rows: list[list[object]] = [[*header]]
        for name, histories in self.histories.items():
            results = self.log_likelihoods[name]
            times = zip(self.seconds_to_goal(name), self.seconds_to_likelihood(name), strict=True)
            for seed, h, r, own in zip(self.seeds, histories, results, times, strict=True):
                above = "" if r.khat.isnan().all() else int(r.unreliable.sum())
                ends = [h.cost[-1], h.test_cost[-1], r.mean, r.mc_error, r.bias, above]
                to_goals = ["" if math.isnan(time) else time for time in own]
                low, middle, high = _quartiles(self._steps(h))
                rows.append([name, seed, *ends, sum(h.seconds), *to_goals, middle, low, high])
        write_csv(path, rows)

    def save_curves_csv(self, path: str | Path) -> None:
        """Writes a CSV file with all curves: a row for each epoch of each run, with all digits.

        The columns are those of :class:`~pyro_vae.training.History`, and the log-likelihood of the
        test set, which is empty at the epochs at which it was not estimated.
        """
        every = [h for runs in self.histories.values() for h in runs]
        columns = [c for c in dict.fromkeys(c for h in every for c in h) if c != "epoch"]
        rows: list[list[object]] = [["objective", "seed", "epoch", *columns, "log_likelihood"]]
        for name, histories in self.histories.items():
            curves = zip(self.seeds, histories, self._likelihoods(name), strict=True)
            for seed, history, means in curves:
                for row in history.rows():
                    epoch = int(row["epoch"])
                    values = [row.get(column, "") for column in columns]
                    rows.append([name, seed, epoch, *values, means.get(epoch, "")])
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
        """Plots the mean and range of the test -ELBO over seeds against the epoch.

        Beside it are the log-likelihoods, see :meth:`plot_likelihoods`: objectives whose bounds
        differ may have the same.

        Arguments:
            ax: The matplotlib axes to draw the test -ELBO on, alone; None makes a new figure with
                both.

        Returns:
            The axes of the test -ELBO.
        """
        if ax is None:
            ax, beside = panels()
            self.plot_likelihoods(beside)
        curves = {name: [h.test_cost for h in runs] for name, runs in self.histories.items()}
        epochs = next(iter(self.histories.values()))[0].epoch
        return bands(epochs, curves, "test −ELBO in nats per example", ax=ax)

    def plot_likelihoods(self, ax: "Axes | None" = None) -> "Axes":
        """Plots the log-likelihood of the test set after training, and the ELBO, by objective.

        Both are of the same x and the same importance samples. Their distance is what the
        posterior loses, KL(q, p(z|x)), or less where the samples are too few.

        Arguments:
            ax: The matplotlib axes to draw on; None makes a new figure.
        """
        values = {
            name: {
                "ELBO": [r.elbo.mean().item() for r in results],
                "log-likelihood": [r.mean for r in results],
            }
            for name, results in self.log_likelihoods.items()
        }
        what = "test set" if self.pixels is None else f"test set, {self.pixels} pixels"
        return dots(values, f"nats per example ({what})", ax=ax)

    def plot_likelihood_curves(self, ax: "Axes | None" = None) -> "Axes":
        """Plots the mean and range of the log-likelihood over seeds against the epoch.

        Arguments:
            ax: The matplotlib axes to draw on; None makes a new figure.
        """
        runs = {name: self._likelihoods(name) for name in self.histories}
        points = sorted(next(iter(runs.values()))[0])
        curves = {name: [[m[p] for p in points] for m in own] for name, own in runs.items()}
        return bands(points, curves, "test log-likelihood in nats per example", ax=ax)

    def plot_gradients(self, part: str = "encoder", ax: "Axes | None" = None) -> "Axes":
        """Plots the signal-to-noise ratio of each objective's gradient against the epoch.

        Arguments:
            part: ``"encoder"`` or ``"decoder"``.
            ax: The matplotlib axes to draw on; None makes a new figure.
        """
        if part not in ("encoder", "decoder"):
            raise ValueError(f"part: got {part!r}, expected 'encoder' or 'decoder'")
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

    def _repr_html_(self) -> str:
        names, done = len(self.histories), "" if self.complete else "; interrupted"
        return html.block(
            f"Comparison of {names} objectives on {len(self.seeds)} seeds",
            html.table(*self._table()),
            f"nats per example, mean ± standard error over seeds{done}",
            self.doubt,
            html.details("gradients", html.table(*self._gradient_table(), left=2)),
        )


def _quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """The lower quartile, the median and the upper quartile; of one number it is that number."""
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


def _milliseconds(seconds: Sequence[float]) -> str:
    """Formats the median in milliseconds, with the quartiles if there are several."""
    low, middle, high = (f"{1e3 * value:.2f}" for value in _quartiles(seconds))
    return f"{middle} ({low}–{high})" if len(seconds) > 1 else middle


def _seconds(times: Sequence[float]) -> str:
    """Formats the mean over the runs that reached the goal, and their number if not all did."""
    reached = [t for t in times if not math.isnan(t)]
    if not reached:
        return "not reached"
    mean = f"{sum(reached) / len(reached):.1f}"
    return mean if len(reached) == len(times) else f"{mean} ({len(reached)} of {len(times)})"
