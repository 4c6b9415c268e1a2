"""Epochs as one program: batches, pixels, losses and gradients come from one compiled graph."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pyro.optim
import torch
from torch import Tensor

from pyro_vae.compile import RandomState, Repeated, recorder
from pyro_vae.datasets import Pixels, fresh_pixels
from pyro_vae.objectives import Compiled, LossGraph, schedule_of
from pyro_vae.pair import Pair
from pyro_vae.training.between import Between
from pyro_vae.training.captured import Captured, FirstRunFails, NotRecorded, Step, reason
from pyro_vae.training.data import as_given
from pyro_vae.training.epoch_terms import NonFiniteLoss
from pyro_vae.training.history import History
from pyro_vae.training.sources import START, InMemory, Place
from pyro_vae.training.stepwise import Stepwise
from pyro_vae.utils.context import Examples, rows

__all__ = ["WholeEpochs"]

_log = logging.getLogger(__name__)

_PROGRAM = "an epoch is one program"
_ONE_BY_ONE = "steps are taken one by one: "


@dataclass(frozen=True)
class _Taking:
    """Takes a step's batch from all data of an epoch, see :class:`objectives.Taking`.

    The arguments of the graph are the order of the examples, the number of those that have been
    taken, the sums of loss, likelihood and KL, and then the data.
    """

    size: int
    pair: Pair = field(repr=False)
    pixels: Pixels | None

    def batch(self, *args: Tensor) -> Examples:
        order, taken, _, *data = args
        places = taken + torch.arange(self.size, device=order.device)
        batch = rows(tuple(data), order.index_select(0, places))
        return as_given(batch, self.pair, self.pixels, None, fresh_pixels)

    def count(self, values: Tensor, *args: Tensor) -> None:
        _, taken, sums, *_ = args
        sums.add_(values)
        taken.add_(self.size)


class WholeEpochs:
    """Takes the steps of an epoch as one program, where that is possible.

    The program gathers a batch, draws its pixels, and computes loss and gradients in one compiled
    graph; then the optimizer takes its step. On a GPU, steps are recorded as CUDA graphs, see
    :class:`~pyro_vae.training.captured.Captured`. Steps that cannot be part of it are taken one by
    one, with the same numbers: those of a smaller last batch on a CPU, and all of them if the data
    are not in memory or the program is not static. The logger of this module says at level INFO
    which way is taken, and why.

    Arguments:
        steps: Takes steps one by one.
        pair: The pair to train.
        model, guide: Its programs.
        optim: The optimizer.
    """

    def __init__(
        self,
        steps: Stepwise,
        pair: Pair,
        model: Callable[..., object],
        guide: Callable[..., object],
        optim: pyro.optim.PyroOptim,
    ) -> None:
        self.steps = steps
        self.pair = pair
        self.programs = model, guide
        self.optim = optim
        self._said: str | None = None
        self._captured: Captured | None = None
        self._args: tuple[Tensor, ...] = ()
        self._unrecorded = _PROGRAM
        self._in_recording = False
        self._whole = self._is_possible()
        record = recorder(self._source.data[0].device) if self._whole else None
        self._records = record is not None
        self._record = record or Repeated

    def epoch(
        self,
        number: int,
        history: History,
        done: Between,
        place: Place = START,
        before: Sequence[float] = (),
    ) -> None:
        """Takes the steps of an epoch, see :meth:`Stepwise.epoch`.

        Arguments:
            number: The epoch, from 1.
            history: The history of the epochs before.
            done: Is told of the steps that are done, and takes checkpoints between them.
            place: Where the epoch goes on.
            before: The sums of recorded steps before that place, see :meth:`sums`.
        """
        self._in_recording = False
        steps = self.steps.data.source.steps
        if steps is not None and place.batches >= steps:  # All have been taken.
            place.noise()
            self._add(before, self._source.examples if any(before) else 0)
            return
        before = before or self.steps.terms.zeros
        graph = self._graph(place)
        if graph is None:
            self.steps.epoch(number, history, done, place)
            return
        source = self._source
        order, taken, sums, *_ = self._args
        random = RandomState(self._args)
        order.copy_(source.order(number), non_blocking=True)
        place.noise()
        start = min(place.batches * source.batch_size, source.examples)
        taken.fill_(start)
        sums.copy_(torch.tensor(before, dtype=sums.dtype))
        step = Step(graph, self._args, self.optim, self.steps.after)
        try:
            if self._records and self._run_recorded(step, done, place.batches):
                self._add(sums.tolist(), int(taken))
            else:
                taken.fill_(start)
                self._add(before, start if any(before) else 0)
                self._run(step, number, history, done, place.batches)
        except FirstRunFails as error:
            self._whole = False
            self._say(_ONE_BY_ONE + str(error))
            self._objective.give_up(error.error)
            random.restore()
            self.steps.epoch(number, history, done, place)
            return
        rest = order[int(taken) :]
        if len(rest):
            batch = self.steps.data.batch(rows(source.data, rest))
            last = f"epoch {number}, batch {len(order) // source.batch_size + 1}"
            self.steps.step(last, batch, history)
            done(1)

    def _add(self, sums: Sequence[float], examples: int) -> None:
        """Adds the sums of recorded steps to the terms of the epoch."""
        self.steps.terms.add(*(sums or self.steps.terms.zeros))
        self.steps.terms.examples += examples

    def sums(self) -> list[float]:
        """The sums of losses and terms of recorded steps that are not in the terms yet."""
        return self._args[2].tolist() if self._in_recording else self.steps.terms.zeros

    # Which way.

    @property
    def _source(self) -> InMemory:
        source = self.steps.data.source
        assert isinstance(source, InMemory)
        return source

    @property
    def _objective(self) -> Compiled:
        objective = self.steps.terms.objective
        assert isinstance(objective, Compiled)
        return objective

    def _is_possible(self) -> bool:
        """Whether the data and the objective allow it; allocates what the program keeps."""
        source, data = self.steps.data.source, self.steps.data
        if not isinstance(self.steps.terms.objective, Compiled):
            self._say(_ONE_BY_ONE + "the objective is not compiled")
        elif self.steps.shares is not None:
            self._say(_ONE_BY_ONE + "batches are cut into shares")
        elif not isinstance(source, InMemory):
            self._say(_ONE_BY_ONE + "the data are not in memory")
        elif data.transform is not None:
            self._say(_ONE_BY_ONE + "transform= may do something else for each batch")
        elif source.examples < source.batch_size:
            self._say(_ONE_BY_ONE + "an epoch is less than one batch")
        else:
            device = source.data[0].device
            self._args = (
                torch.zeros(source.examples, dtype=torch.long, device=device),
                torch.zeros((), dtype=torch.long, device=device),
                torch.tensor(self.steps.terms.zeros, dtype=torch.float64, device=device),
                *source.data,
            )
            annealed = schedule_of(self.steps.terms.objective)
            if annealed is not None:  # A graph on a device reads its count there.
                annealed.taken = annealed.taken.to(device)
            return True
        return False

    def _graph(self, place: Place) -> LossGraph | None:
        """The graph of a step, which is made in the first epoch; None if there is none."""
        if not self._whole:
            return None
        objective, source = self._objective, self._source
        taking = _Taking(source.batch_size, self.pair, self.steps.data.pixels)
        # An epoch that goes on has asked before.
        uses = 0 if place.batches else source.steps
        try:
            graph = objective.step_graph(*self.programs, self._args, taking, uses)
        except Exception as error:  # If the pair is the cause, its first step raises it again.
            self._whole = False
            self._say(_ONE_BY_ONE + reason(error))
            return None
        if graph is None:
            self._say(_ONE_BY_ONE + "the objective runs uncompiled here")
        return graph

    def _say(self, text: str) -> None:
        if text != self._said:
            self._said = text
            _log.info(text)

    # Each way.

    def _run(
        self,
        step: Step,
        number: int,
        history: History,
        done: Between,
        before: int,
    ) -> None:
        """Takes the steps after some, and checks each loss before its step."""
        if not self._records:
            self._say(self._unrecorded)
        terms, size = self.steps.terms, self._source.batch_size
        for index in range(before + 1, self._source.examples // size + 1):
            values, *gradients = step.gradients()
            terms.place = f"epoch {number}, batch {index}"
            try:
                terms.add(*values.tolist())
            except FloatingPointError as error:
                raise NonFiniteLoss(str(error), history) from None
            step.update(gradients, advance=True)
            terms.examples += size
            done(1)

    def _run_recorded(self, step: Step, done: Between, before: int) -> bool:
        """Takes the steps after some as recorded; whether it has, and all losses were finite.

        If it has not, everything is as it was before.
        """
        source, sums = self._source, self._args[2]
        counted = done.batches, done.steps
        try:
            if self._captured is None or self._captured.step.graph is not step.graph:
                self._captured = Captured(step, self._rest(), sums, self._record)
            self._in_recording = True
            count = max(0, source.examples // source.batch_size - before)
            self._captured.epoch(count, done)
        except NotRecorded as error:
            self._captured, self._records = None, False
            self._unrecorded = f"{_PROGRAM}, whose steps are not recorded: {error}"
            self._in_recording = False
            done.batches, done.steps = counted
            return False
        except FloatingPointError:
            self._captured, self._in_recording = None, False
            done.batches, done.steps = counted
            self._say("a sum of losses is not finite, so the epoch is repeated to find its batch")
            return False
        self._in_recording = False
        self._say(f"{_PROGRAM}, whose steps are recorded as CUDA graphs")
        return True

    def _rest(self) -> Step | None:
        """The step of an epoch's smaller last batch, which is recorded as it is.

        None if there is no such batch, or if it has no graph.
        """
        source, objective = self._source, self._objective
        size = source.examples % source.batch_size
        if not size:
            return None
        taking = _Taking(size, self.pair, self.steps.data.pixels)
        many = 2**31  # Inductor is left out, so that the graph costs little.
        graph = objective.step_graph(*self.programs, self._args, taking, many, by_inductor=False)
        return None if graph is None else Step(graph, self._args, self.optim, self.steps.after)
