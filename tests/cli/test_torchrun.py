"""``torchrun -m pyro_vae``: several processes train and evaluate, and one of them writes."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from pyro_vae import load
from pyro_vae.training import History

pytestmark = pytest.mark.slow

TRAIN = ["train", "--preset", "pyro-mlp", "--batch-size", 250, "--checkpoint-every", "3 steps"]


def torchrun(*words: object, restarts: int = 0) -> "subprocess.Popen[str]":
    return begun(f"--max-restarts={restarts}", "-m", "pyro_vae", *words)


def begun(*words: object, **options: Any) -> "subprocess.Popen[str]":
    own = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [*own, *map(str, words)]
    return subprocess.Popen(command, text=True, env=environment, **pipes, **options)


def ended(process: "subprocess.Popen[str]", code: int = 0) -> str:
    out, error = process.communicate(timeout=300)
    assert process.returncode == code, error
    return out


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load(run).state_dict()


def wait_for(path: Path) -> None:
    for _ in range(3000):
        if path.exists():
            return
        time.sleep(0.02)
    raise AssertionError(f"{path} was not written")


def worker(process: "subprocess.Popen[str]", rank: int) -> psutil.Process:
    children = psutil.Process(process.pid).children()
    return next(c for c in children if c.environ().get("RANK") == str(rank))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("torchrun") / "run"
    out = ended(torchrun(*TRAIN, "--epochs", 6, "--out", folder, "--tensorboard"))
    assert out.count("epoch 6/6") == out.count("run: ") == 1  # One process prints.
    return folder


def test_one_process_writes_the_run(trained: Path) -> None:
    config = json.loads((trained / "config.json").read_text())
    assert config["training"]["processes"] == 2
    assert History.load_csv(trained / "metrics.csv").epoch == [1, 2, 3, 4, 5, 6]
    assert len(list((trained / "tensorboard").iterdir())) == 1


def test_they_evaluate_as_one_process_does(trained: Path) -> None:
    options = ["--num-samples", 20, "--examples", 100]
    ended(torchrun("evaluate", trained, *options))
    own = [sys.executable, "-m", "pyro_vae", "evaluate", trained, *options]
    subprocess.run(list(map(str, own)), check=True, capture_output=True)
    first, second = (json.loads(p.read_text()) for p in sorted(trained.glob("evaluations/*")))
    for name in ("log-likelihood", "ELBO", "per example"):
        assert first[name] == second[name]


def test_a_killed_process_is_restarted_from_the_checkpoint(trained: Path, tmp_path: Path) -> None:
    """The one that writes."""
    folder = tmp_path / "run"
    process = torchrun(*TRAIN, "--epochs", 6, "--out", folder, "--resume", restarts=1)
    wait_for(folder / "metrics.csv")
    worker(process, 0).kill()
    ended(process)
    found, expected = weights(folder), weights(trained)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_process_that_dies_ends_the_others_within_a_minute(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    process = torchrun(*TRAIN, "--epochs", 200, "--out", folder)
    wait_for(folder / "metrics.csv")
    other = worker(process, 1)
    worker(process, 0).kill()
    start = time.monotonic()
    ended(process, 1)
    assert time.monotonic() - start < 60  # what is promised, not a speed
    assert not other.is_running()


def test_sigterm_writes_a_checkpoint(trained: Path, tmp_path: Path) -> None:
    """torchrun hands it on; the run goes on in the next start."""
    folder = tmp_path / "run"
    process = torchrun(*TRAIN, "--epochs", 6, "--out", folder)
    wait_for(folder / "metrics.csv")
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode != 0
    ended(torchrun("train", "--resume", "--out", folder))
    found, expected = weights(folder), weights(trained)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_the_script_of_the_page(tmp_path: Path) -> None:
    page = Path(__file__).parents[2] / "docs" / "several_processes.md"
    script = tmp_path / "train.py"
    script.write_text(page.read_text().split("```python\n")[1].split("```")[0])
    out = ended(begun(script, cwd=tmp_path))
    assert out.count("LogLikelihood") == 1
    assert (tmp_path / "runs" / "several" / "epoch-5.safetensors").exists()


def test_other_commands_are_refused(trained: Path) -> None:
    process = torchrun("plot", trained)
    _, error = process.communicate(timeout=120)
    assert "plot: got 2 processes of torchrun, expected one; train and evaluate run" in error
