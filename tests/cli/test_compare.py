"""``pyro-vae compare``: its files, and that it writes over none."""

import csv
from pathlib import Path

import pytest

from tests.cli.conftest import Run


def test_compare(
    tmp_path: Path, run: Run, short: None, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--preset", "iwae-mlp", "--z-dim", 2, "--epochs", 1, "--batch-size", 500,
               "--seeds", 2, "--num-samples", 10, "--examples", 100, "--draws", 20,
               "--out", tmp_path)  # fmt: skip
    assert run("compare", *options) == 0
    out = capsys.readouterr().out
    text = (tmp_path / "comparison.md").read_text().strip()
    assert text in out
    assert "iwae-mlp on digits, binary pixels, 2 latents, 1 epochs, 2 seeds" in text
    assert "\n| trace_elbo " in text
    assert "\n| analytic_kl " in text
    assert (tmp_path / "comparison.png").stat().st_size > 1000
    with (tmp_path / "comparison.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["objective"], row["seed"]) for row in rows] == [
        (name, seed) for name in ("trace_elbo", "analytic_kl") for seed in ("0", "1")
    ]
    assert run("compare", *options) == 2
    assert "holds another comparison" in capsys.readouterr().err
