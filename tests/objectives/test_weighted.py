"""The beta-VAE's objective, and a warm-up that ends at another weight than one."""

import pytest
import torch
from pyro.infer import ELBO
from torch.distributions import Independent, Normal, kl_divergence

from pyro_vae import elbo, fit, objectives, optim

from ..losses import gradient, program_of
from ..vaes import bernoulli_vae, binary, linear_gaussian


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0, 4.0])
def test_the_kl_counts_beta_times(beta: float) -> None:
    """By the same noise, the loss is linear in the weight."""
    program = program_of(linear_gaussian(exact=False))
    ends = [gradient(objectives.beta(weight, 3), program) for weight in (0.0, 1.0)]
    value, gradients = gradient(objectives.beta(beta, 3), program)
    assert value == pytest.approx((1 - beta) * ends[0][0] + beta * ends[1][0])
    for own, none, one in zip(gradients, ends[0][1], ends[1][1], strict=True):
        torch.testing.assert_close(own, (1 - beta) * none + beta * one)
    assert ends[1][0] == pytest.approx(gradient(objectives.trace_elbo(3), program)[0])


def test_the_loss_is_its_closed_form_in_the_mean() -> None:
    case = linear_gaussian(exact=False)
    program = program_of(case, copies=400)
    value, _ = gradient(objectives.beta(3.0), program)
    own = elbo(case.vae, case.x, 2000, kl="analytic", seed=0)
    exact = own.reconstruction_mean + 3 * own.kl_mean
    draws = [gradient(objectives.beta(3.0), program_of(case), seed)[0] for seed in range(200)]
    error = (torch.tensor(draws).std() / 400**0.5).item() / 7
    assert value / 2800 == pytest.approx(exact, abs=5 * (error + 3 * own.mc_error))


def test_the_history_has_the_bounds_terms_beside_the_value() -> None:
    x, vae = binary(40), bernoulli_vae()
    history = fit(
        vae,
        x,
        epochs=1,
        batch_size=40,
        objective=objectives.beta(4.0),
        optim=optim.from_torch(torch.optim.SGD, lr=0.0),
    )
    row = history.rows()[0]
    assert row["cost"] == pytest.approx(row["reconstruction"] + 4 * row["kl"], rel=1e-6)
    plain = fit(vae, x, epochs=1, batch_size=40, optim=optim.from_torch(torch.optim.SGD, lr=0.0))
    assert plain.kl == pytest.approx(history.kl)
    assert plain.reconstruction == history.reconstruction


def test_a_large_beta_makes_the_posterior_the_prior() -> None:
    x, vae = binary(64), bernoulli_vae()
    rate = optim.Adam(lr=2e-2)
    fit(vae, x, epochs=60, batch_size=32, objective=objectives.beta(50.0), optim=rate)
    q_z = vae.posterior(x)
    standard = Independent(Normal(torch.zeros(1), torch.ones(1)), 1)
    assert kl_divergence(q_z, standard).mean() < 0.02


def test_a_warm_up_ends_at_its_end() -> None:
    objective = objectives.warm_up(objectives.trace_elbo(), steps=4, start=2.0, end=0.5)
    weights = []
    for _ in range(6):
        weights.append(float(objective.weight))
        objective.taken += 1
    assert weights == [2.0, 1.625, 1.25, 0.875, 0.5, 0.5]
    up = objectives.warm_up(objectives.trace_elbo(), steps=3, end=0.1)
    up.taken += 3
    assert up.weight == torch.tensor(0.1)
    program = program_of(linear_gaussian(exact=False))
    own = gradient(up, program)[0]
    assert own == pytest.approx(gradient(objectives.beta(float(torch.tensor(0.1))), program)[0])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: objectives.beta(-1.0), "beta: got -1.0, expected a finite number from 0 up"),
        (lambda: objectives.beta(True), "beta: got True, expected a number"),
        (lambda: objectives.beta(float("inf")), "beta: got inf"),
        (lambda: objectives.beta(1.0, 0), "num_particles: got 0"),
        (lambda: objectives.warm_up(objectives.trace_elbo(), 3, end=-1), "end: got -1"),
    ],
)
def test_wrong_weights_are_named(make: object, message: str) -> None:
    assert callable(make)
    with pytest.raises((TypeError, ValueError), match=message):
        make()


def test_a_weighted_objective_is_not_annealed_again() -> None:
    weighted: ELBO = objectives.beta(2.0)
    with pytest.raises(TypeError, match=r"objective: got a Beta, expected trace_elbo\(\)"):
        objectives.warm_up(weighted, 3)
