"""The training loop: a plain ``pyro.infer.SVI`` over data of any kind."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

import pyro.optim
import torch
from pyro.infer import ELBO, SVI, Trace_ELBO, TraceEnum_ELBO

from pyro_vae.datasets import Pixels
from pyro_vae.objectives import (
    Compiled,
    EnumeratedELBO,
    WithTerms,
    enumerated,
    layers,
    no_graph,
    trace_elbo,
    traits,
)
from pyro_vae.optim import Adam, as_pyro
from pyro_vae.pair import Pair
from pyro_vae.training.arguments import (
    begun,
    check_extras,
    check_plateau,
    check_settings,
    check_shares,
    described,
    set_up,
    shares_of,
    sources_of,
)
from pyro_vae.training.averaging import Averaging
from pyro_vae.training.callbacks import Callback
from pyro_vae.training.checkpoints import (
    Settings,
    State,
)
from pyro_vae.training.data import Prepared, Transform
from pyro_vae.training.ending import Interruption
from pyro_vae.training.epoch_terms import EpochTerms
from pyro_vae.training.held_out import COLUMN_OF, HeldOut, check_fraction
from pyro_vae.training.history import History
from pyro_vae.training.kinds import BATCH_SIZE, Data
from pyro_vae.training.labelled import Labelled, weighted
from pyro_vae.training.loop import Loop
from pyro_vae.training.precision import check_precision, program
from pyro_vae.training.recovery import Recovery
from pyro_vae.training.resumption import Resumption, resumption_of
from pyro_vae.training.shares import Shares
from pyro_vae.training.sources import Source
from pyro_vae.training.stepwise import Stepwise
from pyro_vae.training.together import agreed, begin_together
from pyro_vae.training.trackers import Tracker
from pyro_vae.training.whole_epochs import WholeEpochs
from pyro_vae.utils.checks import kind
from pyro_vae.utils.modules import count_of, device_of
from pyro_vae.utils.processes import Group, Processes, processes_of, together
from pyro_vae.utils.turns import one_training
from pyro_vae.utils.warn import warn

__all__ = ["COMPILED_FROM", "fit"]

Optimizer: TypeAlias = pyro.optim.PyroOptim | torch.optim.Optimizer | type[torch.optim.Optimizer]
"""What :func:`fit` takes as optimizer."""

COMPILED_FROM = 2000
"""Number of steps from which ``compile="auto"`` compiles; fewer do not repay the compilation."""

COMPILED_FROM_ON_GPU = 500
"""The same on a GPU, where uncompiled steps cost more in relation to compiled ones."""


@one_training
def fit(
    vae: Pair,
    train: Data,
    *,
    test: Data | None = None,
    validation: Data | float | None = None,
    epochs: int,
    batch_size: int = BATCH_SIZE,
    accumulate: int = 1,
    labelled: float | None = None,
    objective: ELBO | None = None,
    optim: Optimizer | None = None,
    pixels: Pixels | None = None,
    transform: Transform | None = None,
    seed: int | None = 0,
    compile: bool | Literal["auto"] = "auto",
    precision: Literal["float32", "bf16"] = "float32",
    callbacks: Sequence[Callback] = (),
    tracker: Tracker | None = None,
    average: Averaging | None = None,
    checkpoint: str | Path | None = None,
    checkpoint_every: str = "1 epoch",
    resume: bool = False,
    recovery: Recovery | None = None,
    process_group: Group = None,
) -> History:
    r"""Trains a VAE or another pair by stochastic variational inference, one step for each batch.

    It minimizes the objective, by default :math:`-E_q[\log p(x|z) + \log p(z) - \log q(z|x)]`,
    with ``pyro.infer.SVI``. Tensors and arrays stay on the pair's device. Their order, and that of
    a memmap or a map-style ``Dataset``, changes in each epoch. A ``DataLoader`` keeps its own
    order, workers and last batch. The same pair, data and seed give the same parameters, bit for
    bit, on the same machine, whichever kind the data have. Each epoch has random streams of its
    own for the order, for a loader, and for the noise, so a callback that draws random numbers
    does not change the training.

    Source: Kingma and Welling (2014), arXiv 1312.6114, algorithm 1.

    Arguments:
        vae: A VAE or any :class:`Pair`, which is trained in place. It is in train mode meanwhile;
            afterwards, each module has its mode back.
        train: Training data of shape ``(N, *x_shape)``: a tensor, a NumPy array or
            ``numpy.memmap``, a torch ``Dataset`` (map-style or iterable) of examples, a
            ``DataLoader`` or another iterable of batches that starts anew in each epoch. A tuple
            ``(x, *context)`` gives each example a context; the objective is then that of p(x|c).
            Float data are x already, with NaN for what is not observed where the likelihood takes
            it (``likelihoods.Observed``). uint8 levels need `pixels`, other integers and bools a
            `transform`; a pair that is no VAE takes them as they are.
        test: Test data of any such kind. Their -ELBO is evaluated in eval mode after each epoch.
            Levels become x once, with the draw of ``datasets.binarize(test, seed)``.
        validation: Data by which a training is ended or its rate is changed, of any kind that
            `test` has; or a fraction of the training data, taken at random by the seed, which are
            then not trained on.
        epochs: Number of passes over the training data.
        batch_size: Number of examples in a step. The last batch of an epoch may be smaller. Data
            that come in batches have a size of their own.
        accumulate: Cuts each batch into so many shares, and adds their gradients before the step:
            large batches in small memory. The step is that of the whole batch, but that each
            share has a random stream of its own, and steps are taken one by one.
        labelled: The share of labelled examples in each batch, for data ``(x, labels)`` in memory
            of which few have a label, and the others -1. Labelled examples are repeated; weights
            in the objective undo it, so that it is that of all data in the mean.
        objective: A Pyro ELBO. None takes ``objectives.trace_elbo()``.
        optim: A Pyro optimizer, or an optimizer of torch: a class, used with its default options,
            or an instance that holds the pair's parameters. None takes ``optim.Adam(lr=1e-3)``. A
            schedule that is a ``ReduceLROnPlateau`` advances each epoch by the validation cost, or
            by the test cost if there is none.
        pixels: How levels become x, see :func:`datasets.to_pixels`. Random pixels are drawn anew
            in each epoch.
        transform: A function from a batch, x or ``(x, *context)`` on the pair's device, to the
            batch that the pair takes. It comes after `pixels`; its random draws are part of the
            noise. The test data pass through it too, with the same draws in each epoch.
        seed: Seed of the order and the noise; torch's global generator is unchanged afterwards,
            unless the training is resumed.
            None draws from that generator. To continue a training, pass another seed, because the
            same one would repeat the pixels and the noise.
        compile: Compiles the loss and its gradient, see :func:`objectives.compiled`. ``"auto"``
            does so from 2,000 steps on, or from 500 on a GPU, if the objective is known to be
            static; if model or guide cannot be compiled, it warns and trains uncompiled. The
            seconds of the first epoch include the compilation. A compiled objective stays
            compiled.
        precision: ``"bf16"`` computes the networks in bfloat16, with parameters and densities in
            float32. The test set is always evaluated in float32.
        callbacks: Functions of the pair and the history so far, called after each epoch, such as
            :class:`EarlyStopping`. One that raises :class:`StopTraining` ends the training.
        tracker: Is told of the settings, each row of the history and its curves, such as
            :class:`TensorBoard`; see :class:`Tracker`.
        average: An exponential moving average of the parameters, for held-out costs and to be
            saved; see :class:`Averaging`.
        checkpoint: A folder for checkpoints of the training: the last two, and the best by
            validation cost, else by test cost. Each is one file, written aside, flushed to the
            disk and renamed, with a checksum. Training that is killed at any moment goes on from
            the last one, see `resume`. :func:`load_checkpoint` reads the parameters.
        checkpoint_every: ``"1 epoch"``, ``"500 steps"``, ``"10 min"`` or the like. A checkpoint is
            written at the end and after an interruption too, and after an epoch that is the best
            so far. Streams of data cannot go on within an epoch, so theirs are written after
            epochs.
        resume: Goes on from the last checkpoint, or begins if there is none. The result is that of
            a training without a break, bit for bit on the same machine, but for the seconds; the
            random generators of torch, NumPy and Python are put back too. All settings have to be
            the same, but for `epochs`, which may grow, and `checkpoint_every`. They are compared
            where they can be; the code of functions cannot.
        recovery: Goes back to the last checkpoint, with lower rates, after a loss that is not
            finite; see :class:`Recovery`.
        process_group: The processes of ``torch.distributed`` that train together, if it is
            initialized; None is its default group. All of them call `fit` with the same arguments,
            and begin with the parameters of the first. Each takes its share of each batch, and of
            the held-out data, and the first one writes. N processes train as one does with
            ``accumulate=N``.

    Returns:
        The history, in nats per example; see :class:`History`. Its attribute ``ended`` says
        whether a callback or Ctrl-C ended the training. Ctrl-C ends it after the step, and the
        history has the epochs before; a second one raises KeyboardInterrupt at once.

    Raises:
        TypeError, ValueError: An argument is out of range, or the data do not fit the pair or
            are off the set that it scores. Data in memory are checked before the first step, and
            those that come in batches at each batch.
        FileExistsError: `checkpoint` holds checkpoints, and `resume` is False.
        DamagedRun: All checkpoints are damaged. It is a ValueError.
        CheckpointError: A checkpoint cannot be written; it is an OSError. Those before are as
            they were.
        RuntimeError: Gradients are off, or another thread of this process trains.
            ``compile=True``, and model or guide cannot be compiled. ``torchrun`` began
            several processes, which have no process group; or they see other data.
        ConnectionError: Another process has ended.
        NonFiniteLoss: A loss or a parameter became NaN or infinite. The message names the epoch,
            the batch and the term; the step of such a loss is not taken.

    Warns:
        UserWarning: There are fewer examples than `batch_size`, so each epoch is one batch. The
            cost is above 1,000 nats for each number in x, as with a rate that is too high. The
            last checkpoint is damaged, so that the one before is used. ``torch.autocast`` is on,
            which rounds densities too.

    Example:
        >>> vae = presets.build("bernoulli-mlp", z_dim=2, shape=(28, 28))
        >>> x = torch.zeros(7, 28, 28)
        >>> history = fit(vae, x, test=x, epochs=2, batch_size=7)
        >>> len(history.cost), len(history.test_cost)
        (2, 2)
    """
    objective = trace_elbo() if objective is None else objective
    chosen = Adam(lr=1e-3) if optim is None else as_pyro(optim)
    check_settings(vae, epochs, batch_size, objective, seed, compile, callbacks)
    check_fraction(validation)
    check_plateau(chosen, test if validation is None else validation)
    check_precision(vae, precision)
    device = device_of(vae)
    processes = processes_of(device, process_group)
    check_shares(accumulate, processes, vae, objective, labelled)
    check_extras(average, recovery, checkpoint, callbacks, tracker, transform)

    with together(processes, "fit"):
        resumption = resumption_of(checkpoint, checkpoint_every, resume, epochs, device)
    given, seed = seed, agreed(seed, processes)
    with together(processes, "fit"):
        given_data = train, validation, test
        sources = sources_of(*given_data, batch_size, seed, epochs, device, resumption, labelled)
        set_up(vae, sources["train"], chosen, seed, pixels, transform)
        data = _prepared(sources, vae, pixels, transform, objective)
    shares = shares_of(accumulate, seed, processes)
    before = None
    if resumption is not None or processes is not None:
        plain = described(pixels, given, compile, precision, shares, average, recovery, labelled)
        own = Settings.of(vae, sources, objective, chosen, transform, callbacks, plain)
        before = _checked(own, vae, sources, objective, chosen, epochs, processes, resumption)
    total = None if (steps := data["train"].source.steps) is None else epochs * steps
    settings = _settings(vae, data["train"], epochs, objective, chosen, given, precision)
    objective = _with_terms(objective, compile, total or 0, device, before)
    extras = callbacks, tracker, average, resumption, recovery
    loop = _loop(vae, data, objective, chosen, seed, precision, total, shares, *extras)
    return loop.run(epochs, settings | {"compiled": isinstance(objective, Compiled)})


def _prepared(
    sources: Mapping[str, Source],
    vae: Pair,
    pixels: Pixels | None,
    transform: Transform | None,
    objective: ELBO,
) -> dict[str, Prepared]:
    """All data, checked against the pair and the objective, by argument."""
    how = vae, pixels, transform, traits(objective)
    with Interruption():  # Workers of loaders begin here, and are not to end by Ctrl-C.
        return {name: Prepared(source, *how) for name, source in sources.items()}


def _checked(
    settings: Settings,
    pair: Pair,
    sources: Mapping[str, Source],
    objective: ELBO,
    optim: pyro.optim.PyroOptim,
    epochs: int,
    processes: Processes | None,
    resumption: Resumption | None,
) -> bool | None:
    """Whether the training was compiled before; the settings are those of all processes."""
    if processes is not None:
        others = {"epochs": epochs, "checkpoint": None if resumption is None else str(resumption)}
        begin_together(processes, pair, sources, optim, settings, others)
    if resumption is None:
        return None
    resumption.processes = processes
    return resumption.check(settings, objective)


def _loop(
    vae: Pair,
    data: Mapping[str, Prepared],
    objective: WithTerms,
    optim: pyro.optim.PyroOptim,
    seed: int | None,
    precision: str,
    total: int | None,
    shares: Shares | None,
    callbacks: Sequence[Callback],
    tracker: Tracker | None,
    average: Averaging | None,
    resumption: Resumption | None,
    recovery: Recovery | None,
) -> Loop:
    """What trains the pair, all parts of it."""
    training, device = data["train"], data["train"].device
    test_loss, terms = _test_loss(objective, device), EpochTerms(objective, training.sites)
    model, guide = program(vae, precision)
    if isinstance(training.source, Labelled):
        model, guide = weighted((model, guide), training.source.weights)
    svi = SVI(model, guide, optim, loss=objective.loss, loss_and_grads=terms.loss_and_grads)
    after = begun(average, vae)
    whole = WholeEpochs(Stepwise(svi, training, terms, after, shares), vae, model, guide, optim)
    held_out = [HeldOut(data[n], test_loss, seed, shares) for n in COLUMN_OF if n in data]
    if resumption is not None:
        losses, programs = (objective, test_loss), (model, guide)
        state = State(vae, optim, losses, programs, callbacks, average)
        resumption.attach(state, whole, recovery)
    judged = vae
    if average is not None and average.evaluate and average.pair is not None:
        judged = average.pair
    parts = vae, whole, terms, optim, held_out, callbacks, tracker
    processes = None if shares is None else shares.processes
    return Loop(*parts, seed, device, total, resumption, judged, processes)


def _settings(
    pair: Pair,
    data: Prepared,
    epochs: int,
    objective: ELBO,
    optim: pyro.optim.PyroOptim,
    seed: int | None,
    precision: str,
) -> dict[str, Any]:
    """What a tracker is told of a training."""
    return {
        "pair": pair.name,
        "parameters": count_of(p for p in pair.parameters() if p.requires_grad),
        "examples": data.source.examples,
        "epochs": epochs,
        "batch_size": getattr(data.source, "batch_size", None),
        "objective": " of ".join(type(each).__name__ for each in layers(objective)),
        "optimizer": getattr(optim.pt_optim_constructor, "__name__", None),
        "pixels": data.pixels,
        "seed": seed,
        "precision": precision,
        "device": str(data.device),
    }


def _with_terms(
    objective: ELBO,
    compile: bool | Literal["auto"],
    steps: int,
    device: torch.device,
    before: bool | None = None,
) -> WithTerms:
    """The objective with its terms, compiled if requested or worth it.

    A training that goes on is compiled if it was before.
    """
    if isinstance(objective, WithTerms):
        return objective
    enough = COMPILED_FROM_ON_GPU if device.type == "cuda" else COMPILED_FROM
    pays = steps >= enough and traits(objective).is_static if before is None else before
    wanted = pays if compile == "auto" else compile
    *_, inner = layers(objective)
    if compile == "auto" and steps >= enough and (reason := no_graph(inner)):
        warn(f"the objective runs uncompiled: {kind(inner)} {reason}")
    if wanted:
        return Compiled(objective, strict=compile != "auto")
    return WithTerms(objective)


def _test_loss(objective: WithTerms, device: torch.device) -> ELBO:
    """The -ELBO of test batches; on a GPU as a recorded graph, if the training is compiled.

    Latents of the model alone are summed out if the objective does so.
    """
    *_, inner = layers(objective)
    elbo: ELBO = TraceEnum_ELBO() if isinstance(inner, TraceEnum_ELBO) else Trace_ELBO()
    if isinstance(inner, EnumeratedELBO):  # It marks the sites itself.
        elbo = enumerated()
    if isinstance(objective, Compiled) and device.type == "cuda":
        return Compiled(elbo, strict=False, by_inductor=False)
    return elbo
