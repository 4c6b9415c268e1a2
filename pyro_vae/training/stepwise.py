"""The steps of an epoch one by one: ``SVI.step`` for each batch."""

from collections.abc import Callable

from pyro.infer import SVI

from pyro_vae.training.data import Prepared
from pyro_vae.training.epoch_terms import EpochTerms, NonFiniteLoss
from pyro_vae.training.history import History
from pyro_vae.training.sources import START, Place
from pyro_vae.utils.context import Examples

__all__ = ["Stepwise"]


class Stepwise:
    """Takes the steps of an epoch one by one, with data of any kind.

    Arguments:
        svi: Takes a step.
        data: The training data.
        terms: Sums the terms of the losses.
        after: Called after each step.
    """

    def __init__(
        self,
        svi: SVI,
        data: Prepared,
        terms: EpochTerms,
        after: Callable[[], object] = lambda: None,
    ) -> None:
        self.svi = svi
        self.data = data
        self.terms = terms
        self.after = after

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
        for index, batch in enumerate(self.data.epoch(number, place), place.batches + 1):
            self.step(f"epoch {number}, batch {index}", batch, history)
            done(1)

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
