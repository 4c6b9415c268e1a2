"""Sources of training data: what gives the batches of an epoch, and in which order."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, TensorDataset, default_collate

from pyro_vae.utils.checks import kind
from pyro_vae.utils.context import Batch, Examples, as_batch, rows
from pyro_vae.utils.random import Stream, seeded

__all__ = ["BATCH_SIZE", "Data", "DefaultSize", "InMemory", "Indexed", "Source", "source_of"]

Data = Batch | np.ndarray | Dataset[Any] | Iterable[Any]
"""What :func:`fit` takes: a tensor, a NumPy array or memmap, a tuple of them, a torch ``Dataset``,
a ``DataLoader``, or any other iterable of batches that can be iterated again."""

_ORDER, _LOADER = 1, 2  # random streams of an epoch, beside that of its noise


class DefaultSize(int):
    """A batch size that nobody asked for."""


BATCH_SIZE = DefaultSize(128)
"""The number of examples in a batch, for data that are not in batches yet."""


class Source(ABC):
    """Batches of data as they are given, as tuples of tensors ``(x, *context)``.

    Attributes:
        argument: The name of the data in error messages.
        examples: The number of examples in an epoch, or None if it is unknown.
        steps: The number of batches in an epoch, or None if it is unknown.
    """

    argument: str
    examples: int | None
    steps: int | None

    @abstractmethod
    def first(self) -> Examples:
        """The first batch, for checks; it is still given by :meth:`epoch`."""

    @abstractmethod
    def epoch(self, number: int) -> Iterator[Examples]:
        """Yields the batches of an epoch, from 1; those of epoch 0 are in the data's order."""


