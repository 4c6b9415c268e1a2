"""The gap between log p(x) and the ELBO, split into what the guide's family and encoder miss."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.module import Module

from pyro_vae.contracts import call
from pyro_vae.distributions import describe_distribution
from pyro_vae.evaluation.blocks import EXAMPLES
from pyro_vae.evaluation.estimators import Estimator
from pyro_vae.evaluation.inputs import mean_and_stderr, opened
from pyro_vae.evaluation.log_likelihood import estimated
from pyro_vae.evaluation.result import warn_of
from pyro_vae.utils.checks import check_count
from pyro_vae.utils.progress import progress_bar
from pyro_vae.utils.random import seeded
from pyro_vae.utils.tables import summary
from pyro_vae.vae import VAE


@dataclass(frozen=True, repr=False)
class ElboGap:
    r"""How far the ELBO is below log p(x), and whose fault it is; all in nats, shape ``(N,)``.

    Attributes:
        log_likelihood: An estimate of log p(x).
        refined: The ELBO of :math:`q^*`, the best of the guide's family for each example.
        elbo: The ELBO of the guide.
        approximation: ``log_likelihood - refined``: what the family cannot do.
        amortization: ``refined - elbo``: what the encoder does not find.
        approximation_mean, approximation_stderr: Over examples.
        amortization_mean, amortization_stderr: Over examples.
    """

    log_likelihood: Tensor
    refined: Tensor
    elbo: Tensor
    approximation: Tensor
    amortization: Tensor
    approximation_mean: float
    approximation_stderr: float
    amortization_mean: float
    amortization_stderr: float

    def __repr__(self) -> str:
        return summary(self)


def elbo_gap(
    vae: VAE,
    x: Tensor,
    num_samples: int = 1000,
    *,
    steps: int = 1000,
    learning_rate: float = 0.05,
    particles: int = 8,
    estimator: str | Estimator = "importance",
    seed: int | None = None,
) -> ElboGap:
    r"""Splits the gap between log p(x) and the ELBO into approximation and amortization.

    .. math:: \log p(x) - ELBO(q) =
        [\log p(x) - ELBO(q^*)] + [ELBO(q^*) - ELBO(q)]

    The numbers that the guide's network gives for an example (means and scales, or what a flow
    takes) are refined for each by Adam on its ELBO, with a rate that falls to nothing along half a
    cosine; what else the guide has, a flow's own weights, stays. log p(x) is estimated from below
    and the refinement ends where it ends, so that both gaps are what was found, not limits.

    Arguments:
        vae: The VAE, in eval mode; left as it is. Its posterior has the network that maps x to
            numbers as ``network``, or is around a posterior that has (``Squashed``).
        x: Data of shape ``(N, *x_shape)``.
        num_samples: Of the log-likelihood, and of each ELBO.
        steps, learning_rate, particles: Of the refinement.
        estimator: As of :func:`log_likelihood`.
        seed: Fixes the noise and leaves torch's global generator as it was.

    Raises:
        TypeError, ValueError: x does not fit; the posterior has no ``network``, or no ``rsample``;
            an argument is out of range.

    Warns:
        UnreliableWeights: Of the log-likelihood, whose error is that of the approximation gap.

    Source: Cremer, Li and Duvenaud (2018), arXiv 1801.03558, section 3.
    """
    for argument, count in (("steps", steps), ("particles", particles)):
        check_count(argument, count)
    if not learning_rate > 0:
        raise ValueError(f"learning_rate: got {learning_rate!r}, expected a number above 0")
    result = estimated(vae, x, num_samples, estimator=estimator, seed=seed)
    log_p = result.values
    warn_of(result, stacklevel=3)
    network = _network(vae.posterior)
    elbos, refined = [], []
    with opened(vae, x) as (_, x):
        bound = _Bound(vae)
        parts = x.split(EXAMPLES)
        with progress_bar(len(parts) * steps, "steps", "refinement") as progress:
            for index, part in enumerate(parts):
                with seeded(seed, index, device=x.device):
                    elbos.append(bound.mean(part, num_samples))
                    numbers = network(part).clone().requires_grad_()
                    hook = network.register_forward_hook(_give(numbers))
                    try:
                        optimizer = torch.optim.Adam([numbers], learning_rate)
                        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
                        for _ in range(steps):
                            with torch.enable_grad():
                                loss = -bound(part, particles).mean(0).sum()
                            (numbers.grad,) = torch.autograd.grad(loss, [numbers])
                            optimizer.step()
                            schedule.step()
                            progress.update()
                        refined.append(bound.mean(part, num_samples))
                    finally:
                        hook.remove()
    best, own = torch.cat(refined), torch.cat(elbos)
    return ElboGap(
        log_p,
        best,
        own,
        log_p - best,
        best - own,
        *mean_and_stderr(log_p - best),
        *mean_and_stderr(best - own),
    )


_CHUNK = 64  # samples at a time


class _Bound:
    """Samples of log p(x, z) - log q(z|x) of a VAE, by reparameterized z."""

    def __init__(self, vae: VAE) -> None:
        self.vae = vae
        self.p_z = call(vae, "prior")

    def __call__(self, x: Tensor, count: int) -> Tensor:
        """So many samples for each x, shape ``(count, N)``."""
        q_z = call(self.vae, "posterior", x)
        if not q_z.has_rsample:
            raise ValueError(
                f"posterior: {describe_distribution(q_z)} has no rsample, expected a reparameterized one"
            )
        z = q_z.rsample((count,))
        log_p_x = call(self.vae, "likelihood", z).log_prob(x)
        return log_p_x + self.p_z.log_prob(z) - q_z.log_prob(z)

    def mean(self, x: Tensor, num_samples: int) -> Tensor:
        """Their mean for each x, shape ``(N,)``, in float64."""
        sizes = [_CHUNK] * (num_samples // _CHUNK) + [num_samples % _CHUNK]
        sums = [self(x, size).double().sum(0) for size in sizes if size]
        return torch.stack(sums).sum(0) / num_samples


def _network(posterior: nn.Module) -> nn.Module:
    inner: object = posterior
    while isinstance(inner, nn.Module) and not hasattr(inner, "network"):
        inner = getattr(inner, "posterior", None)
    network = getattr(inner, "network", None)
    if not isinstance(network, nn.Module):
        raise ValueError(
            f"posterior: got a {type(posterior).__name__} without a network, expected one that "
            "maps x to numbers by its attribute network, whose numbers can be refined"
        )
    return network


def _give(numbers: Tensor) -> Callable[[Module, object, Tensor], Tensor]:
    """A hook that replaces a network's output."""
    return lambda module, arguments, output: numbers
