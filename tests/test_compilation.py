"""Compiled objectives: the same numbers as uncompiled, for any static program, or an error."""

import copy
import gc
import math
import os
import pickle
import subprocess
import sys
import warnings
import weakref
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pyro.optim
import pytest
import torch
from pyro import poutine
from pyro.distributions import constraints
from pyro.distributions.testing.fakes import NonreparameterizedNormal
from pyro.infer import ELBO, SVI, RenyiELBO, Trace_ELBO, TraceMeanField_ELBO
from pyro.infer.autoguide import AutoNormal
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx

from pyro_vae import VAE, likelihoods, networks, optim, posteriors, priors
from pyro_vae.compile.partition import split
from pyro_vae.compile.trace import NotCompiled, NotStatic, compiled_function
from pyro_vae.objectives import compiled as compilation
from pyro_vae.objectives import elbo as objectives
from pyro_vae.objectives.compiled import Compiled
from pyro_vae.objectives.terms import Recorded

from .conftest import needs_compiler
from .models import bernoulli_vae

pytestmark = needs_compiler


@pytest.fixture(autouse=True)
def _empty_store() -> None:
    pyro.clear_param_store()


def binary(examples: int = 8) -> Tensor:
    return torch.bernoulli(torch.full((examples, 6), 0.3))


def graphs(objective: Compiled) -> int:
    return sum(map(len, objective._graphs.values()))


def steps(objective: ELBO, model: Any, guide: Any, batches: list[tuple[Any, ...]]) -> list[float]:
    """The losses of some steps from one seed."""
    torch.manual_seed(5)
    svi = SVI(model, guide, optim.from_torch(torch.optim.SGD, lr=1e-2), objective)
    return [svi.step(*batch) for batch in batches]


def both(
    make: Callable[[], tuple[Any, Any]], elbo: ELBO, batches: list[tuple[Any, ...]]
) -> tuple[Compiled, Any]:
    """Holds compiled steps against uncompiled ones: losses and all parameters.

    Parameters are drawn by a loss before, since that takes another part of the stream.
    """
    objective = objectives.compiled(elbo)
    runs = []
    for each in (elbo, objective):
        pyro.clear_param_store()
        torch.manual_seed(3)
        program = make()
        elbo.loss(*program, *batches[0])
        losses = torch.tensor(steps(each, *program, batches))
        store = pyro.get_param_store()
        runs.append((losses, {name: store[name].detach().clone() for name in store}))
    torch.testing.assert_close(runs[1][0], runs[0][0], rtol=1e-5, atol=0)
    assert runs[0][1].keys() == runs[1][1].keys()
    for name, value in runs[0][1].items():
        torch.testing.assert_close(runs[1][1][name], value, rtol=1e-4, atol=1e-5)
    assert graphs(objective) == 1
    return objective, program


def vae_program() -> tuple[Any, Any]:
    vae = bernoulli_vae(2)
    return vae.model, vae.guide


@pytest.mark.parametrize(
    "elbo",
    [objectives.trace_elbo(), objectives.analytic_kl(3), Trace_ELBO(2)],
    ids=["trace", "analytic-3-vectorized", "trace-2"],
)
def test_the_same_noise_gives_the_same_steps(elbo: ELBO) -> None:
    objective, _ = both(vae_program, elbo, [(binary(),) for _ in range(4)])
    assert objective.compile_seconds > 0


def test_terms_are_those_of_the_uncompiled_objective() -> None:
    vae, x = bernoulli_vae(2), binary()
    objective = objectives.compiled(objectives.trace_elbo(3))
    plain = Recorded(objectives.trace_elbo(3))
    values = []
    for each in (plain, objective):
        torch.manual_seed(1)
        loss = each.loss_and_grads(vae.model, vae.guide, x)
        assert each.terms is not None
        values.append((loss, *each.terms))
        vae.zero_grad()
    assert values[1] == pytest.approx(values[0], rel=1e-5)
    cost, likelihood, kl = values[1]
    assert cost == pytest.approx(kl - likelihood, rel=1e-5)


# A Pyro program of the user's own, with whatever is not in a VAE.


class Regression(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Dropout(0.4))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x).sum(-1)


DATA = torch.linspace(-1, 1, 60).view(20, 3)


