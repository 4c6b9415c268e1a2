"""From a traced graph of tensors to compiled code, by torch's Inductor."""

import logging
import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule

from pyro_vae import compat
from pyro_vae.compat import cpp_compiler, onednn_linear

# On AMD processors oneDNN's float32 matrix products are faster than MKL's (docs/benchmarks.md).
# Inductor's own way to them is for constant weights only.
_onednn = torch.library.Library("pyro_vae", "FRAGMENT")


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return onednn_linear(x, weight, bias)


def _linear_shape(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return x.new_empty(x.shape[0], weight.shape[0])


if not hasattr(torch.ops.pyro_vae, "linear"):  # it outlives a reload of this module
    _onednn.define("linear(Tensor x, Tensor weight, Tensor? bias) -> Tensor")
    _onednn.impl("linear", _linear, "CPU")
    _onednn.impl("linear", _linear_shape, "Meta")


def _use_onednn(traced: GraphModule) -> None:
    """Puts oneDNN's matrix products into a graph of float32 on a CPU."""
    if not (torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled):
        return
    graph, aten = traced.graph, torch.ops.aten
    for node in list(graph.nodes):
        if node.target is aten.mm.default:
            bias, (x, weight) = None, node.args
        elif node.target is aten.addmm.default and not node.kwargs:
            bias, x, weight = node.args
            if bias.meta["val"].shape != node.meta["val"].shape[1:]:
                continue
        else:
            continue
        value = node.meta["val"]
        if value.dtype != torch.float32 or value.device.type != "cpu":
            continue
        with graph.inserting_before(node):
            transposed = graph.call_function(aten.t.default, (weight,))
            product = graph.call_function(torch.ops.pyro_vae.linear.default, (x, transposed, bias))
        product.meta = dict(node.meta)
        node.replace_all_uses_with(product)
        graph.erase_node(node)
    traced.recompile()


def _log1p(x: Tensor) -> Tensor:
    """log(1 + x) by one logarithm, to the last digits.

    The factor x / (u - 1) corrects the rounding of u = 1 + x. Source: Goldberg (1991), ACM
    Computing Surveys 23, theorem 4 (Kahan's). Inductor's own takes several times as long.
    """
    if not _is_fast_here(x):
        return NotImplemented
    u = 1 + x
    value = u.log() * (x / (u - 1))
    return torch.where((u == 1) | (x == math.inf), x, value)


def _softplus(x: Tensor, beta: float = 1, threshold: float = 20) -> Tensor:
    """log(1 + exp(x)) = max(x, 0) + log(1 + a) with a = exp(-|x|), to the last digits.

    log(1 + a) = 2 artanh(t) with t = a / (2 + a) <= 1/3, by the series up to t**13, whose rest is
    below 2e-9 of the sum. It takes half the time of a logarithm. Source: Abramowitz and Stegun
    (1964), 4.1.27.
    """
    if not _is_fast_here(x):
        return NotImplemented
    scaled = x * beta
    a = scaled.abs().neg().exp()
    t = a / (2 + a)
    square = t * t
    series = square * (1 / 15)  # no division, which takes as long as the rest
    for power in range(13, 1, -2):
        series = square * (series + 1 / power)
    log = 2 * (t + t * series)
    value = x.clamp_min(0) + log / beta
    # From 18 up log(1 + a) is nothing beside x.
    return value if threshold >= 18 else torch.where(scaled > threshold, x, value)


def _is_fast_here(x: Tensor) -> bool:
    return x.dtype == torch.float32 and x.device.type == "cpu"


DECOMPOSITIONS = {
    torch.ops.aten.log1p.default: _log1p,
    torch.ops.aten.softplus.default: _softplus,
}
"""The functions that stand for some of torch's operations in a traced graph."""


def compile_graph(traced: GraphModule, inputs: Sequence[Tensor]) -> Callable[..., Any]:
    """A graph's code for inputs of these shapes.

    It draws torch's own random numbers, so that a seed gives the same noise compiled and not.
    """
    _use_onednn(traced)

    log = logging.getLogger("torch.utils.cpp_extension")  # says that there is no GPU
    level = log.level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        log.setLevel(logging.ERROR)
        try:
            return compat.compile_graph(traced, inputs)
        finally:
            log.setLevel(level)


_warned: set[str] = set()


def can_compile(inputs: Sequence[Tensor]) -> bool:
    """Whether Inductor's C++ compiler is on this machine; warns once where it is not."""
    if any(tensor.is_cuda for tensor in inputs):
        return True
    if cpp_compiler() is None:
        if "compiler" not in _warned:
            _warned.add("compiler")
            warnings.warn(
                "compiled: found no C++ compiler, so objectives run uncompiled; install one "
                "(g++ or clang++), or name it in the environment variable CXX",
                stacklevel=5,
            )
        return False
    return True
