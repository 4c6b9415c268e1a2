"""One step of several processes: each gives its share, and all take the same step."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_vae.pair import Pair
from pyro_vae.training.between import Agreement, Between
from pyro_vae.training.checkpoints import Settings, difference
from pyro_vae.training.sources import Source, Streamed
from pyro_vae.utils.context import content_hash
from pyro_vae.utils.processes import Processes

__all__ = ["Share", "Together", "agreed", "begin_together", "check_alike", "check_success"]


@dataclass
class Share:
    """What a process gives to a step.

    Attributes:
        terms: The sums of cost, reconstruction and KL.
        size: The number of examples in the whole batch; 0 if the epoch has no more.
        used: The parameters that the programs have read.
        error: What its share has raised, or None.
    """

    terms: Sequence[float]
    size: int
    used: Collection[Tensor] = ()
    error: Exception | None = None


class Together:
    """Sums terms and gradients of the shares of all processes.

    First the terms are summed, with what else has to be agreed upon: whether a share has failed,
    whether the training is interrupted, whether a checkpoint is due. Then the gradients, as one
    vector. A process without examples takes part with zeros.

    Arguments:
        processes: The processes.
        pair: The pair, whose parameters are the same in all of them.
    """

    def __init__(self, processes: Processes, pair: Pair) -> None:
        self.processes = processes
        self.pair = pair

    def step(self, place: str, share: Share, done: Between) -> tuple[list[float], list[Tensor]]:
        """Sums what the processes give; the gradients of the parameters are the sums afterwards.

        Arguments:
            place: The epoch and the batch, for error messages.
            share: What this process gives.
            done: Is told what the processes have agreed upon.

        Returns:
            The sums of the terms, and the parameters that any process has used.

        Raises:
            FloatingPointError: A share of any process raised one.
            RuntimeError: A share of another process failed, or the batches differ.
        """
        own = [p for p in self.pair.parameters() if p.requires_grad]
        used = {id(p) for p in share.used}
        said = [
            share.error is not None,
            done.requested(),
            self.processes.is_first and done.is_due(done.steps + 1),
            share.size,
            share.size**2,
        ]
        failed, *rest = self._sum(
            [
                *said,
                *(share.terms if share.error is None else [0.0] * 3),
                *(id(p) in used for p in own),
                *(p.grad is not None for p in own),
            ]
        )
        requested, due, sizes, squares = rest[:4]
        if failed:
            check_success(self.processes, place, share.error)
        count = self.processes.size
        if sizes != count * share.size or squares != count * share.size**2:
            raise RuntimeError(
                f"train: got a batch of {share.size} examples in process {self.processes.rank} at "
                f"{place}, and another number in other processes, expected the same batches in "
                "all of them: each takes its share"
            )
        done.agreement = Agreement(bool(requested), bool(due))
        terms, flags = rest[4:7], rest[7:]
        read, given = flags[: len(own)], flags[len(own) :]
        gradients = []
        for parameter, any_gradient in zip(own, given, strict=True):
            if any_gradient:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                gradients.append(parameter.grad)
        self.processes.add(gradients)
        return terms, [p for p, any_use in zip(own, read, strict=True) if any_use]

    def end(self, place: str, done: Between) -> None:
        """Ends an epoch of a stream; raises RuntimeError if other processes have more batches."""
        self.step(place, Share([0.0] * 3, 0), done)

    def summed(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Sums tensors by name; a process may have none of them."""
        device, total = self.processes.device, dict[str, Tensor]()
        for other in self.processes.gathered({n: t.cpu() for n, t in tensors.items()}):
            for name, tensor in other.items():
                own = tensor.to(device)
                total[name] = total[name] + own if name in total else own
        return total

    def _sum(self, values: Sequence[float]) -> list[float]:
        vector = torch.tensor(values, dtype=torch.float64, device=self.processes.device)
        self.processes.add([vector])
        summed: list[float] = vector.tolist()
        return summed


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


def agreed(seed: int | None, processes: Processes | None) -> int | None:
    """The seed of all processes; None becomes one that the first of them draws."""
    if processes is None or seed is not None:
        return seed
    return processes.gathered(int(torch.randint(2**32, (), device="cpu")))[0]


def begin_together(
    processes: Processes,
    pair: Pair,
    sources: Mapping[str, Source],
    settings: Settings,
    place: object,
) -> None:
    """Begins a training in several processes: with the parameters and buffers of the first.

    Arguments:
        processes: The processes.
        pair: The pair, after its first call.
        sources: The data by argument.
        settings: The settings of the training.
        place: Where it begins.

    Raises:
        ValueError: The processes have other settings, other data, or begin elsewhere.
    """
    firsts = {
        name: content_hash(source.first())
        for name, source in sources.items()
        if isinstance(source, Streamed)
    }
    for name, source in sources.items():
        if isinstance(source, Streamed) and source.is_cut:
            raise ValueError(
                f"{name}: got a loader with a DistributedSampler, expected one that gives the "
                "whole batch to each process: each takes its share of it"
            )
    said = {**settings.values, "checkpoint": place}
    for rank, other in enumerate(processes.gathered({**said, "first batches": firsts})):
        for name, value in said.items():
            if value != other[name]:
                got, expected = difference(other[name], value)
                raise ValueError(
                    f"{name}: got {got} in process {rank}, and {expected} in process "
                    f"{processes.rank}, expected the same in all of them"
                )
        for name, value in firsts.items():
            if value != other["first batches"][name]:
                raise ValueError(
                    f"{name}: got another first batch in process {rank} than in process "
                    f"{processes.rank}, expected the same batches in all of them: each takes its "
                    "share"
                )
    with torch.no_grad():
        processes.take_first([*pair.parameters(), *pair.buffers()])


def check_alike(processes: Processes, pair: Pair, place: str) -> None:
    """Raises RuntimeError unless parameters and buffers are the same in all processes.

    Arguments:
        processes: The processes.
        pair: The pair.
        place: The epoch, for the message.
    """
    state = {n: t.detach() for n, t in (*pair.named_parameters(), *pair.named_buffers())}
    sums = [t.double().sum() for t in state.values()]
    if not sums:
        return
    found = processes.gathered(torch.stack([s.to(sums[0].device) for s in sums]).tolist())
    for name, *values in zip(state, *found, strict=True):
        if len({repr(value) for value in values}) > 1:
            raise RuntimeError(
                f"{place}: {name} differs between the processes, expected a pair whose parameters "
                "change by gradients alone, and whose buffers do not depend on the examples: each "
                "process sees its share of a batch"
            )
