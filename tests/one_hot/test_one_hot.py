"""VAEs whose latents are one-hot codes: summed out, relaxed, and by the score function."""

from typing import Any

import pytest
import torch
from pyro.infer import TraceGraph_ELBO
from torch import Tensor, nn

from pyro_vae import (
    VAE,
    elbo,
    fit,
    likelihoods,
    load,
    log_likelihood,
    networks,
    objectives,
    posteriors,
    priors,
    save,
)
from pyro_vae.evaluation import elbo_gap

from ..conftest import needs_compiler
from ..tolerances import CLOSE, within
from ..vaes import binary, parameters

X_DIM = 6


def vae_of(levels: int, codes: int, temperature: float | None = None) -> VAE:
    """Whose codes matter, and whose guide is not exact."""
    z_dim = levels * codes
    vae = VAE(
        priors.OneHotCategorical(levels, codes, trained=True),
        likelihoods.Bernoulli(networks.MLP(z_dim, (), X_DIM)),
        posteriors.OneHotCategorical(networks.MLP(X_DIM, (), z_dim), codes, temperature),
    ).double()
    with torch.no_grad():
        for parameter in vae.parameters():
            parameter.copy_(torch.randn_like(parameter))
    return vae


def exact(vae: VAE, x: Tensor) -> tuple[Tensor, Tensor]:
    """log p(x) and the ELBO of each example, as sums over all codes."""
    p_z, q_z = vae.prior(), vae.eval().posterior(x)
    z = p_z.enumerate_support()[:, None].expand(-1, len(x), -1)
    log_p, log_q = p_z.log_prob(z) + vae.likelihood(z).log_prob(x), q_z.log_prob(z)
    return log_p.logsumexp(0), (log_q.exp() * (log_p - log_q)).sum(0)


@pytest.mark.parametrize(("levels", "codes"), [(4, 1), (3, 2)])
def test_all_is_exact_if_the_codes_are_summed_out(levels: int, codes: int) -> None:
    vae, x = vae_of(levels, codes), binary(7).double()
    evidence, bound = exact(vae, x)
    result = log_likelihood(vae, x, num_samples=3, seed=0)
    torch.testing.assert_close(result.values, evidence.detach(), rtol=CLOSE, atol=0)
    gap = elbo_gap(vae, x, 3, steps=1, seed=0)
    torch.testing.assert_close(gap.elbo, bound.detach(), rtol=CLOSE, atol=0)
    own = list(vae.parameters())
    objective = objectives.enumerated()
    loss = objective.differentiable_loss(vae.model, vae.guide, x)
    assert loss.item() == pytest.approx(-bound.sum().item(), rel=CLOSE)
    for gradient, expected in zip(
        torch.autograd.grad(loss, own), torch.autograd.grad(-bound.sum(), own), strict=True
    ):
        torch.testing.assert_close(gradient, expected, rtol=CLOSE, atol=CLOSE)
    drawn = elbo(vae, x, 2000, kl="analytic", seed=0)
    assert drawn.mean == pytest.approx(bound.mean().item(), abs=5 * drawn.mc_error)


def kl_of(vae: VAE, x: Tensor, temperature: float) -> Tensor:
    """Draws of the sampled KL of relaxed codes."""
    vae.train()
    assert vae.posterior.temperature is not None
    vae.posterior.temperature.fill_(temperature)
    with torch.no_grad():
        q_z = vae.posterior(x)
        z = q_z.rsample((20000,))
        return (q_z.log_prob(z) - vae.prior().log_prob(z)).sum(-1)


def test_the_bias_of_a_relaxed_kl_goes_with_the_temperature() -> None:
    vae, x = vae_of(4, 1, temperature=1.0), binary(3).double()
    vae.eval()
    kl = torch.distributions.kl_divergence(vae.posterior(x), vae.prior()).sum().item()
    bias = [(kl_of(vae, x, temperature).mean() - kl).item() for temperature in (4.0, 1.0, 0.25)]
    assert abs(bias[0]) > abs(bias[1]) > abs(bias[2])
    within(kl_of(vae, x, 1e-3)[:, None], kl)
    # The closed form has none: the objective takes that of the one-hot codes.
    vae.train()
    watched = objectives.WithTerms(objectives.analytic_kl())
    watched.loss(vae.model, vae.guide, x)
    assert watched.terms is not None
    loss = watched.loss(vae.model, vae.guide, x)
    assert loss + watched.terms[0] == pytest.approx(kl, rel=CLOSE)


