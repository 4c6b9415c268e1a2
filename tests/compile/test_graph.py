"""Programs as graphs: what holds one, what needs another, and what has none."""

import warnings
from typing import Any

import pyro
import pyro.distributions as dist
import pyro.optim
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO
from torch import Tensor, nn

from pyro_vae import VAE, likelihoods, networks, objectives, optim, posteriors, priors
from pyro_vae.compile import Graph, NotStatic, Program, Repeated, Replayed
from pyro_vae.objectives import Compiled

from ..compiling import MODULE, graphs, nothing, small_vae
from ..conftest import needs_compiler
from ..tolerances import CLOSE
from ..vaes import binary

pytestmark = [needs_compiler, pytest.mark.usefixtures("float64", "code")]


@pytest.fixture(autouse=True)
def _empty_store() -> None:
    pyro.clear_param_store()


class Scaled(nn.Module):
    """A model that is a module with a number, a plain tensor and a parameter as attributes."""

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


def test_further_shapes_wait_for_their_graphs() -> None:
    objective, model = objectives.compiled(Trace_ELBO()), Scaled()
    objective._cache.patience = 2
    counts = []
    for examples in (8, 5, 8, 5, 5, 5, 8, 4):
        objective.loss(model, nothing, torch.randn(examples, 6))
        counts.append(graphs(objective))
    assert counts == [1, 1, 1, 1, 2, 2, 2, 2]


