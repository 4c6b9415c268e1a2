"""A network that is given x as its values and the mask of what is observed."""

import torch
from torch import Tensor, nn

from pyro_vae.utils.checks import check_module
from pyro_vae.utils.context import given
from pyro_vae.utils.shapes import Shape, as_shape, out_shape, split_shape

__all__ = ["Observed"]


class Observed(nn.Module):
    r"""A network of x with holes: it gets the values, 0 in holes, and the mask, 1 where observed.

    For x of shape ``(*batch, *x_shape)``, in which NaN means "not observed", the network gets
    ``(*batch, 2, *x_shape)``: the values, and then the mask, as numbers of x's dtype.

    Source: Mattei and Frellsen (2019), arXiv 1812.02633, section 4; Nazábal et al. (2020), arXiv
    1807.03653, section 3.

    Arguments:
        network: Maps shape ``(*batch, 2, *x_shape)`` to ``(*batch, *out_shape)``.
        x_shape: The shape of one x. None takes it from the network's ``in_shape``.

    Raises:
        TypeError: `network` is not a module, or has no ``out_shape``.
        ValueError: The network's ``in_shape`` is not ``(2, *x_shape)``, or it has none and
            `x_shape` is None; in ``forward``, x does not end with that shape.

    Example:
        >>> network = networks.Observed(networks.MLP((2, 3), (16,), 4))
        >>> network(torch.tensor([[0.0, 1.0, float("nan")]])).isfinite().all()
        tensor(True)
    """

    def __init__(self, network: nn.Module, x_shape: Shape | None = None) -> None:
        super().__init__()
        check_module("network", network)
        self.out_shape = out_shape(network)
        inner = getattr(network, "in_shape", None)
        if x_shape is not None:
            self.x_shape = as_shape("x_shape", x_shape)
        elif inner is None:
            raise ValueError(
                f"x_shape: got None for a {type(network).__name__} without in_shape, expected the "
                "shape of one x"
            )
        else:
            self.x_shape = torch.Size(inner[1:])
        if inner is not None and torch.Size(inner) != (2, *self.x_shape):
            sizes = "*x_shape" if x_shape is None else ", ".join(map(str, self.x_shape))
            raise ValueError(
                f"network: got in_shape {tuple(inner)}, expected (2, {sizes}): the values of x, "
                "and then the mask of those that are observed"
            )
        self.network = network

    def forward(self, x: Tensor, *context: Tensor) -> Tensor:
        split_shape(x, self.x_shape, self)
        holes = torch.isnan(x)
        values, mask = x.masked_fill(holes, 0.0), (~holes).to(x.dtype)
        both = torch.stack((values, mask), -1 - len(self.x_shape))
        return given(self.network, both, context)

    def extra_repr(self) -> str:
        return f"x_shape={tuple(self.x_shape)}"
