"""The cost, reconstruction and KL of an epoch."""

import math
from collections.abc import Sequence
from typing import Any

import pyro
import torch
from torch import Tensor

from pyro_vae.compile import RandomState
from pyro_vae.objectives import Compiled, WithTerms
from pyro_vae.training.history import History
from pyro_vae.utils.checks import kind

__all__ = ["EpochTerms", "NonFiniteLoss"]


class NonFiniteLoss(FloatingPointError):
    """A loss or a parameter became NaN or infinite.

    Attributes:
        history: The history of the epochs before.
    """

    def __init__(self, message: str, history: History) -> None:
        super().__init__(message)
        self.history = history

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self), self.history)


class EpochTerms:
    """Sums cost, reconstruction and KL over the batches of an epoch, in nats.

    Arguments:
        objective: The objective, which keeps the terms of its last loss.

    Attributes:
        place: The epoch and batch, for error messages.
        mode: What else than the shapes of a batch decides which code runs, such as the modes of
            modules.
        examples: The number of examples in the epoch so far.
    """

    def __init__(self, objective: WithTerms) -> None:
        self.objective = objective
        self.place = ""
        self.mode: object = None
        self._validated: set[object] = set()
        self.reset()

    def reset(self) -> None:
        """Starts a new epoch."""
        self.cost = self.reconstruction = self.kl = 0.0
        self.examples = 0

    def state(self) -> list[float]:
        """The sums so far."""
        return [self.cost, self.reconstruction, self.kl, self.examples]

    def load_state(self, state: Sequence[float]) -> None:
        """Goes on with the sums of :meth:`state`."""
        self.cost, self.reconstruction, self.kl = state[:3]
        self.examples = int(state[3])

    def means(self) -> dict[str, float]:
        """The epoch's columns of the history, in nats per example."""
        return {
            "cost": self.cost / self.examples,
            "reconstruction": self.reconstruction / self.examples,
            "kl": self.kl / self.examples,
        }

    def loss_and_grads(self, model: Any, guide: Any, *batch: Tensor) -> float:
        """The objective's loss and gradients, for SVI; raises if the loss is not finite.

        Pyro validates the first loss of each shape in each mode. A later loss that is not finite
        is computed again with validation, for the error message.
        """
        shapes = tuple((entry.shape, entry.dtype) for entry in batch)
        if isinstance(self.objective, Compiled) or (self.mode, shapes) not in self._validated:
            cost = self._validated_loss(model, guide, batch)
            self._validated.add((self.mode, shapes))
            self._add(self._terms(cost))
            return float(cost)
        random = RandomState(batch)
        with pyro.validation_enabled(False):
            cost = self.objective.loss_and_grads(model, guide, *batch)
        try:
            self._add(self._terms(cost))
        except FloatingPointError as error:
            random.restore()
            reason = self._refusal(model, guide, batch)
            if not reason:
                raise
            raise FloatingPointError(f"{error}: {reason}") from error
        return float(cost)

    def _refusal(self, model: Any, guide: Any, batch: tuple[Tensor, ...]) -> str:
        """What Pyro's validation says against the loss of a batch."""
        try:
            with torch.no_grad():
                WithTerms.loss(self.objective, model, guide, *batch)
        except ValueError as error:
            return str(error).splitlines()[0]
        return ""

    def _validated_loss(self, model: Any, guide: Any, batch: tuple[Tensor, ...]) -> Any:
        try:
            return self.objective.loss_and_grads(model, guide, *batch)
        except ValueError:
            # Pyro's validation refused a distribution. If numbers that are not finite are the
            # cause, the loss of the same batch without validation shows the term that has them.
            with torch.no_grad(), pyro.validation_enabled(False):
                self._terms(WithTerms.loss(self.objective, model, guide, *batch))
            raise

    def add(self, cost: float, likelihood: float, sampled_kl: float) -> None:
        """Adds a loss and its terms, or sums of them; raises if one is not finite."""
        self._add(self._finite(cost, likelihood, sampled_kl))

    def _add(self, terms: tuple[float, float, float]) -> None:
        self.cost += terms[0]
        self.reconstruction += terms[1]
        self.kl += terms[2]

    def _terms(self, cost: float) -> tuple[float, float, float]:
        """Cost, reconstruction and KL of the last loss; raises if one is not finite."""
        if isinstance(cost, tuple) or self.objective.terms is None:
            raise TypeError(
                f"objective: got {kind(self.objective.elbo)}, expected an ELBO whose "
                "loss is one number, computed from the traces of _get_trace"
            )
        return self._finite(cost, *self.objective.terms)

    def _finite(
        self, cost: float, likelihood: float, sampled_kl: float
    ) -> tuple[float, float, float]:
        reconstruction = -likelihood
        by_difference = self.objective.traits.kl_by_difference
        kl = cost - reconstruction if by_difference else sampled_kl
        for term, value in (("reconstruction", reconstruction), ("KL", kl), ("objective", cost)):
            if not math.isfinite(value):
                raise FloatingPointError(f"{self.place}: the {term} term of the loss is {value}")
        return float(cost), reconstruction, kl
