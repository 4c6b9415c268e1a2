"""The folder of checkpoints: what is kept, what is refused, and what damage does."""

import os
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pyro.optim
import pytest
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import ExponentialLR, StepLR
from torch.utils.data import DataLoader

from pyro_vae import VAE, fit, likelihoods, networks, objectives, optim
from pyro_vae.storage import DamagedRun
from pyro_vae.training import CheckpointError, EarlyStopping, History, load_checkpoint
from pyro_vae.training.checkpoints import Interval, Settings
from pyro_vae.training.kinds import source_of

from ...test_storage import mutated
from ...vaes import bernoulli_vae, binary


def trained(folder: Any, *, epochs: int = 3, **settings: Any) -> tuple[VAE, History]:
    torch.manual_seed(0)
    vae, x = bernoulli_vae(), binary(40)
    given = {"test": binary(9), "batch_size": 8, "checkpoint": folder} | settings
    return vae, fit(vae, x, epochs=epochs, **given)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# What is kept.


def test_the_last_two_and_the_best_are_kept(tmp_path: Path) -> None:
    _, history = trained(tmp_path, epochs=9, optim=optim.Adam(0.3))  # It goes up and down.
    best = min(range(9), key=history.test_cost.__getitem__) + 1
    assert names(tmp_path) == sorted(f"epoch-{epoch}.safetensors" for epoch in {best, 8, 9})
    found = load_checkpoint(tmp_path, bernoulli_vae(), best=True)
    assert found.epoch == list(range(1, best + 1))


def test_the_best_is_by_validation_cost_before_test_cost(tmp_path: Path) -> None:
    _, history = trained(tmp_path, epochs=9, optim=optim.Adam(0.3), validation=0.3)
    best = min(range(9), key=history.validation_cost.__getitem__) + 1
    assert load_checkpoint(tmp_path, bernoulli_vae(), best=True).epoch[-1] == best


def test_intervals(tmp_path: Path) -> None:
    trained(tmp_path / "a", test=None, checkpoint_every="7 steps")  # five steps an epoch
    assert names(tmp_path / "a") == ["epoch-2-batch-4.safetensors", "epoch-3.safetensors"]
    trained(tmp_path / "b", test=None, checkpoint_every="2 epochs")
    assert names(tmp_path / "b") == ["epoch-2.safetensors", "epoch-3.safetensors"]
    trained(tmp_path / "c", test=None, checkpoint_every="60 min")
    assert names(tmp_path / "c") == ["epoch-3.safetensors"]


def test_a_checkpoint_has_the_parameters_of_its_moment(tmp_path: Path) -> None:
    vae, history = trained(tmp_path)
    fresh = bernoulli_vae()
    found = load_checkpoint(tmp_path, fresh)
    assert found.rows() == history.rows()
    for name, tensor in vae.state_dict().items():
        assert torch.equal(fresh.state_dict()[name], tensor)


def test_files_of_others_stay(tmp_path: Path) -> None:
    (tmp_path / "mine.new").write_text("mine")
    (tmp_path / "folder.new").mkdir()
    (tmp_path / "epoch-9.safetensors.new").write_text("left by a kill")
    trained(tmp_path)
    expected = [f"epoch-{epoch}.safetensors" for epoch in (2, 3)]
    assert names(tmp_path) == sorted([*expected, "folder.new", "mine.new"])


def test_the_working_folder_may_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    def leave(vae: VAE, history: History) -> None:
        os.chdir("/")

    trained("here", callbacks=[leave])
    assert len(names(tmp_path / "here")) >= 2


def test_an_epoch_is_the_best_by_its_own_cost(tmp_path: Path) -> None:
    """Not by one of an epoch whose checkpoint is gone."""

    def scripted(*costs: float) -> Any:
        left = iter(costs)

        def script(vae: VAE, history: History) -> None:
            history.test_cost[-1] = next(left)

        return [script]

    trained(tmp_path, epochs=4, callbacks=scripted(5.0, 6.0, 7.0, 1.0))
    (tmp_path / "epoch-4.safetensors").write_bytes(b"")
    (tmp_path / "epoch-1.safetensors").unlink(missing_ok=True)
    with pytest.warns(UserWarning, match=r"so .*epoch-3"):
        trained(tmp_path, epochs=6, callbacks=scripted(9.0, 6.5, 6.7), resume=True)
    found = load_checkpoint(tmp_path, bernoulli_vae(), best=True)
    assert found.epoch[-1] == 5


# What is refused.


@pytest.mark.parametrize(
    ("every", "error", "message"),
    [
        (3, TypeError, "got an int"),
        ("often", ValueError, "got 'often'"),
        ("0 epochs", ValueError, "positive"),
        ("1.5 epochs", ValueError, "positive"),
        ("-1 min", ValueError, "got '-1 min'"),
    ],
)
def test_wrong_intervals(every: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"checkpoint_every: .*{message}"):
        Interval.parse(every)


