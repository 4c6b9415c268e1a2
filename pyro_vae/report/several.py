"""Several runs side by side, with paired differences where their data are the same."""

import math
from collections.abc import Sequence

from pyro_vae.report import charts
from pyro_vae.report.evidence import Evidence, Score
from pyro_vae.report.page import Chart, Lines, Part, Section, Table, Text
from pyro_vae.report.sections import pictures

__all__ = ["side_by_side"]


def side_by_side(runs: Sequence[Evidence], data: bool = True) -> list[Section]:
    """The sections of a page of several runs.

    Arguments:
        runs: The runs; the others are compared with the first.
        data: Whether the page has examples of the data.
    """
    found = [Section("summary", "Side by side", [_table(runs), *_differences(runs)])]
    histories = {run.name: run.history for run in runs if run.history is not None}
    if histories:
        costs, kl = charts.curves(histories)
        words = "Costs by epoch, in nats per example, of each run."
        parts = [Chart(costs, words, words), Chart(kl, "The KL of each run.", "KL by epoch.")]
        found.append(Section("training", "Training", parts))
    bounds = {
        run.name: (score.sizes, score.bounds, score.errors)
        for run in runs
        if (score := _last(run)) is not None and score.num_samples > 1
    }
    if bounds:
        words = "The mean of L_k by the number of samples k, of each run."
        chart = Chart(charts.bounds(bounds), words, words)
        found.append(Section("likelihood", "Log-likelihood", [chart]))
    for place, run in enumerate(runs):
        own: list[Part] = [Lines(list(run.about.items()))]
        for section in pictures(run, data=data):
            own += section.parts
        found.append(Section(f"run-{place + 1}", run.name, own))
    return found


def _last(run: Evidence) -> Score | None:
    return run.scores[-1] if run.scores else None


def _table(runs: Sequence[Evidence]) -> Table:
    rows = []
    for run in runs:
        score, bound = _last(run), run.bound
        history = run.history
        rows.append(
            (
                run.name,
                "" if score is None else f"{score.mean:.2f} ± {score.stderr:.2f}",
                "" if score is None else ("take care" if score.doubt else "yes"),
                "" if bound is None else f"{bound.mean:.2f}",
                "" if bound is None else f"{bound.kl_mean:.2f}",
                "" if run.units is None else f"{run.units.count}",
                "" if history is None else str(len(history)),
            )
        )
    header = ["run", "log p(x)", "trusted", "ELBO", "KL", "active latents", "epochs"]
    return Table("In nats per example", header, rows)


def _differences(runs: Sequence[Evidence]) -> list[Part]:
    """The mean paired difference of each run from the first, where both scored the same data."""
    first, rows, parts = _last(runs[0]), [], []
    for run in runs[1:]:
        score = _last(run)
        if first is None or score is None:
            parts.append(Text(f"{run.name} is not compared: a log-likelihood is missing."))
        elif score.data_hash != first.data_hash or len(score.values) != len(first.values):
            parts.append(
                Text(
                    f"{run.name} is not subtracted from {runs[0].name}: they were scored on other "
                    "data.",
                    "doubt",
                )
            )
        else:
            gain = (score.values - first.values).double()
            error = gain.std().item() / math.sqrt(len(gain))
            rows.append((run.name, f"{gain.mean().item():+.2f}", f"{error:.2f}"))
    header = ["run", f"above {runs[0].name}", "std. error"]
    caption = "Paired differences in log p(x) over the same examples, in nats"
    return [*([Table(caption, header, rows)] if rows else []), *parts]
