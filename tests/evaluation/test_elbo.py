"""The ELBO as evaluation measures it."""

import torch

from pyro_vae import elbo

from ..vaes import bernoulli_vae, log_evidence


def test_evidence_is_the_elbo_plus_the_kl_to_the_true_posterior() -> None:
    vae = bernoulli_vae(1).double()
    x = torch.bernoulli(torch.full((3, 6), 0.4)).double()
    line = torch.linspace(-10, 10, 4001, dtype=torch.float64)
    step = (line[1] - line[0]).item()
    with torch.no_grad():
        z = line[:, None, None].expand(-1, 3, 1)
        log_q = vae.posterior(x).log_prob(z)
        log_joint = vae.likelihood(z).log_prob(x) + vae.prior().log_prob(z)
        evidence = log_evidence(vae, x)
        bound = (log_q.exp() * (log_joint - log_q)).sum(0) * step
        gap = (log_q.exp() * (log_q - (log_joint - evidence))).sum(0) * step
    assert torch.allclose(evidence, bound + gap, rtol=1e-10)
    estimate = elbo(vae, x, num_samples=4000, seed=0)
    assert abs(estimate.mean - bound.mean().item()) < 4 * estimate.mc_error
