"""Going back to the last checkpoint after a loss that is not finite."""

import importlib
from pathlib import Path
from typing import Any

import pyro.optim
import pytest
import torch
from torch.optim.lr_scheduler import ExponentialLR, LambdaLR

from pyro_vae import Pair, fit, optim
from pyro_vae.compile import Repeated
from pyro_vae.training import History, NonFiniteLoss, Recovery
from pyro_vae.training.recovery import scaled_rates

from ..conftest import needs_compiler
from ..vaes import bernoulli_vae, binary, parameters


class Breaks:
    """A callback that breaks the pair after an epoch, the first so many times that it comes."""

    def __init__(self, epoch: int, times: int) -> None:
        self.epoch, self.left = epoch, times

    def __call__(self, pair: Pair, history: History) -> None:
        if history.epoch[-1] == self.epoch and self.left:
            self.left -= 1
            with torch.no_grad():
                next(pair.parameters()).fill_(float("nan"))


def broken(folder: Path, times: int, **settings: Any) -> tuple[Pair, History]:
    """Breaks in the third epoch, after the checkpoint of the second."""
    torch.manual_seed(0)
    vae = bernoulli_vae()

    given: dict[str, Any] = {
        "epochs": 5,
        "batch_size": 8,
        "checkpoint": folder,
        "checkpoint_every": "2 epochs",
        "callbacks": [Breaks(3, times)],
        "optim": optim.Adam(0.01, schedule=lambda adam: ExponentialLR(adam, 0.9)),
    }
    return vae, fit(vae, binary(40), **(given | settings))


def test_it_goes_back_with_lower_rates(tmp_path: Path) -> None:
    rate = optim.Adam(0.01, schedule=lambda adam: ExponentialLR(adam, 0.9))
    vae, history = broken(tmp_path, 2, recovery=Recovery(3, factor=0.5), optim=rate)
    assert history.epoch == [1, 2, 3, 4, 5]
    assert parameters(vae).isfinite().all()
    assert len(history.recoveries) == 2
    for recovery, factor in zip(history.recoveries, ("0.5", "0.25"), strict=True):
        assert recovery.startswith("epoch 3, after the callbacks: the parameter")
        assert recovery.endswith(f"; went back to epoch-2, with its rates times {factor}")
        assert recovery in repr(history)
    assert rate.optimizer is not None
    steps = 5 * 5
    found = rate.optimizer.param_groups[0]["lr"]
    assert found == pytest.approx(0.01 * 0.25 * 0.9**steps, rel=1e-9)


def test_what_was_before_the_checkpoint_stays(tmp_path: Path) -> None:
    vae, history = broken(tmp_path / "a", 1, recovery=Recovery(1, 0.5))
    twin, first = broken(tmp_path / "b", 0, epochs=2)
    assert history.cost[:2] == first.cost
    assert history.cost[2] != broken(tmp_path / "c", 0)[1].cost[2]
    assert not torch.equal(parameters(vae), parameters(twin))


def test_it_is_over_after_so_many_times(tmp_path: Path) -> None:
    with pytest.raises(NonFiniteLoss, match="epoch 3, after the callbacks"):
        broken(tmp_path / "a", 3, recovery=Recovery(2))
    with pytest.raises(NonFiniteLoss, match="epoch 3, after the callbacks"):
        broken(tmp_path / "b", 1)
    with pytest.raises(NonFiniteLoss, match="epoch 1, after"):  # There is no checkpoint yet.
        broken(tmp_path / "c", 1, recovery=Recovery(2), callbacks=[Breaks(1, 1)])


@pytest.mark.slow
@pytest.mark.parametrize("compile", [False, True])
def test_it_is_told_after_a_resumption_too(compile: bool, tmp_path: Path) -> None:
    settings = {"recovery": Recovery(2), "compile": compile}
    _, history = broken(tmp_path, 1, **settings)
    _, found = broken(tmp_path, 0, resume=True, **settings)
    assert found.recoveries == history.recoveries
    assert found.cost == history.cost


@pytest.mark.parametrize(
    "make",
    [
        lambda vae: pyro.optim.ClippedAdam({"lr": 0.01}),
        lambda vae: torch.optim.RMSprop(vae.parameters(), lr=0.01, momentum=0.5),
    ],
)
def test_other_optimizers(make: Any, tmp_path: Path) -> None:
    vae = bernoulli_vae()
    history = fit(
        vae,
        binary(40),
        epochs=5,
        batch_size=8,
        checkpoint=tmp_path,
        checkpoint_every="2 epochs",
        callbacks=[Breaks(3, 1)],
        optim=make(vae),
        recovery=Recovery(1),
    )
    assert len(history.recoveries) == 1
    assert parameters(vae).isfinite().all()


