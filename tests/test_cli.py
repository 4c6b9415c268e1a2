"""The command: the main job from end to end, and one clear line for each mistake."""

import csv
import hashlib
import json
import sys
from pathlib import Path

import pytest
import torch

from pyro_vae import load
from pyro_vae.cli import main as cli
from pyro_vae.training.history import History


def run(*args: object, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "argv", ["pyro-vae", *map(str, args)])
    with pytest.raises(SystemExit) as exit_:
        cli.main()
    return int(exit_.value.code or 0)


def train(folder: Path, monkeypatch: pytest.MonkeyPatch, *args: object) -> int:
    options = ["--epochs", 2, "--batch-size", 500, "--out", folder, *args]
    return run("train", *options, monkeypatch=monkeypatch)


def test_the_main_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    assert train(folder, monkeypatch, "--tensorboard", "--seed", 3) == 0
    assert f"run: {folder}" in capsys.readouterr().out
    config = json.loads((folder / "config.json").read_text())
    assert config["preset"]["name"] == "bernoulli-mlp"
    assert config["training"] == {
        "data": "digits",
        "epochs": 2,
        "batch_size": 500,
        "objective": "trace_elbo",
        "pixels": "binary",
        "seed": 3,
        "precision": "float32",
        "compile": "auto",
        "optimizer": "optim.Adam(lr=1e-3)",
        "epochs_done": 2,
    }
    assert History.load_csv(folder / "metrics.csv").epoch == [1, 2]
    assert list((folder / "tensorboard").iterdir())

    assert run("evaluate", folder, "--num-samples", 20, "--examples", 100,
               monkeypatch=monkeypatch) == 0  # fmt: skip
    out = capsys.readouterr().out
    assert "log-likelihood" in out
    assert "trained on" not in out
    evaluation = json.loads((folder / "evaluation.json").read_text())
    assert evaluation["examples"] == 100
    weights = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    assert evaluation["weights_hash"] == weights[:16]
    assert evaluation["log-likelihood"]["mean"] > evaluation["ELBO"]["mean"]

    assert run("plot", folder, "--quantiles", monkeypatch=monkeypatch) == 0
    assert f"pictures: {folder / 'figures'}" in capsys.readouterr().out
    figures = {path.name for path in (folder / "figures").iterdir()}
    assert figures == {
        f"{name}.png" for name in ("curves", "reconstructions", "generated", "manifold", "latent")
    }
    # The configuration repeats the run.
    settings = config["training"]
    again = tmp_path / "again"
    options = {"preset": config["preset"]["name"], "out": again}
    for name in ("data", "epochs", "batch_size", "objective", "pixels", "seed"):
        options[name] = settings[name]
    words = [w for name, value in options.items() for w in (f"--{name.replace('_', '-')}", value)]
    assert run("train", *words, monkeypatch=monkeypatch) == 0
    first, second = load(folder).state_dict(), load(again).state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_a_run_on_grey_pixels_is_judged_on_binary_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    assert train(folder, monkeypatch, "--pixels", "grey", "--preset", "iwae-mlp",
                 "--objective", "analytic_kl", "--z-dim", 4) == 0  # fmt: skip
    options = ("--num-samples", 10, "--examples", 50, "--pixels-seed", 5)
    assert run("evaluate", folder, *options, monkeypatch=monkeypatch) == 0
    out = capsys.readouterr().out
    assert "trained on grey pixels" in out
    assert "binary draw of the test set, seed 5" in out
    assert "10 samples are too few for a k-hat" in out
    first = json.loads((folder / "evaluation.json").read_text())
    assert (first["pixels"], first["pixels_seed"], first["seed"]) == ("binary", 5, 0)
    # Another seed of the noise, the same pixels.
    assert run("evaluate", folder, *options, "--seed", 1, monkeypatch=monkeypatch) == 0
    second = json.loads((folder / "evaluation.json").read_text())
    assert second["data_hash"] == first["data_hash"]
    assert second["per example"]["values"] != first["per example"]["values"]
    assert run("evaluate", folder, "--examples", 2, "--num-samples", 2, "--estimator", "ais:3:2",
               monkeypatch=monkeypatch) == 0  # fmt: skip
    annealed = json.loads((folder / "evaluation.json").read_text())
    assert annealed["estimator_settings"] == {"temperatures": 3, "leapfrog_steps": 2}
    capsys.readouterr()
    assert run("plot", folder, monkeypatch=monkeypatch) == 0
    assert "no manifold: it takes 2 latents, the run has 4" in capsys.readouterr().out
    assert run("plot", folder, "--quantiles", monkeypatch=monkeypatch) == 2
    assert run("evaluate", folder, "--num-samples", 1, "--examples", 1,
               monkeypatch=monkeypatch) == 0  # fmt: skip
    evaluation = json.loads((folder / "evaluation.json").read_text(), parse_constant=pytest.fail)
    assert evaluation["log-likelihood"]["mc_error"] is None


def test_compare(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--epochs", 2, "--batch-size", 1000, "--seeds", 2, "--num-samples", 10,
               "--examples", 100, "--draws", 20, "--out", tmp_path / "c"]  # fmt: skip
    assert run("compare", *options, monkeypatch=monkeypatch) == 0
    out = capsys.readouterr().out
    assert "trace_elbo" in out
    assert "analytic_kl" in out
    assert (tmp_path / "c" / "comparison.md").read_text().strip() in out
    assert (tmp_path / "c" / "comparison.png").stat().st_size > 1000
    with (tmp_path / "c" / "comparison.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["objective"], row["seed"]) for row in rows] == [
        (name, seed) for name in ("trace_elbo", "analytic_kl") for seed in ("0", "1")
    ]
    assert run("compare", *options, monkeypatch=monkeypatch) == 2
    assert "holds another comparison" in capsys.readouterr().err


