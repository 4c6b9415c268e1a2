"""The benchmarks run: small, on a CPU, with the tables that a GPU has."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import needs_compiler


@needs_compiler
@pytest.mark.slow
def test_the_tables_of_a_gpu_are_made_on_a_cpu(tmp_path: Path) -> None:
    out, root = tmp_path / "benchmarks.md", Path(__file__).parent.parent
    command = [sys.executable, "-m", "benchmarks", "--device", "cpu", "--small", "--out", out]
    run = subprocess.run(command, cwd=root, env=os.environ, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    text = out.read_text()
    for title in ("Epochs", "Evaluation", "Steps", "IWAE", "Default settings", "Growth"):
        assert f"## {title}\n" in text
    for row in ("ours: fit, compiled", "ours: svi.step, compiled", "ours: log_likelihood"):
        assert row in text
