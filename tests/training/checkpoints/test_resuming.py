"""A training that ends after any of its checkpoints and goes on is one that never ended."""

import importlib
import random
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pyro.optim
import pytest
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import ExponentialLR, OneCycleLR, ReduceLROnPlateau, SequentialLR
from torch.utils.data import DataLoader, Dataset, TensorDataset

from pyro_vae import VAE, Pair, fit, likelihoods, networks, objectives, optim, posteriors, priors
from pyro_vae.compile import Repeated, inductor
from pyro_vae.training import Averaging, EarlyStopping, History, StopTraining
from pyro_vae.training.checkpoints import Checkpoints

from ...conftest import needs_compiler
from ...test_context import labelled
from ...test_pair import modular, pair_of
from ...vaes import bernoulli_vae, binary

Make = Callable[[Path], dict[str, Any]]
"""The arguments of a training, made anew; files may lie in a folder."""

SIZE = 44  # five full batches of 8, and one of 4


class Died(Exception):
    """The training ends here, as if its process were killed."""


def interrupted(make: Make, folder: Path, after: int) -> bool:
    """Runs a training until it has written so many checkpoints; whether it has ended before."""
    written = 0
    own = Checkpoints.write

    def write(self: Checkpoints, *args: Any) -> None:
        nonlocal written
        own(self, *args)
        written += 1
        if written == after:
            raise Died

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Checkpoints, "write", write)
        try:
            run(make, folder, folder / "checkpoints")
        except Died:
            return False
    return True


def run(
    make: Make, folder: Path, checkpoint: Path | None = None, **others: Any
) -> tuple[Pair, History]:
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002
    random.seed(0)
    settings: dict[str, Any] = {"epochs": 4, "batch_size": 8, "checkpoint_every": "4 steps"}
    settings |= make(folder)
    pair, train = settings.pop("pair"), settings.pop("train")
    if settings["batch_size"] is None:
        del settings["batch_size"]
    return pair, fit(pair, train, checkpoint=checkpoint, **(settings | others))


def assert_same(found: tuple[Pair, History], expected: tuple[Pair, History]) -> None:
    for name, tensor in expected[0].state_dict().items():
        assert torch.equal(found[0].state_dict()[name], tensor), name
    assert list(found[1]) == list(expected[1])
    for column in expected[1]:
        if column != "seconds":
            assert found[1][column] == expected[1][column], column
    assert found[1].ended == expected[1].ended


def assert_goes_on(make: Make, folder: Path, stops: tuple[int, ...] = (1, 2, 4, 7)) -> None:
    whole = run(make, folder)
    reached = 0
    for after in stops:
        place = folder / f"stopped-{after}"
        place.mkdir()
        reached += not interrupted(make, place, after)
        torch.randn(7)  # Nothing hangs on the generators of the new process.
        assert_same(run(make, place, place / "checkpoints", resume=True), whole)
    assert reached


class Drawn(Dataset[Tensor]):
    """Examples with noise of their own, from the generators of torch, NumPy and Python."""

    def __init__(self, x: Tensor) -> None:
        self.x = x

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> Tensor:
        jitter = torch.rand(()) + np.random.rand() + random.random()  # noqa: NPY002
        return (self.x[index] + 0.01 * jitter).float().clamp(0.01, 0.99)


def relaxed() -> VAE:
    return VAE(
        priors.StandardNormal(2),
        likelihoods.Bernoulli(networks.MLP(2, (8,), 6), relaxed=True),
        posteriors.Normal(networks.MLP(6, (8,), 4)),
    )


def levels(size: int = SIZE) -> Tensor:
    return torch.randint(256, (size, 6), dtype=torch.uint8)


def on_disk(folder: Path) -> np.memmap:
    np.save(folder / "x.npy", levels().numpy())
    return np.load(folder / "x.npy", mmap_mode="r")


def dropping() -> VAE:
    """With dropout and batch norm in the encoder."""

    class Encoder(nn.Sequential):
        out_shape = torch.Size((2,))

    layers = nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 2)
    vae = bernoulli_vae()
    vae.posterior = posteriors.Normal(Encoder(*layers))
    return vae


def sequential(adam: torch.optim.Optimizer) -> SequentialLR:
    parts = [ExponentialLR(adam, 0.99), OneCycleLR(adam, 0.02, total_steps=99)]
    return SequentialLR(adam, parts, milestones=[9])


