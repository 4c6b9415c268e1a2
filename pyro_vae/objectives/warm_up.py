"""KL annealing: an ELBO whose KL has a weight that changes with the steps."""

from collections.abc import Mapping
from typing import Any

import torch
from pyro.infer import ELBO
from torch import Tensor

from pyro_vae.objectives.compiled import Compiled
from pyro_vae.objectives.registry import named_outer
from pyro_vae.objectives.traits import traits
from pyro_vae.objectives.weighted import Weighted
from pyro_vae.objectives.wrapper import Wrapper
from pyro_vae.utils.checks import check_count, check_number, kind, plain

__all__ = ["Annealed", "schedule_of", "warm_up"]


@named_outer
def warm_up(objective: ELBO, steps: int, start: float = 0.0, end: float = 1.0) -> "Annealed":
    r"""KL annealing, :math:`-E_q[\log p(x|z)] + \beta_t\, KL(q, p)` with a rising weight.

    The weight in step t = 0, 1, ... is
    :math:`\beta_t = start + (end - start)\, \min(1, t / steps)`. It scales the latent sites of
    model and guide. The loss is in nats, summed over examples. Each loss with gradients is a step;
    ``loss`` is not one.

    The steps are counted in the attribute ``taken``, which is pickled. Use a new object for each
    training. To compile it, write ``compiled(warm_up(...))``. An importance-weighted bound raises,
    because a weight inside its logarithm would change the target.

    Source: Bowman et al. (2016), arXiv 1511.06349, section 3.1; Sonderby et al. (2016), arXiv
    1602.02282, section 2.3.

    Arguments:
        objective: ``trace_elbo()``, ``analytic_kl()``, ``sticking_the_landing()``,
            ``enumerated()``, or Pyro's ``Trace_ELBO`` or ``TraceMeanField_ELBO``.
        steps: Number of steps until the weight is `end`.
        start: Weight of the first step, from 0 up.
        end: Weight from step `steps` on, from 0 up. At 1, the loss is then the negative ELBO.

    Returns:
        A Pyro ELBO.

    Raises:
        TypeError: `objective` is compiled, or is not one of these ELBOs; or `start` or `end` is
            not a number.
        ValueError: `objective` is importance-weighted, or `steps`, `start` or `end` is out of
            range.

    Example:
        >>> vae = presets.build("bernoulli-mlp", z_dim=2, shape=(28, 28))
        >>> objective = objectives.warm_up(objectives.trace_elbo(), steps=500)
        >>> svi = pyro.infer.SVI(vae.model, vae.guide, optim.Adam(1e-3), loss=objective)
        >>> loss = svi.step(torch.zeros(7, 28, 28))
        >>> int(objective.taken)
        1
    """
    check_count("steps", steps)
    check_number("start", start, 0)
    check_number("end", end, 0)
    if isinstance(objective, Compiled):
        raise TypeError(
            "objective: got a compiled objective, expected one that is not: use "
            "compiled(warm_up(...))"
        )
    linear = traits(objective).is_linear
    if linear is None:
        raise TypeError(
            f"objective: got {kind(objective)}, expected trace_elbo(), analytic_kl(), "
            "sticking_the_landing() or enumerated()"
        )
    if not linear:
        raise ValueError(
            f"objective: got {kind(objective)}, which is importance-weighted, expected "
            "an ELBO: a weight of the KL inside the logarithm would change the target"
        )
    return Annealed(objective, plain(steps), float(plain(start)), float(plain(end)))


class Annealed(Weighted):
    r"""An ELBO with a weighted KL, :math:`-E_q[\log p(x|z)] + \beta_t\, KL(q, p)`.

    See :func:`objectives.warm_up`.

    Arguments:
        elbo: The ELBO to wrap.
        steps: Number of losses with gradients until the weight is `end`.
        start: Weight of the first of them.
        end: Weight after `steps` of them.

    Attributes:
        taken: Number of losses with gradients so far; a scalar tensor, changed in place.
    """

    def __init__(self, elbo: ELBO, steps: int, start: float, end: float = 1.0) -> None:
        super().__init__(elbo)
        self.steps = steps
        self.start = start
        self.end = end
        self.taken = torch.zeros(())

    @property
    def weight(self) -> Tensor:
        r"""The weight of the KL in the next step, :math:`\beta_t`."""
        return torch.lerp(  # Its last value is exactly `end`.
            torch.full_like(self.taken, self.start),
            torch.full_like(self.taken, self.end),
            (self.taken / self.steps).clamp(max=1.0),
        )

    def state_dict(self) -> dict[str, Tensor]:
        """The number of losses with gradients so far."""
        return {"taken": self.taken}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Loads a state from :meth:`state_dict`."""
        self.taken.copy_(state["taken"])

    def loss_and_grads(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Any:
        """The loss as a number, in nats; adds its gradient to those of the parameters."""
        loss = super().loss_and_grads(model, guide, *args, **kwargs)
        self.taken += 1
        return loss

    def differentiable_loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Any:
        """The loss as a scalar tensor, in nats, whose gradient is the estimator's."""
        loss = super().differentiable_loss(model, guide, *args, **kwargs)
        self.taken += 1
        return loss


def schedule_of(elbo: ELBO) -> Annealed | None:
    """The annealed layer of an objective that may be compiled, or None."""
    while isinstance(elbo, Wrapper):
        if isinstance(elbo, Annealed):
            return elbo
        elbo = elbo.elbo
    return None
