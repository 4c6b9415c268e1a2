"""The VAE as a Pyro program: what Pyro's users do with a model and a guide, and what must not."""

import copy
import functools
import gc
import io
import math
import weakref
from collections.abc import Callable

import pyro
import pyro.distributions as dist
import pyro.infer.inspect
import pyro.optim
import pytest
import torch
from pyro import poutine
from pyro.contrib.autoname import scope
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
from pyro.nn import PyroModule
from torch import Tensor, nn

from pyro_vae import VAE, likelihoods, log_likelihood, networks, posteriors, presets, priors
from pyro_vae.objectives import elbo as objectives

from .models import bernoulli_vae, linear_gaussian

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


def binary(examples: int = 8, x_dim: int = 6) -> Tensor:
    return torch.bernoulli(torch.full((examples, x_dim), 0.3))


def common_noise(loss: Callable[[], float]) -> float:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return loss()


# Inference.


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


@pytest.mark.parametrize("preset", presets.names())
@pytest.mark.parametrize("vectorized", [False, True])
def test_every_preset_trains_with_particles(preset: str, vectorized: bool) -> None:
    vae = presets.build(preset, z_dim=3, shape=(7, 6))
    x = torch.bernoulli(torch.full((4, 7, 6), 0.3)) * 0.999 + 0.0005
    x = x.round() if vae.preset is not None and vae.preset["pixels"] == "binary" else x
    elbo = RenyiELBO(num_particles=2, vectorize_particles=vectorized)
    svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-3}), elbo)
    before = common_noise(lambda: svi.evaluate_loss(x))
    for _ in range(3):
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


def test_vectorized_particles_agree_with_a_loop_in_the_mean() -> None:
    vae, x = bernoulli_vae(2), binary()
    draws = 400

    def losses(vectorized: bool) -> Tensor:
        elbo = Trace_ELBO(num_particles=4, vectorize_particles=vectorized, max_plate_nesting=1)
        return torch.tensor([elbo.loss(vae.model, vae.guide, x) for _ in range(draws)])

    with torch.no_grad():
        loop, vectorized = losses(False), losses(True)
    error = math.sqrt((loop.var() + vectorized.var()).item() / draws)
    assert abs((loop.mean() - vectorized.mean()).item()) < 4 * error
    # The same number of particles has the same variance: its ratio has a standard error of
    # about sqrt(4 / draws) = 0.1.
    assert (loop.var() / vectorized.var()).log().abs().item() < 0.4


