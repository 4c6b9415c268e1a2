"""``pyro-vae evaluate``: what it records, and on which pixels."""

import hashlib
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from pyro_vae import datasets, load, log_likelihood, presets, save, storage
from pyro_vae.cli import evaluate as command
from tests.cli.conftest import Run


def evaluation(folder: Path) -> dict[str, Any]:
    """The last one."""
    for path in (folder / "evaluations").iterdir():
        json.loads(path.read_text(), parse_constant=pytest.fail)
    return storage.evaluations(folder)[-1]


def test_the_record_of_an_evaluation(
    trained: Path, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("evaluate", trained, "--num-samples", 20, "--examples", 100) == 0
    out = capsys.readouterr().out
    assert "log-likelihood" in out
    assert "trained on" not in out
    record = evaluation(trained)
    assert record["examples"] == 100
    digest = hashlib.sha256((trained / "model.safetensors").read_bytes()).hexdigest()
    assert record["weights_hash"] == digest[:16]
    assert record["log-likelihood"]["mean"] > record["ELBO"]["mean"]
    assert record["complete"]


def test_what_one_sample_of_one_example_cannot_know_is_null(trained: Path, run: Run) -> None:
    assert run("evaluate", trained, "--num-samples", 1, "--examples", 1) == 0
    record = evaluation(trained)
    assert record["log-likelihood"]["stderr"] is None
    assert record["log-likelihood"]["mc_error"] is None
    assert record["interval_of_the_bound"] == [None, None]
    assert record["per example"]["khat"] == [None]
    assert record["khat_threshold"] is None
    assert record["above_it"] is None


@pytest.mark.slow
def test_a_run_on_grey_pixels_is_judged_on_binary_ones(
    tmp_path: Path, run: Run, short: None, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    given = ("--preset", "iwae-mlp", "--objective", "analytic_kl", "--z-dim", 4,
             "--pixels", "grey", "--epochs", 1, "--batch-size", 500, "--out", folder)  # fmt: skip
    assert run("train", *given) == 0
    options = ("--num-samples", 10, "--examples", 50, "--pixels-seed", 5)
    assert run("evaluate", folder, *options) == 0
    out = capsys.readouterr().out
    assert "trained on grey pixels" in out
    assert "binary draw of the test set, seed 5" in out
    assert "10 samples are too few for a k-hat" in out
    first = evaluation(folder)
    assert (first["pixels"], first["pixels_seed"], first["seed"]) == ("binary", 5, 0)
    # Another seed of the noise, the same pixels.
    assert run("evaluate", folder, *options, "--seed", 1) == 0
    second = evaluation(folder)
    assert second["data_hash"] == first["data_hash"]
    assert second["per example"]["values"] != first["per example"]["values"]
    assert run("evaluate", folder, "--examples", 2, "--num-samples", 2,
               "--estimator", "ais:3:2") == 0  # fmt: skip
    every = storage.evaluations(folder)
    assert every[:2] == [first, second]
    assert [record["estimator"] for record in every] == ["importance", "importance", "ais"]
    settings = evaluation(folder)["estimator_settings"]
    assert settings == {"temperatures": 3, "leapfrog_steps": 2}
    capsys.readouterr()
    assert run("plot", folder) == 0
    assert "no manifold: it takes 2 latents, the run has 4" in capsys.readouterr().out
    assert run("plot", folder, "--quantiles") == 2


def test_an_interrupted_evaluation_is_kept_as_a_partial_one(
    trained: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = command._scores

    def interrupted(*arguments: Any) -> Any:
        result, bound = scores(*arguments)
        return replace(result, complete=False), bound

    monkeypatch.setattr(command, "_scores", interrupted)
    assert run("evaluate", trained, "--num-samples", 5, "--examples", 10) == 130
    assert not evaluation(trained)["complete"]
    monkeypatch.undo()
    assert run("evaluate", trained, "--num-samples", 5, "--examples", 10) == 0
    assert [record["complete"] for record in storage.evaluations(trained)] == [False, True]


def test_a_damaged_run_is_one_line(
    trained: Path, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    (trained / "model.safetensors").write_bytes(b"junk")
    assert run("evaluate", trained) == 2
    assert "damaged" in capsys.readouterr().err


def test_what_is_no_run_of_the_command_is_said(
    tmp_path: Path, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    vae = presets.build("pyro-mlp", z_dim=1, shape=6)
    save(vae, tmp_path / "other")
    assert run("evaluate", tmp_path / "other") == 2
    assert "data are unknown, expected a run of that command" in capsys.readouterr().err
    torch.nn.init.constant_(next(vae.parameters()), math.nan)
    save(vae, tmp_path / "nan", training={"data": "digits", "pixels": "binary"})
    assert run("evaluate", tmp_path / "nan") == 2
    assert "parameters that are not finite, expected finite ones" in capsys.readouterr().err


@pytest.mark.slow
def test_a_conditional_preset_takes_the_labels(
    tmp_path: Path, run: Run, short: None, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, preset = tmp_path / "run", ("--preset", "conditional-mlp", "--batch-size", 250)
    assert run("train", *preset, "--epochs", 1, "--out", folder) == 0
    assert run("evaluate", folder, "--num-samples", 5, "--examples", 20) == 0
    digits = datasets.load("digits")
    vae = load(folder)
    x = datasets.binarize(digits.test[:20], seed=0)
    own = log_likelihood(vae, (x, digits.test_labels[:20]), 5, seed=0)
    assert evaluation(folder)["per example"]["values"] == own.values.tolist()
    capsys.readouterr()
    assert run("plot", folder) == 0
    assert "the run has 5 and labels" in capsys.readouterr().out
    compared = ("--epochs", 1, "--seeds", 1, "--num-samples", 5, "--draws", 20)
    assert run("compare", *preset, *compared, "--out", tmp_path / "comparison") == 0
