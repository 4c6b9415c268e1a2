"""Criticism of trained VAEs: bounds on the evaluator's error, gaps, latents and predictions."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.module import Module

from pyro_vae import estimators
from pyro_vae.arguments import check_count, check_seed
from pyro_vae.blocks import EXAMPLES, blocks
from pyro_vae.divergences import describe
from pyro_vae.estimates import check_vae, estimated, prepared
from pyro_vae.estimators import Estimator
from pyro_vae.programs import Program
from pyro_vae.progress import progress_bar
from pyro_vae.seeding import seeded
from pyro_vae.tables import summary
from pyro_vae.vae import VAE, call, device_of, evaluating


@dataclass(frozen=True, repr=False)
class Certificate:
    r"""Two bounds of log p(x) of simulated data, between which it lies in the mean, in nats.

    Attributes:
        x: The simulated data, shape ``(N, *x_shape)``.
        lower: The estimator's values, shape ``(N,)``; in the mean below log p(x).
        upper: Values that are above it in the mean, shape ``(N,)``.
        lower_mean, upper_mean: Over examples.
        gap, gap_error: Mean of ``upper - lower`` and its standard error: what the estimator is
            below log p(x) is no more in the mean.
        num_samples: K.
        estimator: Its name.
        seed: What fixed data and noise, or None.
    """

    x: Tensor
    lower: Tensor
    upper: Tensor
    lower_mean: float
    upper_mean: float
    gap: float
    gap_error: float
    num_samples: int
    estimator: str
    seed: int | None

    def __repr__(self) -> str:
        return summary(self)


def certify(
    vae: VAE,
    num_examples: int = 64,
    num_samples: int = 16,
    *,
    estimator: str | Estimator = "ais",
    seed: int | None = None,
    max_bytes: int = 2**28,
) -> Certificate:
    r"""How far an estimator can be trusted, on data that the model itself has made.

    For x drawn together with its z, that z is an exact draw of the posterior. Among K weights one
    that begins there makes :math:`\log \frac1K \sum_k w_k` an upper bound in the mean, where K of
    the estimator's own make it a lower one: for AIS the chain runs backward (bidirectional Monte
    Carlo). It holds for simulated data, so it says what a setting of the estimator is worth for
    this model; it is no estimate of log p(x) of real data.

    Arguments:
        vae: The VAE, in eval mode.
        num_examples: N, of simulated x.
        num_samples: K.
        estimator: As of :func:`log_likelihood`, but the exact one.
        seed: Fixes data and noise and leaves torch's global generator as it was.
        max_bytes: As of :func:`log_likelihood`.

    Raises:
        TypeError, ValueError: An argument is out of range; the VAE does not serve the estimator.

    Source: Grosse, Ghahramani and Adams (2015), arXiv 1511.02543, section 3; Wu et al. (2017),
    arXiv 1611.04273, section 4.2.
    """
    check_vae(vae)
    check_count("num_examples", num_examples)
    check_count("num_samples", num_samples)
    check_count("max_bytes", max_bytes)
    check_seed(seed)
    chosen = estimators.parse(estimator)
    if chosen is None:
        raise ValueError('estimator: got "exact", which has no error to certify')
    lowers, uppers = [], []
    with torch.no_grad(), evaluating(vae):
        with seeded(seed, _SIMULATED, device=device_of(vae)):
            z = call(vae, "prior").sample((num_examples,))
            x = call(vae, "likelihood", z).sample()
        program = Program(vae.model, vae.guide, x)
        for block in blocks(program, x, seed, max_bytes, desc="certificate"):
            first = block.index * EXAMPLES
            exact = {"z": z[None, first : first + len(block.x)]}
            forward, backward = chosen.both(block, num_samples, exact)
            log_w = torch.cat(list(forward)).double()
            reverse = torch.cat((backward.double(), log_w[1:]))
            lowers.append(log_w.logsumexp(0) - math.log(num_samples))
            uppers.append(reverse.logsumexp(0) - math.log(num_samples))
    lower, upper = torch.cat(lowers), torch.cat(uppers)
    gap, gap_error = _mean_and_error(upper - lower)
    return Certificate(
        x,
        lower,
        upper,
        lower.mean().item(),
        upper.mean().item(),
        gap,
        gap_error,
        num_samples,
        chosen.name,
        seed,
    )


_SIMULATED = 2**31  # a random stream apart from those of blocks


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

    Source: Cremer, Li and Duvenaud (2018), arXiv 1801.03558, section 3.
    """
    for argument, count in (("steps", steps), ("particles", particles)):
        check_count(argument, count)
    if not learning_rate > 0:
        raise ValueError(f"learning_rate: got {learning_rate!r}, expected a number above 0")
    log_p = estimated(vae, x, num_samples, estimator=estimator, seed=seed).values
    network = _network(vae.posterior)
    elbos, refined = [], []
    with evaluating(vae):
        with torch.no_grad():
            _, x = prepared(vae, x)
            p_z = call(vae, "prior")

        def bound(part: Tensor, count: int) -> Tensor:
            """Of each sample and example, shape ``(count, N)``."""
            q_z = call(vae, "posterior", part)
            if not q_z.has_rsample:
                raise ValueError(
                    f"posterior: {describe(q_z)} has no rsample, expected a reparameterized one"
                )
            z = q_z.rsample((count,))
            log_p_x = call(vae, "likelihood", z).log_prob(part)
            return log_p_x + p_z.log_prob(z) - q_z.log_prob(z)

        def mean_bound(part: Tensor) -> Tensor:
            with torch.no_grad():
                sizes = [_CHUNK] * (num_samples // _CHUNK) + [num_samples % _CHUNK]
                sums = [bound(part, size).double().sum(0) for size in sizes if size]
                return torch.stack(sums).sum(0) / num_samples

        parts = x.split(EXAMPLES)
        with progress_bar(len(parts) * steps, "steps", "refinement") as progress:
            for index, part in enumerate(parts):
                with seeded(seed, index, device=x.device):
                    elbos.append(mean_bound(part))
                    with torch.no_grad():
                        numbers = network(part)
                    numbers = numbers.detach().clone().requires_grad_()
                    hook = network.register_forward_hook(_give(numbers))
                    try:
                        optimizer = torch.optim.Adam([numbers], learning_rate)
                        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
                        for _ in range(steps):
                            loss = -bound(part, particles).mean(0).sum()
                            (numbers.grad,) = torch.autograd.grad(loss, [numbers])
                            optimizer.step()
                            schedule.step()
                            progress.update()
                        refined.append(mean_bound(part))
                    finally:
                        hook.remove()
    best, own = torch.cat(refined), torch.cat(elbos)
    return ElboGap(
        log_p,
        best,
        own,
        log_p - best,
        best - own,
        *_mean_and_error(log_p - best),
        *_mean_and_error(best - own),
    )


_CHUNK = 64  # samples at a time


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
    """A hook that gives other numbers than the network has found."""
    return lambda module, arguments, output: numbers


@dataclass(frozen=True, repr=False)
class ActiveUnits:
    r"""Which latent dimensions say something of x.

    Attributes:
        statistic: :math:`A_u = \mathrm{Var}_x(E_{q(z|x)}[z_u])`, shape ``(z_dim,)``.
        active: Which are above the threshold, shape ``(z_dim,)``.
        count: How many.
        threshold: The least statistic of an active one.
    """

    statistic: Tensor
    active: Tensor
    count: int
    threshold: float

    def __repr__(self) -> str:
        return summary(self, "latents")


def active_units(
    vae: VAE, x: Tensor, *, threshold: float = 0.01, seed: int | None = None
) -> ActiveUnits:
    r"""The latent dimensions whose posterior mean moves with x.

    .. math:: A_u = \mathrm{Var}_x\big(E_{q(z|x)}[z_u]\big) > 0.01

    It takes :meth:`VAE.embed` for the mean: where a posterior has none in closed form, the average
    of 32 draws, whose noise adds a 32nd of the posterior's variance.

    Arguments:
        vae: The VAE, in eval mode.
        x: Data of shape ``(N, *x_shape)``, two or more.
        threshold: The least statistic of an active dimension.
        seed: Fixes what noise there is and leaves torch's global generator as it was.

    Raises:
        TypeError, ValueError: x does not fit the VAE, or is one example.

    Source: Burda, Grosse and Salakhutdinov (2016), arXiv 1509.00519, section 5.2.
    """
    check_vae(vae)
    if not threshold >= 0:
        raise ValueError(f"threshold: got {threshold!r}, expected a number from 0 up")
    with torch.no_grad(), evaluating(vae):
        _, x = prepared(vae, x)
        if len(x) < 2:
            raise ValueError("x: got one example, expected two or more, over which to vary")
        with seeded(seed, device=x.device):
            means = torch.cat([vae.embed(part) for part in x.split(1024)])
    statistic = means.double().var(0)
    active = statistic > threshold
    return ActiveUnits(statistic, active, int(active.sum()), float(threshold))


@dataclass(frozen=True, repr=False)
class PredictiveCheck:
    r"""A statistic of the data beside that of replications from their posteriors.

    Attributes:
        observed: T(x) of each example, shape ``(N,)``.
        replicated: T of each replication, shape ``(num_samples, N)``.
        p_values: For each example the share of replications with a greater T, and half of those
            with the same, shape ``(N,)``.
        p_value: The same of the mean of T over all examples.
    """

    observed: Tensor
    replicated: Tensor
    p_values: Tensor
    p_value: float

    def __repr__(self) -> str:
        return summary(self)


def posterior_predictive(
    vae: VAE,
    x: Tensor,
    statistic: Callable[[Tensor], Tensor],
    num_samples: int = 100,
    *,
    seed: int | None = None,
) -> PredictiveCheck:
    r"""Whether the model, given x, makes data like x, as far as a statistic can tell.

    Replications :math:`\tilde x \sim p(\tilde x|z)` with z of the guide, beside the data that the
    guide saw: values near 0 or 1 say that the model does not make what the statistic looks at. As
    the data are used twice, p-values of a right model gather around 1/2.

    Arguments:
        vae: The VAE, in eval mode.
        x: Data of shape ``(N, *x_shape)``.
        statistic: T, from ``(*batch, *x_shape)`` to ``(*batch,)``: a function of one x.
        num_samples: Replications of each example.
        seed: Fixes the noise and leaves torch's global generator as it was.

    Raises:
        TypeError, ValueError: x does not fit the VAE; T gives another shape.

    Source: Gelman, Meng and Stern (1996), Statistica Sinica 6, section 2.
    """
    check_vae(vae)
    check_count("num_samples", num_samples)
    check_seed(seed)
    observed, replicated = [], []
    with torch.no_grad(), evaluating(vae):
        _, x = prepared(vae, x)
        for index, part in enumerate(x.split(EXAMPLES)):
            observed.append(_statistic(statistic, part, part.shape[:1]))
            rows = []
            with seeded(seed, index, device=x.device):
                q_z = call(vae, "posterior", part)
                for _ in range(num_samples):
                    made = call(vae, "likelihood", q_z.sample()).sample()
                    rows.append(_statistic(statistic, made, part.shape[:1]))
            replicated.append(torch.stack(rows))
    own, other = torch.cat(observed), torch.cat(replicated, 1)
    return PredictiveCheck(
        own, other, _share_above(other, own), _share_above(other.mean(1), own.mean()).item()
    )


def _statistic(statistic: Callable[[Tensor], Tensor], x: Tensor, shape: torch.Size) -> Tensor:
    value = statistic(x)
    if not isinstance(value, Tensor) or value.shape != shape:
        got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(
            f"statistic: gave {got} for x of shape {tuple(x.shape)}, expected {tuple(shape)}: one "
            "number for each example"
        )
    return value.double()


def _share_above(replicated: Tensor, observed: Tensor) -> Tensor:
    above, same = replicated > observed, replicated == observed
    return (above.double() + 0.5 * same.double()).mean(0)


def _mean_and_error(values: Tensor) -> tuple[float, float]:
    error = values.std().item() / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return values.mean().item(), error
