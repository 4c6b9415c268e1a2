"""The hierarchical VAE: three layers of which everything is known, and its laws."""

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import ELBO, SVI
from torch import Tensor, nn
from torch.distributions import MultivariateNormal, kl_divergence

from pyro_vae import (
    elbo,
    fit,
    likelihoods,
    load,
    log_likelihood,
    models,
    networks,
    objectives,
    optim,
    posteriors,
    priors,
    save,
)
from pyro_vae.evaluation import active_units, calibration, certify, elbo_gap
from pyro_vae.models.layers import Inference
from pyro_vae.objectives import Compiled

from ..conftest import needs_compiler
from ..tolerances import CLOSE
from ..vaes import binary, parameters

KINDS: tuple[Inference, ...] = ("bottom-up", "ladder", "top-down")


class Affine(nn.Module):
    """A normal whose mean is a sum of affine maps of its inputs, with a constant scale."""

    def __init__(self, *maps: Tensor, shift: Tensor, scale: Tensor) -> None:
        super().__init__()
        self.maps = nn.ParameterList(maps)
        self.shift = nn.Parameter(shift)
        self.scale = nn.Parameter(scale)

    def forward(self, *inputs: Tensor) -> dist.Distribution:
        loc = self.shift
        for value, weight in zip(inputs, self.maps, strict=True):
            loc = loc + value @ weight.T
        return dist.Normal(loc, self.scale.expand(loc.shape)).to_event(1)


class Top(nn.Module):
    """A standard normal in float64."""

    def forward(self) -> dist.Distribution:
        return dist.Normal(torch.zeros(2).double(), 1.0).to_event(1)


@dataclass
class Chain:
    """z3 ~ N(0, I), z2 ~ N(A z3, s2^2), z1 ~ N(B z2, s1^2), x ~ N(W z1 + b, s^2), all diagonal.

    W has orthogonal columns, so each dimension is a chain of its own, with y = W'(x - b) / |w|^2,
    and all conditional distributions of the layers are normals with diagonal covariance.
    """

    vae: models.HierarchicalVAE
    evidence: MultivariateNormal
    x: Tensor


A, B = torch.tensor([0.9, -0.7]).double(), torch.tensor([1.2, 0.8]).double()
S, S1, S2 = 0.6, 0.5, 0.8


def chain(inference: Inference, off: float = 0.0) -> Chain:
    """The chain with its exact posteriors, or with means that are `off` and wider scales."""
    weight = torch.linalg.qr(torch.randn(5, 2).double()).Q * torch.tensor([1.0, 0.7])
    bias = torch.randn(5).double()
    above = A.square() + S2**2  # the marginal variance of z2
    wide = B.square() * above + S1**2  # that of z1
    norm = weight.square().sum(0)
    t1 = S**2 / norm  # the variance of y given z1, z2 / B and z3 / AB
    t2 = (t1 + S1**2) / B.square()
    t3 = (t2 + S2**2) / A.square()
    up = torch.diag(1 / norm) @ weight.T  # y = up (x - b)

    def normal(*terms: tuple[Tensor, Tensor, Tensor | float]) -> Affine:
        """The product of normals N(matrix @ input, variance), as a part; `off` if it is."""
        precision = sum((1 / torch.as_tensor(variance) for _, _, variance in terms))
        maps = [
            (1 / torch.as_tensor(variance) / precision)[:, None] * matrix
            for matrix, _, variance in terms
        ]
        shift = sum(-m @ origin for m, (_, origin, _) in zip(maps, terms, strict=True))
        scale = (1 / torch.as_tensor(precision)).sqrt() * (1 + off)
        taken = [m for m, (matrix, _, _) in zip(maps, terms, strict=True) if matrix.any()]
        return Affine(*taken, shift=torch.as_tensor(shift) + off, scale=scale)

    zero, none = torch.zeros(2, 2).double(), torch.zeros(2).double()
    y1 = (up, bias, t1)
    y2 = (torch.diag(1 / B) @ up, bias, t2)
    y3 = (torch.diag(1 / (A * B)) @ up, bias, t3)
    prior = (zero, none, torch.ones(2).double())
    own: dict[Inference, list[nn.Module]] = {
        "bottom-up": [
            normal(y1, (zero, none, wide)),
            normal((torch.diag(1 / B), none, S1**2 / B.square()), (zero, none, above)),
            normal((torch.diag(1 / A), none, S2**2 / A.square()), prior),
        ],
        "ladder": [normal(y1), normal(y2), normal(y3, prior)],
        "top-down": [
            normal(y1, (torch.diag(B), none, torch.full((2,), S1**2).double())),
            normal(y2, (torch.diag(A), none, torch.full((2,), S2**2).double())),
            normal(y3, prior),
        ],
    }
    full = torch.full((2,), 1.0).double()
    vae = models.HierarchicalVAE(
        [
            Affine(torch.diag(B), shift=none, scale=S1 * full),
            Affine(torch.diag(A), shift=none, scale=S2 * full),
            Top(),
        ],
        Affine(weight, shift=bias, scale=torch.full((5,), S).double()),
        own[inference],
        inference,
    )
    covariance = weight @ torch.diag(wide) @ weight.T + S**2 * torch.eye(5).double()
    evidence = MultivariateNormal(bias, covariance)
    return Chain(vae, evidence, evidence.sample((7,)))


