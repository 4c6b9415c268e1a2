"""Sources of training data: what gives the batches of an epoch, and in which order."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DistributedSampler

from pyro_vae.training.reading import (
    as_examples,
    joined,
    last_of,
    length_of,
)
from pyro_vae.training.shares import Shares
from pyro_vae.utils.checks import kind
from pyro_vae.utils.context import Examples, rows
from pyro_vae.utils.random import Stream, seeded

__all__ = ["START", "InMemory", "Indexed", "Parts", "Place", "Source", "Streamed"]

Parts = Iterator[tuple[int, list[tuple[int, Examples]]]]
"""For each batch, its number of examples, and shares of it with their numbers."""

_ORDER, _LOADER = 1, 2  # random streams of an epoch, beside that of its noise


@dataclass(frozen=True)
class Place:
    """A place in an epoch, between two batches, at which a training goes on.

    Attributes:
        batches: The number of batches before it.
        loader: The state of the random stream of what gives the batches, or None.
        noise: Puts the random generators of the noise back; called after the epoch's order is
            drawn, which may take its numbers from them.
    """

    batches: int = 0
    loader: Tensor | None = None
    noise: Callable[[], object] = lambda: None


START = Place()
"""The start of an epoch."""


class Source(ABC):
    """Batches of data as they are given, as tuples of tensors ``(x, *context)``.

    Attributes:
        argument: The name of the data in error messages.
        examples: The number of examples in an epoch, or None if it is unknown.
        steps: The number of batches in an epoch, or None if it is unknown.
        has_places: Whether an epoch can go on after any batch.
        last: The number of examples in the last batch of an epoch, or None if it is unknown.
    """

    argument: str
    examples: int | None
    steps: int | None
    has_places = False
    last: int | None = None

    @abstractmethod
    def first(self) -> Examples:
        """The first batch, for checks; it is still given by :meth:`epoch`."""

    @abstractmethod
    def epoch(self, number: int, place: Place = START) -> Iterator[Examples]:
        """Yields the batches of an epoch, from 1; those of epoch 0 are in the data's order."""

    def parts(self, number: int, shares: Shares, place: Place = START) -> Parts:
        """Yields this process's shares of the batches of an epoch."""
        for batch in self.epoch(number, place):
            size = len(batch[0])
            yield size, [(share, rows(batch, part)) for share, part in shares.of(size)]

    def loader_state(self) -> Any:
        """The random state of what gives the batches, between two of them."""
        return None

    def load_loader_state(self, state: Any) -> None:  # noqa: B027
        """Puts a state from :meth:`loader_state` back, between two epochs."""


class Indexed(Source):
    """Data of which any examples can be taken, shuffled anew in each epoch.

    Arguments:
        argument: The name of the data in error messages.
        take: Returns the examples of a 1-D tensor of indices.
        examples: The number of examples.
        batch_size: The number of examples in a batch; the last one may have fewer.
        seed: The seed of the order.
        is_fixed: Whether the same indices always give the same examples.
    """

    has_places = True

    def __init__(
        self,
        argument: str,
        take: Callable[[Tensor], Examples],
        examples: int,
        batch_size: int,
        seed: int | None,
        is_fixed: bool = False,
    ) -> None:
        if not examples:
            raise ValueError(f"{argument}: got an empty data set, expected at least one example")
        self.argument = argument
        self.take = take
        self.examples: int = examples
        self.batch_size = batch_size
        self.seed = seed
        self.is_fixed = is_fixed
        self.steps: int = math.ceil(examples / batch_size)
        self.last = examples - (self.steps - 1) * batch_size
        self._stream: Stream | None = None

    def first(self) -> Examples:
        """The first examples of the data."""
        return self.take(torch.arange(min(self.batch_size, self.examples), device="cpu"))

    def epoch(self, number: int, place: Place = START) -> Iterator[Examples]:
        """Yields the batches in a new order, or in that of the data for epoch 0."""
        order = self.order(number)
        stream = self._stream = Stream(self.seed, number, _LOADER)
        if place.loader is not None:
            stream.state = place.loader
        place.noise()
        for index in self.moved(order).split(self.batch_size)[place.batches :]:
            with stream:
                batch = self.take(index)
            yield batch

    def parts(self, number: int, shares: Shares, place: Place = START) -> Parts:
        """Yields this process's shares of the batches of an epoch; reads no others.

        What the data draw is a random stream of the share.
        """
        order = self.order(number)
        place.noise()
        batches = list(self.moved(order).split(self.batch_size))
        for index, batch in enumerate(batches[place.batches :], place.batches + 1):
            taken = []
            for share, part in shares.of(len(batch)):
                with self._drawing(number, index, share):
                    taken.append((share, self.take(batch[part])))
            yield len(batch), taken

    def _drawing(self, number: int, batch: int, share: int) -> AbstractContextManager[None]:
        if self.is_fixed:  # Nothing is drawn.
            return nullcontext()
        return seeded(self.seed, number, _LOADER, batch, share)

    def loader_state(self) -> Tensor | None:
        """The state of the random stream of the examples."""
        return None if self._stream is None else self._stream.state

    def order(self, number: int) -> Tensor:
        """The order of the examples in an epoch, as indices."""
        if not number:
            return torch.arange(self.examples, device="cpu")
        with seeded(self.seed, number, _ORDER):
            return torch.randperm(self.examples, device="cpu")

    def moved(self, order: Tensor) -> Tensor:
        """The order on the device of the data."""
        return order

    def part(self, argument: str, index: Tensor) -> "Indexed":
        """Some of the examples, as a source of its own.

        Arguments:
            argument: The name of the data in error messages.
            index: The examples.
        """

        def take(places: Tensor) -> Examples:
            return self.take(index[places])

        return Indexed(argument, take, len(index), self.batch_size, self.seed, self.is_fixed)


