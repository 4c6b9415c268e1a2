"""Objectives: Pyro ELBOs for a plain ``pyro.infer.SVI``, each with what it estimates and when."""

from typing import Any

from pyro.infer import ELBO, Trace_ELBO, TraceMeanField_ELBO
from pyro.poutine import Trace

from pyro_vae.arguments import check_count
from pyro_vae.compilation import Compiled
from pyro_vae.divergences import check_analytic_kl, describe


def trace_elbo(num_particles: int = 1) -> Trace_ELBO:
    r"""The negative ELBO by sampling alone, :math:`-E_q[\log p(x|z) + \log p(z) - \log q(z|x)]`.

    Unbiased for any model and guide, in nats, summed over examples. Particles are vectorized.
    Source: Kingma and Welling (2014), equation 6 (estimator A).

    Raises:
        ValueError: `num_particles` is no whole number from 1 up.
    """
    check_count("num_particles", num_particles)
    return Trace_ELBO(num_particles=num_particles, vectorize_particles=num_particles > 1)


def analytic_kl(num_particles: int = 1) -> "AnalyticKL_ELBO":
    r"""The negative ELBO with its KL in closed form, :math:`-E_q[\log p(x|z)] + KL(q, p)`.

    The same in the mean as :func:`trace_elbo`, in nats, summed over examples; particles are
    vectorized. It is right where each latent site of the guide is reparameterized and, given x,
    independent of the others, and where torch or Pyro has the closed form; else it raises.
    Source: Kingma and Welling (2014), equation 7 (estimator B).

    Raises:
        ValueError: `num_particles` is no whole number from 1 up. Before the first gradient step,
            a pair of distributions without a closed form or with an infinite KL, or a guide that
            is not reparameterized.
    """
    check_count("num_particles", num_particles)
    return AnalyticKL_ELBO(num_particles=num_particles, vectorize_particles=num_particles > 1)


def compiled(elbo: ELBO) -> Compiled:
    """The same objective, its loss and gradients compiled to one graph, for a plain ``SVI``.

    The first loss runs model and guide once as they are, which makes their parameters and holds
    observed values against their sites' supports; then loss and backward are traced to one FX
    graph, which Inductor compiles. From then on the graph runs in their stead: Pyro's handlers and
    its validation cost nothing, and no longer see the steps. Noise comes from torch's generators
    as it does uncompiled, so a seed gives the same steps, up to rounding. (A layer that draws
    noise into permuted memory, as dropout in attention does, gets the same numbers elsewhere; and
    before torch 2.13 Inductor may draw in another order, where a program draws more than once.)

    It serves any Pyro model and guide of static structure, which do the same whatever the numbers
    are:

    * Tensors and floats among the arguments are inputs of the graph, and so are parameters,
      buffers and all other tensors that model and guide hold. They may change from step to step:
      arguments by new ones, the others in place.
    * What has another shape, dtype or device, ints, strings and bools among the arguments, train
      and eval mode, and other numbers, parts and parameters in the modules that run have graphs
      of their own. The first is compiled at once, a further one when it has come a hundred
      times; until then, as an epoch's smaller last batch, it runs uncompiled. The last eight
      graphs are kept, and no more than four are made for the same arguments.
    * Numbers that model and guide find elsewhere, in closures and globals, are fixed at the trace.
    * Inside other handlers (``poutine.scale`` around a step, say) it runs uncompiled.

    A graph takes from a second to half a minute; Inductor keeps the code in a cache on disk, so
    that the next process takes a second or two. ``compile_seconds`` of the result says what it
    took, and so does the log of ``pyro_vae.compilation``, at level INFO.

    Source: in place of Pyro's ``Jit*_ELBO``, which rest on ``torch.jit.trace``.

    Raises:
        TypeError: `elbo` is no ELBO with a ``differentiable_loss``, or compiled already; at a
            loss, an argument that cannot be hashed.
        ValueError: At a loss, an argument that requires grad; at the first, an observed value off
            its site's support.
        NotStatic: At the first loss, model or guide read a tensor's value, or a module replaces a
            tensor of its own.
        NotCompiled: At the first loss, torch cannot compile what the program does.
        RuntimeError: A gradient is asked for gradients of its own (``create_graph=True``).

    Warns:
        UserWarning: Once, where there is no C++ compiler, and all runs uncompiled then; when the
            fourth graph for the same arguments has been made.
    """
    return Compiled(elbo)


NAMES = {"trace_elbo": trace_elbo, "analytic_kl": analytic_kl}
"""The objectives that the command knows by name."""


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
        for name in guide_trace.stochastic_nodes:
            if name not in model_trace.nodes:
                continue
            q, p = guide_trace.nodes[name]["fn"], model_trace.nodes[name]["fn"]
            pair = describe(q), describe(p)
            if pair not in self._pairs:
                if not q.has_rsample:
                    raise ValueError(
                        f'analytic KL at site "{name}": {describe(q)} has no rsample, expected a '
                        "reparameterized guide; use objectives.trace_elbo() instead"
                    )
                check_analytic_kl(q, p, site=name)
                self._pairs.add(pair)
