"""A classifier's loss on labelled examples, added to another objective."""

from typing import Any

import torch
from pyro.distributions.util import scale_and_mask
from pyro.infer import ELBO, TraceEnum_ELBO
from pyro.infer.util import torch_item
from pyro.poutine import Trace
from torch import Tensor

from pyro_vae.objectives.compiled import Compiled
from pyro_vae.objectives.elbo import trace_elbo
from pyro_vae.objectives.enumeration import UNANNEALED, expected_sum
from pyro_vae.objectives.registry import named_outer
from pyro_vae.objectives.terms import collected_traces
from pyro_vae.objectives.traits import Traits, check_elbo, traits
from pyro_vae.objectives.wrapper import Wrapper, layers
from pyro_vae.utils.checks import check_number, plain

__all__ = ["CLASSIFIER", "Classified", "classified"]

CLASSIFIER = "classifier"
"""The key of a guide site's ``infer`` that holds q(y|x) and the labels."""


def classified(alpha: float, objective: ELBO | None = None) -> "Classified":
    r"""Adds a classifier's loss on labelled examples, :math:`-\alpha \sum_n \log q(y_n|x_n)`.

    In the ELBO of an example with a label, the classifier does not occur, and so would learn from
    the others alone. The term is no part of the ELBO: :class:`History` has the objective's value
    as its cost, and the terms of the ELBO beside it. The sum is over the labelled examples of a
    batch, and over further plates of the site. A classifier that depends on latents has its
    expectation over them. With N examples of which L have a label, the source's weight of 0.1 N
    for the mean over the labelled ones is ``alpha = 0.1 * N / L``.

    It takes q(y|x) and the labels from the guide: a site with
    ``infer={"classifier": (distribution, labels)}``, as that of a
    :class:`~pyro_vae.models.SemiSupervisedVAE`. Labels of -1 are missing. Latents that the
    classifier depends on learn from its loss if they are reparameterized, or summed out.

    Source: Kingma, Mohamed, Rezende and Welling (2014), arXiv 1406.5298, equation 9.

    Arguments:
        alpha: The weight of each labelled example, from 0 up.
        objective: The objective to add to; None is ``trace_elbo()``. For a class that is summed
            out, it is ``enumerated()``.

    Returns:
        A Pyro ELBO.

    Raises:
        TypeError: `alpha` is not a number, or `objective` is no ELBO, or compiled.
        ValueError: `alpha` is not a finite number from 0 up. At a loss: no site of the guide has a
            classifier.

    Example:
        >>> objective = objectives.classified(50.0, objectives.enumerated())
        >>> objectives.parse("classified:50:enumerated").alpha
        50.0
    """
    check_number("alpha", alpha, 0)
    chosen = trace_elbo() if objective is None else objective
    check_elbo(chosen, "objective")
    if isinstance(chosen, Compiled):
        raise TypeError(
            "objective: got a compiled objective, expected one that is not: use "
            "compiled(classified(...))"
        )
    if not hasattr(chosen, "differentiable_loss"):
        raise TypeError(
            f"objective: got {type(chosen).__name__}, expected an ELBO with a differentiable_loss"
        )
    return Classified(chosen, float(plain(alpha)))


@named_outer("classified", "alpha")
def _named(objective: ELBO, alpha: float) -> "Classified":
    return classified(alpha, objective)


class Classified(Wrapper):
    """An objective with a classifier's loss; see :func:`classified`.

    Arguments:
        elbo: The objective.
        alpha: The weight of each labelled example.
    """

    def __init__(self, elbo: ELBO, alpha: float) -> None:
        super().__init__(elbo)
        self.alpha = alpha

    @property
    def traits(self) -> Traits:
        """The traits of the objective, which is no ELBO."""
        inner = traits(self.elbo)
        return Traits(is_static=inner.is_static, is_sum=inner.is_sum, sums_out=inner.sums_out)

    def loss_and_grads(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Any:
        """The loss as a number, in nats; adds its gradient to those of the parameters."""
        loss = self.differentiable_loss(model, guide, *args, **kwargs)
        if loss.requires_grad:
            loss.backward(retain_graph=self.retain_graph)
        return torch_item(loss)

    def _call(self, method: str, model: Any, guide: Any, args: Any, kwargs: Any) -> Any:
        with collected_traces(self.elbo) as traces:
            loss = getattr(self.elbo, method)(model, guide, *args, **kwargs)
        *_, inner = layers(self.elbo)
        enumerates = isinstance(inner, TraceEnum_ELBO)
        losses = [_loss(own, enumerates) for _, own in traces]
        added = torch.stack(losses).sum() / self.elbo.num_particles
        return loss + self.alpha * (added if isinstance(loss, Tensor) else torch_item(added))


def _loss(guide: Trace, enumerates: bool) -> Tensor:
    """The classifier's loss, summed over labelled examples and over particles.

    Arguments:
        guide: A trace of the guide.
        enumerates: Whether values of sites are summed out.
    """
    nodes = guide.nodes.items()
    sites = {name: site for name, site in nodes if CLASSIFIER in site.get("infer", ())}
    if not sites:
        raise ValueError(
            "classified: got a guide without a classifier, expected a site with "
            'infer={"classifier": (q(y|x), labels)} and labels in the batch, as of a '
            "models.SemiSupervisedVAE on (x, labels)"
        )
    total = torch.zeros((), device=next(iter(sites.values()))["value"].device)
    for name, site in sites.items():
        q_y, labels = site["infer"][CLASSIFIER]
        known = labels >= 0
        log_q = q_y.log_prob(torch.where(known, labels, torch.zeros_like(labels)))
        log_q = torch.where(known, log_q, torch.zeros_like(log_q))
        # A classifier of x is the same for all particles, which are a plate of the site.
        plates = [frame for frame in site["cond_indep_stack"] if frame.vectorized]
        sizes = (torch.Size((frame.size, *[1] * (-1 - frame.dim))) for frame in plates)
        log_q = log_q.expand(torch.broadcast_shapes(log_q.shape, *sizes))
        log_q = scale_and_mask(log_q, site["infer"].get(UNANNEALED, site["scale"]), site["mask"])
        total = total - (expected_sum(guide, name, log_q) if enumerates else log_q.sum())
    return total
