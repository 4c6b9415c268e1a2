"""The house as the code has it: rooms, their order, and imports between them.

``python -m tests.structure`` prints it as the picture in CONTRIBUTING.md.
"""

import ast
import functools
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "pyro_vae"

ORDER: tuple[tuple[str, ...], ...] = (
    ("version", "compat"),
    ("utils",),
    ("distributions", "plots"),
    ("networks", "contracts", "compile", "param_store", "one_hot"),
    ("priors", "likelihoods", "posteriors", "optim", "programs"),
    ("pair", "objectives", "datasets"),
    ("composed",),
    ("vae",),
    ("models",),
    ("presets", "training", "evaluation", "gradients"),
    ("storage", "comparison", "estimators"),
    ("runs",),
    ("report",),
    ("__init__",),
    ("studies",),
    ("cli",),
    ("__main__",),
)
"""Folders and files of the package from the ground up; each imports from lower floors only."""


@functools.cache
def rooms() -> dict[str, list[Path]]:
    """The files of each room: of a folder, or a file at the top level."""
    found: dict[str, list[Path]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).parts
        found.setdefault(parts[0].removesuffix(".py"), []).append(path)
    return found


@functools.cache
def imported(path: Path) -> list[tuple[str, str]]:
    """Modules of the package that a file imports from, in functions too, with the names taken."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            if node.module == "pyro_vae":
                found += [(alias.name, "") for alias in node.names]
            elif node.module and node.module.startswith("pyro_vae."):
                module = node.module.removeprefix("pyro_vae.")
                found += [(module, alias.name) for alias in node.names]
        elif isinstance(node, ast.Import):
            found += [
                (alias.name.removeprefix("pyro_vae."), "")
                for alias in node.names
                if alias.name.startswith("pyro_vae.")
            ]
    return found


@functools.cache
def arrows() -> dict[str, set[str]]:
    """The rooms that each room imports from; a public name that is no room is the face's."""
    names = rooms()
    return {
        room: {
            other if other in names else "__init__"
            for path in paths
            for module, _ in imported(path)
            if (other := module.split(".")[0]) != room
        }
        for room, paths in names.items()
    }


def straight(room: str, drawn: dict[str, set[str]]) -> set[str]:
    """The rooms that a room imports from, but for those that another of them stands on."""
    below = {other: reached(other, drawn) for other in drawn[room]}
    return {
        other
        for other in below
        if not any(other in below[each] for each in below if each != other)
    }


def reached(room: str, drawn: dict[str, set[str]]) -> set[str]:
    """All rooms that a room stands on."""
    found: set[str] = set()
    waiting = [room]
    while waiting:
        new = drawn[waiting.pop()] - found
        found |= new
        waiting += new
    return found


def says(room: str) -> str:
    """The first sentence of a room's docstring."""
    folder = PACKAGE / room / "__init__.py"
    path = folder if folder.exists() else PACKAGE / f"{room}.py"
    return (ast.get_docstring(ast.parse(path.read_text())) or "").split("\n")[0]


def picture() -> str:
    """The house, a line a room from the top floor down: what it is, and what it stands on."""
    drawn = arrows()
    names = {
        room: f"{room}/" if (PACKAGE / room).is_dir() else f"{room}.py"
        for floor in ORDER
        for room in floor
    }
    lines = []
    for floor in reversed(ORDER[:-1]):
        for room in floor:
            on = ", ".join(sorted(straight(room, drawn) - {"version"}))
            lines.append(
                f"{names[room]:16}{says(room)}" + (f"\n{'':18}stands on {on}" if on else "")
            )
        lines.append("─" * 40)
    return "\n".join(lines[:-1])


if __name__ == "__main__":
    print(picture())
