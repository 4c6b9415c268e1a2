"""The ELBO with its discrete latents summed out."""

from typing import Any

import torch
from pyro.infer import TraceEnum_ELBO
from pyro.infer.util import torch_item
from pyro.poutine import Trace
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from pyro.util import warn_if_nan
from torch import Tensor

from pyro_vae.compat import UnloggedELBO, masked
from pyro_vae.distributions import describe_distribution
from pyro_vae.objectives.enumeration import expected_elbo, expected_terms, is_summed, kl_weight
from pyro_vae.objectives.registry import named
from pyro_vae.objectives.traits import Traits
from pyro_vae.utils.checks import check_count, plain

__all__ = ["EnumeratedELBO", "enumerated"]


@named
def enumerated(num_particles: int = 1) -> "EnumeratedELBO":
    r"""The negative ELBO with discrete latents y summed out, in the guide and in the model.

    .. math:: -E_{q(z|x)} \sum_y q(y|x, z)\,
        [\log p(x, y, z) - \log q(y|x, z) - \log q(z|x)]

    for a y that the guide has; z is sampled. A y that the model alone has is summed out there:
    :math:`-E_{q(z|x)} [\log \sum_y p(x, y, z) - \log q(z|x)]`. The loss is in nats, summed over
    examples. Each site of model or guide that has finitely many values is summed out: all values
    of a site run at once, in a dimension of their own, and the time is that of the product of the
    numbers of values of sites that depend on each other. No site need be marked; of the values of
    a site with ``infer={"enumerate": None}``, one is drawn.

    The gradient is exact over y. Other sites of the guide that are not reparameterized, such as a
    Poisson, have the gradient of the score function. All networks run on further batch dimensions
    on the left, as with several particles.

    :class:`History` has the terms of the same expectation. A y of the model alone is summed out of
    both: :math:`p(z) = \sum_y p(y)\, p(z|y)`, and :math:`p(x|z) = p(x, z) / p(z)`.
    :func:`warm_up` weights this KL.

    Source: Pyro's ``TraceEnum_ELBO``; Kingma, Mohamed, Rezende and Welling (2014), arXiv
    1406.5298, section 3.1.2, sum a class out of their bound.

    Arguments:
        num_particles: Number of samples of the other latents for each example, and for each value
            of the sites before them. They are vectorized.

    Returns:
        A subclass of Pyro's ``TraceEnum_ELBO``.

    Raises:
        ValueError: `num_particles` is not a positive integer. At a loss: no site has finitely many
            values; a marked one has not; a latent of the model alone has not; or a site is marked
            for another enumeration, or has a mask in its distribution.

    Example:
        >>> import pyro.distributions as dist
        >>> encoder, decoder = networks.MLP(5, (16,), 3), networks.MLP(3, (16,), 5)
        >>> def model(x):
        ...     with pyro.plate("data", len(x)):
        ...         y = pyro.sample("y", dist.OneHotCategorical(logits=x.new_zeros(3)))
        ...         pyro.sample("x", dist.Normal(decoder(y), 1.0).to_event(1), obs=x)
        >>> def guide(x):
        ...     with pyro.plate("data", len(x)):
        ...         pyro.sample("y", dist.OneHotCategorical(logits=encoder(x)))
        >>> pair = Pair(model, guide, encoder=encoder, decoder=decoder)
        >>> x = torch.randn(64, 5)
        >>> fit(pair, x, epochs=2, objective=objectives.enumerated()).epoch
        [1, 2]
    """
    check_count("num_particles", num_particles)
    num_particles = plain(num_particles)
    return EnumeratedELBO(
        num_particles=num_particles,
        vectorize_particles=num_particles > 1,
        strict_enumeration_warning=False,  # An error says it.
    )


