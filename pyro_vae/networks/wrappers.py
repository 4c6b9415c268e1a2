"""Networks around networks: input scaled, batch folded, a context or another input joined."""

import math
from collections.abc import Sequence

import torch
from pyro.poutine.util import is_validation_enabled
from torch import Tensor, nn

from pyro_vae.utils.autocast import autocast_dtype
from pyro_vae.utils.checks import check_count, check_index, check_module, check_number, plain
from pyro_vae.utils.context import entry_of, given, takes_context
from pyro_vae.utils.shapes import Shape, as_shape, out_shape, split_shape

__all__ = ["Conditioned", "Folded", "Joint", "Scaled"]


class Conditioned(nn.Module):
    """A network whose input is joined by an entry of the context.

    The input and the entry are flattened and concatenated: the network takes the numbers of x and
    then those of the entry. Class labels become one-hot vectors.

    Source: Sohn, Lee and Yan (2015), "Learning structured output representation using deep
    conditional generative models".

    Arguments:
        network: Takes vectors, as many numbers as the input and the entry have together. One that
            takes a context, such as another :class:`Conditioned`, gets it too.
        context_shape: The shape of the entry for one example; ``()`` for a label or a number.
        classes: The number of classes, for labels ``0, ..., classes - 1``. None takes the numbers
            as they are.
        entry: The index of the entry in the context.

    Raises:
        TypeError: `network` is not a module. In ``forward``: labels are not integers, or numbers
            have another dtype than the input.
        ValueError: `classes`, `entry` or a size is out of range. In ``forward``: the context has
            no such entry, or one of another shape; a label is out of range (checked while Pyro
            validates).

    Example:
        >>> encoder = networks.Conditioned(networks.MLP(784 + 10, (500,), 40), (), classes=10)
        >>> encoder(torch.rand(7, 28, 28), torch.randint(10, (7,))).shape
        torch.Size([7, 40])
    """

    takes_context = True

    def __init__(
        self, network: nn.Module, context_shape: Shape, classes: int | None = None, entry: int = 0
    ) -> None:
        super().__init__()
        check_module("network", network)
        if classes is not None:
            check_count("classes", classes)
        check_index("entry", entry)
        self.network = network
        self.context_shape = as_shape("context_shape", context_shape)
        self.classes = plain(classes)
        self.entry = plain(entry)
        if hasattr(network, "out_shape"):
            self.out_shape = out_shape(network)

    @property
    def entries(self) -> int | None:
        """The number of entries that it reads, with the network inside; None if unknown."""
        if not takes_context(self.network):
            return self.entry + 1
        inner = getattr(self.network, "entries", None)
        return None if inner is None else max(inner, self.entry + 1)

    def forward(self, x: Tensor, *context: Tensor) -> Tensor:
        value = self._entry(context)
        if is_validation_enabled():  # It reads values, so Pyro's switch for such checks applies.
            self.check_context(*context)
        batch = value.shape[: value.dim() - len(self.context_shape)]
        if x.shape[: len(batch)] != batch:
            raise ValueError(
                f"context: got shape {tuple(value.shape)} as entry {self.entry} for an input of "
                f"shape {tuple(x.shape)}, expected the batch dimensions of the input, and then "
                f"{tuple(self.context_shape)}"
            )
        if self.classes is not None:
            if not value.is_floating_point():  # Unsigned ones of 16 bits have few operators.
                value = value.long()
            every = torch.arange(self.classes, device=value.device)
            # F.one_hot reads the labels, which a graph cannot do.
            numbers = (value.unsqueeze(-1) == every).to(x.dtype)
            # Compiled code cannot raise for a label out of range, so its numbers are NaN.
            wrong = (value < 0) | (value >= self.classes)
            numbers = numbers.masked_fill(wrong.unsqueeze(-1), math.nan)
        else:
            numbers = value
            # torch.autocast rounds latents, and not data; either may be the input.
            rounded = {x.dtype, value.dtype} == {torch.float32, autocast_dtype(x.device)}
            if value.dtype != x.dtype and not rounded:
                raise TypeError(
                    f"context: got {value.dtype} as entry {self.entry}, expected the input's "
                    f"{x.dtype}; classes= takes integer labels"
                )
        joined = (x.reshape(*batch, -1), numbers.reshape(*batch, -1))
        return given(self.network, torch.cat(joined, -1), context)

    def check_context(self, *context: Tensor) -> None:
        """Raises TypeError or ValueError unless labels are integers of the classes."""
        if self.classes is None:
            return
        labels = self._entry(context)
        if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
            raise TypeError(
                f"context: got {labels.dtype} as entry {self.entry}, expected integer labels"
            )
        if labels.numel():
            least, greatest = (end.item() for end in labels.long().aminmax())
            if least < 0 or greatest >= self.classes:
                raise ValueError(
                    f"context: got labels from {least} to {greatest} as entry {self.entry}, "
                    f"expected 0 to {self.classes - 1}"
                )

    def _entry(self, context: Sequence[Tensor]) -> Tensor:
        """The entry that the network takes."""
        value = entry_of(context, self.entry)
        own = len(self.context_shape)
        if value.dim() < own or value.shape[value.dim() - own :] != self.context_shape:
            raise ValueError(
                f"context: got shape {tuple(value.shape)} as entry {self.entry}, expected "
                f"(*batch{''.join(f', {size}' for size in self.context_shape)})"
            )
        return value

    def extra_repr(self) -> str:
        classes = "" if self.classes is None else f", classes={self.classes}"
        return f"context_shape={tuple(self.context_shape)}{classes}, entry={self.entry}"


