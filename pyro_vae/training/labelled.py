"""Batches with a share of labelled examples, and the weights that undo it in the loss."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from pyro.infer import ELBO
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyro_vae.contracts import PLATE, Refused
from pyro_vae.objectives import layers, traits
from pyro_vae.training.sources import InMemory, Source
from pyro_vae.utils.checks import check_number
from pyro_vae.utils.random import seeded

__all__ = ["Labelled", "check_labelled", "labelled_of", "weighted"]

_LABELS = 3  # the random stream of the order of labelled examples


def check_labelled(share: float | None, objective: ELBO, in_shares: bool) -> None:
    """Raises TypeError or ValueError unless batches can have a share of labelled examples.

    Arguments:
        share: The share, or None.
        objective: The objective.
        in_shares: Whether batches are cut into shares of a step.
    """
    if share is None:
        return
    check_number("labelled", share, above=0, below=1)
    *_, inner = layers(objective)
    if not traits(inner).is_linear:
        raise ValueError(
            f"labelled: got it with {type(inner).__name__}, expected an ELBO, such as "
            "enumerated() or classified(alpha, enumerated()): a weight of an example cannot be "
            "inside of a logarithm"
        )
    if in_shares:
        raise ValueError(
            "labelled: got it with batches that are cut into shares, expected accumulate=1 and "
            "one process"
        )


class Labelled(InMemory):
    """Batches of which a fixed number of examples is labelled, each with a weight.

    The labelled examples come first in a batch. An epoch has as many batches as fit into the
    number of examples. The others pass in a new order in each epoch; the labelled ones are
    repeated, in a new order each time.

    Arguments:
        source: The data, ``(x, labels, *context)``, with -1 for a missing label.
        share: The share of labelled examples.

    Attributes:
        weights: The weight of each example of a batch. With them, the sum over a batch has the
            mean of that over as many examples at random.

    Raises:
        ValueError: There are no labels, or all examples have one; or a batch has fewer than one
            example of each kind.
    """

    def __init__(self, source: InMemory, share: float) -> None:
        x = source.given[0]
        size = source.batch_size
        if len(source.given) < 2:
            raise ValueError("labelled: got data without labels, expected (x, labels)")
        labels = source.given[1]
        if labels.dim() != 1 or labels.is_floating_point():
            raise ValueError(
                f"labelled: got {labels.dtype} of shape {tuple(labels.shape)} after x, expected "
                "integer labels of shape (N,)"
            )
        known = (labels >= 0).cpu()
        self._known, self._unknown = (part.nonzero().flatten() for part in (known, ~known))
        if not len(self._known) or not len(self._unknown):
            raise ValueError(
                f"labelled: got {len(self._known)} labels for {len(x)} examples, expected some "
                "examples with a label, and some with -1"
            )
        self._count = round(share * size)
        if not 0 < self._count < size:
            raise ValueError(
                f"labelled: got {share} of batches of {size}, which are {self._count} labelled "
                "examples, expected at least one of each kind"
            )
        if len(x) < size:
            raise ValueError(
                f"labelled: got {len(x)} examples, expected at least a batch of {size}"
            )
        super().__init__(source.argument, source.given, size, source.seed, source.data[0].device)
        self.steps = len(x) // size
        self.examples = self.steps * size
        self.last = size
        own = torch.arange(size, device=source.data[0].device) < self._count
        ratio = size / len(x)
        known_weight = ratio * len(self._known) / self._count
        other_weight = ratio * len(self._unknown) / (size - self._count)
        self.weights = torch.where(own, known_weight, other_weight)

    def order(self, number: int) -> Tensor:
        """The order of the examples in an epoch, batch by batch, the labelled ones first."""
        with seeded(self.seed, number, _LABELS):
            known, others = (
                self._repeated(part, self.steps * count).view(self.steps, count)
                for part, count in (
                    (self._known, self._count),
                    (self._unknown, self.batch_size - self._count),
                )
            )
        return torch.cat((known, others), 1).flatten()

    @staticmethod
    def _repeated(part: Tensor, count: int) -> Tensor:
        """So many examples of a part, in an order that is new each time it has passed."""
        times = -(-count // len(part))
        return torch.cat([part[torch.randperm(len(part))] for _ in range(times)])[:count]


def labelled_of(source: Source, share: float) -> Labelled:
    """Data in memory as batches with a share of labelled examples.

    Raises:
        TypeError: The data are not tensors or arrays in memory.
    """
    if not isinstance(source, InMemory):
        raise TypeError(
            f"labelled: got {source.argument} as a dataset, a loader or another iterable, "
            "expected tensors or arrays in memory"
        )
    return Labelled(source, share)


@dataclass(frozen=True, eq=False)
class _Weighted:
    """A program whose sites have a weight for each example."""

    program: Callable[..., Any]
    weights: Tensor

    def __call__(self, *args: Any) -> Any:
        with _Weigh(self.weights):
            return self.program(*args)


class _Weigh(Messenger):
    """Multiplies the scale of each site in the plate of the examples."""

    def __init__(self, weights: Tensor) -> None:
        super().__init__()
        self.weights = weights
        # Pyro compares the scales of sites that it sums out by identity.
        self._by_dim: dict[int, Tensor] = {}

    def _pyro_sample(self, msg: Any) -> None:
        dims = [frame.dim for frame in msg["cond_indep_stack"] if frame.name == PLATE]
        if not dims or not isinstance(dims[0], int):
            if msg["infer"].get("_deterministic") or msg["name"] == PLATE:
                return
            raise Refused(
                f'labelled: the site "{msg["name"]}" is outside of the plate "{PLATE}", expected '
                "all sites in it: each example has a weight"
            )
        dim = dims[0]
        if dim not in self._by_dim:
            self._by_dim[dim] = self.weights.view(-1, *[1] * (-dim - 1))
        own, scale = self._by_dim[dim], msg["scale"]
        msg["scale"] = own if isinstance(scale, float | int) and scale == 1 else own * scale


def weighted(
    programs: tuple[Callable[..., Any], Callable[..., Any]], weights: Tensor
) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """A model and a guide whose sites have a weight for each example of a batch."""
    model, guide = (_Weighted(program, weights) for program in programs)
    return model, guide