class EnumeratedELBO(UnloggedELBO, TraceEnum_ELBO):
    """Pyro's ``TraceEnum_ELBO``, which marks the sites itself and reads no values.

    See :func:`enumerated`. Pyro's marginals and posterior samples of sites that are summed out,
    ``compute_marginals`` and ``sample_posterior``, work as in the base class.
    """

    traits = Traits(kl_by_difference=True, is_linear=True, is_static=True, sums_out=True)
    """The traits of the objective, which is the ELBO."""

    @torch.no_grad()
    def loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Any:
        """The loss as a number, in nats, summed over examples."""
        loss = self._loss(model, guide, args, kwargs)
        warn_if_nan(loss, "loss")
        return torch_item(loss)

    def differentiable_loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Tensor:
        """The loss as a scalar tensor, in nats, whose gradient is the estimator's."""
        loss = self._loss(model, guide, args, kwargs)
        warn_if_nan(loss, "loss")
        return loss

    def loss_and_grads(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Any:
        """The loss as a number, in nats; adds its gradient to those of the parameters."""
        loss = self._loss(model, guide, args, kwargs)
        if loss.requires_grad:
            loss.backward(retain_graph=self.retain_graph)
        warn_if_nan(loss, "loss")
        return torch_item(loss)

    def _loss(self, model: Any, guide: Any, args: Any, kwargs: Any) -> Tensor:
        total: Tensor | float = 0.0
        for traces in self._get_traces(model, guide, args, kwargs):
            weight = kl_weight(traces)
            if weight is None:
                elbo = expected_elbo(*traces)
            else:
                likelihood, kl = expected_terms(*traces)
                elbo = likelihood - weight * kl
            total = total + elbo / self.num_particles
        return -torch.as_tensor(total)

    def _get_traces(self, model: Any, guide: Any, args: Any, kwargs: Any) -> Any:
        in_guide = _Marked("guide")
        in_model = _Marked("model", in_guide.names)
        return super()._get_traces(in_model(model), in_guide(guide), args, kwargs)

    def _get_trace(self, model: Any, guide: Any, args: Any, kwargs: Any) -> tuple[Trace, Trace]:
        model_trace, guide_trace = super()._get_trace(model, guide, args, kwargs)
        _check(model_trace, guide_trace)
        return model_trace, guide_trace


class _Marked(Messenger):
    """Marks the latent sites of a program that have finitely many values.

    Arguments:
        program: ``"model"`` or ``"guide"``, for error messages.
        others: Sites that are left as they are, because the guide has them.
    """

    def __init__(self, program: str, others: set[str] | None = None) -> None:
        super().__init__()
        self.program = program
        self.others = others
        self.names: set[str] = set()

    def __enter__(self) -> Any:
        self.names.clear()
        return super().__enter__()

    def _pyro_sample(self, msg: Any) -> None:
        if msg["is_observed"] or site_is_subsample(msg):
            return
        self.names.add(msg["name"])
        if self.others is not None and msg["name"] in self.others:
            return
        fn, infer = msg["fn"], msg["infer"] or {}
        countable = getattr(fn, "has_enumerate_support", False)
        mark = infer.get("enumerate", "parallel" if countable else None)
        if mark is None:
            return
        where = f'{self.program}: the site "{msg["name"]}"'
        if mark != "parallel" or infer.get("num_samples") is not None:
            got = {k: infer[k] for k in ("enumerate", "num_samples") if k in infer}
            raise ValueError(
                f'{where} has infer={got}, expected {{"enumerate": "parallel"}} or no mark: '
                "objectives.enumerated() sums over all values at once"
            )
        if not countable:
            raise ValueError(
                f"{where} is marked for enumeration and has {describe_distribution(fn)}, expected "
                "a distribution of finitely many values, such as Categorical"
            )
        if masked(fn) is not None:
            raise ValueError(
                f"{where} has a mask in its distribution, which hides how probable its values "
                "are, expected poutine.mask"
            )
        msg["infer"] = {**infer, "enumerate": mark}


def _check(model: Trace, guide: Trace) -> None:
    """Raises ValueError if no site is summed out, or a latent of the model is left over."""
    sites = {**model.nodes, **guide.nodes}
    latents = {name: sites[name] for t in (model, guide) for name in t.stochastic_nodes}
    if not any(map(is_summed, latents.values())):
        found = ", ".join(f'"{n}" ({describe_distribution(s["fn"])})' for n, s in latents.items())
        raise ValueError(
            f"enumerated: got a model and a guide with the latents {found or 'none'}, expected a "
            "site with finitely many values to sum out; use objectives.trace_elbo() instead"
        )
    for name in model.stochastic_nodes:
        if name not in guide.nodes and not is_summed(model.nodes[name]):
            raise ValueError(
                f'site "{name}": latent in the model, and not in the guide, and has '
                f"{describe_distribution(model.nodes[name]['fn'])}, expected a guide that draws "
                "it, or a distribution of finitely many values, which is summed out"
            )
