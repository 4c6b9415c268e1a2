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
from pyro_vae.training.sources import Indexed, Source
from pyro_vae.utils.modules import evaluating
from pyro_vae.utils.random import seeded

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
    """

    data: Prepared
    elbo: ELBO
    seed: int | None

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
        cost, examples, name = 0.0, 0, self.data.argument
        with evaluating(pair), seeded(self.seed, _STREAMS[name], device=self.data.device):
            for batch in self.data.fixed(self.seed):
                check()
                cost += self.elbo.loss(pair.model, pair.guide, *batch)
                examples += len(batch[0])
        cost /= examples
        if not math.isfinite(cost):
            raise NonFiniteLoss(f"epoch {epoch}: the -ELBO of the {name} set is {cost}", history)
        return cost


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
