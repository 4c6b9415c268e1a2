"""Several processes train as one does that cuts its batches: the same losses and parameters."""

import os
import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn
from torch.distributed import get_rank, is_initialized, new_group
from torch.optim.lr_scheduler import ExponentialLR, ReduceLROnPlateau
from torch.utils.data import DataLoader, Dataset, DistributedSampler, IterableDataset, Subset

from pyro_vae import Pair, fit, networks, objectives, optim, posteriors
from pyro_vae.training import (
    Averaging,
    EarlyStopping,
    History,
    NonFiniteLoss,
    Recovery,
    StopTraining,
    interrupt,
)

from ..conftest import needs_compiler
from ..several import run
from ..test_context import labelled
from ..vaes import bernoulli_vae, parameters

Found = tuple[dict[str, list[float]], str | None, Tensor, list[str]]


def x(count: int = 101) -> Tensor:
    return (torch.rand(count, 6, generator=torch.Generator().manual_seed(5)) < 0.5).float()


def levels(count: int = 101) -> Tensor:
    generator = torch.Generator().manual_seed(6)
    return torch.randint(256, (count, 6), dtype=torch.uint8, generator=generator)


def pair() -> Pair:
    """With a parameter that the first call makes from the data's shape."""
    decoder, encoder = networks.MLP(2, (8,), 6), networks.MLP(6, (8,), 4)

    def model(x: Tensor) -> None:
        width = pyro.param("width", torch.ones(6), constraint=dist.constraints.positive)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(decoder(z), width).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        loc, scale = encoder(x).chunk(2, -1)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, scale.exp()).to_event(1))

    return Pair(model, guide, decoder=decoder, encoder=encoder)


class Drawn(Dataset[Tensor]):
    """Examples that draw: each time another one."""

    def __init__(self, x: Tensor) -> None:
        self.x = x

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> Tensor:
        return torch.bernoulli(0.9 * self.x[index])


class Stream(IterableDataset[Tensor]):
    def __iter__(self) -> Iterator[Tensor]:
        return iter(torch.bernoulli(0.9 * x()))


def on_disk(folder: Path) -> np.memmap:
    path = folder / "x.npy"
    if not path.exists():  # another process sees the whole file or none
        part = folder / f"{os.getpid()}.npy"
        np.save(part, levels().numpy())
        part.replace(path)
    return np.load(path, mmap_mode="r")


def _plateau() -> dict[str, Any]:
    rate = optim.from_torch(
        torch.optim.RMSprop, lr=1e-2, schedule=lambda o: ReduceLROnPlateau(o, patience=0)
    )
    return {"optim": rate, "validation": 0.2, "test": x(37)}


CASES: dict[str, Callable[[Path], dict[str, Any]]] = {
    "VAE": lambda folder: {},
    "conditional": lambda folder: {
        "vae": labelled((6, 1)),
        "train": (x().unsqueeze(-1), torch.arange(101) % 4),
        "test": (x(37).unsqueeze(-1), torch.arange(37) % 4),
    },
    "pair": lambda folder: {"vae": pair(), "train": torch.linspace(-2, 2, 606).view(101, 6)},
    "levels": lambda folder: {"train": levels(), "test": levels(37), "pixels": "binary"},
    "warm-up": lambda folder: {
        "objective": objectives.warm_up(objectives.trace_elbo(), 30),
        "optim": optim.Adam(1e-2, clip_norm=0.5, schedule=lambda adam: ExponentialLR(adam, 0.99)),
    },
    "plateau": lambda folder: _plateau(),
    "free bits": lambda folder: {"objective": objectives.free_bits(0.2, 2)},
    "iwae": lambda folder: {"objective": objectives.iwae(3)},
    "on disk": lambda folder: {
        "train": on_disk(folder),
        "test": levels(37),
        "pixels": "binary",
    },
    "examples that draw": lambda folder: {"train": Drawn(x()), "test": Drawn(x(21))},
    "loader": lambda folder: {
        "train": DataLoader(Drawn(x()), 20, shuffle=True),
        "test": DataLoader(Drawn(x(21)), 20),
    },
    "stream": lambda folder: {"train": Stream()},
    "Pyro's optimizer": lambda folder: {"optim": pyro.optim.ClippedAdam({"lr": 1e-2})},
    "torch's optimizer": lambda folder: {
        "vae": (vae := bernoulli_vae()),
        "optim": torch.optim.AdamW(vae.parameters(), lr=1e-2),
    },
    "one by one": lambda folder: {
        "train": x(15),
        "batch_size": 1,
        "optim": optim.Adam(1e-2, clip_norm=0.1),
        "checkpoint": folder / f"rank-{os.getpid()}" if not is_initialized() else folder / "all",
    },
    "one by one, Pyro's": lambda folder: {
        "train": x(15),
        "batch_size": 1,
        "optim": pyro.optim.ClippedAdam({"lr": 1e-2}),
    },
    "average": lambda folder: {"average": Averaging(0.9), "test": x(21)},
    "early stopping": lambda folder: {
        "validation": 0.3,
        "callbacks": [EarlyStopping(2)],
        "optim": optim.Adam(0.1),
        "epochs": 60,
    },
}
COMPILED = ["levels", "free bits", "warm-up"]


