"""The floors of the package, and what its import costs."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from torch.distributions import Distribution

import pyro_vae

PACKAGE = Path(pyro_vae.__file__).parent
# From the ground up; a file imports from lower floors only.
FLOORS: list[set[str]] = [
    {
        "arguments",
        "memory",
        "store",
        "progress",
        "supports",
        "tables",
        "guards",
        "inductor",
        "distributions",
        "files",
        "weights",
    },
    {"seeding", "divergences", "hoisting"},
    {"networks", "datasets", "plots", "recording", "flows", "mixtures", "weighted", "programs"},
    {"priors", "likelihoods", "posteriors", "tracing", "annealing"},
    {"vae", "compilation", "optim", "history", "blocks"},
    {"objectives", "gaussian", "annealed_sampling", "judging"},
    {"presets", "pairs", "estimators"},
    {"training", "elbos", "log_likelihoods", "runs", "gradients"},
    {"certificates", "criticism", "elbo_gaps"},
    {"evaluation"},
    {"comparison", "lecture", "study", "options"},
    {"richer_parts", "pixel_likelihoods", "kl_study"},
    {"iwae_table"},
    {"reproduce"},
    {"cli"},
    {"__main__", "__init__"},
]


def imports(path: Path) -> set[str]:
    """The modules of the package that a file imports anywhere, in functions too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: imports are absolute"
            if node.module == "pyro_vae":
                found |= {alias.name for alias in node.names}
            elif node.module and node.module.startswith("pyro_vae."):
                found.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            found |= {a.name.split(".")[1] for a in node.names if a.name.startswith("pyro_vae.")}
    return found


def test_imports_point_down_only() -> None:
    floor = {name: i for i, names in enumerate(FLOORS) for name in names}
    files = {path.stem: path for path in PACKAGE.glob("*.py")}
    assert files.keys() == floor.keys()
    for name, path in files.items():
        for other in imports(path):
            assert floor[other] < floor[name], f"{name} imports {other}, which is not below it"


SLOW = ("matplotlib", "typer", "tensorboard", "torchvision", "zuko", "IPython")


def run(code: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout


def test_the_import_is_light() -> None:
    """No slow module comes with the package; what Pyro itself brings does not count."""
    names = f"print([m for m in {SLOW} if m in sys.modules])"
    assert run(f"import sys, pyro_vae; {names}") == run(f"import sys, pyro; {names}")


def test_every_public_name_is_there() -> None:
    for name in pyro_vae.__all__:
        assert hasattr(pyro_vae, name)


@pytest.mark.parametrize("path", sorted(PACKAGE.glob("*.py")), ids=lambda p: p.stem)
def test_public_names_have_docstrings(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree)
    bodies = [tree, *(n for n in ast.walk(tree) if isinstance(n, ast.ClassDef))]
    for body in bodies:
        for node in body.body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                plain = isinstance(body, ast.ClassDef) and (
                    node.name in ("forward", "extra_repr", "shape")
                    or hasattr(Distribution, node.name)  # torch says what they are
                    or body.name.startswith("_")
                )
                plain = plain or any(
                    isinstance(d, ast.Name) and d.id == "overload" for d in node.decorator_list
                )
                assert plain or ast.get_docstring(node), f"{path.name}: {node.name}"
