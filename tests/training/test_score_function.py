"""Guides that are trained by the score function, with Pyro's ``TraceGraph_ELBO`` and baselines."""

import copy
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import TraceGraph_ELBO
from torch import Tensor, nn

from pyro_vae import Pair, fit, optim
from pyro_vae.training import COMPILED_FROM, StopTraining

from ..discrete import OneClass
from ..tolerances import CLOSE, same_mean, within


class Guessed(nn.Module):
    """A class by a score of x, with a baseline that is a network of x."""

    def __init__(self, **baseline: Any) -> None:
        super().__init__()
        self.case = OneClass(1, classes=3)
        self.scores = nn.Linear(1, 3).double()
        self.baseline = nn.Sequential(nn.Linear(1, 1), nn.Flatten(0)).double()
        self.options = baseline

    def model(self, x: Tensor) -> None:
        self.case.model(x)

    def guide(self, x: Tensor) -> None:
        infer = {"baseline": self.options} if self.options else {}
        if self.options == {"network": True}:
            infer = {"baseline": {"nn_baseline": self.baseline, "nn_baseline_input": x[:, None]}}
        if self.options == {"value": True}:
            infer = {"baseline": {"baseline_value": self.baseline(x[:, None].detach())}}
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Categorical(logits=self.scores(x[:, None])), infer=infer)

    def elbo(self, x: Tensor) -> Tensor:
        log_q = self.scores(x[:, None]).log_softmax(-1)
        return (log_q.exp() * (self.case.log_joint(x) - log_q)).sum()


def of(guessed: Guessed) -> Pair:
    return Pair(guessed.model, guessed.guide)


@pytest.mark.parametrize("options", [{}, {"network": True}, {"value": True}])
def test_columns_and_gradients_are_those_of_the_elbo(options: dict[str, Any]) -> None:
    """In the mean, with a baseline or without: it moves none of them."""
    guessed, x = Guessed(**options), torch.randn(3).double()
    weight = guessed.scores.weight
    (expected,) = torch.autograd.grad(-guessed.elbo(x), weight)
    pair, objective, found = of(guessed), TraceGraph_ELBO(), []
    for _ in range(50):
        guessed.zero_grad()
        objective.loss_and_grads(pair.model, pair.guide, x.repeat(20))
        assert weight.grad is not None
        found.append(weight.grad / 20)
    within(torch.stack(found), expected)
    many = x.repeat(400)
    history = fit(pair, many, epochs=1, batch_size=100, objective=objective,
                  optim=optim.from_torch(torch.optim.SGD, lr=0.0))  # fmt: skip
    assert history.cost[0] == pytest.approx(history.reconstruction[0] + history.kl[0], rel=CLOSE)
    log_q = guessed.scores(x[:, None]).log_softmax(-1).detach()
    log_x = dist.Normal(guessed.case.loc, 1.0).log_prob(x[:, None]).detach()
    spread = (log_q.exp() * log_x.square()).sum(-1).mean().sqrt().item()
    exact = -(log_q.exp() * log_x).sum(-1).mean().item()
    assert history.reconstruction[0] == pytest.approx(exact, abs=5 * spread / len(many) ** 0.5)


@pytest.mark.parametrize("option", ["network", "value"])
def test_a_baseline_is_trained_and_a_copy_trains_its_own(option: str) -> None:
    """It comes near the mean of what it is subtracted from, the ELBO of its example."""
    guessed, x = Guessed(**{option: True}), torch.randn(60).double()
    pair = of(guessed)
    other = copy.deepcopy(pair)
    before = guessed.baseline[0].bias.item()
    copied = next(m for m in other.modules() if isinstance(m, Guessed)).baseline[0].bias
    fit(other, x, epochs=3, batch_size=20, objective=TraceGraph_ELBO(), optim=optim.Adam(lr=0.1))
    assert guessed.baseline[0].bias.item() == before
    assert copied.item() != before
    fit(pair, x, epochs=40, batch_size=20, objective=TraceGraph_ELBO(), optim=optim.Adam(lr=0.1),
        seed=0)  # fmt: skip
    mean = guessed.elbo(x).item() / len(x)
    assert guessed.baseline(x[:, None]).mean().item() == pytest.approx(mean, abs=0.3)


def test_a_copy_of_functions_trains_its_own_baseline() -> None:
    """Whose guide closes over the original's module, which the copy's takes the place of."""
    case, baseline = OneClass(1, classes=3), nn.Sequential(nn.Linear(1, 1), nn.Flatten(0)).double()

    def guide(x: Tensor) -> None:
        infer = {"baseline": {"nn_baseline": baseline, "nn_baseline_input": x[:, None]}}
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Categorical(logits=case.logits.expand(len(x), -1)), infer=infer)

    def model(x: Tensor) -> None:
        case.model(x)

    pair = Pair(model, guide, case=case, baseline=baseline)
    other = copy.deepcopy(pair)
    before = baseline[0].bias.item()
    fit(other, torch.randn(20).double(), epochs=1, batch_size=10, objective=TraceGraph_ELBO())
    assert baseline[0].bias.item() == before
    assert other.baseline[0].bias.item() != before


def test_a_baseline_lowers_the_noise_of_the_gradient() -> None:
    plain, own = Guessed(), Guessed(network=True)
    own.load_state_dict(plain.state_dict())
    x = torch.randn(4).double()
    with torch.no_grad():
        own.baseline[0].weight.zero_()
        own.baseline[0].bias.fill_(plain.elbo(x).item() / 4)
    samples = []
    for guessed in (plain, own):
        pair, objective, found = of(guessed), TraceGraph_ELBO(), []
        for _ in range(100):
            guessed.zero_grad()
            objective.loss_and_grads(pair.model, pair.guide, x)
            assert guessed.scores.bias.grad is not None
            found.append(guessed.scores.bias.grad.clone())
        samples.append(torch.stack(found))
    same_mean(*samples)
    assert samples[1].var(0).sum() < 0.8 * samples[0].var(0).sum()


def test_it_runs_uncompiled_and_says_so() -> None:
    x = torch.randn(2).double()
    with pytest.raises(TypeError, match=r"elbo: got .*TraceGraph_ELBO.* differentiable"):
        fit(of(Guessed()), x, epochs=1, batch_size=2, objective=TraceGraph_ELBO(), compile=True)
    guessed = Guessed()

    def stop(pair: Any, history: Any) -> None:
        raise StopTraining("seen")

    with pytest.warns(UserWarning, match="uncompiled: a TraceGraph_ELBO has no differentiable"):
        fit(of(guessed), x, epochs=COMPILED_FROM, batch_size=2, objective=TraceGraph_ELBO(),
            callbacks=[stop])  # fmt: skip


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"use_decaying_avg_baseline": True}, ValueError, "got use_decaying_avg_baseline, whose"),
        (
            {"nn_baseline": nn.Linear(1, 1).double()},
            ValueError,
            "its nn_baseline is a module that",
        ),
        ({"nn_baseline": lambda x: x}, TypeError, "got a function as its nn_baseline"),
    ],
)
def test_a_baseline_that_would_not_be_trained_is_refused(
    options: dict[str, Any], error: type[Exception], message: str
) -> None:
    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            logits = x.new_zeros(len(x), 3) + case.logits
            pyro.sample("y", dist.Categorical(logits=logits), infer={"baseline": options})

    case = OneClass(1, classes=3)
    pair = Pair(case.model, guide, case=case)
    with pytest.raises(error, match=f'site "y": {message}'):
        fit(pair, torch.randn(4).double(), epochs=1, batch_size=2, objective=TraceGraph_ELBO())
