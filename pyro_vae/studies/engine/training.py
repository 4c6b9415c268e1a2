"""Studies of VAEs that are trained and judged alike."""

import math
import warnings
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeVar

import torch
from pyro.optim import PyroOptim
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR

from pyro_vae import datasets, objectives, optim, plots
from pyro_vae.composed import Composed
from pyro_vae.datasets import Pixels
from pyro_vae.evaluation import LogLikelihood, UnreliableWeights, elbo, log_likelihood
from pyro_vae.pair import Pair
from pyro_vae.studies.engine.clock import Clock
from pyro_vae.studies.engine.document import paired
from pyro_vae.studies.engine.rows import Row
from pyro_vae.studies.engine.study import Say, Study
from pyro_vae.studies.engine.vaes import active_by_layer, bernoulli_vae, plain
from pyro_vae.training import History, fit
from pyro_vae.utils.files import number
from pyro_vae.utils.random import seeded

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_POINTS = 6  # of a curve for each stage, about
_CURVE_SAMPLES = 100

Made = TypeVar("Made", bound=Pair)


@dataclass(frozen=True)
class Stage:
    """A part of training.

    Attributes:
        objective: The objective as :func:`pyro_vae.objectives.parse` reads it.
        epochs: Passes over the training data; a stage of none is skipped.
        rate: Adam's learning rate; the top of its cycle if there is one.
        plain: Whether a standard normal takes the place of the prior.
    """

    objective: str
    epochs: int
    rate: float = 1e-3
    plain: bool = False


@dataclass(frozen=True)
class Trained(Row):
    """A training alone.

    Attributes:
        history: What ``fit`` measured.
    """

    history: History

    @property
    def outcome(self) -> str:
        """The cost of the last epoch."""
        return f"cost {self.history.cost[-1]:.2f} after epoch {self.history.epoch[-1]}"

    def record(self) -> dict[str, Any]:
        """Returns name, settings and the columns of the history."""
        return {"name": self.name, "settings": self.settings, "history": dict(self.history)}

    @classmethod
    def read(cls, record: dict[str, Any]) -> Self:
        """Makes the row from its record."""
        columns = {name: [float(v) for v in own] for name, own in record["history"].items()}
        columns["epoch"] = [int(epoch) for epoch in columns["epoch"]]
        return cls(record["name"], record["settings"], History(columns))


@dataclass(frozen=True)
class Result(Row):
    """A VAE that was trained and judged; numbers are nats per example.

    Attributes:
        values: The importance-weighted log-likelihood of each test example, shape ``(N,)``.
        mean, stderr, mc_error: Of `values`, as in :class:`~pyro_vae.evaluation.LogLikelihood`.
        elbo, kl: The mean ELBO and KL(q, p) of the test set.
        median_ess: The median effective sample size of the importance weights.
        parameters: The number of trained parameters.
        seconds: Of training, by the wall clock; the processor's time for studies with curves.
        threads: The number of torch's threads.
        shape: The shape of one x.
        samples: Decoded draws of the prior as 8-bit levels, for studies that draw them.
        curve: Epochs, minutes and test log-likelihoods during training, for studies with curves.
        active: The number of active units of each layer, z1 first, if there are several.
    """

    values: Tensor
    mean: float
    stderr: float
    mc_error: float
    elbo: float
    kl: float
    median_ess: float
    parameters: int
    seconds: float
    threads: int
    shape: tuple[int, ...]
    samples: Tensor | None = None
    curve: Sequence[Sequence[float]] = ()
    active: Sequence[int] = ()

    @property
    def outcome(self) -> str:
        """The log-likelihood and its standard error."""
        return f"log-likelihood {self.mean:.2f} ± {self.stderr:.2f}"

    @property
    def pixels(self) -> Pixels:
        """What x is made of."""
        return self.settings["pixels"]

    @property
    def schedule(self) -> str:
        """The epochs and the objective of each stage, for studies with cycles."""
        stages = [Stage(**stage) for stage in self.settings["stages"]]
        return ", ".join(f"{s.epochs} {s.objective}{' (plain)' * s.plain}" for s in stages)

    def above(self, other: "Result") -> tuple[float, float]:
        """Returns the mean paired difference in log-likelihood, and its standard error."""
        return paired(self.values, other.values)

    def record(self) -> dict[str, Any]:
        """Returns all attributes, the values to three digits after the point."""
        record = {field.name: getattr(self, field.name) for field in fields(self)}
        record["values"] = [round(value, 3) for value in self.values.tolist()]
        record["samples"] = None if self.samples is None else self.samples.tolist()
        return record

    @classmethod
    def read(cls, record: dict[str, Any]) -> Self:
        """Makes the row from its record."""
        for key in ("mean", "stderr", "mc_error", "elbo", "kl", "median_ess", "seconds"):
            record[key] = number(record[key])
        record["values"] = torch.tensor(
            [number(value) for value in record["values"]], dtype=torch.float64
        )
        record["shape"] = tuple(record["shape"])
        if record["samples"] is not None:
            record["samples"] = torch.tensor(record["samples"], dtype=torch.uint8)
        return cls(**record)


