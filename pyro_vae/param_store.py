"""A module's own tensors as Pyro's parameters, bound by name at each call."""

import weakref
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn
from torch.distributions import constraints, transform_to
from torch.distributions.constraints import Constraint

from pyro_vae.compat import handlers, stored_constraints, stored_names, stored_parameters, tables
from pyro_vae.utils.checks import kind

__all__ = ["OwnParameters", "Params", "apart", "bind", "release"]


def bind(
    module: nn.Module,
    prefix: str,
    bound: dict[str, Tensor],
    parts: Sequence[nn.Module],
    *,
    silent: Collection[int] = (),
    bounds: Mapping[str, Constraint] | None = None,
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
        silent: The ids of parameters for which ``pyro.param`` is not called here.
        bounds: The constraints of parameters by name; the others are real.

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
    _unbind(bound, current)
    bound.update(current)
    _holders.update(dict.fromkeys(current, bound))
    real = dict.fromkeys(current, constraints.real)
    own = {name: bound for name, bound in (bounds or {}).items() if name in current}
    pyro.get_param_store().set_state({"params": current, "constraints": {**real, **own}})
    _check_trace(current)
    used = {parameter for part in parts for _, parameter in _parameters(part)}
    swapped = {}
    for name, parameter in current.items():
        if parameter in used and id(parameter) not in silent:
            value = pyro.param(name)
            _refer(parameter)
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


def _refer(parameter: Tensor) -> None:
    """Gives a parameter the reference to itself that Pyro expects of a ``pyro.param``."""
    parameter.unconstrained = _Reference(parameter)  # type: ignore[attr-defined]


class _Reference(weakref.ref):
    """A parameter's weak reference to itself, which Pyro expects. It is pickled as None."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(None), ())


def _check_trace(current: Mapping[str, Tensor]) -> None:
    """Raises ValueError if a trace in progress has another pair's tensor under the same name."""
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
                        f"name: got two pairs with a parameter {name!r} in one trace, expected "
                        "pairs of different names"
                    )


# For each parameter's name, the `bound` of the owner that bound it last.
_holders: dict[str, dict[str, Tensor]] = {}

# For each store that is put aside, what owners that have gone since had bound.
_waiting: list[list[dict[str, Tensor]]] = []


@contextmanager
def apart() -> Iterator[None]:
    """Runs a block with a parameter store of its own, which is empty at first.

    The garbage collector may end an owner at any moment: while its tensors are not in sight, and
    while the store is read. They leave it afterwards.
    """
    gone: list[dict[str, Tensor]] = []
    _waiting.append(gone)
    try:
        with pyro.get_param_store().scope():
            yield
    finally:
        # `scope` copies the store, by which Pyro's parameters lose this.
        for parameter in stored_parameters().values():
            if not hasattr(parameter, "unconstrained"):
                _refer(parameter)
        # By identity: another thread may have put a list behind this one.
        del _waiting[next(i for i, each in enumerate(_waiting) if each is gone)]
        for bound in list(gone):
            release(bound)


def release(bound: dict[str, Tensor]) -> None:
    """Removes all that an owner has bound from Pyro's store, as soon as it can be changed."""
    if _waiting:
        _waiting[-1].append(bound)
    else:
        _unbind(bound, {})


def _unbind(bound: dict[str, Tensor], current: Mapping[str, Tensor]) -> None:
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


class Params(nn.Module):
    """The parameters that ``pyro.param`` made, by name, in their unconstrained space.

    The names in ``state_dict`` have ``%2E`` for a dot. Loading a state makes those that are not
    there yet.

    Attributes:
        bounds: The constraints of the pair's parameters, by their names in Pyro's store.
        is_whole: Whether model and guide have made all of them.
    """

    def __init__(self) -> None:
        super().__init__()
        self.bounds: dict[str, Constraint] = {}
        self.is_whole = False
        # It is moved with the pair, and shows where parameters that are made later belong.
        self.place: Tensor
        self.register_buffer("place", torch.empty(0), persistent=False)
        self._first = torch.empty(0).device, torch.empty(0).dtype

    def __getitem__(self, name: str) -> nn.Parameter:
        return tables(self)[0][_escaped(name)]

    def __setitem__(self, name: str, value: Tensor) -> None:
        self.register_parameter(_escaped(name), nn.Parameter(self.placed(value)))

    def placed(self, value: Tensor, dtype: bool = True) -> Tensor:
        """A copy of a value, on the device and in the dtype to which the pair has been moved."""
        device, kind = self._first
        value = value.detach().clone()
        if self.place.device != device:
            value = value.to(self.place.device)
        return value.to(self.place.dtype) if dtype and self.place.dtype != kind else value

    def __delitem__(self, name: str) -> None:
        del tables(self)[0][_escaped(name)]

    def __contains__(self, name: str) -> bool:
        return _escaped(name) in tables(self)[0]

    def __iter__(self) -> Iterator[str]:
        return (_unescaped(key) for key in tables(self)[0])

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        for key, value in state_dict.items():
            name = key.removeprefix(prefix)
            if key.startswith(prefix) and name not in tables(self)[0] and not self.is_whole:
                self.register_parameter(name, nn.Parameter(self.placed(value, dtype=False)))
        super()._load_from_state_dict(state_dict, prefix, *args)


def _escaped(name: str) -> str:
    return name.replace("%", "%25").replace(".", "%2E")


def _unescaped(key: str) -> str:
    return key.replace("%2E", ".").replace("%25", "%")