class Noisy:
    """A callback that draws random numbers, and has a state of which the weights depend."""

    def __init__(self) -> None:
        self.sum = torch.zeros(2)
        self.calls: dict[int, tuple[float, ...]] = {}

    def __call__(self, pair: Pair, history: History) -> None:
        self.sum += torch.randn(2)
        self.calls[len(self.calls)] = (float(np.random.rand()), random.random())  # noqa: NPY002
        with torch.no_grad():
            next(iter(pair.parameters())).mul_(1 + 0.01 * self.sum[0])
        if len(self.calls) == 2:
            pair.posterior.network.requires_grad_(False)

    def state_dict(self) -> dict[str, Any]:
        return {"sum": self.sum, "calls": self.calls}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.sum, self.calls = state["sum"], dict(state["calls"])


def binary_vae() -> dict[str, Any]:
    return {"pair": bernoulli_vae(), "train": levels(), "pixels": "binary"}


def held(folder: Path) -> dict[str, Any]:
    vae = bernoulli_vae()
    optimizer = torch.optim.RMSprop(vae.parameters(), lr=1e-2, momentum=0.9)
    return {"pair": vae, "train": binary(SIZE), "optim": optimizer}


CASES: dict[str, Make] = {
    "levels": lambda folder: binary_vae(),
    "no seed": lambda folder: binary_vae() | {"seed": None, "test": levels(9)},
    "on disk": lambda folder: binary_vae() | {"train": on_disk(folder)},
    "examples that draw": lambda folder: {"pair": relaxed(), "train": Drawn(torch.rand(SIZE, 6))},
    "context": lambda folder: {
        "pair": labelled(),
        "train": ((torch.rand(SIZE, 3, 2) < 0.5).float(), torch.randint(4, (SIZE,))),
    },
    "transform": lambda folder: {
        "pair": bernoulli_vae(),
        "train": torch.rand(SIZE, 6),
        "transform": torch.bernoulli,
    },
    "pyro.param": lambda folder: {"pair": pair_of(), "train": torch.randn(SIZE, 5)},
    "modules of Pyro": lambda folder: {"pair": modular(), "train": torch.randn(SIZE, 5)},
    "batch norm": lambda folder: {"pair": dropping(), "train": binary(SIZE), "epochs": 3},
    "bf16": lambda folder: binary_vae() | {"precision": "bf16"},
    "clipped": lambda folder: (
        binary_vae() | {"optim": optim.Adam(1e-2, clip_norm=0.5, schedule=sequential)}
    ),
    "plateau": lambda folder: (
        binary_vae()
        | {
            "optim": optim.Adam(
                0.1, schedule=lambda adam: ReduceLROnPlateau(adam, patience=0, threshold=5.0)
            ),
            "validation": 0.2,
            "epochs": 6,
        }
    ),
    "Pyro's": lambda folder: binary_vae() | {"optim": pyro.optim.ClippedAdam({"lr": 0.01})},
    "held": held,
    "warm-up": lambda folder: (
        binary_vae() | {"objective": objectives.warm_up(objectives.trace_elbo(), 15)}
    ),
    "particles": lambda folder: binary_vae() | {"objective": objectives.iwae(3)},
    "early stopping": lambda folder: (
        binary_vae()
        | {
            "validation": 0.3,
            "callbacks": [EarlyStopping(2, min_delta=0.02)],
            "epochs": 9,
            "checkpoint_every": "1 epoch",
        }
    ),
    "average": lambda folder: (
        binary_vae() | {"average": Averaging(0.8), "test": levels(9), "optim": optim.Adam(0.01)}
    ),
    "callback": lambda folder: binary_vae() | {"callbacks": [Noisy()]},
}


def quick(*names: str) -> list[Any]:
    """All cases, of which only some are not slow."""
    return [pytest.param(c, marks=() if c in names else pytest.mark.slow) for c in CASES]


SHORT = "levels", "no seed", "on disk", "examples that draw", "pyro.param", "clipped", "held"


@pytest.mark.filterwarnings("ignore:precision")
@pytest.mark.parametrize("case", quick(*SHORT, "plateau", "warm-up", "early stopping", "callback"))
def test_uncompiled(case: str, tmp_path: Path) -> None:
    assert_goes_on(CASES[case], tmp_path, (1, 4, 6))


@pytest.fixture(params=["program", pytest.param("recorded", marks=pytest.mark.slow)])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Steps in one graph, and the same as on a GPU, but that Python repeats what is recorded."""
    if request.param == "recorded":
        whole = importlib.import_module("pyro_vae.training.whole_epochs")
        monkeypatch.setattr(whole, "recorder", lambda device: Repeated)
    return request.param


QUICK = "levels", "no seed", "clipped", "held", "warm-up", "callback"
COMPILED = [pytest.param(case, marks=() if case in QUICK else pytest.mark.slow) for case in CASES]


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs graphs as they were traced, without Inductor."""
    monkeypatch.setattr(inductor, "compile_by_inductor", lambda traced, inputs: traced)


