"""A context beside x: conditional models against closed forms, and wrong contexts by name."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import ELBO, SVI, Trace_ELBO
from torch import Tensor, nn
from torch.distributions import MultivariateNormal

from pyro_vae import (
    VAE,
    datasets,
    elbo,
    fit,
    likelihoods,
    log_likelihood,
    networks,
    objectives,
    optim,
    posteriors,
    priors,
)
from pyro_vae.comparison import compare
from pyro_vae.datasets import Dataset
from pyro_vae.evaluation import active_units, data_hash, elbo_gap, posterior_predictive
from pyro_vae.gradients import measure
from pyro_vae.utils.context import takes_context
from pyro_vae.utils.random import seeded

from .conftest import needs_compiler
from .tolerances import CLOSE

Z, X, C, SCALE = 2, 4, 3, 0.6


class Shifted(nn.Module):
    """A prior p(z|c) whose mean is linear in c."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(Z, C))

    def forward(self, c: Tensor) -> dist.Distribution:
        return dist.Normal(c @ self.weight.T, 1.0).to_event(1)


class Exact(nn.Module):
    """The posterior p(z|x, c) of the linear model."""

    def __init__(self, prior: Shifted, network: nn.Module) -> None:
        super().__init__()
        self.prior, self.network, self.widened = prior, network, 1.0

    def forward(self, x: Tensor, c: Tensor) -> dist.Distribution:
        weight, offset = linear(self.network, c)
        precision = torch.eye(Z).to(weight) + weight.T @ weight / SCALE**2
        loc = (x - offset) @ weight / SCALE**2 + c @ self.prior.weight.T
        covariance = precision.inverse()
        return dist.MultivariateNormal(
            loc @ covariance, covariance_matrix=self.widened * covariance
        )


def linear(network: nn.Module, c: Tensor) -> tuple[Tensor, Tensor]:
    """The matrix that z is multiplied by, and what is added, of an affine map of z and c."""
    layer = network.network.layers[0]
    return layer.weight[:, :Z], c @ layer.weight[:, Z:].T + layer.bias


@dataclass
class Case:
    """A linear-Gaussian model with a context in all three parts."""

    vae: VAE
    x: Tensor
    c: Tensor

    def evidence(self, c: Tensor) -> Tensor:
        weight, offset = linear(self.vae.likelihood.network, c)
        loc = offset + c @ self.vae.prior.weight.T @ weight.T
        covariance = weight @ weight.T + SCALE**2 * torch.eye(X).to(weight)
        return MultivariateNormal(loc, covariance).log_prob(self.x).detach()


def case(exact: bool = True, examples: int = 70) -> Case:
    torch.manual_seed(0)
    prior, network = Shifted(), networks.Conditioned(networks.MLP(Z + C, (), X), C)
    posterior: nn.Module = Exact(prior, network)
    if not exact:
        posterior = posteriors.Normal(networks.Conditioned(networks.MLP(X + C, (), 2 * Z), C))
    vae = VAE(prior, likelihoods.Gaussian(network, scale=SCALE), posterior).double()
    c = torch.randn(examples, C).double()
    with torch.no_grad():
        x = vae.model(None, c)
    return Case(vae, x, c)


def test_the_evidence_given_a_context_is_the_closed_form() -> None:
    """Without variance at the exact posterior, by each estimate; another context gives another."""
    one = case()
    expected = one.evidence(one.c)
    batch = one.x, one.c
    for values in (
        log_likelihood(one.vae, batch, 3, seed=0).values,
        log_likelihood(one.vae, batch, estimator="exact").values,
        log_likelihood(x=batch, num_samples=3, model=one.vae.model, guide=one.vae.guide).values,
        elbo(one.vae, batch, 3, seed=0).values,
        elbo(one.vae, batch, 1, kl="sampled", seed=1).values,
    ):
        torch.testing.assert_close(values.double(), expected, rtol=1e-9, atol=1e-9)
    # The root of a variance that is rounding alone.
    assert log_likelihood(one.vae, batch, 3, seed=0).mc_error < 1e-7
    wrong = one.c.flip(0)
    other = log_likelihood(one.vae, (one.x, wrong), estimator="exact").values
    torch.testing.assert_close(other, one.evidence(wrong), rtol=1e-9, atol=1e-9)
    assert other.mean() < expected.mean() - 1


