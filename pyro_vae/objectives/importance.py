"""Importance-weighted bounds, and Renyi's, as functions of log-weights."""

import math
from functools import partial

from torch import Tensor

from pyro_vae.objectives.importance_weighted import ImportanceWeightedELBO
from pyro_vae.objectives.pathwise import PathwiseELBO, Surrogate
from pyro_vae.objectives.registry import named
from pyro_vae.utils.checks import check_count, check_number, plain

__all__ = ["ciwae", "dreg", "iwae", "miwae", "piwae", "renyi"]


@named
def iwae(k: int) -> ImportanceWeightedELBO:
    r"""The negative importance-weighted bound, :math:`-L_k = -E[\log \frac1k \sum_i w_i]`.

    The weights of each example are :math:`w_i = p(x, z_i) / q(z_i|x)` with :math:`z_i \sim q`.
    The loss is in nats, summed over examples. :math:`L_1` is the ELBO, and :math:`L_k` rises
    towards log p(x) with k. The signal-to-noise ratio of the guide's gradient falls as
    :math:`1/\sqrt k`; :func:`dreg` does not have this problem.

    The guide must be reparameterized, and no site may be scaled. Value and gradient are those of
    Pyro's ``RenyiELBO(alpha=0)``, which can neither be compiled nor used with a torch optimizer.

    Source: Burda, Grosse and Salakhutdinov (2016), arXiv 1509.00519, section 3.

    Arguments:
        k: Number of weights for each example.

    Returns:
        A Pyro ELBO.

    Raises:
        ValueError: `k` is not a positive integer. At a loss: a latent site is not reparameterized
            or is missing in the guide, or a site is scaled.

    Example:
        >>> vae = presets.build("bernoulli-mlp", z_dim=2, shape=(28, 28))
        >>> x = torch.zeros(7, 28, 28)
        >>> history = fit(vae, x, epochs=1, batch_size=7, objective=objectives.iwae(8))
        >>> history.epoch
        [1]
    """
    check_count("k", k)
    return ImportanceWeightedELBO(plain(k), _log_mean)


@named
def dreg(k: int) -> PathwiseELBO:
    r"""The loss of :func:`iwae` with a doubly reparameterized gradient of the guide.

    The guide's gradient of :math:`L_k` is
    :math:`\sum_i \tilde w_i^2\, \partial_z \log w_i\, \partial_\phi z_i` with normalized weights
    :math:`\tilde w_i`. It has the same mean as that of :func:`iwae`, and its signal-to-noise ratio
    does not fall with k. The model's gradient is that of :func:`iwae`, and so are the units and
    conditions.

    Source: Tucker et al. (2019), arXiv 1810.04152, section 4.1.

    Arguments:
        k: Number of weights for each example.

    Returns:
        A Pyro ELBO.

    Raises:
        ValueError: As :func:`iwae`.

    Example:
        >>> vae = presets.build("bernoulli-mlp", z_dim=2, shape=(28, 28))
        >>> svi = pyro.infer.SVI(vae.model, vae.guide, optim.Adam(1e-3), objectives.dreg(8))
        >>> loss = svi.step(torch.zeros(7, 28, 28))  # nats, summed over 7 examples
    """
    check_count("k", k)
    return PathwiseELBO(plain(k), _log_mean, _doubly_reparameterized)


@named
def miwae(m: int, k: int) -> ImportanceWeightedELBO:
    r"""The mean of m losses of :func:`iwae`, :math:`-\frac1m \sum_{j=1}^m L_k^{(j)}`.

    Its mean is that of ``iwae(k)``, and its gradient has less noise. ``miwae(m, 1)`` equals
    ``trace_elbo(m)``, and ``miwae(1, k)`` equals ``iwae(k)``. Units and conditions are those of
    :func:`iwae`.

    Source: Rainforth et al. (2018), arXiv 1802.04537, section 5.

    Arguments:
        m: Number of bounds for each example.
        k: Number of weights for each bound.

    Returns:
        A Pyro ELBO.

    Raises:
        ValueError: `m` is not a positive integer; otherwise as :func:`iwae`.

    Example:
        >>> objective = objectives.miwae(2, 8)
        >>> objective.num_particles
        16
    """
    check_count("m", m)
    check_count("k", k)
    return ImportanceWeightedELBO(plain(m * k), partial(_mean_of_groups, m=plain(m)))