def bernoulli(inference: Inference, skip: bool = False) -> models.HierarchicalVAE:
    """Two small nonlinear layers over 6 binary pixels."""
    q1, q2 = {
        "bottom-up": (networks.MLP(6, (8,), 2 * 3), networks.MLP(3, (8,), 2 * 2)),
        "ladder": (networks.MLP(6, (8,), 2 * 3), networks.MLP(6, (8,), 2 * 2)),
        "top-down": (
            networks.Joint(
                networks.MLP(6, (8,), 4), networks.MLP(2, (), 4), networks.MLP(8, (8,), 2 * 3)
            ),
            networks.MLP(6, (8,), 2 * 2),
        ),
    }[inference]
    return models.HierarchicalVAE(
        [posteriors.Normal(networks.MLP(2, (8,), 2 * 3)), priors.StandardNormal(2)],
        likelihoods.Bernoulli(networks.MLP(5 if skip else 3, (8,), 6)),
        [posteriors.Normal(q1), posteriors.Normal(q2)],
        inference,
        skip,
    )


@pytest.mark.parametrize("inference", KINDS)
def test_exact_posteriors_have_no_error(inference: Inference) -> None:
    case = chain(inference)
    exact = case.evidence.log_prob(case.x)
    result = log_likelihood(case.vae, case.x, 4, seed=0)
    torch.testing.assert_close(result.values, exact)
    assert result.mc_error < 1e-7  # the root of float64's rounding
    torch.testing.assert_close(elbo(case.vae, case.x, num_samples=3, seed=0).values, exact)


@pytest.mark.parametrize("inference", KINDS)
def test_the_log_likelihood_is_the_closed_form(inference: Inference) -> None:
    case = chain(inference, off=0.15)
    result = log_likelihood(case.vae, case.x, 4000, seed=0)
    assert abs(result.mean - case.evidence.log_prob(case.x).mean().item()) < 3 * result.mc_error
    assert 0 < result.mc_error < 0.02
    ais = log_likelihood(case.vae, case.x, 64, estimator="ais:10:2", seed=0)
    assert abs(ais.mean - case.evidence.log_prob(case.x).mean().item()) < 3 * ais.mc_error
    x = case.vae.model(num_samples=200)
    sides = certify(case.vae, x=x, num_samples=50, estimator="importance", seed=0)
    exact = case.evidence.log_prob(sides.x)
    for side, bound in ((1, exact - sides.lower), (-1, exact - sides.upper)):
        assert side * bound.mean().item() > -3 * bound.std().item() / math.sqrt(len(x))