@needs_compiler
@pytest.mark.usefixtures("traced", "way")
@pytest.mark.filterwarnings("ignore:precision")
@pytest.mark.parametrize("case", quick("clipped"))
def test_compiled(case: str, tmp_path: Path) -> None:
    assert_goes_on(lambda folder: CASES[case](folder) | {"compile": True}, tmp_path, (1, 4))


@needs_compiler
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:precision")
@pytest.mark.parametrize("case", ["levels", "bf16"])
def test_by_inductor(case: str, tmp_path: Path) -> None:
    assert_goes_on(lambda folder: CASES[case](folder) | {"compile": True}, tmp_path, (1, 4))


@needs_compiler
@pytest.mark.slow
@pytest.mark.usefixtures("traced")
def test_a_shape_that_is_compiled_late(tmp_path: Path) -> None:
    """The smaller last batch is compiled in its hundredth epoch, also across a break."""

    def make(folder: Path) -> dict[str, Any]:
        few = {"train": levels(12), "epochs": 104, "compile": True, "checkpoint_every": "1 epoch"}
        return binary_vae() | few

    assert_goes_on(make, tmp_path, (98, 102))


def test_streams_go_on_after_an_epoch(tmp_path: Path) -> None:
    """With a loader whose generator is the user's."""

    def make(folder: Path) -> dict[str, Any]:
        generator = torch.Generator().manual_seed(4)
        data = TensorDataset(binary(SIZE))
        loader = DataLoader(data, 8, shuffle=True, generator=generator)
        test = DataLoader(TensorDataset(binary(9)), 4, shuffle=True, generator=generator)
        return {"pair": bernoulli_vae(), "train": loader, "test": test, "batch_size": None}

    with pytest.warns(UserWarning, match="checkpoint_every: got an interval within an epoch"):
        assert_goes_on(make, tmp_path, (1, 2, 3))


def test_a_callback_that_stops(tmp_path: Path) -> None:
    def stop(pair: Pair, history: History) -> None:
        if len(history.epoch) == 2:
            raise StopTraining("two are enough")

    def make(folder: Path) -> dict[str, Any]:
        return binary_vae() | {"callbacks": [stop], "checkpoint_every": "1 epoch"}

    whole = run(make, tmp_path)
    assert whole[1].ended == "stopped"
    assert_goes_on(make, tmp_path, (1, 2))
    again = run(make, tmp_path, tmp_path / "stopped-2" / "checkpoints", resume=True, epochs=50)
    assert_same(again, whole)


def test_epochs_may_grow(tmp_path: Path) -> None:
    def make(folder: Path) -> dict[str, Any]:
        return CASES["clipped"](folder) | {"checkpoint_every": "3 epochs"}

    folder = tmp_path / "checkpoints"
    for epochs in (1, 2, 2, 5):
        found = run(make, tmp_path, folder, epochs=epochs, resume=True)
        assert len(found[1].epoch) == epochs
    assert_same(found, run(make, tmp_path, epochs=5))


def test_it_begins_where_there_is_nothing(tmp_path: Path) -> None:
    expected = run(CASES["levels"], tmp_path)
    found = run(CASES["levels"], tmp_path, tmp_path / "new" / "folder", resume=True)
    assert_same(found, expected)


@pytest.mark.parametrize("seed", [0, pytest.param(None, marks=pytest.mark.slow)])
def test_checkpoints_change_no_number(seed: int | None, tmp_path: Path) -> None:
    def make(folder: Path) -> dict[str, Any]:
        return CASES["callback"](folder) | {"seed": seed}

    expected = run(make, tmp_path)
    for index, every in enumerate(["1 step", "7 steps", "2 epochs", "0.00001 min"]):
        folder = tmp_path / str(index)
        assert_same(run(make, tmp_path, folder, checkpoint_every=every), expected)


