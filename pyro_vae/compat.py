"""Private names of torch and Pyro on which this package relies, all in one place.

No other module imports from a private module of torch or Pyro or reads a private attribute of
their objects. ``tests/test_compat.py`` tests each name, and fails first when one moves. They exist
in torch 2.6 to 2.14 and in Pyro 1.9.1 and 1.9.2. Two kinds stay where a subclass must have them:

* methods that torch and Pyro call on their subclasses: ``ELBO._get_trace``,
  ``ELBO._guess_max_plate_nesting``, ``Messenger._pyro_sample``, ``Transform._call``,
  ``_inverse``, ``Distribution._get_checked_instance``, ``Distribution._validate_sample`` and
  ``Module._load_from_state_dict``;
* the state of a base class that a subclass keeps:
  ``PyroOptim._state_waiting_to_be_consumed``, ``Distribution._validate_args``.
"""

import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pyro
import torch
from pyro.distributions import MaskedDistribution
from pyro.infer import ELBO
from pyro.infer.traceenum_elbo import _compute_model_factors as model_factors
from pyro.nn import PyroModule
from pyro.optim import PyroOptim
from pyro.poutine import Trace
from pyro.poutine.runtime import _PYRO_STACK, effectful
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.fx import GraphModule
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import _get_current_function_mode_stack
from torch.utils import _pytree as pytree
from torch.utils._device import DeviceContext
from torch.utils._python_dispatch import TorchDispatchMode, _get_current_dispatch_mode_stack
from torch.utils.weak import WeakIdKeyDictionary

__all__ = [
    "OpOverload",
    "StorageWeakRef",
    "TorchDispatchMode",
    "UnloggedELBO",
    "WeakIdKeyDictionary",
    "batch_norms",
    "changes",
    "collected_traces",
    "compile_graph",
    "cpp_compiler",
    "fake_tensors",
    "fused_adam",
    "global_hooks",
    "guess_plates",
    "handlers",
    "has_bfloat16_products",
    "has_hooks",
    "intercepted",
    "is_compiled",
    "is_jit_tracing",
    "masked",
    "model_factors",
    "module_hooks",
    "onednn_linear",
    "packed_dims",
    "parameter_site",
    "pytree",
    "schema",
    "stored_constraints",
    "stored_names",
    "stored_parameters",
    "tables",
    "tensor_hooks",
    "unchecked_distributions",
    "unconstrained_parameters",
    "unlogged_guess",
    "without_onednn",
]

# Pyro.

parameter_site = effectful(lambda tensor: tensor, type="param")
"""Sends a parameter site to the active handlers, as ``pyro.param`` does."""


def handlers() -> Sequence[Any]:
    """Pyro's active effect handlers, the outermost first."""
    return _PYRO_STACK


def stored_parameters() -> dict[str, Tensor]:
    """The parameter store's unconstrained tensors by name; the store's own dict, not a copy."""
    return pyro.get_param_store()._params


def masked(distribution: Any) -> tuple[Tensor | bool, int] | None:
    """The mask of a distribution that is masked, or is around one that is; None without any.

    Beside the mask, which is one of batches, is the number of event dimensions right of it.
    """
    while distribution is not None and not isinstance(distribution, MaskedDistribution):
        distribution = getattr(distribution, "base_dist", None)
    return distribution and (distribution._mask, len(distribution.event_shape))


def packed_dims(value: Tensor) -> str:
    """The symbols of a packed tensor's dimensions, see ``pyro.ops.packed``."""
    dims: str = vars(value)["_pyro_dims"]
    return dims


def waiting_state(optim: PyroOptim) -> dict[str, Any]:
    """The loaded states that wait for the next step of their parameters; the optimizer's dict."""
    return optim._state_waiting_to_be_consumed


def stored_constraints() -> dict[str, Any]:
    """The parameter store's constraints by name; the store's own dict, not a copy."""
    return pyro.get_param_store()._constraints


def stored_names() -> dict[Tensor, str]:
    """The parameter store's names by unconstrained tensor; the store's own dict, not a copy."""
    return pyro.get_param_store()._param_to_name


