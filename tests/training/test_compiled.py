"""Compiled training: the same numbers, and when it is compiled."""

import copy
import importlib
import random
from typing import Any

import pyro.distributions as dist
import pytest
import torch
from pyro.infer import RenyiELBO
from torch import Tensor, nn

from pyro_vae import VAE, fit, likelihoods, networks, objectives, posteriors, priors
from pyro_vae.datasets import Dataset
from pyro_vae.objectives import Compiled

from ..conftest import needs_compiler
from ..tolerances import rounding
from ..vaes import binary

MODULE = importlib.import_module("pyro_vae.training.fit")


@pytest.mark.slow
@needs_compiler
def test_compiled_it_is_the_same_training(digits: Dataset) -> None:
    """The last batch of an epoch is smaller, and runs uncompiled."""
    levels = digits.train[:70, 10:16, 10:16]  # 36 pixels: products of sixteen, and a rest
    start = VAE(
        priors.StandardNormal(2),
        likelihoods.Bernoulli(networks.MLP(2, (), (6, 6))),
        posteriors.Normal(networks.MLP((6, 6), (), 4)),
    )
    settings: dict[str, Any] = {"test": levels[:20], "epochs": 2, "batch_size": 32}
    compiled, plain = (
        fit(copy.deepcopy(start), levels, pixels="binary", compile=compile, **settings)
        for compile in (True, False)
    )
    for name in ("cost", "reconstruction", "test_cost"):
        # Sums over a batch, of sums over pixels, of products with the latents.
        assert compiled[name] == pytest.approx(plain[name], rel=rounding(32 + 36 + 2))
    # The KL is small beside the log-densities of which it is the difference.
    size = max(plain.cost)
    assert compiled.kl == pytest.approx(plain.kl, abs=rounding(32 + 36 + 2) * size)


def drawn(log_weights: Tensor) -> Tensor:
    """A bound of a random number of the weights, each of which is an ELBO in the mean."""
    return log_weights[: random.randint(1, len(log_weights))].mean(0)


def test_auto_compiles_by_the_number_of_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MODULE, "COMPILED_FROM", 6)
    trace, renyi = objectives.trace_elbo(), RenyiELBO(num_particles=2)
    drawing = objectives.ImportanceWeightedELBO(3, drawn, linear=True, static=False)
    for steps, objective, compile, expected in (
        (6, trace, "auto", True),
        (5, trace, "auto", False),
        (6, trace, False, False),
        (5, trace, True, True),
        (6, renyi, "auto", False),
        (6, drawing, "auto", False),
        (6, objectives.warm_up(drawing, 3), "auto", False),
        (6, objectives.warm_up(trace, 3), "auto", True),
    ):
        watched = MODULE._with_terms(objective, compile, steps, torch.device("cpu"))
        assert isinstance(watched, Compiled) is expected
    own = objectives.compiled(trace)
    assert MODULE._with_terms(own, False, 1, torch.device("cpu")) is own


class Reading(nn.Module):
    """A likelihood that reads a value of z."""

    def __init__(self) -> None:
        super().__init__()
        self.network = networks.MLP(1, (), 6)

    def forward(self, z: Tensor) -> dist.Distribution:
        logits = self.network(z)
        return dist.Bernoulli(logits=logits if z.sum() > 0 else 2 * logits).to_event(1)


@needs_compiler
def test_auto_goes_on_uncompiled_where_the_program_is_not_static(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(MODULE, "COMPILED_FROM", 1)
    parts = priors.StandardNormal(1), Reading(), posteriors.Normal(networks.MLP(6, (), 2))
    with pytest.warns(UserWarning, match="runs uncompiled"):
        history = fit(VAE(*parts), binary(20), epochs=2, batch_size=10)
    assert len(history.cost) == 2
    with pytest.raises(RuntimeError, match="reads a tensor's value"):
        fit(VAE(*parts), binary(20), epochs=2, batch_size=10, compile=True)
