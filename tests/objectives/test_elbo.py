"""The ELBO: sampled and analytic KL agree in the mean; the closed form never falls back."""

import math
from collections.abc import Callable

import pyro
import pyro.distributions as dist
import pyro.infer.inspect
import pyro.optim
import pytest
import torch
from pyro.infer import ELBO, SVI
from torch import Tensor, nn

from pyro_vae import VAE, elbo, fit, likelihoods, networks, objectives, posteriors, presets
from pyro_vae.datasets import Dataset, to_pixels

from ..losses import COPIES, exact_elbo_gradient, gradients, program_of
from ..tolerances import rounding, within
from ..vaes import VAE_PRESETS, bernoulli_vae, binary, given, linear_gaussian


@pytest.mark.parametrize("preset", VAE_PRESETS)
def test_sampled_and_analytic_kl_agree_for_every_preset(preset: str, digits: Dataset) -> None:
    vae = presets.build(preset, shape=digits.shape)
    assert vae.preset is not None
    x = to_pixels(digits.test[:16], vae.preset["pixels"])
    c = given(preset, (16,))
    sampled = elbo(vae, (x, *c), num_samples=200, seed=0)
    analytic = elbo(vae, (x, *c), num_samples=200, seed=1, kl="analytic")
    assert analytic.kl_mc_error == 0
    difference = sampled.kl_mean - analytic.kl_mean
    assert abs(difference) < 5 * sampled.kl_mc_error
    difference = sampled.mean - analytic.mean
    assert abs(difference) < 5 * math.hypot(sampled.mc_error, analytic.mc_error)
    # The lecture's slide, from the posterior's own numbers.
    with torch.no_grad():
        q = vae.posterior(x, *c).base_dist
    loc, scale = q.loc.double(), q.scale.double()
    lecture = 0.5 * (loc**2 + scale**2 - (scale**2).log() - 1).sum(1)
    terms = 0.5 * (loc**2 + scale**2 + (scale**2).log().abs() + 1).sum(1)
    error = rounding(8 * loc.shape[1]) * terms  # of float32, though the result is in float64
    assert ((analytic.kl - lecture).abs() <= error).all()


@pytest.mark.parametrize("particles", [1, 3])
def test_the_two_objectives_agree_in_the_mean(particles: int) -> None:
    model = linear_gaussian(exact=False, examples=70)
    draws = 60

    def losses(objective: ELBO) -> Tensor:
        with torch.no_grad():
            return torch.tensor(
                [objective.loss(model.vae.model, model.vae.guide, model.x) for _ in range(draws)]
            ).double()

    sampled = losses(objectives.trace_elbo(particles))
    analytic = losses(objectives.analytic_kl(particles))
    error = math.sqrt(((sampled.var() + analytic.var()) / draws).item())
    assert abs((sampled.mean() - analytic.mean()).item()) < 5 * error
    # Both are the exact bound: E_q log p(x|z) of a Gaussian is a closed form too.
    with torch.no_grad():
        q = model.vae.posterior(model.x).base_dist
        weight = model.vae.likelihood.network.layers[0].weight
        mean = model.vae.decode(q.loc)
        scale = model.vae.likelihood.scale
        log_p = dist.Normal(mean, scale).log_prob(model.x).sum(1)
        log_p -= (q.scale**2 @ (weight**2).sum(0)) / (2 * scale**2)
        kl = 0.5 * (q.loc**2 + q.scale**2 - (q.scale**2).log() - 1).sum(1)
    exact = -(log_p - kl).sum()
    assert abs((analytic.mean() - exact).item()) < 5 * analytic.std().item() / math.sqrt(draws)


class Prior(nn.Module):
    def __init__(self, prior: dist.Distribution) -> None:
        super().__init__()
        self.prior = prior

    def forward(self) -> dist.Distribution:
        return self.prior


UNREGISTERED = dist.StudentT(4.0, torch.zeros(2), 1.0).to_event(1)


def vae_with(prior: dist.Distribution) -> VAE:
    return VAE(
        Prior(prior),
        likelihoods.Bernoulli(networks.MLP(2, (), 6)),
        posteriors.Normal(networks.MLP(6, (), 4)),
    )


