"""KL annealing: an ELBO whose KL has a weight that changes with the steps."""

from collections.abc import Collection, Mapping
from typing import Any

import torch
from pyro.infer import ELBO
from torch import Tensor

from pyro_vae.objectives.compiled import Compiled
from pyro_vae.objectives.registry import named_outer
from pyro_vae.objectives.traits import traits
from pyro_vae.objectives.weighted import Weighted
from pyro_vae.objectives.wrapper import Wrapper
from pyro_vae.utils.checks import check_count, check_mapping, check_number, kind, plain

__all__ = ["Annealed", "schedule_of", "warm_up"]


def warm_up(
    objective: ELBO,
    steps: int | Mapping[str, int],
    start: float = 0.0,
    end: float = 1.0,
) -> "Annealed":
    r"""KL annealing, :math:`-E_q[\log p(x|z)] + \beta_t\, KL(q, p)` with a rising weight.

    The weight in step t = 0, 1, ... is
    :math:`\beta_t = start + (end - start)\, \min(1, t / steps)`. It scales the latent sites of
    model and guide. The loss is in nats, summed over examples. Each loss with gradients is a step;
    ``loss`` is not one.

    The steps are counted in the attribute ``taken``, which is pickled. Use a new object for each
    training; ``fit`` warns of one that is over. To compile it, write ``compiled(warm_up(...))``.
    An importance-weighted bound raises, because a weight inside its logarithm would change the
    target.

    Source: Bowman et al. (2016), arXiv 1511.06349, section 3.1; Sonderby et al. (2016), arXiv
    1602.02282, section 2.3.

    Arguments:
        objective: ``trace_elbo()``, ``analytic_kl()``, ``sticking_the_landing()``,
            ``enumerated()``, or Pyro's ``Trace_ELBO`` or ``TraceMeanField_ELBO``.
        steps: Number of steps until the weight is `end`; or a mapping from latent sites to their
            own numbers, such as ``{"z1": 200, "z2": 1000}``. The other sites have the weight `end`
            from the start.
        start: Weight of the first step, from 0 up.
        end: Weight from step `steps` on, from 0 up. At 1, the loss is then the negative ELBO.

    Returns:
        A Pyro ELBO.

    Raises:
        TypeError: `objective` is compiled, or is not one of these ELBOs; or `start` or `end` is
            not a number.
        ValueError: `objective` is importance-weighted, or `steps`, `start` or `end` is out of
            range; `steps` is a mapping for ``enumerated()``, whose sites have one KL. At a loss:
            `steps` has a site that the guide has not.

    Example:
        >>> vae = presets.build("bernoulli-mlp", z_dim=2, shape=(28, 28))
        >>> objective = objectives.warm_up(objectives.trace_elbo(), steps=500)
        >>> svi = pyro.infer.SVI(vae.model, vae.guide, optim.Adam(1e-3), loss=objective)
        >>> loss = svi.step(torch.zeros(7, 28, 28))
        >>> int(objective.taken)
        1
    """
    if isinstance(steps, Mapping):
        check_mapping("steps", steps, "names of latent sites to numbers of steps")
        for name, count in steps.items():
            check_count(f"steps[{name!r}]", count)
    else:
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
    if not isinstance(steps, Mapping):
        return Annealed(objective, plain(steps), float(plain(start)), float(plain(end)))
    if traits(objective).sums_out:
        raise ValueError(
            "steps: got a mapping for an objective that sums sites out, expected a number: the KL "
            "of its sites is one term"
        )
    by_site = {name: plain(count) for name, count in steps.items()}
    return Annealed(objective, by_site, float(plain(start)), float(plain(end)))


@named_outer("warm_up", "steps")
def _named(objective: ELBO, steps: int) -> "Annealed":
    return warm_up(objective, steps)


class Annealed(Weighted):
    r"""An ELBO with a weighted KL, :math:`-E_q[\log p(x|z)] + \beta_t\, KL(q, p)`.

    See :func:`objectives.warm_up`.

    Arguments:
        elbo: The ELBO to wrap.
        steps: Number of losses with gradients until the weight is `end`; or those of each site.
        start: Weight of the first of them.
        end: Weight after `steps` of them.

    Attributes:
        taken: Number of losses with gradients so far; a scalar tensor, changed in place.
    """

    def __init__(
        self, elbo: ELBO, steps: int | Mapping[str, int], start: float, end: float = 1.0
    ) -> None:
        super().__init__(elbo)
        # A tuple, since a change of it has to be seen by compiled code.
        self.steps = tuple(sorted(steps.items())) if isinstance(steps, Mapping) else steps
        self.start = start
        self.end = end
        self.taken = torch.zeros(())

    @property
    def weight(self) -> Tensor:
        r"""The weight of the KL in the next step, :math:`\beta_t`.

        If each site has its own, that of the slowest.
        """
        return self._after(self._slowest)

    @property
    def is_over(self) -> bool:
        """Whether all steps are taken, so that the weights do not change any more."""
        return bool(self.taken >= self._slowest)

    @property
    def _slowest(self) -> int:
        steps = self.steps
        return max(dict(steps).values()) if isinstance(steps, tuple) else steps

    def weight_of(self, site: str) -> Tensor | float:
        """The weight of the KL of a latent site in the next loss."""
        if not isinstance(self.steps, tuple):
            return self.weight
        by_site = dict(self.steps)
        return self._after(by_site[site]) if site in by_site else self.end

    def check_sites(self, sites: Collection[str]) -> None:
        """Raises ValueError if a program has not the latent sites that have steps."""
        named = [name for name, _ in self.steps] if isinstance(self.steps, tuple) else []
        if unknown := [name for name in named if name not in sites]:
            raise ValueError(
                f"steps: got the sites {', '.join(unknown)}, expected some of "
                f"{', '.join(sorted(sites))}, the latent sites"
            )

    def _after(self, steps: int) -> Tensor:
        """The weight in the next step of a site that takes so many steps."""
        return torch.lerp(  # Its last value is exactly `end`.
            torch.full_like(self.taken, self.start),
            torch.full_like(self.taken, self.end),
            (self.taken / steps).clamp(max=1.0),
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