@pytest.mark.parametrize("estimator", ["importance", "prior", "ais:8:3"])
def test_each_estimator_finds_it_with_a_guide_that_is_not_exact(estimator: str) -> None:
    one = case(examples=20)
    one.vae.posterior.widened = 1.5
    samples = 500 if "ais" in estimator else 2000
    result = log_likelihood(one.vae, (one.x, one.c), samples, estimator=estimator, seed=0)
    expected = one.evidence(one.c)
    variance = (samples / result.ess - 1) / (samples - 1)
    assert ((result.values - expected).abs() < 5 * variance.sqrt() + 2 * variance).all()


def test_memory_changes_rounding_alone_and_the_order_the_noise_alone() -> None:
    one = case(exact=False)
    batch = one.x, one.c
    few, many = (log_likelihood(one.vae, batch, 70, seed=0, max_bytes=n) for n in (2**14, 2**28))
    torch.testing.assert_close(few.values, many.values, rtol=CLOSE, atol=CLOSE)
    exact, order = case(), torch.randperm(70)
    values = log_likelihood(exact.vae, (exact.x, exact.c), 2, seed=0).values
    moved = log_likelihood(exact.vae, (exact.x[order], exact.c[order]), 2, seed=0).values
    torch.testing.assert_close(moved, values[order], rtol=1e-9, atol=1e-9)


def test_a_batch_is_hashed_as_one() -> None:
    x, c = torch.zeros(3, 2), torch.arange(3)
    hashes = {data_hash(x), data_hash((x, c)), data_hash((x, c + 1)), data_hash((x, c, c))}
    assert len(hashes) == 4
    assert data_hash((x,)) == data_hash(x)


def labelled(shape: tuple[int, ...] = (3, 2), classes: int = 4, relaxed: bool = False) -> VAE:
    """Three lines more than a plain VAE: two networks and what they are conditioned on."""
    size = shape[0] * shape[1]
    decoder = networks.Conditioned(networks.MLP(Z + classes, (8,), shape), (), classes=classes)
    encoder = networks.Conditioned(networks.MLP(size + classes, (8,), 2 * Z), (), classes=classes)
    return VAE(
        priors.StandardNormal(Z),
        likelihoods.Bernoulli(decoder, relaxed),
        posteriors.Normal(encoder),
    )


def test_shapes_of_all_that_a_conditional_vae_does() -> None:
    vae, x, y = labelled(), torch.ones(5, 3, 2), torch.tensor([0, 1, 2, 3, 0])
    assert vae.embed(x, y).shape == (5, Z)
    assert vae.decode(torch.zeros(7, 5, Z), y).shape == (7, 5, 3, 2)
    assert vae.reconstruct(x, y).shape == x.shape
    assert vae.model(x, y).shape == x.shape
    assert vae.model(None, y, num_samples=2).shape == (10, 3, 2)
    assert vae.generate(6, context=torch.arange(4)).shape == (24, 3, 2)
    assert active_units(vae, (x, y)).statistic.shape == (Z,)
    gap = elbo_gap(vae, (x, y), num_samples=50, steps=2, seed=0)
    assert gap.amortization.shape == (5,)
    check = posterior_predictive(vae, (x, y), lambda x: x.sum((-1, -2)), 10, seed=0)
    assert check.p_values.shape == (5,)


def test_what_is_generated_belongs_to_its_row() -> None:
    """Rows of a context come one after another, each with all its examples."""
    vae = labelled((1, 4))
    with torch.no_grad():  # Pixel y is on for label y, whatever z is.
        for parameter in vae.likelihood.parameters():
            parameter.zero_()
        first, last = vae.likelihood.network.network.layers[::2]
        first.weight[:4, Z:] = torch.eye(4)
        last.weight[:, :4] = 50 * torch.eye(4)
        last.bias.fill_(-25.0)
    made = vae.generate(3, context=torch.tensor([2, 0]))
    assert made.flatten(1).argmax(1).tolist() == [2, 2, 2, 0, 0, 0]
    assert vae.model(None, torch.tensor([2, 0]), num_samples=2).flatten(1).argmax(1).tolist() == [
        2, 2, 0, 0
    ]  # fmt: skip


LOSSES = [
    lambda: objectives.trace_elbo(),
    lambda: objectives.analytic_kl(2),
    lambda: objectives.dreg(3),
    pytest.param(lambda: objectives.trace_elbo(3), marks=pytest.mark.slow),
    pytest.param(lambda: objectives.iwae(3), marks=pytest.mark.slow),
    pytest.param(lambda: objectives.sticking_the_landing(2), marks=pytest.mark.slow),
    pytest.param(lambda: objectives.warm_up(objectives.trace_elbo(), 3), marks=pytest.mark.slow),
]


