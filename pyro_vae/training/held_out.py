"""Data that a training does not see: test and validation data, and their -ELBO."""

import math
import numbers
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeGuard

import torch
from pyro.infer import ELBO

from pyro_vae.pair import Pair
from pyro_vae.training.data import Prepared
from pyro_vae.training.epoch_terms import NonFiniteLoss
from pyro_vae.training.history import History
from pyro_vae.training.shares import Shares
from pyro_vae.training.sources import Indexed, Source
from pyro_vae.utils.modules import evaluating
from pyro_vae.utils.processes import together
from pyro_vae.utils.random import seeded, streams

__all__ = ["COLUMN_OF", "HeldOut", "check_fraction", "is_fraction", "split"]

COLUMN_OF = {"validation": "validation_cost", "test": "test_cost"}
"""The column of the history for each argument of :func:`fit`."""

# The random streams of their noise and of the split; those of the epochs are 1, 2, ...
_STREAMS = {"test": 0, "validation": 2**31 + 2}
_SPLIT = 2**31 + 3


@dataclass
class HeldOut:
    """Data whose -ELBO is computed after each epoch, by the same noise each time.

    Attributes:
        data: The data.
        elbo: Gives the -ELBO of a batch.
        seed: The seed of pixels and noise.
        shares: How each batch is cut, so that several processes take part; None if it is not.
    """

    data: Prepared
    elbo: ELBO
    seed: int | None
    shares: Shares | None = None

    def __post_init__(self) -> None:
        self.data.keep(self.seed)  # Without a seed, a resumed training draws the same pixels.

    @property
    def column(self) -> str:
        """The column of the history."""
        return COLUMN_OF[self.data.argument]

    @torch.no_grad()
    def cost(self, pair: Pair, epoch: int, history: History, check: Callable[[], object]) -> float:
        """The -ELBO in eval mode, in nats per example.

        Arguments:
            pair: The pair.
            epoch: The epoch.
            history: The history of the epochs before.
            check: Called before each batch; it may raise an error to end this.

        Raises:
            NonFiniteLoss: It is not finite.
        """
        name = self.data.argument
        with evaluating(pair):
            summed = self._sum if self.shares is None else self._sum_of_shares
            cost, examples = summed(pair, check)
        cost /= examples
        if not math.isfinite(cost):
            raise NonFiniteLoss(f"epoch {epoch}: the -ELBO of the {name} set is {cost}", history)
        return cost

    def _sum(self, pair: Pair, check: Callable[[], object]) -> tuple[float, int]:
        """The sum over all examples, and their number."""
        cost, examples = 0.0, 0
        with seeded(self.seed, _STREAMS[self.data.argument], device=self.data.device):
            for batch in self.data.fixed(self.seed):
                check()
                cost += self.elbo.loss(pair.model, pair.guide, *batch)
                examples += len(batch[0])
        return cost, examples

    def _sum_of_shares(self, pair: Pair, check: Callable[[], object]) -> tuple[float, int]:
        """The same, by shares with streams of their own, which other processes may take."""
        assert self.shares is not None
        shares, processes = self.shares, self.shares.processes
        costs: list[list[float]] = []
        examples, stream = 0, _STREAMS[self.data.argument]
        parts_of = self.data.fixed_parts(self.seed, shares)
        with (
            together(processes, self.data.argument),
            streams(self.seed, self.data.device) as begin,
        ):
            for index, (size, parts) in enumerate(parts_of):
                check()
                costs.append([0.0] * shares.count)
                for number, batch in parts:
                    begin(stream, index, number)
                    costs[-1][number] = self.elbo.loss(pair.model, pair.guide, *batch)
                examples += size
        if processes is not None:
            found = processes.gathered((len(costs), examples))
            if len(set(found)) > 1:
                raise RuntimeError(
                    f"{self.data.argument}: got batches and examples {found} in the processes, "
                    "expected the same batches in all of them: each takes its share"
                )
        summed = torch.tensor(costs, dtype=torch.float64, device=self.data.device)
        if processes is not None:
            processes.add([summed])
        # In the order of the examples, so that the sum does not depend on who took them.
        return sum(summed.flatten().tolist()), examples


def is_fraction(validation: object) -> TypeGuard[float]:
    """Whether a fraction of the training data is asked for."""
    return isinstance(validation, numbers.Real)


def check_fraction(fraction: Any) -> None:
    """Raises TypeError or ValueError for a number that is no fraction; other things are data."""
    if not is_fraction(fraction):
        return
    if isinstance(fraction, bool):
        raise TypeError(f"validation: got {fraction}, expected a fraction, data or None")
    if not 0 < fraction < 1:
        raise ValueError(f"validation: got {fraction!r}, expected a fraction between 0 and 1")


def split(source: Source, fraction: float, seed: int | None) -> Mapping[str, Source]:
    """Takes a share of the training data as validation data, at random.

    Arguments:
        source: The training data.
        fraction: The share, between 0 and 1.
        seed: The seed of the choice.

    Returns:
        The sources "train" and "validation", each in the order of the data.

    Raises:
        TypeError: The data come in batches.
        ValueError: There are too few examples.
    """
    if not isinstance(source, Indexed):
        raise TypeError(
            f"validation: got the fraction {fraction}, and {source.argument} data that come as a "
            "stream, expected data of their own for validation"
        )
    count = round(fraction * source.examples)
    if not 0 < count < source.examples:
        raise ValueError(
            f"validation: got the fraction {fraction} of {source.examples} examples, expected at "
            "least one example for training and one for validation"
        )
    with seeded(seed, _SPLIT):
        order = torch.randperm(source.examples, device="cpu")
    parts = {"train": order[count:], "validation": order[:count]}
    return {name: source.part(name, index.sort().values) for name, index in parts.items()}