@pytest.mark.parametrize("inference", KINDS)
def test_draws_of_the_model_have_its_marginals(inference: Inference) -> None:
    case = chain(inference)
    x = case.vae.generate(20_000, sample=True)
    error = case.evidence.variance.sqrt() / math.sqrt(len(x))
    assert ((x.mean(0) - case.evidence.mean).abs() < 4 * error).all()
    # Of a normal, the variance of the sample variance is 2 sigma^4 / (n - 1).
    spread = case.evidence.variance * math.sqrt(2 / len(x))
    assert ((x.var(0) - case.evidence.variance).abs() < 4 * spread).all()


def test_a_level_holds_the_layers_above_it() -> None:
    """The variance within a row is that of z1 to the level, and between rows that of the rest."""
    case = chain("bottom-up")
    vae = case.vae
    x = vae.model(num_samples=3)
    z = vae.embed(x)
    again = vae.generate(4, level=0, z=z)
    torch.testing.assert_close(again, vae.decode(z).repeat_interleave(4, 0))
    rows = vae.generate(5000, level=1, z=z).view(3, 5000, 5)
    weight, bias = vae.likelihood.maps[0], vae.likelihood.shift
    loc = (z[1] * B) @ weight.T + bias
    scale = ((S1**2 * weight.square()).sum(1) / 5000).sqrt()
    assert ((rows.mean(1) - loc).abs() < 4 * scale).all()
    rows = vae.generate(5000, level=2, z=z).view(3, 5000, 5)
    loc = (z[2] * A * B) @ weight.T + bias
    variance = (weight.square() * (S1**2 + S2**2 * B.square())).sum(1)
    assert ((rows.mean(1) - loc).abs() < 4 * (variance / 5000).sqrt()).all()
    assert vae.generate(5, level=2).unique(dim=0).shape == (5, 5)
    assert vae.generate(5, level=0).unique(dim=0).shape == (1, 5)