def test_gradients_equal_finite_differences_under_common_random_numbers() -> None:
    for objective in (objectives.trace_elbo(2), objectives.analytic_kl(2)):
        vae, x = bernoulli_vae(2).double(), binary().double()

        def loss(objective: ELBO = objective, vae: VAE = vae, x: Tensor = x) -> Tensor:
            with torch.random.fork_rng():
                torch.manual_seed(1)
                return objective.differentiable_loss(vae.model, vae.guide, x)

        loss()  # lets the objective guess its plates, which draws once more
        loss().backward()
        step = 1e-5
        for parameter in vae.parameters():
            flat = parameter.data.view(-1)
            for i in range(0, len(flat), max(1, len(flat) // 3)):
                start = flat[i].item()
                flat[i] = start + step
                up = loss().item()
                flat[i] = start - step
                down = loss().item()
                flat[i] = start
                assert parameter.grad is not None
                got = parameter.grad.view(-1)[i].item()
                # Central differences err by step^2 times the third derivative, and by rounding.
                assert got == pytest.approx((up - down) / (2 * step), rel=1e-6, abs=1e-6)


def test_nuts_finds_the_exact_posterior_of_one_x() -> None:
    model = linear_gaussian(exact=True, examples=1)
    kernel = NUTS(model.vae.model, jit_compile=False)
    mcmc = MCMC(kernel, num_samples=400, warmup_steps=100, disable_progbar=True)
    mcmc.run(model.x)
    z = mcmc.get_samples()["z"].squeeze(1)
    sizes = torch.tensor([mcmc.diagnostics()["z"]["n_eff"][0, j].item() for j in range(2)])
    error = model.posterior_scale / sizes.sqrt()
    assert ((z.mean(0) - model.posterior_loc[0]).abs() < 4 * error).all()
    # The standard deviation's own relative error is about 1 / sqrt(2 n_eff).
    assert ((z.std(0) / model.posterior_scale).log().abs() < 4 / (2 * sizes).sqrt()).all()


# Prediction and handlers.


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
    predictive = Predictive(
        poutine.uncondition(model.vae.model),
        guide=model.vae.guide,
        num_samples=2000,
        parallel=parallel,
        return_sites=["x", "z"],
    )
    with torch.no_grad():
        draws = predictive(model.x)
    assert draws["x"].shape == (2000, 3, 5)
    z = draws["z"]
    assert ((z.mean(0) - model.posterior_loc).abs() < 4.5 * z.std(0) / math.sqrt(2000)).all()
    # x is drawn anew around what z decodes to, and is not the data.
    mean = model.vae.decode(z)
    residual = (draws["x"] - mean) / 0.7
    assert residual.std().item() == pytest.approx(1.0, abs=4 / math.sqrt(2 * residual.numel()))


def test_handlers_trace_condition_replay_and_scale() -> None:
    vae, x = bernoulli_vae(2), binary()
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


def test_model_and_guide_bind_their_own_parts() -> None:
    """Hiding the model's parameters trains the guide alone, as Pyro's users do it."""
    vae, x = bernoulli_vae(), binary()
    names = set(poutine.trace(vae.guide).get_trace(x).nodes)
    assert names & {f"vae.{path}" for path, _ in vae.named_parameters()} == {
        f"vae.posterior.{path}" for path, _ in vae.posterior.named_parameters()
    }
    before = [p.clone() for p in vae.likelihood.parameters()]
    model = poutine.block(vae.model, hide_types=["param"])
    SVI(model, vae.guide, pyro.optim.Adam({"lr": 1e-2}), Trace_ELBO()).step(x)
    assert all(torch.equal(a, b) for a, b in zip(before, vae.likelihood.parameters(), strict=True))


def test_a_part_that_two_vaes_share_is_one_part() -> None:
    x, first = binary(), bernoulli_vae()
    second = VAE(first.prior, first.likelihood, bernoulli_vae().posterior, name="second")
    for vae in (first, second):
        SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-2}), Trace_ELBO()).step(x)
    first.likelihood.requires_grad_(False)
    for vae in (first, second):
        vae.model(x)
    first.likelihood.requires_grad_(True)
    for vae in (first, second):
        vae.model(x)
    del vae, first, second
    gc.collect()
    assert not [name for name in pyro.get_param_store() if name.startswith("second")]


def test_a_name_that_another_took_leaves_no_way_back() -> None:
    x, one, two = binary(), bernoulli_vae(), bernoulli_vae()
    one.model(x)
    two.model(x)
    gone = one.likelihood.network.layers[0].weight
    assert pyro.get_param_store().param_name(gone) is not None
    del one
    gc.collect()
    assert pyro.get_param_store().param_name(gone) is None


def test_pyro_modules_are_refused() -> None:
    """They would share weights between two VAEs by the names that they give them."""
    decoder = PyroModule[nn.Sequential](PyroModule[nn.Linear](1, 6))
    decoder.out_shape = torch.Size((6,))
    posterior = posteriors.Normal(networks.MLP(6, (), 2))
    with pytest.raises(TypeError, match="likelihood: holds a PyroModule"):
        VAE(priors.StandardNormal(1), likelihoods.Bernoulli(decoder), posterior)


