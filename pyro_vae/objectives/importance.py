"""Importance-weighted bounds by their names, and what their gradients are made of."""

import math
from functools import partial

from torch import Tensor

from pyro_vae.objectives.importance_weighted import ImportanceWeightedELBO
from pyro_vae.objectives.pathwise import PathwiseELBO, Surrogate
from pyro_vae.objectives.registry import named
from pyro_vae.utils.checks import check_count


@named
def iwae(k: int) -> ImportanceWeightedELBO:
    r"""The negative importance-weighted bound, :math:`-E[\log \frac1k \sum_i w_i]`.

    With :math:`w_i = p(x, z_i) / q(z_i|x)` for each example: between the ELBO (k = 1) and log
    p(x), nearer with k. In nats, summed over examples. The better it is, the less of its gradient
    reaches the guide, whose signal-to-noise ratio falls as :math:`1/\sqrt k`: see :func:`dreg`.
    For reparameterized guides, without scaled sites; others raise. Value and gradient are those of
    Pyro's ``RenyiELBO(alpha=0)``, which cannot be compiled or given to a torch optimizer. Source:
    Burda, Grosse and Salakhutdinov (2016), arXiv 1509.00519, section 3.

    Raises:
        ValueError: `k` is no whole number from 1 up; at a loss, a latent site is not
            reparameterized or not in the guide, or a site is scaled.
    """
    check_count("k", k)
    return ImportanceWeightedELBO(k, _log_mean)


@named
def dreg(k: int) -> PathwiseELBO:
    r"""The bound of :func:`iwae`, with the doubly reparameterized gradient for the guide.

    The guide's gradient is :math:`\sum_i \tilde w_i^2\, \partial_z \log w_i\, \partial_\phi z_i`
    with normalized weights :math:`\tilde w_i`, the model's is that of :func:`iwae`. Both are the
    same in the mean as those of :func:`iwae`, and the guide's signal-to-noise ratio no longer
    falls with k. Conditions and errors are as those of :func:`iwae`. Source: Tucker et al. (2019),
    arXiv 1810.04152, section 4.1.
    """
    check_count("k", k)
    return PathwiseELBO(k, _log_mean, _doubly_reparameterized)


@named
def miwae(m: int, k: int) -> ImportanceWeightedELBO:
    r"""The mean of m bounds of :func:`iwae`, of k samples each.

    The same in the mean as ``iwae(k)``, with a gradient of less noise. ``miwae(m, 1)`` is
    ``trace_elbo(m)``, ``miwae(1, k)`` is ``iwae(k)``. Conditions and errors are as those of
    :func:`iwae`. Source: Rainforth et al. (2018), arXiv 1802.04537, section 5.
    """
    check_count("m", m)
    check_count("k", k)
    return ImportanceWeightedELBO(m * k, partial(_mean_of_groups, m=m))


@named
def ciwae(beta: float, k: int) -> ImportanceWeightedELBO:
    r"""The ELBO and the bound of :func:`iwae`, :math:`\beta\, ELBO + (1 - \beta)\, L_k`.

    From the same k samples; ``ciwae(1, k)`` is the ELBO, ``ciwae(0, k)`` is ``iwae(k)``.
    Conditions and errors are as those of :func:`iwae`. Source: Rainforth et al. (2018), arXiv
    1802.04537, section 5.

    Raises:
        ValueError: `beta` is no number from 0 to 1.
    """
    check_count("k", k)
    if isinstance(beta, bool) or not isinstance(beta, int | float) or not 0 <= beta <= 1:
        raise ValueError(f"beta: got {beta!r}, expected a number from 0 to 1")
    return ImportanceWeightedELBO(k, partial(_mixed, beta=float(beta)))


@named
def piwae(m: int, k: int) -> PathwiseELBO:
    r"""``iwae(m * k)`` for the model, ``miwae(m, k)`` for the guide, from the same m k samples.

    The value is that of ``iwae(m * k)``; the gradient belongs to no one loss. Parameters that
    model and guide share get both. Conditions and errors are as those of :func:`iwae`. Source:
    Rainforth et al. (2018), arXiv 1802.04537, section 5.
    """
    check_count("m", m)
    check_count("k", k)
    return PathwiseELBO(m * k, _log_mean, partial(_parted, m=m))


@named
def renyi(alpha: float, k: int) -> ImportanceWeightedELBO:
    r"""Renyi's bound, :math:`-\frac{1}{1 - \alpha} E[\log \frac1k \sum_i w_i^{1 - \alpha}]`.

    ``renyi(0, k)`` is ``iwae(k)``; towards :math:`\alpha = 1` it is the ELBO. For
    :math:`\alpha < 0` the limit of many samples is above log p(x), but at finite k the value is no
    bound of either kind. Conditions and errors are as those of :func:`iwae`. Value and gradient
    are those of Pyro's ``RenyiELBO``, which cannot be compiled or given to a torch optimizer, and
    loses its digits near one. Source: Li and Turner (2016), arXiv 1602.02311, sections 3 and 4.

    Raises:
        ValueError: `alpha` is no finite number, or within 1e-9 of one: that is
            :func:`trace_elbo`.
    """
    check_count("k", k)
    number = isinstance(alpha, int | float) and not isinstance(alpha, bool)
    if not number or not math.isfinite(alpha) or abs(1 - alpha) < 1e-9:
        raise ValueError(
            f"alpha: got {alpha!r}, expected a finite number other than 1, which is trace_elbo()"
        )
    return ImportanceWeightedELBO(k, partial(_power_mean, alpha=float(alpha)))


def _log_mean(log_w: Tensor) -> Tensor:
    return log_w.logsumexp(0) - math.log(len(log_w))


def _mean_of_groups(log_w: Tensor, m: int) -> Tensor:
    return _log_mean(log_w.unflatten(0, (m, -1)).transpose(0, 1)).mean(0)


def _mixed(log_w: Tensor, beta: float) -> Tensor:
    return beta * log_w.mean(0) + (1 - beta) * _log_mean(log_w)


def _power_mean(log_w: Tensor, alpha: float) -> Tensor:
    # In float64: near one the logarithm is all but zero, and divided by as little.
    return (_log_mean((1 - alpha) * log_w.double()) / (1 - alpha)).to(log_w.dtype)


def _doubly_reparameterized(log_p: Tensor, log_q: Tensor) -> Surrogate:
    weight = (log_p - log_q).detach().softmax(0)
    return Surrogate(
        direct=(weight * log_p).sum(), path=-(weight.square() * log_q).sum(), ratio=weight
    )


def _parted(log_p: Tensor, log_q: Tensor, m: int) -> Surrogate:
    log_w = (log_p - log_q).detach()
    model = log_w.softmax(0)
    guide = log_w.unflatten(0, (m, -1)).softmax(1).flatten(0, 1) / m
    return Surrogate(
        direct=(model * log_p - guide * log_q).sum(), path=(guide * log_p).sum(), ratio=0.0
    )
