"""The examples in docstrings run, and what users import has one.

An example may use ``torch``, ``pyro``, the names of ``pyro_vae`` and those of its own module
without importing them. It shows shapes and names, and no float digits: the last ones differ
between processors.
"""

import doctest
import inspect
from importlib import import_module
from pathlib import Path

import matplotlib.pyplot as plt
import pyro
import pytest
import torch

import pyro_vae

ROOT = Path(pyro_vae.__file__).parent.parent
SHARED = {"torch": torch, "pyro": pyro} | {n: getattr(pyro_vae, n) for n in pyro_vae.__all__}
EXEMPLIFIED = (
    "comparison",
    "datasets",
    "evaluation",
    "flows",
    "gradients",
    "likelihoods",
    "networks",
    "objectives",
    "optim",
    "plots",
    "posteriors",
    "presets",
    "priors",
)
"""Modules of which each public function and class has an example."""


def modules_with_examples() -> list[str]:
    paths = sorted(p for p in (ROOT / "pyro_vae").rglob("*.py") if ">>> " in p.read_text())
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in paths]
    return [name.removesuffix(".__init__") for name in names]


@pytest.mark.parametrize("name", modules_with_examples())
def test_examples(name: str) -> None:
    module = import_module(name)
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    report: list[str] = []
    for example in doctest.DocTestFinder().find(module, name, globs=vars(module) | SHARED):
        torch.manual_seed(0)
        runner.run(example, out=report.append)
    plt.close("all")
    assert runner.tries, "no example was found"
    assert not runner.failures, "".join(report)


@pytest.mark.parametrize("name", EXEMPLIFIED)
def test_what_users_import_has_an_example(name: str) -> None:
    module = getattr(pyro_vae, name)
    for public in module.__all__:
        value = getattr(module, public)
        if inspect.isclass(value) or inspect.isfunction(value):
            assert ">>> " in (inspect.getdoc(value) or ""), f"{name}.{public}"
