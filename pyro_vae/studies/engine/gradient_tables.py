"""Tables and figures of measured objectives: variances, signal-to-noise ratios, and outcomes.

In each row the first objective is the one that the others are compared with.
"""

from collections.abc import Callable, Mapping, Sequence

from pyro_vae.studies.engine.document import Panel, curves, differences, table
from pyro_vae.studies.engine.measuring import Measured
from pyro_vae.utils.tables import mean_and_error

PARTS = ("encoder", "decoder")


def variance_table(rows: Mapping[str, Measured | None], objectives: Sequence[str]) -> str:
    """Returns the variance of the encoder's gradient by epoch, and what training ends with.

    Arguments:
        rows: Comparisons that have their gradients at the same epochs.
        objectives: The objectives that are compared with the first.
    """
    epochs = next((list(row.gradients) for row in rows.values() if row is not None), [])
    lines: list[tuple[str, tuple[Measured, str] | None]] = []
    for name, row in rows.items():
        made = [None] if row is None else [(row, objective) for objective in objectives]
        lines += [(name, line) for line in made]

    def variance(epoch: float) -> Callable[[tuple[Measured, str]], str]:
        return lambda line: f"{line[0].variance(epoch, line[1]):.3f}"

    def higher(line: tuple[Measured, str]) -> str:
        row, objective = line
        first = next(iter(row.log_likelihood))
        ends = zip(row.log_likelihood[objective], row.log_likelihood[first], strict=True)
        return mean_and_error([a - b for a, b in ends])

    return table(
        "",
        lines,
        {
            "objective": lambda line: line[1],
            **{f"variance, epoch {epoch:.0f}": variance(epoch) for epoch in epochs},
            "test −ELBO lower by": lambda line: mean_and_error(
                [run[-1] for run in line[0].gain(line[1])]
            ),
            "log-likelihood higher by": higher,
        },
    )


def variance_curves(rows: Mapping[str, Measured], objective: str) -> Panel:
    """Returns what draws the variance of the encoder's gradient by epoch, a curve for each row."""
    first = next(iter(rows.values()))
    epochs = list(first.gradients)
    return curves(
        epochs,
        {name: [row.variance(e, objective) for e in epochs] for name, row in rows.items()},
        f"variance of {objective} / {next(iter(first.test_cost))}",
        log=True,
        xscale={"value": "symlog", "linthresh": 1},
        xlim=(0, max(epochs)),
        ticks=True,
        level=1,
    )


def gains(rows: Mapping[str, Measured], objectives: Sequence[str]) -> Panel:
    """Returns what draws how far the test -ELBO ends below the first objective's."""
    first = next(iter(next(iter(rows.values())).test_cost))
    ends = {
        objective: {name: [run[-1] for run in row.gain(objective)] for name, row in rows.items()}
        for objective in objectives
    }
    return differences(ends, f"test −ELBO lower than {first}'s by, nats per example")


def noise_table(step: Measured, batch: Measured, title: str = "epoch") -> str:
    """Returns how much of a step's noise is that of the latents; the rest is of the batches.

    Arguments:
        step: Gradients on random batches.
        batch: Gradients on one batch of as many examples, of the same objectives and epochs.
        title: What the places are.
    """
    objectives = list(next(iter(step.gradients.values())))

    def share(name: str) -> Callable[[float], str]:
        def cell(at: float) -> str:
            own, whole = (r.gradients[at][name]["encoder"].variance for r in (batch, step))
            return f"{100 * own / whole:.0f} %"

        return cell

    def noise(name: str) -> Callable[[float], str]:
        return lambda at: f"{step.variance(at, name):.2f}"

    return table(
        title,
        [(f"{at:.0f}", at) for at in step.gradients],
        {f"{name}: of z": share(name) for name in objectives}
        | {f"{name}: noise of a step": noise(name) for name in objectives[1:]},
    )


def distance_table(row: Measured) -> str:
    """Returns the variance of the encoder's gradient by distance from the exact posterior."""

    def variance(name: str) -> Callable[[float], str]:
        return lambda at: f"{row.gradients[at][name]['encoder'].variance:.3g}"

    objectives = next(iter(row.gradients.values()))
    columns = {f"variance, {name}": variance(name) for name in objectives}
    return table("distance", [(f"{at:g}", at) for at in row.gradients], columns)


def distance_curves(row: Measured) -> Panel:
    """Returns what draws :func:`distance_table`, without the distance 0."""
    distances = [at for at in row.gradients if at > 0]
    values = {
        name: [row.gradients[at][name]["encoder"].variance for at in distances]
        for name in next(iter(row.gradients.values()))
    }
    label, xlabel = "variance of the guide's gradient", "distance from the posterior"
    return curves(distances, values, label, xlabel=xlabel, log=True, xscale={"value": "log"})


def signal_table(row: Measured, kinds: Sequence[str], samples: Sequence[int]) -> str:
    """Returns signal-to-noise ratios by number of importance samples.

    Arguments:
        row: Gradients of the objectives ``"kind:k"``.
        kinds: The bounds.
        samples: The values of k.
    """

    def ratio(k: int) -> Callable[[tuple[float, str, str]], str]:
        def cell(line: tuple[float, str, str]) -> str:
            epoch, part, kind = line
            return f"{row.gradients[epoch][f'{kind}:{k}'][part].snr:.2f}"

        return cell

    return table(
        "epoch",
        [
            (f"{epoch:.0f}", (epoch, part, kind))
            for epoch in row.gradients
            for part in PARTS
            for kind in kinds
        ],
        {
            "part": lambda line: line[1],
            "objective": lambda line: line[2],
            **{f"k = {k}": ratio(k) for k in samples},
        },
    )


def signal_curves(row: Measured, kinds: Sequence[str], samples: Sequence[int], part: str) -> Panel:
    """Returns what draws :func:`signal_table` for one part."""
    values = {
        f"{kind}, epoch {epoch:.0f}": [by_name[f"{kind}:{k}"][part].snr for k in samples]
        for epoch, by_name in row.gradients.items()
        for kind in kinds
    }
    label, scale = f"signal / noise of the {part}'s gradient", {"value": "log", "base": 4}
    xlabel = "importance samples k"
    return curves(samples, values, label, xlabel=xlabel, xscale=scale, ylim=(0, None), ticks=True)


def gap_table(row: Measured) -> str:
    """Returns the log-likelihood, the ELBO and the gap between them by objective."""
    return table(
        "objective",
        [(name, name) for name in row.log_likelihood],
        {
            "log-likelihood": lambda name: mean_and_error(row.log_likelihood[name]),
            "ELBO": lambda name: mean_and_error(row.elbo[name]),
            "gap": lambda name: mean_and_error(row.gap(name)),
        },
    )