def test_wrong_arguments(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="resume: got True without checkpoint="):
        trained(None, resume=True)
    with pytest.raises(TypeError, match="checkpoint: got an int"):
        trained(3)
    with pytest.raises(TypeError, match="resume: got 'yes'"):
        trained(tmp_path, resume="yes")
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match=r"checkpoint: got .*file, which is a file"):
        trained(tmp_path / "file")
    trained(tmp_path / "a", epochs=1)
    with pytest.raises(FileExistsError, match="holds checkpoints of another training"):
        trained(tmp_path / "a")
    with pytest.raises(FileNotFoundError, match="holds no checkpoint"):
        load_checkpoint(tmp_path, bernoulli_vae())
    trained(tmp_path / "b", epochs=1, test=None)
    with pytest.raises(FileNotFoundError, match="holds no best checkpoint"):
        load_checkpoint(tmp_path / "b", bernoulli_vae(), best=True)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"batch_size": 7}, "batch_size: got 7, expected 8"),
        ({"seed": 1}, "seed: got 1, expected 0"),
        ({"test": None}, "test: got None"),
        ({"test": binary(8)}, "test: got examples 8, expected examples 9"),
        ({"test": 1 - binary(9)}, "test: got checksum"),
        ({"objective": objectives.trace_elbo(2)}, "objective: got Trace"),
        ({"objective": objectives.beta(2.0)}, "objective: got "),
        ({"optim": optim.Adam(1e-2)}, "optim: got lr '0.01', expected lr '0.001'"),
        ({"optim": torch.optim.SGD}, "optim: got class 'SGD'"),
        ({"optim": optim.Adam(1e-3, clip_norm=1.0)}, "optim: got clip_norm 1.0"),
        ({"transform": torch.round}, "transform: got .*round', expected None"),
        ({"precision": "bf16"}, "precision: got 'bf16', expected 'float32'"),
        ({"compile": True}, "compile: got True, expected 'auto'"),
        ({"callbacks": [EarlyStopping(3, column="cost")]}, "callbacks: got EarlyStopping"),
        ({"epochs": 1}, "epochs: got 1, expected at least 2"),
        ({"validation": 0.3}, "train: got examples 28, expected examples 40"),
        ({"optim": optim.Adam(schedule=lambda o: StepLR(o, 5))}, "optim: got schedule 'StepLR'"),
        ({"optim": pyro.optim.Adam({"lr": 1e-3})}, "optim: got c"),
        ({"objective": objectives.compiled(objectives.trace_elbo())}, "objective: got a compiled"),
        ({"test": DataLoader(binary(9), 3)}, "test: got "),
    ],
)
@pytest.mark.filterwarnings("ignore:precision")
def test_settings_that_differ_are_named(
    other: dict[str, Any], message: str, tmp_path: Path
) -> None:
    trained(tmp_path, epochs=2)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(ValueError, match=message):
        trained(tmp_path, resume=True, **({"epochs": 3} | other))
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_callback_of_other_numbers_is_named(tmp_path: Path) -> None:
    trained(tmp_path, epochs=2, callbacks=[EarlyStopping(3, column="cost")])
    stop = EarlyStopping(4, column="cost")
    with pytest.raises(ValueError, match=r"callbacks: got EarlyStopping .*'patience': 4"):
        trained(tmp_path, epochs=3, callbacks=[stop], resume=True)


def test_seeds_and_rates_of_any_kind(tmp_path: Path) -> None:
    for folder, seed in ((tmp_path / "a", np.int64(3)), (tmp_path / "a", 3)):
        rate = optim.Adam(torch.tensor(0.01), schedule=lambda adam: ExponentialLR(adam, 0.9))
        epochs = 1 if isinstance(seed, np.int64) else 2
        trained(folder, epochs=epochs, seed=seed, optim=rate, resume=True)
    assert load_checkpoint(tmp_path / "a", bernoulli_vae()).epoch == [1, 2]


def test_many_examples(tmp_path: Path) -> None:
    """More than float32 counts exactly."""
    x = torch.zeros(2**24 + 4, 6, dtype=torch.uint8)
    settings = Settings.of(
        bernoulli_vae(),
        {"train": source_of("train", x, batch_size=8, seed=0, epochs=1, device=x.device)},
        objectives.trace_elbo(),
        optim.Adam(),
        None,
        [],
        {},
    )
    assert settings.values["train"]["examples"] == len(x)


def test_another_pair_is_named(tmp_path: Path) -> None:
    trained(tmp_path, epochs=1)
    vae = bernoulli_vae()
    vae.likelihood = likelihoods.Bernoulli(networks.MLP(1, (9,), 6, activation=nn.Tanh))
    with pytest.raises(ValueError, match=r"vae: got likelihood.network.* \(9, 1\), expected .*8"):
        fit(vae, binary(40), epochs=2, batch_size=8, checkpoint=tmp_path, resume=True)
    with pytest.raises(ValueError, match=r"vae: got likelihood.network.layers.0.weight as"):
        load_checkpoint(tmp_path, vae)


