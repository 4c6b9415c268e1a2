"""Three estimators of the ELBO: sampled, with a closed-form KL, and with a pathwise gradient."""

from typing import Any

from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from pyro.poutine import Trace
from torch import Tensor

from pyro_vae.contracts import check_order
from pyro_vae.distributions import check_analytic_kl, describe_distribution
from pyro_vae.objectives.pathwise import PathwiseELBO, Surrogate
from pyro_vae.objectives.registry import named
from pyro_vae.utils.checks import check_count, plain

__all__ = ["AnalyticKL_ELBO", "analytic_kl", "sticking_the_landing", "trace_elbo"]


@named
def trace_elbo(num_particles: int = 1) -> Trace_ELBO:
    r"""The negative ELBO by sampling, :math:`-E_q[\log p(x|z) + \log p(z) - \log q(z|x)]`.

    Its loss is in nats, summed over examples. Value and gradient are unbiased for any model and
    guide.

    Source: Kingma and Welling (2014), arXiv 1312.6114, equation 6 (estimator A).

    Arguments:
        num_particles: Number of samples of z for each example. They are vectorized.

    Returns:
        Pyro's ``Trace_ELBO``.

    Raises:
        ValueError: `num_particles` is not a positive integer.

    Example:
        >>> vae = presets.build("bernoulli-mlp", z_dim=2, shape=(28, 28))
        >>> objective = objectives.trace_elbo(num_particles=3)
        >>> svi = pyro.infer.SVI(vae.model, vae.guide, optim.Adam(1e-3), loss=objective)
        >>> loss = svi.step(torch.zeros(7, 28, 28))  # nats, summed over 7 examples
    """
    check_count("num_particles", num_particles)
    num_particles = plain(num_particles)
    return Trace_ELBO(num_particles=num_particles, vectorize_particles=num_particles > 1)


@named
def analytic_kl(num_particles: int = 1) -> "AnalyticKL_ELBO":
    r"""The negative ELBO with its KL in closed form, :math:`-E_q[\log p(x|z)] + KL(q, p)`.

    Its loss is in nats, summed over examples, and has the same mean as that of
    :func:`trace_elbo`. It requires that each latent site of the guide is reparameterized, has a KL
    in closed form in torch or Pyro, and depends only on sites that come before it in the model
    too. Otherwise the first loss raises. Pyro's ``TraceMeanField_ELBO`` would sample the KL
    without a warning.

    Source: Kingma and Welling (2014), arXiv 1312.6114, equation 7 (estimator B).

    Arguments:
        num_particles: Number of samples of z for each example. They are vectorized.

    Returns:
        A subclass of Pyro's ``TraceMeanField_ELBO``.

    Raises:
        ValueError: `num_particles` is not a positive integer. At the first loss: a KL has no
            closed form or is infinite, or the guide is not reparameterized or draws its sites in
            another order than the model.

    Example:
        >>> vae = presets.build("bernoulli-mlp", z_dim=2, shape=(28, 28))
        >>> x = torch.zeros(7, 28, 28)
        >>> history = fit(vae, x, epochs=2, batch_size=7, objective=objectives.analytic_kl())
        >>> history.epoch
        [1, 2]
    """
    check_count("num_particles", num_particles)
    num_particles = plain(num_particles)
    return AnalyticKL_ELBO(num_particles=num_particles, vectorize_particles=num_particles > 1)


@named
def sticking_the_landing(num_particles: int = 1) -> PathwiseELBO:
    r"""The negative ELBO with a gradient that reaches the guide through z alone.

    The loss is :math:`-E_q[\log p(x, z) - \log q_\phi(z|x)]` in nats, summed over examples. With
    :math:`z = z_\phi` reparameterized, the gradient by the :math:`\phi` of the density
    :math:`\log q_\phi` is zero in the mean. It is left out, and its noise with it: the guide's
    gradient has no variance at the exact posterior. Value and gradient have the same means as
    those of :func:`trace_elbo`.

    The guide must be reparameterized; latent sites may depend on each other. An inverse
    autoregressive flow needs z_dim further passes.

    Source: Roeder, Wu and Duvenaud (2017), arXiv 1703.09194, section 3.

    Arguments:
        num_particles: Number of samples of z for each example. They are vectorized.

    Returns:
        A Pyro ELBO.

    Raises:
        ValueError: `num_particles` is not a positive integer. At a loss: a latent site is not
            reparameterized, or is missing in the guide.

    Example:
        >>> vae = presets.build("bernoulli-mlp", z_dim=2, shape=(28, 28))
        >>> objective = objectives.sticking_the_landing(num_particles=3)
        >>> loss = objective.differentiable_loss(vae.model, vae.guide, torch.zeros(7, 28, 28))
        >>> loss.shape
        torch.Size([])
    """
    check_count("num_particles", num_particles)
    num_particles = plain(num_particles)
    return PathwiseELBO(num_particles, _mean, _stick, linear=True)


# Bounds, as functions of log-weights of shape (num_particles, ...).


def _mean(log_w: Tensor) -> Tensor:
    return log_w.mean(0)


# Gradients, as functions of log p(x, z) and log q(z|x), which have the same shape.


def _stick(log_p: Tensor, log_q: Tensor) -> Surrogate:
    return Surrogate(direct=_mean(log_p).sum(), path=-_mean(log_q).sum())


class AnalyticKL_ELBO(TraceMeanField_ELBO):
    """Pyro's ``TraceMeanField_ELBO``, with an error where that would sample the KL silently.

    See :func:`analytic_kl`.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._checked: set[tuple[str, str]] = set()  # distributions that passed the checks

    def _get_trace(self, model, guide, args, kwargs):  # type: ignore[no-untyped-def]
        model_trace, guide_trace = super()._get_trace(model, guide, args, kwargs)
        self._check(model_trace, guide_trace)
        return model_trace, guide_trace

    def _check(self, model_trace: Trace, guide_trace: Trace) -> None:
        """Raises ValueError unless each latent site has a KL in closed form."""
        check_order(guide_trace.stochastic_nodes, model_trace.stochastic_nodes)
        for name in guide_trace.stochastic_nodes:
            if name not in model_trace.nodes:
                continue
            q, p = guide_trace.nodes[name]["fn"], model_trace.nodes[name]["fn"]
            names = describe_distribution(q), describe_distribution(p)
            if names not in self._checked:
                if not q.has_rsample:
                    raise ValueError(
                        f'analytic KL at site "{name}": {names[0]} has no rsample, expected a '
                        "reparameterized guide; use objectives.trace_elbo() instead"
                    )
                check_analytic_kl(q, p, site=name)
                self._checked.add(names)
