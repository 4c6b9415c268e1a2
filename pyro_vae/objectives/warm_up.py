"""KL annealing: an ELBO whose KL has a weight that rises to one."""

from typing import Any

import torch
from pyro.infer import ELBO
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyro_vae.objectives.compiled import Compiled
from pyro_vae.objectives.registry import named_outer
from pyro_vae.objectives.terms import UNANNEALED
from pyro_vae.objectives.traits import Traits, traits
from pyro_vae.objectives.wrapper import Wrapper
from pyro_vae.utils.checks import check_count, kind

__all__ = ["Annealed", "schedule_of", "warm_up"]


@named_outer
def warm_up(objective: ELBO, steps: int, start: float = 0.0) -> "Annealed":
    r"""KL annealing, :math:`-E_q[\log p(x|z)] + \beta_t\, KL(q, p)` with a rising weight.

    The weight in step t = 0, 1, ... is :math:`\beta_t = \min(1, start + (1 - start)\, t / steps)`.
    It scales the latent sites of model and guide. The loss is in nats, summed over examples. Each
    loss with gradients is a step; ``loss`` is not one.

    The steps are counted in the attribute ``taken``, which is pickled. Use a new object for each
    training. To compile it, write ``compiled(warm_up(...))``. An importance-weighted bound raises,
    because a weight inside its logarithm would change the target.

    Source: Bowman et al. (2016), arXiv 1511.06349, section 3.1; Sonderby et al. (2016), arXiv
    1602.02282, section 2.3.

    Arguments:
        objective: ``trace_elbo()``, ``analytic_kl()``, ``sticking_the_landing()``, or Pyro's
            ``Trace_ELBO`` or ``TraceMeanField_ELBO``.
        steps: Number of steps until the weight is one.
        start: Weight of the first step, from 0 to 1.

    Returns:
        A Pyro ELBO.

    Raises:
        TypeError: `objective` is compiled, or is not one of these ELBOs.
        ValueError: `objective` is importance-weighted, or `steps` or `start` is out of range.

    Example:
        >>> vae = presets.build("bernoulli-mlp", z_dim=2, shape=(28, 28))
        >>> objective = objectives.warm_up(objectives.trace_elbo(), steps=500)
        >>> svi = pyro.infer.SVI(vae.model, vae.guide, optim.Adam(1e-3), loss=objective)
        >>> loss = svi.step(torch.zeros(7, 28, 28))
        >>> int(objective.taken)
        1
    """
    check_count("steps", steps)
    if isinstance(start, bool) or not isinstance(start, int | float) or not 0 <= start <= 1:
        raise ValueError(f"start: got {start!r}, expected a number from 0 to 1")
    if isinstance(objective, Compiled):
        raise TypeError(
            "objective: got a compiled objective, expected one that is not: use "
            "compiled(warm_up(...))"
        )
    linear = traits(objective).is_linear
    if linear is None:
        raise TypeError(
            f"objective: got {kind(objective)}, expected trace_elbo(), analytic_kl() "
            "or sticking_the_landing()"
        )
    if not linear:
        raise ValueError(
            f"objective: got {kind(objective)}, which is importance-weighted, expected "
            "an ELBO: a weight of the KL inside the logarithm would change the target"
        )
    return Annealed(objective, steps, float(start))


class Annealed(Wrapper):
    r"""An ELBO with a weighted KL, :math:`-E_q[\log p(x|z)] + \beta_t\, KL(q, p)`.

    See :func:`objectives.warm_up`.

    Arguments:
        elbo: The ELBO to wrap.
        steps: Number of losses with gradients until the weight is one.
        start: Weight of the first of them.

    Attributes:
        taken: Number of losses with gradients so far; a scalar tensor, changed in place.
    """

    def __init__(self, elbo: ELBO, steps: int, start: float) -> None:
        super().__init__(elbo)
        self.steps = steps
        self.start = start
        self.taken = torch.zeros(())

    @property
    def traits(self) -> Traits:
        """The traits of the objective, which is not an ELBO until its weight is one."""
        return Traits(is_static=traits(self.elbo).is_static)

    @property
    def weight(self) -> Tensor:
        r"""The weight of the KL, :math:`\beta_t = \min(1, start + (1 - start)\,t / steps)`."""
        return torch.lerp(  # Its last value is exactly one.
            torch.full_like(self.taken, self.start),
            torch.ones_like(self.taken),
            (self.taken / self.steps).clamp(max=1.0),
        )

    def _call(self, method: str, model: Any, guide: Any, args: Any, kwargs: Any) -> Any:
        annealed = _Weighted(self.weight)
        return getattr(self.elbo, method)(annealed(model), annealed(guide), *args, **kwargs)

    def loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Any:
        """The loss as a number, in nats, with the weight of the next step."""
        return self._call("loss", model, guide, args, kwargs)

    def loss_and_grads(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Any:
        """The loss as a number, in nats; adds its gradient to those of the parameters."""
        loss = self._call("loss_and_grads", model, guide, args, kwargs)
        self.taken += 1
        return loss

    def differentiable_loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Any:
        """The loss as a scalar tensor, in nats, whose gradient is the estimator's."""
        loss = self._call("differentiable_loss", model, guide, args, kwargs)
        self.taken += 1
        return loss


def schedule_of(elbo: ELBO) -> Annealed | None:
    """The annealed layer of an objective that may be compiled, or None."""
    while isinstance(elbo, Wrapper):
        if isinstance(elbo, Annealed):
            return elbo
        elbo = elbo.elbo
    return None


class _Weighted(Messenger):
    """Scales latent sites only. Unlike ``poutine.scale``, it also takes a scale of zero."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = weight

    def _pyro_sample(self, msg: Any) -> None:
        if not msg["is_observed"]:
            msg["infer"] = {**msg["infer"], UNANNEALED: msg["scale"]}
            msg["scale"] = self.weight * msg["scale"]
