"""The ends of a training: by a callback, by Ctrl-C, and by a cost that no longer falls."""

import copy
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from pyro_vae import VAE, fit, likelihoods, networks, optim, posteriors, priors
from pyro_vae.training import EarlyStopping, History, NonFiniteLoss, StopTraining

from ..conftest import needs_compiler
from ..vaes import bernoulli_vae, binary, parameters


def after(epoch: int, act: Callable[[], object]) -> Callable[[VAE, History], None]:
    """A callback that does something after an epoch."""

    def callback(vae: VAE, history: History) -> None:
        if history.epoch[-1] == epoch:
            act()

    return callback


def stop() -> None:
    raise StopTraining("enough")


def press() -> None:
    """Presses Ctrl-C: a signal to this process, as a terminal sends it."""
    os.kill(os.getpid(), signal.SIGINT)


def test_a_callback_stops_after_the_others_were_called() -> None:
    seen: list[int] = []
    vae, x = bernoulli_vae(), binary(20)
    start = copy.deepcopy(vae)
    callbacks = [after(3, stop), lambda vae, history: seen.append(len(history.epoch))]
    history = fit(vae, x, epochs=9, batch_size=8, callbacks=callbacks)
    assert history.ended == "stopped"
    assert repr(history).endswith("\n\nstopped")
    assert "; stopped</p>" in history._repr_html_()
    assert history.epoch == seen == [1, 2, 3]
    whole = fit(start, x, epochs=3, batch_size=8)
    assert whole.ended == "epochs"
    assert repr(whole).endswith("|")
    assert torch.equal(parameters(vae), parameters(start))


class Pressing:
    """Batches during the second epoch of which the user presses Ctrl-C."""

    def __init__(self, batches: list[Tensor], at: int, times: int = 1) -> None:
        self.batches, self.at, self.times = batches, at, times
        self.epochs = 0

    def __iter__(self) -> Iterator[Tensor]:
        self.epochs += 1
        for index, batch in enumerate(self.batches):
            if self.epochs == 2 and index == self.at:
                for _ in range(self.times):
                    press()
            yield batch


def test_ctrl_c_ends_after_the_step() -> None:
    batches = list(binary(40).split(8))
    vae = bernoulli_vae()
    twin = copy.deepcopy(vae)
    handler = signal.getsignal(signal.SIGINT)
    modes: list[bool] = []
    vae.eval()
    history = fit(
        vae,
        Pressing(batches, 2),
        epochs=5,
        callbacks=[lambda vae, history: modes.append(vae.training)],
    )
    assert history.ended == "interrupted"
    assert history.epoch == [1]
    assert modes == [True]
    assert not vae.training
    assert signal.getsignal(signal.SIGINT) is handler
    # The second epoch has taken three of its steps.
    fit(twin, Pressing(batches, 9), epochs=1)
    one = parameters(twin)
    assert not torch.equal(parameters(vae), one)
    fit(vae, Pressing(batches, 9), epochs=1)  # the pair can be trained on


def test_a_second_ctrl_c_ends_at_once() -> None:
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        fit(bernoulli_vae(), Pressing(list(binary(40).split(8)), 2, times=2), epochs=5)
    assert signal.getsignal(signal.SIGINT) is handler


@pytest.mark.parametrize("compile", [False, pytest.param(True, marks=needs_compiler)])
@pytest.mark.usefixtures("code")
def test_ctrl_c_in_a_callback_keeps_its_epoch(compile: bool) -> None:
    vae, x = bernoulli_vae(), binary(40)
    twin = copy.deepcopy(vae)
    history = fit(vae, x, epochs=9, batch_size=8, compile=compile, callbacks=[after(2, press)])
    assert history.ended == "interrupted"
    assert history.epoch == [1, 2]
    fit(twin, x, epochs=2, batch_size=8, compile=compile)
    assert torch.equal(parameters(vae), parameters(twin))


def test_an_interrupted_pair_is_finite_or_an_error_says_so() -> None:
    adam = optim.from_torch(torch.optim.SGD, lr=1e-3)

    class Bad(Pressing):
        def __iter__(self) -> Iterator[Tensor]:
            for batch in super().__iter__():
                if self.epochs == 2 and adam.optimizer is not None:
                    adam.optimizer.param_groups[0]["lr"] = float("inf")
                yield batch

    message = "interrupted in epoch 2: the parameter .* is not finite"
    with pytest.raises(NonFiniteLoss, match=message) as error:
        fit(bernoulli_vae(), Bad(list(binary(40).split(8)), 0), epochs=5, optim=adam)
    assert error.value.history.epoch == [1]


