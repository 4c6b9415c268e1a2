"""Whether log-densities depend on other examples, on the index, or on noise."""

import math
from collections.abc import Callable, Iterator, Mapping
from itertools import combinations, count, islice
from math import comb
from typing import Protocol

import torch
from torch import Tensor

from pyro_vae.contracts import Refused
from pyro_vae.utils.autocast import autocast_dtype
from pyro_vae.utils.context import Examples, rows
from pyro_vae.utils.random import seeded

__all__ = ["check_independent"]

_CANCELLED = 1e-6  # of a log-density, that depends on others by rounding alone
_ROUNDINGS = 64  # in a log-density, in units of what a rounding of z does to it
_EXPECTED = (
    "expected the same: it must not depend on other examples, on their number or on the index, "
    "nor on noise (batch norm and dropout in train mode do)"
)


class Densities(Protocol):
    """Log-densities of a model and guide, see :class:`log_densities.LogDensities`."""

    @property
    def example_axis(self) -> int:
        """The dimension of the examples in a latent site's value."""
        ...

    def scores(self, batch: Examples, z: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Log-densities by name, each of shape ``(1, N)``."""
        ...


def check_independent(
    densities: Densities, batch: Examples, z: Mapping[str, Tensor], others: Mapping[str, Tensor]
) -> None:
    """Raises ValueError if a log-density depends on more than its own x and z.

    In turn, some examples of the batch are replaced by others, and those that stay must keep their
    log-densities. Batches of one shape go through the same operations, which turn equal rows into
    equal rows, to the last bit, so that rounding has no part in it. What cancels but for rounding,
    such as the largest number of a batch in a softmax, may change a log-density by 1e-6 of its
    size. For any two examples, there is a turn in which the one stays and the other is replaced.

    Arguments:
        densities: The log-densities.
        batch: N examples.
        z: A sample of their latents.
        others: Another sample of them.

    Raises:
        Refused: A log-density depends on other examples, on the index or on the number of
            examples, or on noise. It is a ValueError.
    """
    size, device, axis = len(batch[0]), batch[0].device, densities.example_axis
    every = torch.arange(size, device=device)
    both = {name: torch.cat([value, others[name]], axis) for name, value in z.items()}
    wide = tuple(torch.cat([entry, *_extremes(entry)]) for entry in batch)

    def scores(index: Tensor, of_z: Tensor, factor: float = 1.0) -> dict[str, Tensor]:
        # Copies lie alike in memory, on which torch's choice of operations may depend.
        latents = {name: value.index_select(axis, of_z) for name, value in both.items()}
        if factor != 1.0:
            latents = {name: _scaled(value, factor) for name, value in latents.items()}
        return densities.scores(rows(wide, index), latents)

    base, tolerance = _repeated(lambda: scores(every, every), device)

    def check_beside(places: Tensor) -> None:
        for turn in _turns(size):
            stays = torch.tensor(turn, device=device)
            index = torch.where(stays, every, places)
            found = scores(index, torch.where(stays, every, size + (every + 1) % size))
            for name in base.keys() & found.keys():
                own, other = base[name][:, stays], found[name][:, stays]
                allowed = max(tolerance, _CANCELLED) * (1 + own.abs())
                _check(name, own, other, every[stays], allowed, "beside others")

    if size > 1:
        ones, random = _lines(wide)
        try:
            check_beside(size + _farthest(wide, every, size + every[:2], ones))
        except Refused:
            raise
        except (RuntimeError, ValueError, IndexError):  # Such an x may be none of the model's.
            check_beside(_farthest(wide, every, every, ones))
        check_beside(_farthest(wide, every, every, random))
    _check_place(scores, every[:2] if size > 1 else every.repeat(2))


def _extremes(entry: Tensor) -> tuple[Tensor, Tensor]:
    """Two further examples: of each number of x or of the context, the least, and the greatest.

    NaN, which is no number, is left out where there are others.
    """
    if not entry.is_floating_point() or not torch.isnan(entry).any():
        return entry.amin(0, keepdim=True), entry.amax(0, keepdim=True)
    holes = torch.isnan(entry)
    low = entry.masked_fill(holes, math.inf).amin(0, keepdim=True)
    high = entry.masked_fill(holes, -math.inf).amax(0, keepdim=True)
    none = holes.all(0, keepdim=True)
    return low.masked_fill(none, math.nan), high.masked_fill(none, math.nan)


def _lines(batch: Examples) -> tuple[Tensor, Tensor]:
    """Weights of all numbers of an example: nearly one for each, and random ones."""
    count = sum(entry[0].numel() for entry in batch)
    generator = torch.Generator().manual_seed(0)
    random = torch.randn(count, dtype=torch.float64, generator=generator).to(batch[0].device)
    return 1 + 1e-3 * random, random


def _farthest(batch: Examples, own: Tensor, among: Tensor, line: Tensor) -> Tensor:
    """For each example, the place among some of the one that differs most along a line.

    So what depends on the example notices. Examples that are all alike differ in their latents.
    """
    flat = torch.cat([entry.reshape(len(entry), -1).double() for entry in batch], 1)
    along = flat.nan_to_num(0.0, 0.0, 0.0) @ line
    low, high = along[among].argmin(), along[among].argmax()
    ends = along[among]
    return torch.where(along[own] - ends[low] > ends[high] - along[own], low, high)


def _turns(size: int) -> Iterator[list[bool]]:
    """Which examples stay, in each turn; no example stays only where another one does."""
    number = next(n for n in count(2) if comb(n, n // 2) >= size)
    codes = [set(code) for code in islice(combinations(range(number), number // 2), size)]
    for turn in range(number):
        if any(turn in code for code in codes):
            yield [turn in code for code in codes]


def _repeated(
    scores: Callable[[], dict[str, Tensor]], device: torch.device
) -> tuple[dict[str, Tensor], float]:
    """The log-densities, and by how much they differ from call to call, as a GPU's sums may."""
    with seeded(1, device=device):
        first = scores()
    with seeded(1, device=device):
        same = scores()
    with seeded(2, device=device):
        other = scores()
    repeats = all(_equal(value, same[name]).all() for name, value in first.items())
    tolerance = 0.0 if repeats else 1e-3
    for name, value in first.items():
        index = torch.arange(value.shape[-1], device=device)
        _check(name, value, other[name], index, tolerance * (1 + value.abs()), "at another call")
    return first, tolerance


def _check_place(scores: Callable[..., dict[str, Tensor]], two: Tensor) -> None:
    """Compares two examples with each alone.

    These are batches of different shapes, for which torch rounds differently. How much that may
    change a log-density is taken from what a rounding of z does.
    """
    both = scores(two, two)
    changes = {name: torch.zeros_like(value) for name, value in both.items()}
    for factor in (1 + _rounding(two.device), 1 - _rounding(two.device)):
        try:
            near = scores(two, two, factor)
        except ValueError:  # It is no longer on the support.
            continue
        for name in both.keys() & near.keys():
            change = (near[name] - both[name]).abs().nan_to_num(0.0, 0.0, 0.0)
            changes[name] = torch.maximum(changes[name], change)
    for place in range(2):
        own = slice(place, place + 1)
        alone = scores(two[own], two[own])
        for name in both.keys() & alone.keys():
            value, change = both[name][:, own], changes[name][:, own]
            allowed = 1e-5 + 1e-4 * value.abs() + _ROUNDINGS * change
            _check(name, value, alone[name], two[own], allowed, "alone")


def _rounding(device: torch.device) -> float:
    """The relative rounding of matrix products of float32 and float64 tensors, at most."""
    rounded = autocast_dtype(device) is not None
    if rounded or torch.get_float32_matmul_precision() != "highest":
        return 2**-9
    return 2**-22


def _scaled(value: Tensor, factor: float) -> Tensor:
    """A value, but for integers, which may be discrete."""
    if not value.is_floating_point() or torch.equal(value, value.round()):
        return value
    return value * factor


def _check(
    name: str, own: Tensor, found: Tensor, index: Tensor, allowed: Tensor, where: str
) -> None:
    """Raises Refused if log-densities of shape ``(1, N)`` differ by more than is allowed."""
    if own.shape == found.shape:
        differ = ~(_equal(own, found) | ((own - found).abs() <= allowed))
        if not differ.any():
            return
        place = int(differ[0].nonzero()[0])
        values = own[0, place].item(), found[0, place].item()
        raise Refused(
            f"model, guide: {name} of example {int(index[place])} is {values[0]:.6g}, and "
            f"{values[1]:.6g} {where}, {_EXPECTED}"
        )
    raise Refused(
        f"model, guide: {name} has the shape {tuple(own.shape)}, and {tuple(found.shape)} "
        f"{where}, {_EXPECTED}"
    )


def _equal(a: Tensor, b: Tensor) -> Tensor:
    return (a == b) | (torch.isnan(a) & torch.isnan(b))