@named
def ciwae(beta: float, k: int) -> ImportanceWeightedELBO:
    r"""A convex combination of two bounds, :math:`-(\beta\, ELBO + (1 - \beta)\, L_k)`.

    Both bounds use the same k samples. ``ciwae(1, k)`` is the negative ELBO, and ``ciwae(0, k)``
    is ``iwae(k)``. Units and conditions are those of :func:`iwae`.

    Source: Rainforth et al. (2018), arXiv 1802.04537, section 5.

    Arguments:
        beta: Coefficient of the ELBO, from 0 to 1.
        k: Number of weights for each example.

    Returns:
        A Pyro ELBO.

    Raises:
        TypeError: `beta` is not a number.
        ValueError: `beta` is not a number from 0 to 1; otherwise as :func:`iwae`.

    Example:
        >>> vae = presets.build("bernoulli-mlp", z_dim=2, shape=(28, 28))
        >>> svi = pyro.infer.SVI(vae.model, vae.guide, optim.Adam(1e-3), objectives.ciwae(0.5, 8))
        >>> loss = svi.step(torch.zeros(7, 28, 28))  # nats, summed over 7 examples
    """
    check_count("k", k)
    check_number("beta", beta, 0, 1)
    return ImportanceWeightedELBO(plain(k), partial(_mixed, beta=float(plain(beta))))


@named
def piwae(m: int, k: int) -> PathwiseELBO:
    r"""Trains the model by ``iwae(m * k)`` and the guide by ``miwae(m, k)``.

    Both use the same m k samples. The value of the loss is that of ``iwae(m * k)``,
    :math:`-L_{mk}`; the gradient is not that of a single loss. Parameters that model and guide
    share get the sum of both gradients. Units and conditions are those of :func:`iwae`.

    Source: Rainforth et al. (2018), arXiv 1802.04537, section 5.

    Arguments:
        m: Number of the guide's bounds for each example.
        k: Number of weights for each of them.

    Returns:
        A Pyro ELBO.

    Raises:
        ValueError: `m` is not a positive integer; otherwise as :func:`iwae`.

    Example:
        >>> vae = presets.build("bernoulli-mlp", z_dim=2, shape=(28, 28))
        >>> svi = pyro.infer.SVI(vae.model, vae.guide, optim.Adam(1e-3), objectives.piwae(2, 8))
        >>> loss = svi.step(torch.zeros(7, 28, 28))  # nats, summed over 7 examples
    """
    check_count("m", m)
    check_count("k", k)
    return PathwiseELBO(plain(m * k), _log_mean, partial(_parted, m=plain(m)))


@named
def renyi(alpha: float, k: int) -> ImportanceWeightedELBO:
    r"""Renyi's bound, :math:`-\frac{1}{1 - \alpha} E[\log \frac1k \sum_i w_i^{1 - \alpha}]`.

    ``renyi(0, k)`` is ``iwae(k)``, and the limit at :math:`\alpha = 1` is the negative ELBO. For
    :math:`\alpha < 0`, the limit of many samples is above log p(x), but at finite k the value is
    neither an upper nor a lower bound. Units and conditions are those of :func:`iwae`. Value and
    gradient are those of Pyro's ``RenyiELBO``, which can neither be compiled nor used with a torch
    optimizer, and is inaccurate for :math:`\alpha` near 1.

    Source: Li and Turner (2016), arXiv 1602.02311, sections 3 and 4.

    Arguments:
        alpha: The order of Renyi's divergence.
        k: Number of weights for each example.

    Returns:
        A Pyro ELBO.

    Raises:
        TypeError: `alpha` is not a number.
        ValueError: `alpha` is not finite, or within 1e-9 of 1, where :func:`trace_elbo` is the
            objective; otherwise as :func:`iwae`.

    Example:
        >>> vae = presets.build("bernoulli-mlp", z_dim=2, shape=(28, 28))
        >>> svi = pyro.infer.SVI(vae.model, vae.guide, optim.Adam(1e-3), objectives.renyi(0.5, 8))
        >>> loss = svi.step(torch.zeros(7, 28, 28))  # nats, summed over 7 examples
    """
    check_count("k", k)
    check_number("alpha", alpha)
    order = float(plain(alpha))
    if abs(1 - order) < 1e-9:
        raise ValueError(
            f"alpha: got {order!r}, expected a number that is 1e-9 or more away from 1: use "
            "trace_elbo() there"
        )
    return ImportanceWeightedELBO(plain(k), partial(_power_mean, alpha=order))


def _log_mean(log_w: Tensor) -> Tensor:
    return log_w.logsumexp(0) - math.log(len(log_w))


def _mean_of_groups(log_w: Tensor, m: int) -> Tensor:
    return _log_mean(log_w.unflatten(0, (m, -1)).transpose(0, 1)).mean(0)


def _mixed(log_w: Tensor, beta: float) -> Tensor:
    return beta * log_w.mean(0) + (1 - beta) * _log_mean(log_w)


def _power_mean(log_w: Tensor, alpha: float) -> Tensor:
    # In float64, because for alpha near 1 this divides a number near 0 by another one.
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
