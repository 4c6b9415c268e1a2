"""A graph in two: one of inputs that rarely change, computed once for them, and the rest."""

import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node

from pyro_vae.compat import OpOverload, batch_norms, changes, pytree, schema
from pyro_vae.compile.inductor import compile_graph


def compile_in_two(
    traced: GraphModule, inputs: Sequence[Tensor], fixed: int
) -> Callable[..., Any]:
    """A graph's code for inputs of these shapes, the first of which rarely change.

    What follows from these alone, without noise, is computed again only where one of them is
    another tensor than at the last call, or has been changed in place: an encoder's layers once
    for many draws. Changes are those that autograd counts; ``.data`` and NumPy evade it.

    Arguments:
        traced: The graph.
        inputs: Examples of its inputs.
        fixed: The number of inputs that rarely change.
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
            # While their memory is kept, no other tensor can have it.
            known, kept = states, [tensor.detach() for tensor in inputs[:fixed]]
        return always(*values, *inputs)

    return run


def split(traced: GraphModule, fixed: int) -> tuple[GraphModule, GraphModule] | None:
    """A graph as two: from its first inputs to tensors, and from these and all inputs to outputs.

    None where nothing is computed from the first inputs alone, or where inputs are written over.
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
    """The nodes that some sources, or noise, reach.

    Calls that fill or repeat are among them: doing that again is cheaper than reading the result
    from memory.
    """
    varying = set(sources)
    for node in calls:
        noise = torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())
        fills = not node.all_input_nodes or node.target is torch.ops.aten.expand.default
        if noise or fills or any(source in varying for source in node.all_input_nodes):
            varying.add(node)
    return varying


def _written(node: Node) -> list[Node]:
    """The arguments that a call writes over."""
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
    """The node that owns the memory in which a tensor lies."""
    while _is_view(node) or node.target is operator.getitem:
        node = node.all_input_nodes[0]
    return node


def _extracted(
    traced: GraphModule, inputs: list[Node], calls: list[Node], outputs: Any
) -> GraphModule:
    """Some calls of a graph as a graph of their own."""
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
    """An object that differs where the tensor is another one, or has been changed in place."""
    count = changes(tensor)
    return object() if count < 0 else (tensor.data_ptr(), count)
