"""Flows of Zuko as distributions of Pyro."""

import subprocess
import sys

import pyro
import pytest
import torch
from pyro.infer import MCMC, NUTS, Predictive
from torch import Tensor, nn

from pyro_vae import priors
from pyro_vae.distributions import flows

from ..swaps import POSTERIORS, X_DIM


@pytest.mark.slow
def test_zuko_leaves_validation_as_it_was() -> None:
    """Its import switches torch's off, once in a process."""
    code = """
import os, pyro
from torch.distributions import Distribution
from pyro_vae import priors
child = os.fork()
if child:
    os.waitpid(child, 0)
validates = child == 0
pyro.enable_validation(validates)
priors.Flow(2)()
print(Distribution._validate_args is validates, flush=True)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["True", "True"]


def flow_posterior() -> tuple[nn.Module, Tensor]:
    module = POSTERIORS["Flow"](3)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return module.double(), torch.rand(4, X_DIM).double()


def test_a_flow_scores_its_own_draws_as_any_other_value() -> None:
    module, x = flow_posterior()
    q_z = module(x)
    z = q_z.rsample((5,))
    torch.testing.assert_close(q_z.log_prob(z), q_z.log_prob(z.clone()))
    before = q_z.log_prob(z).detach()
    with torch.no_grad():
        z.add_(0.1)
    torch.testing.assert_close(q_z.log_prob(z), q_z.log_prob(z.clone()))
    assert not torch.allclose(q_z.log_prob(z), before)


def test_a_flow_scores_its_draws_in_one_pass() -> None:
    """What took z_dim passes would call the step's network as often."""
    module, x = flow_posterior()
    calls = 0

    def count(*_: object) -> None:
        nonlocal calls
        calls += 1

    for step in module.flow.steps.modules():
        if hasattr(step, "hyper"):
            step.hyper.register_forward_hook(count)
    q_z = module(x)
    q_z.log_prob(q_z.rsample())
    assert calls == 2  # two transforms


def test_gradients_are_not_lost_to_draws_made_without() -> None:
    module, x = flow_posterior()
    q_z = module(x)
    z = q_z.sample()
    assert not z.requires_grad
    assert q_z.log_prob(z).requires_grad
    with torch.no_grad():
        assert not q_z.log_prob(z).requires_grad


@pytest.mark.slow
def test_flow_priors_serve_pyros_samplers() -> None:
    prior = priors.Flow(2, transforms=1, hidden=(8,))
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))

    def model() -> Tensor:
        return pyro.sample("z", prior())

    draws = Predictive(model, num_samples=20_000, parallel=True)()["z"].squeeze(-2)
    assert draws.shape == (20_000, 2)
    exact = prior().sample((20_000,))
    pooled = (exact.var(0) / 20_000 + draws.var(0) / 20_000).sqrt()
    assert ((draws.mean(0) - exact.mean(0)).abs() < 5 * pooled).all()
    chain = MCMC(NUTS(model), num_samples=80, warmup_steps=40, disable_progbar=True)
    chain.run()
    z = chain.get_samples()["z"]
    # At least twenty independent draws among the 80.
    assert ((z.mean(0) - exact.mean(0)).abs() < 5 * exact.std(0) / 20**0.5).all()


@pytest.mark.parametrize("part", ["prior", "posterior"])
def test_a_flows_weights_have_pathwise_gradients(part: str) -> None:
    """Along one random direction of all weights, by central differences."""
    module: nn.Module = priors.Flow(2, transforms=2, hidden=(8,)).double()
    x: tuple[Tensor, ...] = ()
    if part == "posterior":
        module, x = POSTERIORS["Flow"](2).double(), (torch.rand(3, X_DIM).double(),)
    weights = list(module.parameters())
    with torch.no_grad():
        for weight in weights:
            weight.add_(0.3 * torch.randn_like(weight))
    direction = [torch.randn_like(weight) for weight in weights]

    def draw(step: float) -> Tensor:
        with torch.no_grad():
            for weight, change in zip(weights, direction, strict=True):
                weight.add_(step * change)
        torch.manual_seed(1)
        z = module(*x).rsample((4,))
        return (z * torch.arange(z.numel()).view_as(z)).sum()

    gradients = torch.autograd.grad(draw(0.0), weights)
    expected = sum((g * d).sum() for g, d in zip(gradients, direction, strict=True))
    step = 1e-6
    difference = (draw(step) - draw(-2 * step)) / (2 * step)
    torch.testing.assert_close(difference, torch.as_tensor(expected), rtol=1e-5, atol=1e-6)


def test_without_zuko_flows_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "zuko", None)
    with pytest.raises(ModuleNotFoundError, match=r"pyro_vae\[flows\]"):
        flows.spline(2, 1, (8,))
