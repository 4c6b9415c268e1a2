"""The ELBO and its three estimators: sampled, with a closed-form KL, and by the path alone."""

from typing import Any

from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from pyro.poutine import Trace
from torch import Tensor

from pyro_vae.distributions import check_analytic_kl, describe_distribution
from pyro_vae.objectives.pathwise import PathwiseELBO, Surrogate
from pyro_vae.objectives.registry import named
from pyro_vae.utils.checks import check_count


@named
def trace_elbo(num_particles: int = 1) -> Trace_ELBO:
    r"""The negative ELBO by sampling alone, :math:`-E_q[\log p(x|z) + \log p(z) - \log q(z|x)]`.

    Unbiased for any model and guide, in nats, summed over examples. Particles are vectorized.
    Source: Kingma and Welling (2014), equation 6 (estimator A).

    Raises:
        ValueError: `num_particles` is no whole number from 1 up.
    """
    check_count("num_particles", num_particles)
    return Trace_ELBO(num_particles=num_particles, vectorize_particles=num_particles > 1)


@named
def analytic_kl(num_particles: int = 1) -> "AnalyticKL_ELBO":
    r"""The negative ELBO with its KL in closed form, :math:`-E_q[\log p(x|z)] + KL(q, p)`.

    The same in the mean as :func:`trace_elbo`, in nats, summed over examples; particles are
    vectorized. It is right where each latent site of the guide is reparameterized, depends on no
    sites but those that come before it in the model too, and has a closed form in torch or Pyro;
    a guide that draws its sites in another order than the model raises, and so do the others.
    Source: Kingma and Welling (2014), equation 7 (estimator B).

    Raises:
        ValueError: `num_particles` is no whole number from 1 up. Before the first gradient step,
            a pair of distributions without a closed form or with an infinite KL, or a guide that
            is not reparameterized or draws in another order than the model.
    """
    check_count("num_particles", num_particles)
    return AnalyticKL_ELBO(num_particles=num_particles, vectorize_particles=num_particles > 1)


@named
def sticking_the_landing(num_particles: int = 1) -> PathwiseELBO:
    r"""The negative ELBO whose gradient reaches the guide by way of z alone.

    In :math:`-E_q[\log p(x, z) - \log q_\phi(z|x)]` the derivative by the :math:`\phi` that stand
    in :math:`\log q_\phi` is zero in the mean: it is left out, and with it its noise. At the exact
    posterior the guide's gradient has no variance. The same in the mean as :func:`trace_elbo`, in
    nats, summed over examples, for reparameterized guides of any structure; others raise. Over an
    inverse autoregressive flow it takes z_dim passes more. Source: Roeder, Wu and Duvenaud (2017),
    arXiv 1703.09194, section 3.

    Raises:
        ValueError: `num_particles` is no whole number from 1 up; at a loss, a latent site is not
            reparameterized, or not in the guide.
    """
    check_count("num_particles", num_particles)
    return PathwiseELBO(num_particles, _mean, _stick, linear=True)


# Bounds of log-weights of shape (num_particles, ...).


def _mean(log_w: Tensor) -> Tensor:
    return log_w.mean(0)


# Gradients, from log p(x, z) and log q(z|x) of the same shape.


def _stick(log_p: Tensor, log_q: Tensor) -> Surrogate:
    return Surrogate(direct=_mean(log_p).sum(), path=-_mean(log_q).sum())


class AnalyticKL_ELBO(TraceMeanField_ELBO):
    """Pyro's ``TraceMeanField_ELBO``, but where that would sample without a word, this raises."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._pairs: set[tuple[str, str]] = set()  # those seen to have a closed form

    def _get_trace(self, model, guide, args, kwargs):  # type: ignore[no-untyped-def]
        model_trace, guide_trace = super()._get_trace(model, guide, args, kwargs)
        self._check_pairs(model_trace, guide_trace)
        return model_trace, guide_trace

    def _check_pairs(self, model_trace: Trace, guide_trace: Trace) -> None:
        drawn = [name for name in guide_trace.stochastic_nodes if name in model_trace.nodes]
        order = [name for name in model_trace.stochastic_nodes if name in drawn]
        if drawn != order:
            raise ValueError(
                f"analytic KL: the guide draws its sites in the order {', '.join(drawn)}, "
                f"expected the model's, {', '.join(order)}: a closed form holds given the sites "
                "before; use objectives.trace_elbo() instead"
            )
        for name in guide_trace.stochastic_nodes:
            if name not in model_trace.nodes:
                continue
            q, p = guide_trace.nodes[name]["fn"], model_trace.nodes[name]["fn"]
            pair = describe_distribution(q), describe_distribution(p)
            if pair not in self._pairs:
                if not q.has_rsample:
                    raise ValueError(
                        f'analytic KL at site "{name}": {describe_distribution(q)} has no rsample, expected a '
                        "reparameterized guide; use objectives.trace_elbo() instead"
                    )
                check_analytic_kl(q, p, site=name)
                self._pairs.add(pair)
