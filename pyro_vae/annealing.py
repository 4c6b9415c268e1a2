"""KL annealing: an ELBO whose latent sites count less at first."""

from typing import Any

import torch
from pyro.infer import ELBO
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyro_vae.recording import UNANNEALED, Around


class Annealed(Around):
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
    while isinstance(elbo, Around):
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
