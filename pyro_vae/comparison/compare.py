"""The comparison itself: the runs of all objectives on all seeds, one after the other."""

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch
from pyro.infer import ELBO
from torch import nn

from pyro_vae.comparison.along import LikelihoodAlong, likelihood_points
from pyro_vae.comparison.kept import (
    LIKELIHOOD_EPOCHS,
    KeptRuns,
    Key,
    Run,
    described_data,
    described_pair,
)
from pyro_vae.comparison.measured import Measured
from pyro_vae.comparison.result import Comparison
from pyro_vae.datasets import Pixels
from pyro_vae.evaluation import LogLikelihood, density_draw, estimated
from pyro_vae.gradients import check_draws, check_objectives
from pyro_vae.objectives import analytic_kl, described, trace_elbo
from pyro_vae.pair import Pair, check_pair
from pyro_vae.training import Callback, History, fit
from pyro_vae.utils.checks import (
    check_count,
    check_examples,
    check_function,
    check_index,
    check_number,
    check_path,
    check_seed,
    check_values,
    kind,
    plain,
)
from pyro_vae.utils.context import Batch, as_batch, rows
from pyro_vae.utils.processes import processes_of
from pyro_vae.utils.random import seeded

__all__ = ["OnRun", "compare"]

OnRun = Callable[[str, int, History, LogLikelihood], object]
"""Called after each run that was trained, with the objective's name, the seed, its history and
log-likelihood."""


def compare(
    vae_factory: Callable[[], Pair],
    train: Batch,
    test: Batch,
    objectives: Mapping[str, ELBO] | None = None,
    seeds: Sequence[int] = (0, 1, 2),
    *,
    epochs: int,
    batch_size: int = 128,
    pixels: Pixels | None = None,
    num_samples: int = 1000,
    draws: int = 100,
    gradient_epochs: Sequence[int] | None = None,
    goal: float | None = None,
    likelihood_goal: float | None = None,
    likelihood_epochs: Sequence[int] | None = None,
    on_run: OnRun | None = None,
    keep: str | Path | None = None,
) -> Comparison:
    """Trains a VAE with each objective on each seed, and compares the results.

    On each seed, all objectives start with the same parameters and see the same batches and
    pixels, so that differences between them are paired. The gradients of all objectives are
    measured on one batch, at several points of the first objective's first run. A ``warm_up`` then
    has the weight of the KL at that step.

    Arguments:
        vae_factory: Returns a VAE or another :class:`Pair` with new parameters; called once for
            each run, within the run's seed.
        train, test, epochs, batch_size, pixels: As in :func:`pyro_vae.fit`.
        objectives: Pyro ELBOs by name; each run has its own copy. None compares ``trace_elbo`` and
            ``analytic_kl``.
        seeds: The seeds, with a run for each.
        num_samples: The number of importance samples for the log-likelihood of the test set. With
            `pixels`, x is drawn once with seed 0, of pixels on which the model has a density.
        draws: The number of gradients for each objective, see :func:`pyro_vae.gradients.measure`.
        gradient_epochs: The epochs after which gradients are measured, 0 for before training; None
            is 0, a tenth of `epochs`, and `epochs`.
        goal: A test -ELBO in nats per example, up to which the seconds of training are counted;
            None is the final one of the first objective's worst run.
        likelihood_goal: A log-likelihood of the test set in nats per example, up to which the
            seconds of training are counted too, at the epochs at which it is estimated; None has
            no such column in the table.
        likelihood_epochs: The epochs from 1 after which the log-likelihood of the test set is
            estimated, beside the last one; None is the last one alone, or all of them if there is
            a `likelihood_goal`. Each takes as long as the evaluation at the end, which does not
            count as training.
        on_run: Called after each run that is trained, for instance to report progress.
        keep: A folder in which each run is kept as soon as it ends, in a file with a checksum.
            Called again with the same arguments, `compare` reads the runs that are there and
            trains only the others. The result is that of a comparison without a break; the
            seconds of a run that was read are those of its training. Further seeds may be added
            at the end, and `goal` may change, and `likelihood_goal` with given epochs.

    Returns:
        The histories, log-likelihoods, gradients and memory of all objectives. After Ctrl-C, those
        of the seeds on which all objectives have run; all runs that ended are in `keep`.

    Raises:
        KeyboardInterrupt: Ctrl-C was pressed before all objectives had run on the first seed.
        TypeError: `vae_factory` is not a function that returns a pair, `objectives` is not a
            mapping to ELBOs, or an argument has the wrong type.
        ValueError: `objectives` or `seeds` is empty, a seed is given twice, an argument is out of
            range, the data do not fit the pair, or the runs in `keep` were made with other
            settings, data or initial parameters. Nothing is trained then.
        pyro_vae.storage.DamagedRun: A file in `keep` is damaged. It is a ValueError that names
            the file.
        NotADirectoryError, OSError: `keep` is a file, or a run cannot be written there.
        pyro_vae.training.NonFiniteLoss: A loss or a parameter became NaN or infinite.

    Example:
        >>> from pyro_vae.comparison import compare
        >>> make_vae, x = lambda: presets.build("pyro-mlp", z_dim=2, shape=16), torch.eye(16)
        >>> bounds = {"elbo": objectives.trace_elbo(), "iwae": objectives.iwae(5)}
        >>> result = compare(make_vae, x, x, bounds, (0, 1), epochs=1, batch_size=8, draws=20)
        >>> list(result.histories), list(result.gradients), len(result.histories["iwae"])
        (['elbo', 'iwae'], [0, 1], 2)
    """
    if objectives is None:
        objectives = {"trace_elbo": trace_elbo(), "analytic_kl": analytic_kl()}
    _check_arguments(vae_factory, objectives, goal, likelihood_goal, on_run, keep)
    seeds = _seeds(seeds)
    points = _points(gradient_epochs, epochs)
    scored = likelihood_points(likelihood_epochs, epochs, likelihood_goal)
    trainer = _Trainer(
        vae_factory, train, test, objectives, seeds[0], epochs, batch_size, pixels, num_samples,
        draws, points, scored,
    )  # fmt: skip
    _check_alone(keep)
    kept = None if keep is None else KeptRuns(keep, trainer.settings(), list(objectives))
    wanted = [(name, seed) for seed, name in product(seeds, objectives)]
    runs = {} if kept is None else trainer.read(kept, wanted)
    complete = False
    try:
        for name, seed in wanted:
            if (name, seed) in runs:
                continue
            run = trainer.run(name, seed)
            if kept is not None:
                kept.write(name, seed, run)
            runs[name, seed] = run
            if on_run is not None:
                on_run(name, seed, run.history, run.log_likelihood)
        complete = True
    except KeyboardInterrupt:
        if any((name, seeds[0]) not in runs for name in objectives):
            raise
    done = [seed for seed in seeds if all((name, seed) in runs for name in objectives)]
    by_name = {name: [runs[name, seed] for seed in done] for name in objectives}
    goals = plain(goal), plain(likelihood_goal)
    return _compared(done, by_name, runs[wanted[0]], trainer.steps, goals, complete)


