"""Training: a plain ``pyro.infer.SVI`` loop over one tensor in memory."""

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import pyro.optim
import torch
from pyro.infer import ELBO, SVI, Trace_ELBO
from torch import Tensor

from pyro_vae.datasets import Pixels
from pyro_vae.objectives import Compiled, WithTerms, check_elbo, trace_elbo, traits
from pyro_vae.optim import Adam
from pyro_vae.training.callbacks import Callback
from pyro_vae.training.data import Levels
from pyro_vae.training.epoch_terms import EpochTerms, NonFiniteLoss
from pyro_vae.training.history import COLUMNS, History
from pyro_vae.training.precision import check_precision, program
from pyro_vae.utils.checks import check_count, check_seed
from pyro_vae.utils.modules import evaluating
from pyro_vae.utils.progress import progress_bar
from pyro_vae.utils.random import seeded
from pyro_vae.vae import VAE, check_vae

COMPILED_FROM = 2000
"""Steps from which ``compile="auto"`` compiles: fewer do not repay the compilation."""

_TEST = 0  # the random stream of the test set; epochs count from 1


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
    _check_settings(vae, epochs, batch_size, objective, optim, seed, compile, callbacks)
    check_precision(vae, precision)
    levels = Levels("train", train, pixels, vae)
    if batch_size > len(train):
        raise ValueError(
            f"batch_size: got {batch_size}, expected at most the {len(train)} training examples"
        )
    test_x = None if test is None else Levels("test", test, pixels, vae).fixed(seed)
    objective = _with_terms(objective, compile, epochs * max(1, len(train) // batch_size))
    terms = EpochTerms(objective)
    model, guide = program(vae, precision)
    svi = SVI(model, guide, optim, loss=objective.loss, loss_and_grads=terms.loss_and_grads)
    history = History({name: [] for name in COLUMNS if test is not None or name != "test_cost"})
    batches = math.ceil(len(train) / batch_size)
    with _training(vae), progress_bar(epochs * batches, "batches") as progress:
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
                row["test_cost"] = _test_cost(vae, test_x, batch_size, seed, epoch, history)
            history.append(row | {"seconds": seconds})
            progress.set_postfix(cost=f"{row['cost']:.2f}")
            for callback in callbacks:
                callback(vae, history)
    return history


def _with_terms(objective: ELBO, compile: bool | Literal["auto"], steps: int) -> WithTerms:
    """The objective with its terms, and compiled where that is asked for or pays."""
    if isinstance(objective, WithTerms):
        return objective
    pays = steps >= COMPILED_FROM and traits(objective).is_static
    if compile is True or (compile == "auto" and pays):
        return Compiled(objective, strict=compile is True)
    return WithTerms(objective)


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
def _test_cost(
    vae: VAE, x: Tensor, batch_size: int, seed: int | None, epoch: int, history: History
) -> float:
    """-ELBO of the test set in nats per example; raises NonFiniteLoss where it is none."""
    loss = Trace_ELBO().loss
    with evaluating(vae), seeded(seed, _TEST, device=x.device):
        cost = sum(loss(vae.model, vae.guide, part) for part in x.split(batch_size)) / len(x)
    if not math.isfinite(cost):
        raise NonFiniteLoss(f"epoch {epoch}: the test -ELBO is {cost}", history)
    return cost


def _check_weights(vae: VAE, epoch: int, history: History) -> None:
    for path, parameter in vae.named_parameters():
        if not torch.isfinite(parameter).all():
            message = f"epoch {epoch}: after its last batch the weight {path} is not finite"
            raise NonFiniteLoss(message, history)


def _check_settings(
    vae: VAE,
    epochs: int,
    batch_size: int,
    objective: ELBO,
    optim: pyro.optim.PyroOptim,
    seed: int | None,
    compile: object,
    callbacks: Sequence[Callback],
) -> None:
    check_vae(vae)
    check_count("epochs", epochs)
    check_count("batch_size", batch_size)
    check_elbo(objective, "objective")
    if not isinstance(optim, pyro.optim.PyroOptim):
        raise TypeError(
            f"optim: got a {type(optim).__name__}, expected a pyro.optim.PyroOptim, "
            "pyro_vae.optim.Adam(lr=1e-3) for instance"
        )
    check_seed(seed)
    if not isinstance(compile, bool) and compile != "auto":
        raise ValueError(f'compile: got {compile!r}, expected True, False or "auto"')
    for callback in callbacks:
        if not callable(callback):
            raise TypeError(f"callbacks: got {callback!r} among them, expected functions")
