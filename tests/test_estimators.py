"""The estimators around the ELBO: identities, expected gradients, variances, refusals."""

import copy
import gc
import math
import pickle
from collections.abc import Callable

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import ELBO, SVI, RenyiELBO, Trace_ELBO
from torch import Tensor, nn

from pyro_vae import VAE, fit, likelihoods, networks, optim, posteriors, priors
from pyro_vae.objectives import elbo as objectives
from pyro_vae.objectives.terms import Recorded
from pyro_vae.objectives.warm_up import Annealed

from .conftest import needs_compiler
from .models import LinearGaussian, bernoulli_vae, linear_gaussian
from .swaps import PAIRS, data, vae_of

Program = tuple[Callable[..., object], Callable[..., object], tuple[Tensor, ...], list[Tensor]]


def program_of(case: LinearGaussian) -> Program:
    vae = case.vae
    return vae.model, vae.guide, (case.x,), list(vae.parameters())


def primed(objective: ELBO, program: Program) -> ELBO:
    """After its first loss, in which Pyro also runs the program once to look at the plates."""
    model, guide, args, _ = program
    objective.loss(model, guide, *args)
    return objective


def gradient(objective: ELBO, program: Program, seed: int = 0) -> tuple[float, list[Tensor]]:
    """One loss and its gradients, by a fixed noise."""
    model, guide, args, parameters = program
    if objective.max_plate_nesting == math.inf:
        primed(objective, program)
    torch.manual_seed(seed)
    for parameter in parameters:
        parameter.grad = None
    loss = objective.loss_and_grads(model, guide, *args)
    return loss, [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in parameters]


def gradients(objective: ELBO, program: Program, draws: int, first: int = 0) -> Tensor:
    """Flat gradients of independent losses, shape (draws, numbers)."""
    rows = [gradient(objective, program, first + seed)[1] for seed in range(draws)]
    return torch.stack([torch.cat([g.flatten() for g in row]) for row in rows])


def assert_same_mean(a: Tensor, b: Tensor | None = None, exact: Tensor | None = None) -> None:
    """The means of two samples of gradients agree within 5 standard errors, number by number.

    Of 50 numbers all do but once in 30,000 seeds.
    """
    means = a.mean(0), b.mean(0) if exact is None else exact
    variance = a.var(0) / len(a) + (0 if b is None else b.var(0) / len(b))
    assert ((means[0] - means[1]).abs() <= 5 * variance.sqrt() + 1e-9).all()


