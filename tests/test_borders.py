"""Right programs and values at the border of what is refused, which have to pass.

``docs/refusals.md`` names one for each function that raises; the others are in the tests of their
subject.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO
from torch import Tensor, nn
from torch.distributions import constraints
from torch.nn.modules.module import register_module_forward_hook

from pyro_vae import (
    VAE,
    Pair,
    datasets,
    elbo,
    fit,
    flows,
    gradients,
    likelihoods,
    log_likelihood,
    networks,
    objectives,
    optim,
    plots,
    posteriors,
    priors,
)
from pyro_vae.distributions import (
    NormalMixture,
    check_analytic_kl,
    check_finite,
    check_on_support,
)
from pyro_vae.evaluation import (
    active_units,
    calibration,
    certify,
    diagnose,
    elbo_gap,
    posterior_predictive,
)
from pyro_vae.training import Averaging, EarlyStopping, History
from pyro_vae.utils import checks
from pyro_vae.utils.context import as_batch, as_context
from pyro_vae.utils.shapes import as_shape

from .pairs import fine, guide
from .vaes import Given, bernoulli_vae, binary, linear_gaussian

TINY, GREATEST = torch.finfo(torch.float32).tiny, torch.finfo(torch.float32).max

TAKEN: dict[str, Callable[[], Any]] = {
    "a count of one": lambda: checks.check_count("k", 1),
    "a count of none, where none is one": lambda: checks.check_count("k", 0, low=0),
    "a count of NumPy": lambda: checks.check_count("k", np.int64(1)),
    "the first index": lambda: checks.check_index("entry", 0),
    "the least seed": lambda: checks.check_seed(0),
    "the greatest seed": lambda: checks.check_seed(2**32 - 1),
    "no seed": lambda: checks.check_seed(None),
    "the least positive number": lambda: checks.check_positive("limit", 5e-324),
    "a tensor of one number": lambda: checks.check_positive("limit", torch.tensor([1e-30])),
    "the least number": lambda: checks.check_number("lr", -0.0, 0),
    "the greatest number": lambda: checks.check_number("goal", 1.7e308),
    "NaN, where it is a number": lambda: checks.check_number("threshold", math.nan, nan=True),
    "no number, where none is needed": lambda: checks.check_number("goal", None, none=True),
    "a flag of NumPy": lambda: checks.check_flag("log", np.bool_(False)),
    "an empty text": lambda: checks.check_text("title", ""),
    "a path": lambda: checks.check_path("folder", Path()),
    "no path, where none is needed": lambda: checks.check_path("keep", None, none=True),
    "a class as a function": lambda: checks.check_function("activation", nn.ReLU),
    "no function, where none is needed": lambda: checks.check_function("init", None, none=True),
    "an empty mapping, where it may be": lambda: checks.check_mapping("a", {}, empty=True),
    "a mapping of one": lambda: checks.check_mapping("curves", {"a": 1}),
    "one value": lambda: checks.check_values("sizes", torch.zeros(1)),
    "values of NumPy": lambda: checks.check_values("sizes", np.zeros(1)),
    "a tensor without entries": lambda: checks.check_tensor("z", torch.zeros(0, 2), "N", "z_dim"),
    "one example of no numbers": lambda: checks.check_examples("x", torch.zeros(1)),
    "the most degrees of freedom": lambda: checks.check_df(1000.0),
    "the narrowest interval": lambda: checks.check_interval(1.0, 1 + 2**-23),
    "the widest interval": lambda: checks.check_interval(-GREATEST / 2, GREATEST / 2),
    "all reals as bounds": lambda: checks.check_bounds(-math.inf, math.inf),
    "a module without parameters": lambda: checks.check_module("network", nn.Identity()),
    "a shape of no dimensions": lambda: as_shape("out_shape", ()),
    "a shape of one": lambda: as_shape("out_shape", np.int64(1)),
    "a tuple of x alone": lambda: as_batch((torch.zeros(1),)),
    "a list of x and its context": lambda: as_batch([torch.zeros(2, 3), torch.zeros(2)]),
    "a context of points": lambda: as_context((torch.tensor(3),), points=True),
    "no context": lambda: as_context(None, 5),
    "two levels": lambda: likelihoods.DiscretizedLogistic(Given(2, 3), levels=2),
    "the least scale": lambda: likelihoods.Gaussian(Given(3), scale=TINY),
    "a relaxed Bernoulli": lambda: likelihoods.Bernoulli(Given(3), relaxed=True),
    "one latent of a full normal": lambda: posteriors.MultivariateNormal(Given(2)),
    "one component of one latent": lambda: posteriors.Mixture(Given(3), components=1),
    "one latent of a normal": lambda: posteriors.Normal(Given(2)),
    "one number for the flow": lambda: posteriors.Flow(Given(5), 2, hidden=(3,)),
    "a network that does not say": lambda: posteriors.Normal(nn.Linear(3, 4)),
    "pseudo-inputs at both ends": lambda: priors.VampPrior(
        posteriors.Normal(Given(2)), torch.tensor([[0.0, 1.0]])
    ),
    "one halving of one pixel": lambda: networks.ConvEncoder((1, 1), 1, channels=(1,)),
    "no hidden layers": lambda: networks.MLP(1, (), ()),
    "a negative factor": lambda: networks.Scaled(Given(3), -1e-30),
    "rates and decays of zero": lambda: optim.Adam(0.0, betas=(0.0, 0.0), weight_decay=0.0),
    "the least norm": lambda: optim.Adam(clip_norm=5e-324),
    "a state of nothing": lambda: optim.Adam().set_state({}),
    "a name of one letter": lambda: VAE(
        priors.StandardNormal(1), bernoulli_vae().likelihood, bernoulli_vae().posterior, name="v"
    ),
    "digits without a root": lambda: datasets.load("digits", root=None),
}


@pytest.mark.parametrize("case", TAKEN)
def test_values_at_the_border_are_taken(case: str) -> None:
    TAKEN[case]()


# Distributions.


def test_the_ends_of_a_support_are_on_it() -> None:
    check_finite("x", torch.full((3,), GREATEST))  # whose sum is infinite
    for support in (constraints.unit_interval, constraints.interval(0.0, torch.tensor([1.0]))):
        check_on_support("x", torch.tensor([[0.0], [1.0]]), support)
    check_on_support("x", torch.eye(3), constraints.simplex)
    check_on_support("x", torch.zeros(0, 3), constraints.simplex)


@pytest.mark.parametrize("relaxed", [False, True])
def test_x_at_the_ends_of_its_support_is_scored_and_trained_on(relaxed: bool) -> None:
    network, q = networks.MLP(1, (), 6), posteriors.Normal(networks.MLP(6, (), 2))
    continuous = VAE(priors.StandardNormal(1), likelihoods.ContinuousBernoulli(network), q)
    x = torch.tensor([[0.5 * relaxed, 1.0] * 3, [1.0, 0.0] * 3])
    assert log_likelihood(continuous, x, 5, seed=0).values.isfinite().all()
    vae = VAE(priors.StandardNormal(1), likelihoods.Bernoulli(network, relaxed), q)
    for pair in (vae, Pair(vae.model, vae.guide, vae=vae)):
        assert len(fit(pair, x, test=x, epochs=1, batch_size=2).cost) == 1


def test_an_exposure_may_be_of_any_size() -> None:
    z, exposure = torch.zeros(2, 1), torch.tensor([TINY, GREATEST])
    rate = likelihoods.Poisson(networks.MLP(1, (), 3), exposure=0)
    rate.check_context(exposure)
    assert rate(z, exposure.clamp_max(1e9)).mean.isfinite().all()


def test_closed_forms_that_are_finite_are_taken() -> None:
    box = dist.Uniform(torch.zeros(2), torch.ones(2)).to_event(1)
    inner = dist.Uniform(torch.zeros(2), 0.5 * torch.ones(2)).to_event(1)
    for q in (box, inner):  # as far as the prior's box, and inside of it
        check_analytic_kl(q, box)


def test_the_mean_of_a_narrow_component_may_be_as_far_as_digits_last() -> None:
    loc, scale = torch.tensor([[-1.0], [1.0]]), torch.full((2, 1), 2.0**-20)
    q = NormalMixture(torch.zeros(2), loc, scale, validate_args=True)
    expected = dist.Normal(0.0, 2.0**-20).log_prob(torch.zeros(2)) - math.log(2)
    # Two squares of 2^20 standard deviations cancel in float64.
    torch.testing.assert_close(q.log_prob(loc), expected, rtol=0, atol=4 * 2.0 ** (40 - 53))


def test_what_a_flow_of_zuko_gives_is_a_distribution() -> None:
    flow = flows.FromZuko(flows.spline(2, transforms=1, hidden=(3,))())
    z = flow.rsample((4,))
    torch.testing.assert_close(flow.log_prob(z), flow.flow.log_prob(z.clone()))


# Models and guides.


def test_one_example_of_one_number_is_data() -> None:
    vae = bernoulli_vae(x_dim=1)
    x = torch.ones(1, 1)
    values = log_likelihood(vae, x, 3, seed=0).values
    assert torch.equal(log_likelihood(vae, (x,), 3, seed=0).values, values)
    with pytest.warns(UserWarning, match="each epoch is one batch"):
        assert len(fit(vae, x, epochs=1).cost) == 1
    fit(vae, x, epochs=1, batch_size=1, callbacks=(lambda pair, history: None,))


def swapping(x: Tensor) -> None:
    """Its sites are the same for each number of examples, and come in another order."""
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        names = ["a", "b"] if len(x) > 1 else ["b", "a"]
        for name in names:
            pyro.sample(name, dist.Normal(z[..., None], 1.0).to_event(1), obs=x)


@pytest.mark.parametrize(
    "model", [poutine.scale(fine, scale=1.0), poutine.mask(fine, mask=True), swapping]
)
def test_what_leaves_each_example_its_weight_is_taken(model: Callable[[Tensor], Any]) -> None:
    x = torch.randn(5, 1)
    result = log_likelihood(x=x, num_samples=30, model=model, guide=guide, seed=0)
    if model is not swapping:
        plain = log_likelihood(x=x, num_samples=30, model=fine, guide=guide, seed=0)
        assert torch.equal(result.values, plain.values)


def test_a_program_may_change_a_copy_of_x() -> None:
    def copying(x: Tensor) -> None:
        fine(x.clone().clamp_(-1, 1))

    x = torch.randn(6, 1)
    loc = nn.Parameter(torch.zeros(()))
    pair = Pair(copying, lambda x: guide(x + loc), shift=nn.ParameterList([loc]))
    before = x.clone()
    fit(pair, x, epochs=1, batch_size=2)
    assert torch.equal(x, before)


def two_observed(x: Tensor) -> None:
    """Observes something beside x."""
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("length", dist.Normal(z, 1.0), obs=x.norm(dim=-1))
        pyro.sample("x", dist.Normal(z[..., None], 1.0).to_event(1), obs=x)


def test_a_site_that_is_named_x_is_simulated() -> None:
    pair, x = Pair(two_observed, guide), torch.randn(4, 1)
    assert certify(pair, x=x, num_samples=2, estimator="prior", seed=0).x.shape == (4, 1)
    check = posterior_predictive(pair, x, lambda x: x[..., 0], 5, seed=0)
    assert check.replicated.shape == (5, 4)


# Evaluations.


def test_two_examples_are_enough_to_compare() -> None:
    vae, x = bernoulli_vae(), binary(2)
    assert active_units(vae, x, threshold=0).statistic.shape == (1,)
    assert diagnose(vae, x, num_samples=1, history={"cost": [1.0]}).measured
    assert elbo(vae, x[:1], 1, kl="analytic", seed=0).values.isfinite().all()


def test_one_row_of_a_context_is_taken_in_turn() -> None:
    def likelihood(z: Tensor, c: Tensor) -> dist.Distribution:
        return dist.Normal(z + c, 1.0).to_event(1)

    q = posteriors.Normal(networks.MLP(1, (), 2))
    vae = VAE(priors.StandardNormal(1), likelihood, q)
    found = calibration(vae, 8, 3, context=torch.ones(1, 1), method="mcmc:1:1", seed=0)
    assert found.ranks.shape == (2, 8)


def test_a_scale_that_z_does_not_move_has_an_exact_likelihood() -> None:
    network = networks.MLP(2, (), (2, 5))
    with torch.no_grad():
        network.layers[0].weight[5:] = 0.0  # of the raw scales
    posterior = posteriors.Normal(networks.MLP(5, (), 4))
    vae = VAE(priors.StandardNormal(2), likelihoods.Gaussian(network), posterior).double()
    x = torch.randn(3, 5).double()
    exact = log_likelihood(vae, x, estimator="exact").values
    scale = vae.likelihood(torch.zeros(2).double()).base_dist.scale
    weight, bias = network.layers[0].weight[:5], network.layers[0].bias[:5]
    covariance = weight @ weight.T + scale.square().diag()
    expected = torch.distributions.MultivariateNormal(bias, covariance).log_prob(x)
    torch.testing.assert_close(exact, expected.detach())


@pytest.mark.parametrize("kind", ["Normal", "Beta", "MultivariateNormal"])
def test_a_guide_without_a_network_is_refined(kind: str) -> None:
    """A number is added to each parameter of its distribution, under whatever name they are."""

    def posterior(x: Tensor) -> dist.Distribution:
        first = x[..., :1].sigmoid()
        if kind == "Beta":
            return dist.Beta(1 + first, 2.0).to_event(1)
        if kind == "Normal":
            return dist.Normal(first, 1.0).to_event(1)
        return dist.MultivariateNormal(first, torch.eye(1))

    prior = priors.Uniform(1) if kind == "Beta" else priors.StandardNormal(1)
    vae = VAE(prior, bernoulli_vae().likelihood, posterior)
    assert elbo_gap(vae, binary(3), 30, steps=2, seed=0).refined.isfinite().all()


def test_an_interval_may_hold_nearly_nothing_or_all() -> None:
    result = log_likelihood(bernoulli_vae(), binary(3), 30, seed=0)
    narrow, wide = result.interval(1e-12), result.interval(1 - 1e-12)
    assert wide[0] < narrow[0] <= result.mean <= narrow[1] < wide[1] < math.inf


def test_a_batch_may_be_all_examples() -> None:
    case = linear_gaussian(exact=False)
    elbos = {"elbo": objectives.trace_elbo()}
    found = gradients.measure(case.vae, case.x, elbos, draws=20, batch_size=len(case.x))
    assert found["elbo"]["encoder"].variance > 0
    fit(case.vae, case.x, epochs=1, batch_size=len(case.x))


# Training.


@pytest.mark.parametrize(("fraction", "held_out"), [(1 / 40, 1), (39 / 40, 39)])
def test_a_fraction_may_leave_one_example(fraction: float, held_out: int) -> None:
    vae, held = bernoulli_vae(), set[float]()
    numbered = torch.arange(40.0)[:, None].expand(40, 6)

    def look(x: Tensor) -> Tensor:
        held.update(() if vae.training else x[:, 0].tolist())
        return torch.zeros_like(x)

    fit(vae, numbered, epochs=1, batch_size=1, validation=fraction, transform=look)
    assert len(held) == held_out


def normed(norm: nn.Module) -> VAE:
    layers = nn.Sequential(norm, nn.Linear(6, 2))
    posterior = posteriors.Normal(networks.Folded(layers, 6, 2))
    return VAE(priors.StandardNormal(1), bernoulli_vae().likelihood, posterior)


@pytest.mark.parametrize(
    ("norm", "accumulate"), [(nn.LayerNorm(6), 3), (nn.GroupNorm(2, 6), 3), (nn.BatchNorm1d(6), 1)]
)
def test_norms_of_single_examples_are_taken_in_shares(norm: nn.Module, accumulate: int) -> None:
    assert len(fit(normed(norm), binary(8), epochs=1, batch_size=4, accumulate=accumulate).cost)


def test_an_average_goes_with_a_stop_that_restores_nothing() -> None:
    settings: dict[str, Any] = {"validation": 0.5, "epochs": 2, "batch_size": 4}
    for average, stop in (
        (Averaging(), EarlyStopping(1, restore_best=False)),
        (Averaging(evaluate=False), EarlyStopping(1)),
    ):
        fit(bernoulli_vae(), binary(8), average=average, callbacks=[stop], **settings)
        assert average.pair is not None


def test_the_greatest_parameter_is_finite(tmp_path: Path) -> None:
    def fill(pair: Pair, history: History) -> None:
        with torch.no_grad():
            next(pair.parameters()).fill_(GREATEST)

    settings: dict[str, Any] = {"batch_size": 4, "checkpoint": tmp_path, "callbacks": [fill]}
    assert fit(bernoulli_vae(), binary(8), epochs=1, **settings).ended == "epochs"


def test_a_history_may_have_no_rows(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("epoch,cost\n")
    assert dict(History.load_csv(tmp_path / "metrics.csv")) == {"epoch": [], "cost": []}


# Compiled programs.


def reads_nothing(x: Tensor) -> None:
    """Chooses by ``torch.where``, from an array of as many numbers as a graph holds."""
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
        scale = torch.where(z > 0, 2.0, 1.0) + float(LARGE[0])
        pyro.sample("x", dist.Normal(z[..., None], scale[..., None]).to_event(1), obs=x)


LARGE = np.ones(10**6)


@pytest.mark.usefixtures("code")
def test_a_choice_without_an_if_is_static() -> None:
    """Also after a hook of all modules that is there no longer."""
    register_module_forward_hook(lambda *_: None).remove()
    x, losses = torch.randn(6, 1), []
    for objective in (Trace_ELBO(), objectives.compiled(Trace_ELBO())):
        torch.manual_seed(1)
        svi = SVI(reads_nothing, guide, optim.Adam(), objective)
        losses.append([svi.evaluate_loss(x) for _ in range(2)])
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)


# Charts.


def test_charts_take_the_least_that_can_be_drawn() -> None:
    plots.latent(torch.randn(1, 3), torch.zeros(1, dtype=torch.long), dims=(2, 0))
    plots.ranks(torch.tensor([[0, 5]]), 5, ["a"])
    plots.bounds([1], [0.0], [math.nan])
    plots.bands([1], {"a": [[1.0]]}, "nats")
    plots.lines({"a": ([], [])}, "x", "y")
    plots.training_curves({"epoch": [1], "cost": [0.0]})
    plots.side_by_side({"a": torch.zeros(1, 1, 1)})
    plots.generated(torch.zeros(1, 1), columns=1)
    plots.latent(torch.eye(3)[:2], torch.zeros(2))  # two points have a variance
    plots.dots({"a": {"ELBO": [0.0]}}, "nats")

    def decode(z: Tensor) -> Tensor:
        return z.sum(-1)[:, None, None]

    plots.traversal(decode, torch.eye(2)[:, :1], rows=1, columns=1, low=1e-6, high=1 - 1e-6)
    plots.interpolation(decode, torch.eye(2), torch.eye(2), columns=2, spherical=True)
    nearly = torch.tensor([[-1.0, 1e-3]])  # a shortest arc from (1, 0) there is
    plots.interpolation(decode, torch.eye(2)[:1], nearly, columns=2, spherical=True)
    with plots.style("paper", width="icml", columns=2), plots.style(width=1e-3):
        pass
    plt.close("all")
