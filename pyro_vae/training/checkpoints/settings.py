"""The settings of a training, which a resumed one has to share."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pyro.optim
import torch
from pyro.infer import ELBO

from pyro_vae.objectives import described
from pyro_vae.optim import Held, JointOptim
from pyro_vae.pair import Pair
from pyro_vae.training.sources import Indexed, Source
from pyro_vae.utils.checks import plain
from pyro_vae.utils.modules import device_of

__all__ = ["Settings", "difference"]

_ROWS = 256  # examples whose values are compared


@dataclass(frozen=True)
class Settings:
    """What decides the numbers of a training, but for the number of its epochs.

    Attributes:
        values: Values of JSON by the argument of :func:`fit`.
    """

    values: Mapping[str, Any]

    @classmethod
    def of(
        cls,
        pair: Pair,
        sources: Mapping[str, Source],
        objective: ELBO,
        optim: pyro.optim.PyroOptim,
        transform: Callable[..., Any] | None,
        callbacks: Any,
        others: Mapping[str, Any],
    ) -> "Settings":
        """Describes the arguments of a training.

        Arguments:
            pair: The pair, after its first call.
            sources: The data by argument.
            objective, optim, transform, callbacks: Those arguments.
            others: Further arguments that are values of JSON.
        """
        data = {name: _data(sources.get(name)) for name in ("train", "validation", "test")}
        stateful = [
            f"{type(each).__name__} {getattr(each, 'settings', {})}"
            for each in callbacks
            if hasattr(each, "state_dict")
        ]
        return cls(
            {
                "vae": _pair(pair),
                **data,
                "objective": described(objective),
                "optim": _optim(optim),
                "transform": None if transform is None else _name(transform),
                "callbacks": stateful,
                "batch_size": plain(getattr(sources["train"], "batch_size", None)),
                "device": device_of(pair).type,
                **others,
            }
        )

    def check(self, saved: Mapping[str, Any], folder: object) -> None:
        """Raises ValueError for the first setting that differs from a saved one.

        Arguments:
            saved: The values of the other training.
            folder: Where its checkpoints are, for the message.
        """
        for name, value in self.values.items():
            if value != saved.get(name):
                got, expected = difference(value, saved.get(name))
                raise ValueError(
                    f"{name}: got {got}, expected {expected}, with which the training began whose "
                    f"checkpoints are in {folder}; resume=True goes on with the same settings, "
                    "but for epochs"
                )


def difference(value: Any, saved: Any) -> tuple[str, str]:
    """The parts of two values that differ first."""
    if isinstance(value, dict) and isinstance(saved, dict):
        key = next(k for k in {**value, **saved} if value.get(k) != saved.get(k))
        return f"{key} {value.get(key)!r}", f"{key} {saved.get(key)!r}"
    if isinstance(value, list) and isinstance(saved, list):
        pairs = zip([*value, "nothing"], [*saved, "nothing"], strict=False)
        got, expected = next((a, b) for a, b in pairs if a != b)
        return str(got), str(expected)
    return repr(value), repr(saved)


def _pair(pair: Pair) -> list[str]:
    """The tensors of a pair, but for those of ``pyro.param``, and the print of its modules."""
    tensors = [
        f"{name}: {tensor.dtype} {tuple(tensor.shape)}"
        for name, tensor in pair.state_dict().items()
        if isinstance(tensor, torch.Tensor) and not name.startswith("params.")
    ]
    modules = [f"{n}: {m!r}" for n, m in pair.named_children() if n != "params"]
    return [*tensors, *(line for module in modules for line in module.splitlines())]


def _data(source: Source | None) -> dict[str, Any] | None:
    """A description of data; of arrays with a checksum of some examples."""
    if source is None:
        return None
    if not isinstance(source, Indexed):
        return {"batches": source.steps, "generators": len(source.loader_state())}
    described: dict[str, Any] = {"examples": source.examples}
    if source.is_fixed:
        last = source.examples - 1
        places = torch.linspace(0, last, min(_ROWS, source.examples), dtype=torch.float64)
        index = places.round().long().cpu()
        digest = hashlib.sha256()
        entries = []
        for entry in source.take(index):
            entries.append(f"{entry.dtype} {tuple(entry.shape[1:])}")
            values = entry.detach().cpu().contiguous().reshape(-1)
            digest.update(values.view(torch.uint8).numpy().data)
        described |= {"entries": entries, "checksum": digest.hexdigest()}
    return described


def _optim(optim: pyro.optim.PyroOptim) -> dict[str, Any]:
    if isinstance(optim, Held):
        return {"class": type(optim.optimizer).__name__, **_texts(optim.optimizer.defaults)}
    options = optim.pt_optim_args
    described: dict[str, Any] = {
        "class": _name(optim.pt_optim_constructor),
        **(_texts(options) if isinstance(options, dict) else {"options": _name(options)}),
    }
    if isinstance(optim, JointOptim):
        described |= {"clip_norm": optim.clip_norm, "schedule": optim.schedule_name}
    else:
        scheduler = getattr(optim, "pt_scheduler_constructor", None)
        described |= {"schedule": None if scheduler is None else _name(scheduler)}
        described |= _texts(getattr(optim, "kwargs", {}))
        clip = optim.pt_clip_args
        described |= {"clip_args": repr(clip) if isinstance(clip, dict) else _name(clip)}
    return described


def _texts(options: Mapping[str, Any]) -> dict[str, str]:
    # A schedule may change a rate in place that is a tensor.
    return {
        name: "a tensor" if isinstance(value, torch.Tensor) else repr(value)
        for name, value in options.items()
    }


def _name(function: Any) -> str:
    return getattr(function, "__qualname__", type(function).__qualname__)