# Identities: value and gradient for the same noise.


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (lambda: objectives.iwae(5), lambda: RenyiELBO(0, 5, vectorize_particles=True)),
        (lambda: objectives.renyi(0.5, 5), lambda: RenyiELBO(0.5, 5, vectorize_particles=True)),
        (lambda: objectives.renyi(-2, 5), lambda: RenyiELBO(-2, 5, vectorize_particles=True)),
        (lambda: objectives.renyi(0, 5), lambda: objectives.iwae(5)),
        (lambda: objectives.iwae(1), lambda: objectives.trace_elbo()),
        (lambda: objectives.miwae(5, 1), lambda: objectives.trace_elbo(5)),
        (lambda: objectives.miwae(1, 5), lambda: objectives.iwae(5)),
        (lambda: objectives.ciwae(1, 5), lambda: objectives.trace_elbo(5)),
        (lambda: objectives.ciwae(0, 5), lambda: objectives.iwae(5)),
        (lambda: objectives.piwae(1, 5), lambda: objectives.iwae(5)),
        (lambda: objectives.piwae(5, 1), None),
        (lambda: objectives.dreg(1), lambda: objectives.sticking_the_landing()),
        (lambda: objectives.sticking_the_landing(3), None),
        (lambda: objectives.dreg(3), None),
    ],
)
def test_identities(one: Callable[[], ELBO], other: Callable[[], ELBO] | None) -> None:
    program = program_of(linear_gaussian(exact=False))
    loss, own = gradient(one(), program)
    model, guide, args, _ = program
    for method in ("loss", "differentiable_loss"):
        objective = primed(one(), program)
        torch.manual_seed(0)
        value = getattr(objective, method)(model, guide, *args)
        value = value.item() if isinstance(value, Tensor) else value
        assert value == pytest.approx(loss, rel=1e-12)
    if other is not None:
        expected, theirs = gradient(other(), program)
        assert loss == pytest.approx(expected, rel=1e-12)
        for a, b in zip(own, theirs, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


def log_weights(case: LinearGaussian, samples: int) -> Tensor:
    """log w of each sample and example, by the formula, with the noise of an objective."""
    q_z = case.vae.posterior(case.x)
    z = q_z.rsample((samples,))
    log_p = case.vae.prior().log_prob(z) + case.vae.likelihood(z).log_prob(case.x)
    return log_p - q_z.log_prob(z)


@pytest.mark.parametrize(
    ("make", "bound"),
    [
        (lambda: objectives.iwae(6), lambda w: (w.exp().mean(0)).log()),
        (lambda: objectives.miwae(2, 3), lambda w: w.exp().view(2, 3, -1).mean(1).log().mean(0)),
        (
            lambda: objectives.ciwae(0.3, 6),
            lambda w: 0.3 * w.mean(0) + 0.7 * w.exp().mean(0).log(),
        ),
        (lambda: objectives.renyi(0.25, 6), lambda w: (w.exp() ** 0.75).mean(0).log() / 0.75),
        (lambda: objectives.piwae(2, 3), lambda w: (w.exp().mean(0)).log()),
        (lambda: objectives.dreg(6), lambda w: (w.exp().mean(0)).log()),
        (lambda: objectives.sticking_the_landing(6), lambda w: w.mean(0)),
    ],
)
def test_values_are_those_of_the_formulas(
    make: Callable[[], ELBO], bound: Callable[[Tensor], Tensor]
) -> None:
    case = linear_gaussian(exact=False)
    torch.manual_seed(4)
    expected = -bound(log_weights(case, 6)).sum()
    objective = primed(make(), program_of(case))
    torch.manual_seed(4)
    loss = objective.loss(case.vae.model, case.vae.guide, case.x)
    assert loss == pytest.approx(expected.item())


def test_renyi_tends_to_the_elbo_as_alpha_goes_to_one() -> None:
    """At first order, L_alpha = ELBO + (1 - alpha) / 2 times the variance of the log-weights."""
    case = linear_gaussian(exact=False)
    torch.manual_seed(1)
    weights = log_weights(case, 8)
    slope = 0.5 * weights.var(0, correction=0).sum().item()

    def loss(objective: ELBO) -> float:
        primed(objective, program_of(case))
        torch.manual_seed(1)
        return objective.loss(case.vae.model, case.vae.guide, case.x)

    plain = loss(objectives.trace_elbo(8))
    for distance, relative in ((1e-3, 1e-2), (-1e-3, 1e-2), (1e-5, 1e-3)):
        change = plain - loss(objectives.renyi(1 - distance, 8))
        assert change / distance == pytest.approx(slope, rel=relative)


def test_renyi_keeps_its_digits_near_one_where_pyros_does_not() -> None:
    """Which is why ours is not Pyro's, beside its missing differentiable_loss."""
    vae, x = bernoulli_vae(), torch.bernoulli(torch.full((50, 6), 0.5))
    alpha = 1 - 1e-7

    def loss(objective: ELBO) -> float:
        torch.manual_seed(0)
        return objective.loss(vae.model, vae.guide, x)

    plain = loss(objectives.trace_elbo(4))
    assert loss(objectives.renyi(alpha, 4)) == pytest.approx(plain, rel=1e-5)
    pyros = RenyiELBO(alpha, 4, vectorize_particles=True)
    assert loss(pyros) != pytest.approx(plain, rel=1e-3)
    assert not hasattr(pyros, "differentiable_loss")


# Expected gradients.


def exact_elbo_gradient(case: LinearGaussian) -> Tensor:
    """Of the negative ELBO, whose terms are all closed forms."""
    vae = case.vae
    vae.zero_grad()
    q_z = vae.posterior(case.x).base_dist
    layer, scale = vae.likelihood.network.layers[0], vae.likelihood.scale
    mean = q_z.loc @ layer.weight.T + layer.bias
    log_p = dist.Normal(mean, scale).log_prob(case.x).sum()
    log_p = log_p - (q_z.scale.square() @ layer.weight.square().sum(0)).sum() / (2 * scale**2)
    kl = 0.5 * (q_z.loc**2 + q_z.scale**2 - 2 * q_z.scale.log() - 1).sum()
    (kl - log_p).backward()
    return torch.cat([p.grad.flatten() for p in vae.parameters()])


@pytest.mark.parametrize(
    "make",
    [
        lambda: objectives.trace_elbo(),
        lambda: objectives.trace_elbo(3),
        lambda: objectives.analytic_kl(2),
        lambda: objectives.sticking_the_landing(),
        lambda: objectives.sticking_the_landing(3),
        lambda: objectives.warm_up(objectives.sticking_the_landing(), 5, start=1.0),
        lambda: objectives.miwae(3, 1),
        lambda: objectives.ciwae(1, 2),
    ],
)
def test_gradients_of_the_elbo_are_the_exact_one_in_the_mean(make: Callable[[], ELBO]) -> None:
    case = linear_gaussian(exact=False)
    assert_same_mean(gradients(make(), program_of(case), 500), exact=exact_elbo_gradient(case))


K = 4


@pytest.fixture(scope="module")
def importance_weighted() -> tuple[LinearGaussian, Tensor]:
    """A VAE, and the gradient of iwae(K) on it by the plain way."""
    torch.manual_seed(11)
    case = linear_gaussian(exact=False)
    return case, gradients(objectives.iwae(K), program_of(case), 1500, first=10_000)


@pytest.mark.parametrize(
    "make",
    [
        lambda: objectives.dreg(K),
        lambda: objectives.miwae(3, K),
        lambda: objectives.ciwae(0, K),
        lambda: objectives.renyi(0, K),
    ],
)
def test_gradients_of_one_importance_weighted_target_agree_in_the_mean(
    make: Callable[[], ELBO], importance_weighted: tuple[LinearGaussian, Tensor]
) -> None:
    case, plain = importance_weighted
    assert_same_mean(gradients(make(), program_of(case), 1000), plain)


def test_piwae_is_one_bound_for_the_model_and_another_for_the_guide() -> None:
    """For each noise, not only in the mean."""
    program = program_of(linear_gaussian(exact=False))
    names = [name for name, _ in program[0].__self__.named_parameters()]
    loss, own = gradient(objectives.piwae(2, 3), program)
    whole, of_model = gradient(objectives.iwae(6), program)
    _, of_guide = gradient(objectives.miwae(2, 3), program)
    assert loss == pytest.approx(whole)
    for name, mine, model, guide in zip(names, own, of_model, of_guide, strict=True):
        expected = guide if name.startswith("posterior") else model
        torch.testing.assert_close(mine, expected)
    # The two differ, or this would say nothing.
    assert not torch.allclose(of_model[0], of_guide[0])


def test_piwae_survives_groups_whose_weights_vanish_beside_others() -> None:
    """With log-weights hundreds of nats apart, a ratio of the two would be infinite."""
    vae = VAE(
        priors.StandardNormal(2),
        likelihoods.Gaussian(networks.MLP(2, (), 5), scale=1e-2),
        posteriors.Normal(networks.MLP(5, (), 4)),
    )
    objectives.piwae(4, 2).loss_and_grads(vae.model, vae.guide, torch.randn(6, 5))
    for parameter in vae.parameters():
        assert torch.isfinite(parameter.grad).all()


# Guides whose latents depend on each other.


class TwoLayers:
    """z2 ~ N(0, 1), z1 ~ N(a z2, s1^2), x ~ N(b z1, s^2), with its exact guide or one near."""

    a, b, s1, s = 0.8, 1.3, 0.6, 0.5

    def __init__(self, *, exact: bool) -> None:
        marginal = (self.b * self.s1) ** 2 + self.s**2
        variance2 = 1 / (1 + (self.a * self.b) ** 2 / marginal)
        variance1 = 1 / (1 / self.s1**2 + (self.b / self.s) ** 2)
        values = [
            variance2 * self.a * self.b / marginal,
            math.log(variance2) / 2,
            variance1 * self.a / self.s1**2,
            variance1 * self.b / self.s**2,
            math.log(variance1) / 2,
        ]
        off = 0.0 if exact else 0.15
        self.guide_parameters = nn.Parameter(torch.tensor(values, dtype=torch.float64) + off)
        self.model_parameter = nn.Parameter(torch.tensor(self.b, dtype=torch.float64))
        self.x = torch.randn(6).double()

    def model(self, x: Tensor) -> None:
        b = pyro.param("b", self.model_parameter)
        with pyro.plate("data", len(x)):
            z2 = pyro.sample("z2", dist.Normal(torch.zeros(()).double(), 1.0))
            z1 = pyro.sample("z1", dist.Normal(self.a * z2, self.s1))
            pyro.sample("x", dist.Normal(b * z1, self.s), obs=x)

    def guide(self, x: Tensor) -> None:
        g2, log_s2, c1, d1, log_s1 = pyro.param("guide", self.guide_parameters)
        with pyro.plate("data", len(x)):
            z2 = pyro.sample("z2", dist.Normal(g2 * x, log_s2.exp()))
            pyro.sample("z1", dist.Normal(c1 * z2 + d1 * x, log_s1.exp()))

    def program(self) -> Program:
        pyro.clear_param_store()
        parameters: list[Tensor] = [self.guide_parameters, self.model_parameter]
        return self.model, self.guide, (self.x,), parameters


@pytest.mark.parametrize(
    ("make", "plain"),
    [
        (lambda: objectives.sticking_the_landing(2), lambda: objectives.trace_elbo(2)),
        (lambda: objectives.dreg(3), lambda: objectives.iwae(3)),
    ],
)
def test_latents_may_depend_on_each_other(
    make: Callable[[], ELBO], plain: Callable[[], ELBO]
) -> None:
    program = TwoLayers(exact=False).program()
    assert_same_mean(
        gradients(make(), program, 700), gradients(plain(), program, 700, first=20_000)
    )


def test_piwae_over_latents_that_depend_on_each_other() -> None:
    program = TwoLayers(exact=False).program()
    own = gradient(objectives.piwae(2, 3), program)[1]
    torch.testing.assert_close(own[1], gradient(objectives.iwae(6), program)[1][1])
    torch.testing.assert_close(own[0], gradient(objectives.miwae(2, 3), program)[1][0])


@pytest.mark.parametrize(
    "make", [lambda: objectives.sticking_the_landing(2), lambda: objectives.dreg(3)]
)
def test_the_landing_sticks_at_the_exact_posterior(make: Callable[[], ELBO]) -> None:
    """The guide's gradient is zero for each draw; the model's, and the plain guide's, are not."""
    for program, guide_numbers in (
        (TwoLayers(exact=True).program(), 5),
        (program_of(linear_gaussian(exact=True)), -24),
    ):
        own = gradients(make(), program, 20)
        of_guide = own[:, guide_numbers:] if guide_numbers < 0 else own[:, :guide_numbers]
        of_model = own[:, :guide_numbers] if guide_numbers < 0 else own[:, guide_numbers:]
        assert of_guide.abs().max() < 1e-9
        assert of_model.std(0).max() > 1e-2
        assert gradients(objectives.trace_elbo(2), program, 20).std(0).min() > 1e-2


def test_a_vamp_prior_that_shares_the_encoder_keeps_its_gradient() -> None:
    """The shared encoder gets what a guide of its own and a prior's copy of it get, together.

    With one pseudo-input the prior is a normal. It differs from the posterior by a pixel that
    only the scale looks at; that pixel has no part in z, so the exact posterior is known.
    """
    x_dim, s = 4, 0.7
    encoder = networks.MLP(x_dim, (), 2)
    decoder = networks.MLP(1, (), x_dim)
    pseudo_input = torch.tensor([[0.3, -0.2, 0.5, 1.0]]).double()
    weight = torch.tensor([0.9, -0.4, 0.6, 0.0]).double()
    variance = (1 + weight.square().sum() / s**2).reciprocal()  # with the prior N(m, 1)

    def raw(scale: float) -> float:
        return math.log(math.expm1(scale - posteriors.SCALE_FLOOR))

    shared = posteriors.Normal(encoder).double()
    with torch.no_grad():
        gain = variance * weight / s**2
        mean = 0.0  # of the prior, and so of the encoder at the pseudo-input
        encoder.layers[0].weight[0] = gain
        encoder.layers[0].weight[0, 3] = mean - gain @ pseudo_input[0]
        encoder.layers[0].weight[1] = 0.0
        encoder.layers[0].weight[1, 3] = raw(1.0) - raw(variance.sqrt().item())
        encoder.layers[0].bias[:] = torch.tensor([0.0, raw(variance.sqrt().item())])
        decoder.layers[0].weight[:, 0] = weight
        decoder.layers[0].bias[:] = 0.0
    likelihood = likelihoods.Gaussian(decoder, scale=s).double()
    x = torch.cat((torch.randn(6, 3), torch.zeros(6, 1)), 1).double()
    prior = priors.VampPrior(shared, pseudo_input, low=-10.0, high=10.0).double()
    apart = copy.deepcopy(prior)

    together = VAE(prior, likelihood, shared)
    separate = VAE(apart, copy.deepcopy(likelihood), copy.deepcopy(shared))
    for vae in (together, separate):  # the guide is the exact posterior
        log_w = log_weights(LinearGaussian(vae, None, None, None, x), 5)
        assert log_w.std(0).max() < 1e-6

    def of(vae: VAE, objective: ELBO, part: str, seed: int) -> Tensor:
        vae.zero_grad()
        torch.manual_seed(seed)
        objective.loss_and_grads(vae.model, vae.guide, x)
        encoder = [*getattr(vae, part).parameters()][-2:]  # weight and bias
        return torch.cat([p.grad.flatten() for p in encoder])

    objective = objectives.sticking_the_landing()
    for seed in range(10):
        shared_gradient = of(together, objective, "posterior", seed)
        of_prior = of(separate, objective, "prior", seed)
        of_guide = of(separate, objective, "posterior", seed)
        assert of_guide.abs().max() < 1e-5
        assert of_prior.abs().max() > 1e-2
        torch.testing.assert_close(shared_gradient, of_prior + of_guide, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("loc", [0.0, 15.0, 25.0])
@pytest.mark.parametrize(
    ("make", "plain"),
    [
        (lambda: objectives.sticking_the_landing(2), lambda: objectives.trace_elbo(2)),
        (lambda: objectives.dreg(2), lambda: objectives.iwae(2)),
    ],
)
def test_saturated_sigmoids_leave_value_and_gradient(
    make: Callable[[], ELBO], plain: Callable[[], ELBO], loc: float
) -> None:
    """Where float32 draws round to the end of a box, whose y is no longer to be had from z."""
    encoder = networks.MLP(3, (), 2)
    with torch.no_grad():
        encoder.layers[0].weight.zero_()
        encoder.layers[0].bias.copy_(torch.tensor([loc, 0.5]))
    q = posteriors.Squashed(posteriors.Normal(encoder), 0.0, 1.0)
    vae = VAE(priors.Uniform(1), likelihoods.Bernoulli(networks.MLP(1, (), 3)), q)
    program: Program = (vae.model, vae.guide, (torch.ones(20, 3),), list(q.parameters()))
    value, expected = gradient(make(), program)[0], gradient(plain(), program)[0]
    assert value == pytest.approx(expected, rel=1e-5)
    own, other = gradients(make(), program, 100), gradients(plain(), program, 100, first=40_000)
    assert_same_mean(own.double(), other.double())
    # A gradient that had vanished would be told from this one.
    assert loc == 0 or own.mean(0).abs().max() > 20 * own.std(0).max() / 100**0.5


def signal_to_noise(objective: ELBO, program: Program, parameters: slice, draws: int) -> float:
    """Of the gradient: the mean over numbers of |mean| / standard deviation."""
    sample = gradients(objective, program, draws)[:, parameters]
    return (sample.mean(0).abs() / sample.std(0)).mean().item()


def test_the_encoders_signal_falls_with_k_by_iwae_and_not_by_dreg() -> None:
    """As 1 / sqrt(k) (arXiv 1802.04537, theorem 1) and as sqrt(k) (1810.04152, section 5)."""
    program = program_of(linear_gaussian(exact=False))
    encoder, decoder = slice(-24, None), slice(0, -24)
    draws = 200
    ratios = {
        (name, part): signal_to_noise(make(64), program, numbers, draws)
        / signal_to_noise(make(4), program, numbers, draws)
        for name, make in (("iwae", objectives.iwae), ("dreg", objectives.dreg))
        for part, numbers in (("encoder", encoder), ("decoder", decoder))
    }
    assert ratios["iwae", "encoder"] < 0.6
    assert ratios["dreg", "encoder"] > 1.2
    assert ratios["iwae", "decoder"] > 1.5
    assert ratios["dreg", "decoder"] > 1.5


# KL annealing.

ELBOS = {
    "trace_elbo": objectives.trace_elbo,
    "analytic_kl": objectives.analytic_kl,
    "sticking_the_landing": objectives.sticking_the_landing,
}


@pytest.mark.parametrize("name", ELBOS)
@pytest.mark.parametrize("particles", [1, 3])
def test_warm_up_at_weight_one_is_the_plain_objective_bit_for_bit(
    name: str, particles: int
) -> None:
    vae, x = bernoulli_vae(), torch.bernoulli(torch.full((20, 6), 0.5))
    program: Program = (vae.model, vae.guide, (x,), list(vae.parameters()))
    plain = gradient(ELBOS[name](particles), program)
    ended = objectives.warm_up(ELBOS[name](particles), steps=2)
    for _ in range(2):
        gradient(ended, program)
    for annealed in (ended, objectives.warm_up(ELBOS[name](particles), 7, start=1.0)):
        loss, own = gradient(annealed, program)
        assert loss == plain[0]
        assert all(torch.equal(a, b) for a, b in zip(own, plain[1], strict=True))


@pytest.mark.parametrize("name", ELBOS)
def test_warm_up_weighs_the_kl_alone(name: str) -> None:
    """In each step its own weight, and the recorded terms are those without one."""
    program = program_of(linear_gaussian(exact=False))
    model, guide, args, _ = program
    annealed = objectives.warm_up(ELBOS[name](), steps=4, start=0.2)
    plain, watched = Recorded(ELBOS[name]()), Recorded(annealed)
    for step, weight in enumerate((0.2, 0.4, 0.6, 0.8, 1.0, 1.0)):
        whole, _ = gradient(plain, program, step)
        assert plain.terms is not None
        likelihood, kl = plain.terms
        if name == "analytic_kl":  # its own KL, not that of the samples
            kl = whole + likelihood
        loss, _ = gradient(watched, program, step)
        assert loss == pytest.approx(-likelihood + weight * kl, rel=1e-6)
        assert watched.terms == pytest.approx(plain.terms, rel=1e-9)
        torch.manual_seed(step)
        annealed.loss(model, guide, *args)  # looks, and takes no step
    assert annealed.taken == 6


def test_warm_up_from_zero_leaves_the_reconstruction() -> None:
    program = program_of(linear_gaussian(exact=False))
    annealed = Recorded(objectives.warm_up(objectives.trace_elbo(2), 10))
    loss, _ = gradient(annealed, program)
    assert annealed.terms is not None
    assert loss == pytest.approx(-annealed.terms[0])
    assert annealed.terms[1] != 0


@pytest.mark.parametrize(
    "name", ["sticking_the_landing", "iwae:3", "dreg:3", "piwae:2:2", "warm_up:5:trace_elbo"]
)
def test_a_step_leaves_nothing_for_the_garbage_collector(name: str) -> None:
    """A graph that holds itself is freed when Python gets to it, gigabytes later."""
    case, objective = linear_gaussian(exact=False), objectives.parse(name)

    def tensors() -> int:
        return sum(issubclass(type(o), Tensor) for o in gc.get_objects())

    objective.loss_and_grads(case.vae.model, case.vae.guide, case.x)
    gc.collect()
    gc.disable()
    try:
        before = tensors()
        for _ in range(3):
            objective.loss_and_grads(case.vae.model, case.vae.guide, case.x)
        assert tensors() == before
    finally:
        gc.enable()


def test_a_warm_up_by_name() -> None:
    objective = objectives.parse("warm_up:500:sticking_the_landing:4")
    assert isinstance(objective, Annealed)
    assert objective.steps == 500
    assert objective.num_particles == 4
    assert "warm_up:steps:objective" in objectives.names()


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: objectives.warm_up(objectives.iwae(3), 5), ValueError, "importance weights"),
        (lambda: objectives.warm_up(objectives.dreg(3), 5), ValueError, "importance weights"),
        (lambda: objectives.warm_up(RenyiELBO(0, 2), 5), ValueError, "importance weights"),
        (
            lambda: objectives.warm_up(objectives.compiled(Trace_ELBO()), 5),
            TypeError,
            r"compiled\(warm_up",
        ),
        (lambda: objectives.warm_up(nn.Identity(), 5), TypeError, "got a Identity"),
        (
            lambda: objectives.warm_up(objectives.warm_up(Trace_ELBO(), 5), 5),
            TypeError,
            "got a Annealed",
        ),
        (lambda: objectives.warm_up(Trace_ELBO(), 0), ValueError, "steps: got 0"),
        (lambda: objectives.warm_up(Trace_ELBO(), 5, start=1.5), ValueError, "start: got 1.5"),
        (lambda: objectives.iwae(0), ValueError, "k: got 0"),
        (lambda: objectives.dreg(2.0), ValueError, "k: got 2.0"),
        (lambda: objectives.miwae(0, 2), ValueError, "m: got 0"),
        (lambda: objectives.piwae(2, 0), ValueError, "k: got 0"),
        (lambda: objectives.ciwae(1.5, 2), ValueError, "beta: got 1.5"),
        (lambda: objectives.ciwae(math.nan, 2), ValueError, "beta: got nan"),
        (lambda: objectives.renyi(1.0, 2), ValueError, "alpha: got 1.0"),
        (lambda: objectives.renyi(math.inf, 2), ValueError, "alpha: got inf"),
        (lambda: objectives.sticking_the_landing(0), ValueError, "num_particles: got 0"),
        (
            lambda: objectives.parse("elbow"),
            ValueError,
            r"got 'elbow', expected one of trace_elbo",
        ),
        (lambda: objectives.parse("iwae"), ValueError, r"got 'iwae'.*iwae:k"),
        (lambda: objectives.parse("iwae:8:8"), ValueError, "got 'iwae:8:8'"),
        (lambda: objectives.parse("warm_up:5:iwae:8"), ValueError, "of importance weights, exp"),
        (lambda: objectives.parse("warm_up:0:trace_elbo"), ValueError, "steps: got 0"),
        (lambda: objectives.parse("warm_up:trace_elbo"), ValueError, "got 'warm_up:trace_elbo'"),
        (
            lambda: objectives.parse("warm_up:5:warm_up:5:trace_elbo"),
            ValueError,
            "got 'warm_up:5:warm_up",
        ),
        (lambda: objectives.parse("warm_up:5"), ValueError, "got 'warm_up:5', expected one of"),
        (lambda: objectives.parse("iwae:many"), ValueError, "got 'iwae:many'"),
        (lambda: objectives.parse("iwae:0"), ValueError, "k: got 0"),
    ],
)
def test_wrong_numbers_are_named(
    make: Callable[[], object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        make()


# What a weighted objective cannot take.

WEIGHTED = [
    lambda: objectives.iwae(2),
    lambda: objectives.dreg(2),
    lambda: objectives.piwae(2, 1),
    lambda: objectives.renyi(0.5, 2),
]


@pytest.mark.parametrize("make", WEIGHTED)
def test_scaled_sites_are_refused_inside_a_logarithm(make: Callable[[], ELBO]) -> None:
    vae, x = bernoulli_vae(), torch.bernoulli(torch.full((4, 6), 0.5))
    scaled = poutine.scale(vae.model, 0.5)
    with pytest.raises(ValueError, match=r'site ".": .* scaled by 0.5, expected no poutine.scale'):
        make().loss_and_grads(scaled, vae.guide, x)

    def model() -> None:
        with pyro.plate("data", 4, subsample_size=2) as index:
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x[index, 0])

    def guide() -> None:
        with pyro.plate("data", 4, subsample_size=2):
            pyro.sample("z", dist.Normal(torch.zeros(2), 1.0))

    with pytest.raises(ValueError, match="subsampled plate"):
        make().loss(model, guide)


def test_an_elbo_takes_scaled_sites() -> None:
    """Half of the data stands for all: the gradient is that of Pyro's, in the mean."""
    case = linear_gaussian(exact=False)
    vae, x = case.vae, case.x
    scaled = poutine.scale(vae.model, 2.0), poutine.scale(vae.guide, 2.0)
    program: Program = (*scaled, (x,), list(vae.parameters()))
    own = gradients(objectives.sticking_the_landing(), program, 500)
    assert_same_mean(own, exact=2 * exact_elbo_gradient(case))


def test_masked_examples_have_no_part() -> None:
    case = linear_gaussian(exact=False)
    vae, x = case.vae, case.x
    mask = torch.tensor([True, False] * 3 + [True])
    for make in (*WEIGHTED, lambda: objectives.sticking_the_landing(2)):
        masked = poutine.mask(vae.model, mask), poutine.mask(vae.guide, mask)
        own = gradient(make(), (*masked, (x,), list(vae.parameters())))[1]
        changed = torch.where(mask.unsqueeze(-1), x, x + 3)
        same = gradient(make(), (*masked, (changed,), list(vae.parameters())))[1]
        for a, b in zip(own, same, strict=True):
            torch.testing.assert_close(a, b)


@pytest.mark.parametrize("make", [*WEIGHTED, lambda: objectives.sticking_the_landing()])
def test_guides_must_be_reparameterized_and_whole(make: Callable[[], ELBO]) -> None:
    def model() -> None:
        with pyro.plate("data", 3):
            z = pyro.sample("z", dist.Bernoulli(0.5))
            pyro.sample("x", dist.Normal(z, 1.0), obs=torch.zeros(3))

    def guide() -> None:
        with pyro.plate("data", 3):
            pyro.sample("z", dist.Bernoulli(0.3))

    with pytest.raises(ValueError, match=r'site "z": the guide\'s Bernoulli has no rsample'):
        make().loss(model, guide)
    with (
        pytest.warns(UserWarning, match="Found vars in model but not guide"),
        pytest.raises(ValueError, match=r'site "z": latent in the model, and not in the guide'),
    ):
        make().loss(model, lambda: None)


# With all that is around them.

ALL = [
    lambda: objectives.sticking_the_landing(),
    lambda: objectives.sticking_the_landing(2),
    lambda: objectives.iwae(3),
    lambda: objectives.dreg(3),
    lambda: objectives.miwae(2, 2),
    lambda: objectives.ciwae(0.5, 3),
    lambda: objectives.piwae(2, 2),
    lambda: objectives.renyi(0.5, 3),
    lambda: objectives.warm_up(objectives.trace_elbo(), 3),
    lambda: objectives.warm_up(objectives.analytic_kl(2), 3),
    lambda: objectives.warm_up(objectives.sticking_the_landing(2), 3),
]


@pytest.mark.parametrize("make", ALL)
def test_fit_trains_by_each(make: Callable[[], ELBO]) -> None:
    vae = bernoulli_vae(z_dim=2)
    x = torch.bernoulli(torch.full((200, 6), 0.3))
    objective = make()
    history = fit(
        vae, x, epochs=8, batch_size=50, objective=objective, optim=optim.Adam(lr=1e-2), test=x
    )
    assert history.test_cost[-1] < history.test_cost[0]
    likelihood = [r + k for r, k in zip(history.reconstruction, history.kl, strict=True)]
    assert all(math.isfinite(v) for v in likelihood)
    again = pickle.loads(pickle.dumps(objective))
    assert math.isfinite(again.loss(vae.model, vae.guide, x))


@needs_compiler
@pytest.mark.parametrize("make", [ALL[1], ALL[3], ALL[6], ALL[7], ALL[8]])
def test_compiled_steps_are_the_uncompiled_ones(make: Callable[[], ELBO]) -> None:
    """Over several steps, as the weight of a warm-up moves inside of the graph."""

    def run(compiled: bool) -> tuple[list[float], Tensor]:
        torch.manual_seed(5)
        vae = bernoulli_vae(z_dim=2)
        x = torch.bernoulli(torch.full((16, 6), 0.3))
        objective = objectives.compiled(make()) if compiled else make()
        svi = SVI(vae.model, vae.guide, optim.Adam(lr=1e-2), objective)
        losses = [svi.step(x) for _ in range(5)]
        return losses, torch.cat([p.detach().flatten() for p in vae.parameters()])

    (own, weights), (expected, theirs) = run(True), run(False)
    assert own == pytest.approx(expected, rel=1e-4)
    torch.testing.assert_close(weights, theirs, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("prior", "posterior"), PAIRS)
def test_path_gradients_of_every_pair_agree_with_plain_ones_in_the_mean(
    prior: str, posterior: str
) -> None:
    """Which they do only where each posterior scores a value that is not its own draw."""
    vae, x = vae_of(prior, posterior).double(), data("Bernoulli").double()
    program: Program = (vae.model, vae.guide, (x,), list(vae.parameters()))
    draws, particles = 60, 8
    assert_same_mean(
        gradients(objectives.sticking_the_landing(particles), program, draws),
        gradients(objectives.trace_elbo(particles), program, draws, first=30_000),
    )