class InMemory(Indexed):
    """Tensors on the device where they are used.

    Attributes:
        given: The tensors as they were given, ``(x, *context)``.
        data: The tensors on the device.
    """

    def __init__(
        self,
        argument: str,
        given: Examples,
        batch_size: int,
        seed: int | None,
        device: torch.device,
    ) -> None:
        self.given = given
        self.data = tuple(entry.detach().to(device) for entry in given)
        size = len(given[0]) if given[0].dim() else 0

        def take(index: Tensor) -> Examples:
            return rows(self.data, index)

        super().__init__(argument, take, size, batch_size, seed, is_fixed=True)

    def moved(self, order: Tensor) -> Tensor:
        """The order on the device of the data."""
        return order.to(self.data[0].device)

    def part(self, argument: str, index: Tensor) -> "InMemory":
        """Some of the examples, as a source of its own."""
        some = tuple(entry[index.to(entry.device)] for entry in self.given)
        return InMemory(argument, some, self.batch_size, self.seed, self.data[0].device)


class Streamed(Source):
    """An iterable of batches, or of examples, in its own order.

    Arguments:
        argument: The name of the data in error messages.
        iterable: Gives the batches; it is iterated once an epoch.
        collated: Joins so many examples to a batch; None takes batches as they are.
        seed: The seed of what the iterable draws, such as a loader's order.
        epochs: The number of times that it will be iterated.
        begin: The number of the first epoch of a training.
    """

    examples = None

    def __init__(
        self,
        argument: str,
        iterable: Iterable[Any],
        collated: int | None,
        seed: int | None,
        epochs: int,
        begin: int = 1,
    ) -> None:
        if epochs > 1 and isinstance(iterable, Iterator):
            raise ValueError(
                f"{argument}: got {kind(iterable)}, which can be iterated once, for {epochs} "
                "epochs, expected an iterable that starts anew, such as a DataLoader or an object "
                "whose __iter__ is a generator function"
            )
        self.argument = argument
        self.iterable = iterable
        self.collated = collated
        self.seed = seed
        self.steps = length_of(iterable, collated)
        self.last = last_of(iterable)
        self._first = begin if argument == "train" else 0  # Others are in epoch 0 each time.
        self._begun: tuple[Stream, Iterator[Any], Examples] | None = None

    @property
    def is_cut(self) -> bool:
        """Whether each process has other examples."""
        samplers = (getattr(self.iterable, name, None) for name in ("sampler", "batch_sampler"))
        found = [each for s in samplers for each in (s, getattr(s, "sampler", None))]
        return any(isinstance(each, DistributedSampler) for each in found)

    def first(self) -> Examples:
        """The first batch of the first epoch, which begins here in training."""
        if self._begun is None:
            generators = self.loader_state()
            stream, iterator = self._begin(self._first)
            with stream:
                batch = next(iterator, None)
            if batch is None:
                raise ValueError(f"{self.argument}: got no batches, expected at least one")
            begun = stream, iterator, as_examples(self.argument, batch)
            if self._first != 1 and not isinstance(self.iterable, Iterator):
                self.load_loader_state(generators)
                return begun[2]  # They start anew each time, so that all times are alike.
            self._begun = begun
        return self._begun[2]

    def epoch(self, number: int, place: Place = START) -> Iterator[Examples]:
        """Yields the batches of a new iteration."""
        given = self._begun is not None and number == self._first
        if self._begun is not None and given:
            stream, iterator, batch = self._begun
            self._begun = None
            yield batch
        else:
            stream, iterator = self._begin(number)
        while True:
            with stream:
                item = next(iterator, None)
            if item is None:
                break
            given = True
            yield as_examples(self.argument, item)
        if not given:
            raise ValueError(
                f"{self.argument}: got no batches in epoch {number}, expected an iterable that "
                "starts anew in each epoch"
            )

    def loader_state(self) -> list[Tensor]:
        """The states of a loader's own random generators."""
        return [generator.get_state() for generator in self._generators()]

    def load_loader_state(self, state: Any) -> None:
        """Puts the states of a loader's own random generators back."""
        generators = self._generators()
        if isinstance(state, list) and len(state) == len(generators):  # Else the settings differ.
            for generator, own in zip(generators, state, strict=True):
                generator.set_state(own)

    def _generators(self) -> list[torch.Generator]:
        """The random generators that the user gave to a loader and its samplers."""
        batches = getattr(self.iterable, "batch_sampler", None)
        samplers = getattr(self.iterable, "sampler", None), getattr(batches, "sampler", None)
        found = [getattr(each, "generator", None) for each in (self.iterable, batches, *samplers)]
        return list(dict.fromkeys(each for each in found if isinstance(each, torch.Generator)))

    def _begin(self, number: int) -> tuple[Stream, Iterator[Any]]:
        stream = Stream(self.seed, number, _LOADER)
        with stream:
            iterator = iter(self.iterable)
        return stream, iterator if self.collated is None else joined(iterator, self.collated)
