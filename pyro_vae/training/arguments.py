"""The arguments of ``fit``: checks, sources of data, and the pair's first call."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pyro.optim
import torch
from pyro.infer import ELBO
from torch import nn
from torch.nn.parameter import is_lazy

from pyro_vae.datasets import Pixels
from pyro_vae.objectives import check_elbo, free_bits_of, schedule_of, traits
from pyro_vae.optim import Held, JointOptim
from pyro_vae.pair import Pair, check_pair
from pyro_vae.training.averaging import Averaging
from pyro_vae.training.callbacks import Callback
from pyro_vae.training.data import Transform, as_given
from pyro_vae.training.early_stopping import EarlyStopping
from pyro_vae.training.held_out import is_fraction, split
from pyro_vae.training.kinds import Data, source_of
from pyro_vae.training.labelled import check_labelled, labelled_of
from pyro_vae.training.recovery import Recovery
from pyro_vae.training.resumption import Resumption
from pyro_vae.training.shares import Shares
from pyro_vae.training.sources import Source
from pyro_vae.training.trackers import check_tracker
from pyro_vae.utils.checks import (
    check_count,
    check_flag,
    check_function,
    check_seed,
    kind,
    plain,
)
from pyro_vae.utils.modules import device_of, evaluating
from pyro_vae.utils.processes import Processes
from pyro_vae.utils.random import seeded
from pyro_vae.utils.warn import warn
from pyro_vae.vae import VAE

__all__ = [
    "begun",
    "check_extras",
    "check_gradients",
    "check_plateau",
    "check_settings",
    "check_shares",
    "check_trained",
    "described",
    "set_up",
    "shares_of",
    "sources_of",
]

_SETUP = 2**31 + 1  # the random stream of a pair's first call; those of the epochs are 1, 2, ...


def sources_of(
    train: Data,
    validation: Data | float | None,
    test: Data | None,
    batch_size: int,
    seed: int | None,
    epochs: int,
    device: torch.device,
    resumption: Resumption | None,
    labelled: float | None = None,
) -> dict[str, Source]:
    """The sources of all data, by argument."""
    given: dict[str, Any] = {"train": train, "test": test, "validation": validation}
    begin = 1 if resumption is None else resumption.first_epoch
    for argument in ("test", "validation"):
        if getattr(train, "persistent_workers", False) and given[argument] is train:
            raise ValueError(
                f"{argument}: got the loader that train has, with persistent_workers=True, of "
                "which torch makes one iterator, expected a loader of its own"
            )
    sources = {
        argument: source_of(
            argument,
            data,
            batch_size=plain(batch_size),
            seed=seed,
            epochs=epochs,
            device=device,
            begin=begin,
        )
        for argument, data in given.items()
        if argument == "train"
        or not (data is None or (argument == "validation" and is_fraction(data)))
    }
    if is_fraction(validation):
        sources |= split(sources["train"], validation, seed)
    if resumption is not None:
        resumption.load_loaders(sources)
    _check_size(sources["train"], batch_size)
    if labelled is not None:
        sources["train"] = labelled_of(sources["train"], labelled)
    return sources


def set_up(
    pair: Pair,
    source: Source,
    optim: pyro.optim.PyroOptim,
    seed: int | None,
    pixels: Pixels | None,
    transform: Transform | None,
) -> None:
    """Makes the parameters that a pair makes in its first call, and checks a torch optimizer."""
    before = {id(p) for p in pair.parameters()}
    if not isinstance(pair, VAE):
        with evaluating(pair), seeded(seed, _SETUP, device=device_of(pair)):
            with torch.no_grad():
                first = as_given(source.first(), pair, pixels, transform)
            try:
                pair.setup(*first)
            except RuntimeError as error:
                reason = str(error).splitlines()[0]
                raise ValueError(
                    f"train: got a first batch on which model or guide fails ({reason}), expected "
                    "shapes and dtypes that they take"
                ) from error
    check_trained(pair)
    if isinstance(optim, Held):
        held = {id(p) for group in optim.optimizer.param_groups for p in group["params"]}
        own = {id(p): name for name, p in pair.named_parameters()}
        if not held & own.keys():
            raise ValueError(
                "optim: got a torch optimizer that holds none of the pair's parameters, expected "
                "one of pair.parameters()"
            )
        new = [name for key, name in own.items() if key not in before | held]
        if new:
            raise ValueError(
                f"optim: got a torch optimizer that was made before the parameter {new[0]}, "
                "expected one made after pair.setup(x)"
            )


def check_shares(
    accumulate: Any,
    processes: Processes | None,
    pair: Pair,
    objective: ELBO,
    labelled: float | None = None,
) -> None:
    """Raises TypeError or ValueError unless the gradients of shares of a batch can be added."""
    check_count("accumulate", accumulate)
    count = 1 if processes is None else processes.size
    check_labelled(labelled, objective, accumulate * count > 1)
    if accumulate * count == 1:
        return
    got = f"accumulate: got {accumulate}" if count == 1 else f"fit: runs in {count} processes"
    if not traits(objective).is_sum and free_bits_of(objective) is None:
        raise ValueError(
            f"{got} with {kind(objective)}, whose loss is no sum over examples, expected an "
            "objective that is one, such as trace_elbo()"
        )
    found = next((path for path, m in pair.named_modules() if _has_statistics(m)), None)
    if found is not None:
        raise ValueError(
            f"{got} with batch norm in {found}, or an instance norm with running statistics, "
            "which would be those of a share, expected another norm, such as GroupNorm or "
            "LayerNorm"
        )


def _has_statistics(module: nn.Module) -> bool:
    """Whether a module has statistics over examples, which shares do not add up to."""
    batch = nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm
    lazy = nn.LazyBatchNorm1d, nn.LazyBatchNorm2d, nn.LazyBatchNorm3d
    instance = nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d
    if isinstance(module, instance):
        return module.track_running_stats
    return isinstance(module, (*batch, *lazy))


def shares_of(accumulate: int, seed: int | None, processes: Processes | None) -> Shares | None:
    """How each batch is cut; None if it is not."""
    count = plain(accumulate) * (1 if processes is None else processes.size)
    return Shares(count, seed, processes) if count > 1 else None


def check_extras(
    average: object,
    recovery: object,
    checkpoint: object,
    callbacks: Sequence[Callback],
    tracker: object,
    transform: object,
) -> None:
    """Raises TypeError or ValueError unless these fit the other arguments."""
    check_tracker(tracker)
    check_function("transform", transform, none=True)
    if average is not None and not isinstance(average, Averaging):
        raise TypeError(f"average: got {kind(average)}, expected an Averaging or None")
    if recovery is not None and not isinstance(recovery, Recovery):
        raise TypeError(f"recovery: got {kind(recovery)}, expected a Recovery or None")
    if recovery is not None and checkpoint is None:
        raise ValueError(
            "recovery: got one without checkpoint=, expected a folder there, to go back to"
        )
    restoring = [c for c in callbacks if isinstance(c, EarlyStopping) and c.restore_best]
    if isinstance(average, Averaging) and average.evaluate and restoring:
        raise ValueError(
            "average: got one that is evaluated, with EarlyStopping(restore_best=True), which "
            "would restore the parameters that are not averaged, expected restore_best=False; "
            "load_checkpoint(best=True, averaged=True) reads the best average"
        )


def described(
    pixels: Pixels | None,
    seed: int | None,
    compile: object,
    precision: str,
    shares: Shares | None,
    average: Averaging | None,
    recovery: Recovery | None,
    labelled: float | None,
) -> dict[str, object]:
    """Arguments that decide the numbers of a training, as values of JSON."""
    return {
        "pixels": pixels,
        "seed": None if seed is None else int(seed),
        "compile": plain(compile),
        "precision": precision,
        "accumulate (times processes)": 1 if shares is None else shares.count,
        "average": None if average is None else [average.decay, average.evaluate],
        "recovery": None if recovery is None else str(recovery),
        "labelled": None if labelled is None else float(labelled),
    }


def check_gradients(place: str = "fit") -> None:
    """Raises RuntimeError if gradients are off, so that no step would change a parameter."""
    if torch.is_inference_mode_enabled() or not torch.is_grad_enabled():
        raise RuntimeError(
            f"{place}: gradients are off here (by torch.no_grad, set_grad_enabled(False) or "
            "inference_mode), expected them on: no step would change a parameter"
        )


def check_trained(pair: Pair) -> None:
    """Raises ValueError if a pair has nothing to train."""
    if any(p.is_meta for p in pair.parameters()):
        raise ValueError(
            "vae: got parameters on the device meta, which have no values; to_empty(device=...) "
            "gives them memory"
        )
    if any(not is_lazy(p) and p.is_inference() for p in pair.parameters()):
        raise ValueError(
            "vae: got parameters that were made within torch.inference_mode, which have no "
            "gradients, expected a pair that was built outside of it"
        )
    if not any(p.requires_grad for p in pair.parameters()):
        raise ValueError(
            "vae: has no parameter that requires grad, expected one: no step would change anything"
        )


def begun(average: Averaging | None, pair: Pair) -> Callable[[], object]:
    """Starts the average of a pair's parameters; what is called after each step."""
    if average is None:
        return lambda: None
    average.begin(pair)
    return average.update


