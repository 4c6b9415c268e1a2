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
        sites: The latent sites whose part of the KL is summed too.

    Attributes:
        place: The epoch and batch, for error messages.
        mode: What else than the shapes of a batch decides which code runs, such as the modes of
            modules.
        examples: The number of examples in the epoch so far.
    """

    def __init__(self, objective: WithTerms, sites: Sequence[str] = ()) -> None:
        self.objective = objective
        self.sites = tuple(sites)
        self.place = ""
        self.mode: object = None
        self._validated: set[object] = set()
        self.reset()

    def reset(self) -> None:
        """Starts a new epoch."""
        self.cost = self.reconstruction = self.kl = 0.0
        self.parts = [0.0] * len(self.sites)
        self.examples = 0

    @property
    def zeros(self) -> list[float]:
        """The sums of no losses, but for the number of examples."""
        return [0.0] * (3 + len(self.sites))

    @property
    def columns(self) -> list[str]:
        """The columns of the history that are only there with several latent sites."""
        return [f"kl_{name}" for name in self.sites]

    def state(self) -> list[float]:
        """The sums so far."""
        return [self.cost, self.reconstruction, self.kl, *self.parts, self.examples]

    def load_state(self, state: Sequence[float]) -> None:
        """Goes on with the sums of :meth:`state`."""
        self.cost, self.reconstruction, self.kl, *self.parts, examples = state
        self.examples = int(examples)

    def means(self) -> dict[str, float]:
        """The epoch's columns of the history, in nats per example."""
        names = ["cost", "reconstruction", "kl", *self.columns]
        sums = self.state()[:-1]
        return {name: total / self.examples for name, total in zip(names, sums, strict=True)}

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

    def add(self, cost: float, likelihood: float, sampled_kl: float, *parts: float) -> None:
        """Adds a loss and its terms, or sums of them; raises if one is not finite."""
        self._add(self._finite(cost, likelihood, sampled_kl, parts))

    def _add(self, terms: Sequence[float]) -> None:
        sums = [a + b for a, b in zip(self.state()[:-1], terms, strict=True)]
        self.load_state([*sums, self.examples])

    def _terms(self, cost: float) -> list[float]:
        """Cost, reconstruction and KL of the last loss; raises if one is not finite."""
        if isinstance(cost, tuple) or self.objective.terms is None:
            raise TypeError(
                f"objective: got {kind(self.objective.elbo)}, expected an ELBO whose "
                "loss is one number, computed from the traces of _get_trace"
            )
        # A site that is not drawn this time has no part.
        parts = [self.objective.parts.get(name, 0.0) for name in self.sites]
        return self._finite(cost, *self.objective.terms, parts)

    def _finite(
        self, cost: float, likelihood: float, sampled_kl: float, parts: Sequence[float]
    ) -> list[float]:
        reconstruction = -likelihood
        by_difference = self.objective.traits.kl_by_difference
        kl = cost - reconstruction if by_difference else sampled_kl
        for term, value in (("reconstruction", reconstruction), ("KL", kl), ("objective", cost)):
            if not math.isfinite(value):
                raise FloatingPointError(f"{self.place}: the {term} term of the loss is {value}")
        return [float(cost), reconstruction, kl, *parts]