def own_program() -> tuple[Any, Any]:
    """Constrained parameters drawn at random, a module with buffers, a subsample, two sites."""
    network = Regression()

    def model(y: Tensor, weight: float) -> None:
        pyro.module("regression", network)
        noise = pyro.param("noise", lambda: torch.rand(()) + 0.5, constraint=constraints.positive)
        shift = pyro.sample("shift", dist.Normal(0.0, 1.0))
        with pyro.plate("data", 20, subsample_size=8) as index, poutine.scale(scale=weight):
            rate = pyro.sample("rate", dist.Gamma(2.0, 3.0))
            pyro.sample("y", dist.Normal(network(DATA[index]) + shift * rate, noise), obs=y[index])

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


def test_noise_is_fresh_and_a_seed_repeats_it() -> None:
    vae, x = bernoulli_vae(), binary()
    objective = objectives.compiled(objectives.trace_elbo())

    def losses() -> list[float]:
        return [objective.loss(vae.model, vae.guide, x) for _ in range(3)]

    torch.manual_seed(1)
    first = losses()
    assert len(set(first)) == 3
    assert losses() != first
    torch.manual_seed(1)
    assert losses() == first
    assert graphs(objective) == 1


def test_drawn_parameters_do_not_share_numbers_with_the_noise() -> None:
    """What a program draws for its parameters at the first loss is not drawn again as noise."""
    seen = []

    def guide() -> None:
        loc = pyro.param("loc", lambda: torch.randn(50))
        seen.append(loc.detach())
        pyro.sample("z", dist.Normal(torch.zeros(50), 1.0).to_event(1))

    def model() -> None:
        z = pyro.sample("z", dist.Normal(torch.zeros(50), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(pyro.param("loc"), 0.1).to_event(1), obs=z)

    torch.manual_seed(0)
    loss = objectives.compiled(Trace_ELBO()).loss(model, guide)
    # 50 squared differences of standard normals, over 2 x 0.01: 0 if they were the same numbers.
    assert loss > 1000


# Shapes, modes and buffers.


def test_further_shapes_wait_for_their_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compilation, "_PATIENCE", 2)
    vae = bernoulli_vae()
    objective = objectives.compiled(objectives.trace_elbo())
    svi = SVI(vae.model, vae.guide, optim.Adam(), objective)
    counts = []
    for examples in (8, 5, 8, 5, 5, 5, 8, 4):
        svi.step(binary(examples))
        counts.append(graphs(objective))
    assert counts == [1, 1, 1, 1, 2, 2, 2, 2]


class Normed(nn.Module):
    """A network with batch norm, whose buffers move in train mode only."""

    def __init__(self) -> None:
        super().__init__()
        self.out_shape = torch.Size((2,))
        self.norm, self.linear = nn.BatchNorm1d(6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.norm(x))


def test_modes_have_graphs_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compilation, "_PATIENCE", 0)
    x = binary() + torch.randn(8, 6) * 0

    def run(wrap: Callable[[ELBO], ELBO]) -> tuple[list[float], list[Tensor], ELBO]:
        torch.manual_seed(2)
        vae = VAE(
            priors.StandardNormal(1),
            likelihoods.Bernoulli(networks.MLP(1, (), 6)),
            posteriors.Normal(Normed()),
        )
        objective = wrap(objectives.trace_elbo())
        svi = SVI(vae.model, vae.guide, optim.Adam(lr=1e-2), objective)
        losses = []
        for training in (True, True, False, True, False):
            vae.train(training)
            losses.append(svi.step(x))
        return losses, [b.clone() for b in vae.buffers()], objective

    plain, compiled = run(lambda elbo: elbo), run(objectives.compiled)
    assert compiled[0] == pytest.approx(plain[0], rel=1e-5)
    for a, b in zip(compiled[1], plain[1], strict=True):
        torch.testing.assert_close(a, b)
    assert graphs(compiled[2]) == 2


# Whose parameters.


def test_two_vaes_of_one_name_in_turns() -> None:
    x, runs = binary(), []
    objective = objectives.compiled(objectives.trace_elbo())
    for each in (objectives.trace_elbo(), objective):
        torch.manual_seed(4)
        vaes = [bernoulli_vae(), bernoulli_vae()]
        svis = [SVI(v.model, v.guide, optim.Adam(lr=1e-2), each) for v in vaes]
        runs.append([svi.step(x) for _ in range(3) for svi in svis])
    assert runs[1] == pytest.approx(runs[0], rel=1e-5)
    assert graphs(objective) == 2