def test_reproduce_lecture_in_short(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--data", "digits", "--epochs", 2, "--seeds", 2, "--out", tmp_path]
    assert run("reproduce", "lecture", *options, monkeypatch=monkeypatch) == 0
    text = (tmp_path / "lecture.md").read_text()
    assert text in capsys.readouterr().out
    assert "`pyro-vae reproduce lecture --data digits --epochs 2 --seeds 2`" in text
    assert (tmp_path / "lecture.png").exists()
    with (tmp_path / "lecture.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["seed"], row["epoch"]) for row in rows] == [
        (seed, epoch) for seed in "01" for epoch in "12"
    ]
    mean = sum(float(row["cost"]) for row in rows if row["epoch"] == "2") / 2 + 2
    assert f"| 2     |        174.08 |         {mean:.2f} |" in text


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["train", "--preset", "vae"], "preset: got 'vae', expected one of bernoulli-mlp"),
        (["train", "--data", "cifar"], "data: got 'cifar', expected one of digits"),
        (["train", "--epochs", "0"], "epochs: got 0"),
        (["train", "--epochs", "many"], "many"),
        (["train", "--batch-size", "20000"], "batch_size: got 20000"),
        (["train", "--objective", "elbow"], "objective: got 'elbow', expected one of trace_elbo"),
        (["train", "--pixels", "levels"], "pixels: got 'levels', expected one of binary, grey"),
        (["train", "--z-dim", "0"], "z_dim: got"),
        (["train", "--seed", "-1"], "seed: got -1"),
        (["train", "--precision", "half"], "precision: got 'half', expected"),
        (["train", "--colour"], "--colour"),
        (["evaluate", "nowhere"], "nowhere: holds no run"),
        (["plot", "nowhere"], "nowhere: holds no run"),
        (["compare", "--seeds", "0"], "seeds: got 0"),
        (["compare", "--objectives", "trace_elbo,trace_elbo"], "expected each name once"),
        (["compare", "--examples", "3000"], "examples: got 3000, expected at most the 2000"),
        (["train", "--seed", "4294967296"], "seed: got 4294967296"),
        (["compare", "--objectives", "trace_elbo,"], "objective: got ''"),
        (["reproduce", "lecture", "--seeds", "0", "--data", "digits"], "seeds: got 0"),
        (
            ["reproduce", "iwae-table", "--root", "nowhere", "--only", "Nope"],
            "only: got 'Nope', expected one of 'VAE', 'IWAE (k = 50)'",
        ),
        (["fly"], "fly"),
    ],
)
def test_a_wrong_argument_is_one_line_and_exit_code_two(
    args: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(*args, monkeypatch=monkeypatch) == 2
    captured = capsys.readouterr()
    lines = captured.err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("pyro-vae: error: ")
    assert message in lines[0]
    assert not list(tmp_path.iterdir())


def test_a_folder_that_holds_a_run_is_refused_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(tmp_path, monkeypatch) == 0
    before = (tmp_path / "model.safetensors").read_bytes()
    capsys.readouterr()
    assert train(tmp_path, monkeypatch, "--seed", 7) == 2
    captured = capsys.readouterr()
    assert "holds another run" in captured.err
    assert "epoch" not in captured.out
    assert (tmp_path / "model.safetensors").read_bytes() == before


def test_a_file_as_folder_is_refused_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "file"
    file.write_text("")
    for command in ("train", "compare"):
        assert run(command, "--out", file, monkeypatch=monkeypatch) == 2
        captured = capsys.readouterr()
        assert "is a file, expected a new or an empty folder" in captured.err
        assert not captured.out


def test_an_interrupted_run_keeps_its_epochs_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Stop:
        def __init__(self, folder: Path) -> None:
            self.epochs = 0

        def __call__(self, vae: object, history: History) -> None:
            self.epochs += 1
            if self.epochs == 2:
                raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(cli, "TensorBoard", Stop)
        assert train(tmp_path, monkeypatch, "--epochs", 5, "--tensorboard") == 130
    assert History.load_csv(tmp_path / "metrics.csv").epoch == [1, 2]
    assert "pyro-vae: error: interrupted; what was written is kept" in capsys.readouterr().err
    options = ["--num-samples", 5, "--examples", 10]
    assert run("evaluate", tmp_path, *options, monkeypatch=monkeypatch) == 0
    assert "the run stopped after epoch 2 of 5" in capsys.readouterr().out


def test_a_damaged_run_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(tmp_path, monkeypatch) == 0
    (tmp_path / "model.safetensors").write_bytes(b"junk")
    capsys.readouterr()
    assert run("evaluate", tmp_path, monkeypatch=monkeypatch) == 2
    assert "damaged" in capsys.readouterr().err


@pytest.mark.parametrize("command", [[], ["train"], ["evaluate"], ["compare"], ["plot"],
                                     ["reproduce"], ["reproduce", "lecture"]])  # fmt: skip
def test_help_is_there(
    command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*command, "--help", monkeypatch=monkeypatch) == 0
    out = capsys.readouterr().out
    assert "Usage: pyro-vae" in out
    if command == ["train"]:
        for option in ("--preset", "--data", "--epochs", "--batch-size", "--z-dim", "--objective",
                       "--pixels", "--seed", "--precision", "--out"):  # fmt: skip
            assert option in out
