"""Rows of comparisons between objectives, and of what their gradients are."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from pyro.infer import ELBO
from torch import Tensor

from pyro_vae import gradients
from pyro_vae.comparison import compare
from pyro_vae.datasets import to_pixels
from pyro_vae.evaluation import LogLikelihood
from pyro_vae.gradients import Gradient
from pyro_vae.pair import Pair
from pyro_vae.studies.engine.rows import Row
from pyro_vae.studies.engine.study import Say
from pyro_vae.training import History, fit
from pyro_vae.utils.files import number
from pyro_vae.utils.random import seeded
from pyro_vae.vae import VAE

Gradients = Mapping[float, Mapping[str, Mapping[str, Gradient]]]
"""Gradients by epoch (or another place), objective and part."""


@dataclass(frozen=True)
class Measured(Row):
    """What became of some objectives; numbers are nats per example.

    Attributes:
        test_cost: The test -ELBO after each epoch, by objective, a list for each seed.
        log_likelihood: The test log-likelihood at the end, by objective, for each seed.
        gradients: By epoch (or another place), objective and part.
        elbo: The ELBO of the same draw of test pixels as `log_likelihood`.
    """

    test_cost: Mapping[str, Sequence[Sequence[float]]]
    log_likelihood: Mapping[str, Sequence[float]]
    gradients: Gradients
    elbo: Mapping[str, Sequence[float]] = field(default_factory=dict)

    @property
    def outcome(self) -> str:
        """The mean test -ELBO at the end by objective; else how many gradients there are."""
        if not self.test_cost:
            count = len(self.gradients)
            return f"gradients at {count} point{'s' * (count > 1)}"
        ends = {
            name: sum(run[-1] for run in runs) / len(runs) for name, runs in self.test_cost.items()
        }
        return "test -ELBO " + ", ".join(f"{mean:.2f} ({name})" for name, mean in ends.items())

    def variance(self, at: float, objective: str, part: str = "encoder") -> float:
        """Returns the variance of one draw of a gradient, relative to the first objective's."""
        by_name = self.gradients[at]
        first = next(iter(by_name))
        return by_name[objective][part].variance / by_name[first][part].variance

    def gain(self, objective: str) -> list[list[float]]:
        """Returns how far the test -ELBO is below the first objective's, by seed and epoch."""
        first = self.test_cost[next(iter(self.test_cost))]
        return [
            [a - b for a, b in zip(one, other, strict=True)]
            for one, other in zip(first, self.test_cost[objective], strict=True)
        ]

    def gap(self, objective: str) -> list[float]:
        """Returns how far the ELBO is below the log-likelihood, by seed."""
        ends = zip(self.log_likelihood[objective], self.elbo[objective], strict=True)
        return [a - b for a, b in ends]

    def record(self) -> dict[str, Any]:
        """Returns all attributes, costs to four digits after the point, gradients to six."""
        return {
            "name": self.name,
            "settings": self.settings,
            "test_cost": {
                name: [[round(cost, 4) for cost in run] for run in runs]
                for name, runs in self.test_cost.items()
            },
            "log_likelihood": self.log_likelihood,
            "elbo": self.elbo,
            "gradients": {
                at: {
                    name: {part: _rounded(gradient) for part, gradient in by_part.items()}
                    for name, by_part in by_name.items()
                }
                for at, by_name in self.gradients.items()
            },
        }

    @classmethod
    def read(cls, record: dict[str, Any]) -> Self:
        """Makes the row from its record."""
        record["gradients"] = {
            float(at): {
                name: {
                    part: Gradient(**{key: number(value) for key, value in numbers.items()})
                    for part, numbers in by_part.items()
                }
                for name, by_part in by_name.items()
            }
            for at, by_name in record["gradients"].items()
        }
        return cls(**record)


def _rounded(gradient: Gradient) -> dict[str, float]:
    return {name: float(f"{value:.6g}") for name, value in asdict(gradient).items()}


def compared(
    name: str,
    settings: Mapping[str, Any],
    make: Callable[[], VAE],
    train: Tensor,
    test: Tensor,
    losses: Mapping[str, ELBO],
    *,
    batch_size: int,
    points: Sequence[int],
    say: Say,
    keep: Path | None = None,
) -> Measured:
    """Trains with each objective on each seed, on binarized pixels.

    Arguments:
        name: The name of the row.
        settings: Of the row, with epochs, seeds, num_samples and draws.
        make: Makes a VAE.
        train, test: uint8 levels of shape ``(N, *x_shape)``.
        losses: The objectives by name.
        batch_size: Examples in a step.
        points: The epochs after which gradients are measured.
        say: Prints the outcome of each training.
        keep: The folder in which each training is kept, see :func:`compare`.
    """

    def on_run(objective: str, seed: int, history: History, result: LogLikelihood) -> None:
        say(
            f"{name}: {objective}, seed {seed}: test -ELBO {history.test_cost[-1]:.2f}, "
            f"log-likelihood {result.mean:.2f}, {sum(history.seconds):.0f} s"
        )

    result = compare(
        make,
        train,
        test,
        losses,
        range(settings["seeds"]),
        epochs=settings["epochs"],
        batch_size=batch_size,
        pixels="binary",
        num_samples=settings["num_samples"],
        draws=settings["draws"],
        gradient_epochs=points,
        on_run=on_run,
        keep=keep,
    )
    if not result.complete:
        raise KeyboardInterrupt
    return Measured(
        name,
        dict(settings),
        {n: [h.test_cost for h in runs] for n, runs in result.histories.items()},
        {n: [r.mean for r in runs] for n, runs in result.log_likelihoods.items()},
        {float(epoch): by_name for epoch, by_name in result.gradients.items()},
        {n: [r.elbo.mean().item() for r in runs] for n, runs in result.log_likelihoods.items()},
    )


def gradients_along(
    make: Callable[[], VAE],
    train: Tensor,
    losses: Mapping[str, ELBO],
    *,
    epochs: Sequence[int],
    draws: int,
    examples: int | None = None,
    batch_size: int | None = None,
) -> Gradients:
    """Measures gradients during a training on the ELBO, on binarized pixels and seed 0.

    Arguments:
        make: Makes the VAE.
        train: uint8 levels of shape ``(N, *x_shape)``.
        losses: The objectives by name.
        epochs: After which they are measured; the training ends with the last.
        draws: Gradients of each objective.
        examples: The first so many images are the one batch that gradients are of; None is all.
        batch_size: Each draw has a random batch of so many; None is all in each.
    """
    with seeded(0):
        vae = make()
        x = to_pixels(train[:examples], "binary")
    found: dict[float, Mapping[str, Mapping[str, Gradient]]] = {}

    def measure(epoch: int) -> None:
        found[float(epoch)] = gradients.measure(vae, x, losses, draws, batch_size=batch_size)

    def watch(vae: Pair, history: History) -> None:
        if history.epoch[-1] in epochs:
            measure(int(history.epoch[-1]))

    if 0 in epochs:
        measure(0)
    history = fit(vae, train, epochs=max(epochs), pixels="binary", seed=0, callbacks=[watch])
    if history.ended == "interrupted":
        raise KeyboardInterrupt
    return found