class OwnParameters(Messenger):
    """Answers ``pyro.param`` with a pair's own parameters.

    Arguments:
        owner: The pair.
        name: The prefix of the parameters' names in the store.
        params: The parameters that ``pyro.param`` has made, a submodule ``params`` of the pair.
        swapped: The values that Pyro's handlers substituted for parameters (``lift``,
            ``replay``), by the id of the parameter.
        made: The ids of parameters that have constraints, or may have them.

    Attributes:
        bounds: The constraints of the parameters that ``pyro.param`` and PyroParams have read, by
            their names in the store.
        known: Tensors that are no parameters of the pair, and that its program may read: initial
            values.
    """

    def __init__(
        self,
        owner: nn.Module,
        name: str,
        params: Params,
        swapped: dict[int, Tensor],
        made: set[int],
    ) -> None:
        super().__init__()
        self.owner = owner
        self.name = name
        self.params = params
        self.swapped = swapped
        self.made = made
        self.bounds: dict[str, Constraint] = {}
        self.known: list[Tensor] = []
        self._paths: dict[int, str] = {}

    @contextmanager
    def values(self) -> Iterator[None]:
        """Puts the substituted values in the place of parameters, inside the block."""
        if not self.swapped:
            yield
            return
        before = []
        for module in self.owner.modules():
            own = tables(module)[0]
            before += [(own, name, p) for name, p in own.items() if id(p) in self.swapped]
        try:
            for own, name, parameter in before:
                own[name] = self.swapped[id(parameter)]
            yield
        finally:
            for own, name, parameter in before:
                own[name] = parameter

    def _path(self, tensor: object) -> str | None:
        """The path of a tensor among the pair's parameters, or None."""
        if id(tensor) not in self._paths:
            own = self.owner.named_parameters(remove_duplicate=False)
            self._paths = {id(p): path for path, p in reversed(list(own))}
        return self._paths.get(id(tensor))

    def _pyro_param(self, msg: Any) -> None:
        name, (_, *rest) = msg["name"], msg["args"]
        initial = rest[0] if rest else None
        # The store has PyroParams, and parameters of a VAE inside the program.
        held = stored_parameters().get(name) if initial is None else initial
        path = self._path(held)
        if path is not None and initial is held and id(held) not in self.made:
            self._check_real(name, msg["kwargs"]["constraint"])
        if id(held) in self.swapped or (path is not None and id(held) not in self.made):
            # A parameter of a module, for which `bind` has called `pyro.param`.
            msg["fn"] = lambda *args, **kwargs: self.swapped.get(id(held), held)
            msg["stop"] = True
        elif path is not None:
            constraint = stored_constraints().get(name, constraints.real)
            if name in pyro.get_param_store():  # Another PyroModule may have the same name.
                del pyro.get_param_store()[name]
            self._answer(msg, held, path, constraint)
        elif "$$$" in name and isinstance(initial, nn.Parameter):
            module = name.split("$$$")[0]
            raise ValueError(
                f'pyro.module("{module}", ...): got a module that the pair does not have, '
                f"expected it as a keyword: Pair(model, guide, {module}={module})"
            )
        else:
            self._answer_made(msg, name, initial)

    @staticmethod
    def _check_real(name: str, constraint: Constraint) -> None:
        if not isinstance(constraint, type(constraints.real)):
            raise ValueError(
                f'pyro.param("{name}"): got a parameter of a module with the constraint '
                f"{constraint}, expected no constraint, or a tensor as initial value: the module "
                "keeps the parameter itself, which is not constrained"
            )

    def _answer_made(self, msg: Any, name: str, initial: Any) -> None:
        """Answers a ``pyro.param`` of the program, whose parameter may be made now."""
        params, constraint = self.params, msg["kwargs"]["constraint"]
        path = f"params.{_escaped(name)}"
        if initial is None and name in params:
            if f"{self.name}.{path}" not in params.bounds:
                raise ValueError(
                    f'pyro.param("{name}"): its value was loaded, and its constraint is not known '
                    "yet, expected pair.setup(*batch) first, which runs the guide and the model"
                )
            constraint = params.bounds[f"{self.name}.{path}"]
        if name not in params:
            if initial is None:
                raise ValueError(
                    f'pyro.param("{name}"): got no initial value, expected one at its first call'
                )
            value = initial() if callable(initial) else initial
            if not isinstance(value, Tensor) or not value.is_floating_point():
                raise TypeError(
                    f'pyro.param("{name}"): got {kind(value)} as initial value, expected a '
                    "floating-point tensor"
                )
            self.known.append(value)
            with torch.no_grad():
                params[name] = transform_to(constraint).inv(value)
            self.made.add(id(params[name]))
        self._answer(msg, params[name], path, constraint)

    def _answer(self, msg: Any, parameter: Any, path: Any, constraint: Constraint) -> None:
        """Answers with a parameter in its constrained space."""
        name = f"{self.name}.{path}"
        self.bounds[name] = self.params.bounds[name] = constraint

        def value(*args: Any, **kwargs: Any) -> Tensor:
            constrained: Tensor = transform_to(constraint)(parameter)
            if constrained is parameter:
                _refer(parameter)
            else:
                constrained.unconstrained = weakref.ref(parameter)  # type: ignore[attr-defined]
            return constrained

        msg["name"], msg["args"], msg["fn"] = name, (name,), value
        msg["stop"] = not parameter.requires_grad  # A fixed one is no parameter of Pyro.