class Indexed(Source):
    """Data of which any examples can be taken, shuffled anew in each epoch.

    Arguments:
        argument: The name of the data in error messages.
        take: Returns the examples of a 1-D tensor of indices.
        examples: The number of examples.
        batch_size: The number of examples in a batch; the last one may have fewer.
        seed: The seed of the order.
    """

    def __init__(
        self,
        argument: str,
        take: Callable[[Tensor], Examples],
        examples: int,
        batch_size: int,
        seed: int | None,
    ) -> None:
        if not examples:
            raise ValueError(f"{argument}: got an empty data set, expected at least one example")
        self.argument = argument
        self.take = take
        self.examples: int = examples
        self.batch_size = batch_size
        self.seed = seed
        self.steps: int = math.ceil(examples / batch_size)

    def first(self) -> Examples:
        """The first examples of the data."""
        return self.take(torch.arange(min(self.batch_size, self.examples), device="cpu"))

    def epoch(self, number: int) -> Iterator[Examples]:
        """Yields the batches in a new order, or in that of the data for epoch 0."""
        order = self.order(number)
        stream = Stream(self.seed, number, _LOADER)
        for index in self.moved(order).split(self.batch_size):
            with stream:
                batch = self.take(index)
            yield batch

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

        return Indexed(argument, take, len(index), self.batch_size, self.seed)


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
        super().__init__(argument, lambda index: rows(self.data, index), size, batch_size, seed)

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
    """

    examples = None

    def __init__(
        self,
        argument: str,
        iterable: Iterable[Any],
        collated: int | None,
        seed: int | None,
        epochs: int,
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
        self.steps = _length(iterable, collated)
        self._first = int(argument == "train")  # Held-out data are in epoch 0 each time.
        self._begun: tuple[Stream, Iterator[Any], Examples] | None = None

    def first(self) -> Examples:
        """The first batch of the first epoch, which begins here in training."""
        if self._begun is None:
            stream, iterator = self._begin(self._first)
            with stream:
                batch = next(iterator, None)
            if batch is None:
                raise ValueError(f"{self.argument}: got no batches, expected at least one")
            begun = stream, iterator, _examples(self.argument, batch)
            if not self._first and not isinstance(self.iterable, Iterator):
                return begun[2]  # They start anew each time, so that all times are alike.
            self._begun = begun
        return self._begun[2]

    def epoch(self, number: int) -> Iterator[Examples]:
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
            yield _examples(self.argument, item)
        if not given:
            raise ValueError(
                f"{self.argument}: got no batches in epoch {number}, expected an iterable that "
                "starts anew in each epoch"
            )

    def _begin(self, number: int) -> tuple[Stream, Iterator[Any]]:
        stream = Stream(self.seed, number, _LOADER)
        with stream:
            iterator = iter(self.iterable)
        return stream, iterator if self.collated is None else _joined(iterator, self.collated)


def _joined(examples: Iterator[Any], size: int) -> Iterator[Any]:
    while some := list(islice(examples, size)):
        yield default_collate(some)


def _length(iterable: Any, collated: int | None) -> int | None:
    try:
        length = len(iterable)
    except (TypeError, NotImplementedError):
        return None
    return length if collated is None else math.ceil(length / collated)


def source_of(
    argument: str,
    data: Data,
    *,
    batch_size: int,
    seed: int | None,
    epochs: int,
    device: torch.device,
) -> Source:
    """The source of some data.

    Arguments:
        argument: The name of the data in error messages.
        data: The data.
        batch_size: The number of examples in a batch.
        seed: The seed of the order, and of what a loader draws.
        epochs: The number of epochs.
        device: Where tensors and arrays in memory are kept.

    Raises:
        TypeError: The data are of none of the kinds that are taken.
        ValueError: The data are empty, `batch_size` was given for training data that come in
            batches, or an iterator that runs once is to run several epochs.
    """
    if type(data) is TensorDataset:  # A subclass may change the examples as they are taken.
        data = data.tensors
    if isinstance(data, list) and data and isinstance(data[0], tuple | list):
        data = _Batches(data)
    if isinstance(data, Tensor | np.ndarray | tuple | list):
        entries = data if isinstance(data, tuple | list) else (data,)
        if any(isinstance(entry, np.memmap) for entry in entries):
            return Indexed(argument, *_mapped(argument, entries), batch_size, seed)
        arrays = tuple(_tensor(argument, entry) for entry in entries)
        given = as_batch(arrays[0] if len(arrays) == 1 else arrays, argument)
        return InMemory(argument, given, batch_size, seed, device)
    if isinstance(data, Mapping | str | bytes) or not isinstance(data, Dataset | Iterable):
        raise TypeError(
            f"{argument}: got {kind(data)}, expected a tensor, a NumPy array or memmap, a tuple "
            "(x, *context) of them, a torch Dataset, a DataLoader, or another iterable of batches"
        )
    if isinstance(data, IterableDataset):
        return Streamed(argument, data, batch_size, seed, epochs)
    if isinstance(data, Dataset):
        return Indexed(argument, *_map_style(argument, data), batch_size, seed)
    if not isinstance(batch_size, DefaultSize) and argument == "train":
        raise ValueError(
            f"batch_size: got {batch_size} with {kind(data)} as {argument}, which gives batches "
            "already, expected none"
        )
    return Streamed(argument, data, None, seed, epochs)


class _Batches:
    """The batches of a list, as an iterable that is no batch itself."""

    def __init__(self, batches: list[Any]) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.batches)


def _mapped(argument: str, entries: Sequence[Any]) -> tuple[Callable[[Tensor], Examples], int]:
    """Takes rows of arrays, some of which are on disk."""
    size = len(entries[0]) if entries[0].ndim else 0
    if not size:
        raise ValueError(f"{argument}: got an empty data set, expected at least one example")
    as_batch(tuple(_tensor(argument, entry[:1]) for entry in entries), argument)
    for index, entry in enumerate(entries[1:]):
        if len(entry) != size:
            raise ValueError(
                f"context: got {len(entry)} rows as entry {index}, expected {size}: one for each "
                "example"
            )

    def take(index: Tensor) -> Examples:
        # Rows in the order of the file, which is read once for each, and then in that asked for.
        places = index.numpy()
        ranks = places.argsort()
        back = torch.from_numpy(ranks.argsort())
        return tuple(
            _tensor(argument, entry[places[ranks]])[back]
            if isinstance(entry, np.ndarray)
            else entry[index.to(entry.device)]
            for entry in entries
        )

    return take, size


def _map_style(argument: str, dataset: Dataset[Any]) -> tuple[Callable[[Tensor], Examples], int]:
    """Takes examples of a map-style data set, joined by torch's ``default_collate``."""
    if not hasattr(dataset, "__len__"):
        raise TypeError(
            f"{argument}: got {kind(dataset)} without __len__, expected a map-style Dataset with "
            "one, or an IterableDataset"
        )

    def take(index: Tensor) -> Examples:
        places = index.tolist()
        fetch = getattr(dataset, "__getitems__", None)
        found = fetch(places) if fetch is not None else [dataset[place] for place in places]
        try:
            return _examples(argument, default_collate(found))
        except (TypeError, RuntimeError) as error:
            if isinstance(error, TypeError) and str(error).startswith(argument):
                raise
            raise TypeError(
                f"{argument}: cannot join the examples of {type(dataset).__name__} to a batch "
                f"({error}), expected tensors, arrays or numbers of equal shapes"
            ) from error

    return take, len(dataset)


def _tensor(argument: str, entry: Any) -> Any:
    """An array as a tensor that shares its memory if it can be written; anything else as it is."""
    if not isinstance(entry, np.ndarray | np.generic):
        return entry
    if isinstance(entry, np.ma.MaskedArray):
        raise TypeError(
            f"{argument}: got a masked array, expected an array without a mask: a mask can be an "
            "entry of the context"
        )
    try:
        array = np.asarray(entry)
        if not array.dtype.isnative:
            array = array.astype(array.dtype.newbyteorder("="))
        if not array.flags.writeable or any(stride < 0 for stride in array.strides):
            array = array.copy()
        return torch.from_numpy(array)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"{argument}: got an array of {entry.dtype}, expected numbers that torch has ({error})"
        ) from error


def _examples(argument: str, batch: Any) -> Examples:
    """A batch of a stream as a tuple of tensors."""
    if isinstance(batch, tuple | list):
        batch = tuple(_tensor(argument, entry) for entry in batch)
    elif isinstance(batch, np.ndarray):
        batch = _tensor(argument, batch)
    if not isinstance(batch, Tensor | tuple):
        raise TypeError(
            f"{argument}: got {kind(batch)} as a batch, expected a tensor x, or a tuple "
            "(x, *context) of tensors; a collate_fn of the loader can make one"
        )
    return as_batch(batch, argument)
