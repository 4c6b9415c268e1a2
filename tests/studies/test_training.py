"""Training for a study: an interrupted row is none, and goes on where it was left."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_hook

from pyro_vae import VAE
from pyro_vae.studies.analytic_kl import AnalyticKL
from pyro_vae.studies.analytic_kl.results import PLAIN
from pyro_vae.studies.engine import Row, Study, keep
from pyro_vae.studies.engine.training import scored
from pyro_vae.studies.iwae_table import IWAETable

from ..vaes import Interrupted, bernoulli_vae, binary
from .conftest import Command

R = TypeVar("R", bound=Row)


def test_an_interrupted_estimate_is_not_that_of_a_row() -> None:
    vae = bernoulli_vae()
    part = Interrupted(vae.likelihood)
    vae = VAE(vae.prior, part, vae.posterior)
    assert scored(vae, binary(200), 100, seed=0).complete
    part.left = 15
    with pytest.raises(KeyboardInterrupt):
        scored(vae, binary(200), 100, seed=0)


class Presses:
    """Presses Ctrl-C in the call `at` of a linear layer by a training step, and counts them."""

    def __init__(self) -> None:
        self.calls, self.at = 0, 0

    def __call__(self, module: nn.Module, *_: object) -> None:
        step = module.training and torch.is_grad_enabled() and isinstance(module, nn.Linear)
        self.calls += step
        if step and self.calls == self.at:
            os.kill(os.getpid(), signal.SIGINT)


@pytest.fixture
def presses(monkeypatch: pytest.MonkeyPatch) -> Iterator[Presses]:
    """Nothing is pressed before `at` is set."""
    monkeypatch.setattr(IWAETable, "precision", "float32")
    found = Presses()
    handle: Callable[[], None] = register_module_forward_hook(found).remove
    yield found
    handle()


@pytest.mark.parametrize(
    "study", [("lecture", "--data", "digits", "--epochs", 3), ("iwae-table", "--quick")]
)
def test_an_interrupted_training_is_not_a_row(
    study: tuple[object, ...], tmp_path: Path, reproduce: Command, presses: Presses
) -> None:
    presses.at = 5
    reproduce(*study, "--out", tmp_path, code=130)
    assert not [path for path in tmp_path.rglob("*") if path.suffix in (".json", ".md")]


def finished(study: Study[R], row: R) -> R:
    """A row as it is read after it was kept."""
    keep(study.home / study.folder, row)
    kept = study.kept()[row.name]
    assert kept is not None
    return kept


@pytest.mark.slow
@pytest.mark.usefixtures("reproduce")
def test_a_row_goes_on_in_the_stage_where_it_was_left(tmp_path: Path, presses: Presses) -> None:
    """The first of two stages is not trained again, and the numbers are those without a break."""
    name = "PIWAE (8, 8)"
    study = IWAETable(quick=True, out=tmp_path / "whole")
    whole, calls = finished(study, study.run(name)), presses.calls
    study = IWAETable(quick=True, out=tmp_path / "cut")
    presses.calls, presses.at = 0, calls * 3 // 4
    with pytest.raises(KeyboardInterrupt):
        study.run(name)
    runs = study.runs(name)
    assert [path.name for path in (runs / "stage-0").iterdir()] == ["epoch-1.safetensors"]
    assert (runs / "stage-1").is_dir()
    presses.calls, presses.at = 0, 0
    row = finished(study, study.run(name))
    assert 0 < presses.calls < calls / 2
    assert not runs.parent.exists()
    assert torch.equal(row.values, whole.values)
    assert [p[::2] for p in row.curve] == [p[::2] for p in whole.curve]
    assert 0 < row.curve[0][1] <= row.curve[1][1]
    same = ("mean", "stderr", "mc_error", "elbo", "kl", "median_ess", "settings")
    assert [getattr(row, key) for key in same] == [getattr(whole, key) for key in same]


@pytest.mark.slow
@pytest.mark.usefixtures("reproduce")
def test_a_row_of_trainings_goes_on_from_those_that_have_ended(
    tmp_path: Path, presses: Presses
) -> None:
    few: dict[str, Any] = {"epochs": 1, "seeds": 1, "num_samples": 3, "draws": 20}
    study = AnalyticKL(**few, out=tmp_path / "whole")
    whole, calls = finished(study, study.run(PLAIN)), presses.calls
    study = AnalyticKL(**few, out=tmp_path / "cut")
    presses.calls, presses.at = 0, calls - 5  # in the last of three trainings
    with pytest.raises(KeyboardInterrupt):
        study.run(PLAIN)
    runs = study.runs(PLAIN)
    names = sorted(path.stem for path in runs.iterdir())
    assert names == ["0-trace_elbo-seed-0", "1-analytic_kl-seed-0"]
    with pytest.raises(ValueError, match="draws: got 21, expected 20") as error:
        AnalyticKL(**few | {"draws": 21}, out=tmp_path / "cut").run(PLAIN)
    assert str(runs) in str(error.value)
    presses.calls, presses.at = 0, 0
    said: list[str] = []
    assert finished(study, study.run(PLAIN, said.append)) == whole
    assert 0 < presses.calls < calls / 2
    assert [line.split(": ")[1] for line in said] == ["sticking_the_landing, seed 0"]
    assert not runs.parent.exists()