def test_analytic_kl_raises_before_the_first_step_where_there_is_no_closed_form() -> None:
    vae = vae_with(UNREGISTERED)
    x = torch.bernoulli(torch.full((8, 6), 0.3))
    before = [p.clone() for p in vae.parameters()]
    message = r"Independent\(Normal\), Independent\(StudentT\).*trace_elbo"
    svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 0.1}), objectives.analytic_kl())
    with pytest.raises(ValueError, match=message):
        svi.step(x)
    with pytest.raises(ValueError, match=message):
        fit(vae, x, epochs=1, batch_size=4, objective=objectives.analytic_kl())
    with pytest.raises(ValueError, match=message):
        elbo(vae, x, kl="analytic")
    assert all(torch.equal(a, b) for a, b in zip(before, vae.parameters(), strict=True))
    assert math.isfinite(elbo(vae, x).mean)


def test_analytic_kl_raises_where_the_guide_is_not_reparameterized() -> None:
    """Pyro looks at that only while validation is on, and `fit` turns it off."""

    def model() -> None:
        pyro.sample("z", dist.Bernoulli(0.5))

    def guide() -> None:
        pyro.sample("z", dist.Bernoulli(0.3))

    with (
        pyro.validation_enabled(False),
        pytest.raises(ValueError, match='site "z": Bernoulli has no rsample'),
    ):
        objectives.analytic_kl().loss(model, guide)


@pytest.mark.parametrize("make", [objectives.trace_elbo, objectives.analytic_kl])
@pytest.mark.parametrize("particles", [0, -1, 1.5, True])
def test_wrong_particles_are_refused(make: object, particles: object) -> None:
    assert callable(make)
    with pytest.raises(ValueError, match="num_particles: got"):
        make(particles)


def test_analytic_kl_raises_where_the_guide_draws_in_another_order() -> None:
    """KL(q(z1), p(z1|z2)) at a z2 that depends on z1 is no part of the ELBO."""

    def model() -> None:
        z2 = pyro.sample("z2", dist.Normal(0.0, 1.0))
        pyro.sample("z1", dist.Normal(z2, 0.5))

    def backwards() -> None:
        z1 = pyro.sample("z1", dist.Normal(0.3, 1.0))
        pyro.sample("z2", dist.Normal(0.8 * z1, 0.3))

    def forwards() -> None:
        z2 = pyro.sample("z2", dist.Normal(0.2, 0.8))
        pyro.sample("z1", dist.Normal(0.7 * z2, 0.4))

    for objective in (
        objectives.analytic_kl(),
        objectives.warm_up(objectives.analytic_kl(), 5),
    ):
        with (
            pytest.warns(UserWarning, match="mean field restriction"),
            pytest.raises(ValueError, match="the order z1, z2, expected the model's, z2, z1"),
        ):
            objective.loss(model, backwards)
    losses = torch.tensor([objectives.analytic_kl().loss(model, forwards) for _ in range(400)])
    # KL(q(z2), p(z2)) + E KL(q(z1|z2), p(z1|z2)), by hand.
    outer = math.log(1 / 0.8) + (0.8**2 + 0.2**2) / 2 - 0.5
    inner = math.log(0.5 / 0.4) + (0.4**2 + 0.3**2 * (0.8**2 + 0.2**2)) / (2 * 0.5**2) - 0.5
    assert abs(losses.mean() - outer - inner) < 5 * losses.std() / math.sqrt(400)


def test_analytic_kl_serves_a_users_own_model() -> None:
    """A model that is no VAE: a normal mean with a conjugate prior, known in closed form."""
    data = torch.randn(10).double() + 1

    def model() -> None:
        mean = pyro.sample("mean", dist.Normal(torch.zeros(()).double(), 1.0))
        with pyro.plate("n", 10):
            pyro.sample("data", dist.Normal(mean, 1.0), obs=data)

    variance = 1 / 11

    def guide() -> None:
        pyro.sample("mean", dist.Normal(variance * data.sum(), math.sqrt(variance)))

    covariance = torch.eye(10).double() + 1
    evidence = torch.distributions.MultivariateNormal(torch.zeros(10).double(), covariance)
    objective = objectives.analytic_kl()
    losses = torch.tensor([objective.loss(model, guide) for _ in range(400)]).double()
    exact = -evidence.log_prob(data)
    assert abs(losses.mean() - exact) < 5 * losses.std() / math.sqrt(400)


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
    within(gradients(make(), program_of(case, COPIES)), COPIES * exact_elbo_gradient(case))


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
