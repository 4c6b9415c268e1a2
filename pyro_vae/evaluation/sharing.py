"""Evaluations that several processes share: each takes every N-th block of examples."""

from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from pyro_vae.compat import stored_parameters
from pyro_vae.utils.checks import check_flag
from pyro_vae.utils.modules import owner_of
from pyro_vae.utils.processes import Processes, checksum, processes_of

__all__ = ["Sharing", "sharing"]

T = TypeVar("T")


class Sharing(Generic[T]):
    """Collects the results of blocks of examples, and joins those of all processes.

    Arguments:
        processes: The processes; None for this one alone.
        device: Where the results are.

    Attributes:
        own: The results of this process, in the order of its blocks.
    """

    def __init__(self, processes: Processes | None, device: torch.device) -> None:
        self.processes = processes
        self.own: list[T] = []
        self._device = device

    def takes(self, index: int) -> bool:
        """Whether this process takes the block with this number."""
        return self.processes is None or index % self.processes.size == self.processes.rank

    def seed(self, seed: int | None) -> int | None:
        """The seed of all processes; None becomes one that the first of them draws."""
        if self.processes is None or seed is not None:
            return seed
        return self.processes.gathered(int(torch.randint(2**32, (), device="cpu")))[0]

    def check_alike(self, argument: str, value: object) -> None:
        """Raises ValueError if an argument is another one in some process."""
        if self.processes is None:
            return
        for rank, other in enumerate(self.processes.gathered(value)):
            if other != value:
                raise ValueError(
                    f"{argument}: got {other} in process {rank} and {value} in process "
                    f"{self.processes.rank}, expected the same in all of them with shared=True"
                )

    def joined(self) -> list[T]:
        """The results of all blocks, in their order; the processes exchange them here."""
        if self.processes is None:
            return self.own
        found = self.processes.gathered([_moved(r, torch.device("cpu")) for r in self.own])
        count, size = sum(map(len, found)), self.processes.size
        in_order = [found[index % size][index // size] for index in range(count)]
        return [_moved(result, self._device) for result in in_order]


def sharing(
    shared: Any, device: torch.device, *evaluated: Callable[..., Any] | None
) -> "Sharing[Any]":
    """Whether, and with whom, an evaluation is shared.

    Arguments:
        shared: Whether the processes of ``torch.distributed`` share it.
        device: Where the results are.
        evaluated: A pair, or model and guide, which have to be the same in all of them. Those
            that are no modules have the parameters in Pyro's store.

    Raises:
        TypeError: `shared` is not a bool.
        RuntimeError: There are no processes to share it with.
        ValueError: The parameters differ between the processes.
    """
    check_flag("shared", shared)
    if not shared:
        return Sharing(None, device)
    processes = processes_of(device)
    if processes is None:
        raise RuntimeError(
            "shared: got True without torch.distributed, expected init_process_group() before, or "
            "False"
        )
    found: Sharing[Any] = Sharing(processes, device)
    state: list[Tensor] = []
    for program in evaluated:
        owner = None if program is None else owner_of(program)
        if owner is not None:
            state += [*owner.parameters(), *owner.buffers()]
        elif program is not None:
            state += stored_parameters().copy().values()
    digest = hash(tuple(checksum(tensor) for tensor in state)) % 2**32
    found.check_alike("vae", f"parameters with the checksum {digest:08x}")
    return found


def _moved(result: Any, device: torch.device) -> Any:
    """A result with its tensors on a device."""
    if isinstance(result, Tensor):
        return result.to(device)
    if is_dataclass(result) and not isinstance(result, type):
        values = {f.name: _moved(getattr(result, f.name), device) for f in fields(result)}
        return replace(result, **values)
    return result
