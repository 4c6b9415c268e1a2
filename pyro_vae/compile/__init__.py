"""Compiles static Pyro programs and functions of tensors, by tracing them to a graph.

``guards`` describes what code was compiled for, ``capture`` and ``trace`` make a graph,
``partition`` splits it, ``inductor`` compiles it, and ``cache`` keeps the code. ``graph`` puts
these together for a Pyro program. ``recording`` repeats work on a GPU without Python. This folder
does not depend on VAEs or losses.
"""

from pyro_vae.compile.cache import Cache
from pyro_vae.compile.capture import RandomState, Watch
from pyro_vae.compile.graph import Graph, Program
from pyro_vae.compile.guards import ambient, inputs, layout, plain, signature
from pyro_vae.compile.recording import Record, Recording, Repeated, Replayed, read_later, recorder
from pyro_vae.compile.trace import NotCompiled, NotStatic, compiled_function

__all__ = [
    "Cache",
    "Graph",
    "NotCompiled",
    "NotStatic",
    "Program",
    "RandomState",
    "Record",
    "Recording",
    "Repeated",
    "Replayed",
    "Watch",
    "ambient",
    "compiled_function",
    "inputs",
    "layout",
    "plain",
    "read_later",
    "recorder",
    "signature",
]


def __dir__() -> list[str]:
    return __all__