def trained(case: str, folder: Path, more: dict[str, Any]) -> Found:
    """What a training gives; of several processes, each has a seed of its own before it."""
    alone = not is_initialized()
    torch.manual_seed(0 if alone else get_rank())
    given = {"vae": bernoulli_vae(), "train": x(), "test": x(37), **CASES[case](folder), **more}
    if not isinstance(given["train"], DataLoader):
        given = {"batch_size": 20, **given}
    settings: dict[str, Any] = {"epochs": 4, "optim": optim.Adam(1e-2), **given}
    history = fit(**settings, accumulate=2 if alone else 1)
    rows = {name: values for name, values in history.items() if name != "seconds"}
    return rows, history.ended, parameters(settings["vae"]), history.recoveries


def check_alike(found: list[Found], expected: Found, tolerance: float = 1e-5) -> None:
    """All processes have the same parameters, bit for bit, and those of one to rounding."""
    for each in found:
        assert not isinstance(each, BaseException), each
        assert torch.equal(each[2], found[0][2])
        assert each[0] == found[0][0]
        assert each[1] == expected[1]
        assert len(each[0]["epoch"]) == len(expected[0]["epoch"])
        for name, values in expected[0].items():
            assert each[0][name] == pytest.approx(values, rel=tolerance, abs=tolerance), name
        torch.testing.assert_close(each[2], expected[2], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "case",
    [
        case
        if case in ("VAE", "conditional", "pair", "free bits", "loader", "one by one")
        else pytest.param(case, marks=pytest.mark.slow)
        for case in CASES
    ],
)
def test_two_processes_train_as_one_does_in_two_shares(case: str, tmp_path: Path) -> None:
    """An epoch's last batch is one example, so that one of the two has none."""
    found = run(trained, case, tmp_path, {})
    check_alike(found, trained(case, tmp_path, {}))


@pytest.mark.slow
@pytest.mark.parametrize("case", ["VAE", "conditional", "pair"])
def test_after_two_hundred_steps(case: str, tmp_path: Path) -> None:
    more = {"epochs": 34}  # of six batches
    check_alike(run(trained, case, tmp_path, more), trained(case, tmp_path, more))


def uneven(folder: Path, epochs: int) -> Found:
    more = {"compile": True, "batch_size": 7, "epochs": epochs, "checkpoint": folder}
    return trained("VAE", folder, {**more, "resume": True})


@needs_compiler
@pytest.mark.slow
def test_compiled_uneven_shares_go_on_bit_for_bit(tmp_path: Path) -> None:
    """Each process has code of its own for the sizes of its shares."""
    run(uneven, tmp_path / "a", 2)
    found = run(uneven, tmp_path / "a", 3)
    expected = run(uneven, tmp_path / "b", 3)
    assert found[0][0] == expected[0][0]
    assert torch.equal(found[0][2], expected[0][2])


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("case", COMPILED)
def test_compiled(case: str, tmp_path: Path) -> None:
    more = {"compile": True}
    check_alike(run(trained, case, tmp_path, more), trained(case, tmp_path, more))


@pytest.mark.slow
def test_three_processes_in_two_shares_each(tmp_path: Path) -> None:
    more = {"batch_size": 4}  # so that some have no examples
    found = run(in_two_shares, tmp_path, more, size=3)
    torch.manual_seed(0)
    vae = bernoulli_vae()
    history = fit(
        vae, x(), test=x(37), epochs=4, accumulate=6, optim=optim.Adam(1e-2), batch_size=4
    )
    rows = {name: values for name, values in history.items() if name != "seconds"}
    check_alike(found, (rows, history.ended, parameters(vae), []))


