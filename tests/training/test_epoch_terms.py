"""The terms of an epoch: they add up, and stop a run that is not finite."""

import math

import pyro
import pyro.optim
import pytest
import torch
from pyro.infer import RenyiELBO, Trace_ELBO, TraceGraph_ELBO
from torch import Tensor, nn

from pyro_vae import VAE, elbo, fit, likelihoods, networks, objectives, posteriors, priors
from pyro_vae.training import History, NonFiniteLoss

from ..tolerances import CLOSE
from ..vaes import bernoulli_vae, binary, parameters


@pytest.mark.parametrize(
    "objective",
    [
        Trace_ELBO(),
        objectives.trace_elbo(3),
        objectives.analytic_kl(),
        objectives.analytic_kl(3),
        TraceGraph_ELBO(),
    ],
)
def test_the_terms_add_up_to_an_elbo(objective: Trace_ELBO) -> None:
    vae, x = bernoulli_vae(2).double(), binary(400).double()
    rate = pyro.optim.SGD({"lr": 0.0})
    history = fit(vae, x, epochs=1, batch_size=100, objective=objective, optim=rate)
    assert history.cost[0] == pytest.approx(history.reconstruction[0] + history.kl[0], rel=CLOSE)
    exact = elbo(vae, x, num_samples=500, seed=0, kl="analytic")
    # One epoch's terms are means over 400 examples of draws that spread by a few nats.
    spread = 5 * math.sqrt(500 / objective.num_particles) * exact.reconstruction_mc_error
    assert history.reconstruction[0] == pytest.approx(exact.reconstruction_mean, abs=spread)
    if isinstance(objective, objectives.AnalyticKL_ELBO):
        assert history.kl[0] == pytest.approx(exact.kl_mean, rel=CLOSE)
    sampled = elbo(vae, x, num_samples=500, seed=0)
    spread = 5 * math.sqrt(500) * sampled.kl_mc_error
    assert history.kl[0] == pytest.approx(exact.kl_mean, abs=spread)


def test_an_objective_that_is_no_elbo_keeps_its_own_value() -> None:
    vae, x = bernoulli_vae(2), binary(400)
    objective = RenyiELBO(alpha=0, num_particles=8, vectorize_particles=True)
    still = pyro.optim.SGD({"lr": 0.0})
    history = fit(vae, x, epochs=1, batch_size=100, objective=objective, optim=still)
    # The importance-weighted bound is tighter than the ELBO of the same samples (Jensen).
    assert history.cost[0] < history.reconstruction[0] + history.kl[0]
    exact = elbo(vae, x, num_samples=500, seed=0)
    spread = 5 * math.sqrt(500 / 8) * exact.kl_mc_error
    assert history.kl[0] == pytest.approx(exact.kl_mean, abs=spread)
    assert "_get_trace" not in vars(objective)


class Breaking(nn.Module):
    """A network that gives NaN from its n-th call in training on."""

    def __init__(self, network: networks.MLP, after: int, value: float) -> None:
        super().__init__()
        self.network = network
        self.out_shape = network.out_shape
        self.after = after
        self.value = value
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += self.training
        y = self.network(x)
        return y * self.value if self.training and self.calls > self.after else y


@pytest.mark.parametrize(
    ("part", "value", "term"),
    [
        ("likelihood", math.nan, "reconstruction"),
        ("likelihood", math.inf, "reconstruction"),
        ("posterior", 1e30, "KL"),
    ],
)
def test_a_loss_that_is_not_finite_stops_the_run(part: str, value: float, term: str) -> None:
    decoder, encoder = networks.MLP(1, (), 6), networks.MLP(6, (), 2)
    vae = VAE(
        priors.StandardNormal(1),
        likelihoods.Gaussian(
            Breaking(decoder, 5, value) if part == "likelihood" else decoder,
            scale=1.0,
        ),
        posteriors.Normal(Breaking(encoder, 5, value) if part == "posterior" else encoder),
    )
    kept = []

    def keep(vae: VAE, history: History) -> None:
        kept.append(parameters(vae))

    if part == "posterior":  # the reconstruction of such a z is finite: it does not depend on z
        nn.init.zeros_(decoder.layers[0].weight)
        decoder.requires_grad_(False)
    with pytest.raises(NonFiniteLoss, match=rf"epoch 2, batch 2: the {term} term") as caught:
        fit(vae, binary(16), epochs=3, batch_size=4, callbacks=[keep])
    assert len(caught.value.history.epoch) == 1
    assert len(kept) == 1
    assert torch.isfinite(parameters(vae)).all()
    assert all(p.grad is None for p in vae.parameters())


def test_weights_that_are_not_finite_stop_the_run() -> None:
    vae = bernoulli_vae()
    with pytest.raises(NonFiniteLoss, match=r"epoch 1"):
        fit(vae, binary(4), epochs=2, batch_size=4, optim=pyro.optim.SGD({"lr": math.inf}))
