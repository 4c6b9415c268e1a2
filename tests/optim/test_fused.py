"""Adam's fused step without torch's Python: the same bits, and when it is left out."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.optim.lr_scheduler import ExponentialLR

from pyro_vae import optim


def weights() -> list[Tensor]:
    return [torch.randn(size, requires_grad=True) for size in ((3, 4), (5,), (2, 2))]


def step(optimizer: Any, params: list[Tensor], gradients: list[Tensor | None]) -> None:
    for p, gradient in zip(params, gradients, strict=True):
        p.grad = None if gradient is None else gradient.clone()
    optimizer([p for p, gradient in zip(params, gradients, strict=True) if gradient is not None])


def by_torch(adam: torch.optim.Optimizer) -> Any:
    def take(params: list[Tensor]) -> None:
        adam.step()
        adam.zero_grad()

    return take


def test_the_steps_are_those_of_torch_bit_for_bit() -> None:
    """Also where a parameter is left out of a step, and where options change."""
    params = weights()
    twins = [p.detach().clone().requires_grad_() for p in params]
    ours = optim.Adam(lr=0.1, weight_decay=0.3)
    adam = torch.optim.Adam(twins, lr=0.1, weight_decay=0.3, fused=True)
    for number in range(12):
        gradients: list[Tensor | None] = [torch.randn_like(p) for p in params]
        if number == 6:
            gradients[1] = None
        if number == 8:
            for optimizer in (ours.optimizer, adam):
                optimizer.param_groups[0]["lr"] = 0.03
        step(ours, params, gradients)
        step(by_torch(adam), twins, gradients)
        assert all(p.grad is None for p in params)
    for p, q in zip(params, twins, strict=True):
        assert torch.equal(p, q)
        state, expected = ours.optimizer.state[p], adam.state[q]
        for key in expected:
            assert torch.equal(state[key], expected[key])


def test_a_copy_and_a_loaded_state_go_on_alike() -> None:
    params = weights()
    ours = optim.Adam(lr=0.1)
    for _ in range(3):
        step(ours, params, [torch.randn_like(p) for p in params])
    other, twins = copy.deepcopy((ours, params))
    gradients: list[Tensor | None] = [torch.randn_like(p) for p in params]
    for _ in range(2):
        step(ours, params, gradients)
        step(other, twins, gradients)
    assert all(torch.equal(p, q) for p, q in zip(params, twins, strict=True))


@pytest.mark.parametrize("what", ["hook", "schedule", "option", "state"])
def test_what_changes_the_step_is_seen(what: str) -> None:
    params = weights()
    twins = [p.detach().clone().requires_grad_() for p in params]
    schedule = (lambda o: ExponentialLR(o, 0.5)) if what == "schedule" else None
    ours = optim.Adam(lr=0.1, schedule=schedule)
    adam = torch.optim.Adam(twins, lr=0.1, fused=True)
    rates = ExponentialLR(adam, 0.5)
    seen = []
    for number in range(6):
        gradients: list[Tensor | None] = [torch.randn_like(p) for p in params]
        step(ours, params, gradients)
        step(by_torch(adam), twins, gradients)
        if what == "schedule":
            rates.step()
        if number == 2 and what == "hook":
            ours.optimizer.register_step_post_hook(lambda *_: seen.append(1))
        if number == 2 and what == "option":
            for optimizer in (ours.optimizer, adam):
                optimizer.param_groups[0]["maximize"] = True
        if number == 2 and what == "state":
            for p, q in zip(params, twins, strict=True):
                ours.optimizer.state[p] = {k: v.clone() for k, v in adam.state[q].items()}
                ours.optimizer.state[p]["exp_avg"].zero_()
                adam.state[q]["exp_avg"].zero_()
    assert all(torch.equal(p, q) for p, q in zip(params, twins, strict=True))
    assert len(seen) == (3 if what == "hook" else 0)
