"""The processes of ``torch.distributed`` that train or evaluate together."""

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, TypeAlias, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from pyro_vae.utils.checks import kind

__all__ = ["Group", "Processes", "check_success", "checksum", "processes_of", "together"]

T = TypeVar("T")

_LOST = "(?i)connection|peer|timed out|timeout|gloo|nccl"  # in errors of a lost process

Group: TypeAlias = "dist.ProcessGroup | None"
"""A group of processes; None is torch's default group."""


class Processes:
    """Processes that do the same work, each with a share of the examples.

    All of them have to call each method, in the same order.

    Arguments:
        device: Where their tensors are.
        group: The group; None is torch's default group.

    Attributes:
        rank: The number of this process, from 0.
        size: The number of processes.

    Raises:
        ConnectionError: In each method: another process has ended, or did not answer in the
            group's timeout.
    """

    def __init__(self, device: torch.device, group: Group = None) -> None:
        self.rank = dist.get_rank(group)
        self.size = dist.get_world_size(group)
        self.device = device
        self._group = group
        self._first = 0 if group is None else dist.get_global_rank(group, 0)

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    def add(self, tensors: Sequence[Tensor]) -> None:
        """Sums each tensor over the processes, in place, with one message for each dtype."""
        for some, flat in _flat(tensors):
            with self._answering():
                dist.all_reduce(flat, group=self._group)
            _split(flat, some)

    def take_first(self, tensors: Sequence[Tensor]) -> None:
        """Gives each tensor the values of the first process, in place, if they differ."""
        own = [_bytes(tensor) for tensor in tensors]
        if not own:
            return
        flat = torch.cat(own)
        with self._answering():
            dist.broadcast(flat, src=self._first, group=self._group)
        for tensor, old, new in zip(tensors, own, flat.split([len(b) for b in own]), strict=True):
            if not torch.equal(old, new):
                with torch.no_grad():
                    tensor.copy_(new.clone().view(tensor.dtype).view(tensor.shape))

    def gathered(self, value: T) -> list[T]:
        """The values of all processes, in their order; values are pickled."""
        found: list[Any] = [None] * self.size
        with self._answering():
            dist.all_gather_object(found, value, group=self._group)
        return found

    @contextmanager
    def _answering(self) -> Iterator[None]:
        # Messages of objects go through the current GPU, which the user may not have set.
        current = torch.cuda.device(self.device) if self.device.type == "cuda" else nullcontext()
        try:
            with current:
                yield
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
            if not isinstance(error, dist.DistError) and not re.search(_LOST, reason):
                raise
            raise ConnectionError(
                f"process {self.rank}: another process has ended, or has not called the same; its "
                f"own error, if there is one, says why ({reason})"
            ) from error


@contextmanager
def together(processes: Processes | None, place: str) -> Iterator[None]:
    """A block that all processes run, and that fails in all of them if it fails in one.

    Arguments:
        processes: The processes; None for this one alone.
        place: Where, for the message of the others.
    """
    error: Exception | None = None
    try:
        yield
    except ConnectionError:
        raise
    except Exception as raised:
        if processes is None:
            raise
        error = raised
    if processes is not None:
        check_success(processes, place, error)


def check_success(processes: Processes, place: str, own: Exception | None) -> None:
    """Raises the error of this process, or says which other one has failed.

    Arguments:
        processes: The processes.
        place: Where, for the message.
        own: The error of this process, or None.

    Raises:
        FloatingPointError: Some raised it, and no other. All raise the same, so that all can go
            back to the same checkpoint.
        RuntimeError: Another process failed.
    """
    text = None if own is None else (isinstance(own, FloatingPointError), str(own))
    found = processes.gathered(text)
    if own is not None and not isinstance(own, FloatingPointError):
        raise own
    for rank, other in enumerate(found):
        if other is not None and not other[0]:
            raise RuntimeError(f"{place}: process {rank} failed: {other[1]}") from own
    messages = [other[1] for other in found if other is not None]
    if messages:
        raise FloatingPointError(messages[0]) from own


def processes_of(device: torch.device, group: Group = None) -> Processes | None:
    """The processes of which this is one; None without ``torch.distributed``.

    Arguments:
        device: Where their tensors are.
        group: The group; None is torch's default group.

    Raises:
        TypeError: `group` is not a process group.
        ValueError: This process is not in the group, or there is no ``torch.distributed``.
        RuntimeError: ``torchrun`` has begun several processes, which do not know each other yet.
    """
    if not dist.is_available() or not dist.is_initialized():
        if group is not None:
            raise ValueError(
                "process_group: got one without torch.distributed, expected init_process_group() "
                "before"
            )
    elif group == dist.GroupMember.NON_GROUP_MEMBER:  # type: ignore[comparison-overlap]
        raise ValueError(
            "process_group: got one that this process is not in, expected one with it, or None"
        )
    elif group is not None and not isinstance(group, dist.ProcessGroup):
        raise TypeError(f"process_group: got {kind(group)}, expected a ProcessGroup or None")
    else:
        return Processes(device, group)
    if not dist.is_available():
        return None
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if dist.is_torchelastic_launched() and count > 1:
        raise RuntimeError(
            f"torchrun: got one of {count} processes without a process group, in which each would "
            "train alone, expected torch.distributed.init_process_group() before"
        )
    return None


def _flat(tensors: Sequence[Tensor]) -> Iterator[tuple[list[Tensor], Tensor]]:
    """The tensors of each dtype, and one vector of all their values."""
    for dtype in dict.fromkeys(tensor.dtype for tensor in tensors):
        some = [tensor for tensor in tensors if tensor.dtype == dtype]
        yield some, torch.cat([tensor.detach().reshape(-1) for tensor in some])


def _bytes(tensor: Tensor) -> Tensor:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8)


def checksum(tensor: Tensor) -> int:
    """The sum of a tensor's bytes, which does not depend on the order of summation."""
    return int(_bytes(tensor).sum(dtype=torch.int64))


@torch.no_grad()
def _split(flat: Tensor, tensors: Sequence[Tensor]) -> None:
    for tensor, part in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
        tensor.copy_(part.view(tensor.shape))