def _compared(
    seeds: Sequence[int],
    runs: Mapping[str, Sequence[Run]],
    first: Run,
    steps: int,
    goals: tuple[float | None, float | None],
    complete: bool,
) -> Comparison:
    """The result of runs by objective, in the order of the seeds; the first one has gradients."""
    goal, likelihood_goal = goals
    if goal is None:
        goal = max(run.history.test_cost[-1] for run in next(iter(runs.values())))
    return Comparison(
        tuple(seeds),
        {name: [run.history for run in own] for name, own in runs.items()},
        {name: [run.log_likelihood for run in own] for name, own in runs.items()},
        first.pixels,
        first.gradients,
        first.peaks,
        steps,
        goal,
        complete,
        {name: [run.likelihoods for run in own] for name, own in runs.items()},
        likelihood_goal,
    )


@dataclass(frozen=True)
class _Trainer:
    """Trains and scores the runs; the arguments are those of :func:`compare`.

    Attributes:
        first_seed: The seed on which the first objective's run has the gradients.
        points: The epochs after which they are measured.
        scored: The epochs after which the log-likelihood is estimated, the last one among them.
    """

    vae_factory: Callable[[], Pair]
    train: Batch
    test: Batch
    objectives: Mapping[str, ELBO]
    first_seed: int
    epochs: int
    batch_size: int
    pixels: Pixels | None
    num_samples: int
    draws: int
    points: Sequence[int]
    scored: Sequence[int]

    def __post_init__(self) -> None:
        """Raises TypeError or ValueError for counts that are out of range, and for no data."""
        check_count("batch_size", self.batch_size)
        check_count("num_samples", self.num_samples)
        check_draws(self.draws)
        check_examples("train", as_batch(self.train, "train")[0])
        check_examples("test", as_batch(self.test, "test")[0])

    @property
    def steps(self) -> int:
        """The number of training steps in an epoch."""
        return math.ceil(len(as_batch(self.train, "train")[0]) / self.batch_size)

    def settings(self) -> dict[str, Any]:
        """What decides the numbers of all runs, but for the pair."""
        return {
            "train": described_data(self.train, "train"),
            "test": described_data(self.test, "test"),
            "objectives": [
                f"{n}: {' of '.join(described(o))}" for n, o in self.objectives.items()
            ],
            "seeds": [f"{self.first_seed} first"],
            "epochs": int(self.epochs),
            "batch_size": int(self.batch_size),
            "pixels": self.pixels,
            "num_samples": int(self.num_samples),
            "draws": int(self.draws),
            "gradient_epochs": [int(point) for point in self.points],
            LIKELIHOOD_EPOCHS: [int(point) for point in self.scored],
        }

    def read(self, kept: KeptRuns, wanted: Sequence[Key]) -> dict[Key, Run]:
        """The runs that are kept, of those that are wanted, after a check of their pairs."""
        found = {key: run for key, run in kept.read().items() if key in wanted}
        return {
            (name, seed): kept.check_pair(self.pair(seed), run, seed)
            for (name, seed), run in found.items()
        }

    def pair(self, seed: int) -> Pair:
        """A pair with the initial parameters of a seed."""
        with seeded(seed):
            pair = self.vae_factory()
        check_pair(pair)
        return pair

    def run(self, name: str, seed: int) -> Run:
        """Trains with an objective on a seed, and scores the pair."""
        vae = self.pair(seed)
        began = described_pair(vae)
        measured = Measured(self.objectives, self.points, self.steps, self.draws)
        callbacks: list[Callback] = []
        if (name, seed) == (next(iter(self.objectives)), self.first_seed):
            first = rows(as_batch(self.train), slice(self.batch_size))
            callbacks.append(measured.along(vae, first, self.pixels))
        before = self.scored[:-1]
        along = LikelihoodAlong(lambda vae: self._scored(vae)[0], before, self.num_samples, seed)
        if before:
            callbacks.append(along)
        history = fit(
            vae,
            self.train,
            test=self.test,
            epochs=self.epochs,
            batch_size=self.batch_size,
            objective=copy.deepcopy(self.objectives[name]),
            pixels=self.pixels,
            seed=seed,
            callbacks=callbacks,
        )
        if history.ended == "interrupted":
            raise KeyboardInterrupt
        x, pixels = self._scored(vae)
        result = estimated(vae, x, self.num_samples, seed=seed)
        likelihoods = {**along.means, self.epochs: result.mean}
        return Run(began, history, result, pixels, measured.gradients, measured.peaks, likelihoods)

    def _scored(self, vae: Pair) -> tuple[Batch, Pixels | None]:
        """The test data on which a pair has a density, and their pixels."""
        if self.pixels is None:
            return self.test, None
        x, density_pixels = density_draw(vae, self.test, self.pixels, seed=0)
        return (x, *as_batch(self.test)[1:]), density_pixels


