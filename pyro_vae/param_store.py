"""A module's own tensors as Pyro's parameters, bound by name at each call."""

import weakref
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyro
from pyro import poutine
from torch import Tensor, nn
from torch.distributions import constraints

from pyro_vae.compat import handlers, stored_constraints, stored_names, stored_parameters, tables

__all__ = ["bind", "unbind"]


def bind(
    module: nn.Module, prefix: str, bound: dict[str, Tensor], parts: Sequence[nn.Module]
) -> dict[int, Tensor]:
    """Puts a module's trained tensors into Pyro's store, and calls ``pyro.param`` for some parts.

    ``pyro.module`` would return whatever tensor the store already has under a name, and would
    copy a parameter that is not contiguous. This puts the module's own tensors into the store, at
    each call.

    Arguments:
        module: The owner of the tensors.
        prefix: The prefix of their names, ``"<prefix>.<path>"``.
        bound: The tensors that this owner has bound, by name; updated in place.
        parts: The submodules whose parameters the program reads.

    Returns:
        The values that Pyro's handlers substituted for parameters (``lift``, ``replay``), by the
        id of the parameter.

    Raises:
        ValueError: One trace has two owners with the same prefix.
    """
    names: dict[Tensor, str] = {}  # A shared tensor has the first of its names.
    for name, parameter in _parameters(module, f"{prefix}."):
        if parameter.requires_grad:
            names.setdefault(parameter, name)
    current = {name: parameter for parameter, name in names.items()}
    unbind(bound, current)
    bound.update(current)
    _holders.update(dict.fromkeys(current, bound))
    pyro.get_param_store().set_state(
        {"params": current, "constraints": dict.fromkeys(current, constraints.real)}
    )
    _check_trace(current)
    used = {parameter for part in parts for _, parameter in _parameters(part)}
    swapped = {}
    for name, parameter in current.items():
        if parameter in used:
            value = pyro.param(name)
            parameter.unconstrained = _Reference(parameter)  # type: ignore[attr-defined]
            if value is not parameter:
                swapped[id(parameter)] = value
    return swapped


def _parameters(module: nn.Module, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """A module's ``named_parameters``, with repetitions.

    This runs at each step, and is faster than torch's own.
    """
    parameters, _, children = tables(module)
    for name, parameter in parameters.items():
        if parameter is not None:
            yield prefix + name, parameter
    for name, child in children.items():
        if child is not None:
            yield from _parameters(child, f"{prefix}{name}.")


class _Reference(weakref.ref):
    """A parameter's weak reference to itself, which Pyro expects. It is pickled as None."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(None), ())


def _check_trace(current: Mapping[str, Tensor]) -> None:
    """Raises ValueError if a trace in progress has another VAE's tensor under the same name."""
    store = pyro.get_param_store()
    for handler in handlers():
        if isinstance(handler, poutine.trace_messenger.TraceMessenger):
            nodes = handler.trace.nodes
            for name, parameter in current.items():
                site = nodes.get(name)
                if site is None or site["type"] != "param":
                    continue
                other = getattr(site["value"], "unconstrained", lambda: None)()
                if other is None or other is parameter:
                    continue
                if store.param_name(other) == name:
                    raise ValueError(
                        f"name: got two VAEs with a parameter {name!r} in one trace, expected "
                        "VAEs of different names"
                    )


# For each parameter's name, the `bound` of the owner that bound it last.
_holders: dict[str, dict[str, Tensor]] = {}


def unbind(bound: dict[str, Tensor], current: Mapping[str, Tensor]) -> None:
    """Removes bound tensors that are no longer current from Pyro's store.

    A name stays if another owner has bound it since, with a tensor of its own or a shared one.

    Arguments:
        bound: The tensors that an owner has bound, by name; updated in place.
        current: The tensors to keep, by name.
    """
    parameters, names = stored_parameters(), stored_names()
    bounds = stored_constraints()
    for name, tensor in list(bound.items()):
        if current.get(name) is tensor:
            continue
        del bound[name]
        if _holders.get(name) is bound:
            del _holders[name]
        elif parameters.get(name) is tensor:  # Another owner shares the tensor, and bound it.
            continue
        if parameters.get(name) is tensor:
            del parameters[name]
            bounds.pop(name, None)
        if names.get(tensor) == name:
            del names[tensor]
