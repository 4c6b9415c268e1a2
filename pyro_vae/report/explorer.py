"""The explorer: what a page needs to decode latents itself, or grids that are decoded before."""

import base64
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from pyro_vae.report.decoding import Decoding, images_of
from pyro_vae.report.layers import Layer, NotInPage, half
from pyro_vae.report.parts import Explore
from pyro_vae.report.pictures import image_shape, png, sheet
from pyro_vae.utils.random import seeded

__all__ = ["explorer_of"]

_SIZE, _REACH = 15, 1.5  # the lecture's manifold: 15 x 15 images, to 1.5 standard deviations
_DRAWS = 20_000  # By them, a limit is known to 0.01.
_SLIDERS = 64  # Latents beyond these stay at their start.


@torch.no_grad()
def explorer_of(
    decoding: Decoding, points: Tensor | None = None, name: str = "explorer"
) -> Explore:
    """Makes the explorer of a decoder.

    Arguments:
        decoding: The decoder.
        points: Latent points of shape ``(N, z_dim)``, which order the latents: what varies most is
            first. None leaves them as they are.
        name: A name that no other on the page has.

    Raises:
        NotInPage: x is no image.
    """
    channels, height, width = image_shape(decoding.shape)
    order = list(range(decoding.z_dim))
    if points is not None and len(points) > 1:
        order = points.float().var(0).argsort(descending=True, stable=True).tolist()
    plane = sorted(order[:2])
    with seeded(0):
        draws = decoding.prior().sample((_DRAWS,)).float().cpu()
    low, middle, high = draws.quantile(torch.tensor([0.002, 0.5, 0.998]), 0)
    start = torch.where((low < 0) & (high > 0), torch.zeros_like(middle), middle)
    mean, scale = draws.mean(0), draws.std(0)
    limits = [
        [
            round(max(low[d], mean[d] - _REACH * scale[d]).item(), 1),
            round(min(high[d], mean[d] + _REACH * scale[d]).item(), 1),
        ]
        for d in plane
    ]
    spec: dict[str, Any] = {
        "image": {"channels": channels, "height": height, "width": width},
        "plane": plane,
        "start": [round(value, 4) for value in start.tolist()],
        "moments": torch.stack([mean, scale], 1).tolist(),
        "size": _SIZE,
        "limits": limits,
    }
    note, shown = "", order[:_SLIDERS]
    try:
        spec |= _written(decoding.layers())
    except NotInPage as error:
        note, shown = str(error), order[:2]
        spec["grids"] = _grids(decoding, plane, limits, start)
    latents = [
        {"index": d, "low": round(low[d].item(), 2), "high": round(high[d].item(), 2)}
        for d in shown
    ]
    return Explore(name, spec, note, latents, decoding.classes or 0)


def _written(layers: Sequence[Layer]) -> Mapping[str, Any]:
    """Layers with the numbers of their weights, and all weights as one text."""
    written = [
        {"kind": layer.kind, **layer.sizes, "counts": [weight.numel() for weight in layer.weights]}
        for layer in layers
    ]
    weights = [half(weight).flatten().cpu() for layer in layers for weight in layer.weights]
    numbers = torch.cat(weights).numpy().astype("<f2").tobytes()
    return {"layers": written, "weights": base64.b64encode(numbers).decode("ascii")}


def _grids(
    decoding: Decoding, plane: Sequence[int], limits: Sequence[Sequence[float]], start: Tensor
) -> list[str]:
    """The grid of two latents, the others at their start, as a picture for each class."""
    z = start.repeat(_SIZE, _SIZE, 1)  # rows from above, columns from the left
    lines = [torch.linspace(low, high, _SIZE) for low, high in limits]
    z[..., plane[0]] = lines[0]
    if len(plane) > 1:
        z[..., plane[1]] = lines[1].flip(0)[:, None]
    z = z.flatten(0, 1)
    classes = range(decoding.classes) if decoding.classes else (None,)
    given = [None if y is None else torch.full((len(z),), y) for y in classes]
    return [png(sheet(images_of(decoding.vae, decoding.decode(z, y)), _SIZE)) for y in given]
