"""Work on a GPU that is recorded once and repeated without Python: torch's CUDA graphs."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

__all__ = ["Record", "Recording", "Repeated", "Replayed", "read_later", "recorder"]


class Record(Protocol):
    """Something that repeats a piece of work.

    Attributes:
        pool: The memory for its intermediate results, which other recordings can share.
    """

    pool: Any

    def replay(self) -> None:
        """Does the work once more, on the values that its tensors have now."""
        ...


class Recording:
    """A piece of work as a CUDA graph.

    The work is recorded and not done. It has run before, so that its code is compiled and its
    libraries are loaded. It waits for no result, and all tensors that it reads or writes stay
    where they are. Noise comes from the device's default generator, and a replay draws on.

    Arguments:
        work: The work, a function without arguments.
        device: The device on which it works.
        pool: The pool of another recording, whose memory this one shares. The two do not run at
            the same time.

    Attributes:
        result: What the work returned. Its tensors are written anew by each replay.

    Raises:
        Exception: Whatever the work raises when it is recorded, such as for reading a value.
    """

    def __init__(
        self,
        work: Callable[[], Any],
        device: torch.device,
        pool: Any = None,
    ) -> None:
        self._graph = torch.cuda.CUDAGraph()
        self._device = device
        self._work = work  # The tensors that it reads live as long as the recording.
        with torch.cuda.device(device), torch.cuda.graph(self._graph, pool=pool):
            self.result = work()
        self.pool = self._graph.pool()

    @staticmethod
    def is_active() -> bool:
        """Whether something is recorded now, of which a replay cannot be a part."""
        return torch.cuda.is_current_stream_capturing()

    def replay(self) -> None:
        """Does the work once more; returns before it is done."""
        with torch.cuda.device(self._device):
            self._graph.replay()


class Repeated:
    """The same for a CPU, where nothing is recorded: each replay does the work by Python.

    Arguments:
        work, device, pool: See :class:`Recording`.
    """

    def __init__(self, work: Callable[[], Any], device: torch.device, pool: Any = None) -> None:
        self._work = work
        self.pool = None
        self.result: Any = None

    @staticmethod
    def is_active() -> bool:
        """Whether something is recorded now, which it never is."""
        return False

    def replay(self) -> None:
        """Does the work once more."""
        self.result = self._work()


class Replayed:
    """A function of tensors that is recorded, for tensors of these shapes.

    Arguments:
        function: The function, which has run before. All other tensors that it reads stay where
            they are.
        inputs: Examples of its arguments.
        record: Records work on their device.
    """

    def __init__(
        self,
        function: Callable[..., Sequence[Tensor]],
        inputs: Sequence[Tensor],
        record: type[Recording] | type[Repeated],
    ) -> None:
        self._inputs = [tensor.detach().clone() for tensor in inputs]
        self._recording = record(lambda: function(*self._inputs), self._inputs[0].device)

    def __call__(self, *inputs: Tensor) -> list[Tensor]:
        """The results for these arguments, in memory of their own."""
        with torch.no_grad():
            for kept, tensor in zip(self._inputs, inputs, strict=True):
                kept.copy_(tensor, non_blocking=True)
            self._recording.replay()
            return [tensor.clone() for tensor in self._recording.result]


def read_later(tensor: Tensor) -> Callable[[], Tensor]:
    """Copies a tensor to the CPU without waiting; the function that it returns waits for it."""
    if not tensor.is_cuda:
        copy = tensor.clone()
        return lambda: copy
    host = torch.empty_like(tensor, device="cpu", pin_memory=True)
    host.copy_(tensor, non_blocking=True)
    event = torch.cuda.Event()
    event.record(torch.cuda.current_stream(tensor.device))

    def wait() -> Tensor:
        event.synchronize()
        return host

    return wait


def recorder(device: torch.device) -> type[Recording] | type[Repeated] | None:
    """What records work on a device; None on a CPU, where nothing is gained."""
    return Recording if device.type == "cuda" else None