def test_parts_can_be_pickled_after_training() -> None:
    vae, x = bernoulli_vae(), binary()
    SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-2}), Trace_ELBO()).step(x)
    file = io.BytesIO()
    torch.save(vae.posterior, file)
    file.seek(0)
    posterior = torch.load(file, weights_only=False)
    assert torch.equal(posterior(x).mean, vae.posterior(x).mean)
    VAE(vae.prior, vae.likelihood, posterior).guide(x)


# Parameters.


def test_two_vaes_of_one_name_share_nothing() -> None:
    x = binary()
    first, second = bernoulli_vae(), bernoulli_vae()
    copies = [p.clone() for p in second.parameters()]
    step = [
        SVI(v.model, v.guide, pyro.optim.Adam({"lr": 1e-2}), Trace_ELBO()).step
        for v in (first, second)
    ]
    step[0](x)
    for copied, parameter in zip(copies, second.parameters(), strict=True):
        assert torch.equal(copied, parameter)
    after = [p.clone() for p in first.parameters()]
    step[1](x)
    for copied, parameter in zip(after, first.parameters(), strict=True):
        assert torch.equal(copied, parameter)
    # Steps in turn train each as if it were alone.
    alone = copy.deepcopy(first), copy.deepcopy(second)

    def losses(vaes: tuple[VAE, VAE], order: list[int]) -> list[float]:
        svis = [SVI(v.model, v.guide, pyro.optim.Adam({"lr": 0.1}), Trace_ELBO()) for v in vaes]
        return [common_noise(functools.partial(svis[k].step, x)) for k in order]

    turns = losses((first, second), [0, 1] * 5)
    rows = losses(alone, [0] * 5 + [1] * 5)
    assert turns[::2] + turns[1::2] == rows


def test_a_rerun_cell_starts_afresh() -> None:
    x = binary()

    def cell() -> list[float]:
        torch.manual_seed(3)
        vae = bernoulli_vae()
        svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-2}), Trace_ELBO())
        return [svi.step(x) for _ in range(5)]

    assert cell() == cell()


def test_clear_param_store_loses_nothing() -> None:
    x = binary()

    def losses(clear: bool) -> list[float]:
        torch.manual_seed(3)
        vae = bernoulli_vae()
        svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-2}), Trace_ELBO())
        out = []
        for _ in range(6):
            out.append(svi.step(x))
            if clear:
                pyro.clear_param_store()
        return out

    assert losses(clear=True) == losses(clear=False)


def test_fifty_vaes_leave_nothing_behind() -> None:
    x = binary()
    gc.collect()
    before = set(pyro.get_param_store().keys())
    alive = []
    for i in range(50):
        vae = bernoulli_vae()
        vae.name = "vae" if i % 2 else f"vae{i}"
        svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-2}), Trace_ELBO())
        svi.step(x)
        alive += [weakref.ref(p) for p in vae.parameters()]
        del vae, svi
    gc.collect()
    assert not [p for p in alive if p() is not None]
    assert set(pyro.get_param_store().keys()) <= before


def test_two_vaes_of_one_name_in_one_trace_raise() -> None:
    x = binary()
    one, two = bernoulli_vae(), bernoulli_vae()

    def model() -> None:
        with scope(prefix="a"):
            one.model(x)
        with scope(prefix="b"):
            two.model(x)

    with pytest.raises(ValueError, match="different names"):
        poutine.trace(model).get_trace()
    two.name = "other"
    trace = poutine.trace(model).get_trace()
    assert {"a/z", "a/x", "b/z", "b/x"} <= set(trace.nodes)


