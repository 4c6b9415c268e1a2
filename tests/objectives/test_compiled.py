"""Compiled objectives: the same numbers as uncompiled, for any static program."""

import copy
import gc
import pickle
import weakref
from dataclasses import dataclass
from typing import Any

import pyro
import pyro.distributions as dist
import pyro.optim
import pytest
import torch
from pyro import poutine
from pyro.distributions import constraints
from pyro.distributions.testing.fakes import NonreparameterizedNormal
from pyro.infer import (
    ELBO,
    RenyiELBO,
    Trace_ELBO,
    TraceEnum_ELBO,
    TraceMeanField_ELBO,
    TraceTMC_ELBO,
)
from pyro.infer.autoguide import AutoNormal
from torch import Tensor, nn

from pyro_vae import VAE, likelihoods, networks, objectives, posteriors, priors
from pyro_vae.objectives import Compiled, WithTerms

from ..compiling import both, graphs, nothing, program_of, small_vae, steps
from ..conftest import needs_compiler
from ..tolerances import CLOSE
from ..vaes import bernoulli_vae, binary

pytestmark = [needs_compiler, pytest.mark.usefixtures("float64", "code")]


@pytest.fixture(autouse=True)
def _empty_store() -> None:
    pyro.clear_param_store()


def test_the_same_noise_gives_the_same_steps() -> None:
    torch.set_default_dtype(torch.float32)
    objective = both(program_of(bernoulli_vae), Trace_ELBO(), [(binary(),) for _ in range(4)])
    assert objective.compile_seconds > 0


@pytest.mark.parametrize(
    "elbo", [objectives.analytic_kl(3), Trace_ELBO(2)], ids=["analytic-3-vectorized", "trace-2"]
)
def test_particles_give_the_same_steps(elbo: ELBO) -> None:
    both(program_of(small_vae), elbo, [(torch.randn(8, 3),) for _ in range(4)])


class Regression(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Dropout(0.4))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x).sum(-1)


def own_program() -> tuple[Any, Any]:
    """Constrained parameters drawn at random, a module with buffers, a subsample, two sites."""
    network, data = Regression(), torch.linspace(-1, 1, 60).view(20, 3)

    def model(y: Tensor, weight: float) -> None:
        pyro.module("regression", network)
        noise = pyro.param("noise", lambda: torch.rand(()) + 0.5, constraint=constraints.positive)
        shift = pyro.sample("shift", dist.Normal(0.0, 1.0))
        with pyro.plate("data", 20, subsample_size=8) as index, poutine.scale(scale=weight):
            rate = pyro.sample("rate", dist.Gamma(2.0, 3.0))
            pyro.sample("y", dist.Normal(network(data[index]) + shift * rate, noise), obs=y[index])

    def guide(y: Tensor, weight: float) -> None:
        loc = pyro.param("loc", lambda: torch.randn(()))
        scale = pyro.param("scale", torch.tensor(0.3), constraint=constraints.positive)
        with pyro.plate("data", 20, subsample_size=8), poutine.scale(scale=weight):
            pyro.sample("rate", dist.LogNormal(loc, scale).expand([8]))
        pyro.sample("shift", NonreparameterizedNormal(loc, scale))

    return model, guide


@pytest.mark.skipif(
    torch.__version__ < (2, 13), reason="Inductor before 2.13 draws in an order of its own"
)
def test_a_program_of_the_users_own() -> None:
    y = torch.randn(20)
    # The weight changes from step to step, as in a warm-up, and is an input of the one graph.
    both(own_program, Trace_ELBO(), [(y, weight) for weight in (0.1, 0.5, 1.0, 1.0)])


def test_an_automatic_guide() -> None:
    def model(x: Tensor) -> None:
        loc = pyro.sample("loc", dist.Normal(0.0, 10.0))
        scale = pyro.sample("scale", dist.LogNormal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(loc, scale), obs=x)

    x = torch.randn(10) + 3
    both(lambda: (model, AutoNormal(model)), TraceMeanField_ELBO(), [(x,), (x,), (x,)])


