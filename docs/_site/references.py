"""References in docstrings: ``fit`` is ``pyro_vae.fit``, and what has no page is plain text.

The build fetches nothing, so it knows no page of torch or Pyro to link to.
"""

import builtins
import re
import sys
from collections.abc import Iterator
from typing import Any

from docutils import nodes
from sphinx.addnodes import literal_strong, pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util.nodes import make_refnode

TYPES = (
    "Axes", "Batch", "Figure", "Kind", "MaxBytes", "Module", "NotCompiled", "NotStatic", "Path",
    "Tensor", "dist.ProcessGroup", "pd.DataFrame",
)  # fmt: skip
"""Types in signatures and lists of errors, by the names that the code gives them."""

SEVERAL = re.compile(r"^( +)(\w+(?:, \w+)+)(?=:)")


def candidates(target: str, environment: BuildEnvironment) -> Iterator[str]:
    """The documented names that end in a target, the shortest first."""
    names = environment.domains.python_domain.objects
    ending = "." + target.rpartition("pyro_vae.")[2]
    yield from sorted((name for name in names if name.endswith(ending)), key=len)


def resolve(
    app: Sphinx, environment: BuildEnvironment, node: pending_xref, content: nodes.TextElement
) -> nodes.Node | None:
    """A link to the name, its text where it has no page, or None: then Sphinx warns."""
    if node["refdomain"] != "py":
        return None
    target = node["reftarget"].lstrip("~.").removesuffix("()")
    if node["reftype"] != "attr":
        for name in candidates(target, environment):
            found = environment.domains.python_domain.objects[name]
            return make_refnode(
                app.builder, node["refdoc"], found.docname, found.node_id, content, name
            )
    return content if node["reftype"] == "attr" or target in TYPES or exists(target) else None


def exists(target: str) -> bool:
    """Whether a module, a name of a module or of the built-ins is that target."""
    module, _, name = target.rpartition(".")
    return hasattr(sys.modules.get(module, builtins), name) or target in sys.modules


def name_several(app: Sphinx, what: str, name: str, value: Any, _: Any, lines: list[str]) -> None:
    """``low, high: ...`` of a docstring's list is one entry, where napoleon sees a type."""
    lines[:] = [SEVERAL.sub(lambda m: m[1] + m[2].replace(", ", ","), line) for line in lines]


def space_several(app: Sphinx, tree: nodes.document) -> None:
    """Gives names the space back that :func:`name_several` took, and calls attributes so."""
    for node in tree.findall(literal_strong):
        node.children = [nodes.Text(re.sub(r",(?=\w)", ", ", node.astext()))]
    for name in tree.findall(nodes.field_name):
        if name.astext() == "Variables":
            name.children = [nodes.Text("Attributes")]


def setup(app: Sphinx) -> dict[str, bool]:
    """What Sphinx calls."""
    app.connect("missing-reference", resolve)
    app.connect("autodoc-process-docstring", name_several, priority=400)  # before napoleon
    app.connect("doctree-read", space_several)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
