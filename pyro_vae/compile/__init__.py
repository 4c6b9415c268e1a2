"""A static Pyro program, or a function of tensors, as compiled code.

``guards`` says what code is made for, ``capture`` and ``trace`` make a graph, ``partition`` splits
it, ``inductor`` makes code of it, and ``cache`` keeps the code. Nothing here knows of losses.
"""

from pyro_vae.compile.cache import Cache
from pyro_vae.compile.graph import Graph, Program
from pyro_vae.compile.guards import ambient, inputs, layout, plain, signature
from pyro_vae.compile.trace import NotCompiled, NotStatic, compiled_function

__all__ = [
    "Cache",
    "Graph",
    "NotCompiled",
    "NotStatic",
    "Program",
    "ambient",
    "compiled_function",
    "inputs",
    "layout",
    "plain",
    "signature",
]
