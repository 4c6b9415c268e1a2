"""Fully connected networks with gates or with residual blocks, for several stochastic layers."""

from collections.abc import Callable, Sequence
from itertools import pairwise

from torch import Tensor, nn

from pyro_vae.networks.mlp import activated, made
from pyro_vae.utils.checks import check_count, plain
from pyro_vae.utils.shapes import Shape, as_shape, split_shape

__all__ = ["GatedMLP", "ResidualMLP"]


class GatedMLP(nn.Module):
    r"""Fully connected layers with gates, :math:`h' = (W h + b) \odot \sigma(V h + c)`.

    The last layer is affine.

    Source: Dauphin et al. (2017), arXiv 1612.08083, section 2; Tomczak and Welling (2018), arXiv
    1705.07120, section 4.2, use it in their networks.

    Arguments:
        in_shape: Shape of one input, which is flattened.
        hidden: Widths of the hidden layers.
        out_shape: Shape of one output.
        init: Called on each ``nn.Linear`` to initialize it in place; None leaves torch's default.

    Raises:
        TypeError: `init` is not a function.
        ValueError: A width or size is not a positive integer; in ``forward``, the input's shape
            does not end with `in_shape`.

    Example:
        >>> network = networks.GatedMLP((28, 28), hidden=(300, 300), out_shape=40)
        >>> network(torch.rand(7, 28, 28)).shape
        torch.Size([7, 40])
    """

    def __init__(
        self,
        in_shape: Shape,
        hidden: Sequence[int],
        out_shape: Shape,
        init: Callable[[nn.Linear], None] | None = None,
    ) -> None:
        super().__init__()
        self.in_shape = as_shape("in_shape", in_shape)
        self.out_shape = as_shape("out_shape", out_shape)
        widths = [self.in_shape.numel(), *as_shape("hidden", hidden)]
        gated = [(made(i, 2 * o, init), nn.GLU(dim=-1)) for i, o in pairwise(widths)]
        last = made(widths[-1], self.out_shape.numel(), init)
        self.layers = nn.Sequential(*(layer for both in gated for layer in both), last)

    def forward(self, x: Tensor) -> Tensor:
        batch = split_shape(x, self.in_shape, self)
        numbers = self.layers(x.reshape(*batch, self.in_shape.numel()))
        return numbers.reshape(*batch, *self.out_shape)


class ResidualMLP(nn.Module):
    r"""Fully connected residual blocks, :math:`h' = h + W_2\, a(W_1\, a(h))`.

    An affine map goes before the blocks, and an activation and another one after them.

    Source: He et al. (2016), arXiv 1603.05027, section 4.1 (the activation comes first).

    Arguments:
        in_shape: Shape of one input, which is flattened.
        width: The width of all blocks.
        out_shape: Shape of one output.
        blocks: The number of blocks.
        activation: Called without arguments, returns an activation.

    Raises:
        TypeError: `activation` is not a function to a module.
        ValueError: A width, size or number is not a positive integer; in ``forward``, the input's
            shape does not end with `in_shape`.

    Example:
        >>> network = networks.ResidualMLP((28, 28), width=200, out_shape=40, blocks=3)
        >>> network(torch.rand(7, 28, 28)).shape
        torch.Size([7, 40])
    """

    def __init__(
        self,
        in_shape: Shape,
        width: int,
        out_shape: Shape,
        blocks: int = 2,
        activation: Callable[[], nn.Module] = nn.ReLU,
    ) -> None:
        super().__init__()
        check_count("width", width)
        check_count("blocks", blocks)
        self.in_shape = as_shape("in_shape", in_shape)
        self.out_shape = as_shape("out_shape", out_shape)
        width = plain(width)
        self.first = nn.Linear(self.in_shape.numel(), width)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                activated(activation),
                nn.Linear(width, width),
                activated(activation),
                nn.Linear(width, width),
            )
            for _ in range(blocks)
        )
        self.last = nn.Sequential(activated(activation), nn.Linear(width, self.out_shape.numel()))

    def forward(self, x: Tensor) -> Tensor:
        batch = split_shape(x, self.in_shape, self)
        h = self.first(x.reshape(*batch, self.in_shape.numel()))
        for block in self.blocks:
            h = h + block(h)
        return self.last(h).reshape(*batch, *self.out_shape)
