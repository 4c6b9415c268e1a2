"""Pictures of what each layer of a hierarchical VAE decides."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from torch import Tensor

from pyro_vae.plots.axes import check_axes
from pyro_vae.plots.pictures import check_images, side_by_side
from pyro_vae.utils.checks import check_count, kind
from pyro_vae.utils.context import as_context

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["layers"]


class _Layered(Protocol):
    @property
    def layers(self) -> int: ...

    def embed(
        self, x: Tensor, context: Tensor | Sequence[Tensor] | None = None
    ) -> tuple[Tensor, ...]: ...

    def generate(
        self,
        num_samples: int,
        sample: bool = False,
        context: Tensor | Sequence[Tensor] | None = None,
        *,
        level: int | None = None,
        z: Sequence[Tensor] | None = None,
    ) -> Tensor: ...


def layers(
    vae: _Layered,
    x: Tensor,
    columns: int = 10,
    *,
    context: Tensor | Sequence[Tensor] | None = None,
    ax: "Axes | None" = None,
) -> "Axes":
    """What each layer of a hierarchical VAE decides: images whose lower layers are drawn anew.

    The first row has the images, and the second their reconstructions from the points of all
    layers. Below, z1 is drawn anew from its prior given the layers above, then z1 and z2, and so
    on: what a row still shares with the images is what the layers above have decided. The last row
    has no more in common with them than the prior.

    Arguments:
        vae: A :class:`~pyro_vae.models.HierarchicalVAE`. It draws from torch's global generator.
        x: Images, as for :func:`images`.
        columns: How many images are drawn, from the first on.
        context: What is given with each of all the images.
        ax: Axes to draw on; None makes a figure.

    Raises:
        TypeError: `vae` has no layers, or `x` is not a tensor.
        ValueError: The shape of x is not one of images.

    Example:
        >>> vae = presets.build("two-layers-mlp", shape=(28, 28))
        >>> ax = plots.layers(vae, torch.rand(7, 28, 28))
        >>> [label.get_text() for label in ax.get_yticklabels()]
        ['x', 'reconstructed', 'z1 anew', 'z1, z2 anew']
    """
    check_count("columns", columns)
    check_axes(ax)
    count = getattr(vae, "layers", None)
    if not isinstance(count, int):
        raise TypeError(f"vae: got {kind(vae)}, expected a models.HierarchicalVAE, with layers")
    check_images("x", x)
    given = tuple(entry[:columns] for entry in as_context(context, len(x))) or None
    x = x[:columns]
    z = vae.embed(x, given)
    rows = {"x": x}
    for level in range(count + 1):
        drawn = ", ".join(f"z{layer + 1}" for layer in range(level))
        name = f"{drawn} anew" if drawn else "reconstructed"
        rows[name] = vae.generate(1, context=given, level=level, z=z).to(x.device)
    return side_by_side(rows, ax)