def _check_alone(keep: str | Path | None) -> None:
    """Raises ValueError if several processes would write to a folder."""
    processes = processes_of(torch.device("cpu"))
    if keep is not None and processes is not None and processes.size > 1:
        raise ValueError(
            f"keep: got a folder in one of {processes.size} processes, expected None: each of "
            "them would write there"
        )


def _points(gradient_epochs: Sequence[int] | None, epochs: int) -> list[int]:
    """Returns the epochs after which gradients are measured, or raises ValueError."""
    check_count("epochs", epochs)
    if gradient_epochs is None:
        return sorted({0, max(1, epochs // 10), epochs})
    check_values("gradient_epochs", gradient_epochs)
    points = [plain(point) for point in gradient_epochs]
    for point in points:
        check_index("gradient_epochs", point)
    if max(points) > epochs:
        raise ValueError(
            f"gradient_epochs: got {gradient_epochs!r}, expected epochs from 0 to {epochs}"
        )
    return points


def _seeds(seeds: Sequence[int]) -> list[int]:
    """Returns the seeds, or raises TypeError or ValueError."""
    check_values("seeds", seeds)
    found = [plain(seed) for seed in seeds]
    for seed in found:
        if seed is None:
            raise TypeError("seeds: got None among them, expected ints")
        check_seed(seed, "seeds: seed")
    if len(set(found)) < len(found):
        raise ValueError(f"seeds: got {found}, expected each once")
    return found


def _check_arguments(
    vae_factory: object,
    objectives: Mapping[str, ELBO],
    goal: object,
    likelihood_goal: object,
    on_run: object,
    keep: object,
) -> None:
    if isinstance(vae_factory, nn.Module) or not callable(vae_factory):
        raise TypeError(
            f"vae_factory: got {kind(vae_factory)}, expected a function that returns a "
            "VAE or a Pair with new parameters at each call"
        )
    check_objectives(objectives)
    check_number("goal", goal, none=True)
    check_number("likelihood_goal", likelihood_goal, none=True)
    check_function("on_run", on_run, none=True)
    check_path("keep", keep, none=True)