def test_an_error_after_ctrl_c_is_raised() -> None:
    class Failing(Pressing):
        def __iter__(self) -> Iterator[Tensor]:
            for batch in super().__iter__():
                if self.epochs == 2:
                    raise RuntimeError("a bug of the user's")
                yield batch

    with pytest.raises(RuntimeError, match="a bug of the user's"):
        fit(bernoulli_vae(), Failing(list(binary(40).split(8)), 0), epochs=5)


def test_a_training_inside_a_callback_ends_with_the_outer_one() -> None:
    ends: list[str | None] = []

    def inner(vae: VAE, history: History) -> None:
        batches = Pressing(list(binary(40).split(8)), 2)
        ends.append(fit(bernoulli_vae(), batches, epochs=9).ended)

    handler = signal.getsignal(signal.SIGINT)
    history = fit(bernoulli_vae(), binary(8), epochs=9, batch_size=8, callbacks=[inner])
    assert ends == [history.ended] == ["interrupted"]
    assert history.epoch == [1]
    assert signal.getsignal(signal.SIGINT) is handler


def test_a_handler_of_a_callback_stays() -> None:
    before = signal.getsignal(signal.SIGINT)
    ignore = after(1, lambda: signal.signal(signal.SIGINT, signal.SIG_IGN))
    try:
        fit(bernoulli_vae(), binary(8), epochs=2, batch_size=8, callbacks=[ignore])
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_another_thread_and_another_handler_are_left_alone() -> None:
    caught: list[int] = []

    def handler(number: int, frame: Any) -> None:
        caught.append(number)

    before = signal.signal(signal.SIGINT, handler)
    try:
        history = fit(
            bernoulli_vae(), binary(8), epochs=3, batch_size=8, callbacks=[after(1, press)]
        )
    finally:
        signal.signal(signal.SIGINT, before)
    assert caught == [signal.SIGINT]
    assert history.ended == "epochs"
    ends: list[str | None] = []
    thread = threading.Thread(
        target=lambda: ends.append(fit(bernoulli_vae(), binary(8), epochs=2, batch_size=8).ended)
    )
    thread.start()
    thread.join()
    assert ends == ["epochs"]


@pytest.mark.slow
@pytest.mark.parametrize("persistent", [True, False])
@pytest.mark.parametrize("during", ["train", "validation"])
def test_a_loader_whose_workers_are_interrupted_too(during: str, persistent: bool) -> None:
    """A terminal sends Ctrl-C to the whole group of processes, a loader's workers among them."""
    code = f"""
import os, signal, time, torch
from torch.utils.data import DataLoader, Dataset
from pyro_vae import fit, presets

class Pressing(Dataset):
    def __init__(self, presses):
        self.presses = presses
    def __len__(self):
        return 64
    def __getitem__(self, index):
        if self.presses and index == 40 and os.path.exists("armed"):
            os.remove("armed")
            os.killpg(os.getpgrp(), signal.SIGINT)
            time.sleep(0.2)
        return torch.ones(6)

def arm(vae, history):
    open("armed", "w").close()

os.setpgrp()
vae = presets.build("pyro-mlp", z_dim=2, shape=6)
options = dict(batch_size=8, num_workers=2, persistent_workers={persistent})
train = DataLoader(Pressing("{during}" == "train"), **options)
validation = DataLoader(Pressing("{during}" == "validation"), **options)
history = fit(vae, train, validation=validation, epochs=50, callbacks=[arm])
print(history.ended, len(history.epoch))
"""
    with TemporaryDirectory() as folder:
        run = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=300, cwd=folder
        )
    assert run.stdout == "interrupted 1\n", run.stderr
    assert "Traceback" not in run.stderr


COSTS = [9.0, 7.0, 7.5, 6.9, 6.0, 8.0, 8.5, 5.0]


