"""The command in this process, and a run that tests share."""

import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from pyro_vae import datasets
from pyro_vae.cli import main

Run = Callable[..., int]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs ``pyro-vae`` and returns its exit code."""
    return lambda *arguments: _run(monkeypatch, arguments)


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the data sets 1,000 training and 200 test digits."""
    _shorten(monkeypatch)


@pytest.fixture(scope="session")
def trained_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two epochs, with a trace for TensorBoard; not to be written to."""
    folder = tmp_path_factory.mktemp("cli") / "run"
    with pytest.MonkeyPatch.context() as patch:
        _shorten(patch)
        arguments = ("train", "--epochs", 2, "--batch-size", 250, "--seed", 3, "--tensorboard",
                     "--out", folder)  # fmt: skip
        assert _run(patch, arguments) == 0
    return folder


@pytest.fixture
def trained(trained_once: Path, tmp_path: Path, short: None) -> Path:
    """A copy of the run."""
    return Path(shutil.copytree(trained_once, tmp_path / "run"))


def _shorten(patch: pytest.MonkeyPatch) -> None:
    digits = datasets.load("digits")
    short = replace(
        digits,
        train=digits.train[:1000],
        test=digits.test[:200],
        train_labels=digits.train_labels[:1000],
        test_labels=digits.test_labels[:200],
    )
    patch.setattr(datasets, "load", lambda name, root=None: short)


def _run(patch: pytest.MonkeyPatch, arguments: tuple[object, ...]) -> int:
    patch.setattr(sys, "argv", ["pyro-vae", *map(str, arguments)])
    with pytest.raises(SystemExit) as exit_:
        main()
    return int(exit_.value.code or 0)
