"""``pyro-vae train``: what a run holds, that it repeats, and what an interruption leaves."""

import json
import os
import signal
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import torch

from pyro_vae import load
from pyro_vae.cli import termination
from pyro_vae.cli import train as command
from pyro_vae.training import History, TensorBoard
from pyro_vae.training.ending import Interruption
from tests.cli.conftest import Run


def test_a_run_says_how_it_was_made(trained: Path, run: Run, tmp_path: Path) -> None:
    config = json.loads((trained / "config.json").read_text())
    assert config["preset"]["name"] == "bernoulli-mlp"
    made = {name: config["training"].pop(name) for name in ("commands", "date")}
    assert [command.split(" --out")[0] for command in made["commands"]] == [
        "pyro-vae train --epochs 2 --batch-size 250 --seed 3 --tensorboard"
    ]
    assert timedelta() <= datetime.now(UTC) - datetime.fromisoformat(made["date"]) < timedelta(1)
    assert config["training"] == {
        "data": "digits",
        "epochs": 2,
        "batch_size": 250,
        "objective": "trace_elbo",
        "pixels": "binary",
        "seed": 3,
        "precision": "float32",
        "average": None,
        "labels": None,
        "labelled": None,
        "compile": "auto",
        "processes": 1,
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


class Ending(TensorBoard):
    """Ends the process, in one way or another, after an epoch."""

    way: Callable[[], None] = staticmethod(lambda: None)
    epoch = 2

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        super().scalars(values, step)
        if step == Ending.epoch:
            Ending.way()


def killed() -> None:
    raise KeyboardInterrupt


def terminated() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


OPTIONS = ("--preset", "iwae-mlp", "--z-dim", 3, "--batch-size", 100, "--seed", 5)


@pytest.mark.parametrize(
    ("way", "code"), [pytest.param(killed, 130, marks=pytest.mark.slow), (terminated, 143)]
)
def test_a_run_goes_on(
    way: Callable[[], None],
    code: int,
    tmp_path: Path,
    run: Run,
    short: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """With no options but --resume, and the result of a run that was not ended."""
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert run("train", *OPTIONS, "--epochs", 4, "--out", whole) == 0
    with monkeypatch.context() as patch:
        patch.setattr(command, "TensorBoard", Ending)
        patch.setattr(Ending, "way", staticmethod(way))
        options = (*OPTIONS, "--epochs", 4, "--tensorboard", "--out", broken)
        assert run("train", *options) == code
    assert "what was written is kept" in capsys.readouterr().err
    assert run("train", "--resume", "--out", broken) == 0
    first, second = load(whole).state_dict(), load(broken).state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)
    histories = [History.load_csv(folder / "metrics.csv") for folder in (whole, broken)]
    assert histories[0].test_cost == histories[1].test_cost
    assert run("train", "--resume", "--epochs", 5, "--out", broken) == 0
    assert History.load_csv(broken / "metrics.csv").epoch == [1, 2, 3, 4, 5]
    settings = json.loads((broken / "config.json").read_text())["training"]
    assert settings["epochs"] == 5
    resumed = ["train --resume", "train --resume --epochs 5"]
    assert settings["commands"][1:] == [f"pyro-vae {way} --out {broken}" for way in resumed]
    assert run("train", "--resume", "--seed", 6, "--out", broken) == 2
    assert "seed: got 6, expected 5" in capsys.readouterr().err


def test_a_run_that_could_not_begin_can_begin(
    tmp_path: Path, run: Run, short: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("train", "--epochs", 1, "--precision", "half", "--out", tmp_path) == 2
    assert run("train", "--epochs", 1, "--checkpoint-every", "2 years", "--out", tmp_path) == 2
    assert "checkpoint_every: got '2 years'" in capsys.readouterr().err
    options = ("--resume", "--epochs", 1, "--batch-size", 500)
    assert run("train", *options, "--out", tmp_path) == 0
    assert run("train", "--epochs", 1, "--out", tmp_path) == 2


def test_what_takes_long_is_broken_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(termination, "_SECONDS", 1)
    before = signal.getsignal(signal.SIGTERM)
    ended = termination.Termination()

    def sleeping() -> None:
        with ended.handled(), Interruption() as outer, outer.waiting():
            terminated()
            assert outer.requested
            time.sleep(9)

    with pytest.raises(KeyboardInterrupt):
        sleeping()
    assert ended.requested
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.slow
def test_an_average_is_evaluated_and_written(tmp_path: Path, run: Run, short: None) -> None:
    folders = [tmp_path / name for name in ("plain", "averaged")]
    options = ("--epochs", 2, "--batch-size", 250)
    assert run("train", *options, "--out", folders[0]) == 0
    assert run("train", *options, "--average", 0.9, "--out", folders[1]) == 0
    plain, averaged = (load(folder).state_dict() for folder in folders)
    assert not torch.equal(next(iter(plain.values())), next(iter(averaged.values())))
    histories = [History.load_csv(folder / "metrics.csv") for folder in folders]
    assert histories[0].cost == histories[1].cost
    assert histories[0].test_cost != histories[1].test_cost
    assert run("train", "--resume", "--epochs", 3, "--out", folders[1]) == 0
    assert run("train", "--resume", "--average", 0.8, "--epochs", 4, "--out", folders[1]) == 2


@pytest.mark.slow
def test_a_run_with_few_labels(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It keeps some labels, is evaluated with those of the test images, and is drawn."""
    folder = tmp_path / "labelled"
    options = ("--preset", "semi-supervised-mlp", "--epochs", 1, "--batch-size", 250)
    few = ("--labels", 50, "--labelled", 0.1, "--out", folder)
    assert run("train", *options, *few) == 0
    config = json.loads((folder / "config.json").read_text())
    assert config["training"]["labels"] == 50
    assert config["training"]["objective"] == "classified:1:enumerated"
    assert run("evaluate", folder, "--num-samples", 5) == 0
    assert "log-likelihood" in capsys.readouterr().out
    assert run("plot", folder) == 0
    assert load(folder).classify(torch.zeros(3, 28, 28)).shape == (3, 10)
    assert run("train", "--labels", 50, "--out", tmp_path / "none") == 2
    assert "labels: got 50 with preset 'bernoulli-mlp'" in capsys.readouterr().err


@pytest.mark.usefixtures("short")
def test_a_log_file_has_one_line_an_epoch(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command's own, which has the time left; none of ``fit`` beside it."""
    monkeypatch.delenv("TQDM_DISABLE")
    options = ("--preset", "pyro-mlp", "--epochs", 2, "--batch-size", 250)
    assert run("train", *options, "--out", tmp_path / "run") == 0
    captured = capsys.readouterr()
    lines = [line for line in (captured.out + captured.err).splitlines() if "epoch " in line]
    assert [line[:9] for line in lines] == ["epoch 1/2", "epoch 2/2"]
    assert lines[0].split("  ")[-1].endswith(" left")
    assert lines[1].endswith("  00:00 left")
