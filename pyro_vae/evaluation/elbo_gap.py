"""The gap between log p(x) and the ELBO, split into approximation and amortization gaps."""

from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_vae.evaluation.blocks import EXAMPLES
from pyro_vae.evaluation.estimators import Estimator
from pyro_vae.evaluation.inputs import mean_and_stderr, opened
from pyro_vae.evaluation.log_likelihood import estimated
from pyro_vae.evaluation.refinement import bound_of
from pyro_vae.evaluation.result import warn_of
from pyro_vae.pair import Pair
from pyro_vae.utils import html
from pyro_vae.utils.checks import check_count, check_positive
from pyro_vae.utils.context import Batch
from pyro_vae.utils.progress import progress_bar
from pyro_vae.utils.random import seeded
from pyro_vae.utils.tables import counted, summary
from pyro_vae.utils.turns import one_at_a_time


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

    def _repr_html_(self) -> str:
        return html.block(
            f"Gap between log p(x) and the ELBO of {counted(self)}",
            html.estimates(
                self, {"approximation": "approximation_", "amortization": "amortization_"}
            ),
            "approximation: what the guide's family leaves; amortization: what the encoder leaves",
        )


@one_at_a_time
def elbo_gap(
    vae: Pair,
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

    To find :math:`q^*`, Adam maximizes the ELBO of each example over numbers of its own. For a VAE
    whose posterior has a ``network``, or wraps a posterior that has one (``Squashed``), these are
    the network's output: means and scales, or the inputs of a flow. For any other pair, a number
    is added to each parameter of the distribution at each guide site, in an unconstrained space;
    where a site depends on other latent sites, it still does so. The learning rate decays to zero
    along half a cosine. Other parameters of the guide, such as a flow's own, stay fixed. Bounds
    are exact over the discrete latents that :func:`log_likelihood` sums out. Both gaps are
    estimates: log p(x) is estimated from below, and the refinement may not converge.

    Source: Cremer, Li and Duvenaud (2018), arXiv 1801.03558, section 3.

    Arguments:
        vae: A VAE or any :class:`Pair`; it is evaluated in eval mode and not changed.
        x: Data of shape ``(N, *x_shape)``, or a tuple of them and their context.
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
        TypeError: `vae` is not a pair, or x has another dtype.
        ValueError: x does not fit the pair, the distribution at a guide site has no ``rsample`` or
            no parameters to refine, or an argument is out of range.

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
    check_positive("learning_rate", learning_rate)
    result = estimated(vae, x, num_samples, estimator=estimator, seed=seed)
    log_p = result.values
    warn_of(result)
    elbos, refined = [], []
    with opened(vae, x) as (densities, batch):
        parts = list(zip(*(entry.split(EXAMPLES) for entry in batch), strict=True))
        with progress_bar(len(parts) * steps, "steps", "refinement") as progress:
            for index, part in enumerate(parts):
                with seeded(seed, index, device=part[0].device):
                    bound = bound_of(vae, densities, part)
                    elbos.append(bound.mean(num_samples))
                    with bound.refined() as numbers:
                        optimizer = torch.optim.Adam(numbers, learning_rate)
                        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
                        for _ in range(steps):
                            with torch.enable_grad():
                                loss = -bound(particles).mean(0).sum()
                            gradients = torch.autograd.grad(loss, numbers)
                            for number, gradient in zip(numbers, gradients, strict=True):
                                number.grad = gradient
                            optimizer.step()
                            schedule.step()
                            progress.update()
                        refined.append(bound.mean(num_samples))
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