class Normed(nn.Module):
    """A model with batch norm, whose buffers move in train mode only."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(6)

    def forward(self, x: Tensor) -> None:
        pyro.module("normed", self)
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(self.norm(x), 1.0).to_event(1), obs=x)


def test_modes_have_graphs_of_their_own() -> None:
    x, runs = torch.randn(8, 6) + 1, []
    objective = objectives.compiled(Trace_ELBO())
    objective._cache.patience = 0
    for each in (Trace_ELBO(), objective):
        model, losses = Normed(), []
        for training in (True, True, False, True, False):
            model.train(training)
            losses.append(each.loss(model, nothing, x))
        runs.append((losses, list(model.buffers())))
    assert runs[1][0] == pytest.approx(runs[0][0], rel=CLOSE)
    for a, b in zip(runs[1][1], runs[0][1], strict=True):
        torch.testing.assert_close(a, b, rtol=CLOSE, atol=CLOSE)
    assert graphs(objective) == 2


# Whose parameters.


def test_two_vaes_of_one_name_in_turns() -> None:
    x, runs = torch.randn(8, 3), []
    objective = objectives.compiled(objectives.trace_elbo())
    for each in (objectives.trace_elbo(), objective):
        torch.manual_seed(4)
        vaes = [small_vae(), small_vae()]
        svis = [SVI(v.model, v.guide, optim.Adam(lr=1e-2), each) for v in vaes]
        runs.append([svi.step(x) for _ in range(3) for svi in svis])
    assert runs[1] == pytest.approx(runs[0], rel=CLOSE)
    assert graphs(objective) == 2


def test_the_store_may_be_cleared_in_between() -> None:
    """A VAE keeps its parameters; a program of ``pyro.param`` starts afresh, as uncompiled."""
    vae, x = small_vae(), torch.randn(8, 3)
    svi = SVI(vae.model, vae.guide, optim.Adam(), objectives.compiled(objectives.trace_elbo()))
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
    vae, x = small_vae(), torch.randn(8, 3)
    objective = objectives.compiled(objectives.trace_elbo())
    svi = SVI(vae.model, vae.guide, optim.Adam(), objective)
    svi.step(x)
    vae.likelihood = small_vae().likelihood
    new = [p.clone() for p in vae.likelihood.parameters()]
    svi.step(x)
    assert all(
        not torch.equal(a, b) for a, b in zip(new, vae.likelihood.parameters(), strict=True)
    )
    vae.posterior.requires_grad_(False)
    frozen = [p.clone() for p in vae.posterior.parameters()]
    svi.step(x)
    assert all(torch.equal(a, b) for a, b in zip(frozen, vae.posterior.parameters(), strict=True))
    vae.float()
    svi = SVI(vae.model, vae.guide, optim.Adam(), objective)
    before = [p.clone() for p in vae.likelihood.parameters()]
    svi.step(x.float())
    for a, b in zip(before, vae.likelihood.parameters(), strict=True):
        assert b.dtype == torch.float32
        assert not torch.equal(a, b)


# What changes behind a graph's back.


@pytest.mark.parametrize("what", ["number", "tensor", "frozen"])
@pytest.mark.filterwarnings("ignore:weight was not registered in the param store")
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
    assert runs[1] == pytest.approx(runs[0], rel=CLOSE)


def test_a_number_that_keeps_changing_is_no_storm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MODULE, "_PATIENCE", 0)
    monkeypatch.setattr(MODULE, "_REPEATS", 2)
    model, objective = Scaled(), objectives.compiled(Trace_ELBO())
    losses = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for step in range(4):
            model.beta = 1.0 + step
            losses.append(objective.loss(model, nothing, torch.ones(8, 6)))
    assert sum("keep changing" in str(warning.message) for warning in caught) == 1
    assert losses == pytest.approx([losses[0] * (1 + step) for step in range(4)], rel=CLOSE)
    assert sum(objective._cache.made.values()) == 2


def test_a_model_that_is_another_function_each_time_is_no_storm() -> None:
    model, x, objective = Scaled(), torch.randn(8, 6), objectives.compiled(Trace_ELBO())
    objective._cache.size = 1
    for _ in range(10):
        objective.loss(lambda x: model(x), nothing, x)
    assert graphs(objective) == 1
    assert len(objective._cache._waiting) <= 2


# What has no graph.


def reading(x: Tensor) -> None:
    z = pyro.sample("z", dist.Normal(0.0, 1.0))
    scale = 2.0 if z > 0 else 1.0
    pyro.sample("x", dist.Normal(z, scale), obs=x)


def reading_guide(x: Tensor) -> None:
    pyro.sample("z", dist.Normal(pyro.param("loc", torch.tensor(0.0)), 1.0))


def test_a_program_that_reads_values_is_named_as_such() -> None:
    svi = SVI(reading, reading_guide, optim.Adam(), objectives.compiled(Trace_ELBO()))
    with pytest.raises(NotStatic, match=r"value at .*test_graph\.py:\d+ .* uncompiled \(aten"):
        svi.step(torch.tensor(1.0))
    lenient = SVI(reading, reading_guide, optim.Adam(), Compiled(Trace_ELBO(), strict=False))
    with pytest.warns(UserWarning, match="runs uncompiled: .*reads a tensor's value"):
        lenient.step(torch.tensor(1.0))
    lenient.step(torch.tensor(1.0))


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


@pytest.mark.parametrize("moved", [False, True])
def test_a_graph_is_recorded_after_some_runs(moved: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU, with Python in place of the recording; also if a tensor gets other memory."""
    monkeypatch.setattr("pyro_vae.compile.graph.recorder", lambda device: Repeated)
    made = []

    class Counted(Replayed):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            made.append(self)

    monkeypatch.setattr("pyro_vae.compile.graph.Replayed", Counted)
    layer = nn.Linear(3, 2)
    program = Program(lambda x: [layer(x)], layer, lambda result: None, [layer], [])
    graph = Graph(program, (torch.ones(4, 3),), {})
    for number in range(40):
        if moved and number == 20:
            layer.weight.data = layer.weight.detach().clone() + 1
        x = torch.randn(4, 3)
        (found,) = graph.run((x,), {})
        torch.testing.assert_close(found, layer(x).detach(), rtol=1e-6, atol=1e-6)
    assert len(made) == 1 + moved
