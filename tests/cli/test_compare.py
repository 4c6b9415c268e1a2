"""``pyro-vae compare``: its files, and that it writes over none."""

import csv
import os
import signal
from pathlib import Path

import pytest

from pyro_vae.cli import compare
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
    assert "bands reach from the least to the greatest" in text
    runs = [(name, seed) for name in ("trace_elbo", "analytic_kl") for seed in ("0", "1")]
    for name in ("comparison.csv", "curves.csv"):  # of one epoch
        with (tmp_path / name).open() as file:
            rows = list(csv.DictReader(file))
        assert [(row["objective"], row["seed"]) for row in rows] == runs
        assert str(tmp_path / name) in out
    assert not (tmp_path / "log_likelihood.png").exists()
    assert run("compare", *options) == 2
    assert "holds another comparison, expected a new folder, or --resume" in (
        capsys.readouterr().err
    )


SHORT = ("compare", "--preset", "pyro-mlp", "--z-dim", 2, "--epochs", 1, "--batch-size", 500,
         "--seeds", 2, "--num-samples", 5, "--examples", 20, "--draws", 20)  # fmt: skip


@pytest.mark.slow
def test_a_goal_in_log_likelihood(
    tmp_path: Path, run: Run, short: None, capsys: pytest.CaptureFixture[str]
) -> None:
    options = (*SHORT[:5], "--epochs", 2, *SHORT[7:], "--objectives", "trace_elbo")
    given = ("--likelihood-goal", -1e6, "--likelihood-epochs", "1,2", "--out", tmp_path)
    assert run(*options, *given) == 0
    out = capsys.readouterr().out
    assert "s to log-likelihood -1000000.0: the same until the log-likelihood" in out
    assert str(tmp_path / "log_likelihood.png") in out
    assert (tmp_path / "log_likelihood.png").stat().st_size > 1000
    with (tmp_path / "curves.csv").open() as file:
        assert all(float(row["log_likelihood"]) < 0 for row in csv.DictReader(file))
    assert run(*options, "--likelihood-epochs", "1,x", "--out", tmp_path / "other") == 2
    assert "likelihood_epochs: got '1,x', expected epochs such as" in capsys.readouterr().err


@pytest.mark.slow
def test_an_interrupted_comparison_goes_on_by_resume(
    tmp_path: Path,
    run: Run,
    short: None,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Ctrl-C after three of four runs."""
    out = tmp_path / "out"
    said: list[str] = []
    say = compare.say

    def pressed(line: str) -> None:
        said.append(line)
        say(line)
        if sum(", seed " in each for each in said) == 3 and said[-1].count(", seed "):
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(compare, "say", pressed)
        assert run(*SHORT, "--out", out, "--resume") == 130  # begins where there is nothing
    captured = capsys.readouterr()
    assert "interrupted; what was written is kept" in captured.err
    left = f"3 runs are in {out / 'runs'}; the same command with --resume goes on with them"
    assert left in captured.out
    assert len(list((out / "runs").iterdir())) == 3
    assert "1 seeds" in (out / "comparison.md").read_text()

    assert run(*SHORT, "--out", out) == 2
    assert "or --resume to go on with it" in capsys.readouterr().err
    assert run(*SHORT, "--out", out, "--resume", "--draws", 21) == 2
    assert "draws: got 21, expected 20" in capsys.readouterr().err
    assert run(*SHORT, "--out", out, "--resume") == 0
    printed = capsys.readouterr().out
    assert f"3 runs are in {out / 'runs'}" in printed
    assert [line.split(":")[0] for line in printed.splitlines() if ", seed " in line] == [
        "analytic_kl, seed 1"
    ]
    with (out / "comparison.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 4
    assert "2 seeds" in (out / "comparison.md").read_text()

    path = out / "runs" / "0-trace_elbo-seed-1.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    assert run(*SHORT, "--out", out, "--resume") == 2
    assert f"{path}: damaged" in capsys.readouterr().err


def test_a_comparison_without_its_runs_cannot_go_on(
    tmp_path: Path, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "comparison.md").write_text("numbers")
    assert run(*SHORT, "--out", tmp_path, "--resume") == 2
    assert "whose runs are not there, expected a new folder" in capsys.readouterr().err