@pytest.mark.parametrize(
    ("patience", "min_delta", "last", "best"),
    [(1, 0.0, 3, 2), (2, 0.0, 7, 5), (3, 0.0, 8, 8), (2, 0.5, 4, 2), (2, 10.0, 3, 1)],
)
def test_early_stopping_by_hand(patience: int, min_delta: float, last: int, best: int) -> None:
    vae, stopping = bernoulli_vae(), EarlyStopping(patience, min_delta)
    history = History({"epoch": [], "validation_cost": []})
    stopping.before_training(vae, list(history))
    weights = []
    ended = False
    for epoch, cost in enumerate(COSTS, start=1):
        with torch.no_grad():
            for parameter in vae.parameters():
                parameter.add_(1.0)
        weights.append(parameters(vae))
        history.append({"epoch": epoch, "validation_cost": cost})
        try:
            stopping(vae, history)
        except StopTraining:
            ended = True
            break
    assert len(weights) == last
    assert ended == (last < len(COSTS) or best <= last - patience)
    assert (stopping.best, stopping.best_epoch) == (COSTS[best - 1], best)
    if ended:
        with pytest.raises(
            StopTraining, match=f"validation_cost has not fallen .* {patience} epo"
        ):
            stopping(vae, history)
    stopping.after_training(vae, history)
    assert torch.equal(parameters(vae), weights[best - 1])


@pytest.mark.parametrize("restore", [True, False])
def test_the_best_parameters_come_back_however_a_training_ends(restore: bool) -> None:
    x = binary(60)
    weights: list[Tensor] = []

    def keep(vae: VAE, history: History) -> None:
        weights.append(parameters(vae))

    for end in (after(4, stop), after(4, press), after(9, stop)):
        weights.clear()
        vae, stopping = bernoulli_vae(), EarlyStopping(9, 1e3, restore)  # the first is the best
        history = fit(
            vae, x, validation=0.5, epochs=5, batch_size=8, callbacks=[stopping, keep, end]
        )
        assert stopping.best_epoch == 1
        assert stopping.best == history.validation_cost[0]
        assert torch.equal(parameters(vae), weights[0 if restore else -1])


def test_buffers_that_are_not_saved_come_back_too() -> None:
    class Counting(networks.MLP):
        calls: Tensor

        def __init__(self) -> None:
            super().__init__(1, (), 6)
            self.register_buffer("calls", torch.zeros(()), persistent=False)

        def forward(self, z: Tensor) -> Tensor:
            self.calls += self.training
            return super().forward(z)

    network = Counting()
    posterior = posteriors.Normal(networks.MLP(6, (), 2))
    vae = VAE(priors.StandardNormal(1), likelihoods.Bernoulli(network), posterior)
    counts: list[float] = []
    keep = lambda vae, history: counts.append(network.calls.item())  # noqa: E731
    stopping = EarlyStopping(2, 1e3)
    x = binary(40)
    fit(vae, x, validation=x, epochs=9, batch_size=8, callbacks=[stopping, keep])
    assert network.calls.item() == counts[0] < counts[-1]


def test_a_second_training_starts_anew() -> None:
    vae, stopping = bernoulli_vae(), EarlyStopping(2, 1e3)
    for _ in range(2):
        history = fit(
            vae, binary(60), validation=0.5, epochs=9, batch_size=8, callbacks=[stopping]
        )
        assert (history.ended, len(history.epoch), stopping.best_epoch) == ("stopped", 3, 1)


def test_wrong_arguments_are_named() -> None:
    for wrong in (
        {"patience": 0},
        {"patience": 1.5},
        {"min_delta": -1.0},
        {"min_delta": float("nan")},
    ):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            EarlyStopping(**{"patience": 1, **wrong})
    for odd in ({"min_delta": "1"}, {"restore_best": 1}, {"column": 3}):
        with pytest.raises(TypeError, match=next(iter(odd))):
            EarlyStopping(**{"patience": 1, **odd})
    steps: list[int] = []
    for column in ("validation_cost", "test_cost", "seconds", "epoch", "loss"):
        with pytest.raises(ValueError, match=f"column: got '{column}', expected one of cost"):
            fit(
                bernoulli_vae(),
                binary(8),
                epochs=1,
                batch_size=8,
                callbacks=[EarlyStopping(1, column=column), lambda *_: steps.append(1)],
            )
    assert not steps
    with pytest.raises(TypeError, match="callbacks: got an EarlyStopping, expected a list"):
        fit(bernoulli_vae(), binary(8), epochs=1, callbacks=EarlyStopping(1))
    for kind in (EarlyStopping, StopTraining):
        with pytest.raises(TypeError, match="among them, expected only functions"):
            fit(bernoulli_vae(), binary(8), epochs=1, callbacks=[kind])


def test_a_loader_may_be_stopped() -> None:
    loader = DataLoader(TensorDataset(binary(20)), 8)
    history = fit(bernoulli_vae(), loader, epochs=9, callbacks=[after(2, stop)])
    assert (history.ended, history.epoch) == ("stopped", [1, 2])