def test_the_store_may_be_cleared_in_between() -> None:
    """A VAE keeps its weights; a program of ``pyro.param`` starts afresh, as uncompiled."""
    x = binary()
    vae = bernoulli_vae()
    svi = SVI(vae.model, vae.guide, optim.Adam(), objectives.compiled(Trace_ELBO()))
    svi.step(x)
    pyro.clear_param_store()
    before = [p.clone() for p in vae.parameters()]
    svi.step(x)
    assert all(not torch.equal(a, b) for a, b in zip(before, vae.parameters(), strict=True))

    def model() -> None:
        pyro.sample("x", dist.Normal(pyro.param("loc", torch.tensor(0.0)), 1.0), obs=one)

    one = torch.tensor(1.0)
    svi = SVI(model, lambda: None, optim.Adam(lr=0.1), objectives.compiled(Trace_ELBO()))
    first = [svi.step() for _ in range(3)]
    pyro.clear_param_store()
    assert svi.step() == first[0]


def test_what_was_replaced_is_followed() -> None:
    vae, x = bernoulli_vae(), binary()
    objective = objectives.compiled(objectives.trace_elbo())
    svi = SVI(vae.model, vae.guide, optim.Adam(), objective)
    svi.step(x)
    vae.likelihood = bernoulli_vae().likelihood
    new = [p.clone() for p in vae.likelihood.parameters()]
    svi.step(x)
    assert all(
        not torch.equal(a, b) for a, b in zip(new, vae.likelihood.parameters(), strict=True)
    )
    vae.posterior.requires_grad_(False)
    frozen = [p.clone() for p in vae.posterior.parameters()]
    svi.step(x)
    assert all(torch.equal(a, b) for a, b in zip(frozen, vae.posterior.parameters(), strict=True))
    vae.double()
    svi = SVI(vae.model, vae.guide, optim.Adam(), objective)
    before = [p.clone() for p in vae.likelihood.parameters()]
    svi.step(x.double())
    for a, b in zip(before, vae.likelihood.parameters(), strict=True):
        assert b.dtype == torch.float64
        assert not torch.equal(a, b)


def test_a_torch_optimizer_gets_the_same_gradients() -> None:
    vae, x = bernoulli_vae(), binary()
    gradients = []
    for elbo in (objectives.trace_elbo(), objectives.compiled(objectives.trace_elbo())):
        vae.zero_grad()
        torch.manual_seed(0)
        loss = elbo.differentiable_loss(vae.model, vae.guide, x)
        (loss / len(x)).backward()
        gradients.append([p.grad for p in vae.parameters()])
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-5, atol=1e-7)


def test_gradients_are_added_to_those_there() -> None:
    vae, x = bernoulli_vae(), binary()
    objective = objectives.compiled(objectives.trace_elbo())
    gradients = []
    for times in (1, 2):
        vae.zero_grad()
        for _ in range(times):
            torch.manual_seed(0)
            objective.loss_and_grads(vae.model, vae.guide, x)
        gradients.append([p.grad.clone() for p in vae.parameters()])
    for once, twice in zip(*gradients, strict=True):
        torch.testing.assert_close(twice, 2 * once)


def test_copies_hold_no_compiled_code_and_nothing_outlives_the_objective() -> None:
    vae, x = bernoulli_vae(), binary()
    objective = objectives.compiled(objectives.trace_elbo())
    objective.loss_and_grads(vae.model, vae.guide, x)
    for copied in (copy.deepcopy(objective), pickle.loads(pickle.dumps(objective))):
        assert graphs(copied) == 0
        assert copied.loss(vae.model, vae.guide, x) > 0
    copy.deepcopy(vae)
    pickle.dumps(vae)
    reference = weakref.ref(vae)
    del vae, objective, copied
    gc.collect()
    assert reference() is None


# Where it cannot be compiled.


def reading(x: Tensor) -> None:
    z = pyro.sample("z", dist.Normal(0.0, 1.0))
    scale = 2.0 if z > 0 else 1.0
    pyro.sample("x", dist.Normal(z, scale), obs=x)


def reading_guide(x: Tensor) -> None:
    pyro.sample("z", dist.Normal(pyro.param("loc", torch.tensor(0.0)), 1.0))


