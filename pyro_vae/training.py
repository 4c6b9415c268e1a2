"""Training: a plain ``pyro.infer.SVI`` loop over one tensor in memory."""

import math
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyro
import pyro.optim
import torch
from pyro.infer import ELBO, SVI, Trace_ELBO
from torch import Tensor

from pyro_vae import datasets
from pyro_vae.annealing import Annealed
from pyro_vae.arguments import check_count, check_seed
from pyro_vae.compilation import Compiled
from pyro_vae.datasets import Pixels
from pyro_vae.history import COLUMNS, History
from pyro_vae.networks import bfloat16
from pyro_vae.objectives import trace_elbo
from pyro_vae.optim import Adam
from pyro_vae.progress import progress_bar
from pyro_vae.recording import Recorded
from pyro_vae.seeding import seeded
from pyro_vae.supports import check_on_support, describe, scored_support
from pyro_vae.vae import (
    VAE,
    check_data,
    check_dtype,
    device_of,
    dtype_of,
    evaluating,
    examine,
)
from pyro_vae.weighted import WeightedELBO

COMPILED_FROM = 2000
"""Steps from which ``compile="auto"`` compiles: fewer do not repay the compilation."""

_TEST = 0  # the random stream of the test set; epochs count from 1


Callback = Callable[[VAE, History], object]
"""Called after each epoch with the VAE and the history so far."""


class NonFiniteLoss(FloatingPointError):
    """A loss became NaN or infinite; `history` holds the epochs before."""

    def __init__(self, message: str, history: History) -> None:
        super().__init__(message)
        self.history = history


