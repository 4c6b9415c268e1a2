"""``pyro-vae reproduce``: a study's fields are its options."""

import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from pyro_vae import studies
from pyro_vae.studies import engine
from pyro_vae.studies.iwae_table import IWAETable
from tests.cli.conftest import Run


@pytest.mark.parametrize("name", studies.names())
def test_the_help_has_each_option_with_its_default(
    name: str, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("reproduce", name, "--help") == 0
    options = " ".join(capsys.readouterr().out.split()).split(" --")
    for field in fields(studies.find(name)):
        word = field.name.replace("_", "-")
        shown = next(option for option in options if option.split()[0] == word)
        if field.default is not None and not isinstance(field.default, bool):
            assert f"[default: {field.default}]" in shown


def test_options_reach_the_study(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    monkeypatch.setattr(engine, "reproduce", lambda study, say: asked.append(study))
    assert run("reproduce", "iwae-table", "--quick", "--only", "VAE", "--only", "MIWAE (8, 8)",
               "--out", "here") == 0  # fmt: skip
    assert asked == [IWAETable(only=["VAE", "MIWAE (8, 8)"], quick=True, out=Path("here"))]


@pytest.mark.slow
def test_the_command_imports_no_study_that_it_does_not_run() -> None:
    code = (
        "import sys, pyro_vae.cli;"
        "print([m for m in sys.modules if m.startswith('pyro_vae.studies.')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
