"""Training for a study: an interruption ends the row, and keeps no part of it."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_hook

from pyro_vae import VAE
from pyro_vae.studies.engine.training import scored
from pyro_vae.studies.iwae_table import IWAETable

from ..models import Interrupted, bernoulli_vae, binary
from .conftest import Command


def test_an_interrupted_estimate_is_not_that_of_a_row() -> None:
    vae = bernoulli_vae()
    part = Interrupted(vae.likelihood)
    vae = VAE(vae.prior, part, vae.posterior)
    assert scored(vae, binary(200), 100, seed=0).complete
    part.left = 15
    with pytest.raises(KeyboardInterrupt):
        scored(vae, binary(200), 100, seed=0)


@pytest.fixture
def pressed() -> Iterator[None]:
    """Ctrl-C is pressed once, in the fifth call of a linear layer by a training step."""
    calls = 0

    def count(module: nn.Module, *_: object) -> None:
        nonlocal calls
        step = module.training and torch.is_grad_enabled() and isinstance(module, nn.Linear)
        calls += step
        if step and calls == 5:
            os.kill(os.getpid(), signal.SIGINT)

    handle: Callable[[], None] = register_module_forward_hook(count).remove
    yield
    handle()


@pytest.mark.usefixtures("pressed")
@pytest.mark.parametrize(
    "study", [("lecture", "--data", "digits", "--epochs", 3), ("iwae-table", "--quick")]
)
def test_an_interrupted_training_is_not_a_row(
    study: tuple[object, ...], tmp_path: Path, reproduce: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(IWAETable, "precision", "float32")
    reproduce(*study, "--out", tmp_path, code=130)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
