"""The training loop: a plain ``pyro.infer.SVI`` over tensors in memory."""

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import pyro.optim
import torch
from pyro.infer import ELBO, SVI, Trace_ELBO

from pyro_vae.datasets import Pixels
from pyro_vae.objectives import Compiled, WithTerms, check_elbo, trace_elbo, traits
from pyro_vae.optim import Adam
from pyro_vae.training.callbacks import Callback
from pyro_vae.training.data import Levels
from pyro_vae.training.epoch_terms import EpochTerms, NonFiniteLoss
from pyro_vae.training.history import COLUMNS, History
from pyro_vae.training.precision import check_precision, program
from pyro_vae.utils.checks import check_count, check_seed, kind
from pyro_vae.utils.context import Batch, Examples
from pyro_vae.utils.modules import evaluating
from pyro_vae.utils.progress import progress_bar
from pyro_vae.utils.random import seeded
from pyro_vae.vae import VAE, check_vae

__all__ = ["COMPILED_FROM", "fit"]

COMPILED_FROM = 2000
"""Number of steps from which ``compile="auto"`` compiles; fewer do not repay the compilation."""

_TEST = 0  # The random stream of the test set; those of the epochs are 1, 2, ...


def fit(
    vae: VAE,
    train: Batch,
    *,
    test: Batch | None = None,
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
    r"""Trains a VAE by stochastic variational inference, one step for each batch.

    It minimizes the objective, by default :math:`-E_q[\log p(x|z) + \log p(z) - \log q(z|x)]`,
    with ``pyro.infer.SVI``. The data stay in one tensor on the VAE's device, and their order
    changes in each epoch. The same VAE, data and seed give the same parameters, bit for bit, on
    the same machine. Each epoch has a random stream of its own, so a callback that draws random
    numbers does not change the training.

    Source: Kingma and Welling (2014), arXiv 1312.6114, algorithm 1.

    Arguments:
        vae: The VAE, which is trained in place. It is in train mode meanwhile; afterwards, each
            module has its mode back.
        train: Training data of shape ``(N, *x_shape)``: uint8 levels, which need `pixels`, or
            float data, which are x already. A tuple ``(x, *context)`` gives each example a
            context; the objective is then that of p(x|c).
        test: Test data of the same kind. Their -ELBO is evaluated in eval mode after each epoch.
            Levels become x once, with the draw of ``datasets.binarize(test, seed)``.
        epochs: Number of passes over the training data.
        batch_size: Number of examples in a step. The last batch of an epoch may be smaller.
        objective: A Pyro ELBO. None takes ``objectives.trace_elbo()``.
        optim: A Pyro optimizer. None takes ``optim.Adam(lr=1e-3)``.
        pixels: How levels become x, see :func:`datasets.to_pixels`. Random pixels are drawn anew
            in each epoch.
        seed: Seed of the order and the noise; torch's global generator is unchanged afterwards.
            None draws from that generator. To continue a training, pass another seed, because the
            same one would repeat the pixels and the noise.
        compile: Compiles the loss and its gradient, see :func:`objectives.compiled`. ``"auto"``
            does so from 2,000 steps on if the objective is known to be static; if model or guide
            cannot be compiled, it warns and trains uncompiled. The seconds of the first epoch
            include the compilation. A compiled objective stays compiled.
        precision: ``"bf16"`` computes the networks in bfloat16, with parameters and densities in
            float32. The test set is always evaluated in float32.
        callbacks: Functions of the VAE and the history so far, called after each epoch.

    Returns:
        The history, in nats per example; see :class:`History`.

    Raises:
        TypeError, ValueError: An argument is out of range, or the data do not fit the VAE or are
            off the set that its likelihood scores. This is checked before the first step.
        RuntimeError: ``compile=True``, and model or guide cannot be compiled.
        NonFiniteLoss: A loss or a parameter became NaN or infinite. The message names the epoch,
            the batch and the term; the step of such a loss is not taken.

    Example:
        >>> vae = presets.build("bernoulli-mlp", z_dim=2, shape=(28, 28))
        >>> x = torch.zeros(7, 28, 28)
        >>> history = fit(vae, x, test=x, epochs=2, batch_size=7)
        >>> len(history.cost), len(history.test_cost)
        (2, 2)
    """
    objective = trace_elbo() if objective is None else objective
    optim = Adam(lr=1e-3) if optim is None else optim
    _check_settings(vae, epochs, batch_size, objective, optim, seed, compile, callbacks)
    check_precision(vae, precision)
    levels = Levels("train", train, pixels, vae)
    if batch_size > len(levels):
        raise ValueError(
            f"batch_size: got {batch_size}, expected at most the {len(levels)} training examples"
        )
    test_batch = None if test is None else Levels("test", test, pixels, vae).fixed(seed)
    objective = _with_terms(objective, compile, epochs * max(1, len(levels) // batch_size))
    terms = EpochTerms(objective)
    model, guide = program(vae, precision)
    svi = SVI(model, guide, optim, loss=objective.loss, loss_and_grads=terms.loss_and_grads)
    history = History({name: [] for name in COLUMNS if test is not None or name != "test_cost"})
    batches = math.ceil(len(levels) / batch_size)
    with _training(vae), progress_bar(epochs * batches, "batches") as progress:
        for epoch in range(1, epochs + 1):
            start = time.perf_counter()
            progress.set_description(f"epoch {epoch}/{epochs}")
            terms.reset()
            with seeded(seed, epoch, device=levels.device):
                order = torch.randperm(len(levels)).to(levels.device)
                for batch, index in enumerate(order.split(batch_size), start=1):
                    terms.place = f"epoch {epoch}, batch {batch}"
                    try:
                        svi.step(*levels.batch(index))
                    except FloatingPointError as error:
                        raise NonFiniteLoss(str(error), history) from None
                    progress.update()
            _check_parameters(vae, epoch, history)
            seconds = time.perf_counter() - start
            row = {"epoch": epoch, **terms.means(len(levels))}
            if test_batch is not None:
                row["test_cost"] = _test_cost(vae, test_batch, batch_size, seed, epoch, history)
            history.append(row | {"seconds": seconds})
            progress.set_postfix(cost=f"{row['cost']:.2f}")
            for callback in callbacks:
                callback(vae, history)
    return history


def _with_terms(objective: ELBO, compile: bool | Literal["auto"], steps: int) -> WithTerms:
    """The objective with its terms, compiled if requested or worth it."""
    if isinstance(objective, WithTerms):
        return objective
    pays = steps >= COMPILED_FROM and traits(objective).is_static
    if compile is True or (compile == "auto" and pays):
        return Compiled(objective, strict=compile is True)
    return WithTerms(objective)


@contextmanager
def _training(vae: VAE) -> Iterator[None]:
    """Puts a VAE into train mode inside the block; afterwards each module has its mode back."""
    modes = [(module, module.training) for module in vae.modules()]
    vae.train()
    vae.zero_grad()  # The first step would add the gradients of an earlier backward.
    try:
        yield
    finally:
        vae.zero_grad()
        for module, training in modes:
            module.training = training


@torch.no_grad()
def _test_cost(
    vae: VAE, batch: Examples, batch_size: int, seed: int | None, epoch: int, history: History
) -> float:
    """The test set's -ELBO, in nats per example; raises NonFiniteLoss if it is not finite."""
    loss = Trace_ELBO().loss
    parts = zip(*(entry.split(batch_size) for entry in batch), strict=True)
    with evaluating(vae), seeded(seed, _TEST, device=batch[0].device):
        cost = sum(loss(vae.model, vae.guide, *part) for part in parts) / len(batch[0])
    if not math.isfinite(cost):
        raise NonFiniteLoss(f"epoch {epoch}: the -ELBO of the test set is {cost}", history)
    return cost


def _check_parameters(vae: VAE, epoch: int, history: History) -> None:
    """Raises NonFiniteLoss if a parameter is not finite after an epoch."""
    for path, parameter in vae.named_parameters():
        if not torch.isfinite(parameter).all():
            message = f"epoch {epoch}: the parameter {path} is not finite after the last batch"
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
            f"optim: got {kind(optim)}, expected a pyro.optim.PyroOptim such as "
            "pyro_vae.optim.Adam(lr=1e-3)"
        )
    check_seed(seed)
    if not isinstance(compile, bool) and compile != "auto":
        raise ValueError(f'compile: got {compile!r}, expected True, False or "auto"')
    for callback in callbacks:
        if not callable(callback):
            raise TypeError(f"callbacks: got {callback!r} among them, expected only functions")
