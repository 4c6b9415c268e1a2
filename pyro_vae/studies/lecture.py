"""The lecture's table of 30 epochs beside the one that this code obtains."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pyro_vae import fit, plots, presets
from pyro_vae.studies.engine import Csv, Document, Figure, Say, Study, Trained, built, table

# The cost and the "marginal loss" that the lecture prints for each of its 30 epochs.
LECTURE_COST = (
    194.301066, 174.079783, 167.898686, 164.027869, 161.095172, 158.553618, 156.734835, 154.952288,
    153.715869, 152.372941, 151.515469, 150.451680, 149.507392, 148.735459, 148.086341, 147.483025,
    146.752482, 146.202709, 145.596251, 145.088583, 144.735438, 144.253896, 143.803326, 143.371096,
    142.929504, 142.609865, 142.218333, 142.027780, 141.657676, 141.207189,
)  # fmt: skip
LECTURE_RECONSTRUCTION = (
    189.529322, 167.888371, 161.232583, 157.060536, 153.902977, 151.199170, 149.221140, 147.309565,
    146.000891, 144.552083, 143.636646, 142.510940, 141.502457, 140.662199, 139.966753, 139.324004,
    138.548264, 137.958504, 137.324189, 136.783128, 136.368010, 135.879318, 135.387492, 134.918396,
    134.455940, 134.104701, 133.703764, 133.479317, 133.075992, 132.616276,
)  # fmt: skip
Z_DIM = 2
LECTURE_EXCESS = float(Z_DIM)
"""How much the lecture's costs are too high, in nats.

Its code has +1 where the closed form has -1 in each half KL term: one nat a latent dimension.
"""


@dataclass
class Lecture(Study[Trained]):
    """The lecture's 30 epochs on MNIST: its table and curve beside ours."""

    epochs: int = 30
    seeds: Annotated[int, "Runs, on seeds 0, 1, ..."] = 3

    folder, text = "lecture", "lecture.md"

    @property
    def kind(self) -> type[Trained]:
        """The class of the rows."""
        return Trained

    def names(self) -> Sequence[str]:
        """Returns a name for each seed."""
        return [f"seed {seed}" for seed in range(self.seeds)]

    def settings(self, name: str) -> dict[str, Any]:
        """Returns what a row depends on."""
        return {**self.hashes, "epochs": self.epochs, "seed": self.names().index(name)}

    def run(self, name: str, say: Say = print) -> Trained:
        """Trains the lecture's VAE as the lecture does."""
        settings = self.settings(name)
        seed, shape = settings["seed"], self.train.shape[1:]
        vae = built(
            lambda: presets.build("bernoulli-mlp", z_dim=Z_DIM, shape=shape, pixels="grey"), seed
        )
        history = fit(
            vae, self.train, test=self.test, epochs=self.epochs, pixels="grey", seed=seed
        )
        if history.ended == "interrupted":
            raise KeyboardInterrupt
        return Trained(name, settings, history)

    def table(self, rows: Mapping[str, Trained | None], every: int = 5) -> str:
        """Returns the lecture's columns beside ours: means over seeds, nats per example."""
        done = [row.history for row in rows.values() if row is not None]

        def mean(column: str, epoch: int) -> float:
            return sum(history[column][epoch - 1] for history in done) / len(done)

        def printed(column: Sequence[float], epoch: int) -> str:
            return f"{column[epoch - 1]:.2f}" if epoch <= len(column) else ""

        last = self.epochs
        epochs = [e for e in range(1, last + 1) if e == 1 or e == last or e % every == 0]
        return table(
            "epoch",
            [(str(epoch), epoch) for epoch in epochs],
            {
                "lecture: cost": lambda e: printed(LECTURE_COST, e),
                "here: cost + 2": lambda e: f"{mean('cost', e) + LECTURE_EXCESS:.2f}",
                "lecture: reconstruction": lambda e: printed(LECTURE_RECONSTRUCTION, e),
                "here: reconstruction": lambda e: f"{mean('reconstruction', e):.2f}",
                "here: test −ELBO": lambda e: f"{mean('test_cost', e):.2f}",
            },
        )

    def document(self, rows: Mapping[str, Trained | None]) -> Document:
        """Writes `lecture.md`, `.csv` and `.png`."""
        done = {row.settings["seed"]: row.history for row in rows.values() if row is not None}
        epochs = next(iter(done.values())).epoch
        finals = ", ".join(
            f"{history.cost[-1] + LECTURE_EXCESS:.2f} (seed {seed})"
            for seed, history in done.items()
        )
        beyond = [math.nan] * (len(epochs) - len(LECTURE_COST))
        curves = {
            "lecture: cost": [[*LECTURE_COST[: len(epochs)], *beyond]],
            "here: cost + 2 (mean and range of seeds)": [
                [cost + LECTURE_EXCESS for cost in history.cost] for history in done.values()
            ],
        }
        label = "training cost in nats per example"
        return Document(
            "The lecture's training, reproduced",
            f"preset `bernoulli-mlp`, {Z_DIM} latents, grey pixels, batch 128, Adam at 1e-3, "
            f"{len(done)} seeds. Numbers are nats per example, means over seeds. The lecture's "
            "code adds one nat per latent dimension to the KL (+1 in place of -1), so 2 is added "
            "to our training cost to compare it with the lecture's column. The test −ELBO is the "
            "true one, without it.",
            self.table(rows),
            f"Cost + 2 after epoch {self.epochs}: {finals}; "
            f"the lecture's after epoch 30: {LECTURE_COST[-1]:.2f}.",
            Csv(
                "lecture",
                ["seed", *next(iter(done.values()))],
                [[s, *row.values()] for s, history in done.items() for row in history.rows()],
            ),
            Figure(
                "lecture",
                "Training cost by epoch, here and in the lecture",
                lambda: plots.bands(epochs, curves, label),
            ),
        )
