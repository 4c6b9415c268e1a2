"""Splits a graph: one part depends on inputs that rarely change, and is computed once for them."""

import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node

from pyro_vae.compat import OpOverload, batch_norms, changes, pytree, schema
from pyro_vae.compile.inductor import compile_graph

__all__ = ["compile_in_two", "split"]


def compile_in_two(
    traced: GraphModule, inputs: Sequence[Tensor], fixed: int
) -> Callable[..., Any]:
    """Compiles a graph for inputs of these shapes, the first of which rarely change.

    The part of the graph that depends on these inputs alone, and on no noise, is computed again
    only if one of them is another tensor than at the last call, or has been changed in place. So
    an encoder's layers run once for many draws. The changes are those that autograd counts; it
    does not see changes through ``.data`` or NumPy.

    Arguments:
        traced: The graph.
        inputs: Examples of its inputs.
        fixed: Number of inputs that rarely change.
    """
    parts = split(traced, fixed)
    if parts is None:
        return compile_graph(traced, inputs)
    once = compile_graph(parts[0], inputs[:fixed])
    always = compile_graph(parts[1], [*once(*inputs[:fixed]), *inputs])
    known: list[object] = []
    kept: list[Tensor] = []
    values: list[Tensor] = []

    def run(*inputs: Tensor) -> Any:
        nonlocal known, kept, values
        states = [_state(tensor) for tensor in inputs[:fixed]]
        if states != known:
            values = list(once(*inputs[:fixed]))
            # Keeping the inputs keeps their memory, so no other tensor can get their addresses.
            known, kept = states, [tensor.detach() for tensor in inputs[:fixed]]
        return always(*values, *inputs)

    return run


def split(traced: GraphModule, fixed: int) -> tuple[GraphModule, GraphModule] | None:
    """Splits a graph in two.

    The first graph maps the first inputs to tensors, and the second maps these tensors and all
    inputs to the outputs.

    Arguments:
        traced: The graph.
        fixed: Number of the first inputs.

    Returns:
        Both graphs; None if no result depends on the first inputs alone, or if an input is changed
        in place.
    """
    nodes = list(traced.graph.nodes)
    inputs = [node for node in nodes if node.op == "placeholder"]
    calls = [node for node in nodes if node.op == "call_function"]
    (output,) = (node for node in nodes if node.op == "output")
    if len(inputs) + len(calls) + 1 < len(nodes) or not all(map(_is_known, calls)):
        return None
    written = {_base(node) for call in calls for node in _written(call)}
    if written & set(inputs):
        return None
    varying = _varying(calls, {*inputs[fixed:], *written})
    needed = set(output.all_input_nodes)
    rest: list[Node] = []
    handed: list[Node] = []
    for node in reversed(calls):
        if node in varying or (node in needed and _is_view(node)):
            rest.append(node)
            needed.update(node.all_input_nodes)
        elif node in needed:
            handed.append(node)
    if not handed or not all(isinstance(node.meta["val"], Tensor) for node in handed):
        return None
    once = [node for node in calls if node not in varying]
    before = _extracted(traced, inputs[:fixed], once, handed)
    before.graph.eliminate_dead_code()
    before.recompile()
    return before, _extracted(traced, [*handed, *inputs], rest[::-1], output.args[0])


def _varying(calls: list[Node], sources: set[Node]) -> set[Node]:
    """The nodes that depend on some sources or on noise.

    Calls that fill or expand a tensor are included: repeating them is cheaper than reading their
    results from memory.
    """
    varying = set(sources)
    for node in calls:
        noise = torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())
        fills = not node.all_input_nodes or node.target is torch.ops.aten.expand.default
        if noise or fills or any(source in varying for source in node.all_input_nodes):
            varying.add(node)
    return varying


def _written(node: Node) -> list[Node]:
    """The arguments that a call changes in place."""
    if not isinstance(node.target, OpOverload):
        return []
    arguments = schema(node.target).arguments
    given = {a.name: value for a, value in zip(arguments, node.args, strict=False)} | node.kwargs
    names = [a.name for a in arguments if a.alias_info is not None and a.alias_info.is_write]
    if node.target in batch_norms() and given["training"]:
        names += ["running_mean", "running_var"]
    written = pytree.tree_leaves([given.get(name) for name in names])
    return [value for value in written if isinstance(value, Node)]


def _is_known(node: Node) -> bool:
    return isinstance(node.target, OpOverload) or node.target is operator.getitem


def _is_view(node: Node) -> bool:
    if node.target is operator.getitem:
        return _is_view(node.all_input_nodes[0])
    returns = schema(node.target).returns if isinstance(node.target, OpOverload) else ()
    return any(value.alias_info is not None for value in returns)


def _base(node: Node) -> Node:
    """The node that owns the memory of a tensor."""
    while _is_view(node) or node.target is operator.getitem:
        node = node.all_input_nodes[0]
    return node


def _extracted(
    traced: GraphModule, inputs: list[Node], calls: list[Node], outputs: Any
) -> GraphModule:
    """Copies some calls of a graph to a new graph."""
    graph = Graph()
    copies: dict[Node, Node] = {}
    for node in inputs:
        copies[node] = graph.placeholder(node.name)
        copies[node].meta = dict(node.meta)
    for node in calls:
        copies[node] = graph.node_copy(node, copies.__getitem__)
    graph.output(pytree.tree_map_only(Node, copies.__getitem__, outputs))
    return GraphModule(traced, graph)


def _state(tensor: Tensor) -> object:
    """An object that stays equal while the tensor is the same and has not been changed.

    It is never equal for tensors whose changes torch does not count.
    """
    count = changes(tensor)
    return object() if count < 0 else (tensor.data_ptr(), count)
