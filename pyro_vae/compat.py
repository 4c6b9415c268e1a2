"""Private names of torch and Pyro on which this package relies, all in one place.

Nothing else in the package imports from a private module of torch or Pyro, or reads a private
attribute of their objects; ``tests/test_compat.py`` fails first where one of them moves. Seen in
torch 2.6 to 2.14 and Pyro 1.9.1 to 1.9.2, but for what says otherwise.

Three kinds of underscore are left where they are, since a subclass has to bear the name: methods
that Pyro's and torch's classes call on their subclasses (``ELBO._get_trace``,
``Messenger._pyro_sample``, ``Distribution._get_checked_instance`` and ``_validate_sample``), and
the state of a base class that a subclass keeps (``PyroOptim._state_waiting_to_be_consumed``,
``Distribution._validate_args``).
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pyro
import torch
from pyro.infer import ELBO
from pyro.poutine.runtime import _PYRO_STACK, effectful
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.fx import GraphModule
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakIdKeyDictionary

__all__ = [
    "OpOverload",
    "StorageWeakRef",
    "TorchDispatchMode",
    "WeakIdKeyDictionary",
    "batch_norms",
    "changes",
    "compile_graph",
    "cpp_compiler",
    "fake_tensors",
    "guess_plates",
    "handlers",
    "has_bfloat16_products",
    "is_jit_tracing",
    "onednn_linear",
    "parameter_site",
    "pytree",
    "schema",
    "stored_constraints",
    "stored_names",
    "stored_parameters",
    "tables",
    "unchecked_distributions",
]

# Pyro.

parameter_site = effectful(lambda tensor: tensor, type="param")
"""Tells the handlers in force of a parameter site, as ``pyro.param`` does."""


def handlers() -> Sequence[Any]:
    """Pyro's effect handlers in force, the outermost first."""
    return _PYRO_STACK


def stored_parameters() -> dict[str, Tensor]:
    """The parameter store's unconstrained tensors by name; changes are changes of the store."""
    return pyro.get_param_store()._params


def stored_constraints() -> dict[str, Any]:
    """The parameter store's constraints by name; changes are changes of the store."""
    return pyro.get_param_store()._constraints


def stored_names() -> dict[Tensor, str]:
    """The parameter store's names by unconstrained tensor; changes are changes of the store."""
    return pyro.get_param_store()._param_to_name


def guess_plates(elbo: ELBO, model: Any, guide: Any, args: Any, kwargs: Any) -> None:
    """Lets an ELBO find its ``max_plate_nesting``, as its first loss would."""
    elbo._guess_max_plate_nesting(model, guide, args, kwargs)


# Tensors, modules and operators of torch.


def changes(tensor: Tensor) -> int:
    """Counts a tensor's changes in place; -1 where torch does not count them (inference mode)."""
    return -1 if tensor.is_inference() else tensor._version


def tables(module: nn.Module) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """A module's own parameters, buffers and submodules by name, None among them."""
    return module._parameters, module._buffers, module._modules


def schema(operator: OpOverload) -> Any:
    """What an operator takes and gives, and what of it it writes over or shares memory with."""
    return operator._schema


def batch_norms() -> set[OpOverload]:
    """Operators that write over their running means and variances, unlike what schemas say."""
    aten = torch.ops.aten
    return {
        aten.native_batch_norm.default,
        aten.cudnn_batch_norm.default,
        aten.miopen_batch_norm.default,
    }


def is_jit_tracing() -> bool:
    """Whether ``torch.jit.trace`` is at work."""
    return bool(torch._C._get_tracing_state())


def has_bfloat16_products() -> bool:
    """Whether oneDNN has fast matrix products in bfloat16 on this processor."""
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def onednn_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``x @ weight.T + bias`` by oneDNN, in float32 on a CPU."""
    return torch.ops.mkldnn._linear_pointwise.default(x, weight, bias, "none", [], "")


# Tracing and compiling, whose modules are imported where they are needed: they are slow to.


def fake_tensors() -> tuple[Any, tuple[type[Exception], ...]]:
    """A mode in which tensors have no values, and the errors of a program that reads one."""
    from torch._subclasses.fake_tensor import (
        DataDependentOutputException,
        DynamicOutputShapeException,
        FakeTensorMode,
    )

    errors = (DataDependentOutputException, DynamicOutputShapeException)
    return FakeTensorMode(allow_non_fake_inputs=True), errors


def compile_graph(traced: GraphModule, inputs: Sequence[Tensor]) -> Callable[..., Any]:
    """Inductor's code of a graph, which draws torch's own random numbers."""
    from torch._inductor import compile

    return compile(traced, list(inputs), options={"fallback_random": True})


def cpp_compiler() -> str | None:
    """Inductor's C++ compiler on this machine; None where there is none."""
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        return get_cpp_compiler()
    except InvalidCxxCompiler:
        return None


@contextmanager
def unchecked_distributions() -> Iterator[None]:
    """Distributions without checks of values, even those told to check, or made before."""
    cls = torch.distributions.Distribution
    init, validate = cls.__init__, cls._validate_sample

    def unchecked(self: Any, *args: Any, **kwargs: Any) -> None:
        kwargs["validate_args"] = False
        init(self, *args[:2], **kwargs)

    try:
        cls.__init__ = unchecked  # type: ignore[method-assign]
        cls._validate_sample = lambda self, value: None  # type: ignore[method-assign]
        yield
    finally:
        cls.__init__ = init  # type: ignore[method-assign]
        cls._validate_sample = validate  # type: ignore[method-assign]