def test_drawn_parameters_do_not_share_numbers_with_the_noise() -> None:
    """What a program draws for its parameters at the first loss is not drawn again as noise."""

    def guide() -> None:
        pyro.param("loc", lambda: torch.randn(50))
        pyro.sample("z", dist.Normal(torch.zeros(50), 1.0).to_event(1))

    def model() -> None:
        z = pyro.sample("z", dist.Normal(torch.zeros(50), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(pyro.param("loc"), 0.1).to_event(1), obs=z)

    torch.manual_seed(0)
    loss = objectives.compiled(Trace_ELBO()).loss(model, guide)
    # 50 squared differences of standard normals, over 2 x 0.01: 0 if they were the same numbers.
    assert loss > 1000


def test_wrong_inputs() -> None:
    vae, x = bernoulli_vae(), binary()
    with pytest.raises(TypeError, match=r"elbo: got .*RenyiELBO.*differentiable_loss"):
        objectives.compiled(RenyiELBO())
    with pytest.raises(TypeError, match="elbo: got 3"):
        objectives.compiled(3)
    objective = objectives.compiled(Trace_ELBO())
    with pytest.raises(TypeError, match="compiled already"):
        objectives.compiled(objective)
    with pytest.raises(ValueError, match="requires grad, expected data"):
        objective.loss(vae.model, vae.guide, x.requires_grad_())
    with torch.no_grad():  # where no gradient is asked for
        torch.manual_seed(1)
        found = objectives.compiled(Trace_ELBO()).loss(vae.model, vae.guide, x)
        torch.manual_seed(1)
        assert found == pytest.approx(Trace_ELBO().loss(vae.model, vae.guide, x))
    with pytest.raises(TypeError, match="argument of type object"), torch.no_grad():
        objective.loss(vae.model, vae.guide, type("object", (), {"__hash__": None})())
    off = binary()
    off[0, 0] = 0.5
    with (
        pyro.validation_enabled(False),
        pytest.raises(ValueError, match=r"x: got 0\.5 at 1 of 48 places"),
    ):
        objective.loss(vae.model, vae.guide, off)


def test_distributions_that_check_by_their_own_will() -> None:
    prior = dist.Normal(0.0, 1.0).expand([2]).to_event(1)
    own = Trace_ELBO()
    x = torch.randn(8, 2)

    def model(x: Tensor) -> None:
        loc = pyro.sample("loc", prior)
        with pyro.plate("data", len(x)):
            likelihood = dist.Normal(loc, 1.0, validate_args=True)
            pyro.sample("x", likelihood.expand([len(x), 2]).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        loc = pyro.param("loc_q", torch.zeros(2))
        pyro.sample("loc", dist.Normal(loc, 1.0, validate_args=True).to_event(1))

    both(lambda: (model, guide), own, [(x,)] * 3)


def test_a_bias_that_broadcasts_and_gradients_that_are_one() -> None:
    weight = torch.randn(5, 6)

    def model(x: Tensor) -> None:
        bias = pyro.param("bias", torch.ones(1)) + 0
        a, b = pyro.param("a", torch.zeros(5)), pyro.param("b", torch.zeros(5))
        with pyro.plate("data", len(x)):
            loc = torch.addmm(bias, x, weight.T) + (a + b)
            pyro.sample("y", dist.Normal(loc, 1.0).to_event(1), obs=x[:, :5])

    both(lambda: (model, nothing), Trace_ELBO(), [(torch.randn(8, 6),)] * 3)
    objective = objectives.compiled(Trace_ELBO())
    objective.loss_and_grads(model, nothing, torch.randn(8, 6))
    store = pyro.get_param_store()
    a, b = store["a"], store["b"]
    assert torch.equal(a.grad, b.grad)
    a.grad.zero_()
    assert b.grad.any()


def test_floats_in_a_program_of_float64() -> None:
    torch.set_default_dtype(torch.float32)
    x = torch.full((8,), 1e6, dtype=torch.float64)

    def model(x: Tensor, shift: float) -> None:
        loc = pyro.param("loc", torch.zeros((), dtype=torch.float64))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(loc + shift, 1.0), obs=x)

    def guide(x: Tensor, shift: float) -> None:
        pass

    shift = 1e6 - 0.3 + 0.123456789
    plain = Trace_ELBO().loss(model, guide, x, shift)
    compiled = objectives.compiled(Trace_ELBO()).loss(model, guide, x, shift)
    assert compiled == pytest.approx(plain, rel=CLOSE)


# What a VAE's objective does, all with one graph of its loss and one of its gradients.


@dataclass
class Case:
    """A VAE with data, and an objective that is compiled once for all tests of this file."""

    vae: VAE
    x: Tensor
    plain: WithTerms
    compiled: Compiled


@pytest.fixture(scope="module")
def case(code: None) -> Case:
    x = torch.randn(8, 3).double()
    plain, compiled = WithTerms(Trace_ELBO()), objectives.compiled(Trace_ELBO())
    return Case(small_vae().double(), x, plain, compiled)


def test_terms_are_those_of_the_uncompiled_objective(case: Case) -> None:
    values = []
    for each in (case.plain, case.compiled):
        torch.manual_seed(1)
        loss = each.loss_and_grads(case.vae.model, case.vae.guide, case.x)
        assert each.terms is not None
        values.append((loss, *each.terms))
        case.vae.zero_grad()
    assert values[1] == pytest.approx(values[0], rel=CLOSE)
    cost, likelihood, kl = values[1]
    assert cost == pytest.approx(kl - likelihood, rel=CLOSE)


def test_noise_is_fresh_and_a_seed_repeats_it(case: Case) -> None:
    def losses() -> list[float]:
        return [case.compiled.loss(case.vae.model, case.vae.guide, case.x) for _ in range(3)]

    torch.manual_seed(1)
    first = losses()
    assert len(set(first)) == 3
    assert losses() != first
    torch.manual_seed(1)
    assert losses() == first


def test_a_torch_optimizer_gets_the_same_gradients(case: Case) -> None:
    gradients = []
    for elbo in (case.plain, case.compiled):
        case.vae.zero_grad()
        torch.manual_seed(0)
        loss = elbo.differentiable_loss(case.vae.model, case.vae.guide, case.x)
        (loss / len(case.x)).backward()
        gradients.append([p.grad for p in case.vae.parameters()])
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(b, a, rtol=CLOSE, atol=CLOSE)


def test_gradients_are_added_to_those_there(case: Case) -> None:
    gradients = []
    for times in (1, 2):
        case.vae.zero_grad()
        for _ in range(times):
            torch.manual_seed(0)
            case.compiled.loss_and_grads(case.vae.model, case.vae.guide, case.x)
        gradients.append([p.grad.clone() for p in case.vae.parameters()])
    for once, twice in zip(*gradients, strict=True):
        torch.testing.assert_close(twice, 2 * once, rtol=CLOSE, atol=CLOSE)


def test_inside_handlers_it_runs_uncompiled(case: Case) -> None:
    def loss() -> float:
        torch.manual_seed(0)
        return case.compiled.loss(case.vae.model, case.vae.guide, case.x)

    whole = loss()
    with poutine.scale(scale=0.5):
        assert loss() == pytest.approx(whole / 2, rel=CLOSE)
    assert loss() == whole


def test_without_gradients_there_are_none_and_no_second_ones(case: Case) -> None:
    case.vae.zero_grad()
    with torch.no_grad():
        case.compiled.loss_and_grads(case.vae.model, case.vae.guide, case.x)
    assert all(p.grad is None for p in case.vae.parameters())
    loss = case.compiled.differentiable_loss(case.vae.model, case.vae.guide, case.x)
    with pytest.raises(RuntimeError, match="no gradients of gradients"):
        torch.autograd.grad(loss, list(case.vae.parameters()), create_graph=True)


def test_particles_are_the_objectives_own() -> None:
    vae, x = small_vae(), torch.randn(8, 3)
    elbo = Trace_ELBO()
    objective, losses = objectives.compiled(elbo), []
    for particles in (1, 2):
        objective.num_particles = particles
        for each in (elbo, objective):
            torch.manual_seed(0)
            losses.append(each.loss(vae.model, vae.guide, x))
    assert losses[1::2] == pytest.approx(losses[::2], rel=CLOSE)
    assert losses[0] != losses[2]


def test_copies_hold_no_compiled_code_and_nothing_outlives_the_objective() -> None:
    vae, x = small_vae(), torch.randn(8, 3)
    objective = objectives.compiled(Trace_ELBO())
    objective.loss_and_grads(vae.model, vae.guide, x)
    assert graphs(objective) == 1
    for copied in (copy.deepcopy(objective), pickle.loads(pickle.dumps(objective))):
        assert graphs(copied) == 0
    assert copied.loss_and_grads(vae.model, vae.guide, x) > 0
    assert graphs(copied) == 1
    copy.deepcopy(vae)
    pickle.dumps(vae)
    reference = weakref.ref(vae)
    del vae, objective, copied
    gc.collect()
    assert reference() is None


def test_an_elbo_that_reads_values_is_refused_at_once() -> None:
    with pytest.raises(TypeError, match="elbo: got TraceEnum_ELBO, which reads the values"):
        objectives.compiled(TraceEnum_ELBO(max_plate_nesting=1))
    objectives.compiled(TraceTMC_ELBO(max_plate_nesting=1))


def test_lazy_modules_are_initialized_by_an_uncompiled_step() -> None:
    def lazy() -> VAE:
        torch.manual_seed(0)
        layers = nn.Sequential(nn.LazyLinear(5), nn.Tanh(), nn.LazyLinear(2))
        return VAE(
            priors.StandardNormal(1),
            likelihoods.Gaussian(networks.MLP(1, (), 3), scale=1.0),
            posteriors.Normal(networks.Folded(layers, 3, 2)),
        )

    x, found = torch.randn(8, 3), []
    for elbo in (Trace_ELBO(), objectives.compiled(Trace_ELBO())):
        vae = lazy()
        assert "posterior: 0 trained" in repr(vae)
        found.append(steps(elbo, vae.model, vae.guide, [(x,)] * 4))
        assert "posterior: 32 trained" in repr(vae)
    assert found[1] == pytest.approx(found[0], rel=CLOSE)
