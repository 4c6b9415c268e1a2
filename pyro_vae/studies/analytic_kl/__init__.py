"""The closed-form KL and its neighbours: what each estimator of the ELBO does to gradients.

All VAEs have 200-200 tanh networks (``iwae-mlp``) and are trained on binarized pixels by ``fit``'s
defaults.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pyro.infer import ELBO

from pyro_vae import VAE, gradients, objectives, presets
from pyro_vae.studies.analytic_kl import results
from pyro_vae.studies.analytic_kl.results import (
    ANALYTIC,
    KINDS,
    LANDING,
    NOISE,
    PLAIN,
    SAMPLES,
    SIGNAL,
    STARVED,
    STICKING,
    TRACE,
)
from pyro_vae.studies.engine import (
    Document,
    Measured,
    Say,
    Study,
    compared,
    gradients_along,
    linear_gaussian,
)

SETTINGS = {
    PLAIN: (50, 1, 128),
    "10 latents": (10, 1, 128),
    "2 latents": (2, 1, 128),
    "L = 16": (50, 16, 128),
    "batch 32": (50, 1, 32),
    "batch 512": (50, 1, 512),
}
"""Latents, particles and batch size of the comparisons."""
DISTANCES = (1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.0)
"""Distances of the guide from the exact posterior in the row :data:`LANDING`."""


@dataclass
class AnalyticKL(Study[Measured]):
    """When the closed-form KL helps, and what the other estimators do to gradients."""

    data: str = "digits"
    epochs: int = 40
    seeds: Annotated[int, "Runs of each objective, on seeds 0, 1, ..."] = 5
    num_samples: int = 500
    draws: Annotated[int, "Gradients of each objective at each point."] = 400
    out: Path | None = Path("docs/analytic_kl")

    folder, text = "", "results.md"

    def __post_init__(self) -> None:
        super().__post_init__()
        gradients.check_draws(self.draws)

    @property
    def kind(self) -> type[Measured]:
        """The class of the rows."""
        return Measured

    def names(self) -> Sequence[str]:
        """Returns the comparisons, and the measurements of gradients."""
        return [*SETTINGS, NOISE, SIGNAL, STARVED, LANDING]

    def points(self) -> list[int]:
        """Returns the epochs after which gradients are measured."""
        return sorted({p for p in (0, 1, 2, 5, 10, 20) if p < self.epochs} | {self.epochs})

    def losses(self, name: str) -> dict[str, ELBO]:
        """Returns the objectives of a row."""
        three = (TRACE, ANALYTIC, STICKING)
        if name == STARVED:
            texts = {text: text for text in (TRACE, "iwae:16", "dreg:16")}
        elif name == SIGNAL:
            texts = {f"{kind}:{k}": f"{kind}:{k}" for kind in KINDS for k in SAMPLES}
        else:
            texts = {text: f"{text}:{SETTINGS.get(name, SETTINGS[PLAIN])[1]}" for text in three}
        return {name: objectives.parse(text) for name, text in texts.items()}

    def run(self, name: str, say: Say = print) -> Measured:
        """Compares objectives, or measures gradients along the first run of :data:`PLAIN`."""
        settings, losses = self.settings(name), self.losses(name)
        z_dim, _, batch = SETTINGS.get(name, SETTINGS[PLAIN])

        def make() -> VAE:
            return presets.build("iwae-mlp", z_dim=z_dim, shape=self.train.shape[1:])

        if name in SETTINGS or name == STARVED:
            return compared(name, settings, make, self.train, self.test, losses,
                            batch_size=batch, points=self.points(), say=say,
                            keep=self.runs(name))  # fmt: skip
        if name == NOISE:
            found = gradients_along(make, self.train, losses, epochs=self.points(),
                                    draws=self.draws, batch_size=batch)  # fmt: skip
        elif name == SIGNAL:
            draws = max(gradients.MIN_DRAWS, self.draws // 4)  # each takes far longer
            found = gradients_along(make, self.train, losses, epochs=sorted({1, self.epochs}),
                                    draws=draws, examples=batch)  # fmt: skip
        else:
            model, found = linear_gaussian(batch), {}
            for distance in DISTANCES:
                model.move(distance)
                found[distance] = gradients.measure(model.vae, model.x, losses, self.draws)
        return Measured(name, settings, {}, {}, found)

    def document(self, rows: Mapping[str, Measured | None]) -> Document:
        """Writes `results.md` and its figures."""
        return results.document(
            rows,
            f"{len(self.train):,} training and {len(self.test):,} test images, binarized, 200-200 "
            f"tanh networks, Adam at 1e-3, {self.epochs} epochs, {self.seeds} seeds, {self.draws} "
            "draws of each gradient.",
        )
