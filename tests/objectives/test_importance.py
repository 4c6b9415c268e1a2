"""Importance-weighted bounds: identities, formulas, gradients of one target."""

from collections.abc import Callable

import pytest
import torch
from pyro.infer import ELBO, RenyiELBO
from torch import Tensor

from pyro_vae import VAE, likelihoods, networks, objectives, posteriors, priors

from ..losses import COPIES, Program, gradient, gradients, log_weights, primed, program_of
from ..tolerances import rounding, same_mean
from ..vaes import LinearGaussian, bernoulli_vae, binary, linear_gaussian


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
    vae, x = bernoulli_vae(), binary(50, probability=0.5)
    alpha = 1 - 1e-7

    def loss(objective: ELBO) -> float:
        torch.manual_seed(0)
        return objective.loss(vae.model, vae.guide, x)

    plain = loss(objectives.trace_elbo(4))
    # A loss is a sum over 50 examples of some eight numbers that make less than ten nats.
    error = rounding(50 * 8) * 50 * 10
    assert loss(objectives.renyi(alpha, 4)) == pytest.approx(plain, abs=error)
    pyros = RenyiELBO(alpha, 4, vectorize_particles=True)
    assert loss(pyros) != pytest.approx(plain, abs=10 * error)
    assert not hasattr(pyros, "differentiable_loss")


K = 4


@pytest.fixture(scope="module")
def importance_weighted() -> tuple[LinearGaussian, Tensor]:
    """A VAE, and the gradient of iwae(K) on it by the plain way."""
    torch.manual_seed(11)
    case = linear_gaussian(exact=False)
    return case, gradients(objectives.iwae(K), program_of(case, COPIES), first=10_000)


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
    same_mean(gradients(make(), program_of(case, COPIES)), plain)


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


def signal_to_noise(objective: ELBO, program: Program) -> Tensor:
    """Of each number of the gradient: |mean| / standard deviation."""
    sample = gradients(objective, program)
    return sample.mean(0).abs() / sample.std(0)


@pytest.mark.slow
def test_the_encoders_signal_falls_with_k_by_iwae_and_not_by_dreg() -> None:
    """As 1 / sqrt(k) (arXiv 1802.04537, theorem 1) and as sqrt(k) (1810.04152, section 5)."""
    program = program_of(linear_gaussian(exact=False), COPIES)
    parts = {"encoder": slice(-24, None), "decoder": slice(0, -24)}
    ratios: dict[tuple[str, str], float] = {}
    for name, make in (("iwae", objectives.iwae), ("dreg", objectives.dreg)):
        few, many = (signal_to_noise(make(k), program) for k in (4, 64))
        ratios |= {(name, p): (many[of].mean() / few[of].mean()).item() for p, of in parts.items()}
    assert ratios["iwae", "encoder"] < 0.6
    assert ratios["dreg", "encoder"] > 1.2
    assert ratios["iwae", "decoder"] > 1.5
    assert ratios["dreg", "decoder"] > 1.5
