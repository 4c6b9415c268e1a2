"""KL annealing: an ELBO whose latent sites count less at first."""

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
from pyro_vae.utils.checks import check_count


@named_outer
def warm_up(objective: ELBO, steps: int, start: float = 0.0) -> "Annealed":
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
    if isinstance(objective, Compiled):
        raise TypeError("objective: got a compiled one, expected compiled(warm_up(...))")
    linear = traits(objective).is_linear
    if linear is None:
        raise TypeError(
            f"objective: got a {type(objective).__name__}, expected trace_elbo(), analytic_kl() "
            "or sticking_the_landing()"
        )
    if not linear:
        raise ValueError(
            f"objective: got a {type(objective).__name__} of importance weights, expected an "
            "ELBO: a weight at the KL inside of a logarithm would change what is estimated"
        )
    return Annealed(objective, steps, float(start))


class Annealed(Wrapper):
    r"""An ELBO with a weight at its KL, :math:`-E_q[\log p(x|z)] + \beta_t\, KL(q, p)`.

    See :func:`objectives.warm_up`.

    Arguments:
        elbo: The ELBO that does the work.
        steps: Losses with gradients until the weight is one.
        start: The weight of the first of them.

    Attributes:
        taken: How many there were; a tensor, changed in place.
    """

    def __init__(self, elbo: ELBO, steps: int, start: float) -> None:
        super().__init__(elbo)
        self.steps = steps
        self.start = start
        self.taken = torch.zeros(())

    @property
    def traits(self) -> Traits:
        """Not the ELBO until its weight is one."""
        return Traits(is_static=True)

    @property
    def weight(self) -> Tensor:
        """The weight at the KL, :math:`\\beta_t = \\min(1, start + (1 - start)\\,t / steps)`."""
        return torch.lerp(  # which ends at one exactly
            torch.full_like(self.taken, self.start),
            torch.ones_like(self.taken),
            (self.taken / self.steps).clamp(max=1.0),
        )

    def _call(self, method: str, model: Any, guide: Any, args: Any, kwargs: Any) -> Any:
        annealed = _Weighted(self.weight)
        return getattr(self.elbo, method)(annealed(model), annealed(guide), *args, **kwargs)

    def loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Any:
        """The loss as a number, at the weight of the next step, which it does not take."""
        return self._call("loss", model, guide, args, kwargs)

    def loss_and_grads(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Any:
        """The loss as a number; adds its gradients to those of the parameters."""
        loss = self._call("loss_and_grads", model, guide, args, kwargs)
        self.taken += 1
        return loss

    def differentiable_loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Any:
        """The loss as a tensor whose gradient is the estimator's."""
        loss = self._call("differentiable_loss", model, guide, args, kwargs)
        self.taken += 1
        return loss


def schedule_of(elbo: ELBO) -> Annealed | None:
    """The annealed part of an objective, compiled or not; None where it has none."""
    while isinstance(elbo, Wrapper):
        if isinstance(elbo, Annealed):
            return elbo
        elbo = elbo.elbo
    return None


class _Weighted(Messenger):
    """Scales latent sites alone, and by zero too, which ``poutine.scale`` does not."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = weight

    def _pyro_sample(self, msg: Any) -> None:
        if not msg["is_observed"]:
            msg["infer"] = {**msg["infer"], UNANNEALED: msg["scale"]}
            msg["scale"] = self.weight * msg["scale"]