def test_optimizer_state_fits_after_a_restart() -> None:
    x, vae = binary(), bernoulli_vae()
    optimizer = pyro.optim.Adam({"lr": 1e-2})
    svi = SVI(vae.model, vae.guide, optimizer, Trace_ELBO())
    svi.step(x)
    # Another VAE of the same name in between leaves the names of this one's state alone.
    bernoulli_vae().model(x)
    other = bernoulli_vae()
    other.guide(x)
    state = optimizer.get_state()
    assert set(state) == {f"vae.{path}" for path, _ in vae.named_parameters()}
    saved, restarted = copy.deepcopy((state, vae))
    common_noise(lambda: svi.step(x))

    pyro.clear_param_store()
    optimizer = pyro.optim.Adam({"lr": 1e-2})
    optimizer.set_state(saved)
    svi = SVI(restarted.model, restarted.guide, optimizer, Trace_ELBO())
    common_noise(lambda: svi.step(x))
    pairs = zip(vae.parameters(), restarted.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_copies_and_pickles_are_vaes_of_their_own() -> None:
    x, vae = binary(), bernoulli_vae()
    svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-2}), Trace_ELBO())
    svi.step(x)
    file = io.BytesIO()
    torch.save(vae, file)
    file.seek(0)

    def loss(v: VAE) -> float:
        return common_noise(lambda: Trace_ELBO().loss(v.model, v.guide, x))

    others = [copy.deepcopy(vae), torch.load(file, weights_only=False)]
    before = loss(vae)
    assert [loss(v) for v in others] == [before, before]
    svi.step(x)
    assert loss(vae) != before
    assert [loss(v) for v in others] == [before, before]


def test_channels_last_weights_are_trained_in_place() -> None:
    vae = presets.build("conv", z_dim=2, shape=(8, 8)).to(memory_format=torch.channels_last)
    x = torch.bernoulli(torch.full((4, 8, 8), 0.3))
    before = [p.clone() for p in vae.parameters()]
    SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-2}), Trace_ELBO()).step(x)
    assert all(not torch.equal(a, b) for a, b in zip(before, vae.parameters(), strict=True))


def test_frozen_parameters_stay_frozen() -> None:
    vae, x = bernoulli_vae(), binary()
    vae.likelihood.requires_grad_(False)
    frozen = [p.clone() for p in vae.likelihood.parameters()]
    SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-2}), Trace_ELBO()).step(x)
    assert all(torch.equal(a, b) for a, b in zip(frozen, vae.likelihood.parameters(), strict=True))
    assert not any(p.requires_grad for p in vae.likelihood.parameters())


def test_replaced_part_leaves_the_store() -> None:
    vae, x = bernoulli_vae(), binary()
    vae.model(x)
    old = weakref.ref(vae.likelihood.network.layers[0].weight)
    vae.likelihood = likelihoods.Bernoulli(networks.MLP(1, (), 6))
    vae.model(x)
    gc.collect()
    assert old() is None
    assert "vae.likelihood.network.layers.2.bias" not in pyro.get_param_store()


# Users' own parts.


class UniformPrior(nn.Module):
    def forward(self) -> dist.Distribution:
        return dist.Uniform(torch.zeros(1), torch.ones(1)).to_event(1)


class BetaPosterior(nn.Module):
    def __init__(self, x_dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(x_dim, 2)

    def forward(self, x: Tensor) -> dist.Distribution:
        a, b = nn.functional.softplus(self.linear(x)).split(1, -1)
        return dist.Beta(1 + a, 1 + b).to_event(1)


def test_a_users_own_parts_are_full_citizens() -> None:
    x = binary()
    vae = VAE(
        UniformPrior(),
        likelihoods.Bernoulli(networks.MLP(1, (4,), 6)),
        BetaPosterior(6),
    )
    svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-2}), objectives.trace_elbo(2))
    assert math.isfinite(svi.step(x))
    assert vae.reconstruct(x).shape == x.shape
    assert vae.generate(3).shape == (3, 6)


# Point values and modes.