def in_two_shares(folder: Path, more: dict[str, Any]) -> Found:
    torch.manual_seed(get_rank())
    vae = bernoulli_vae()
    settings = {"epochs": 4, "optim": optim.Adam(1e-2), **more}
    history = fit(vae, x(), test=x(37), accumulate=2, **settings)
    rows = {name: values for name, values in history.items() if name != "seconds"}
    return rows, history.ended, parameters(vae), []


@pytest.mark.slow
def test_without_a_seed_the_first_process_draws_one(tmp_path: Path) -> None:
    found = run(trained, "VAE", tmp_path, {"seed": None})
    assert torch.equal(found[0][2], found[1][2])
    assert found[0][0] == found[1][0]


# How it ends.


def killed(folder: Path, after: int) -> Found:
    """The second process kills itself after so many epochs."""

    def die(vae: Pair, history: History) -> None:
        if len(history.epoch) == after and get_rank() == 1:
            os.kill(os.getpid(), signal.SIGKILL)

    return resumed(folder, callbacks=[die])


def resumed(folder: Path, **more: Any) -> Found:
    settings = {"checkpoint": folder, "checkpoint_every": "2 steps", "resume": True}
    return trained("levels", folder, {**settings, **more})


def test_a_process_that_dies_ends_the_others_and_both_go_on_from_there(tmp_path: Path) -> None:
    """Bit for bit as two processes that were not interrupted."""
    first, second = run(killed, tmp_path / "a", 2)
    assert second == -signal.SIGKILL
    assert isinstance(first, ConnectionError)
    assert "another process has ended" in str(first)
    found = run(resumed, tmp_path / "a")
    expected = run(resumed, tmp_path / "b")
    for each in found:
        assert torch.equal(each[2], expected[0][2])
        assert each[0] == expected[0][0]


class Pressing(Dataset[Tensor]):
    """In the second process, Ctrl-C comes in the middle of the second epoch."""

    def __init__(self) -> None:
        self.left = 115  # 60 are read before the first step

    def __len__(self) -> int:
        return 101

    def __getitem__(self, index: int) -> Tensor:
        self.left -= get_rank()
        if self.left == 0:
            interrupt()
        return x()[index]


def interrupted(folder: Path, press: bool) -> Found:
    settings: dict[str, Any] = {"checkpoint": folder, "resume": True}
    train = Pressing()
    train.left = train.left if press else -1
    return trained("VAE", folder, {**settings, "train": train})


def test_ctrl_c_in_one_process_ends_all_after_the_same_step(tmp_path: Path) -> None:
    found = run(interrupted, tmp_path / "a", True)
    assert [each[1] for each in found] == ["interrupted", "interrupted"]
    assert torch.equal(found[0][2], found[1][2])
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert names == ["epoch-1-batch-1.safetensors", "epoch-1.safetensors"]
    found = run(interrupted, tmp_path / "a", False)
    expected = run(interrupted, tmp_path / "b", False)
    assert torch.equal(found[0][2], expected[0][2])


def stopped(folder: Path) -> Found:
    def stop(vae: Pair, history: History) -> None:
        if get_rank() == 1 and len(history.epoch) == 2:
            raise StopTraining("enough")

    return trained("VAE", folder, {"callbacks": [stop]})


def test_a_callback_of_one_process_stops_all(tmp_path: Path) -> None:
    for found in run(stopped, tmp_path):
        assert found[1] == "stopped"
        assert found[0]["epoch"] == [1, 2]


class Failing(nn.Module):
    """A network that gives NaN in one of the processes, once."""

    def __init__(self, network: nn.Module, after: int) -> None:
        super().__init__()
        self.network = network
        self.out_shape = torch.Size((6,))
        self.left = after

    def forward(self, z: Tensor) -> Tensor:
        out: Tensor = self.network(z)
        self.left -= get_rank() * self.training
        return out * float("nan") if self.left == 0 else out


def failing(folder: Path, recovery: bool) -> Found:
    vae = bernoulli_vae()
    vae.likelihood.network = Failing(vae.likelihood.network, 20)
    more: dict[str, Any] = {"vae": vae, "checkpoint": folder}
    if recovery:
        more["recovery"] = Recovery(2)
    return trained("VAE", folder, more)


def test_a_loss_that_is_not_finite_in_one_process_is_an_error_in_all(tmp_path: Path) -> None:
    errors = run(failing, tmp_path / "a", False)
    assert all(isinstance(error, NonFiniteLoss) for error in errors), errors
    assert str(errors[0]) == str(errors[1])
    found = run(failing, tmp_path / "b", True)
    for each in found:
        assert each[1] == "epochs"
        assert len(each[3]) == 1
        assert torch.equal(each[2], found[0][2])


