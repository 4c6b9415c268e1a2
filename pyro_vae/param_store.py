"""A module's own tensors as Pyro's parameters: bound by name at each call, and let go of."""

import weakref
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyro
from pyro import poutine
from torch import Tensor, nn
from torch.distributions import constraints

from pyro_vae.compat import handlers, stored_constraints, stored_names, stored_parameters, tables


def bind(
    module: nn.Module, prefix: str, bound: dict[str, Tensor], parts: Sequence[nn.Module]
) -> dict[int, Tensor]:
    """Puts a module's trained tensors into Pyro's store, and asks for those of some parts.

    ``pyro.module`` would hand out whatever lives under a name already, and copy a weight that is
    not contiguous, so the tensors themselves are put into the store, at each call.

    Arguments:
        module: Their owner.
        prefix: Of their names: ``"<prefix>.<path>"``.
        bound: What this owner has bound by name; changed in place.
        parts: The submodules whose parameters the program reads.

    Returns:
        The values that handlers gave in place of parameters, by the parameters' ids.
    """
    names: dict[Tensor, str] = {}  # a shared tensor goes by the first of its names
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
    """A module's ``named_parameters``, repetitions included; at each step, so without the frills.

    torch's own takes a fifth of a step's overhead.
    """
    parameters, _, children = tables(module)
    for name, parameter in parameters.items():
        if parameter is not None:
            yield prefix + name, parameter
    for name, child in children.items():
        if child is not None:
            yield from _parameters(child, f"{prefix}{name}.")


class _Reference(weakref.ref):
    """The weak reference that Pyro wants of a parameter, to itself; a pickle leaves it out."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(None), ())


def _check_trace(current: Mapping[str, Tensor]) -> None:
    """Raises ValueError if a trace that is being made holds another VAE's tensor of a name."""
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
                        f"name: two VAEs in one trace have a parameter {name!r}, expected VAEs "
                        "of different names"
                    )


# By the name of a parameter, what the VAE has bound that was the last to bind one of this name.
_holders: dict[str, dict[str, Tensor]] = {}


def unbind(bound: dict[str, Tensor], current: Mapping[str, Tensor]) -> None:
    """Takes the bound tensors that are not among the current ones out of Pyro's store.

    Only what is still theirs: another VAE may have taken the name since, or share the tensor.
    """
    parameters, names = stored_parameters(), stored_names()
    bounds = stored_constraints()
    for name, tensor in list(bound.items()):
        if current.get(name) is tensor:
            continue
        del bound[name]
        if _holders.get(name) is bound:
            del _holders[name]
        elif parameters.get(name) is tensor:  # another VAE has bound it since: a shared part's
            continue
        if parameters.get(name) is tensor:
            del parameters[name]
            bounds.pop(name, None)
        if names.get(tensor) == name:
            del names[tensor]