class VAEStudy(Study[Result]):
    """A study whose rows are VAEs, all trained on uint8 levels and judged in the same way.

    A prior that learns can follow posteriors that do not depend on x yet, and then nothing drives
    them apart: a VampPrior on MNIST, trained from random parameters, stays where all posteriors
    are alike. So the first epochs may have a standard normal in its place, as papers warm up
    the KL.

    Attributes:
        num_samples: Importance samples for each test example.
        vaes: The rows: functions that make a VAE for training images, by name.
        draws: Draws of the prior that are decoded and kept.
        batch_size, precision: As in :func:`pyro_vae.fit`.
        cycle: Whether the learning rate has one cycle in each stage, or is constant.
        curve_examples: Test images whose log-likelihood is followed during training.
    """

    num_samples: int  # no dataclass here: a study places this option among its own

    vaes: ClassVar[Mapping[str, Callable[[Tensor], Composed]]]
    draws: ClassVar[int] = 0
    batch_size: ClassVar[int] = 128
    precision: ClassVar[Any] = "float32"
    cycle: ClassVar[bool] = False
    curve_examples: ClassVar[int] = 0

    @property
    def kind(self) -> type[Result]:
        """The class of the rows."""
        return Result

    def names(self) -> Sequence[str]:
        """Returns the names of the VAEs."""
        return list(self.vaes)

    @abstractmethod
    def stages(self, name: str) -> Sequence[Stage]:
        """Returns the training of a row; each stage has a seed of its own, by its place."""

    def pixels(self, name: str) -> Pixels:
        """Returns what x is made of."""
        return "binary"

    def settings(self, name: str) -> dict[str, Any]:
        """Returns what a row depends on.

        Raises:
            ValueError: The plain epochs are not fewer than all.
        """
        stages = self.stages(name)
        epochs = sum(stage.epochs for stage in stages)
        plain = sum(stage.epochs for stage in stages if stage.plain)
        if not 0 <= plain < epochs:
            raise ValueError(
                f"plain_epochs: got {plain}, expected a number from 0 to {epochs - 1}, fewer than "
                f"all {epochs} epochs"
            )
        settings = {
            **self.hashes,
            "pixels": self.pixels(name),
            "epochs": epochs,
            "num_samples": self.num_samples,
            "plain_epochs": plain,
            "draws": self.draws,
            "seed": 0,
        }
        by_default = all(s == Stage("trace_elbo", s.epochs, plain=s.plain) for s in stages)
        if self.cycle or not by_default:  # else the numbers of epochs say all about training
            settings |= {
                "stages": [asdict(stage) for stage in stages],
                "batch_size": self.batch_size,
                "precision": self.precision,
            }
        return settings

    def run(self, name: str, say: Say = print) -> Result:
        """Trains a VAE stage by stage, and judges it.

        Each stage has checkpoints, from which a row that was interrupted goes on.
        """
        settings = self.settings(name)
        seed, pixels = settings["seed"], settings["pixels"]
        with seeded(seed):
            vae = self.vaes[name](self.train)
        first = plain(vae)
        curve = self._curve(seed)
        seconds = 0.0
        for place, stage in enumerate(self.stages(name)):
            if not stage.epochs:
                continue
            history = fit(
                first if stage.plain else vae,
                self.train,
                epochs=stage.epochs,
                batch_size=self.batch_size,
                objective=objectives.parse(stage.objective),
                optim=self._optim(stage),
                pixels=pixels,
                seed=seed + place,
                precision=self.precision,
                callbacks=[curve.of(stage)] if curve else [],
                checkpoint=self.runs(name) / f"stage-{place}",
                checkpoint_every="10 min",
                resume=True,
            )
            if history.ended == "interrupted":
                raise KeyboardInterrupt
            seconds += sum(history.seconds)
        if curve is None:
            return _judged(name, vae, self.test, settings, seconds)
        return _judged(name, vae, self.test, settings, curve.clock.seconds, curve.points)

    def _optim(self, stage: Stage) -> PyroOptim:
        steps = stage.epochs * math.ceil(len(self.train) / self.batch_size)

        def cycle(optimizer: torch.optim.Optimizer) -> LRScheduler:
            return OneCycleLR(optimizer, stage.rate, steps, pct_start=0.1, cycle_momentum=False)

        return optim.Adam(lr=stage.rate, schedule=cycle if self.cycle else None)

    def _curve(self, seed: int) -> "_Curve | None":
        if not self.curve_examples:
            return None
        with seeded(seed):
            bernoulli_vae(self.train)  # the pixels' draw follows that of a plain VAE's parameters
            x = datasets.to_pixels(self.test[: self.curve_examples], "binary")
        return _Curve(x, seed)


