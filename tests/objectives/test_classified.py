"""The classifier's loss: a sum over plates, and an expectation over all that it depends on."""

from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import ELBO
from torch import Tensor, nn

from pyro_vae import objectives

from ..tolerances import CLOSE


def added(objective: ELBO, model: Any, guide: Any, *batch: Tensor, alpha: float = 1.5) -> float:
    """What the classifier's loss adds, on the same noise."""
    values = []
    objective.loss(model, guide, *batch)  # Pyro counts the plates.
    for chosen in (objective, objectives.classified(alpha, objective)):
        torch.manual_seed(0)
        values.append(chosen.loss(model, guide, *batch))
    return (values[1] - values[0]) / alpha


def cross_entropy(logits: Tensor, labels: Tensor) -> float:
    """The sum over those that have a label."""
    known = labels >= 0
    return nn.functional.cross_entropy(logits[known], labels[known], reduction="sum").item()


@pytest.mark.parametrize("objective", [
    lambda: objectives.enumerated(), lambda: objectives.enumerated(4),
    lambda: objectives.trace_elbo(), lambda: objectives.trace_elbo(4),
])  # fmt: skip
@pytest.mark.parametrize("of_the_data", [-1, -2])
def test_the_sum_is_over_all_plates_and_the_mean_over_particles(
    objective: Any, of_the_data: int
) -> None:
    """A class for each of three steps, with the examples on either side of them."""
    torch.manual_seed(0)
    linear = nn.Linear(1, 2).double()
    x, labels = torch.randn(5, 3).double(), torch.randint(-1, 2, (5, 3))

    def plates() -> tuple[Any, Any]:
        return pyro.plate("data", 5, dim=of_the_data), pyro.plate("t", 3, dim=-3 - of_the_data)

    def model(x: Tensor, labels: Tensor) -> None:
        data, steps = plates()
        with data, steps:
            y = pyro.sample("y", dist.Categorical(logits=x.new_zeros(2)))
            pyro.sample("x", dist.Normal(y.to(x), 1.0), obs=x)

    def guide(x: Tensor, labels: Tensor) -> None:
        data, steps = plates()
        q_y = dist.Categorical(logits=linear(x.unsqueeze(-1)))
        with data, steps:
            pyro.sample("y", q_y, infer={"classifier": (q_y, labels)})

    batch = (x, labels) if of_the_data == -2 else (x.T, labels.T)
    logits = linear(x.unsqueeze(-1)).detach().flatten(0, 1)
    expected = cross_entropy(logits, labels.flatten())
    assert added(objective(), model, guide, *batch) == pytest.approx(expected, rel=CLOSE)


def programs(of_a: nn.Module, of_y: nn.Module) -> tuple[Any, Any]:
    """A class y of a class a, of x."""

    def model(x: Tensor, labels: Tensor) -> None:
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Categorical(logits=x.new_zeros(3)))
            y = pyro.sample("y", dist.Categorical(logits=x.new_zeros(2)))
            pyro.sample("x", dist.Normal((y + a).to(x), 1.0), obs=x)

    def guide(x: Tensor, labels: Tensor) -> None:
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Categorical(logits=of_a(x.unsqueeze(-1))))
            q_y = dist.Categorical(logits=of_y(nn.functional.one_hot(a, 3).to(x)))
            pyro.sample("y", q_y, infer={"classifier": (q_y, labels)})

    return model, guide


def test_a_classifier_of_another_class_has_its_expectation_and_gradient() -> None:
    torch.manual_seed(0)
    of_a, of_y = nn.Linear(1, 3).double(), nn.Linear(3, 2).double()
    nn.init.normal_(of_a.weight, std=3.0)
    nn.init.normal_(of_y.weight, std=3.0)
    x, labels = torch.randn(6).double(), torch.tensor([0, 1, -1, 1, 0, 0])
    model, guide = programs(of_a, of_y)
    q_a = of_a(x.unsqueeze(-1)).softmax(-1)
    log_q = of_y(torch.eye(3).double()).log_softmax(-1)[:, labels.clamp(min=0)].T
    exact = -(q_a * log_q)[labels >= 0].sum()
    assert not torch.isclose(exact, -log_q[labels >= 0].mean(-1).sum(), rtol=0.01)
    parameters = [*of_a.parameters(), *of_y.parameters()]
    expected = torch.autograd.grad(exact, parameters)
    for particles in (1, 3):
        objective = objectives.enumerated(particles)
        assert added(objective, model, guide, x, labels) == pytest.approx(exact.item(), rel=CLOSE)
        gradients = []
        for chosen in (objective, objectives.classified(1.0, objective)):
            loss = chosen.differentiable_loss(model, guide, x, labels)
            gradients.append(torch.autograd.grad(loss, parameters))
        for one, two, own in zip(*gradients, expected, strict=True):
            torch.testing.assert_close(two - one, own, rtol=CLOSE, atol=CLOSE)


def test_a_sampled_class_has_the_same_expectation() -> None:
    torch.manual_seed(0)
    of_a, of_y = nn.Linear(1, 3).double(), nn.Linear(3, 2).double()
    x, labels = torch.randn(6).double(), torch.tensor([0, 1, -1, 1, 0, 0])
    model, guide = programs(of_a, of_y)
    exact = added(objectives.enumerated(), model, guide, x, labels)
    many = 4000
    q_a = of_a(x.unsqueeze(-1)).softmax(-1)
    log_q = of_y(torch.eye(3).double()).log_softmax(-1)[:, labels.clamp(min=0)].T
    first, second = ((q_a * log_q**power)[labels >= 0].sum(-1) for power in (1, 2))
    error = ((second - first**2).sum() / many).sqrt().item()
    sampled = added(objectives.trace_elbo(many), model, guide, x, labels)
    assert abs(sampled - exact) < 4 * error
