"""Checkpoints, averages and going back on a GPU."""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.optim.lr_scheduler import ExponentialLR

from pyro_vae import VAE, fit, log_likelihood, objectives, optim
from pyro_vae.training import Averaging, History, Recovery, load_checkpoint
from pyro_vae.training.checkpoints import Checkpoints

from .training.test_recovery import Breaks
from .vaes import bernoulli_vae, parameters

pytestmark = pytest.mark.cuda

DEVICE = "cuda"


class Died(Exception):
    """The training ends here, as if its process were killed."""


def trained(folder: Path | None, *, compile: bool, died: int = 0, **others: Any) -> Any:
    torch.manual_seed(0)
    levels = torch.randint(256, (300, 6), dtype=torch.uint8)
    vae, average = bernoulli_vae().to(DEVICE), Averaging(0.9)
    written, own = 0, Checkpoints.write

    def write(self: Checkpoints, *args: Any) -> None:
        nonlocal written
        own(self, *args)
        written += 1
        if written == died:
            raise Died

    settings: dict[str, Any] = {
        "epochs": 6,
        "batch_size": 16,
        "pixels": "binary",
        "test": levels[:40],
        "compile": compile,
        "objective": objectives.warm_up(objectives.trace_elbo(), 50),
        "optim": optim.Adam(1e-2, schedule=lambda adam: ExponentialLR(adam, 0.99)),
        "average": average,
        "checkpoint": folder,
        "checkpoint_every": "25 steps",
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Checkpoints, "write", write)
        history = fit(vae, levels, **(settings | others))
    return vae, average.pair, history


@pytest.mark.parametrize("compile", [False, True])
@pytest.mark.parametrize("died", [1, 3, 5])
def test_a_training_goes_on_bit_for_bit(compile: bool, died: int, tmp_path: Path) -> None:
    expected = trained(None, compile=compile)
    with pytest.raises(Died):
        trained(tmp_path, compile=compile, died=died)
    torch.randn(3, device=DEVICE)
    found = trained(tmp_path, compile=compile, resume=True)
    for ours, theirs in zip(found[:2], expected[:2], strict=True):
        assert torch.equal(parameters(ours), parameters(theirs))
    for column in ("cost", "kl", "test_cost"):
        assert found[2][column] == expected[2][column]
    host = bernoulli_vae()
    load_checkpoint(tmp_path, host)
    assert torch.equal(parameters(host), parameters(copy.deepcopy(expected[0]).cpu()))


@pytest.mark.parametrize("compile", [False, True])
def test_it_goes_back(compile: bool, tmp_path: Path) -> None:
    breaks = Breaks(3, 1)
    settings = {"callbacks": [breaks], "recovery": Recovery(2)}
    vae, _, history = trained(tmp_path, compile=compile, **settings)
    assert isinstance(vae, VAE)
    assert isinstance(history, History)
    assert len(history.recoveries) == 1
    assert parameters(vae).isfinite().all()
    assert len(history.epoch) == 6


@pytest.fixture
def world_of_one(tmp_path: Path) -> Iterator[None]:
    backend = "nccl" if DEVICE == "cuda" else "gloo"
    store = dist.FileStore(str(tmp_path / "store"), 1)
    dist.init_process_group(backend, store=store, rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def in_shares(objective: Any, compile: bool) -> tuple[Any, ...]:
    torch.manual_seed(0)
    vae, x = bernoulli_vae().to(DEVICE), (torch.rand(101, 6) < 0.5).float()
    settings: dict[str, Any] = {"epochs": 3, "batch_size": 20, "test": x[:37], "accumulate": 2}
    history = fit(vae, x, objective=objective(), compile=compile, **settings)
    shared = dist.is_initialized()
    scores = log_likelihood(vae, x, 70, seed=0, shared=shared)
    return parameters(vae), history.cost, history.test_cost, scores.values


@pytest.mark.parametrize("compile", [False, True])
@pytest.mark.parametrize(
    "objective", [objectives.trace_elbo, lambda: objectives.free_bits(0.2)], ids=["elbo", "free"]
)
def test_nccl_in_a_world_of_one(
    objective: Any, compile: bool, request: pytest.FixtureRequest
) -> None:
    """Two processes share no GPU, so that one of them sends its messages to itself."""
    alone = in_shares(objective, compile)
    request.getfixturevalue("world_of_one")
    together = in_shares(objective, compile)
    assert torch.equal(together[0], alone[0])
    assert together[1:3] == alone[1:3]
    assert torch.equal(together[3], alone[3])