def test_relaxed_gradients_have_the_mean_of_the_exact_ones_when_cold() -> None:
    """Up to a bias that the noise of the draws hides at a low temperature, but not at a high."""
    vae, x = vae_of(3, 1, temperature=1.0), binary(2).double()
    _, bound = exact(vae, x)
    weight = vae.likelihood.network.layers[0].weight
    (expected,) = torch.autograd.grad(-bound.sum(), weight)
    many = x.repeat(20, 1)  # a gradient is then a mean of as many
    vae.train()
    objective = objectives.analytic_kl()

    def gradients(temperature: float) -> Tensor:
        vae.posterior.temperature.fill_(temperature)
        losses = (objective.differentiable_loss(vae.model, vae.guide, many) for _ in range(60))
        return torch.stack([torch.autograd.grad(loss / 20, weight)[0] for loss in losses])

    within(gradients(1e-3), expected)
    with pytest.raises(AssertionError):
        within(gradients(5.0), expected)


@needs_compiler
@pytest.mark.usefixtures("code")
@pytest.mark.parametrize(
    ("temperature", "objective"),
    [
        (None, objectives.enumerated),
        (0.5, objectives.trace_elbo),
        (0.5, objectives.analytic_kl),
        (None, TraceGraph_ELBO),
    ],
)
def test_fit_trains_them(temperature: float | None, objective: Any, tmp_path: Any) -> None:
    vae, x = vae_of(3, 2, temperature), binary(64).double()
    compile = objective is not TraceGraph_ELBO
    history = fit(vae, x, epochs=15, batch_size=16, objective=objective(), test=x, seed=0,
                  compile=compile)  # fmt: skip
    assert history.test_cost[-1] < history.test_cost[0]
    for cost, reconstruction, kl in zip(
        history.cost, history.reconstruction, history.kl, strict=True
    ):
        assert cost == pytest.approx(reconstruction + kl, rel=CLOSE)
    save(vae, tmp_path)
    again = load(tmp_path, into=vae_of(3, 2, temperature))
    assert torch.equal(parameters(again), parameters(vae))
    own, other = (log_likelihood(each, x, 1, seed=0).values for each in (vae, again))
    assert torch.equal(own, other)


def test_point_values_are_those_of_the_probabilities() -> None:
    vae, x = vae_of(3, 2, temperature=0.5), binary(5).double()
    vae.train()
    torch.testing.assert_close(vae.embed(x), vae.posterior(x).probs.flatten(-2).detach())
    assert vae.reconstruct(x).shape == x.shape
    assert vae.generate(4).shape == (4, X_DIM)
    assert vae.training


def test_many_codes_are_drawn() -> None:
    """3 ** 7 values are too many: log p(x) has noise, and its mean is right."""
    vae, x = vae_of(3, 7), binary(4).double()
    with torch.no_grad():
        for parameter in (*vae.posterior.parameters(), *vae.likelihood.parameters()):
            parameter.mul_(0.3)
        codes = torch.cartesian_prod(*[torch.arange(3)] * 7)
        z = torch.eye(3).double()[codes].flatten(-2)[:, None].expand(-1, 4, -1)
        evidence = (vae.prior().log_prob(z) + vae.likelihood(z).log_prob(x)).logsumexp(0)
    result = log_likelihood(vae, x, 4000, seed=0)
    assert result.mc_error > 1e-3
    assert abs(result.mean - evidence.mean().item()) < 5 * result.mc_error
    with pytest.raises(ValueError, match=r'the latents "z" \(OneHotCodes\), expected a site with'):
        fit(vae, x, epochs=1, batch_size=4, objective=objectives.enumerated())


def test_parts_that_do_not_fit_are_refused() -> None:
    network = networks.MLP(X_DIM, (), 6)
    vae = VAE(
        priors.OneHotCategorical(levels=2, codes=3),
        likelihoods.Bernoulli(networks.MLP(6, (), X_DIM)),
        posteriors.OneHotCategorical(network, codes=2),
    )
    with pytest.raises(ValueError, match="posterior: its support is OneHot"):
        fit(vae, binary(4), epochs=1, batch_size=4)
    with pytest.raises(ValueError, match="network: gave 6 numbers, expected codes"):
        posteriors.OneHotCategorical(network, codes=4)
    with pytest.raises(ValueError, match="network: gave 6 numbers"):
        posteriors.OneHotCategorical(nn.Linear(X_DIM, 6), codes=4)(binary(2))
    with pytest.raises(ValueError, match="expected one dimension for all numbers"):
        posteriors.OneHotCategorical(networks.MLP(X_DIM, (), (2, 3)))
    with pytest.raises(ValueError, match="temperature: got 0"):
        posteriors.OneHotCategorical(network, temperature=0.0)


@pytest.mark.parametrize("name", ["iwae", "dreg"])
def test_relaxed_codes_have_no_importance_weights(name: str) -> None:
    """Their score is no density; trace_elbo and analytic_kl train them."""
    network = networks.MLP(6, (4,), 3)
    vae = VAE(
        priors.OneHotCategorical(3),
        likelihoods.Bernoulli(networks.MLP(3, (4,), 6)),
        posteriors.OneHotCategorical(network, temperature=0.5),
    )
    objective = getattr(objectives, name)(3)
    with pytest.raises(ValueError, match="relaxed one-hot codes, whose score is no density"):
        fit(vae, binary(8), epochs=1, batch_size=8, objective=objective)
