"""Compiles static Pyro programs and functions of tensors, by tracing them to a graph.

``guards`` describes what code was compiled for, ``calls`` and ``reach`` the Python state that a
program reads, and ``static`` says whether a graph can follow it. ``capture`` and ``trace`` make a
graph, ``partition`` splits it, ``inductor`` compiles it, and ``cache`` keeps the code. ``graph``
puts these together for a Pyro program. ``recording`` repeats work on a GPU without Python. This
folder does not depend on VAEs or losses.
"""

from pyro_vae.compile.cache import Cache
from pyro_vae.compile.calls import in_library
from pyro_vae.compile.capture import RandomState, Watch
from pyro_vae.compile.graph import Graph, Program
from pyro_vae.compile.guards import ambient, inputs, layout, plain, signature
from pyro_vae.compile.recording import Record, Recording, Repeated, Replayed, read_later, recorder
from pyro_vae.compile.static import NotCompiled, NotStatic, NotYet
from pyro_vae.compile.trace import compiled_function

__all__ = [
    "Cache",
    "Graph",
    "NotCompiled",
    "NotStatic",
    "NotYet",
    "Program",
    "RandomState",
    "Record",
    "Recording",
    "Repeated",
    "Replayed",
    "Watch",
    "ambient",
    "compiled_function",
    "in_library",
    "inputs",
    "layout",
    "plain",
    "read_later",
    "recorder",
    "signature",
]


def __dir__() -> list[str]:
    return __all__