def failing_twice(folder: Path) -> Found:
    vae = bernoulli_vae()
    vae.likelihood.network = Failing(vae.likelihood.network, 20)
    second = Failing(vae.posterior.network, 26)
    second.out_shape = torch.Size((2,))
    vae.posterior.network = second
    more = {"vae": vae, "checkpoint": folder, "recovery": Recovery(4)}
    return trained("VAE", folder, {**more, "checkpoint_every": "13 steps", "epochs": 8})


def test_all_go_back_with_the_same_rates(tmp_path: Path) -> None:
    """Also where a checkpoint was written between two failures."""
    first, second = run(failing_twice, tmp_path)
    assert first[3] == second[3]
    assert len(first[3]) == 2
    assert torch.equal(first[2], second[2])


def spoilt(folder: Path, recovery: bool) -> Found:
    """A callback of one process spoils a parameter, once."""
    left = [2]

    def spoil(vae: Pair, history: History) -> None:
        left[0] -= get_rank()
        if left[0] == 0:
            with torch.no_grad():
                next(vae.parameters()).fill_(float("nan"))

    more = {"recovery": Recovery(2)} if recovery else {}
    return trained("VAE", folder, {"checkpoint": folder, "callbacks": [spoil], **more})


def test_a_parameter_that_one_process_spoils_takes_all_back(tmp_path: Path) -> None:
    errors = run(spoilt, tmp_path / "a", False)
    assert all(isinstance(error, NonFiniteLoss) for error in errors), errors
    first, second = run(spoilt, tmp_path / "b", True)
    assert first[3] == second[3]
    assert len(first[3]) == 1
    assert torch.equal(first[2], second[2])


def raising(case: str) -> str:
    """One process raises, catches its error, and lives on."""

    def call(vae: Pair, history: History) -> None:
        if get_rank():
            raise OSError("no such thing")

    settings: dict[str, Any] = {"epochs": 2, "batch_size": 8}
    if case == "callback":
        settings["callbacks"] = [call]
    train = Raising(30 if case == "data" else 10**6)
    with pytest.raises((OSError, RuntimeError), match="no such thing"):
        fit(bernoulli_vae(), train, **settings)
    fit(bernoulli_vae(), x(40), epochs=1)  # The group is still good.
    return "done"


class Raising(Dataset[Tensor]):
    def __init__(self, after: int) -> None:
        self.left = after

    def __len__(self) -> int:
        return 40

    def __getitem__(self, index: int) -> Tensor:
        self.left -= get_rank()
        if self.left == 0:
            raise OSError("no such thing")
        return torch.ones(6)


@pytest.mark.parametrize("case", ["callback", "data"])
def test_an_error_that_one_process_survives_is_one_of_all(case: str) -> None:
    assert run(raising, case) == ["done", "done"]


class Closing:
    """A tracker that counts."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def config(self, settings: Any) -> None:
        self.calls.append("config")

    def scalars(self, values: Any, step: int) -> None:
        self.calls.append("scalars")

    def figure(self, name: str, figure: Any, step: int) -> None:
        self.calls.append("figure")

    def close(self) -> None:
        self.calls.append("close")


def tracked() -> list[str]:
    tracker = Closing()
    fit(bernoulli_vae(), x(40), epochs=2, tracker=tracker)
    return tracker.calls


def test_the_first_process_tells_the_tracker_and_all_close_it() -> None:
    first, second = run(tracked)
    assert first == ["config", "scalars", "scalars", "figure", "close"]
    assert second == ["close"]


# What is refused.


def wrong(case: str) -> None:
    rank, vae = get_rank(), bernoulli_vae()
    settings: dict[str, Any] = {"vae": vae, "train": x(40), "epochs": 1, "batch_size": 8}
    if case == "data":
        settings["train"] = x(40) * rank
    elif case == "epochs":
        settings["epochs"] = 1 + rank
    elif case == "seed":
        settings["seed"] = rank
    elif case == "sampler":
        data = Drawn(x(40))
        settings["train"] = DataLoader(data, 8, sampler=DistributedSampler(data))
        del settings["batch_size"]
    elif case == "first batch":
        settings["train"] = Anew([x(8) * rank])
        del settings["batch_size"]
    elif case == "lengths":
        settings["train"] = Anew([x(8)] * (2 + rank))
        del settings["batch_size"]
    elif case == "sizes":
        settings["train"] = Anew([x(8), x(8 - rank)])
        del settings["batch_size"]
    elif case == "batch norm":
        vae.posterior = posteriors.Normal(_Encoder(nn.BatchNorm1d(6), nn.Linear(6, 4)))
    elif case == "support":
        settings["train"] = Listed(x(40) + 0.5 * rank * (torch.arange(40) > 20).view(-1, 1))
    elif case == "subset":
        settings["train"] = Subset(Listed(x(80)), range(rank, 80, 2))
    elif case == "held":
        own, other = list(vae.parameters()), nn.Linear(3, 3)
        settings["optim"] = torch.optim.Adam([*own, *other.parameters()])
    elif case == "frozen":
        vae.likelihood.requires_grad_(rank == 0)
    elif case == "buffer":
        vae.posterior = posteriors.Normal(_Encoder(_Counting(), nn.Linear(6, 2)))
    with TemporaryDirectory(prefix="elsewhere-") as folder:
        if case == "checkpoint":
            settings["checkpoint"] = folder
        fit(**settings)


class _Encoder(nn.Sequential):
    out_shape = torch.Size((2,))


class _Counting(nn.Module):
    """It keeps a mean of what it sees."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(6))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.mean = x.mean(0)
        return x


