"""The kinds of data that a training takes, and the source of each."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, TensorDataset

from pyro_vae.training.reading import as_tensor, rows_of_dataset, rows_on_disk
from pyro_vae.training.sources import Indexed, InMemory, Source, Streamed
from pyro_vae.utils.checks import kind
from pyro_vae.utils.context import Batch, as_batch

__all__ = ["BATCH_SIZE", "Data", "DefaultSize", "source_of"]

Data = Batch | np.ndarray | Dataset[Any] | Iterable[Any]
"""What :func:`fit` takes: a tensor, a NumPy array or memmap, a tuple of them, a torch ``Dataset``,
a ``DataLoader``, or any other iterable of batches that can be iterated again."""


class DefaultSize(int):
    """A batch size that nobody asked for."""


BATCH_SIZE = DefaultSize(128)
"""The number of examples in a batch, for data that are not in batches yet."""


def source_of(
    argument: str,
    data: Data,
    *,
    batch_size: int,
    seed: int | None,
    epochs: int,
    device: torch.device,
    begin: int = 1,
) -> Source:
    """The source of some data.

    Arguments:
        argument: The name of the data in error messages.
        data: The data.
        batch_size: The number of examples in a batch.
        seed: The seed of the order, and of what a loader draws.
        epochs: The number of epochs.
        begin: The number of the first epoch.
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
            return Indexed(argument, *rows_on_disk(argument, entries), batch_size, seed, True)
        arrays = tuple(as_tensor(argument, entry) for entry in entries)
        given = as_batch(arrays[0] if len(arrays) == 1 else arrays, argument)
        return InMemory(argument, given, batch_size, seed, device)
    if hasattr(data, "to_numpy"):  # A frame iterates over the names of its columns.
        raise TypeError(
            f"{argument}: got {kind(data)}, expected numbers, such as "
            "datasets.Table.from_frame(frame).x"
        )
    if isinstance(data, Mapping | str | bytes) or not isinstance(data, Dataset | Iterable):
        raise TypeError(
            f"{argument}: got {kind(data)}, expected a tensor, a NumPy array or memmap, a tuple "
            "(x, *context) of them, a torch Dataset, a DataLoader, or another iterable of batches"
        )
    if isinstance(data, IterableDataset):
        return Streamed(argument, data, batch_size, seed, epochs, begin)
    if isinstance(data, Dataset):
        return Indexed(argument, *rows_of_dataset(argument, data), batch_size, seed)
    if not isinstance(batch_size, DefaultSize) and argument == "train":
        raise ValueError(
            f"batch_size: got {batch_size} with {kind(data)} as {argument}, which gives batches "
            "already, expected none"
        )
    return Streamed(argument, data, None, seed, epochs, begin)


class _Batches:
    """The batches of a list, as an iterable that is no batch itself."""

    def __init__(self, batches: list[Any]) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.batches)
