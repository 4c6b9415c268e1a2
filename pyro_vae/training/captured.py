"""Epochs whose steps are recorded: the host launches them, and waits for none of them."""

import copy
import math
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pyro.optim
import torch
from torch import Tensor

from pyro_vae.compile import Record, Recording, Repeated, read_later
from pyro_vae.objectives import LossGraph
from pyro_vae.optim import Held, JointOptim
from pyro_vae.training.averaging import Averaging
from pyro_vae.training.between import Between
from pyro_vae.training.ending import Interrupted
from pyro_vae.training.kept import Kept

__all__ = ["Captured", "FirstRunFails", "NotRecorded", "Step", "reason"]

_STEPS = 64  # The most steps of one recording.
_WARM_UP = 3  # Steps before the first recording, in which code and libraries are loaded.
_AHEAD = 8  # Recordings that are launched before the host waits for the first of them.


class NotRecorded(RuntimeError):
    """The steps cannot be recorded."""


class FirstRunFails(RuntimeError):
    """The compiled code of a step fails in its first run.

    Attributes:
        error: The error that it raises.
    """

    def __init__(self, error: Exception) -> None:
        super().__init__(reason(error))
        self.error = error


def reason(error: Exception) -> str:
    """The first line of an error's text."""
    return (str(error) or type(error).__name__).splitlines()[0]


class Step:
    """A training step: loss and gradients by a graph, and then the optimizer.

    Arguments:
        graph: Gives the loss with its terms, and the gradients.
        args: The arguments of the graph, which change in place.
        optim: The optimizer.
        after: Called after each step.
    """

    def __init__(
        self,
        graph: LossGraph,
        args: tuple[Tensor, ...],
        optim: pyro.optim.PyroOptim,
        after: Callable[[], object],
    ) -> None:
        self.graph = graph
        self.optim = optim
        self.parameters = list(graph.parameters.values())
        self.after = after
        self._args = args
        self._run = graph.fixed(args, {})

    def gradients(self) -> list[Tensor]:
        """The loss with its terms, and the gradients.

        Raises:
            FirstRunFails: There was no run before, and this one fails.
        """
        if self.graph.has_run:
            return self._run()
        try:
            return self.graph.run(self._args, {})
        except Exception as error:
            raise FirstRunFails(error) from error

    def update(self, gradients: list[Tensor], *, advance: bool) -> None:
        """Lets the optimizer take its step.

        Arguments:
            gradients: Those of the graph's leaves.
            advance: Advances the schedule too.
        """
        for leaf, gradient in zip(self.graph.leaves, gradients, strict=True):
            leaf.grad = gradient
        if advance:
            self.optim(self.parameters)
        else:
            self.optim.update(self.parameters)
        for leaf in self.graph.leaves:  # Pyro's own optimizers leave them.
            leaf.grad = None
        self.after()


