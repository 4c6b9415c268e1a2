"""The steps of an epoch one by one: ``SVI.step`` for each batch."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from pyro import poutine
from pyro.infer import SVI
from pyro.infer.util import zero_grads
from torch import Tensor

from pyro_vae.compat import guess_plates
from pyro_vae.compile import RandomState
from pyro_vae.objectives import free_bits_of, layers, schedule_of
from pyro_vae.training.between import Between
from pyro_vae.training.data import Prepared
from pyro_vae.training.epoch_terms import EpochTerms, NonFiniteLoss
from pyro_vae.training.history import History
from pyro_vae.training.shares import SHARE, Shares
from pyro_vae.training.sources import START, Parts, Place, Streamed
from pyro_vae.training.together import Share, Together
from pyro_vae.utils.context import Examples
from pyro_vae.utils.random import streams

__all__ = ["Stepwise"]


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
        processes = None if shares is None else shares.processes
        self.together = None if processes is None else Together(processes, data.pair)

    def epoch(
        self,
        number: int,
        history: History,
        done: Between,
        place: Place = START,
    ) -> None:
        """Takes a step for each batch of an epoch.

        Arguments:
            number: The epoch, from 1.
            history: The history of the epochs before.
            done: Called after each step.
            place: Where the epoch goes on.

        Raises:
            NonFiniteLoss: A loss is not finite.
        """
        self.terms.mode = tuple(module.training for module in self.data.pair.modules())
        if self.shares is not None:
            self._in_shares(number, history, done, place, self.shares)
            return
        for index, batch in enumerate(self.data.epoch(number, place), place.batches + 1):
            self.step(f"epoch {number}, batch {index}", batch, history)
            done(1)

    def _in_shares(
        self, number: int, history: History, done: Between, place: Place, shares: Shares
    ) -> None:
        """Takes the steps of an epoch, each with the sum of the gradients of its shares."""
        index = place.batches
        with streams(shares.seed, self.data.device) as begin:
            try:
                for size, parts in self._parts(number, shares, place, done):
                    index += 1
                    self.terms.place = f"epoch {number}, batch {index}"
                    self._step_in_shares(size, parts, partial(begin, number, index), done)
                    self.after()
                    done(1)
                if self.together is not None and isinstance(self.data.source, Streamed):
                    place_now = f"epoch {number}, after batch {index}"
                    self.together.end(place_now, self.terms.zeros, done)
            except FloatingPointError as error:
                raise NonFiniteLoss(str(error), history) from None

    def _parts(self, number: int, shares: Shares, place: Place, done: Between) -> Parts:
        """Yields the shares of an epoch; an error of the data is told to other processes."""
        try:
            yield from self.data.parts(number, shares, place)
        except Exception as error:
            if self.together is not None:
                share = Share(self.terms.zeros, 0, (), error)
                self.together.step(f"epoch {number}, after {self.terms.place}", share, done)
            raise

    def _step_in_shares(
        self,
        size: int,
        parts: Sequence[tuple[int, Examples]],
        begin: Callable[[int, int], None],
        done: Between,
    ) -> None:
        before, error = self.terms.state(), None
        self.terms.reset()
        programs = self.svi.model, self.svi.guide

        def batches() -> Iterator[Examples]:
            for number, part in parts:
                begin(number, SHARE)
                batch = self.data.checked(part)
                self._guess_plates(batch)
                yield batch

        with poutine.trace(param_only=True) as sites, self._one_step_of_the_warm_up() as again:
            try:
                with self._free_bits_of_the_whole(batches()):
                    for batch in batches():
                        again()
                        self.svi.loss_and_grads(*programs, *batch)
            except Exception as raised:
                if self.together is None:
                    raise
                error = raised
        parameters = {site["value"].unconstrained() for site in sites.trace.nodes.values()}
        terms: Sequence[float] = self.terms.state()[:-1]
        if self.together is not None:
            share = Share(terms, size, parameters, error)
            terms, used = self.together.step(self.terms.place, share, done)
            parameters = set(used)
        sums = [a + b for a, b in zip(before, [*terms, size], strict=True)]
        self.terms.load_state(sums)
        self.svi.optim(parameters)
        zero_grads(parameters)

    def _guess_plates(self, batch: Examples) -> None:
        """Lets Pyro count the plates, which takes random numbers of no share."""
        *_, inner = layers(self.terms.objective)
        if inner.vectorize_particles and inner.max_plate_nesting == math.inf:
            random = RandomState(batch)
            guess_plates(inner, self.svi.model, self.svi.guide, batch, {})
            random.restore()

    @contextmanager
    def _free_bits_of_the_whole(self, batches: Iterator[Examples]) -> Iterator[None]:
        """Lets free bits be counted over all shares, which are drawn twice for it."""
        free = free_bits_of(self.terms.objective)
        if free is None:
            yield
            return
        sums: dict[str, Tensor] = {}
        error = None
        try:
            for batch in batches:
                for name, own in free.kl_sums(self.svi.model, self.svi.guide, *batch).items():
                    sums[name] = sums[name] + own if name in sums else own
        except Exception as raised:
            if self.together is None:
                raise
            error = raised
        if self.together is not None:
            sums = self.together.summed(sums)
        if error is not None:
            raise error
        with free.over(sums):
            yield

    @contextmanager
    def _one_step_of_the_warm_up(self) -> Iterator[Callable[[], None]]:
        """Counts one step of an objective's warm-up, whichever number of shares there is.

        Yields a function that puts its count to that of the step, for the next share.
        """
        annealed = schedule_of(self.terms.objective)
        if annealed is None:
            yield lambda: None
            return
        taken = annealed.taken.clone()
        yield lambda: annealed.load_state_dict({"taken": taken})
        annealed.load_state_dict({"taken": taken + 1})

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