@pytest.mark.parametrize("batch", [(), (3,), (2, 3)])
def test_parts_and_point_values_take_any_batch(batch: tuple[int, ...]) -> None:
    for name in presets.names():
        vae = presets.build(name, z_dim=3, shape=(7, 6))
        x = torch.rand(*batch, 7, 6)
        q_z = vae.posterior(x)
        assert (q_z.batch_shape, q_z.event_shape) == (batch, (3,))
        p_x = vae.likelihood(torch.randn(*batch, 3))
        assert (p_x.batch_shape, p_x.event_shape) == (batch, (7, 6))
        assert vae.embed(x).shape == (*batch, 3)
        assert torch.equal(vae.reconstruct(x), vae.decode(vae.embed(x)))
        assert vae.reconstruct(x).shape == x.shape


class Cauchy(nn.Module):
    """A posterior and, in another role, a likelihood whose mean is NaN."""

    def forward(self, x: Tensor) -> dist.Distribution:
        return dist.StudentT(torch.ones_like(x), x, 0.1).to_event(1)


class Implicit(nn.Module):
    def forward(self, x: Tensor) -> dist.Distribution:
        base = dist.Normal(x[..., :1], 1.0).to_event(1)
        return dist.TransformedDistribution(base, [dist.transforms.TanhTransform()])


def test_point_values_without_a_mean() -> None:
    vae = VAE(priors.StandardNormal(2), Cauchy(), posteriors.Normal(networks.MLP(2, (), 4)))
    z = torch.randn(3, 2)
    assert torch.equal(vae.decode(z), z)  # the mode
    vae = VAE(priors.StandardNormal(2), likelihoods.Bernoulli(networks.MLP(2, (), 2)), Cauchy())
    assert torch.isfinite(vae.embed(z.abs())).all()
    vae = VAE(priors.StandardNormal(1), Implicit(), posteriors.Normal(networks.MLP(1, (), 2)))
    assert vae.generate(5).shape == (5, 1)
    vae = VAE(priors.StandardNormal(1), likelihoods.Bernoulli(networks.MLP(1, (), 4)), Implicit())
    x = torch.full((5, 4), 0.3)
    # The average of 32 draws of tanh(u), u ~ N(0.3, 1): its standard deviation is below 0.65.
    grid = torch.linspace(-10, 10, 4001)
    weights = torch.exp(dist.Normal(0.3, 1.0).log_prob(grid))
    mean = (torch.tanh(grid) * weights).sum() / weights.sum()
    assert ((vae.embed(x) - mean).abs() < 4 * 0.65 / math.sqrt(32)).all()


def test_evaluation_runs_in_eval_mode_and_puts_the_mode_back() -> None:
    encoder = networks.MLP(6, (4,), 2)
    encoder.layers.append(nn.Dropout(0.5))
    encoder.layers.append(nn.BatchNorm1d(2))
    decoder = networks.MLP(1, (4,), 6)
    vae = VAE(priors.StandardNormal(1), likelihoods.Bernoulli(decoder), posteriors.Normal(encoder))
    encoder.layers[1].eval()
    modes = [m.training for m in vae.modules()]
    statistics = encoder.layers[-1].running_mean.clone()
    x = binary()
    assert torch.equal(vae.embed(x), vae.embed(x))
    assert modes == [m.training for m in vae.modules()]
    assert torch.equal(statistics, encoder.layers[-1].running_mean)


def test_generate_draws_from_the_prior() -> None:
    vae = linear_gaussian(exact=True)
    x = vae.vae.generate(4000, sample=True)
    error = vae.evidence.variance.sqrt() / math.sqrt(4000)
    assert ((x.mean(0) - vae.evidence.mean).abs() < 4.5 * error).all()
    # Relative standard error of a variance: sqrt(2 / n).
    ratio = (x.var(0) / vae.evidence.variance).log().abs()
    assert (ratio < 4.5 * math.sqrt(2 / 4000)).all()


# Wrong input.


