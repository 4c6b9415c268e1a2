"""``pyro-vae train``: what a run holds, that it repeats, and what an interruption leaves."""

import json
import os
import signal
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from pyro_vae import load
from pyro_vae.cli import train as command
from pyro_vae.training import History, TensorBoard
from tests.cli.conftest import Run


def test_a_run_says_how_it_was_made(trained: Path, run: Run, tmp_path: Path) -> None:
    config = json.loads((trained / "config.json").read_text())
    assert config["preset"]["name"] == "bernoulli-mlp"
    assert config["training"] == {
        "data": "digits",
        "epochs": 2,
        "batch_size": 250,
        "objective": "trace_elbo",
        "pixels": "binary",
        "seed": 3,
        "precision": "float32",
        "compile": "auto",
        "optimizer": "optim.Adam(lr=1e-3)",
        "epochs_done": 2,
    }
    assert History.load_csv(trained / "metrics.csv").epoch == [1, 2]
    assert list((trained / "tensorboard").iterdir())
    # The configuration repeats the run.
    settings = config["training"]
    options = {"preset": config["preset"]["name"], "out": tmp_path / "again"}
    for name in ("data", "epochs", "batch_size", "objective", "pixels", "seed"):
        options[name] = settings[name]
    words = [w for name, value in options.items() for w in (f"--{name.replace('_', '-')}", value)]
    assert run("train", *words) == 0
    first, second = load(trained).state_dict(), load(tmp_path / "again").state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_a_folder_that_holds_a_run_is_refused_before_training(
    trained: Path, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (trained / "model.safetensors").read_bytes()
    assert run("train", "--epochs", 2, "--seed", 7, "--out", trained) == 2
    captured = capsys.readouterr()
    assert "holds another run" in captured.err
    assert "epoch" not in captured.out
    assert (trained / "model.safetensors").read_bytes() == before


def test_a_file_as_folder_is_refused_before_training(
    tmp_path: Path, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "file"
    file.write_text("")
    for name in ("train", "compare"):
        assert run(name, "--out", file) == 2
        captured = capsys.readouterr()
        assert "is a file, expected a new or an empty folder" in captured.err
        assert not captured.out


@pytest.mark.parametrize("by_signal", [True, False])
def test_an_interrupted_run_keeps_its_epochs_and_says_so(
    by_signal: bool,
    tmp_path: Path,
    run: Run,
    short: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    class Stop(TensorBoard):
        def scalars(self, values: Mapping[str, float], step: int) -> None:
            super().scalars(values, step)
            if step == (2 if by_signal else 3):
                if not by_signal:
                    raise KeyboardInterrupt
                os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(command, "TensorBoard", Stop)
    options = ("--epochs", 5, "--batch-size", 500, "--tensorboard", "--out", tmp_path)
    assert run("train", *options) == 130
    assert History.load_csv(tmp_path / "metrics.csv").epoch == [1, 2]
    assert "pyro-vae: error: interrupted; what was written is kept" in capsys.readouterr().err
    assert run("evaluate", tmp_path, "--num-samples", 5, "--examples", 10) == 0
    assert "the run stopped after epoch 2 of 5" in capsys.readouterr().out
