"""Compiles a traced graph of tensors with torch's Inductor."""

import logging
import math
import os
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule

from pyro_vae.compat import compile_graph as compile_by_inductor
from pyro_vae.compat import cpp_compiler, inductor_has_begun, onednn_linear
from pyro_vae.utils.warn import warn

__all__ = ["DECOMPOSITIONS", "can_compile", "compile_graph", "lost_by_fork"]

# oneDNN's float32 matrix products are faster than MKL's on AMD processors with AVX-512, and were
# slower on one with AVX2 alone. Inductor uses them for constant matrices only.
_onednn = torch.library.Library("pyro_vae", "FRAGMENT")


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return onednn_linear(x, weight, bias)


def _linear_shape(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return x.new_empty(x.shape[0], weight.shape[0])


if not hasattr(torch.ops.pyro_vae, "linear"):  # The operator outlives a reload of this module.
    _onednn.define("linear(Tensor x, Tensor weight, Tensor? bias) -> Tensor")
    _onednn.impl("linear", _linear, "CPU")
    _onednn.impl("linear", _linear_shape, "Meta")


def _use_onednn(traced: GraphModule) -> None:
    """Replaces the float32 matrix products of a graph by oneDNN's, on a CPU."""
    if not (torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled):
        return
    if not torch.backends.cpu.get_cpu_capability().startswith("AVX512"):
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
    """Computes log(1 + x) with one logarithm, accurate to a few units in the last place.

    The factor x / (u - 1) corrects the rounding of u = 1 + x. This is faster than Inductor's own.

    Source: Goldberg (1991), ACM Computing Surveys 23, theorem 4 (Kahan's).
    """
    if not _is_fast_here(x):
        return NotImplemented
    u = 1 + x
    value = u.log() * (x / (u - 1))
    return torch.where((u == 1) | (x == math.inf), x, value)


def _softplus(x: Tensor, beta: float = 1, threshold: float = 20) -> Tensor:
    """Computes log(1 + exp(x)) = max(x, 0) + log(1 + a) with a = exp(-|x|).

    log(1 + a) = 2 artanh(t) with t = a / (2 + a) <= 1/3. The series of artanh is cut after t**13,
    with a relative error below 2e-9. This is faster than a logarithm.

    Source: Abramowitz and Stegun (1964), 4.1.27.
    """
    if not _is_fast_here(x):
        return NotImplemented
    scaled = x * beta
    a = scaled.abs().neg().exp()
    t = a / (2 + a)
    square = t * t
    series = square * (1 / 15)  # a product, because a division of tensors is slow
    for power in range(13, 1, -2):
        series = square * (series + 1 / power)
    log = 2 * (t + t * series)
    value = x.clamp_min(0) + log / beta
    # For x of 18 and more, x + log(1 + a) rounds to x in float32.
    return value if threshold >= 18 else torch.where(scaled > threshold, x, value)


def _bernoulli(p: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
    """The draw of torch, for which Inductor would compare p with another number."""
    return torch.empty_like(p).bernoulli_(p, generator=generator)


def _is_fast_here(x: Tensor) -> bool:
    return x.dtype == torch.float32 and x.device.type == "cpu"


DECOMPOSITIONS: dict[Any, Callable[..., Any]] = {
    torch.ops.aten.bernoulli.default: _bernoulli,
    torch.ops.aten.log1p.default: _log1p,
    torch.ops.aten.softplus.default: _softplus,
}
"""Functions that replace operations of torch in a traced graph."""


def compile_graph(traced: GraphModule, inputs: Sequence[Tensor]) -> Callable[..., Any]:
    """Compiles a graph for inputs of these shapes.

    The code draws the same random numbers as torch, so a seed gives the same noise as in
    uncompiled code.

    Arguments:
        traced: The graph; it is changed in place.
        inputs: Examples of its inputs.
    """
    _use_onednn(traced)

    log = logging.getLogger("torch.utils.cpp_extension")  # It warns if there is no GPU.
    level = log.level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        log.setLevel(logging.ERROR)
        try:
            return compile_by_inductor(traced, inputs)
        finally:
            log.setLevel(level)


_lost = False


def _after_fork() -> None:
    """Inductor waits for ever for workers that a forked process has not got."""
    global _lost
    _lost = _lost or inductor_has_begun()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def lost_by_fork() -> bool:
    """Whether this process was forked from one in which Inductor had begun."""
    return _lost


_warned: set[str] = set()


def can_compile(inputs: Sequence[Tensor]) -> bool:
    """Whether Inductor can compile for the device of some tensors; warns once if it cannot.

    Warns:
        UserWarning: There is no C++ compiler.
    """
    if any(tensor.is_cuda for tensor in inputs):
        return True
    if cpp_compiler() is None:
        if "compiler" not in _warned:
            _warned.add("compiler")
            warn(
                "compiled: found no C++ compiler, so objectives run uncompiled; install g++ or "
                "clang++, or set the environment variable CXX to a compiler"
            )
        return False
    return True