def fit(
    vae: VAE,
    train: Tensor,
    *,
    test: Tensor | None = None,
    epochs: int,
    batch_size: int = 128,
    objective: ELBO | None = None,
    optim: pyro.optim.PyroOptim | None = None,
    pixels: Pixels | None = None,
    seed: int | None = 0,
    compile: bool | Literal["auto"] = "auto",
    precision: Literal["float32", "bf16"] = "float32",
    callbacks: Sequence[Callback] = (),
) -> History:
    """Trains a VAE by ``pyro.infer.SVI``, one step a batch, in a new order each epoch.

    The data stay one tensor, on the VAE's device. Each epoch has a random stream of its own, and
    what a callback draws does not change it: the same VAE, data and seed give the same weights,
    bit for bit, on the same machine.

    Arguments:
        vae: Trained in place, in train mode; each module's mode is put back at the end.
        train: uint8 levels with `pixels`, or float data as it is, of shape ``(N, *x_shape)``.
        test: Data of the same kind; its -ELBO is measured in eval mode after each epoch. Levels
            become x once, by a draw that equals ``datasets.binarize(test, seed)``.
        epochs: Passes over the training data.
        batch_size: Examples a step; the last batch of an epoch may be smaller.
        objective: A Pyro ELBO; None is ``objectives.trace_elbo()``.
        optim: A Pyro optimizer; None is ``optim.Adam(lr=1e-3)``.
        pixels: How levels become x, see :func:`datasets.to_pixels`; fresh draws in each epoch.
        seed: Fixes order and noise, and leaves torch's global generator as it was; None draws
            from it. The weights that the VAE starts with are its own. To go on training, pass
            another seed: the same one would draw the same pixels and noise again.
        compile: Whether loss and gradients are compiled, see :func:`objectives.compiled`. "auto"
            compiles from 2,000 steps on, where the objective is a ``Trace_ELBO`` or one of
            :mod:`objectives`, and goes on uncompiled, with a warning, where model and guide are no
            static program. An objective that is compiled already stays so. Compilation, of seconds
            to half a minute, counts into the first epoch's seconds.
        precision: "bf16" computes the networks in bfloat16, with float32 parameters and
            densities; the test set is always scored in float32.
        callbacks: Called after each epoch with the VAE and the history so far.

    Returns:
        The history; see :class:`History` for columns and units.

    Raises:
        TypeError, ValueError: An argument is out of range, or the data do not fit the VAE or lie
            off the set that its likelihood scores. Known before the first step.
        RuntimeError: With ``compile=True``, model and guide are no static program.
        NonFiniteLoss: A loss or a weight became NaN or infinite; names epoch, batch and term. The
            step is not taken.
    """
    objective = trace_elbo() if objective is None else objective
    optim = Adam(lr=1e-3) if optim is None else optim
    _check_settings(vae, epochs, batch_size, objective, optim, seed, callbacks)
    _check_speed(vae, compile, precision)
    levels = _Levels("train", train, pixels, vae)
    if batch_size > len(train):
        raise ValueError(
            f"batch_size: got {batch_size}, expected at most the {len(train)} training examples"
        )
    test_x = None if test is None else _Levels("test", test, pixels, vae).fixed(seed)
    recorded = _recorded(objective, compile, epochs * max(1, len(train) // batch_size))
    terms = _Terms(recorded)
    model, guide = program(vae, precision)
    svi = SVI(model, guide, optim, loss=recorded.loss, loss_and_grads=terms.loss_and_grads)
    history = History({name: [] for name in COLUMNS if test is not None or name != "test_cost"})
    batches = math.ceil(len(train) / batch_size)
    with (
        _training(vae),
        progress_bar(epochs * batches, "batches") as progress,
    ):
        for epoch in range(1, epochs + 1):
            start = time.perf_counter()
            progress.set_description(f"epoch {epoch}/{epochs}")
            terms.reset()
            with seeded(seed, epoch, device=levels.device):
                order = torch.randperm(len(train)).to(levels.device)
                for batch, index in enumerate(order.split(batch_size), start=1):
                    terms.place = f"epoch {epoch}, batch {batch}"
                    try:
                        svi.step(levels.x(index))
                    except FloatingPointError as error:
                        raise NonFiniteLoss(str(error), history) from None
                    progress.update()
            _check_weights(vae, epoch, history)
            seconds = time.perf_counter() - start
            row = {"epoch": epoch, **terms.means(len(train))}
            if test_x is not None:
                row["test_cost"] = _test_cost(vae, test_x, batch_size, seed)
                if not math.isfinite(row["test_cost"]):
                    message = f"epoch {epoch}: the test -ELBO is {row['test_cost']}"
                    raise NonFiniteLoss(message, history)
            history.append(row | {"seconds": seconds})
            progress.set_postfix(cost=f"{row['cost']:.2f}")
            for callback in callbacks:
                callback(vae, history)
    return history


class TensorBoard:
    """A callback of :func:`fit` that writes the history's columns as TensorBoard scalars.

    `avg_loss` is the lecture's name for the cost; the other scalars have the columns' names. The
    step is the epoch; units are nats per example, and seconds.

    Arguments:
        folder: Where the event file goes.
    """

    def __init__(self, folder: str | Path) -> None:
        from torch.utils.tensorboard import SummaryWriter  # slow to import, and seldom asked for

        self._writer = SummaryWriter(str(folder))

    def __call__(self, vae: VAE, history: History) -> None:
        for name, values in history.items():
            if name != "epoch":
                tag = "avg_loss" if name == "cost" else name
                self._writer.add_scalar(tag, values[-1], history.epoch[-1])
        self._writer.flush()


class _Levels:
    """Data as the user gave them, checked, on the VAE's device, and the batches of x in them."""

    def __init__(self, argument: str, data: Tensor, pixels: Pixels | None, vae: VAE) -> None:
        if not isinstance(data, Tensor):
            raise TypeError(f"{argument}: got a {type(data).__name__}, expected a torch.Tensor")
        if not len(data):
            raise ValueError(f"{argument}: got an empty data set, expected at least one example")
        if data.dtype == torch.uint8:
            if pixels is None:
                raise ValueError(
                    f"pixels: got None with uint8 levels as {argument}, expected one of "
                    f"{', '.join(datasets.PIXELS)}"
                )
            datasets.check_pixels(pixels)
        elif pixels is not None and not data.is_floating_point():
            raise TypeError(f"{argument}: got {data.dtype}, expected torch.uint8 levels")
        elif pixels is not None:
            raise ValueError(
                f"pixels: got {pixels!r} with {data.dtype} as {argument}, expected None: only "
                "uint8 levels are turned into pixels, float data are taken as they are"
            )
        else:
            check_data(data, argument)
            check_dtype(argument, data, vae)
        self.given = data
        self.data = data.to(device_of(vae))
        self.pixels = pixels
        self.dtype = dtype_of(vae)
        self._check(argument, vae)

    @property
    def device(self) -> torch.device:
        return self.data.device

    def x(self, index: Tensor) -> Tensor:
        """The examples of an index as x; fresh draws where the pixels are random."""
        return self._to_x(self.data[index])

    def fixed(self, seed: int | None) -> Tensor:
        """All examples as x, by the draw of ``datasets.binarize(data, seed)``."""
        with seeded(seed, device=self.given.device):  # where the user would draw them
            return self._to_x(self.given).to(self.device)

    def _to_x(self, data: Tensor) -> Tensor:
        return (
            data if self.pixels is None else datasets.to_pixels(data, self.pixels).to(self.dtype)
        )

    def _check(self, argument: str, vae: VAE) -> None:
        """Holds the data against the three parts, once and whole."""
        with seeded(0, device=self.device):
            x = self._to_x(self.data[:1])
        support = scored_support(examine(vae, x, self.data.shape, argument)[1])
        if self.pixels is None:
            check_on_support(argument, self.data, support)
            return
        # Each level that there is, at each place: a fresh draw in each epoch stays among these.
        there = self.data.flatten().bincount(minlength=256).nonzero().to(torch.uint8)
        every = there.view(-1, *[1] * (self.data.dim() - 1)).expand(-1, *self.data.shape[1:])
        with seeded(0, device=self.device):
            on = support.check(self._to_x(every)).view(len(every), -1).all(1)
        if not on.all():
            off = there[~on].flatten().tolist()
            raise ValueError(
                f"pixels: got {self.pixels!r}, which this likelihood does not score at {len(off)} "
                f"of the {len(on)} levels in {argument}, {off[0]} for instance; expected x on "
                f"{describe(support)}"
            )


class _Terms:
    """Sums cost, reconstruction and KL over the batches of an epoch, in nats."""

    def __init__(self, objective: Recorded) -> None:
        self.objective = objective
        self.place = ""
        self.reset()

    def reset(self) -> None:
        self.cost = self.reconstruction = self.kl = 0.0

    def means(self, examples: int) -> dict[str, float]:
        return {
            "cost": self.cost / examples,
            "reconstruction": self.reconstruction / examples,
            "kl": self.kl / examples,
        }

    def loss_and_grads(self, model: Any, guide: Any, x: Tensor) -> float:
        """The objective's own; raises before the step if the loss is not finite."""
        try:
            cost = self.objective.loss_and_grads(model, guide, x)
        except ValueError:
            # Pyro's validation found a distribution that cannot be. Where that comes of numbers
            # that are not finite, the same batch without validation says in which term.
            with torch.no_grad(), pyro.validation_enabled(False):
                self._terms(Recorded.loss(self.objective, model, guide, x))
            raise
        terms = self._terms(cost)
        self.cost += terms[0]
        self.reconstruction += terms[1]
        self.kl += terms[2]
        return terms[0]

    def _terms(self, cost: float) -> tuple[float, float, float]:
        """Cost, reconstruction and KL of the loss just computed; raises if one is not finite."""
        if isinstance(cost, tuple) or self.objective.terms is None:
            raise TypeError(
                f"objective: a {type(self.objective.elbo).__name__} gave no loss of one number "
                "from traces of its own, expected an ELBO"
            )
        likelihood, sampled_kl = self.objective.terms
        reconstruction = -likelihood
        # An ELBO's own, in closed form where it has that; else from the same samples.
        is_elbo = isinstance(self.objective.elbo, Trace_ELBO)
        kl = cost - reconstruction if is_elbo else sampled_kl
        for term, value in (("reconstruction", reconstruction), ("KL", kl), ("objective", cost)):
            if not math.isfinite(value):
                raise FloatingPointError(f"{self.place}: the {term} term of the loss is {value}")
        return float(cost), reconstruction, kl


def _recorded(objective: ELBO, compile: bool | Literal["auto"], steps: int) -> Recorded:
    """The objective with its terms, and compiled where that is asked for or pays."""
    if isinstance(objective, Recorded):
        return objective
    static = isinstance(objective, Trace_ELBO | WeightedELBO | Annealed)
    pays = steps >= COMPILED_FROM and static
    if compile is True or (compile == "auto" and pays):
        return Compiled(objective, strict=compile is True)
    return Recorded(objective)


@dataclass(frozen=True)
class _InBfloat16:
    """A method of a VAE with its networks in bfloat16; equal where VAE and method are."""

    vae: VAE
    method: Callable[..., Any]

    def __call__(self, *args: Any) -> Any:
        with bfloat16(self.vae):
            return self.method(*args)


def program(vae: VAE, precision: str) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """The model and guide that :func:`fit` trains, networks in the precision asked for."""
    if precision == "float32":
        return vae.model, vae.guide
    return _InBfloat16(vae, vae.model), _InBfloat16(vae, vae.guide)


@contextmanager
def _training(vae: VAE) -> Iterator[None]:
    modes = [(module, module.training) for module in vae.modules()]
    vae.train()
    vae.zero_grad()  # what an earlier backward left would go into the first step
    try:
        yield
    finally:
        vae.zero_grad()
        for module, training in modes:
            module.training = training


@torch.no_grad()
def _test_cost(vae: VAE, x: Tensor, batch_size: int, seed: int | None) -> float:
    loss = Trace_ELBO().loss
    with evaluating(vae), seeded(seed, _TEST, device=x.device):
        return sum(loss(vae.model, vae.guide, part) for part in x.split(batch_size)) / len(x)


def _check_weights(vae: VAE, epoch: int, history: History) -> None:
    for path, parameter in vae.named_parameters():
        if not torch.isfinite(parameter).all():
            message = f"epoch {epoch}: after its last batch the weight {path} is not finite"
            raise NonFiniteLoss(message, history)


def _check_speed(vae: VAE, compile: Any, precision: Any) -> None:
    if not isinstance(compile, bool) and compile != "auto":
        raise ValueError(f'compile: got {compile!r}, expected True, False or "auto"')
    if precision not in ("float32", "bf16"):
        raise ValueError(f'precision: got {precision!r}, expected "float32" or "bf16"')
    if precision == "float32":
        return
    if dtype_of(vae) != torch.float32:
        raise ValueError(
            f"precision: got 'bf16' for a VAE of {dtype_of(vae)}, expected one of torch.float32"
        )
    with bfloat16(vae):  # raises where there is no network
        pass
    device = device_of(vae)
    fast = (
        torch.ops.mkldnn._is_mkldnn_bf16_supported()
        if device.type == "cpu"
        else device.type != "cuda" or torch.cuda.is_bf16_supported()
    )
    if not fast:
        warnings.warn(
            "precision: this processor has no bfloat16 products, so 'bf16' is slower than "
            "'float32' here",
            stacklevel=3,
        )


def _check_settings(
    vae: VAE,
    epochs: int,
    batch_size: int,
    objective: ELBO,
    optim: pyro.optim.PyroOptim,
    seed: int | None,
    callbacks: Sequence[Callback],
) -> None:
    if not isinstance(vae, VAE):
        raise TypeError(f"vae: got a {type(vae).__name__}, expected a VAE")
    check_count("epochs", epochs)
    check_count("batch_size", batch_size)
    if not isinstance(objective, ELBO):
        raise TypeError(
            f"objective: got {objective!r}, expected a pyro.infer.ELBO, Trace_ELBO() for instance"
        )
    if not isinstance(optim, pyro.optim.PyroOptim):
        raise TypeError(
            f"optim: got a {type(optim).__name__}, expected a pyro.optim.PyroOptim, "
            "pyro_vae.optim.Adam(lr=1e-3) for instance"
        )
    check_seed(seed)
    for callback in callbacks:
        if not callable(callback):
            raise TypeError(f"callbacks: got {callback!r} among them, expected functions")
