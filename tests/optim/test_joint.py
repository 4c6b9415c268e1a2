"""Optimizers of all parameters at once: torch's own steps, by name, kept over a restart."""

import copy
from pathlib import Path

import pyro
import pyro.distributions as dist
import pyro.optim
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO
from torch import Tensor
from torch.optim.lr_scheduler import ExponentialLR, ReduceLROnPlateau

from pyro_vae import VAE, fit, optim
from pyro_vae.utils.modules import dtype_of

from ..test_pair import pair_of
from ..tolerances import CLOSE
from ..vaes import bernoulli_vae, binary, parameters


def train(vae: VAE, optimizer: pyro.optim.PyroOptim, steps: int = 4, seed: int = 0) -> None:
    x = binary_of(seed).to(dtype_of(vae))
    torch.manual_seed(seed)
    svi = SVI(vae.model, vae.guide, optimizer, Trace_ELBO())
    for _ in range(steps):
        svi.step(x)


def binary_of(seed: int) -> Tensor:
    torch.manual_seed(seed)
    return binary()


def same(a: VAE, b: VAE) -> bool:
    return torch.equal(parameters(a), parameters(b))


def close(a: VAE, b: VAE) -> bool:
    """Up to rounding, of VAEs in float64."""
    return torch.allclose(parameters(a), parameters(b), CLOSE, CLOSE)


