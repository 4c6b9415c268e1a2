"""The comparison of objectives: the same weights, batches and seeds, and what comes of each."""

import csv
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from pyro.infer import ELBO
from torch import Tensor

from pyro_vae import plots
from pyro_vae.datasets import Pixels
from pyro_vae.evaluation import LogLikelihood, density_draw, log_likelihood
from pyro_vae.history import History
from pyro_vae.objectives import analytic_kl, trace_elbo
from pyro_vae.seeding import seeded
from pyro_vae.tables import markdown
from pyro_vae.training import fit
from pyro_vae.vae import VAE

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True, repr=False)
class Comparison:
    """What :func:`compare` measured, by the name of the objective and in the order of the seeds.

    Attributes:
        seeds: The seeds, the same for each objective.
        histories: The training of each run.
        log_likelihoods: The test set's importance-weighted log-likelihood after each run.
        pixels: The pixels on which the log-likelihood is taken; None where data came as floats.
    """

    seeds: tuple[int, ...]
    histories: Mapping[str, Sequence[History]]
    log_likelihoods: Mapping[str, Sequence[LogLikelihood]]
    pixels: Pixels | None

    def table(self) -> str:
        """Means over seeds in Markdown, and each objective's paired difference from the first.

        In nats per example, and seconds per epoch; ± is the standard error over seeds.
        """
        header = [
            "objective",
            "test −ELBO",
            "log-likelihood",
            "difference",
            "s/epoch",
        ]
        rows = []
        first = [r.mean for r in next(iter(self.log_likelihoods.values()))]
        for place, (name, histories) in enumerate(self.histories.items()):
            likelihoods = [r.mean for r in self.log_likelihoods[name]]
            differences = [a - b for a, b in zip(likelihoods, first, strict=True)]
            epochs = [second for h in histories for second in h.seconds]
            rows.append(
                (
                    name,
                    _mean_and_error([h.test_cost[-1] for h in histories]),
                    _mean_and_error(likelihoods),
                    _mean_and_error(differences) if place else "",
                    f"{sorted(epochs)[len(epochs) // 2]:.2f}",
                )
            )
        return markdown(header, rows)

    def save_csv(self, path: str | Path) -> None:
        """Writes a row a run: what it ended with, all digits kept."""
        with Path(path).open("w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(
                ["objective", "seed", "cost", "test_cost", "log_likelihood", "mc_error", "seconds"]
            )
            for name, histories in self.histories.items():
                for seed, h, r in zip(
                    self.seeds, histories, self.log_likelihoods[name], strict=True
                ):
                    ends = [h.cost[-1], h.test_cost[-1], r.mean, r.mc_error, sum(h.seconds)]
                    writer.writerow([name, seed, *ends])

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Test -ELBO against the epoch: the mean over seeds, and their range."""
        curves = {name: [h.test_cost for h in runs] for name, runs in self.histories.items()}
        epochs = next(iter(self.histories.values()))[0].epoch
        return plots.bands(epochs, curves, "test −ELBO in nats per example", ax=ax)

    def __repr__(self) -> str:
        return self.table()


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
) -> Comparison:
    """Trains with each objective on each seed, and compares what comes out.

    For one seed every objective starts with the same weights and sees the same batches and pixels,
    so their differences are paired.

    Arguments:
        vae_factory: Makes a VAE with new weights; called once a run, inside the run's seed.
        train, test, epochs, batch_size, pixels: As in :func:`pyro_vae.fit`.
        objectives: Pyro ELBOs by name; None is ``trace_elbo`` and ``analytic_kl``.
        seeds: A run for each.
        num_samples: Importance samples for the log-likelihood of the test set, which is drawn
            once, with seed 0, on pixels on which the model has a density.

    Raises:
        ValueError: No objective or no seed; what :func:`pyro_vae.fit` raises.
    """
    if objectives is None:
        objectives = {"trace_elbo": trace_elbo(), "analytic_kl": analytic_kl()}
    for argument, given in (("objectives", objectives), ("seeds", seeds)):
        if not given:
            raise ValueError(f"{argument}: got none, expected at least one")
    histories: dict[str, list[History]] = {name: [] for name in objectives}
    likelihoods: dict[str, list[LogLikelihood]] = {name: [] for name in objectives}
    judged = pixels
    for seed in seeds:
        for name, objective in objectives.items():
            with seeded(seed):
                vae = vae_factory()
            histories[name].append(
                fit(
                    vae,
                    train,
                    test=test,
                    epochs=epochs,
                    batch_size=batch_size,
                    objective=objective,
                    pixels=pixels,
                    seed=seed,
                )
            )
            x = test
            if pixels is not None:
                x, judged = density_draw(vae, test, pixels, seed=0)
            likelihoods[name].append(log_likelihood(vae, x, num_samples, seed=seed))
    return Comparison(tuple(seeds), histories, likelihoods, judged)


def _mean_and_error(values: Sequence[float]) -> str:
    mean = sum(values) / len(values)
    if len(values) == 1:
        return f"{mean:.2f}"
    return f"{mean:.2f} ± {torch.tensor(values).std().item() / math.sqrt(len(values)):.2f}"