@pytest.mark.parametrize("method", ["model", "guide"])
def test_wrong_x_is_named(method: str) -> None:
    vae = presets.build("conv", z_dim=2, shape=(8, 8))
    call = getattr(vae, method)
    with pytest.raises(ValueError, match=r"\(3, 64\)"):
        call(torch.zeros(3, 64))
    with pytest.raises(ValueError, match=r"8, 8"):
        call(torch.zeros(8, 8))
    with pytest.raises(TypeError, match=r"torch.uint8.*to_pixels"):
        call(torch.zeros(3, 8, 8, dtype=torch.uint8))
    with pytest.raises(TypeError, match=r"torch.int64"):
        call(torch.zeros(3, 8, 8, dtype=torch.int64))
    with pytest.raises(TypeError, match=r"ndarray"):
        call(torch.zeros(3, 8, 8).numpy())


def test_values_off_the_support_are_refused_by_the_model() -> None:
    vae = bernoulli_vae()
    with pytest.raises(ValueError):
        Trace_ELBO().loss(vae.model, vae.guide, torch.full((3, 6), 0.5))
    relaxed = VAE(
        priors.StandardNormal(1),
        likelihoods.Bernoulli(networks.MLP(1, (), 6), relaxed=True),
        posteriors.Normal(networks.MLP(6, (), 2)),
    )
    assert math.isfinite(Trace_ELBO().loss(relaxed.model, relaxed.guide, torch.rand(3, 6)))
    for bad, expected in (
        (1.5, "0 and 1"),
        (-0.1, "0 and 1"),
        (math.nan, "x: got nan at 18 of 18"),
    ):
        with pytest.raises(ValueError, match=expected):
            Trace_ELBO().loss(relaxed.model, relaxed.guide, torch.full((3, 6), bad))


def test_distributions_that_pyro_cannot_sample_are_named() -> None:
    vae = bernoulli_vae()
    vae.prior = Plain()
    with pytest.raises(TypeError, match=r"prior: .*torch.distributions.*expected .*pyro.distrib"):
        vae.model(binary())


class Plain(nn.Module):
    """A prior of torch's own."""

    def forward(self) -> torch.distributions.Distribution:
        normal = torch.distributions.Normal(torch.zeros(1), torch.ones(1))
        return torch.distributions.Independent(normal, 1)


def test_a_prior_of_another_shape_is_named_by_all_that_draw_from_it() -> None:
    vae = bernoulli_vae(z_dim=2)
    x = torch.bernoulli(torch.full((2, 6), 0.5))
    for shape, events in (((2,), 0), ((5, 2), 1)):
        vae.prior = Given(dist.Normal(torch.zeros(shape), 1.0).to_event(events))
        for draw in (lambda: vae.model(x), lambda: vae.generate(3)):
            with pytest.raises(ValueError, match="prior: got batch_shape"):
                draw()


class Given(nn.Module):
    def __init__(self, distribution: dist.Distribution) -> None:
        super().__init__()
        self.distribution = distribution

    def forward(self) -> dist.Distribution:
        return self.distribution


def test_a_distribution_is_no_part() -> None:
    prior = dist.Normal(torch.zeros(2), 1.0).to_event(1)
    with pytest.raises(TypeError, match=r"prior: got a distribution, Independent.*prior=lambda"):
        VAE(prior, bernoulli_vae(2).likelihood, bernoulli_vae(2).posterior)


def test_another_dtype_is_named() -> None:
    vae, x = bernoulli_vae(z_dim=2), torch.bernoulli(torch.full((3, 6), 0.5))
    for call in (vae.model, vae.guide):
        with pytest.raises(TypeError, match=r"x: got torch.float64, expected the VAE's torch.fl"):
            call(x.double())
    vae.prior = Given(dist.Normal(torch.zeros(2), 1.0).to_event(1))
    vae.double()
    for draw in (lambda: vae.generate(3), lambda: log_likelihood(vae, x.double(), 3)):
        with pytest.raises(TypeError, match=r"prior: got torch.float32, expected the VAE's tor"):
            draw()


