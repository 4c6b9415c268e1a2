"""A VAE as a Pyro program: inference, prediction, and handlers."""

import math
from collections.abc import Callable

import pyro
import pyro.distributions as dist
import pyro.infer.inspect
import pyro.optim
import pytest
import torch
from pyro import poutine
from pyro.infer import (
    ELBO,
    MCMC,
    NUTS,
    SVI,
    JitTrace_ELBO,
    Predictive,
    RenyiELBO,
    Trace_ELBO,
    TraceGraph_ELBO,
    TraceMeanField_ELBO,
)
from torch import Tensor

from pyro_vae import objectives

from .tolerances import within
from .vaes import bernoulli_vae, binary, common_noise, linear_gaussian

ELBOS: dict[str, Callable[[], ELBO]] = {
    "trace": Trace_ELBO,
    "trace-3": lambda: Trace_ELBO(num_particles=3),
    "trace-3-vectorized": lambda: Trace_ELBO(num_particles=3, vectorize_particles=True),
    "graph": TraceGraph_ELBO,
    "mean-field": TraceMeanField_ELBO,
    "mean-field-3-vectorized": lambda: TraceMeanField_ELBO(3, vectorize_particles=True),
    "renyi-3": lambda: RenyiELBO(num_particles=3),
    "renyi-3-vectorized": lambda: RenyiELBO(alpha=0.5, num_particles=3, vectorize_particles=True),
    "trace_elbo": objectives.trace_elbo,
    "trace_elbo-3": lambda: objectives.trace_elbo(3),
    "analytic_kl": objectives.analytic_kl,
    "analytic_kl-3": lambda: objectives.analytic_kl(3),
    "sticking_the_landing-3": lambda: objectives.sticking_the_landing(3),
    "iwae-3": lambda: objectives.iwae(3),
    "dreg-3": lambda: objectives.dreg(3),
}


OPTIMIZERS = {
    "Adam": lambda: pyro.optim.Adam({"lr": 1e-2}),
    "ClippedAdam": lambda: pyro.optim.ClippedAdam({"lr": 1e-2}),
    "SGD": lambda: pyro.optim.SGD({"lr": 1e-3, "momentum": 0.9}),
    "ExponentialLR": lambda: pyro.optim.ExponentialLR(
        {"optimizer": torch.optim.Adam, "optim_args": {"lr": 1e-2}, "gamma": 0.99}
    ),
}


@pytest.mark.parametrize("elbo", ELBOS)
def test_svi_lowers_the_loss_with_any_elbo(elbo: str) -> None:
    vae, x, objective = bernoulli_vae(2), binary(), ELBOS[elbo]()
    svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-2}), objective)
    before = common_noise(lambda: svi.evaluate_loss(x))
    for _ in range(5):
        common_noise(lambda: svi.step(x))
    assert common_noise(lambda: svi.evaluate_loss(x)) < before


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_svi_lowers_the_loss_with_any_optimizer(name: str) -> None:
    vae, x = bernoulli_vae(2), binary()
    svi = SVI(vae.model, vae.guide, OPTIMIZERS[name](), Trace_ELBO())
    before = common_noise(lambda: svi.evaluate_loss(x))
    for _ in range(5):
        common_noise(lambda: svi.step(x))
    assert common_noise(lambda: svi.evaluate_loss(x)) < before


@pytest.mark.parametrize("elbo", [n for n in ELBOS if hasattr(ELBOS[n](), "differentiable_loss")])
def test_differentiable_loss_with_a_torch_optimizer(elbo: str) -> None:
    vae, x, objective = bernoulli_vae(2), binary(), ELBOS[elbo]()
    optimizer = torch.optim.Adam(vae.parameters(), lr=1e-2)
    losses = []
    for _ in range(6):
        optimizer.zero_grad()
        with torch.random.fork_rng():
            torch.manual_seed(1)
            loss = objective.differentiable_loss(vae.model, vae.guide, x)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


@pytest.mark.slow
def test_vectorized_particles_agree_with_a_loop_in_the_mean() -> None:
    vae, x = bernoulli_vae(2), binary()
    draws = 200

    def losses(vectorized: bool) -> Tensor:
        elbo = Trace_ELBO(num_particles=4, vectorize_particles=vectorized, max_plate_nesting=1)
        return torch.tensor([elbo.loss(vae.model, vae.guide, x) for _ in range(draws)])

    with torch.no_grad():
        loop, vectorized = losses(False), losses(True)
    error = math.sqrt((loop.var() + vectorized.var()).item() / draws)
    assert abs((loop.mean() - vectorized.mean()).item()) < 5 * error
    # The same number of particles has the same variance: the logarithm of its ratio has a standard
    # error of about sqrt(4 / draws); another number would have four times or a quarter of it.
    assert (loop.var() / vectorized.var()).log().abs().item() < 5 * math.sqrt(4 / draws)


