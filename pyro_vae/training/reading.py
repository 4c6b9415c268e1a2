"""Reads data of many kinds as tuples of tensors."""

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from pyro_vae.utils.checks import kind
from pyro_vae.utils.context import Examples, as_batch

__all__ = [
    "as_examples",
    "as_tensor",
    "joined",
    "last_of",
    "length_of",
    "rows_of_dataset",
    "rows_on_disk",
]


def rows_on_disk(
    argument: str, entries: Sequence[Any]
) -> tuple[Callable[[Tensor], Examples], int]:
    """Takes rows of arrays, some of which are on disk."""
    size = len(entries[0]) if entries[0].ndim else 0
    if not size:
        raise ValueError(f"{argument}: got an empty data set, expected at least one example")
    as_batch(tuple(as_tensor(argument, entry[:1]) for entry in entries), argument)
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
            as_tensor(argument, entry[places[ranks]])[back]
            if isinstance(entry, np.ndarray)
            else entry[index.to(entry.device)]
            for entry in entries
        )

    return take, size


def rows_of_dataset(
    argument: str, dataset: Dataset[Any]
) -> tuple[Callable[[Tensor], Examples], int]:
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
            return as_examples(argument, default_collate(found))
        except (TypeError, RuntimeError) as error:
            if isinstance(error, TypeError) and str(error).startswith(argument):
                raise
            raise TypeError(
                f"{argument}: cannot join the examples of {type(dataset).__name__} to a batch "
                f"({error}), expected tensors, arrays or numbers of equal shapes"
            ) from error

    return take, len(dataset)


def as_tensor(argument: str, entry: Any) -> Any:
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


def as_examples(argument: str, batch: Any) -> Examples:
    """A batch of a stream as a tuple of tensors."""
    if isinstance(batch, tuple | list):
        batch = tuple(as_tensor(argument, entry) for entry in batch)
    elif isinstance(batch, np.ndarray):
        batch = as_tensor(argument, batch)
    if not isinstance(batch, Tensor | tuple):
        raise TypeError(
            f"{argument}: got {kind(batch)} as a batch, expected a tensor x, or a tuple "
            "(x, *context) of tensors; a collate_fn of the loader can make one"
        )
    return as_batch(batch, argument)


def joined(examples: Iterator[Any], size: int) -> Iterator[Any]:
    """Joins examples to batches of a size."""
    while some := list(islice(examples, size)):
        yield default_collate(some)


def length_of(iterable: Any, collated: int | None) -> int | None:
    """The number of batches that an iterable gives, or None."""
    try:
        length = len(iterable)
    except (TypeError, NotImplementedError):
        return None
    return length if collated is None else math.ceil(length / collated)


def last_of(iterable: object) -> int | None:
    """The number of examples in the last batch of a ``DataLoader``, or None if it is unknown."""
    size = getattr(iterable, "batch_size", None)
    if not isinstance(iterable, DataLoader) or not size or iterable.drop_last:
        return None
    try:
        count = len(iterable.sampler)  # type: ignore[arg-type]
    except TypeError:
        return None
    return count % size or size