@needs_compiler
@pytest.mark.usefixtures("code", "float64")
@pytest.mark.parametrize("make", LOSSES)
def test_svi_trains_with_each_objective_compiled_and_not(make: Callable[[], ELBO]) -> None:
    x = (torch.rand(8, 3, 2) < 0.5).double()
    batches = [(x, torch.randint(4, (8,))) for _ in range(3)]
    runs = []
    for objective in (make(), objectives.compiled(make())):
        torch.manual_seed(3)
        vae = labelled()
        svi = SVI(vae.model, vae.guide, optim.Adam(lr=1e-2), objective)
        torch.manual_seed(4)
        runs.append([svi.step(*batch) for batch in batches])
    assert runs[1] == pytest.approx(runs[0], rel=CLOSE)


def test_a_label_is_one_hot_and_numbers_are_joined_as_they_are() -> None:
    layer = networks.MLP(2 + 3, (), 4).double()
    x, y = torch.randn(6, 2).double(), torch.randint(3, (6,))
    one_hot = nn.functional.one_hot(y, 3).double()
    expected = layer(torch.cat((x, one_hot), -1))
    assert torch.equal(networks.Conditioned(layer, (), classes=3)(x, y), expected)
    assert torch.equal(networks.Conditioned(layer, 3)(x, one_hot), expected)
    second = networks.Conditioned(layer, (), classes=3, entry=1)
    assert torch.equal(second(x, one_hot, y.view(6)), expected)
    off = torch.tensor([0, 3])
    with pyro.validation_enabled(False):  # as in compiled code
        assert networks.Conditioned(layer, (), classes=3)(x[:2], off).isnan().any(1).tolist() == [
            False,
            True,
        ]


def test_networks_in_bfloat16_take_the_context() -> None:
    vae, x, y = labelled(), torch.ones(5, 3, 2), torch.arange(5) % 4
    with networks.bfloat16(vae):
        rounded = vae.reconstruct(x, y)
    torch.testing.assert_close(rounded, vae.reconstruct(x, y), atol=2**-6, rtol=2**-6)


def test_a_part_takes_the_context_by_its_signature() -> None:
    class Label(nn.Module):
        def forward(self, z: Tensor, label: Tensor) -> Any: ...

    class Optional(nn.Module):
        def forward(self, z: Tensor, temperature: float = 1.0) -> Any: ...

    class Any_(nn.Module):
        def forward(self, *entries: Tensor) -> Any: ...

    assert takes_context(Label())
    assert not takes_context(Optional())
    assert takes_context(Any_())
    assert takes_context(Shifted(), 0)
    assert not takes_context(priors.StandardNormal(2), 0)
    plain = networks.MLP(2, (), 3)
    assert not takes_context(likelihoods.Bernoulli(plain))
    conditioned = networks.Scaled(networks.Conditioned(networks.MLP(3, (), 4), 1))
    assert takes_context(posteriors.Squashed(posteriors.Normal(conditioned), 0.0, 1.0))
    vae = VAE(lambda c: Shifted()(c), likelihoods.Bernoulli(plain), posteriors.Normal(conditioned))
    assert takes_context(vae.prior, 0)


