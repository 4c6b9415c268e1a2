"""Objectives: Pyro ELBOs for a plain ``pyro.infer.SVI``, each with what it estimates and when."""

import math
from collections.abc import Callable
from functools import partial
from inspect import Parameter, signature
from typing import Any

from pyro.infer import (
    ELBO,
    JitTrace_ELBO,
    RenyiELBO,
    Trace_ELBO,
    TraceMeanField_ELBO,
    TraceTailAdaptive_ELBO,
)
from pyro.poutine import Trace
from torch import Tensor

from pyro_vae.annealing import Annealed
from pyro_vae.arguments import check_count
from pyro_vae.compilation import Compiled
from pyro_vae.divergences import check_analytic_kl, describe
from pyro_vae.weighted import PathwiseELBO, Surrogate, WeightedELBO


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


def iwae(k: int) -> WeightedELBO:
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
    return WeightedELBO(k, _log_mean)


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


def miwae(m: int, k: int) -> WeightedELBO:
    r"""The mean of m bounds of :func:`iwae`, of k samples each.

    The same in the mean as ``iwae(k)``, with a gradient of less noise. ``miwae(m, 1)`` is
    ``trace_elbo(m)``, ``miwae(1, k)`` is ``iwae(k)``. Conditions and errors are as those of
    :func:`iwae`. Source: Rainforth et al. (2018), arXiv 1802.04537, section 5.
    """
    check_count("m", m)
    check_count("k", k)
    return WeightedELBO(m * k, partial(_mean_of_groups, m=m))


def ciwae(beta: float, k: int) -> WeightedELBO:
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
    return WeightedELBO(k, partial(_mixed, beta=float(beta)))


def piwae(m: int, k: int) -> PathwiseELBO:
    r"""``iwae(m * k)`` for the model, ``miwae(m, k)`` for the guide, from the same m k samples.

    The value is that of ``iwae(m * k)``; the gradient belongs to no one loss. Parameters that
    model and guide share get both. Conditions and errors are as those of :func:`iwae`. Source:
    Rainforth et al. (2018), arXiv 1802.04537, section 5.
    """
    check_count("m", m)
    check_count("k", k)
    return PathwiseELBO(m * k, _log_mean, partial(_parted, m=m))


def renyi(alpha: float, k: int) -> WeightedELBO:
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
    return WeightedELBO(k, partial(_power_mean, alpha=float(alpha)))


def warm_up(objective: ELBO, steps: int, start: float = 0.0) -> Annealed:
    r"""An ELBO whose KL counts less at first, :math:`-E_q[\log p(x|z)] + \beta_t\, KL(q, p)`.

    :math:`\beta_t = \min(1, start + (1 - start)\, t / steps)` in step t = 0, 1, ...: latent sites
    of model and guide are scaled, observed ones are not. A step is a loss with gradients; ``loss``
    takes none. An object anneals once: ``taken`` counts its steps, and goes into a pickle. To
    compile, ``compiled(warm_up(...))``. It is over the ELBO only: inside an importance-weighted
    bound it would change the target, and so that raises. Source: Bowman et al. (2016), arXiv
    1511.06349, section 3.1; Sonderby et al. (2016), arXiv 1602.02282, section 2.3.

    Arguments:
        objective: ``trace_elbo()``, ``analytic_kl()``, ``sticking_the_landing()``, or Pyro's
            ``Trace_ELBO`` or ``TraceMeanField_ELBO``.
        steps: Steps until the weight is one.
        start: The first step's weight, from 0 to 1.

    Raises:
        TypeError: `objective` is compiled, or no such ELBO.
        ValueError: `objective` is importance-weighted; `steps` or `start` is out of range.
    """
    check_count("steps", steps)
    if isinstance(start, bool) or not isinstance(start, int | float) or not 0 <= start <= 1:
        raise ValueError(f"start: got {start!r}, expected a number from 0 to 1")
    if isinstance(objective, WeightedELBO | RenyiELBO) and not getattr(objective, "linear", False):
        raise ValueError(
            f"objective: got a {type(objective).__name__} of importance weights, expected an "
            "ELBO: a weight at the KL inside of a logarithm would change what is estimated"
        )
    if isinstance(objective, Compiled):
        raise TypeError("objective: got a compiled one, expected compiled(warm_up(...))")
    plain = isinstance(objective, Trace_ELBO | WeightedELBO)
    if not plain or isinstance(objective, JitTrace_ELBO | TraceTailAdaptive_ELBO):
        raise TypeError(
            f"objective: got a {type(objective).__name__}, expected trace_elbo(), analytic_kl() "
            "or sticking_the_landing()"
        )
    return Annealed(objective, steps, float(start))