class Captured:
    """Takes the steps of an epoch as recorded, several at a time.

    Rates that change from step to step are computed for the whole epoch beforehand, and lie on the
    device. The sums of the losses are read after each recording, some recordings later, so that
    the device never waits.

    Arguments:
        step: A step of a full batch.
        rest: The step of an epoch's smaller last batch, if there is one.
        sums: The tensor to which steps add their losses.
        record: Records work on the device.

    Raises:
        NotRecorded: The optimizer works with numbers on the CPU, or the program reads a tensor
            there.
    """

    def __init__(
        self,
        step: Step,
        rest: Step | None,
        sums: Tensor,
        record: type[Recording] | type[Repeated],
    ) -> None:
        optim = step.optim
        if not isinstance(optim, JointOptim | Held):
            raise NotRecorded(f"{type(optim).__name__} has an optimizer for each parameter")
        self.step, self.rest, self.sums = step, rest, sums
        self._optim = optim
        self._record = record
        self._device = sums.device
        self._recordings: dict[object, Record] = {}
        self._key: object = None
        steps = [step] if rest is None else [step, rest]
        self._tensors = list(dict.fromkeys(t for s in steps for t in s.graph.captured))
        varying = [t for s in steps for t in s.graph.varying]
        away = [tuple(t.shape) for t in varying if t.device != self._device]
        if away:
            raise NotRecorded(
                f"model or guide reads a tensor of shape {away[0]} on another device"
            )
        optim.join(step.parameters)
        if optim.optimizer is None:
            raise NotRecorded("no parameter is trained")
        self._optimizer = optim.optimizer
        self._make_capturable()
        self._now = torch.zeros(len(self._groups), device=self._device)
        self._rates = torch.zeros(0, len(self._groups), device=self._device)
        self._index = torch.zeros(1, dtype=torch.long, device=self._device)
        self._launched = 0  # steps of this epoch

    def epoch(self, count: int, done: Between) -> None:
        """Takes the steps of an epoch, or those that are left of it.

        If it raises one of the first three, pair, average, optimizer, schedule and random
        generators are as they were before.

        Arguments:
            count: The number of full batches.
            done: Is told of the steps that are done, and takes checkpoints between them.

        Raises:
            NotRecorded: A step cannot be recorded.
            FirstRunFails: See :meth:`Step.gradients`.
            FloatingPointError: A sum of losses is not finite.
            Interrupted: `done` raises it. The steps that were launched have been taken.
        """
        self._optim.join(self.step.parameters)  # A state may have been loaded since.
        kept = self._kept = Kept(self._tensors, self._optim)
        averaged = copy.deepcopy(average.state_dict()) if (average := self._average()) else None
        self._launched = 0
        self._total = count + (self.rest is not None)
        try:
            self._set_rates(self._total)
            with self._rates_on_device():
                self._take(count, done)
        except (NotRecorded, FirstRunFails, FloatingPointError):
            self._recordings.clear()
            kept.restore()
            if average is not None and averaged is not None:
                average.load_state_dict(averaged)
            raise
        except Interrupted:
            self._set_schedule()
            raise

    def _average(self) -> Averaging | None:
        average = getattr(self.step.after, "__self__", None)
        return average if isinstance(average, Averaging) else None

    def _set_schedule(self) -> None:
        """Puts the schedule, which is ahead at the epoch's end, to the steps taken so far."""
        self._kept.restore_rates()
        self._advance(self._launched)

    def _advance(self, steps: int) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # The schedule is not where the optimizer is.
            for _ in range(steps if isinstance(self._optim, JointOptim) else 0):
                self._optim.advance()

    def _write(self, done: Between) -> None:
        """Writes a checkpoint, when all that was launched is done."""
        self._set_schedule()
        done.write()
        self._advance(self._total - self._launched)
        self._use_rates_on_device()

    def _take(self, count: int, done: Between) -> None:
        waiting: deque[tuple[Callable[[], Tensor], int]] = deque()
        try:
            self._launch(count, waiting, done)
            while waiting:
                self._wait(*waiting.popleft(), done)
        except Interrupted:  # What was launched is taken, and has to be finite.
            self._check(read_later(self.sums))
            raise

    def _launch(
        self,
        count: int,
        waiting: deque[tuple[Callable[[], Tensor], int]],
        done: Between,
    ) -> None:
        """Launches the steps of an epoch, and waits for those that are far behind."""
        key = self._places()
        if key != self._key:
            self._recordings.clear()
            warm_up = min(_WARM_UP, count)
            for _ in range(warm_up):
                self._work(self.step)
            self._count(warm_up, done)
            done.passed(warm_up)
            count -= warm_up
            self._key = self._places()  # The optimizer has made its state by now.
        for step, number in self._parts(count):
            if step.graph.has_run:
                self._recording(step, number).replay()
            else:
                for _ in range(number):
                    self._work(step)
            self._count(number, done)
            waiting.append((read_later(self.sums), number))
            due = done.is_due(done.steps)
            while waiting and (due or len(waiting) > _AHEAD):
                self._wait(*waiting.popleft(), done)
            if due:
                self._write(done)

    def _count(self, steps: int, done: Between) -> None:
        self._launched += steps
        done.count(steps)

    def _parts(self, count: int) -> Iterator[tuple[Step, int]]:
        """Yields the parts of an epoch: a step, and the number of those in one recording."""
        number = count // math.ceil(count / _STEPS) if count else 1
        while count >= number and count:
            yield self.step, number
            count -= number
        for _ in range(count):
            yield self.step, 1
        if self.rest is not None:
            yield self.rest, 1

    def _recording(self, step: Step, number: int) -> Record:
        key = step is self.rest, number
        if key not in self._recordings:
            pool = next((r.pool for r in self._recordings.values()), None)

            def work() -> None:
                for _ in range(number):
                    self._work(step)

            try:
                self._recordings[key] = self._record(work, self._device, pool)
            except Exception as error:
                raise NotRecorded(f"recording failed ({reason(error)})") from error
        return self._recordings[key]

    def _work(self, step: Step) -> None:
        """One step, without waiting for anything."""
        if len(self._rates) > 1:
            self._now.copy_(self._rates.index_select(0, self._index)[0])
            self._index.add_(1)
        _, *gradients = step.gradients()
        step.update(gradients, advance=False)

    def _wait(self, read: Callable[[], Tensor], number: int, done: Between) -> None:
        self._check(read)
        done.passed(number)

    def _check(self, read: Callable[[], Tensor]) -> None:
        if not read().isfinite().all():
            raise FloatingPointError("a sum of losses is not finite")

    # The optimizer, as work on the device alone.

    @property
    def _groups(self) -> list[dict[str, Any]]:
        return self._optimizer.param_groups

    def _make_capturable(self) -> None:
        """Keeps the optimizer's step counts on the device."""
        name = type(self._optimizer).__name__
        for group in self._groups:
            if isinstance(group["lr"], Tensor):
                raise NotRecorded(f"{name} has a tensor as its rate")
            if "capturable" in group:
                group["capturable"] |= self._device.type == "cuda"
            elif isinstance(self._optimizer, torch.optim.SGD):
                # Unless it is fused, it turns a rate on the device into a number.
                group["foreach"], group["fused"] = False, True
            else:
                raise NotRecorded(f"{name} has no option capturable")
        for state in self._optimizer.state.values():
            for key, value in state.items():
                if isinstance(value, Tensor) and value.device != self._device:
                    state[key] = value.to(self._device)

    def _places(self) -> object:
        """What recordings depend on: the places of tensors, and the optimizer's options."""
        states = [v for state in self._optimizer.state.values() for v in state.values()]
        tensors = [t for t in (*self._tensors, *states) if isinstance(t, Tensor)]
        return [t.data_ptr() for t in tensors], self._options(), len(self._rates) > 1

    def _options(self) -> list[dict[str, Any]]:
        """The options of the optimizer's groups but for their rates."""
        return [{k: v for k, v in g.items() if k not in ("params", "lr")} for g in self._groups]

    def _set_rates(self, steps: int) -> None:
        """Advances the schedule for an epoch, and puts the rates of its steps on the device."""
        optim, options = self._optim, self._options()
        rates = [[group["lr"] for group in self._groups]]
        if isinstance(optim, JointOptim) and optim.scheduler and not optim.needs_cost:
            for _ in range(steps):
                self._advance(1)
                rates.append([group["lr"] for group in self._groups])
                if self._options() != options:
                    raise NotRecorded("the schedule changes more than rates")
            rates.pop()
        values = torch.tensor(rates, dtype=self._now.dtype, device=self._device)
        if values.shape != self._rates.shape:
            self._rates = torch.empty_like(values)
            self._recordings.clear()
            self._key = None
        self._rates.copy_(values)
        self._now.copy_(values[0])
        self._index.zero_()

    @contextmanager
    def _rates_on_device(self) -> Iterator[None]:
        """Lets the optimizer read its rates from the device; callbacks see numbers again."""
        rates = [group["lr"] for group in self._groups]
        try:
            self._use_rates_on_device()
            yield
        finally:
            for group, rate in zip(self._groups, rates, strict=True):
                group["lr"] = rate

    def _use_rates_on_device(self) -> None:
        for index, group in enumerate(self._groups):
            group["lr"] = self._now[index]