def test_a_program_that_reads_values_is_named_as_such() -> None:
    svi = SVI(reading, reading_guide, optim.Adam(), objectives.compiled(Trace_ELBO()))
    with pytest.raises(NotStatic, match=r"reads a tensor's value at .*test_compilation\.py:\d+ "):
        svi.step(torch.tensor(1.0))
    lenient = SVI(reading, reading_guide, optim.Adam(), Compiled(Trace_ELBO(), strict=False))
    with pytest.warns(UserWarning, match="runs uncompiled: .*reads a tensor's value"):
        lenient.step(torch.tensor(1.0))
    lenient.step(torch.tensor(1.0))


def test_inside_handlers_it_runs_uncompiled() -> None:
    vae, x = bernoulli_vae(), binary()
    objective = objectives.compiled(objectives.trace_elbo())

    def loss() -> float:
        torch.manual_seed(0)
        return objective.loss(vae.model, vae.guide, x)

    whole = loss()
    with poutine.scale(scale=0.5):
        assert loss() == pytest.approx(whole / 2, rel=1e-5)
    assert loss() == whole


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
    with pytest.raises(TypeError, match="argument of type object"), torch.no_grad():
        objective.loss(vae.model, vae.guide, type("object", (), {"__hash__": None})())
    off = binary()
    off[0, 0] = 0.5
    with (
        pyro.validation_enabled(False),
        pytest.raises(ValueError, match=r"x: got 0\.5 at 1 of 48 places"),
    ):
        objective.loss(vae.model, vae.guide, off)


def test_without_a_compiler_there_is_one_warning() -> None:
    code = """
import warnings, torch
from pyro.infer import SVI
from pyro_vae import optim, presets
from pyro_vae.objectives import elbo as objectives
vae = presets.build("pyro-mlp", z_dim=2, shape=6)
objective = objectives.compiled(objectives.trace_elbo())
svi = SVI(vae.model, vae.guide, optim.Adam(), objective)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    losses = [svi.step(torch.ones(4, 6)) for _ in range(3)]
print([str(w.message) for w in caught if "C++" in str(w.message)], len(losses), objective._graphs)
"""
    run = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"CXX": "no-such-compiler"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.count("found no C++ compiler") == 1
    assert run.stdout.endswith("] 3 {}\n")


