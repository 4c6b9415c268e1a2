"""Data for training: checks them, and turns them into batches of x and its context."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.distributions.constraints import Constraint

from pyro_vae import datasets
from pyro_vae.contracts import (
    check,
    check_context,
    check_data,
    check_dtype,
    check_observations,
    check_posterior,
    check_programs,
    check_training,
    reason_of,
)
from pyro_vae.datasets import Pixels
from pyro_vae.distributions import check_on_support, describe_support, varies
from pyro_vae.objectives import Traits, parts_of
from pyro_vae.pair import Pair
from pyro_vae.training.shares import Shares
from pyro_vae.training.sources import START, InMemory, Parts, Place, Source
from pyro_vae.utils.context import Batch, Examples, as_batch, rows
from pyro_vae.utils.modules import device_of, dtype_of, evaluating
from pyro_vae.utils.random import seeded
from pyro_vae.vae import VAE

__all__ = ["Prepared", "Transform", "as_given"]

Transform = Callable[[Batch], Batch]
"""Turns a batch as it is given into one that the pair takes."""

_CHUNK = 512  # examples that are checked at a time
_NUMBERS = 2**20  # of examples that are made for a check
_DRAWS = 2**31  # the random stream of test data, which no epoch has


def as_given(
    given: Examples,
    pair: Pair,
    pixels: Pixels | None,
    transform: Transform | None,
    draw: Callable[[Tensor, Pixels], Tensor] = datasets.to_pixels,
) -> Examples:
    """A batch as it is given as x and its context, on the pair's device.

    Arguments:
        given: The batch.
        pair: The pair.
        pixels: How levels become x.
        transform: Turns the batch into one that the pair takes.
        draw: Turns levels into pixels.
    """
    device = device_of(pair)
    x, *context = (entry.to(device, non_blocking=True) for entry in given)
    x = _to_x(x, pixels, pair, draw)
    if transform is None:
        return x, *context
    return as_batch(transform((x, *context) if context else x), "transform")


def _to_x(
    data: Tensor,
    pixels: Pixels | None,
    pair: Pair,
    draw: Callable[[Tensor, Pixels], Tensor] = datasets.to_pixels,
) -> Tensor:
    return data if pixels is None else draw(data, pixels).to(dtype_of(pair))


class Prepared:
    """Checked data, as batches of x and its context on the pair's device.

    Arguments:
        source: The data.
        pair: The pair to train.
        pixels: How uint8 levels become x, see :func:`datasets.to_pixels`.
        transform: Turns a batch, on the pair's device, into one that the pair takes.
        needs: What the objective asks of the programs.

    Attributes:
        sites: The latent sites that have a part of the KL each, if there are several.

    Raises:
        TypeError, ValueError: `pixels` does not fit the data's dtype, or the data do not fit the
            pair, or are off the set that it scores.
    """

    def __init__(
        self,
        source: Source,
        pair: Pair,
        pixels: Pixels | None,
        transform: Transform | None,
        needs: Traits | None = None,
    ) -> None:
        self.source = source
        self.argument = source.argument
        self.pair = pair
        self.pixels = pixels
        self.transform = transform
        self.needs = Traits() if needs is None else needs
        self.device = device_of(pair)
        self._support: Constraint
        self._kept: Examples | None = None  # test data in memory, as x
        self.numbers = 1  # in one x
        self.sites: tuple[str, ...] = ()
        self._is_checked = False  # whether all batches of the source have passed the checks
        self._has_seen_holes = False  # whether a batch with NaN has
        first = source.first()
        self._check_kind(first[0])
        with torch.no_grad(), seeded(0, device=self.device):
            batch = self._to_batch(first)
            self.numbers = batch[0][0].numel() or 1
            self._check_first(batch)
            last = source.last
            if source.argument == "train" and last is not None and last < len(batch[0]):
                # Batch norm in train mode fails on a batch of one, for example.
                what = f"train: got batches of {len(batch[0])} examples, and a last one of {last}"
                check_training(pair, rows(batch, slice(last)), what)

    def epoch(self, number: int, place: Place = START) -> Iterator[Examples]:
        """Yields the batches of an epoch, from 1; random pixels are drawn anew."""
        for given in self.source.epoch(number, place):
            yield self.checked(given)
        self._is_checked = True

    def parts(self, number: int, shares: Shares, place: Place = START) -> Parts:
        """Yields this process's shares of the batches as they are given, see ``Source.parts``."""
        yield from self.source.parts(number, shares, place)
        self._is_checked = True

    def checked(self, given: Examples) -> Examples:
        """A batch as it is given, or a share of one, as the pair takes it, after checks."""
        batch = self.batch(given)
        self._check_next(batch)
        return batch

    def batch(self, given: Examples) -> Examples:
        """A batch of an epoch as the pair takes it; random pixels are drawn anew."""
        draw = datasets.fresh_pixels
        return as_given(given, self.pair, self.pixels, self.transform, draw)

    def fixed(self, seed: int | None) -> Iterator[Examples]:
        """Yields the batches in the data's order, with the same random pixels each time.

        Data in memory have the draw of ``datasets.binarize(data, seed)``.
        """
        source = self.source
        self.keep(seed)
        if isinstance(source, InMemory) and self._kept is not None:
            for first in range(0, len(self._kept[0]), source.batch_size):
                yield rows(self._kept, slice(first, first + source.batch_size))
            return
        for index, given in enumerate(source.epoch(0)):
            with seeded(seed, _DRAWS, index, device=self.device):
                batch = self._to_batch(given)
            self._check_next(batch)
            yield batch
        self._is_checked = True

    def fixed_parts(self, seed: int | None, shares: Shares) -> Parts:
        """Yields this process's shares of the batches of :meth:`fixed`, see ``Source.parts``.

        What is drawn for them is a random stream of the share.
        """
        source, kept = self.source, self._kept
        if isinstance(source, InMemory) and kept is not None:
            for whole in torch.arange(len(kept[0]), device="cpu").split(source.batch_size):
                size, first = len(whole), int(whole[0])
                parts = [(n, slice(first + p.start, first + p.stop)) for n, p in shares.of(size)]
                yield size, [(number, rows(kept, part)) for number, part in parts]
            return
        for index, (size, given) in enumerate(source.parts(0, shares)):
            batches = []
            for number, part in given:
                with seeded(seed, _DRAWS, index, number, device=self.device):
                    batch = self._to_batch(part)
                self._check_next(batch)
                batches.append((number, batch))
            yield size, batches
        self._is_checked = True

    def keep(self, seed: int | None) -> None:
        """Makes data in memory to the x that :meth:`fixed` gives, unless that has been done."""
        source = self.source
        if isinstance(source, InMemory) and self.transform is None and self._kept is None:
            x = source.given[0]
            with seeded(seed, device=x.device):  # The device on which binarize would draw.
                x = self._to_x(x).to(self.device)
            self._kept = x, *source.data[1:]

    def _to_batch(self, given: Examples) -> Examples:
        return as_given(given, self.pair, self.pixels, self.transform)

    def _to_x(self, data: Tensor) -> Tensor:
        return _to_x(data, self.pixels, self.pair)

    # Checks, before the first step where that is possible.

    def _check_kind(self, data: Tensor) -> None:
        """Raises TypeError or ValueError unless there is a way from the data to x."""
        name, pixels = self.argument, self.pixels
        if pixels is not None and data.dtype == torch.uint8:
            datasets.check_pixels(pixels)
        elif pixels is not None and not data.is_floating_point():
            raise TypeError(f"{name}: got {data.dtype}, expected torch.uint8 levels")
        elif pixels is not None:
            nan = "; put NaN into x that datasets.binarize or datasets.dequantize made, as 8-bit "
            end = nan + "levels have none" if torch.isnan(data).any() else ""
            raise ValueError(
                f"pixels: got {pixels!r} with {data.dtype} as {name}, expected None: float "
                f"data are x already, and only uint8 levels are turned into pixels{end}"
            )
        elif data.dtype == torch.uint8 and self.transform is None and isinstance(self.pair, VAE):
            raise ValueError(
                f"pixels: got None with uint8 levels as {name}, expected one of "
                f"{', '.join(datasets.PIXELS)}, or a transform of the batches"
            )
        elif (
            not data.is_floating_point() and self.transform is None and isinstance(self.pair, VAE)
        ):
            raise TypeError(
                f"{name}: got {data.dtype}, expected floating-point x, uint8 levels with pixels=, "
                "or a transform of the batches, such as transform=lambda x: x.float()"
            )

    def _check_first(self, batch: Examples) -> None:
        """Checks the first batch against the pair, and all data in memory."""
        source, whole = self.source, self.source.steps == 1
        all_here = isinstance(source, InMemory) and self.transform is None
        data = source.data if isinstance(source, InMemory) else batch
        if not isinstance(self.pair, VAE):
            needs = self.needs.sums_out, self.needs.in_order
            guide = check_programs(self.pair, batch, whole, *needs)
            self.sites = () if self.needs.sums_out else tuple(parts_of(guide))
            if all_here and self.pixels is None:
                self._check_observed(data)
                self._is_checked = True
            elif all_here and callable(checked := getattr(self.pair, "check_batch", None)):
                checked(*data)
            return
        if not all_here:
            self._support = check(self.pair, batch, self.argument).scored_support
            self._check_next(batch)
            return
        if self.pixels is None:
            checked = check(self.pair, data, self.argument)
            self._support = checked.scored_support
            self._check_x(data)
        else:
            check_context(self.pair, data[1:], values=True)
            one = rows(batch, slice(1))
            support = check(self.pair, one, self.argument, data[0].shape).scored_support
            self._check_levels(data[0], support)
        self._is_checked = True

    def _check_next(self, batch: Examples) -> None:
        """Checks a batch of a stream; those of a pair that is no VAE in the first epoch only."""
        if isinstance(self.source, InMemory) and self._is_checked:
            return
        if callable(checked := getattr(self.pair, "check_batch", None)):
            checked(*batch)
        if isinstance(self.pair, VAE):
            check_data(batch[0], self.argument, self.pair, batch[1:])
            check_dtype(self.argument, batch[0], self.pair)
            check_context(self.pair, batch[1:], values=True)
            self._check_x(batch)
            if not self._has_seen_holes and torch.isnan(batch[0]).any():
                with torch.no_grad(), evaluating(self.pair), seeded(0, device=self.device):
                    check_posterior(self.pair, batch[0], batch[1:])
                self._has_seen_holes = True
        elif not self._is_checked:
            self._check_observed(batch)

    def _check_x(self, batch: Examples) -> None:
        """Checks x of a VAE, whose support may depend on the context."""
        if len(batch) > 1 and varies(self._support):
            self._check_observed(batch)
        else:
            check_on_support(self.argument, batch[0], self._support)

    def _check_observed(self, batch: Examples) -> None:
        for first in range(0, len(batch[0]), _CHUNK):
            try:
                check_observations(self.pair, rows(batch, slice(first, first + _CHUNK)))
            except ValueError as error:
                raise ValueError(f"{self.argument}: {reason_of(error)}") from error

    def _check_levels(self, data: Tensor, support: Constraint) -> None:
        """Raises ValueError if some level in the data gives an x that is not scored."""
        # One example for each level, with that level at all places: the draws of all epochs are
        # made of the levels that occur.
        every = torch.arange(256, dtype=torch.uint8, device=data.device)
        on = []
        for some in every.split(max(1, _NUMBERS // data[0].numel())):
            examples = some.view(-1, *[1] * (data.dim() - 1)).expand(-1, *data.shape[1:])
            on.append(support.check(self._to_x(examples)).view(len(some), -1).all(1))
        is_on = torch.cat(on)
        if is_on.all():
            return
        there = data.flatten().bincount(minlength=256) > 0
        off = every[there & ~is_on].tolist()
        if off:
            raise ValueError(
                f"pixels: got {self.pixels!r}, which this likelihood does not score at {len(off)} "
                f"of the {int(there.sum())} levels in {self.argument}, {off[0]} among them; "
                f"expected x on {describe_support(support)}"
            )