def unconstrained_parameters(module: PyroModule) -> list[Tensor]:
    """The parameters of a PyroModule's own PyroParams, in their unconstrained space."""
    own = module._parameters
    return [own[f"{name}_unconstrained"] for name in module._pyro_params]


def guess_plates(elbo: ELBO, model: Any, guide: Any, args: Any, kwargs: Any) -> None:
    """Sets an ELBO's ``max_plate_nesting``, as its first loss would, but does not log it."""
    with unlogged_guess():
        elbo._guess_max_plate_nesting(model, guide, args, kwargs)


@contextmanager
def unlogged_guess() -> Iterator[None]:
    """Keeps Pyro from logging its guess of ``max_plate_nesting`` inside the block."""
    logger = logging.getLogger(ELBO.__module__)
    before = logger.disabled
    logger.disabled = True
    try:
        yield
    finally:
        logger.disabled = before


class UnloggedELBO(ELBO):
    """An ELBO whose guess of ``max_plate_nesting`` is not logged."""

    def _guess_max_plate_nesting(self, *args: Any) -> None:
        with unlogged_guess():
            super()._guess_max_plate_nesting(*args)


@contextmanager
def collected_traces(elbo: ELBO) -> Iterator[list[tuple[Trace, Trace]]]:
    """Collects the (model, guide) traces that an ELBO makes inside the block.

    Every ELBO of Pyro makes its traces in ``_get_trace``. Reading them there costs no further run
    of the model.
    """
    traces: list[tuple[Trace, Trace]] = []
    own = elbo._get_trace
    patched = vars(elbo).get("_get_trace")  # by an outer block

    def get_trace(*args: Any) -> tuple[Trace, Trace]:
        traces.append(own(*args))
        return traces[-1]

    elbo._get_trace = get_trace
    try:
        yield traces
    finally:
        if patched is None:
            del elbo._get_trace
        else:
            elbo._get_trace = patched


# Tensors, modules and operators of torch.


def changes(tensor: Tensor) -> int:
    """The number of a tensor's in-place changes, or -1 if torch does not count them.

    torch does not count the changes of tensors from inference mode.
    """
    return -1 if tensor.is_inference() else tensor._version


def tables(module: nn.Module) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """A module's own parameters, buffers and submodules by name; some may be None."""
    return module._parameters, module._buffers, module._modules


def is_compiled(module: nn.Module) -> bool:
    """Whether a module is compiled by ``torch.compile``, or by its method ``compile``."""
    return module._compiled_call_impl is not None or hasattr(module, "_torchdynamo_orig_callable")


def module_hooks(module: nn.Module) -> tuple[dict[int, Any], ...]:
    """The tables of a module's hooks around its forward and its backward pass."""
    return (
        module._forward_hooks,
        module._forward_pre_hooks,
        module._backward_hooks,
        module._backward_pre_hooks,
    )


def global_hooks() -> tuple[dict[int, Any], ...]:
    """The tables of the hooks of all modules around forward and backward passes."""
    owner: Any = sys.modules[nn.Module.__module__]
    return (
        owner._global_forward_hooks,
        owner._global_forward_pre_hooks,
        owner._global_backward_hooks,
        owner._global_backward_pre_hooks,
    )


def intercepted() -> bool:
    """Whether the user sees or changes torch's operations, as graphs do not let them.

    By a mode (``TorchFunctionMode``, ``TorchDispatchMode``), by hooks on saved tensors, which
    torch tells of from 2.8 on, or by anomaly detection. ``torch.device`` is a mode, too; it says
    where tensors are made, which is part of a graph.
    """
    saved = getattr(torch._C._autograd, "_top_saved_tensors_default_hooks", None)
    return (
        torch.is_anomaly_enabled()
        or any(not isinstance(mode, DeviceContext) for mode in _get_current_function_mode_stack())
        or bool(_get_current_dispatch_mode_stack())
        or (saved is not None and saved(False) is not None)
    )


def tensor_hooks(tensor: Tensor) -> bool:
    """Whether a tensor has hooks on its gradient, or on the accumulation of it."""
    return bool(tensor._backward_hooks or (tensor.is_leaf and tensor._post_accumulate_grad_hooks))


def schema(operator: OpOverload) -> Any:
    """An operator's schema: arguments and returns, and which of them are written or aliased."""
    return operator._schema