def test_interruptions_write_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C is pressed again and again, each time a few steps later."""

    def make(folder: Path) -> dict[str, Any]:
        return CASES["clipped"](folder) | {"checkpoint_every": "9 epochs"}

    expected = run(make, tmp_path)
    between = importlib.import_module("pyro_vae.training.between")
    own, counted = between.Between.count, 0

    def count(self: Any, steps: int) -> None:
        nonlocal counted
        own(self, steps)
        counted += steps
        if not counted % 7:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(between.Between, "count", count)
    folder, ended = tmp_path / "checkpoints", []
    for _ in range(20):
        found = run(make, tmp_path, folder, resume=True)
        ended.append(found[1].ended)
        if ended[-1] == "epochs":
            break
    assert ended == ["interrupted"] * 3 + ["epochs"]
    assert_same(found, expected)


def plateau(folder: Path) -> dict[str, Any]:
    def schedule(adam: torch.optim.Optimizer) -> ReduceLROnPlateau:
        return ReduceLROnPlateau(adam, patience=0, threshold=5.0)

    rate = optim.Adam(0.1, schedule=schedule)
    return binary_vae() | {"optim": rate, "test": levels(9), "checkpoint_every": "6 steps"}


def test_a_checkpoint_at_the_last_batch_of_an_epoch(tmp_path: Path) -> None:
    """The end of the epoch comes after it: the plateau, and the test cost."""
    assert_goes_on(plateau, tmp_path, (1, 2, 3, 4))


@pytest.mark.parametrize("case", ["Pyro's", "clipped", "held"])
def test_a_training_that_is_killed_again_before_a_step(case: str, tmp_path: Path) -> None:
    def make(folder: Path) -> dict[str, Any]:
        return CASES[case](folder) | {"checkpoint_every": "6 steps", "validation": 0.1}

    expected = run(make, tmp_path)
    folder = tmp_path / "broken"
    folder.mkdir()
    assert not interrupted(make, folder, 1)
    written, own = 0, Checkpoints.write

    def write(self: Checkpoints, *args: Any) -> None:
        nonlocal written
        own(self, *args)
        written += 1
        if written == 1:
            raise Died

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Checkpoints, "write", write)
        with pytest.raises(Died):
            run(make, folder, folder / "checkpoints", resume=True)
    assert_same(run(make, folder, folder / "checkpoints", resume=True), expected)


@pytest.mark.parametrize("seed", [0, None])
def test_streams_whose_examples_draw(seed: int | None, tmp_path: Path) -> None:
    def make(folder: Path) -> dict[str, Any]:
        loader = DataLoader(Drawn(torch.rand(SIZE, 6)), 8, shuffle=True)
        streams = {"train": loader, "batch_size": None, "checkpoint_every": "1 epoch"}
        return {"pair": relaxed(), "seed": seed} | streams

    assert_goes_on(make, tmp_path, (1, 3))


@pytest.mark.parametrize("seed", [0, None])
def test_an_interruption_within_the_evaluation(
    seed: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It begins anew, with the same numbers, also of data that draw and of a loader's own."""
    pressed = False

    class Pressing(Drawn):
        def __getitem__(self, index: int) -> Tensor:
            nonlocal pressed
            self.count = getattr(self, "count", 0) + 1
            if self.count == 25 and not pressed:
                pressed = True
                signal.raise_signal(signal.SIGINT)
            return super().__getitem__(index)

    def make(folder: Path) -> dict[str, Any]:
        generator = torch.Generator().manual_seed(4)
        test = DataLoader(Pressing(torch.rand(9, 6)), 2, shuffle=True, generator=generator)
        return {
            "pair": relaxed(),
            "train": torch.rand(SIZE, 6),
            "test": test,
            "seed": seed,
            "average": Averaging(0.5),
        }

    pressed = True
    expected = run(make, tmp_path)
    pressed = False
    found = run(make, tmp_path, tmp_path / "checkpoints", checkpoint_every="9 epochs")
    assert pressed
    assert found[1].ended == "interrupted"
    assert_same(run(make, tmp_path, tmp_path / "checkpoints", resume=True), expected)


def test_parameters_that_are_made_late(tmp_path: Path) -> None:
    """In the third epoch, by a program whose structure changes."""

    def make(folder: Path) -> dict[str, Any]:
        calls = [0]
        decoder, encoder = networks.MLP(2, (8,), 5), networks.MLP(5, (8,), 2)

        def model(x: Tensor) -> None:
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
                shift = pyro.param("late", torch.zeros(5)) if calls[0] else 0.0
                pyro.sample("x", dist.Normal(decoder(z) + shift, 1.0).to_event(1), obs=x)

        def guide(x: Tensor) -> None:
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(encoder(x), 0.5).to_event(1))

        def later(pair: Pair, history: History) -> None:
            calls[0] = len(history.epoch) >= 2

        class Later:
            def __call__(self, pair: Pair, history: History) -> None:
                later(pair, history)

            def state_dict(self) -> dict[str, Any]:
                return {"late": bool(calls[0])}

            def load_state_dict(self, state: dict[str, Any]) -> None:
                calls[0] = state["late"]

        pair = Pair(model, guide, decoder=decoder, encoder=encoder)
        rate = optim.Adam(0.01, clip_norm=1.0)
        return {"pair": pair, "train": torch.randn(SIZE, 5), "callbacks": [Later()], "optim": rate}

    assert_goes_on(make, tmp_path, (2, 5))