class _Curve:
    """Test log-likelihood during training: epochs, minutes of two cores, nats.

    The processor's time is counted up to each point, without that of the curve itself.
    """

    def __init__(self, x: Tensor, seed: int) -> None:
        self.x, self.seed = x, seed
        self.points: list[list[float]] = []
        self.epochs, self.clock = 0, Clock()

    def of(self, stage: Stage) -> "_Watch":
        """Follows a stage that begins now, after those before."""
        before = self.epochs
        self.epochs += stage.epochs
        return _Watch(self, before, stage.epochs)


class _Watch:
    """Adds the points of a stage to a curve; a checkpoint has the curve so far."""

    def __init__(self, curve: _Curve, before: int, epochs: int) -> None:
        self.curve, self.before, self.epochs = curve, before, epochs
        curve.clock.start()

    def __call__(self, vae: Pair, history: History) -> None:
        done, curve = int(history.epoch[-1]), self.curve
        if done % max(1, self.epochs // _POINTS) and done != self.epochs:
            return
        minutes = round(curve.clock.read() / 120, 6)
        mean = scored(vae, curve.x, _CURVE_SAMPLES, curve.seed).mean
        curve.points.append([self.before + done, minutes, round(mean, 3)])
        curve.clock.start()

    def state_dict(self) -> dict[str, Any]:
        """The curve so far."""
        return {"points": self.curve.points, **self.curve.clock.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Puts the curve back, which goes on from now."""
        self.curve.points = list(state["points"])
        self.curve.clock.load_state_dict(state)


def learning_curves(rows: Mapping[str, Result | None]) -> "Axes":
    """Draws the log-likelihood of each row against the minutes of its training.

    Plain epochs are left out: they are few and far below all others.
    """
    lines = {}
    for name, row in rows.items():
        if row is not None:
            points = [p for p in row.curve if p[0] > row.settings["plain_epochs"]]
            lines[name] = ([p[1] for p in points], [p[2] for p in points])
    return plots.lines(lines, "minutes of two cores", "test log-likelihood in nats per example")


def _judged(
    name: str,
    vae: Composed,
    test: Tensor,
    settings: Mapping[str, Any],
    seconds: float,
    curve: Sequence[Sequence[float]] = (),
) -> Result:
    """Judges a trained VAE on the test set's uint8 levels."""
    pixels, seed, draws = settings["pixels"], settings["seed"], settings["draws"]
    with seeded(seed):
        x = datasets.to_pixels(test, pixels)
    result = scored(vae, x, settings["num_samples"], seed)
    with seeded(seed):
        samples = vae.generate(draws) if draws else None
    if samples is not None:
        levels = samples if pixels == "levels" else samples * 255
        samples = levels.round().clamp(0, 255).to(torch.uint8)
    return Result(
        name=name,
        settings=dict(settings),
        values=result.values,
        mean=result.mean,
        stderr=result.stderr,
        mc_error=result.mc_error,
        elbo=result.elbo.mean().item(),
        kl=elbo(vae, x, num_samples=10, seed=seed).kl_mean,
        median_ess=result.ess.median().item(),
        parameters=sum(p.numel() for p in vae.parameters() if p.requires_grad),
        seconds=seconds,
        threads=torch.get_num_threads(),
        shape=tuple(test.shape[1:]),
        samples=samples,
        curve=curve,
        active=active_by_layer(vae, x, seed),
    )


def scored(vae: Pair, x: Tensor, num_samples: int, seed: int) -> LogLikelihood:
    """Estimates the log-likelihood; an interruption is raised, and k-hat does not warn."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnreliableWeights)
        result = log_likelihood(vae, x, num_samples, seed=seed)
    if not result.complete:
        raise KeyboardInterrupt
    return result


def built(make: Callable[[], Made], seed: int) -> Made:
    """Makes a VAE on the random stream of a seed."""
    with seeded(seed):
        return make()