def batch_norms() -> set[OpOverload]:
    """Operators that write to their running means and variances, which their schemas omit."""
    aten = torch.ops.aten
    return {
        aten.native_batch_norm.default,
        aten.cudnn_batch_norm.default,
        aten.miopen_batch_norm.default,
    }


def is_jit_tracing() -> bool:
    """Whether ``torch.jit.trace`` is tracing."""
    return bool(torch._C._get_tracing_state())


def has_bfloat16_products() -> bool:
    """Whether oneDNN has matrix products in bfloat16 on this processor."""
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def onednn_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Computes ``x @ weight.T + bias`` with oneDNN, in float32 on a CPU."""
    return torch.ops.mkldnn._linear_pointwise.default(x, weight, bias, "none", [], "")


def fused_adam(
    params: list[Tensor],
    gradients: list[Any],
    means: list[Tensor],
    squares: list[Tensor],
    steps: list[Tensor],
    options: dict[str, Any],
) -> None:
    """The kernel of torch's fused Adam, as ``torch.optim.Adam`` calls it after counting a step."""
    kernel = torch._fused_adam_
    if options.get("decoupled_weight_decay"):
        kernel = torch._fused_adamw_
    beta1, beta2 = options["betas"]
    with torch.no_grad():
        kernel(
            params,
            gradients,
            means,
            squares,
            [],
            steps,
            lr=options["lr"],
            beta1=beta1,
            beta2=beta2,
            weight_decay=options["weight_decay"],
            eps=options["eps"],
            amsgrad=False,
            maximize=False,
        )


def has_hooks(optimizer: torch.optim.Optimizer) -> bool:
    """Whether functions are registered that run before or after an optimizer's step."""
    module: Any = sys.modules[torch.optim.Optimizer.__module__]
    return bool(
        optimizer._optimizer_step_pre_hooks
        or optimizer._optimizer_step_post_hooks
        or module._global_optimizer_pre_hooks
        or module._global_optimizer_post_hooks
    )


# Tracing and compiling. Their modules are slow to import, so each function imports its own.


def fake_tensors() -> tuple[Any, tuple[type[Exception], ...]]:
    """A mode in which tensors have no values, and the errors that reading a value raises."""
    from torch._subclasses.fake_tensor import (
        DataDependentOutputException,
        DynamicOutputShapeException,
        FakeTensorMode,
    )

    errors = (DataDependentOutputException, DynamicOutputShapeException)
    return FakeTensorMode(allow_non_fake_inputs=True), errors


@contextmanager
def without_onednn() -> Iterator[None]:
    """Keeps torch's layers from calling oneDNN, inside the block.

    Its recurrent layers are one operation each, for which Inductor's code fails at the first call
    in torch 2.6 to 2.14. Without it, they are traced as the operations of each step.
    """
    before = torch._C._get_mkldnn_enabled()
    torch._C._set_mkldnn_enabled(False)
    try:
        yield
    finally:
        torch._C._set_mkldnn_enabled(before)


def compile_graph(traced: GraphModule, inputs: Sequence[Tensor]) -> Callable[..., Any]:
    """Compiles a graph with Inductor. The code draws the same random numbers as torch.

    Inductor finds the code of an equal graph in its cache on disk only if the graph was made with
    a ``ShapeEnv``, although all shapes here are fixed.
    """
    from torch._guards import TracingContext, tracing
    from torch._inductor import compile
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

    shapes = ShapeEnv(assume_static_by_default=True)
    with tracing(TracingContext(FakeTensorMode(shape_env=shapes))):
        return compile(traced, list(inputs), options={"fallback_random": True})


def inductor_has_begun() -> bool:
    """Whether this process has compiled by Inductor, which then may have worker threads."""
    return "torch._inductor.async_compile" in sys.modules


def cpp_compiler() -> str | None:
    """The C++ compiler that Inductor uses on this machine, or None."""
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        return get_cpp_compiler()
    except InvalidCxxCompiler:
        return None


@contextmanager
def unchecked_distributions() -> Iterator[None]:
    """Turns off the checks of all distributions, also with ``validate_args=True``.

    This includes ``log_prob`` of distributions that were made before.
    """
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
