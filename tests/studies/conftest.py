"""Digits in short, and the command that runs a study on them."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from pyro_vae import datasets
from pyro_vae.cli import app

Command = Callable[..., str]


@pytest.fixture
def reproduce(monkeypatch: pytest.MonkeyPatch) -> Command:
    """Runs ``pyro-vae reproduce`` on 600 training and 100 test digits; returns what it prints."""
    digits = datasets.load("digits")
    short = replace(digits, train=digits.train[:600], test=digits.test[:100])
    monkeypatch.setattr(datasets, "load", lambda name, root=None: short)

    def run(*arguments: object, code: int = 0) -> str:
        given = ["reproduce", *map(str, arguments)]
        result = CliRunner().invoke(app, given, catch_exceptions=False)
        assert result.exit_code == code
        return result.output

    return run