def test_it_is_the_pair_that_a_user_would_write() -> None:
    """Sites, order and log-densities of the programs, with particles on the left."""
    vae = bernoulli("bottom-up")
    p1, p2 = vae.priors
    q1, q2 = vae.posteriors

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z2 = pyro.sample("z2", p2())
            z1 = pyro.sample("z1", p1(z2))
            pyro.sample("x", vae.likelihood(z1), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z2", q2(pyro.sample("z1", q1(x))))

    x = binary(8)
    for particles in (1, 3):
        losses = []
        for programs in ((vae.model, vae.guide), (model, guide)):
            torch.manual_seed(0)
            losses.append(objectives.iwae(particles).loss(*programs, x))
        assert losses[0] == losses[1]


@pytest.mark.slow
@pytest.mark.parametrize(("estimator", "samples"), [("prior", 20000), ("ais:100:5", 64)])
def test_with_skips_the_evidence_is_that_of_all_layers_together(
    estimator: str, samples: int
) -> None:
    """x ~ N(W z + b, S^2) of all layers z, whose covariance follows from the chain's."""
    torch.manual_seed(0)
    parts = chain("ladder", off=0.1).vae
    weight, bias = torch.randn(5, 6).double() / 2, torch.randn(5).double()
    likelihood = Affine(weight, shift=bias, scale=torch.full((5,), S).double())
    own = list(parts.priors), likelihood, list(parts.posteriors)
    vae = models.HierarchicalVAE(*own, "ladder", skip=True)
    down2, down1 = torch.diag(A), torch.diag(B)
    third = torch.eye(2).double()
    second = down2 @ down2.T + S2**2 * third
    first = down1 @ second @ down1.T + S1**2 * third
    rows = [first, down1 @ second, down1 @ down2], [second, down2], [third]
    upper = torch.cat([torch.cat((torch.zeros(2, 6 - 2 * len(r)).double(), *r), 1) for r in rows])
    covariance = upper.triu() + upper.triu(1).T
    noise = S**2 * torch.eye(5).double()
    evidence = MultivariateNormal(bias, weight @ covariance @ weight.T + noise)
    x = evidence.sample((6,))
    result = log_likelihood(vae, x, samples, estimator=estimator, seed=0)
    assert result.mc_error < 0.05
    assert abs(result.mean - evidence.log_prob(x).mean().item()) < 3 * result.mc_error


@pytest.mark.parametrize("inference", KINDS)
@pytest.mark.parametrize("skip", [False, True])
def test_a_trace_has_the_terms_of_its_definition(inference: Inference, skip: bool) -> None:
    vae = bernoulli(inference, skip).double()
    x = binary(4).double()
    trace = poutine.trace(vae.guide).get_trace(x)
    z1, z2 = trace.nodes["z1"]["value"], trace.nodes["z2"]["value"]
    q1 = {
        "bottom-up": lambda: vae.posteriors[0](x),
        "top-down": lambda: vae.posteriors[0](x, z2),
        "ladder": lambda: _product(vae.posteriors[0](x), vae.priors[0](z2)),
    }[inference]()
    q2 = vae.posteriors[1](z1 if inference == "bottom-up" else x)
    log_q = q1.log_prob(z1) + q2.log_prob(z2)
    torch.testing.assert_close(trace.log_prob_sum(), log_q.sum())
    z = torch.cat((z1, z2), -1) if skip else z1
    log_p = (
        vae.priors[1]().log_prob(z2)
        + vae.priors[0](z2).log_prob(z1)
        + vae.likelihood(z).log_prob(x)
    )
    model = poutine.trace(poutine.replay(vae.model, trace)).get_trace(x)
    torch.testing.assert_close(model.log_prob_sum(), log_p.sum())


def _product(q: Any, p: Any) -> dist.Distribution:
    """The product of two normals, by their precisions."""
    (a, s), (b, t) = ((d.base_dist.loc, d.base_dist.scale) for d in (q, p))
    precision = s**-2 + t**-2
    return dist.Normal((a * s**-2 + b * t**-2) / precision, precision**-0.5).to_event(1)


@pytest.mark.parametrize("inference", KINDS)
def test_the_analytic_kl_needs_the_order_of_the_model(inference: Inference) -> None:
    vae, x = bernoulli(inference), binary(8)
    if inference == "bottom-up":
        with pytest.raises(ValueError, match="the guide draws its sites in the order z1, z2"):
            elbo(vae, x, kl="analytic", seed=0)
        with pytest.raises(ValueError, match="analytic KL"):
            fit(vae, x, epochs=1, batch_size=8, objective=objectives.analytic_kl())
        return
    sampled, closed = (elbo(vae, x, num_samples=4000, kl=kl, seed=0) for kl in KLS)
    error = math.hypot(sampled.mc_error, closed.mc_error)
    assert abs(sampled.mean - closed.mean) < 4 * error
    assert closed.kl_mc_error < sampled.kl_mc_error


KLS: Any = "sampled", "analytic"


COMPILED = pytest.param(True, marks=[needs_compiler, pytest.mark.slow])


@pytest.mark.parametrize("compile", [False, COMPILED])
@pytest.mark.parametrize("inference", KINDS)
def test_the_history_has_the_kl_of_each_layer(inference: Inference, compile: bool) -> None:
    """The parts add up to the KL, and that of the top layer is in closed form."""
    vae, x, many = bernoulli(inference), binary(40), 500
    history = fit(
        vae,
        x,
        epochs=2,
        batch_size=16,
        objective=objectives.trace_elbo(many),
        optim=optim.from_torch(torch.optim.SGD, lr=0.0),
        compile=compile,
    )
    own = ["kl_z1", "kl_z2"] if inference == "bottom-up" else ["kl_z2", "kl_z1"]
    assert list(history)[3:6] == ["kl", *own]  # in the order of the guide
    for row in history.rows():
        assert row["kl_z1"] + row["kl_z2"] == pytest.approx(row["kl"], rel=1e-5)
        assert row["reconstruction"] + row["kl"] == pytest.approx(row["cost"], rel=1e-5)
    with torch.no_grad():
        below = vae.posteriors[0](x).sample((many,)) if inference == "bottom-up" else x
        q = vae.posteriors[1](below)
        z = q.sample(() if inference == "bottom-up" else (many,))
        kl = kl_divergence(q, vae.priors[1]()).mean().item()
        spread = (q.log_prob(z) - vae.priors[1]().log_prob(z)).std().item()
    error = 2 * spread / math.sqrt(many * len(x))  # at most two independent estimates
    assert history.kl_z2[-1] == pytest.approx(kl, abs=4 * error)


OBJECTIVES: dict[str, Callable[[], ELBO]] = {
    "trace_elbo": lambda: objectives.trace_elbo(2),
    "sticking_the_landing": lambda: objectives.sticking_the_landing(),
    "iwae": lambda: objectives.iwae(3),
    "dreg": lambda: objectives.dreg(3),
    "piwae": lambda: objectives.piwae(2, 2),
    "free_bits": lambda: objectives.free_bits({"z1": 0.1, "z2": 0.3}),
    "warm_up": lambda: objectives.warm_up(objectives.trace_elbo(), {"z1": 2, "z2": 4}),
}


FAST = "dreg", "free_bits"


@pytest.mark.parametrize("skip", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("inference", KINDS)
@pytest.mark.parametrize(
    "name", [n if n in FAST else pytest.param(n, marks=pytest.mark.slow) for n in OBJECTIVES]
)
def test_compiled_steps_are_the_uncompiled_ones(
    name: str, inference: Inference, skip: bool
) -> None:
    """By the graph that is compiled; the code generator is tested elsewhere."""

    def run(objective: ELBO) -> tuple[list[float], Tensor]:
        torch.manual_seed(5)
        vae, x = bernoulli(inference, skip).double(), binary(8).double()
        objective.loss(vae.model, vae.guide, x)  # Pyro counts the plates.
        torch.manual_seed(6)
        svi = SVI(vae.model, vae.guide, optim.Adam(lr=1e-2), objective)
        return [svi.step(x) for _ in range(5)], parameters(vae)

    compiled = Compiled(OBJECTIVES[name](), by_inductor=False)
    (losses, own), (expected, theirs) = run(compiled), run(OBJECTIVES[name]())
    assert losses == pytest.approx(expected, rel=CLOSE)
    torch.testing.assert_close(own, theirs, rtol=CLOSE, atol=CLOSE)


@pytest.mark.parametrize("name", ["sticking_the_landing", "dreg"])
@pytest.mark.parametrize("inference", ["ladder", "top-down", "bottom-up"])
def test_pathwise_gradients_have_the_mean_of_the_plain_ones(
    name: str, inference: Inference
) -> None:
    """Also where the guide takes the parameters of priors, as a ladder does."""
    torch.manual_seed(0)
    vae, x = bernoulli(inference).double(), binary(3).double()
    pair: tuple[ELBO, ELBO] = (objectives.sticking_the_landing(), objectives.trace_elbo())
    if name == "dreg":
        pair = (objectives.dreg(2), objectives.iwae(2))
    batch = x.repeat_interleave(1000, 0)
    means, errors = [], []
    for objective in pair:
        draws = []
        for seed in range(40):
            torch.manual_seed(seed)
            vae.zero_grad()
            objective.loss_and_grads(vae.model, vae.guide, batch)
            grads = [p.grad.flatten() for p in vae.parameters() if p.grad is not None]
            draws.append(torch.cat(grads) / len(batch))
        stacked = torch.stack(draws)
        means.append(stacked.mean(0))
        errors.append(stacked.std(0) / math.sqrt(len(draws)))
    error = (errors[0].square() + errors[1].square()).sqrt()
    # Of 300 numbers, the largest of so many t-values is below 5 but once in 10^4.
    assert ((means[0] - means[1]).abs() <= 5 * error + 1e-9).all()


def test_a_vamp_prior_at_the_top() -> None:
    """The top posterior takes x, so its average over pseudo-inputs is a prior of the top layer."""
    vae = bernoulli("top-down")
    vae.priors[1] = priors.VampPrior(vae.posteriors[1], torch.rand(4, 6))
    x = binary(8)
    history = fit(vae, x, epochs=3, batch_size=8)
    assert math.isfinite(history.cost[-1])
    assert "shared with the posteriors" in repr(vae)
    assert vae.generate(3).shape == (3, 6)


def test_a_context_comes_after_the_other_inputs() -> None:
    def joined(inputs: int, classes: int, out: int, entry: int = 0) -> nn.Module:
        network = networks.MLP(inputs + classes, (8,), out)
        return networks.Conditioned(network, (), classes=classes, entry=entry)

    torch.manual_seed(0)
    vae = models.HierarchicalVAE(
        [posteriors.Normal(joined(2, 3, 2 * 3)), priors.StandardNormal(2)],
        likelihoods.Bernoulli(joined(3, 3, 6)),
        [
            posteriors.Normal(networks.Conditioned(joined(8, 3, 2 * 3, entry=1), 2)),
            posteriors.Normal(joined(6, 3, 2 * 2)),
        ],
        "top-down",
    )
    x, label = binary(8), torch.arange(8) % 3
    history = fit(vae, (x, label), epochs=2, batch_size=8, objective=objectives.iwae(2))
    assert math.isfinite(history.cost[-1])
    assert vae.generate(2, context=label[:3]).shape == (6, 6)
    assert vae.reconstruct(x, context=label).shape == (8, 6)
    one, two = (log_likelihood(vae, (x, c), 50, seed=0).values for c in (label, (label + 1) % 3))
    assert not torch.allclose(one, two)
    with pytest.raises(ValueError, match="context: got labels from 3 to 3"):
        vae.reconstruct(x, context=torch.full((8,), 3))


@pytest.mark.parametrize("inference", KINDS)
def test_every_tool_takes_it(inference: Inference, tmp_path: Any) -> None:
    vae, x = bernoulli(inference), binary(16)
    history = fit(vae, x, epochs=2, batch_size=8, test=x, objective=objectives.dreg(2))
    assert len(history.test_cost) == 2
    assert {n: tuple(s.shape) for n, s in active_units(vae, x).by_site().items()} == {
        "z1": (3,),
        "z2": (2,),
    }
    assert math.isfinite(elbo_gap(vae, x, num_samples=10, steps=2, seed=0).approximation_mean)
    ranks = calibration(vae, 20, 9, x=x[:1], seed=0)
    assert len(ranks.p_values)
    save(vae, tmp_path / "run")
    other = bernoulli(inference)
    load(tmp_path / "run", into=other)
    assert torch.equal(parameters(other), parameters(vae))
    assert torch.equal(copy.deepcopy(vae).reconstruct(x), vae.reconstruct(x))


def test_one_layer_is_a_vae() -> None:
    prior, likelihood = priors.StandardNormal(2), likelihoods.Bernoulli(networks.MLP(2, (8,), 6))
    posterior = posteriors.Normal(networks.MLP(6, (8,), 2 * 2))
    x = binary(8)
    for inference in KINDS:
        vae = models.HierarchicalVAE([prior], likelihood, [posterior], inference)
        torch.testing.assert_close(vae.embed(x)[0], posterior(x).mean)
        exact = log_likelihood(vae, x, 100, seed=0).values
        assert exact.shape == (8,)


def test_functions_serve_as_parts() -> None:
    vae = models.HierarchicalVAE(
        [
            lambda z: dist.Normal(z, 1.0).to_event(1),
            lambda: dist.Normal(torch.zeros(2), 1.0).to_event(1),
        ],
        likelihoods.Gaussian(networks.MLP(2, (), 5), scale=1.0),
        [posteriors.Normal(networks.MLP(5, (), 4)), posteriors.Normal(networks.MLP(2, (), 4))],
    )
    assert vae.embed(torch.randn(7, 5))[1].shape == (7, 2)


def wrong(**changes: Any) -> models.HierarchicalVAE:
    own = bernoulli("bottom-up")
    arguments: dict[str, Any] = {
        "priors": list(own.priors),
        "likelihood": own.likelihood,
        "posteriors": list(own.posteriors),
    }
    return models.HierarchicalVAE(**(arguments | changes))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"priors": priors.StandardNormal(2)}, TypeError, r"priors: got .*, expected a list"),
        ({"priors": []}, ValueError, "priors: got none, expected a part for each layer"),
        ({"posteriors": [nn.Identity()]}, ValueError, "posteriors: got 1, expected 2"),
        ({"posteriors": [3, 4]}, TypeError, r"posteriors\[0\]: got an int"),
        ({"inference": "sideways"}, ValueError, "inference: got 'sideways', expected one of"),
        ({"skip": "yes"}, TypeError, "skip: got 'yes'"),
    ],
)
def test_wrong_arguments(changes: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        wrong(**changes)


def test_parts_that_do_not_fit_are_named() -> None:
    x, top = binary(8), priors.StandardNormal(2)
    wide = networks.MLP(2, (8,), 2 * 4)
    onto = posteriors.Squashed(posteriors.Normal(networks.MLP(2, (8,), 2 * 3)), 0, 1)
    cases: list[tuple[Any, str]] = [
        (posteriors.Normal(wide), "posteriors[0]: got batch_shape (8,) and event_shape (3,)"),
        (wide, "priors[0]: its forward returned a torch.Tensor"),
        (lambda: dist.Normal(0.0, 1.0), "priors[0]: its forward does not take 1 input"),
        (lambda z: dist.Normal(z, 1.0), "priors[0]: got batch_shape (8, 2) and event_shape ()"),
        (onto, "posteriors[0]: its support is Real, expected the prior's, OpenInterval(0, 1)"),
    ]
    for prior, message in cases:
        with pytest.raises((TypeError, ValueError)) as refused:
            wrong(priors=[prior, top]).guide(x)
        assert message in str(refused.value)
    squashed = posteriors.Squashed(posteriors.Normal(networks.MLP(6, (8,), 2 * 3)), -9, 9)
    vae = wrong(posteriors=[squashed, bernoulli("ladder").posteriors[1]], inference="ladder")
    with pytest.raises(ValueError, match=r"posteriors\[0\]: got .*, expected a normal with diag"):
        vae.guide(x)


def test_points_that_do_not_fit_are_named() -> None:
    vae, x = bernoulli("bottom-up", skip=True), binary(8)
    z = vae.embed(x)
    cases: Sequence[tuple[Any, str]] = [
        (lambda: vae.decode(z[0]), "z: got 1 layers, expected 2, z1 first"),
        (lambda: vae.decode((z[0], z[1][:3])), r"z: got \[8, 3\] rows"),
        (lambda: vae.generate(2, level=3), "level: got 3, expected 0 to 2"),
        (lambda: vae.generate(2, z=z), "z: got it without a level"),
        (lambda: vae.generate(2, level=-1), "level: got -1"),
        (lambda: vae.embed(x.long()), "x: got torch.int64"),
        (lambda: vae(x), "got a call, expected one of its methods"),
    ]
    for call, message in cases:
        with pytest.raises((TypeError, ValueError), match=message):
            call()
    assert bernoulli("ladder").decode(torch.zeros(3, 3)).shape == (3, 6)
