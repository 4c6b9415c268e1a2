"""Path gradients: latents that depend on each other, exact guides, shared encoders."""

import copy
import math
from collections.abc import Callable

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import ELBO
from torch import Tensor, nn

from pyro_vae import VAE, likelihoods, networks, objectives, posteriors, priors

from ..losses import COPIES, Program, gradient, gradients, log_weights, program_of
from ..swaps import PAIRS, data, slow_but, vae_of
from ..tolerances import rounding, same_mean
from ..vaes import LinearGaussian, linear_gaussian


class TwoLayers:
    """z2 ~ N(0, 1), z1 ~ N(a z2, s1^2), x ~ N(b z1, s^2), with its exact guide or one near."""

    a, b, s1, s = 0.8, 1.3, 0.6, 0.5

    def __init__(self, *, exact: bool, copies: int = 1) -> None:
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
        self.x = torch.randn(6).repeat(copies).double()

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
    program = TwoLayers(exact=False, copies=COPIES).program()
    same_mean(gradients(make(), program), gradients(plain(), program, first=20_000))


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
    program: Program = (vae.model, vae.guide, (torch.ones(100, 3),), list(q.parameters()))
    value, expected = gradient(make(), program)[0], gradient(plain(), program)[0]
    # Of each example the densities of z and of y = logit z, and the slope between them, count.
    error = rounding(100 * 8) * 100 * (3 * loc + 10)
    assert value == pytest.approx(expected, abs=error)
    own, other = gradients(make(), program, 30), gradients(plain(), program, 30, first=40_000)
    same_mean(own.double(), other.double())
    # A gradient that had vanished would be told from this one.
    assert loc == 0 or own.mean(0).abs().max() > 20 * own.std(0).max() / 30**0.5


@pytest.mark.parametrize(("prior", "posterior"), slow_but(PAIRS, {"StandardNormal"}))
def test_path_gradients_of_every_pair_agree_with_plain_ones_in_the_mean(
    prior: str, posterior: str
) -> None:
    """Which they do only where each posterior scores a value that is not its own draw."""
    vae, x = vae_of(prior, posterior).double(), data("Bernoulli").repeat(10, 1).double()
    program: Program = (vae.model, vae.guide, (x,), list(vae.parameters()))
    same_mean(
        gradients(objectives.sticking_the_landing(), program, 40),
        gradients(objectives.trace_elbo(), program, 40, first=30_000),
    )
