"""The house as the code has it: rooms, their order, and imports between them.

``python -m tests.structure`` prints it as the picture in CONTRIBUTING.md.
"""

import ast
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "pyro_vae"

ORDER: tuple[tuple[str, ...], ...] = (
    ("version", "compat", "plots"),
    ("utils",),
    ("distributions",),
    ("datasets", "networks", "contracts", "compile", "param_store"),
    ("priors", "likelihoods", "posteriors", "optim"),
    ("vae", "objectives"),
    ("presets", "training", "evaluation", "gradients"),
    ("storage", "comparison", "estimators"),
    ("studies",),
    ("cli", "__init__"),
    ("__main__",),
)
"""Folders and files of the package from the ground up; each imports from lower floors only."""


def rooms() -> dict[str, list[Path]]:
    """The files of each room: of a folder, or a file at the top level."""
    found: dict[str, list[Path]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).parts
        found.setdefault(parts[0].removesuffix(".py"), []).append(path)
    return found


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


def arrows() -> dict[str, set[str]]:
    """The rooms that each room imports from."""
    return {
        room: {
            module.split(".")[0]
            for path in paths
            for module, _ in imported(path)
            if module.split(".")[0] != room
        }
        for room, paths in rooms().items()
    }


def says(room: str) -> str:
    """The first sentence of a room's docstring."""
    folder = PACKAGE / room / "__init__.py"
    path = folder if folder.exists() else PACKAGE / f"{room}.py"
    return (ast.get_docstring(ast.parse(path.read_text())) or "").split("\n")[0]


def picture() -> str:
    """The house from the top floor down, a line a room: what it is, and what it imports from."""
    drawn = arrows()
    lines = []
    for floor in reversed(ORDER):
        for room in floor:
            if room.startswith("__"):
                continue
            name = f"{room}/" if (PACKAGE / room).is_dir() else f"{room}.py"
            below = ", ".join(sorted(drawn[room] - {"version", "compat", "utils"}))
            lines.append(f"{name:16}{says(room)}")
            if below:
                lines.append(f"{'':16}  <- {below}")
        lines.append("-" * 99)
    return "\n".join(lines[:-1])


if __name__ == "__main__":
    print(picture())