def test_wrong_contexts_are_named() -> None:
    vae, x, y = labelled(), torch.ones(5, 3, 2), torch.arange(5) % 4
    plain = VAE(
        priors.StandardNormal(Z),
        likelihoods.Bernoulli(networks.MLP(Z, (), (3, 2))),
        posteriors.Normal(networks.MLP((3, 2), (), 2 * Z)),
    )
    for batch, error, message in (
        ((x, y[:4]), ValueError, "context: got 4 rows as entry 0, expected 5"),
        ((x, y + 1), ValueError, "context: got labels from 1 to 4 as entry 0, expected 0 to 3"),
        ((x, y.float()), TypeError, r"context: got torch.float32 as entry 0, expected integer"),
        ((x, y[:, None]), ValueError, r"context: got shape \(1, 1\) as entry 0"),
        ((x, [1, 2]), TypeError, "context: got a list as entry 0, expected a torch.Tensor"),
        ((x, y.to_sparse()), TypeError, "context: got a tensor of layout torch.sparse_coo"),
        ((), ValueError, "x: got an empty tuple"),
        (x, ValueError, r"(likelihood|posterior): context: got 0 entries"),
        ({"x": x}, TypeError, r"x: got a dict, expected a torch.Tensor, or a tuple"),
    ):
        with pytest.raises(error, match=message):
            log_likelihood(vae, batch, 2)
    with pytest.raises(ValueError, match="context: got 1 entries, which no part takes"):
        log_likelihood(plain, (x, y), 2)
    with pytest.raises(ValueError, match="context: got 1 entries, which no part takes"):
        plain.generate(2, context=y)

    class Label(nn.Module):
        def forward(self, x: Tensor, label: Tensor) -> Any:
            return vae.posterior(x, label)

    own = VAE(vae.prior, vae.likelihood, Label())
    assert log_likelihood(own, (x, y), 5, seed=0).values.shape == (5,)
    with pytest.raises(TypeError, match="posterior: its forward does not take 1 input and the 2"):
        own.guide(x, y, y)
    with pytest.raises(TypeError, match="posterior: its forward does not take 1 input and the 0"):
        own.guide(x)
    svi = SVI(vae.model, vae.guide, optim.Adam(), Trace_ELBO())
    with pytest.raises(ValueError, match="context: got labels from 9 to 9"):
        svi.step(x, torch.full((5,), 9))


# Exposures.


def test_an_exposure_multiplies_the_mean() -> None:
    """As a shift of the network's log-mean does; other numbers of the network are as they were."""
    z, e = torch.randn(4, 7, Z).double(), torch.rand(7).double() + 0.5
    for make, k in ((likelihoods.Poisson, 1), (likelihoods.NegativeBinomial, 2)):
        network = networks.MLP(Z, (), 3 if k == 1 else (k, 3)).double()
        mean = make(network)(z).mean
        exposed = make(network, exposure=1)(z, e, e.expand(4, 7)).mean
        floor = 1e-4 if k == 1 else 0.0
        torch.testing.assert_close(exposed - floor, e[:, None] * (mean - floor))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["Poisson", "NegativeBinomial"])
def test_a_library_size_explains_the_counts(name: str) -> None:
    """Simulated counts of known sizes: given the size, they are likelier by many errors."""
    torch.manual_seed(1)
    size = (torch.rand(400) * 3).exp()

    def model(exposure: int | None) -> VAE:
        k = 1 if name == "Poisson" else 2
        network = networks.MLP(Z, (), 5 if k == 1 else (k, 5))
        likelihood = getattr(likelihoods, name)(network, exposure=exposure)
        encoder = networks.MLP(5, (20,), 2 * Z)
        return VAE(priors.StandardNormal(Z), likelihood, posteriors.Normal(encoder))

    truth = model(0)
    with torch.no_grad():
        x = truth.model(None, size)
    # The parameters that made the counts score them best: without the size, at its mean.
    own = log_likelihood(truth, (x, size), 500, estimator="prior", seed=0).values
    mean = size.mean().expand(400)
    other = log_likelihood(truth, (x, mean), 500, estimator="prior", seed=0).values
    gain = own - other
    assert gain.mean() > 5 * gain.std() / len(gain) ** 0.5
    batches = (x[:100], size[:100])
    history = fit(model(0), batches, epochs=3, batch_size=50, optim=optim.Adam(lr=1e-2))
    assert history.cost[-1] < history.cost[0]
    for wrong, error, message in (
        (-size, ValueError, "context: got an exposure of -"),
        (size[:, None], ValueError, r"context: got shape \(1, 1\) as entry 0, expected \(1,\)"),
        (size.double(), TypeError, "context: got an exposure of torch.float64"),
    ):
        with pytest.raises(error, match=message):
            log_likelihood(truth, (x, wrong), 2)
    with pytest.raises(ValueError, match="context: got 0 entries, expected one with the index 0"):
        log_likelihood(truth, x, 2)
    with pytest.raises(ValueError, match="exposure: got True, expected an index"):
        likelihoods.Poisson(networks.MLP(Z, (), 5), exposure=True)


# Training.


@pytest.mark.slow
def test_fit_takes_a_context_with_levels_or_floats(digits: Dataset) -> None:
    """And learns from it: another label makes an image less likely."""
    x, y = digits.train[:2000, ::4, ::4], digits.train_labels[:2000]
    x_test, y_test = digits.test[:200, ::4, ::4], digits.test_labels[:200]
    vae = labelled((7, 7), 10)
    history = fit(
        vae, (x, y), test=(x_test, y_test), epochs=6, batch_size=50, pixels="binary",
        optim=optim.Adam(lr=5e-3),
    )  # fmt: skip
    assert history.test_cost[-1] < history.test_cost[0]
    binary = datasets.binarize(x_test, seed=0)
    own = log_likelihood(vae, (binary, y_test), 50, seed=0).values
    other = log_likelihood(vae, (binary, (y_test + 1) % 10), 50, seed=0).values
    gain = own - other
    assert gain.mean() > 4 * gain.std() / len(gain) ** 0.5