def test_a_model_that_is_another_function_each_time_is_no_storm(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(compilation, "_GRAPHS", 2)
    vae, x = bernoulli_vae(), binary()
    objective = objectives.compiled(objectives.trace_elbo())
    for _ in range(120):
        objective.loss(lambda x: vae.model(x), vae.guide, x)
    assert graphs(objective) == 2
    assert len(objective._waiting) <= 2


# What a program may do, and what it may not, so that no graph goes on with what was.


class Scaled(nn.Module):
    """A model that is a module with a number, a plain tensor and a weight as attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.beta = 1.0
        self.shift = torch.zeros(6)
        self.weight = nn.Parameter(torch.ones(6))

    def forward(self, x: Tensor) -> None:
        weight = pyro.module("scaled", self).weight
        with pyro.plate("data", len(x)), poutine.scale(scale=self.beta):
            loc = weight + self.shift
            pyro.sample("x", dist.Normal(loc, 1.0).expand([len(x), 6]).to_event(1), obs=x)


def nothing(x: Tensor) -> None:
    pass


@pytest.mark.parametrize("what", ["number", "tensor", "frozen"])
def test_changed_attributes_are_followed(what: str) -> None:
    x, runs = torch.randn(8, 6), []
    for elbo in (Trace_ELBO(), objectives.compiled(Trace_ELBO())):
        pyro.clear_param_store()
        model = Scaled()
        svi = SVI(model, nothing, optim.from_torch(torch.optim.SGD, lr=0.01), elbo)
        losses = []
        for step in range(4):
            if what == "number":
                model.beta = 1.0 + step
            elif what == "tensor":
                model.shift = torch.full((6,), float(step))
            elif step == 2:
                model.weight.requires_grad_(False)
            losses.append(svi.step(x))
        runs.append(losses)
    assert runs[1] == pytest.approx(runs[0], rel=1e-5)


def test_a_number_that_keeps_changing_is_no_storm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compilation, "_PATIENCE", 0)
    monkeypatch.setattr(compilation, "_REPEATS", 2)
    model, objective = Scaled(), objectives.compiled(Trace_ELBO())
    losses = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for step in range(4):
            model.beta = 1.0 + step
            losses.append(objective.loss(model, nothing, torch.ones(8, 6)))
    assert sum("keep changing" in str(warning.message) for warning in caught) == 1
    assert losses == pytest.approx([losses[0] * (1 + step) for step in range(4)])
    assert sum(objective._made.values()) == 2


class Replacing(networks.MLP):
    """A network that replaces a buffer of its own as it runs."""

    average: Tensor

    def __init__(self) -> None:
        super().__init__(6, (), 2)
        self.register_buffer("average", torch.zeros(6))

    def forward(self, x: Tensor) -> Tensor:
        self.average = 0.9 * self.average + 0.1 * x.mean(0)
        return super().forward(x)


def test_a_module_that_replaces_its_tensors_is_left_whole() -> None:
    likelihood = likelihoods.Bernoulli(networks.MLP(1, (), 6))
    network = Replacing()
    vae = VAE(priors.StandardNormal(1), likelihood, posteriors.Normal(network))
    before = network.average
    with pytest.raises(NotStatic, match=r"replaces Replacing\.average"):
        objectives.compiled(Trace_ELBO()).loss(vae.model, vae.guide, binary())
    assert network.average is before
    assert not before.any()
    lenient = Compiled(Trace_ELBO(), strict=False)
    with pytest.warns(UserWarning, match="runs uncompiled"):
        lenient.loss(vae.model, vae.guide, binary())
    assert type(network.average) is Tensor
    assert network.average.any()


@torch.library.custom_op("pyro_vae_tests::without_a_shape", mutates_args=())
def without_a_shape(x: Tensor) -> Tensor:
    """An operation of which torch does not know what shape it gives."""
    return x.clone()


def test_what_torch_cannot_compile_is_said() -> None:
    def model(x: Tensor) -> None:
        loc = without_a_shape(x)
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)

    x = binary()
    with pytest.raises(NotCompiled, match="torch cannot compile this program"):
        objectives.compiled(Trace_ELBO()).loss(model, nothing, x)
    lenient = Compiled(Trace_ELBO(), strict=False)
    with pytest.warns(UserWarning, match="runs uncompiled"):
        assert lenient.loss(model, nothing, x) > 0


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
    assert compiled == pytest.approx(plain, rel=1e-9)


def test_without_gradients_there_are_none_and_no_second_ones() -> None:
    vae, x = bernoulli_vae(), binary()
    objective = objectives.compiled(objectives.trace_elbo())
    with torch.no_grad():
        objective.loss_and_grads(vae.model, vae.guide, x)
    assert all(p.grad is None for p in vae.parameters())
    loss = objective.differentiable_loss(vae.model, vae.guide, x)
    with pytest.raises(RuntimeError, match="no gradients of gradients"):
        torch.autograd.grad(loss, list(vae.parameters()), create_graph=True)


def test_particles_are_the_objectives_own() -> None:
    vae, x = bernoulli_vae(), binary()
    elbo = Trace_ELBO()
    objective, losses = objectives.compiled(elbo), []
    for particles in (1, 5):
        objective.num_particles = particles
        for each in (elbo, objective):
            torch.manual_seed(0)
            losses.append(each.loss(vae.model, vae.guide, x))
    assert losses[1::2] == pytest.approx(losses[::2], rel=1e-5)
    assert losses[0] != losses[2]


@pytest.mark.parametrize("name", ["log1p", "softplus"])
def test_compiled_logarithms_keep_their_last_digits(name: str) -> None:
    """By one logarithm of 1 + x, whose rounding is put back, or by a series; to infinity."""
    function = {"log1p": torch.log1p, "softplus": torch.nn.functional.softplus}[name]
    x = torch.logspace(-30, 30, 6001)
    edges = torch.tensor([0.0, math.inf, -0.5, -1 + 2**-24, 2**-24, 1e-7])
    x = torch.cat((x, edges)) if name == "log1p" else torch.cat((x, -x.sqrt(), edges))
    value = compiled_function(function, [x])(x)
    expected = function(x.double())
    torch.testing.assert_close(value.double(), expected, rtol=4e-7, atol=1e-44)
    assert compiled_function(function, [x])(torch.full_like(x, math.nan)).isnan().all()
    if name == "log1p":
        assert compiled_function(function, [x])(torch.full_like(x, -1.0)).eq(-math.inf).all()
    else:
        great = torch.tensor([3e38, -3e38, math.inf])  # twice which is more than float32 has
        twice = compiled_function(lambda x: function(x, 2), [great])(great)
        assert twice.tolist() == function(great, 2).tolist()
        small = torch.linspace(-3, 3, 61)  # above a low threshold it is x itself
        value = compiled_function(lambda x: function(x, 2, 1), [small])(small)
        torch.testing.assert_close(value, function(small, 2, 1))


def layer_and_noise(x: Tensor, w: Tensor, y: Tensor) -> tuple[Tensor, ...]:
    h = (x @ w).tanh()
    return (h * y + torch.randn_like(h),)


def layer_written_over(x: Tensor, w: Tensor, y: Tensor) -> tuple[Tensor, ...]:
    h = x @ w
    before = h.exp()
    h.view(-1)[:3].mul_(y.sum())
    return before, h, h.tanh() + y, (x @ w).exp() * y


def parts_of_a_layer(x: Tensor, w: Tensor, y: Tensor) -> tuple[Tensor, ...]:
    a, b = (x @ w).chunk(2, -1)
    variance, mean = torch.var_mean(x @ w, -1, keepdim=True)
    return a.exp() * y[:, :3], b.t(), (y - mean) / variance


def repeated_layer(x: Tensor, w: Tensor, y: Tensor) -> tuple[Tensor, ...]:
    return (x @ w).expand(3, 4, 6).exp() + y + torch.arange(6), x.sum()


def nothing_but_inputs(x: Tensor, w: Tensor, y: Tensor) -> tuple[Tensor, ...]:
    return x.t(), x * y[:, :1] + torch.zeros(()), y


def input_written_over(x: Tensor, w: Tensor, y: Tensor) -> tuple[Tensor, ...]:
    before = (x @ w).exp() * y
    w[:2].mul_(2)
    return before, x @ w, w.clone()


def batch_norm_in_train_mode(x: Tensor, w: Tensor, y: Tensor) -> tuple[Tensor, ...]:
    """Writes over running means and variances, and does not say so."""
    mean, variance = w[0, :5], w[1, :5].exp()
    batch_norm = torch.nn.functional.batch_norm
    return batch_norm(x, mean, variance, training=True) * y[:, :5], mean + y[0, :5]


@pytest.mark.parametrize(
    ("program", "products"),
    [
        (input_written_over, None),
        (batch_norm_in_train_mode, None),
        (layer_and_noise, 1),
        (layer_written_over, 1),
        (parts_of_a_layer, 2),
        (repeated_layer, 1),
        (nothing_but_inputs, None),
    ],
)
def test_what_seldom_changes_is_computed_when_it_does(
    program: Callable[..., tuple[Tensor, ...]], products: int | None
) -> None:
    """The same numbers as without, when a tensor is another or has been changed in place."""
    x, y, w = torch.randn(4, 5), torch.randn(4, 6), torch.randn(5, 6)

    parts = split(make_fx(program)(x, w, y), 2)
    assert (parts is None) == (products is None)
    if parts is not None:
        called = [[node.target for node in part.graph.nodes] for part in parts]
        assert called[0].count(torch.ops.aten.mm.default) == products
        assert not any("rand" in str(target) for target in called[0])
        assert torch.ops.aten.expand.default not in called[0]

    compiled = compiled_function(lambda x, y: program(x, w, y), [x, y], fixed=1)

    def agrees(x: Tensor) -> None:
        y, copies = torch.randn(4, 6), (x.clone(), w.clone())
        torch.manual_seed(1)
        expected = program(*copies, y)
        torch.manual_seed(1)
        torch.testing.assert_close(tuple(compiled(x, y)), expected)
        torch.testing.assert_close(w, copies[1])

    agrees(x)
    agrees(x)
    agrees(torch.randn(4, 5))
    x.mul_(2)
    agrees(x)
    w.add_(1)
    agrees(x)
    for _ in range(3):
        w.data = w.data * 1.5
        w.data = w.data - 1
        agrees(x)
    with torch.inference_mode():
        first = torch.randn(4, 5)
    agrees(first)
    with torch.inference_mode():
        first.add_(1)
    agrees(first)


def test_what_is_written_through_a_view_is_seen() -> None:
    held, x = torch.zeros(6), torch.randn(4, 6)
    view = held[:3]

    def program(x: Tensor, y: Tensor) -> Tensor:
        view.copy_(x[0, :3])
        return held.sin() * y

    compiled = compiled_function(program, [x, x.clone()], fixed=1)
    for _ in range(2):
        y = torch.randn(4, 6)
        expected = torch.cat((x[0, :3], torch.zeros(3))).sin() * y
        torch.testing.assert_close(compiled(x, y), expected)
