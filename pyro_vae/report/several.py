"""Several runs side by side, with paired differences where their data are the same."""

from collections.abc import Sequence

from pyro_vae.report import charts
from pyro_vae.report.evidence import Evidence
from pyro_vae.report.parts import Chart, Lines, Part, Section, Table, Text
from pyro_vae.report.sections import explore, pictures

__all__ = ["side_by_side"]


def side_by_side(runs: Sequence[Evidence], seed: int | None, data: bool) -> list[Section]:
    """The sections of a page of several runs.

    Arguments:
        runs: The runs; the others are compared with the first.
        seed: Fixes the new examples.
        data: Whether the page has examples of the data.
    """
    found = [Section("summary", "Side by side", [_table(runs), *_differences(runs)])]
    histories = {run.name: h for run in runs if (h := run.history) and h.get("epoch")}
    if histories:
        costs, kl = charts.curves(histories)
        words = "Costs by epoch, in nats per example, of each run."
        parts = [
            Chart("costs", costs, words, words),
            Chart("kl", kl, "The KL of each run.", "KL by epoch."),
        ]
        found.append(Section("training", "Training", parts))
    last = {run.name: run.scores[-1] for run in runs if run.scores}
    bounds = {
        name: (score.sizes, score.bounds, score.errors)
        for name, score in last.items()
        if score.num_samples > 1
    }
    if bounds:
        words = "The mean of L_k by the number of samples k, of each run."
        chart = Chart("bounds", charts.bounds(bounds), words, words)
        found.append(Section("likelihood", "Log-likelihood", [chart]))
    for place, run in enumerate(runs, 1):
        shown = [part for section in pictures(run, seed, data) for part in section.parts]
        live = explore(run, f"explorer-{place}").parts
        found.append(Section(f"run-{place}", run.name, [Lines(run.about), *live, *shown]))
    return found


def _table(runs: Sequence[Evidence]) -> Table:
    rows = []
    for run in runs:
        score, seen = run.scores[-1] if run.scores else None, run.seen
        rows.append(
            (
                run.name,
                *(
                    ("", "", "")
                    if score is None
                    else (
                        f"{score.mean:.2f} ± {score.stderr:.2f}",
                        score.how,
                        "take care" if score.doubt else "yes",
                    )
                ),
                "" if seen is None else f"{seen.bound.mean:.2f}",
                "" if seen is None else f"{seen.bound.kl_mean:.2f}",
                "" if seen is None or seen.units is None else f"{seen.units.count}",
                "" if run.history is None else f"{len(run.history.get('epoch', ()))}",
            )
        )
    header = ["run", "log p(x)", "samples", "trusted", "ELBO", "KL", "active latents", "epochs"]
    return Table("In nats per example", header, rows)


def _differences(runs: Sequence[Evidence]) -> list[Part]:
    """The mean paired difference of each run from the first, where both scored the same data."""
    first, *others = runs
    rows, apart = [], []
    for run in others:
        # The newest scores of the same data: a run may have others, as of fewer examples.
        pairs = [(own, base) for own in reversed(run.scores) for base in reversed(first.scores)]
        found = ((own, base, own.above(base)) for own, base in pairs)
        own, base, gain = next((each for each in found if each[2]), (None, None, None))
        if not pairs:
            apart.append(f"{run.name} is not compared: a log-likelihood is missing.")
        elif own is None or base is None or gain is None:
            apart.append(
                f"{run.name} is not subtracted from {first.name}: they were scored on other data."
            )
        else:
            how = own.how if own.how == base.how else f"{own.how}, and {base.how}"
            rows.append(
                (run.name, f"{gain[0]:+.2f}", f"{gain[1]:.2f}", f"{len(own.values):,}", how)
            )
    header = ["run", f"above {first.name}", "std. error", "examples", "samples"]
    table = Table("Paired differences in log p(x) of the same examples, in nats", header, rows)
    return [*([table] if rows else []), *(Text(text, "doubt") for text in apart)]