OPTIONS = {
    "plain": (optim.Adam(1e-2), lambda p: torch.optim.Adam(p, 1e-2), None),
    "betas, decay": (
        optim.Adam(1e-2, betas=(0.8, 0.9), weight_decay=0.1),
        lambda p: torch.optim.Adam(p, 1e-2, (0.8, 0.9), weight_decay=0.1),
        None,
    ),
    "momentum, clipping": (
        optim.from_torch(torch.optim.SGD, lr=1e-2, momentum=0.9, clip_norm=0.5),
        lambda p: torch.optim.SGD(p, 1e-2, momentum=0.9),
        0.5,
    ),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_it_takes_the_steps_of_a_torch_loop(name: str) -> None:
    optimizer, make, clip = OPTIONS[name]
    vae = bernoulli_vae().double()
    other = copy.deepcopy(vae)
    train(vae, copy.deepcopy(optimizer))
    x = binary_of(0).double()
    torch.manual_seed(0)
    by_hand = make(other.parameters())
    for _ in range(4):
        by_hand.zero_grad()
        Trace_ELBO().differentiable_loss(other.model, other.guide, x).backward()
        if clip:
            torch.nn.utils.clip_grad_norm_(other.parameters(), clip)
        by_hand.step()
    assert close(vae, other)


def test_adam_is_pyros_adam() -> None:
    vae = bernoulli_vae().double()
    other = copy.deepcopy(vae)
    train(vae, optim.Adam(1e-2))
    train(other, pyro.optim.Adam({"lr": 1e-2}))
    assert close(vae, other)


def test_a_schedule_advances_at_each_step() -> None:
    optimizer = optim.Adam(1.0, schedule=lambda o: ExponentialLR(o, 0.5))
    train(bernoulli_vae(), optimizer, steps=3)
    assert optimizer.optimizer.param_groups[0]["lr"] == 0.125


@pytest.mark.parametrize("on_disk", [True, False])
def test_a_saved_state_goes_on_where_it_was(on_disk: bool, tmp_path: Path) -> None:
    def make() -> optim.JointOptim:
        return optim.Adam(1e-2, schedule=lambda o: ExponentialLR(o, 0.9))

    optimizer, vae = make(), bernoulli_vae()
    train(vae, optimizer)
    if on_disk:
        optimizer.save(str(tmp_path / "optimizer.pt"))
    state, restarted = copy.deepcopy((optimizer.get_state(), vae))
    assert set(state["parameters"]) == {f"vae.{path}" for path, _ in vae.named_parameters()}
    train(vae, optimizer, seed=1)

    pyro.clear_param_store()
    other = make()
    if on_disk:
        other.load(str(tmp_path / "optimizer.pt"))
    else:
        other.set_state(state)
    # What waits for its parameters is still there to be saved.
    assert other.get_state()["schedule"] == state["schedule"]
    train(restarted, other, seed=1)
    assert same(vae, restarted)
    assert optimizer.optimizer.param_groups[0]["lr"] == other.optimizer.param_groups[0]["lr"]


def test_a_state_may_be_put_back_in_the_middle() -> None:
    optimizer, vae = optim.Adam(1e-2), bernoulli_vae()
    train(vae, optimizer)
    state, weights = copy.deepcopy((optimizer.get_state(), vae.state_dict()))
    train(vae, optimizer, seed=1)
    first = copy.deepcopy(vae)
    vae.load_state_dict(weights)
    optimizer.set_state(state)
    train(vae, optimizer, seed=1)
    assert same(vae, first)


@pytest.mark.parametrize("store_first", [True, False])
def test_store_and_state_are_restored_in_either_order(store_first: bool) -> None:
    """Pyro's store makes new tensors as it loads; the state finds them by their names."""
    pyro.clear_param_store()
    optimizer = optim.Adam(0.1, schedule=lambda o: ExponentialLR(o, 0.9))

    def model() -> None:
        pyro.sample("x", dist.Normal(pyro.param("a", torch.tensor(0.0)), 1.0), obs=torch.ones(()))

    svi, store = SVI(model, lambda: None, optimizer, Trace_ELBO()), pyro.get_param_store()
    for _ in range(5):
        svi.step()
    state = optimizer.get_state()
    weights = copy.deepcopy(store.get_state())
    first = [svi.step() for _ in range(4)]
    restore = [lambda: store.set_state(weights), lambda: optimizer.set_state(state)]
    for each in restore if store_first else reversed(restore):
        each()
    assert [svi.step() for _ in range(4)] == first
    assert optimizer.get_state()["parameters"]["a"]["step"].item() == 9


def test_parameters_that_are_not_in_a_step_stay() -> None:
    """Neither momentum nor a gradient that lies there moves them."""
    optimizer = optim.Adam(0.1)

    def model(which: str) -> None:
        value = pyro.param(which, torch.tensor(1.0))
        pyro.sample("x", dist.Normal(value, 1.0), obs=torch.tensor(3.0))

    svi = SVI(model, lambda which: None, optimizer, Trace_ELBO())
    pyro.clear_param_store()
    svi.step("a")
    svi.step("b")
    a, b = (pyro.get_param_store()._params[name] for name in "ab")
    a.grad = torch.tensor(5.0)
    before = a.item(), b.item()
    svi.step("b")
    assert a.item() == before[0]
    assert a.grad.item() == 5.0
    assert b.item() != before[1]
    assert len(optimizer.optimizer.param_groups) == 1
    steps = {name: s["step"].item() for name, s in optimizer.get_state()["parameters"].items()}
    assert steps == {"a": 1, "b": 2}


def test_clipping_is_by_the_gradient_of_the_step() -> None:
    """A gradient that lies at a parameter of no part in the step is not counted."""
    optimizer = optim.from_torch(torch.optim.SGD, lr=1.0, clip_norm=1.0)
    pyro.clear_param_store()
    a, b = (pyro.param(name, torch.zeros(1)) for name in "ab")
    for parameter in (a, b):
        parameter.grad = torch.zeros(1)
    optimizer({a, b})
    a.grad, b.grad = torch.tensor([1.0]), torch.tensor([1000.0])
    optimizer({a})
    assert a.item() == pytest.approx(-1.0, rel=1e-5)


def test_a_state_has_all_that_it_was_given() -> None:
    optimizer, vae = optim.Adam(1e-2), bernoulli_vae()
    train(vae, optimizer)
    state = optimizer.get_state()
    kept = copy.deepcopy(state)
    # A part of the parameters is met; the others' state still waits, and is saved with it.
    other = optim.Adam(1e-2)
    other.set_state(state)
    some = dict(list(vae.named_parameters())[:2])
    for parameter in some.values():
        parameter.grad = torch.ones_like(parameter)
    other(set(some.values()))
    assert other.get_state()["parameters"].keys() == kept["parameters"].keys()
    # What it was given is not what it works on.
    for name, values in kept["parameters"].items():
        for key, value in values.items():
            assert torch.equal(state["parameters"][name][key], value)


def test_a_state_follows_the_parameters_dtype() -> None:
    optimizer, vae = optim.Adam(1e-2), bernoulli_vae()
    train(vae, optimizer)
    double = fresh_with(optimizer)
    vae.double()
    svi = SVI(vae.model, vae.guide, double, Trace_ELBO())
    svi.step(binary().double())
    state = next(iter(double.optimizer.state.values()))
    assert state["exp_avg"].dtype == torch.float64
    assert state["step"].item() == 5


def test_of_two_that_bore_a_name_the_one_that_bears_it_is_saved() -> None:
    optimizer, vaes = optim.Adam(1e-2), [bernoulli_vae(), bernoulli_vae()]
    for vae, steps in zip(vaes, (2, 3), strict=True):
        train(vae, optimizer, steps=steps)
    state = next(iter(optimizer.get_state()["parameters"].values()))
    assert state["step"].item() == 3


def test_two_vaes_of_one_name_share_no_momentum() -> None:
    optimizer, vaes = optim.Adam(1e-2), [bernoulli_vae(), bernoulli_vae()]
    alone = copy.deepcopy(vaes)
    for _ in range(3):
        for vae in vaes:
            train(vae, optimizer, steps=1)
    for vae, other in zip(vaes, alone, strict=True):
        own = optim.Adam(1e-2)
        for _ in range(3):
            train(other, own, steps=1)
        assert same(vae, other)


def test_wrong_inputs() -> None:
    with pytest.raises(TypeError, match="cls: got 'Adam'"):
        optim.from_torch("Adam")
    with pytest.raises(TypeError, match="rate"):
        optim.from_torch(torch.optim.SGD, rate=1.0)
    with pytest.raises(ValueError, match="learning rate"):
        optim.Adam(-1.0)
    for wrong in (0.0, -1.0, float("inf"), "1", True):
        with pytest.raises((TypeError, ValueError), match="clip_norm: got"):
            optim.Adam(clip_norm=wrong)
    with pytest.raises(TypeError, match=r"schedule: got 0\.9"):
        optim.Adam(schedule=0.9)
    with pytest.raises(TypeError, match="schedule: made None"):
        optim.Adam(schedule=lambda o: None)  # type: ignore[return-value]
    vae = bernoulli_vae()
    by_pyro = pyro.optim.Adam({"lr": 1e-2})
    train(vae, by_pyro)
    with pytest.raises(ValueError, match="state_dict: got the keys"):
        optim.Adam().set_state(by_pyro.get_state())
    by_sgd = optim.from_torch(torch.optim.SGD, lr=1e-2)
    train(vae, by_sgd)
    with pytest.raises(ValueError, match="got that of a SGD, expected one of Adam"):
        fresh_with(by_sgd)
    nameless = optim.Adam()
    nameless([torch.zeros(1, requires_grad=True)])
    with pytest.raises(ValueError, match="has no name"):
        nameless.get_state()
    other = optim.Adam()
    train(bernoulli_vae(hidden=9), other)
    with pytest.raises(ValueError, match=r"state_dict: exp_avg of 'vae.*' has shape"):
        train(vae, fresh_with(other))
    scheduled = optim.Adam(schedule=lambda o: ExponentialLR(o, 0.9))
    train(vae, scheduled)
    with pytest.raises(ValueError, match="has a schedule's state, expected none"):
        fresh_with(scheduled)
    with pytest.raises(ValueError, match="has no schedule's state, expected one"):
        scheduled.set_state(other.get_state())
    with pytest.raises(TypeError, match="LBFGS"):
        optim.from_torch(torch.optim.LBFGS, lr=1.0)
    with pytest.raises(TypeError, match="cls: got SparseAdam, expected one that takes dense"):
        optim.from_torch(torch.optim.SparseAdam, lr=1.0)
    with pytest.raises(TypeError, match=r"lr: got .*expected a number"):
        optim.Adam({"lr": 0.1})


def fresh_with(other: optim.JointOptim) -> optim.JointOptim:
    optimizer = optim.Adam()
    optimizer.set_state(copy.deepcopy(other.get_state()))
    return optimizer


def test_fit_takes_torchs_own_optimizers() -> None:
    """A class with its defaults, an instance, and the Pyro optimizer make the same steps."""
    x, start = binary(20), bernoulli_vae()
    vaes = [copy.deepcopy(start) for _ in range(3)]
    optimizers = (
        optim.from_torch(torch.optim.Adam),
        torch.optim.Adam,
        torch.optim.Adam(vaes[2].parameters()),
    )
    for vae, optimizer in zip(vaes, optimizers, strict=True):
        fit(vae, x, epochs=2, batch_size=8, optim=optimizer)
    assert torch.equal(parameters(vaes[0]), parameters(vaes[1]))
    assert torch.equal(parameters(vaes[0]), parameters(vaes[2]))
    assert not torch.equal(parameters(vaes[0]), parameters(start))
    held = optim.Held(optimizers[2])
    state = held.get_state()
    held.set_state(state)
    assert state["state"].keys() == held.get_state()["state"].keys()


def test_a_torch_optimizer_trains_what_it_holds() -> None:
    x, vae = binary(20), bernoulli_vae()
    before = [p.clone() for p in vae.posterior.parameters()]
    fit(vae, x, epochs=1, batch_size=8, optim=torch.optim.SGD(vae.likelihood.parameters(), 0.1))
    assert all(torch.equal(a, b) for a, b in zip(before, vae.posterior.parameters(), strict=True))
    x, pair = torch.randn(20, 5), pair_of()
    with pytest.raises(ValueError, match=r"made before the parameter params\.my%2Ewidth, expect"):
        fit(pair, x, epochs=1, batch_size=8, optim=torch.optim.Adam(pair.parameters()))
    fit(pair, x, epochs=1, batch_size=8, optim=torch.optim.Adam(pair.parameters()))
    assert pair.params["scale"].exp().item() != pytest.approx(0.8, abs=1e-6)
    with pytest.raises(TypeError, match="optimizer: got LBFGS, expected an optimizer that does"):
        fit(pair, x, epochs=1, batch_size=8, optim=torch.optim.LBFGS(pair.parameters()))
    with pytest.raises(TypeError, match="optimizer: got SparseAdam, expected one that takes"):
        fit(pair, x, epochs=1, batch_size=8, optim=torch.optim.SparseAdam(pair.parameters()))


def test_a_plateau_advances_by_the_test_cost() -> None:
    x, vae = binary(20), bernoulli_vae()

    def stalls(optimizer: torch.optim.Optimizer) -> ReduceLROnPlateau:
        # No cost is better by so much, so each epoch after the first is a plateau.
        return ReduceLROnPlateau(
            optimizer, factor=0.5, patience=0, threshold=1e3, threshold_mode="abs"
        )

    adam = optim.Adam(lr=1e-3, schedule=stalls)
    fit(vae, x, test=x, epochs=4, batch_size=8, optim=adam)
    assert adam.optimizer is not None
    assert adam.optimizer.param_groups[0]["lr"] == pytest.approx(1e-3 / 2**3)
    state = adam.get_state()
    again = optim.Adam(lr=1e-3, schedule=stalls)
    again.set_state(state)
    fit(vae, x, test=x, epochs=1, batch_size=8, optim=again)
    assert again.optimizer is not None
    assert again.optimizer.param_groups[0]["lr"] == pytest.approx(1e-3 / 2**4)
    with pytest.raises(ValueError, match="schedule: got a ReduceLROnPlateau and neither"):
        fit(vae, x, epochs=1, batch_size=8, optim=optim.Adam(schedule=stalls))