# Bounds of log-weights of shape (num_particles, ...).


def _mean(log_w: Tensor) -> Tensor:
    return log_w.mean(0)


def _log_mean(log_w: Tensor) -> Tensor:
    return log_w.logsumexp(0) - math.log(len(log_w))


def _mean_of_groups(log_w: Tensor, m: int) -> Tensor:
    return _log_mean(log_w.unflatten(0, (m, -1)).transpose(0, 1)).mean(0)


def _mixed(log_w: Tensor, beta: float) -> Tensor:
    return beta * _mean(log_w) + (1 - beta) * _log_mean(log_w)


def _power_mean(log_w: Tensor, alpha: float) -> Tensor:
    # In float64: near one the logarithm is all but zero, and divided by as little.
    return (_log_mean((1 - alpha) * log_w.double()) / (1 - alpha)).to(log_w.dtype)


# Gradients, from log p(x, z) and log q(z|x) of the same shape.


def _stick(log_p: Tensor, log_q: Tensor) -> Surrogate:
    return Surrogate(direct=_mean(log_p).sum(), path=-_mean(log_q).sum())


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


_NAMED: tuple[Callable[..., ELBO], ...] = (
    trace_elbo,
    analytic_kl,
    sticking_the_landing,
    iwae,
    dreg,
    miwae,
    ciwae,
    piwae,
    renyi,
)


def names() -> list[str]:
    """The objectives that :func:`parse` knows, as a user writes them: ``"ciwae:beta:k"``."""
    named = [
        make.__name__ + "".join(map(_place, signature(make).parameters.values()))
        for make in _NAMED
    ]
    return [*named, "warm_up:steps:objective"]


def _place(number: Parameter) -> str:
    return f":{number.name}" if number.default is number.empty else f"[:{number.name}]"


def parse(text: str) -> ELBO:
    """An objective by its name and numbers: ``"trace_elbo"``, ``"iwae:8"``, ``"ciwae:0.5:8"``.

    ``"warm_up:500:trace_elbo"`` is ``warm_up(trace_elbo(), 500)``.

    Raises:
        ValueError: An unknown name, numbers that do not belong to it, or out of range.
    """
    name, *numbers = text.split(":")
    inner = numbers[1:2]
    if name == warm_up.__name__ and inner not in ([], [name]) and numbers[0].isdecimal():
        return warm_up(parse(":".join(numbers[1:])), int(numbers[0]))
    known = {make.__name__: make for make in _NAMED}
    try:
        make = known[name]
        values = [float(n) if set(n) & set(".eE") else int(n) for n in numbers]
        signature(make).bind(*values)
    except (KeyError, TypeError, ValueError):
        raise ValueError(
            f"objective: got {text!r}, expected one of {', '.join(names())}, with numbers"
        ) from None
    return make(*values)


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
            pair = describe(q), describe(p)
            if pair not in self._pairs:
                if not q.has_rsample:
                    raise ValueError(
                        f'analytic KL at site "{name}": {describe(q)} has no rsample, expected a '
                        "reparameterized guide; use objectives.trace_elbo() instead"
                    )
                check_analytic_kl(q, p, site=name)
                self._pairs.add(pair)
