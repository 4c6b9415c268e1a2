"""The result of a comparison: tables, files and figures."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING

from pyro_vae.datasets import Pixels
from pyro_vae.evaluation import LogLikelihood
from pyro_vae.gradients import Gradient
from pyro_vae.plots import bands
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
        return markdown(*self._table())

    def _table(self) -> tuple[list[str], list[list[str]]]:
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

    def _repr_html_(self) -> str:
        names, done = len(self.histories), "" if self.complete else "; interrupted"
        return html.block(
            f"Comparison of {names} objectives on {len(self.seeds)} seeds",
            html.table(*self._table()),
            f"nats per example, mean ± standard error over seeds{done}",
            self.doubt,
            html.details("gradients", html.table(*self._gradient_table(), left=2)),
        )


def _seconds(times: Sequence[float]) -> str:
    """Formats the mean over the runs that reached the goal, and their number if not all did."""
    reached = [t for t in times if not math.isnan(t)]
    if not reached:
        return "not reached"
    mean = f"{sum(reached) / len(reached):.1f}"
    return mean if len(reached) == len(times) else f"{mean} ({len(reached)} of {len(times)})"