class Joint(nn.Module):
    r"""A network of the features of two inputs, :math:`f(g(x), h(z))`.

    It is made for a posterior q(z1|x, z2) that takes x and the layer above: the features of x are
    computed once for each x, and broadcast against those of z, which may have dimensions of
    particles on the left.

    Source: Tomczak and Welling (2018), arXiv 1705.07120, section 4.2.

    Arguments:
        of_x: Maps x to features, a vector.
        of_z: Maps z, the first entry after x, to features, a vector.
        network: Takes both vectors, those of x first.

    Raises:
        TypeError: An argument is not a module.
        ValueError: In ``forward``, there is no z.

    Example:
        >>> network = networks.Joint(
        ...     of_x=networks.MLP((28, 28), (300,), 300),
        ...     of_z=networks.MLP(20, (300,), 300),
        ...     network=networks.MLP(300 + 300, (300,), 2 * 20),
        ... )
        >>> network(torch.rand(7, 28, 28), torch.rand(5, 7, 20)).shape
        torch.Size([5, 7, 40])
    """

    takes_context = True
    entries = 1
    broadcasts = True

    def __init__(self, of_x: nn.Module, of_z: nn.Module, network: nn.Module) -> None:
        super().__init__()
        for argument, module in (("of_x", of_x), ("of_z", of_z), ("network", network)):
            check_module(argument, module)
        self.of_x = of_x
        self.of_z = of_z
        self.network = network
        if hasattr(network, "out_shape"):
            self.out_shape = out_shape(network)

    def forward(self, x: Tensor, *context: Tensor) -> Tensor:
        features = given(self.of_x, x, ()), given(self.of_z, entry_of(context, 0), ())
        batch = torch.broadcast_shapes(*(value.shape[:-1] for value in features))
        joined = [value.expand(*batch, value.shape[-1]) for value in features]
        return self.network(torch.cat(joined, -1))


class Scaled(nn.Module):
    """A network whose input is multiplied by a fixed factor: levels 0 to 255 become 0 to 1.

    Arguments:
        network: A network with an ``out_shape``.
        factor: The factor, a finite number other than 0.

    Raises:
        TypeError: `network` is not a module, or has no ``out_shape``; or `factor` is not a number.
        ValueError: `factor` is not such a number.

    Example:
        >>> network = networks.Scaled(networks.MLP(784, (500,), 40))
        >>> network(torch.randint(256, (7, 784)).float()).shape
        torch.Size([7, 40])
    """

    def __init__(self, network: nn.Module, factor: float = 1 / 255) -> None:
        super().__init__()
        check_module("network", network)
        check_number("factor", factor)
        if not factor:
            raise ValueError(f"factor: got {factor!r}, expected a finite number other than 0")
        self.network = network
        self.factor = plain(factor)
        self.out_shape = out_shape(network)

    def forward(self, x: Tensor, *context: Tensor) -> Tensor:
        return given(self.network, x * self.factor, context)

    def extra_repr(self) -> str:
        return f"factor={self.factor:g}"


class Folded(nn.Module):
    """A network for one batch dimension, made to accept any number of them.

    All batch dimensions are flattened into one and restored afterwards. Use it for your own
    networks of layers that expect one batch dimension: convolutions, batch norm, ``nn.Flatten``.

    Arguments:
        network: Maps shape ``(N, *in_shape)`` to ``(N, *out_shape)``.
        in_shape: Shape of one input.
        out_shape: Shape of one output.

    Raises:
        TypeError: `network` is not a module.
        ValueError: A size is not a positive integer; in ``forward``, the input's shape does not
            end with `in_shape`, or the output's shape is not ``(N, *out_shape)``.

    Example:
        >>> layers = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(784, 40))
        >>> network = networks.Folded(layers, in_shape=(28, 28), out_shape=40)
        >>> network(torch.rand(5, 7, 28, 28)).shape
        torch.Size([5, 7, 40])
    """

    def __init__(self, network: nn.Module, in_shape: Shape, out_shape: Shape) -> None:
        super().__init__()
        check_module("network", network)
        self.network = network
        self.in_shape = as_shape("in_shape", in_shape)
        self.out_shape = as_shape("out_shape", out_shape)

    def forward(self, x: Tensor) -> Tensor:
        batch = split_shape(x, self.in_shape, self)
        out = self.network(x.reshape(-1, *self.in_shape))
        if out.shape[1:] != self.out_shape or len(out) != batch.numel():
            raise ValueError(
                f"network: returned shape {tuple(out.shape)} for {batch.numel()} inputs of shape "
                f"{tuple(self.in_shape)}, expected (N, {', '.join(map(str, self.out_shape))})"
            )
        return out.reshape(*batch, *self.out_shape)

    def extra_repr(self) -> str:
        return f"in_shape={tuple(self.in_shape)}, out_shape={tuple(self.out_shape)}"