class Listed(Dataset[Tensor]):
    def __init__(self, x: Tensor) -> None:
        self.x = x

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> Tensor:
        return self.x[index]


class Anew:
    """Batches of unknown number."""

    def __init__(self, batches: list[Tensor]) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self.batches)


@pytest.mark.parametrize(
    ("case", "kind", "message"),
    [
        ("data", ValueError, "train: got other examples in process"),
        ("seed", ValueError, r"seed: got . in process ., and . in process ., expected the same"),
        pytest.param(
            "epochs", ValueError, "epochs: got . in process ., and .", marks=pytest.mark.slow
        ),
        (
            "checkpoint",
            ValueError,
            "checkpoint: got '.*elsewhere-.*, from epoch 1 on",
        ),
        ("sampler", ValueError, "train: got a loader with a DistributedSampler"),
        ("first batch", ValueError, "train: got other examples in process"),
        ("lengths", RuntimeError, "train: got a batch of . examples in process . at epoch 1"),
        ("sizes", RuntimeError, "train: got a batch of . examples in process . at epoch 1, batch"),
        ("subset", ValueError, "train: got other examples in process"),
        (
            "held",
            ValueError,
            "optim: got a torch optimizer with parameters that",
        ),
        ("frozen", ValueError, "trained parameters: got"),
        ("batch norm", ValueError, r"fit: runs in 2 processes with batch norm in posterior"),
        ("support", Exception, "^train: got .* on Boolean|process 1 failed: train: got"),
        ("buffer", RuntimeError, r"epoch 1: posterior\.network\.0\.mean differs between"),
    ],
)
def test_what_differs_between_the_processes_is_named(
    case: str, kind: type[Exception], message: str
) -> None:
    for error in run(wrong, case):
        assert isinstance(error, kind), error
        assert re.search(message, str(error)), error


def apart() -> Found:
    """Each process trains by itself, in a group of its own."""
    groups = [new_group([rank]) for rank in range(2)]
    torch.manual_seed(get_rank())
    vae = bernoulli_vae()
    history = fit(vae, x(40 + get_rank()), epochs=2, process_group=groups[get_rank()])
    return dict(history), history.ended, parameters(vae), []


def test_a_group_of_one_trains_alone() -> None:
    found = run(apart)
    assert not torch.equal(found[0][2], found[1][2])


def outside() -> None:
    group = new_group([0])
    fit(bernoulli_vae(), x(40), epochs=1, process_group=group)


def test_a_wrong_group_is_refused() -> None:
    first, second = run(outside)
    assert first is None
    assert isinstance(second, ValueError)
    assert str(second).startswith("process_group: got one that this process is not in")
    group: Any = 3
    with pytest.raises(ValueError, match=r"process_group: got one without torch\.distributed"):
        fit(bernoulli_vae(), x(), epochs=1, process_group=group)


def test_processes_without_a_group_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setenv("WORLD_SIZE", "2")
    message = "torchrun: got one of 2 processes without a process group"
    with pytest.raises(RuntimeError, match=message):
        fit(bernoulli_vae(), x(), epochs=1)
