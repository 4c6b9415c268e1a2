"""The house: which folder may import from which, its size, and what its import costs."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from torch.distributions import Distribution

import pyro_vae
from tests.structure import ORDER, PACKAGE, arrows, imported, picture, rooms, says

FILES = sorted(PACKAGE.rglob("*.py"))
FOLDERS = sorted(path.parent for path in PACKAGE.rglob("__init__.py") if path.parent != PACKAGE)
FLOOR = {room: floor for floor, names in enumerate(ORDER) for room in names}


def relative(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


def test_every_room_has_a_floor() -> None:
    assert rooms().keys() == FLOOR.keys()


@pytest.mark.parametrize("room", FLOOR)
def test_imports_point_down_only(room: str) -> None:
    for other in arrows()[room]:
        assert FLOOR[other] < FLOOR[room], f"{room} imports {other}, which is not below it"


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_folders_hand_out_what_others_use(path: Path) -> None:
    """From another folder a file takes what the folder's ``__init__`` hands out, no more."""
    own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    for module, name in imported(path):
        room, *inner = module.split(".")
        if room != own and (PACKAGE / room).is_dir():
            assert not name.startswith("_"), f"{module}.{name}"
            if room != "utils" and own != "__init__":  # the files of utils are what it hands out
                folder = PACKAGE.joinpath(room, *inner)
                assert folder.is_dir(), f"{relative(path)} imports {name} from {module}"


@pytest.mark.parametrize("folder", FOLDERS, ids=relative)
def test_files_of_a_folder_import_each_other_without_a_circle(folder: Path) -> None:
    inside = {path.stem: path for path in folder.glob("*.py") if path.stem != "__init__"}
    prefix = ".".join(folder.relative_to(PACKAGE).parts) + "."
    uses = {
        name: {
            module.removeprefix(prefix).split(".")[0]
            for module, _ in imported(path)
            if module.startswith(prefix)
        }
        & inside.keys() - {name}
        for name, path in inside.items()
    }
    while free := {name for name, others in uses.items() if not others & uses.keys()}:
        uses = {name: others for name, others in uses.items() if name not in free}
    assert not uses, f"a circle among {sorted(uses)}"


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_files_and_functions_are_short(path: Path) -> None:
    """A module has one concept and at most 400 lines, a function 60 beside its docstring."""
    text = path.read_text()
    assert len(text.splitlines()) <= 400
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            lines = (node.end_lineno or 0) - node.lineno + 1
            first = node.body[0]
            if ast.get_docstring(node):
                lines -= (first.end_lineno or 0) - first.lineno + 1
            assert lines <= 60, node.name


@pytest.mark.parametrize("room", FLOOR)
def test_each_room_says_what_it_is_for(room: str) -> None:
    assert says(room).endswith("."), "the docstring's first line is a sentence"


def test_the_picture_is_made_from_the_code() -> None:
    """``python -m tests.structure`` prints it."""
    assert picture() in (PACKAGE.parent / "CONTRIBUTING.md").read_text()


def test_the_tests_mirror_the_folders() -> None:
    tests = Path(__file__).parent
    for folder in FOLDERS:
        if folder.parent == PACKAGE:
            assert list((tests / folder.name).glob("test_*.py")), folder.name


PRIVATE = {
    "torch": ("torch._C", "torch._i", "torch._o", "torch._s", "torch.utils._", "mkldnn._"),
    "pyro": ("_PYRO_STACK", "._params", "._constraints", "._param_to_name", "._guess_max"),
    "tensors and modules": ("._version", "._parameters", "._buffers", "._modules", "._schema"),
}


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_private_names_of_torch_and_pyro_are_in_one_place(path: Path) -> None:
    if path.stem == "compat":
        return
    lines = [line for line in path.read_text().splitlines() if not line.lstrip().startswith("#")]
    for owner, names in PRIVATE.items():
        for name in names:
            assert not [line for line in lines if name in line], f"{owner}: {name}"


SLOW = ("matplotlib", "typer", "tensorboard", "torchvision", "zuko", "IPython", "pandas")


def run(code: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout


@pytest.mark.slow
def test_the_import_is_light() -> None:
    """No slow module comes with the package; what Pyro itself brings does not count."""
    names = f"print([m for m in {SLOW} if m in sys.modules])"
    assert run(f"import sys, pyro_vae; {names}") == run(f"import sys, pyro; {names}")


def test_the_surface_is_what_a_user_needs() -> None:
    assert dir(pyro_vae) == sorted(pyro_vae.__all__)
    for name in pyro_vae.__all__:
        assert getattr(pyro_vae, name) is not None
    lazy = "comparison", "estimators", "gradients"
    code = f"import sys, pyro_vae; print([m for m in {lazy} if 'pyro_vae.' + m in sys.modules])"
    assert run(code).strip() == "[]"
    with pytest.raises(AttributeError, match="'pyro_vae' has no attribute 'vea'"):
        getattr(pyro_vae, "vea")  # noqa: B009


@pytest.mark.parametrize("name", [n for n in pyro_vae.__all__ if n.islower() and n[0] != "_"])
def test_modules_show_their_public_names_only(name: str) -> None:
    """``pyro_vae.networks.<TAB>`` shows no ``math`` and no ``Any``."""
    module = getattr(pyro_vae, name)
    if isinstance(module, type(pyro_vae)):
        assert dir(module) == sorted(module.__all__)
        assert not [each for each in module.__all__ if not hasattr(module, each)]


@pytest.mark.parametrize("path", FILES, ids=relative)
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
                assert plain or ast.get_docstring(node), f"{relative(path)}: {node.name}"
