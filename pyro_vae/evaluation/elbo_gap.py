"""The gap between log p(x) and the ELBO, split into approximation and amortization gaps."""

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
from pyro_vae.utils.checks import check_count, kind
from pyro_vae.utils.context import Batch, Examples, expanded, given
from pyro_vae.utils.progress import progress_bar
from pyro_vae.utils.random import seeded
from pyro_vae.utils.tables import summary
from pyro_vae.vae import VAE


@dataclass(frozen=True, repr=False)
class ElboGap:
    r"""The gap between log p(x) and the ELBO, and its two parts, in nats.

    Attributes:
        log_likelihood: Estimates of log p(x), shape ``(N,)``.
        refined: The ELBO of :math:`q^*`, the best member of the guide's family for each example,
            shape ``(N,)``.
        elbo: The ELBO of the guide, shape ``(N,)``.
        approximation: ``log_likelihood - refined``, the gap that the guide's family leaves, shape
            ``(N,)``.
        amortization: ``refined - elbo``, the gap that the encoder leaves, shape ``(N,)``.
        approximation_mean, approximation_stderr: The mean of `approximation` and its standard
            error over examples.
        amortization_mean, amortization_stderr: The same for `amortization`.

    Example:
        >>> from pyro_vae.evaluation import elbo_gap
        >>> vae = presets.build("pyro-mlp", z_dim=2, shape=16)
        >>> gap = elbo_gap(vae, torch.ones(7, 16), num_samples=100, steps=3, seed=0)
        >>> total = gap.log_likelihood - gap.elbo
        >>> torch.allclose(gap.approximation + gap.amortization, total)
        True
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
    x: Batch,
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

    To find :math:`q^*`, Adam maximizes the ELBO of each example over the output of the guide's
    network for it: means and scales, or the inputs of a flow. The learning rate decays to zero
    along half a cosine. Other parameters of the guide, such as a flow's own, stay fixed. Both gaps
    are estimates: log p(x) is estimated from below, and the refinement may not converge.

    Source: Cremer, Li and Duvenaud (2018), arXiv 1801.03558, section 3.

    Arguments:
        vae: The VAE; it is evaluated in eval mode and not changed. Its posterior has the network
            that maps x to numbers as its attribute ``network``, or wraps a posterior that has one
            (``Squashed``).
        x: Data of shape ``(N, *x_shape)``.
        num_samples: The number of samples for the log-likelihood and for each ELBO.
        steps: Steps of Adam for each block of 64 examples.
        learning_rate: The initial learning rate of Adam.
        particles: Samples of z for each example in a step.
        estimator: The estimator of log p(x), as in :func:`log_likelihood`.
        seed: Fixes the noise, and leaves torch's global generator as it was; None draws from that
            generator.

    Returns:
        log p(x), both ELBOs and both gaps of each example in nats, and the gaps' means.

    Raises:
        TypeError: `vae` is not a VAE, or x has another dtype.
        ValueError: x does not fit the VAE, the posterior has no ``network`` or no ``rsample``, or
            an argument is out of range.

    Warns:
        UnreliableWeights: The estimate of log p(x) is unreliable, and so is the approximation gap.

    Example:
        >>> from pyro_vae.evaluation import elbo_gap
        >>> vae = presets.build("pyro-mlp", z_dim=2, shape=16)
        >>> gap = elbo_gap(vae, torch.ones(7, 16), num_samples=100, steps=3, seed=0)
        >>> gap.approximation.shape, gap.amortization.shape
        (torch.Size([7]), torch.Size([7]))
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
    with opened(vae, x) as (_, batch):
        parts = list(zip(*(entry.split(EXAMPLES) for entry in batch), strict=True))
        with progress_bar(len(parts) * steps, "steps", "refinement") as progress:
            for index, part in enumerate(parts):
                with seeded(seed, index, device=part[0].device):
                    bound = _Bound(vae, part)
                    elbos.append(bound.mean(num_samples))
                    numbers = given(network, part[0], part[1:]).clone().requires_grad_()
                    hook = network.register_forward_hook(_replace_output(numbers))
                    try:
                        optimizer = torch.optim.Adam([numbers], learning_rate)
                        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
                        for _ in range(steps):
                            with torch.enable_grad():
                                loss = -bound(particles).mean(0).sum()
                            (numbers.grad,) = torch.autograd.grad(loss, [numbers])
                            optimizer.step()
                            schedule.step()
                            progress.update()
                        refined.append(bound.mean(num_samples))
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


_CHUNK = 64  # samples that are drawn at a time


class _Bound:
    """Samples of log p(x, z) - log q(z|x) of a VAE for some examples, with reparameterized z.

    The prior is that of the beginning, also where it shares a network with the posterior.
    """

    def __init__(self, vae: VAE, batch: Examples) -> None:
        self.vae = vae
        self.x, *self.context = batch
        self.p_z = call(vae, "prior", context=self.context)

    def __call__(self, count: int) -> Tensor:
        """Returns `count` samples for each x in nats, shape ``(count, N)``."""
        q_z = call(self.vae, "posterior", self.x, context=self.context)
        if not q_z.has_rsample:
            raise ValueError(
                f"posterior: got {describe_distribution(q_z)}, which has no rsample, expected a "
                "reparameterized distribution"
            )
        z = q_z.rsample((count,))
        own = expanded(self.context, z.shape[:-1])
        log_p_x = call(self.vae, "likelihood", z, context=own).log_prob(self.x)
        return log_p_x + self.p_z.log_prob(z) - q_z.log_prob(z)

    def mean(self, num_samples: int) -> Tensor:
        """Returns the mean of the samples for each x in float64, shape ``(N,)``."""
        sizes = [_CHUNK] * (num_samples // _CHUNK) + [num_samples % _CHUNK]
        sums = [self(size).double().sum(0) for size in sizes if size]
        return torch.stack(sums).sum(0) / num_samples


def _network(posterior: nn.Module) -> nn.Module:
    """Returns the network of a posterior, or of the posterior that it wraps."""
    inner: object = posterior
    while isinstance(inner, nn.Module) and not hasattr(inner, "network"):
        inner = getattr(inner, "posterior", None)
    network = getattr(inner, "network", None)
    if not isinstance(network, nn.Module):
        raise ValueError(
            f"posterior: got {kind(posterior)} without a network, expected one whose "
            "attribute network maps x to numbers, which can be refined"
        )
    return network


def _replace_output(numbers: Tensor) -> Callable[[Module, object, Tensor], Tensor]:
    """Returns a hook that replaces the output of a network."""
    return lambda module, arguments, output: numbers
