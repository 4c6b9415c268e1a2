"""The tables, figures and text of the study of the closed-form KL."""

from collections.abc import Mapping

from pyro_vae.studies.engine import (
    Document,
    Figure,
    Measured,
    distance_curves,
    distance_table,
    gains,
    gap_table,
    given,
    noise_table,
    panels,
    signal_curves,
    signal_table,
    variance_curves,
    variance_table,
)

TRACE, ANALYTIC, STICKING = "trace_elbo", "analytic_kl", "sticking_the_landing"
OTHERS = (ANALYTIC, STICKING)
KINDS, SAMPLES = ("iwae", "dreg"), (1, 4, 16, 64)
"""Bounds, and importance samples, of which gradients are measured."""
PLAIN = "50 latents, L = 1, batch 128"
NOISE, SIGNAL, STARVED, LANDING = "noise of a step", "signal", "starved encoder", "landing"
"""The rows that are no comparisons of :data:`OTHERS`."""

Blocks = list[str | Figure]


def document(rows: Mapping[str, Measured | None], made: str) -> Document:
    """Writes up the rows that there are; `made` says how."""
    return Document(
        "The closed-form KL and its neighbours: the measurements",
        f"{made} Numbers are nats per example, ± the standard error over seeds; differences are "
        "paired by seed, from trace_elbo. A variance is that of one draw of the encoder's "
        "gradient on one batch, relative to trace_elbo's at the same parameters, those of its "
        "first run. "
        "[analytic_kl.md](../analytic_kl.md) explains the results.",
        "## Latents, particles and batches",
        *comparisons(rows),
        "## How much of a step's noise is of z",
        *given(rows, (NOISE, PLAIN), noise),
        "## Near the exact posterior",
        *given(rows, (LANDING,), landing),
        "## Importance-weighted bounds",
        *given(rows, (SIGNAL,), signal, missing="Signal: not run."),
        *given(rows, (STARVED,), starved, missing="Starved encoder: not run."),
    )


def comparisons(rows: Mapping[str, Measured | None]) -> Blocks:
    """Returns variances by epoch, and what the trainings end with."""
    rows = {n: row for n, row in rows.items() if n not in (NOISE, SIGNAL, STARVED, LANDING)}
    done = {name: row for name, row in rows.items() if row is not None}
    blocks: Blocks = [variance_table(rows, OTHERS)]
    if done:
        variances = panels(*(variance_curves(done, objective) for objective in OTHERS))
        blocks += [
            Figure("variance", "Variance of the encoder's gradient by epoch", variances),
            Figure("gain", "Gain in test −ELBO at the end", panels(gains(done, OTHERS))),
        ]
    return blocks


def noise(step: Measured, batch: Measured) -> Blocks:
    """Returns how much of a step's noise the latents make."""
    return [
        "The variance of the encoder's gradient on one batch, in per cent of its variance over "
        "random batches of as many examples; and the latter relative to trace_elbo's.",
        noise_table(step, batch),
    ]


def landing(row: Measured) -> Blocks:
    """Returns variances by distance from the exact posterior."""
    return [
        "A linear-Gaussian VAE. The parameters of its guide lie on the line from random ones "
        "(distance 1) to those of the exact posterior (0).",
        distance_table(row),
        Figure("landing", "Variance by distance", panels(distance_curves(row))),
    ]


def signal(row: Measured) -> Blocks:
    """Returns signal-to-noise ratios by the number of importance samples."""
    draws = [signal_curves(row, KINDS, SAMPLES, part) for part in ("encoder", "decoder")]
    return [
        "Signal-to-noise ratio (the length of the mean gradient over the root of the variance) "
        "at the parameters of trace_elbo's first run, from a quarter as many draws.",
        signal_table(row, KINDS, SAMPLES),
        Figure("signal", "Signal-to-noise ratio by importance samples", panels(*draws)),
    ]


def starved(row: Measured) -> Blocks:
    """Returns what the guide is worth after training with importance-weighted bounds."""
    return [
        "Trained with each objective, with 16 samples. The gap is how far the guide's ELBO is "
        "below the log-likelihood, on the same draw of the test images.",
        gap_table(row),
    ]
