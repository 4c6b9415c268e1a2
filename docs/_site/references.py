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
from sphinx.pycode import ModuleAnalyzer
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


def lead_back(
    app: Sphinx, page: str, template: str, context: dict[str, Any], tree: nodes.document | None
) -> None:
    """Mends "[docs]" in listings of code: viewcode forgets which room handed a name out."""
    names = app.env.domains.python_domain.objects

    def mended(link: re.Match[str]) -> str:
        parts = link[1].split(".")
        endings = (".".join(parts[i:]) for i in range(len(parts)))
        found = (each for ending in endings for each in candidates(ending, app.env))
        name = link[1] if link[1] in names else next(found)
        uri = app.builder.get_relative_uri(page, names[name].docname)
        return f'<a class="viewcode-back" href="{uri}#{names[name].node_id}">'

    if page.startswith("_modules/") and "body" in context:
        listing = r'<a class="viewcode-back" href="[^"#]*#([^"]+)">'
        context["body"] = re.sub(listing, mended, context["body"])


def exists(target: str) -> bool:
    """Whether a module, a name of a module or of the built-ins is that target."""
    module, _, name = target.rpartition(".")
    return hasattr(sys.modules.get(module, builtins), name) or target in sys.modules


def name_several(app: Sphinx, what: str, name: str, value: Any, _: Any, lines: list[str]) -> None:
    """``low, high: ...`` of a docstring's list is one entry, where napoleon sees a type."""
    lines[:] = [SEVERAL.sub(lambda m: m[1] + m[2].replace(", ", ","), line) for line in lines]


def read_home(app: Sphinx, what: str, name: str, value: Any, _: Any, lines: list[str]) -> None:
    """Gives a constant that a room hands out the docstring that it has in its own file."""
    if what != "data":
        return
    room, _, short = name.rpartition(".")
    for home, module in sorted(sys.modules.items()):
        if home.startswith(f"{room}.") and vars(module).get(short) is value:
            found = ModuleAnalyzer.for_module(home).find_attr_docs()
            lines[:] = found.get(("", short), lines)


def space(app: Sphinx, tree: nodes.document) -> None:
    """Gives names the space back that :func:`name_several` took, and calls attributes so.

    A number stays on one line with its error.
    """
    for node in list(tree.findall(nodes.Text)):
        if isinstance(node.parent, literal_strong) and node == ",":
            node.parent.replace(node, nodes.Text(", "))
        elif " ± " in node and not isinstance(node.parent, nodes.literal | nodes.literal_block):
            node.parent.replace(
                node, nodes.Text(node.replace(" ± ", "\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}"))
            )
    for name in tree.findall(nodes.field_name):
        if name.astext() == "Variables":
            name.children = [nodes.Text("Attributes")]


def setup(app: Sphinx) -> dict[str, bool]:
    """What Sphinx calls."""
    app.connect("missing-reference", resolve)
    app.connect("autodoc-process-docstring", name_several, priority=400)  # before napoleon
    app.connect("autodoc-process-docstring", read_home, priority=600)  # after it
    app.connect("html-page-context", lead_back)
    app.connect("doctree-read", space)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