@pytest.mark.parametrize("kind", ["partial", "object"])
def test_functions_of_any_kind_print_without_an_address(kind: str) -> None:
    """A saved structure is that of another process too."""

    class Callable_:
        def __call__(self) -> dist.Distribution:
            return dist.Normal(torch.zeros(2), 1.0).to_event(1)

    prior = functools.partial(Callable_().__call__) if kind == "partial" else Callable_()
    vae = VAE(prior, likelihoods.Bernoulli(networks.MLP(2, (), 6)), bernoulli_vae(2).posterior)
    assert " at 0x" not in repr(vae)
    assert "Callable_" in repr(vae.prior)


def test_supports_that_disagree_are_named() -> None:
    vae = VAE(
        UniformPrior(),
        likelihoods.Bernoulli(networks.MLP(1, (), 6)),
        posteriors.Normal(networks.MLP(6, (), 2)),
    )
    with pytest.raises(ValueError, match=r"Real.*Interval\(0, 1\)"):
        vae.guide(binary())
    # A prior that is swapped in later is looked at again.
    vae = bernoulli_vae()
    vae.guide(binary())
    vae.prior = UniformPrior()
    with pytest.raises(ValueError, match="support"):
        vae.guide(binary())


def test_a_vae_that_goes_leaves_what_it_shared_to_the_others() -> None:
    """A part of one VAE serves another, whose step the end of the first must not disturb."""
    x = binary()
    first = VAE(
        priors.StandardNormal(2),
        likelihoods.Bernoulli(networks.MLP(2, (), 6)),
        posteriors.Normal(networks.MLP(6, (), 4)),
    )
    first.guide(x)
    second = VAE(priors.Laplace(2), first.likelihood, first.posterior)
    second.guide(x)
    store, shared = pyro.get_param_store(), dict(second.posterior.named_parameters())
    names = [f"vae.posterior.{name}" for name in shared]
    del first
    gc.collect()
    for name, parameter in zip(names, shared.values(), strict=True):
        assert store[name] is parameter
    del second
    gc.collect()
    assert not any(name in store for name in names)


def test_a_part_that_gives_no_distribution_is_named() -> None:
    vae = VAE(nn.Identity(), nn.Linear(2, 6), posteriors.Normal(networks.MLP(6, (), 4)))
    with pytest.raises(TypeError, match=r"likelihood: its forward gave a torch\.Tensor"):
        vae.decode(torch.zeros(2))
    vae = VAE(priors.StandardNormal(2), networks.MLP(3, (), 6), networks.MLP(6, (), 4))
    with pytest.raises(ValueError, match=r"likelihood: MLP: got an input of shape \(2,\)"):
        vae.decode(torch.zeros(2))


def test_parts_that_do_not_fit_are_named() -> None:
    x = binary()
    decoder, encoder = networks.MLP(2, (), 6), networks.MLP(6, (), 4)
    with pytest.raises(TypeError, match="likelihood: got a Tensor"):
        VAE(priors.StandardNormal(2), x, posteriors.Normal(encoder))
    with pytest.raises(TypeError, match="name"):
        VAE(priors.StandardNormal(2), decoder, encoder, name="")
    vae = VAE(priors.StandardNormal(3), likelihoods.Bernoulli(decoder), posteriors.Normal(encoder))
    with pytest.raises(ValueError, match=r"posterior: .*event_shape \(2,\).*the prior's \(3,\)"):
        vae.guide(x)

    class Unwrapped(nn.Module):
        def forward(self, z: Tensor) -> dist.Distribution:
            return dist.Bernoulli(logits=decoder(z))

    vae = VAE(priors.StandardNormal(2), Unwrapped(), posteriors.Normal(encoder))
    with pytest.raises(ValueError, match=r"likelihood: got batch_shape \(8, 6\)"):
        vae.model(x)