def test_the_steps_are_those_of_a_loop_by_hand() -> None:
    x, y = (torch.rand(20, 3, 2) < 0.5).float(), torch.randint(4, (20,))
    start = labelled()
    vae, own = copy.deepcopy(start), copy.deepcopy(start)
    fit(vae, (x, y), epochs=2, batch_size=8, seed=3)
    svi = SVI(own.model, own.guide, optim.Adam(lr=1e-3), objectives.trace_elbo())
    for epoch in (1, 2):
        with seeded(3, epoch, 1):
            order = torch.randperm(20)
        with seeded(3, epoch):
            for index in order.split(8):
                svi.step(x[index], y[index])
    for a, b in zip(vae.parameters(), own.parameters(), strict=True):
        assert torch.equal(a, b)


def test_fit_refuses_a_wrong_context_before_the_first_step() -> None:
    vae, x, y = labelled(), torch.ones(6, 3, 2), torch.arange(6) % 4
    start = copy.deepcopy(vae.state_dict())
    late = torch.cat((y[:5], torch.tensor([4])))
    for batch, test, message in (
        ((x, late), None, "context: got labels from 0 to 4"),
        ((x, y), (x, late), "context: got labels from 0 to 4"),
        ((x, y[:3]), None, "context: got 3 rows as entry 0, expected 6"),
        (x, None, "context: got 0 entries"),
        ((x, y), x, "context: got 0 entries"),
        (((255 * x).byte(), late), None, "pixels: got None"),
    ):
        with pytest.raises(ValueError, match=message):
            fit(vae, batch, test=test, epochs=1, batch_size=3)
    with pytest.raises(ValueError, match="context: got labels from 0 to 4"):
        fit(vae, ((255 * x).byte(), late), epochs=1, batch_size=3, pixels="binary")
    for name, value in vae.state_dict().items():
        assert torch.equal(value, start[name])


@pytest.mark.parametrize(
    "dtype", [torch.uint8, torch.int8, torch.int16, torch.uint16, torch.uint32]
)
def test_labels_of_any_integers_are_taken(dtype: torch.dtype) -> None:
    """torch has few operators for unsigned integers of more than 8 bits."""
    vae, x, y = labelled(), torch.ones(6, 3, 2), torch.arange(6) % 4
    own = y.to(dtype)
    expected = log_likelihood(vae, (x, y), 50, seed=0).values
    assert torch.equal(log_likelihood(vae, (x, own), 50, seed=0).values, expected)
    found = fit(vae, (x, own), epochs=1, batch_size=3, test=(x, own), seed=0)
    other = labelled()
    assert found.epoch == fit(other, (x, y), epochs=1, batch_size=3, seed=0).epoch
    with pytest.raises(ValueError, match="context: got labels from 0 to 4"):
        fit(vae, (x, torch.tensor([0, 1, 2, 3, 4, 0]).to(dtype)), epochs=1, batch_size=3)


@pytest.mark.slow
def test_objectives_are_compared_and_gradients_measured_with_a_context(digits: Dataset) -> None:
    train = digits.train[:64, ::4, ::4], digits.train_labels[:64]
    test = digits.test[:20, ::4, ::4], digits.test_labels[:20]
    result = compare(
        lambda: labelled((7, 7), 10, relaxed=True), train, test, seeds=(0,), epochs=1,
        batch_size=16, pixels="grey", num_samples=5, draws=20,
    )  # fmt: skip
    assert result.pixels == "binary"
    binary = datasets.binarize(test[0], seed=0)
    assert result.log_likelihoods["trace_elbo"][0].data_hash == data_hash((binary, test[1]))
    vae = labelled((7, 7), 10)
    measured = measure(vae, (binary, test[1]), {"elbo": objectives.trace_elbo()}, 20, batch_size=5)
    assert measured["elbo"]["decoder"].variance > 0
    with pytest.raises(ValueError, match="context: got labels from"):
        measure(vae, (binary, test[1] + 9), {"elbo": objectives.trace_elbo()}, 20)
