"""One step of several processes: each gives its share, and all take the same step."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from pyro.optim import PyroOptim
from torch import Tensor

from pyro_vae.optim import Held
from pyro_vae.pair import Pair
from pyro_vae.training.between import Agreement, Between
from pyro_vae.training.checkpoints import Settings, difference
from pyro_vae.training.sources import InMemory, Source, Streamed
from pyro_vae.utils.context import content_hash
from pyro_vae.utils.processes import Processes, check_success, checksum
from pyro_vae.utils.random import seeded

__all__ = ["Share", "Together", "agreed", "begin_together", "check_alike"]


@dataclass
class Share:
    """What a process gives to a step.

    Attributes:
        terms: The sums of cost, reconstruction and KL, and of its parts; as many in each process.
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
        pair: The pair, whose parameters are the same in all of them. All of them are there.
    """

    def __init__(self, processes: Processes, pair: Pair) -> None:
        self.processes = processes
        self.pair = pair
        self._all = list(pair.parameters())

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
        own = self._all
        used = {id(p) for p in share.used}
        error = share.error
        if len(list(self.pair.parameters())) != len(own):
            error = error or RuntimeError(
                f"{self.pair.name}: got a parameter that is made after the first call, expected "
                "all of them there from the start: the processes would begin it differently"
            )
        said = [
            error is not None,
            done.requested(),
            self.processes.is_first and done.is_due(done.steps + 1),
            share.size,
            share.size**2,
        ]
        failed, *rest = self._sum(
            [
                *said,
                *(share.terms if error is None else [0.0] * len(share.terms)),
                *(id(p) in used for p in own),
                *(p.grad is not None for p in own),
            ]
        )
        requested, due, sizes, squares = rest[:4]
        if failed:
            check_success(self.processes, place, error)
        count = self.processes.size
        if sizes != count * share.size or squares != count * share.size**2:
            raise RuntimeError(
                f"train: got a batch of {share.size} examples in process {self.processes.rank} at "
                f"{place}, and another number in other processes, expected the same batches in "
                "all of them: each takes its share"
            )
        done.agreement = Agreement(bool(requested), bool(due))
        last = 4 + len(share.terms)
        terms, flags = rest[4:last], rest[last:]
        read, given = flags[: len(own)], flags[len(own) :]
        gradients = []
        for parameter, any_gradient in zip(own, given, strict=True):
            if any_gradient:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                gradients.append(parameter.grad)
        self.processes.add(gradients)
        return terms, [p for p, any_use in zip(own, read, strict=True) if any_use]

    def end(self, place: str, zeros: Sequence[float], done: Between) -> None:
        """Ends an epoch of a stream; raises RuntimeError if other processes have more batches."""
        self.step(place, Share(zeros, 0), done)

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


def agreed(seed: int | None, processes: Processes | None) -> int | None:
    """The seed of all processes; None becomes one that the first of them draws.

    Raises:
        ValueError: They have different seeds.
    """
    if processes is None:
        return seed
    drawn = int(torch.randint(2**32, (), device="cpu")) if seed is None else seed
    found = processes.gathered((seed, drawn))
    for rank, (other, _) in enumerate(found):
        if other != seed:
            raise ValueError(
                f"seed: got {other} in process {rank}, and {seed} in process {processes.rank}, "
                "expected the same in all of them"
            )
    return found[0][1]


def begin_together(
    processes: Processes,
    pair: Pair,
    sources: Mapping[str, Source],
    optim: PyroOptim,
    settings: Settings,
    others: Mapping[str, Any],
) -> None:
    """Begins a training in several processes: with the parameters and buffers of the first.

    Arguments:
        processes: The processes.
        pair: The pair, after its first call.
        sources: The data by argument.
        optim: The optimizer.
        settings: The settings of the training.
        others: What else has to be the same: the number of epochs, and where they begin.

    Raises:
        ValueError: The processes have other settings, other data, or begin elsewhere.
    """
    for name, source in sources.items():
        if isinstance(source, Streamed) and source.is_cut:
            raise ValueError(
                f"{name}: got a loader with a DistributedSampler, expected one that gives the "
                "whole batch to each process: each takes its share of it"
            )
    held = optim.optimizer.param_groups if isinstance(optim, Held) else []
    own = {id(p) for p in pair.parameters()}
    if any(id(p) not in own for group in held for p in group["params"]):
        raise ValueError(
            "optim: got a torch optimizer with parameters that the pair does not have, expected "
            "its own alone: the others would differ between the processes"
        )
    firsts = {name: _digest(source) for name, source in sources.items()}
    trained = [name for name, p in pair.named_parameters() if p.requires_grad]
    said = {**settings.values, **others, "trained parameters": trained}
    for rank, (first, other) in enumerate(processes.gathered((firsts, said))):
        for name, value in firsts.items():
            if value != first.get(name):
                raise ValueError(
                    f"{name}: got other examples in process {rank} than in process "
                    f"{processes.rank}, expected the same in all of them: each takes its share"
                )
        for name, value in said.items():
            if value != other.get(name):
                got, expected = difference(other.get(name), value)
                raise ValueError(
                    f"{name}: got {got} in process {rank}, and {expected} in process "
                    f"{processes.rank}, expected the same in all of them"
                )
    processes.take_first([*pair.parameters(), *pair.buffers()])
    pair.bind_all()  # A process may take its first step without an example.


def _digest(source: Source) -> str:
    """Identifies data in memory, and the first batch of others; "" if it draws by other means."""
    if isinstance(source, InMemory):
        return content_hash(source.data)
    if isinstance(source, Streamed):
        return content_hash(source.first())
    found = set()
    for _ in range(2):
        with seeded(0):
            found.add(content_hash(source.first()))
    return found.pop() if len(found) == 1 else ""


def check_alike(processes: Processes, pair: Pair, place: str) -> None:
    """Raises RuntimeError unless parameters and buffers are the same in all processes.

    Arguments:
        processes: The processes.
        pair: The pair.
        place: The epoch, for the message.
    """
    state = dict((*pair.named_parameters(), *pair.named_buffers()))
    found = processes.gathered([checksum(tensor) for tensor in state.values()])
    for name, *values in zip(state, *found, strict=True):
        if len(set(values)) > 1:
            raise RuntimeError(
                f"{place}: {name} differs between the processes, expected parameters that change "
                "by gradients alone, and buffers that depend neither on the examples nor on the "
                "number of calls: each process sees its share of a batch, which may be empty; and "
                "the same number of threads in each"
            )