@pytest.mark.slow
def test_nuts_finds_the_exact_posterior_of_one_x() -> None:
    model = linear_gaussian(exact=True, examples=1)
    kernel = NUTS(model.vae.model, jit_compile=False)
    mcmc = MCMC(kernel, num_samples=200, warmup_steps=60, disable_progbar=True)
    mcmc.run(model.x)
    z = mcmc.get_samples()["z"].squeeze(1)
    sizes = torch.tensor([mcmc.diagnostics()["z"]["n_eff"][0, j].item() for j in range(2)])
    error = model.posterior_scale / sizes.sqrt()
    assert ((z.mean(0) - model.posterior_loc[0]).abs() < 5 * error).all()
    # The standard deviation's own relative error is about 1 / sqrt(2 n_eff).
    assert ((z.std(0) / model.posterior_scale).log().abs() < 5 / (2 * sizes).sqrt()).all()


def test_predictive_draws_from_the_prior() -> None:
    vae = bernoulli_vae(2)
    draws = Predictive(vae.model, num_samples=50)()
    assert draws["z"].shape == (50, 1, 2)
    assert draws["x"].shape == (50, 1, 6)
    assert Predictive(vae.model, num_samples=5)(num_samples=3)["x"].shape == (5, 3, 6)
    assert Predictive(vae.model, num_samples=5, parallel=True)(num_samples=3)["x"].shape == (
        5,
        3,
        6,
    )


@pytest.mark.parametrize("parallel", [False, True])
def test_predictive_draws_from_the_posterior(parallel: bool) -> None:
    model = linear_gaussian(exact=True, examples=3)
    count = 2000 if parallel else 300
    predictive = Predictive(
        poutine.uncondition(model.vae.model),
        guide=model.vae.guide,
        num_samples=count,
        parallel=parallel,
        return_sites=["x", "z"],
    )
    with torch.no_grad():
        draws = predictive(model.x)
    assert draws["x"].shape == (count, 3, 5)
    z = draws["z"]
    within(z, model.posterior_loc)
    # x is drawn anew around what z decodes to, and is not the data.
    mean = model.vae.decode(z)
    residual = (draws["x"] - mean) / 0.7
    assert residual.std().item() == pytest.approx(1.0, abs=5 / math.sqrt(2 * residual.numel()))


def test_handlers_trace_condition_replay_and_scale() -> None:
    vae, x = bernoulli_vae(2).double(), binary().double()
    guide = poutine.trace(vae.guide).get_trace(x)
    z = guide.nodes["z"]["value"]
    replayed = poutine.trace(poutine.replay(vae.model, trace=guide)).get_trace(x)
    assert replayed.nodes["z"]["value"] is z
    assert replayed.nodes["x"]["is_observed"]
    by_hand = vae.prior().log_prob(z).sum() + vae.likelihood(z).log_prob(x).sum()
    assert torch.allclose(replayed.log_prob_sum(), by_hand)
    conditioned = poutine.condition(vae.model, data={"z": z})
    assert torch.equal(poutine.trace(conditioned).get_trace(x).nodes["z"]["value"], z)
    scaled = poutine.scale(poutine.replay(vae.model, trace=guide), 0.25)
    assert torch.allclose(poutine.trace(scaled).get_trace(x).log_prob_sum(), by_hand / 4)
    plate = replayed.nodes["x"]["cond_indep_stack"][0]
    assert (plate.name, plate.dim, plate.size) == ("data", -1, 8)


def test_model_can_be_rendered() -> None:
    vae, x = bernoulli_vae(2), binary()
    relations = pyro.infer.inspect.get_model_relations(vae.model, (x,))
    assert relations["sample_sample"] == {"z": [], "x": ["z"]}
    assert relations["observed"] == ["x"]
    assert relations["plate_sample"] == {"data": ["z", "x"]}
    graph = pyro.render_model(vae.model, (x,), render_params=True, render_distributions=True)
    assert "vae.likelihood.network.layers.0.weight" in graph.source


def test_a_handler_that_swaps_a_parameter_reaches_the_network() -> None:
    vae, x = bernoulli_vae(2), binary()
    site = "vae.likelihood.network.layers.2.bias"
    prior = {site: dist.Normal(torch.full((6,), 50.0), 1e-3).to_event(1)}
    lifted = poutine.lift(vae.model, prior=prior)
    trace = poutine.trace(lifted).get_trace(x)
    assert trace.nodes[site]["type"] == "sample"
    assert (trace.nodes["x"]["fn"].base_dist.logits > 40).all()
    assert (poutine.trace(vae.model).get_trace(x).nodes["x"]["fn"].base_dist.logits < 40).all()


@pytest.mark.filterwarnings("ignore")  # torch.jit.trace is deprecated, by torch
def test_jit_elbos_are_refused() -> None:
    """They find parameters by name alone, and would train another VAE of the name."""
    vae, x = bernoulli_vae(2), binary()
    svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-2}), JitTrace_ELBO())
    with pytest.raises(RuntimeError, match="use the ELBO without Jit"):
        svi.step(x)


def test_frozen_parameters_stay_frozen() -> None:
    vae, x = bernoulli_vae(), binary()
    vae.likelihood.requires_grad_(False)
    frozen = [p.clone() for p in vae.likelihood.parameters()]
    SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-2}), Trace_ELBO()).step(x)
    assert all(torch.equal(a, b) for a, b in zip(frozen, vae.likelihood.parameters(), strict=True))
    assert not any(p.requires_grad for p in vae.likelihood.parameters())