def test_all_rates_of_a_state_are_scaled() -> None:
    state = {
        "parameters": {"lr": {"step": torch.ones(())}},
        "options": {"lr": 0.1, "betas": (0.9, 0.99), "initial_lr": 0.2},
        "schedule": {"base_lrs": [0.2], "_last_lr": [torch.tensor(0.1)], "gamma": 0.5},
        "param_groups": [{"lr": 1.0, "eps": 1.0, "eta": 4.0}],
        "StepLR": {"step_size": 10},
        "Rprop": {"step_size": torch.ones(2)},
    }
    found = scaled_rates(state, 0.5)
    assert found["options"] == {"lr": 0.05, "betas": (0.9, 0.99), "initial_lr": 0.1}
    assert found["schedule"] == {"base_lrs": [0.1], "_last_lr": [torch.tensor(0.05)], "gamma": 0.5}
    assert found["param_groups"] == [{"lr": 0.5, "eps": 1.0, "eta": 2.0}]
    assert found["StepLR"] == {"step_size": 10}
    assert torch.equal(found["Rprop"]["step_size"], torch.full((2,), 0.5))
    assert found["parameters"]["lr"]["step"] == 1


def test_wrong_arguments() -> None:
    with pytest.raises(ValueError, match="recovery: got one without checkpoint="):
        fit(bernoulli_vae(), binary(8), epochs=1, recovery=Recovery())
    with pytest.raises(TypeError, match="recovery: got an int"):
        fit(bernoulli_vae(), binary(8), epochs=1, recovery=3)
    with pytest.raises(ValueError, match="times: got 0"):
        Recovery(0)
    wrong: list[tuple[Any, type[Exception]]] = [
        (1.0, ValueError),
        (0, ValueError),
        ("half", TypeError),
    ]
    for factor, error in wrong:
        with pytest.raises(error, match="factor: got"):
            Recovery(factor=factor)


@pytest.mark.parametrize("every", ["1 epoch", "5 steps"])
def test_a_checkpoint_never_has_broken_parameters(every: str, tmp_path: Path) -> None:
    """The callback breaks the pair before the checkpoint of that epoch would be written."""
    settings = {"checkpoint_every": every, "recovery": Recovery(1)}
    vae, history = broken(tmp_path, 1, **settings)
    assert parameters(vae).isfinite().all()
    assert "epoch 3, after the callbacks: the parameter" in history.recoveries[0]
    assert history.epoch == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("compile", [False, pytest.param(True, marks=needs_compiler)])
def test_a_step_that_explodes(compile: bool, tmp_path: Path) -> None:
    """The third epoch has a rate that breaks the parameters, and a fifth of it does not."""

    def rate(step: int) -> float:
        return 1e25 if step == 12 else 1.0

    vae = bernoulli_vae()
    history = fit(
        vae,
        binary(40),
        epochs=5,
        batch_size=8,
        compile=compile,
        checkpoint=tmp_path,
        recovery=Recovery(2, factor=1e-25),
        optim=optim.from_torch(torch.optim.SGD, lr=1e-5, schedule=lambda o: LambdaLR(o, rate)),
    )
    assert len(history.recoveries) == 1
    assert history.recoveries[0].startswith("epoch 3")
    assert len(history.epoch) == 5
    assert parameters(vae).isfinite().all()


@needs_compiler
@pytest.mark.usefixtures("code")
def test_recorded_steps_have_the_lower_rates_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of a GPU, but that Python repeats what is recorded there."""
    whole = importlib.import_module("pyro_vae.training.whole_epochs")
    found = []
    for way in ("one by one", "recorded"):
        if way == "recorded":
            monkeypatch.setattr(whole, "recorder", lambda device: Repeated)
        rate = optim.Adam(0.01, schedule=lambda adam: ExponentialLR(adam, 0.9))
        settings: dict[str, Any] = {"recovery": Recovery(3, 0.01), "compile": True, "optim": rate}
        vae, history = broken(tmp_path / way, 2, **settings)
        assert len(history.recoveries) == 2
        assert rate.optimizer is not None
        found.append((parameters(vae), rate.optimizer.param_groups[0]["lr"]))
    torch.testing.assert_close(found[1][0], found[0][0], rtol=1e-5, atol=1e-6)
    assert found[1][1] == pytest.approx(found[0][1])