def check_plateau(optim: pyro.optim.PyroOptim, held_out: object) -> None:
    """Raises ValueError if a schedule needs a cost, and there are no held-out data."""
    if isinstance(optim, JointOptim) and optim.needs_cost and held_out is None:
        raise ValueError(
            "schedule: got a ReduceLROnPlateau and neither validation nor test data, expected "
            "validation= or test=, by whose cost it advances"
        )


def _check_size(source: Source, batch_size: int) -> None:
    """Warns if an epoch has less than one batch of the size that was asked for."""
    examples = source.examples
    if examples is not None and examples < batch_size:
        warn(
            f"batch_size: got {batch_size} for {examples} training examples, so each epoch is "
            f"one batch of {examples}"
        )


def check_settings(
    vae: Pair,
    epochs: int,
    batch_size: int,
    objective: ELBO,
    seed: int | None,
    compile: object,
    callbacks: Sequence[Callback],
) -> None:
    """Raises TypeError or ValueError if an argument is out of range, or gradients are off."""
    check_gradients()
    check_pair(vae)
    check_count("epochs", epochs)
    check_count("batch_size", batch_size)
    check_elbo(objective, "objective")
    if (annealed := schedule_of(objective)) is not None and annealed.is_over:
        warn(
            f"objective: got a warm_up whose {int(annealed.taken)} steps are taken already, so "
            "the KL has its last weight from the first step, expected a new one for each training"
        )
    check_seed(seed)
    check_flag("compile", compile, auto=True)
    if not isinstance(callbacks, Iterable):
        raise TypeError(f"callbacks: got {kind(callbacks)}, expected a list of functions")
    for callback in callbacks:
        if not callable(callback) or isinstance(callback, type):
            raise TypeError(
                f"callbacks: got {callback!r} among them, expected only functions; a tracker, "
                "such as TensorBoard, is given as tracker="
            )
