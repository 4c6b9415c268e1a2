"""Data for training: checks them, and turns them into batches of x."""

import torch
from torch import Tensor

from pyro_vae import datasets
from pyro_vae.contracts import check, check_context
from pyro_vae.datasets import Pixels
from pyro_vae.distributions import check_on_support, describe_support
from pyro_vae.utils.context import Batch, Examples, as_batch, rows
from pyro_vae.utils.modules import device_of, dtype_of
from pyro_vae.utils.random import seeded
from pyro_vae.vae import VAE

__all__ = ["Levels"]


class Levels:
    """Checked data on the VAE's device, and the batches of x that they give.

    Arguments:
        argument: The name of the data in error messages.
        data: uint8 levels, which need `pixels`, or float data, which are x already; of shape
            ``(N, *x_shape)``. A tuple has their context in its further entries.
        pixels: How levels become x, see :func:`datasets.to_pixels`.
        vae: The VAE to train.

    Raises:
        TypeError, ValueError: `pixels` does not fit the data's dtype, or the data do not fit the
            VAE, or are off the set that its likelihood scores.
    """

    def __init__(self, argument: str, data: Batch, pixels: Pixels | None, vae: VAE) -> None:
        data, *context = as_batch(data, argument)
        if not data.dim() or not len(data):
            raise ValueError(f"{argument}: got an empty data set, expected at least one example")
        if data.dtype == torch.uint8:
            if pixels is None:
                raise ValueError(
                    f"pixels: got None with uint8 levels as {argument}, expected one of "
                    f"{', '.join(datasets.PIXELS)}"
                )
            datasets.check_pixels(pixels)
        elif pixels is not None and not data.is_floating_point():
            raise TypeError(f"{argument}: got {data.dtype}, expected torch.uint8 levels")
        elif pixels is not None:
            raise ValueError(
                f"pixels: got {pixels!r} with {data.dtype} as {argument}, expected None: float "
                "data are x already, and only uint8 levels are turned into pixels"
            )
        self.given = data
        self.data = data.to(device_of(vae))
        self.context = tuple(entry.to(self.data.device) for entry in context)
        self.pixels = pixels
        self.dtype = dtype_of(vae)
        self._check(argument, vae)

    def __len__(self) -> int:
        """The number of examples."""
        return len(self.data)

    @property
    def device(self) -> torch.device:
        """The device of the batches."""
        return self.data.device

    def batch(self, index: Tensor) -> Examples:
        """The examples of an index as x, drawn anew at each call if pixels are random; context."""
        return self._to_x(self.data[index]), *rows(self.context, index)

    def fixed(self, seed: int | None) -> Examples:
        """All examples as x, with the same draw as ``datasets.binarize(data, seed)``; context."""
        with seeded(seed, device=self.given.device):  # The device on which binarize would draw.
            return self._to_x(self.given).to(self.device), *self.context

    def _to_x(self, data: Tensor) -> Tensor:
        return (
            data if self.pixels is None else datasets.to_pixels(data, self.pixels).to(self.dtype)
        )

    def _check(self, argument: str, vae: VAE) -> None:
        """Checks all data against the VAE, before any training step."""
        if self.pixels is None:
            checked = check(vae, (self.given, *self.context), argument)
            check_on_support(argument, checked.x, checked.scored_support)
            return
        with seeded(0, device=self.device):
            x = self._to_x(self.data[:1])
        check_context(vae, self.context, values=True)
        first = (x, *rows(self.context, slice(1)))
        support = check(vae, first, argument, self.data.shape).scored_support
        # One example for each level that occurs, with that level at all places: the draws of all
        # epochs are made of these levels.
        there = self.data.flatten().bincount(minlength=256).nonzero().to(torch.uint8)
        every = there.view(-1, *[1] * (self.data.dim() - 1)).expand(-1, *self.data.shape[1:])
        with seeded(0, device=self.device):
            on = support.check(self._to_x(every)).view(len(every), -1).all(1)
        if not on.all():
            off = there[~on].flatten().tolist()
            raise ValueError(
                f"pixels: got {self.pixels!r}, which this likelihood does not score at {len(off)} "
                f"of the {len(on)} levels in {argument}, {off[0]} among them; expected x on "
                f"{describe_support(support)}"
            )
