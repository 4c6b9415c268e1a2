"""The steps of an epoch one by one: ``SVI.step`` for each batch."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

from pyro import poutine
from pyro.infer import SVI
from pyro.infer.util import zero_grads

from pyro_vae.training.data import Prepared
from pyro_vae.training.epoch_terms import EpochTerms, NonFiniteLoss
from pyro_vae.training.history import History
from pyro_vae.training.sources import START, Place
from pyro_vae.utils.context import Examples, rows
from pyro_vae.utils.random import streams

__all__ = ["Shares", "Stepwise"]


_SHARE = 3  # marks the random streams of shares, beside those of an epoch


@dataclass(frozen=True)
class Shares:
    """How a batch is cut into shares, whose gradients are added before the step.

    Each has a random stream of its own, of the seed, the epoch, the batch and its number.

    Attributes:
        count: The number of shares.
        seed: The seed; None draws from torch's global generator.
    """

    count: int
    seed: int | None

    def of(self, batch: Examples) -> Iterator[Examples]:
        """Yields the shares of a batch, in their order, but for those that are empty."""
        size = len(batch[0])
        ends = [size * number // self.count for number in range(self.count + 1)]
        for first, last in pairwise(ends):
            if first < last:
                yield rows(batch, slice(first, last))


class Stepwise:
    """Takes the steps of an epoch one by one, with data of any kind.

    Arguments:
        svi: Takes a step.
        data: The training data.
        terms: Sums the terms of the losses.
        after: Called after each step.
        shares: How they are cut into shares, or None.
    """

    def __init__(
        self,
        svi: SVI,
        data: Prepared,
        terms: EpochTerms,
        after: Callable[[], object] = lambda: None,
        shares: Shares | None = None,
    ) -> None:
        self.svi = svi
        self.data = data
        self.terms = terms
        self.after = after
        self.shares = shares

    def epoch(
        self,
        number: int,
        history: History,
        done: Callable[[int], object],
        place: Place = START,
    ) -> None:
        """Takes a step for each batch of an epoch.

        Arguments:
            number: The epoch, from 1.
            history: The history of the epochs before.
            done: Called after each step, with the number of steps since its last call.
            place: Where the epoch goes on.

        Raises:
            NonFiniteLoss: A loss is not finite.
        """
        self.terms.mode = tuple(module.training for module in self.data.pair.modules())
        if self.shares is not None:
            self._in_shares(number, history, done, place)
            return
        for index, batch in enumerate(self.data.epoch(number, place), place.batches + 1):
            self.step(f"epoch {number}, batch {index}", batch, history)
            done(1)

    def _in_shares(
        self, number: int, history: History, done: Callable[[int], object], place: Place
    ) -> None:
        """Takes the steps of an epoch, each with the sum of the gradients of its shares."""
        assert self.shares is not None
        with streams(self.shares.seed, self.data.device) as begin:
            given = self.data.given(number, place)
            for index, batch in enumerate(given, place.batches + 1):
                self.terms.place = f"epoch {number}, batch {index}"
                try:
                    self._step_in_shares(batch, lambda *key: begin(number, *key), index)
                except FloatingPointError as error:
                    raise NonFiniteLoss(str(error), history) from None
                self.after()
                done(1)

    def _step_in_shares(self, given: Examples, begin: Callable[..., None], index: int) -> None:
        assert self.shares is not None
        svi = self.svi
        with poutine.trace(param_only=True) as sites:
            for number, part in enumerate(self.shares.of(given)):
                begin(index, number, _SHARE)
                batch = self.data.checked(part)
                svi.loss_and_grads(svi.model, svi.guide, *batch)
                self.terms.examples += len(batch[0])
        parameters = {site["value"].unconstrained() for site in sites.trace.nodes.values()}
        svi.optim(parameters)
        zero_grads(parameters)

    def step(self, place: str, batch: Examples, history: History) -> None:
        """Takes one step.

        Arguments:
            place: The epoch and the batch, for error messages.
            batch: The batch.
            history: The history of the epochs before.

        Raises:
            NonFiniteLoss: The loss is not finite.
        """
        self.terms.place = place
        try:
            self.svi.step(*batch)
        except FloatingPointError as error:
            raise NonFiniteLoss(str(error), history) from None
        self.after()
        self.terms.examples += len(batch[0])