def test_a_state_that_cannot_be_written_is_known_before_the_first_step(tmp_path: Path) -> None:
    class Odd:
        def __call__(self, vae: VAE, history: History) -> None:
            raise AssertionError

        def state_dict(self) -> dict[str, Any]:
            return {"seen": {1, 2}}

        def load_state_dict(self, state: dict[str, Any]) -> None: ...

    with pytest.raises(TypeError, match=r"callbacks\.0\.seen: got a set"):
        trained(tmp_path, callbacks=[Odd()])


# What fails while it trains.


def test_a_folder_that_is_removed(tmp_path: Path) -> None:
    def remove(vae: VAE, history: History) -> None:
        if len(history.epoch) == 2:
            shutil.rmtree(tmp_path / "a")

    with pytest.raises(CheckpointError, match=r"cannot write .*epoch-2.* \(the folder is gone\)"):
        trained(tmp_path / "a", callbacks=[remove])
    assert not (tmp_path / "a").exists()


def test_a_file_in_the_place_of_the_folder(tmp_path: Path) -> None:
    def replace(vae: VAE, history: History) -> None:
        if len(history.epoch) == 2:
            (tmp_path / "a").rename(tmp_path / "b")
            (tmp_path / "a").write_text("")

    with pytest.raises(CheckpointError, match="cannot write"):
        trained(tmp_path / "a", callbacks=[replace])
    assert load_checkpoint(tmp_path / "b", bernoulli_vae()).epoch == [1]


def test_a_full_disk(tmp_path: Path) -> None:
    """The last checkpoint is intact, and the training goes on from it."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    def fill(vae: VAE, history: History) -> None:
        if len(history.epoch) == 2:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))

    try:
        with pytest.raises(CheckpointError, match=r"epoch-2.*File too large.*epoch-1.* is intact"):
            trained(tmp_path / "a", callbacks=[fill])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert load_checkpoint(tmp_path / "a", bernoulli_vae()).epoch == [1]
    found = trained(tmp_path / "a", resume=True)
    expected = trained(tmp_path / "b")
    assert found[1].test_cost == expected[1].test_cost
    assert names(tmp_path / "a") == names(tmp_path / "b")


# Damage.


def test_the_one_before_is_used_if_the_last_is_damaged(tmp_path: Path) -> None:
    expected = trained(tmp_path)
    last = tmp_path / "epoch-3.safetensors"
    whole = last.read_bytes()
    last.write_bytes(whole[:-9])
    message = r"checkpoint: .*epoch-3\.safetensors: damaged.*; so .*epoch-2\.safetensors is read"
    with pytest.warns(UserWarning, match=message):
        found = trained(tmp_path, resume=True)
    assert found[1].cost == expected[1].cost
    # The seconds of an epoch may have other digits.
    assert abs(len(last.read_bytes()) - len(whole)) < 100
    for path in tmp_path.iterdir():
        path.write_bytes(b"")
    with pytest.raises(DamagedRun, match=r"epoch-3\.safetensors: damaged"):
        trained(tmp_path, resume=True)


def test_a_renamed_checkpoint_is_named(tmp_path: Path) -> None:
    trained(tmp_path, epochs=1)
    [path] = tmp_path.glob("*.safetensors")
    path.rename(tmp_path / "epoch-7.safetensors")
    with pytest.raises(DamagedRun, match=r"epoch-7\.safetensors: .*renamed, expected one"):
        trained(tmp_path, resume=True)


@pytest.mark.parametrize("count", [200, pytest.param(10_000, marks=pytest.mark.slow)])
def test_mutated_checkpoints_give_the_right_numbers_or_are_refused(
    tmp_path: Path, count: int
) -> None:
    vae, _ = trained(tmp_path, epochs=1)
    path, random = tmp_path / "epoch-1.safetensors", Random(0)
    whole, refused = path.read_bytes(), list[str]()
    expected = {name: tensor.clone() for name, tensor in vae.state_dict().items()}
    for _ in range(count):
        path.write_bytes(mutated(whole, random))
        fresh = bernoulli_vae()
        try:
            load_checkpoint(tmp_path, fresh)
        except DamagedRun as error:
            refused.append(str(error))
            continue
        found: dict[str, Tensor] = fresh.state_dict()
        assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    assert len(refused) > 0.9 * count
    assert all(str(path) in message for message in refused)


# Kills.


@pytest.mark.parametrize(
    ("kills", "cases"),
    [
        (5, ["levels"]),
        pytest.param(50, [], marks=pytest.mark.slow),
    ],
)
def test_killed_trainings_end_as_others(kills: int, cases: list[str], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.training.checkpoints.killing"]
    arguments = [str(tmp_path / "kills"), str(kills), "0", *cases]
    root = Path(__file__).parents[3]
    environment = os.environ | {"PYTHONPATH": str(root)}
    done = subprocess.run(
        [*command, *arguments], cwd=root, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert f"{kills} kills" in done.stdout
