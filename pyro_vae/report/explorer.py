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

_SIZE, _LIMIT = 15, 1.5  # the lecture's manifold
_DRAWS = 4000
_SLIDERS = 64  # Latents beyond these stay at their start.


@torch.no_grad()
def explorer_of(decoding: Decoding, activity: Tensor | None = None) -> Explore:
    """Makes the explorer of a decoder.

    Arguments:
        decoding: The decoder.
        activity: How active each latent is, which orders them; None leaves them as they are.

    Raises:
        NotInPage: x is no image.
    """
    channels, height, width = image_shape(decoding.shape)
    order = list(range(decoding.z_dim))
    if activity is not None:
        order = activity.argsort(descending=True, stable=True).tolist()
    plane = sorted(order[:2])
    with seeded(0):
        draws = decoding.prior().sample((_DRAWS,)).float().cpu()
    low, middle, high = draws.quantile(torch.tensor([0.002, 0.5, 0.998]), 0)
    start = torch.where((low < 0) & (high > 0), torch.zeros_like(middle), middle)
    spec: dict[str, Any] = {
        "image": {"channels": channels, "height": height, "width": width},
        "plane": plane,
        "start": [round(value, 4) for value in start.tolist()],
        "moments": torch.stack([draws.mean(0), draws.std(0)], 1).tolist(),
        "size": _SIZE,
        "limit": _LIMIT,
    }
    note, shown = "", order[:_SLIDERS]
    try:
        spec |= _written(decoding.layers())
    except NotInPage as error:
        note, shown = str(error), order[:2]
        spec["grids"] = _grids(decoding, plane, start)
    latents = [
        {"index": d, "low": round(low[d].item(), 2), "high": round(high[d].item(), 2)}
        for d in shown
    ]
    return Explore(spec, note, latents, decoding.classes or 0)


def _written(layers: Sequence[Layer]) -> Mapping[str, Any]:
    """Layers with the numbers of their weights, and all weights as one text."""
    written = [
        {"kind": layer.kind, **layer.sizes, "counts": [weight.numel() for weight in layer.weights]}
        for layer in layers
    ]
    weights = [half(weight).flatten().cpu() for layer in layers for weight in layer.weights]
    numbers = torch.cat(weights).numpy().astype("<f2").tobytes()
    return {"layers": written, "weights": base64.b64encode(numbers).decode("ascii")}


def _grids(decoding: Decoding, plane: Sequence[int], start: Tensor) -> list[str]:
    """The grid of two latents, the others at their start, as a picture for each class."""
    line = torch.linspace(-_LIMIT, _LIMIT, _SIZE)
    second, first = torch.cartesian_prod(line.flip(0), line).unbind(1)
    z = start.repeat(_SIZE**2, 1)
    for latent, values in zip(plane, (first, second), strict=False):
        z[:, latent] = values
    classes = range(decoding.classes) if decoding.classes else (None,)
    given = [None if y is None else torch.full((len(z),), y) for y in classes]
    return [png(sheet(images_of(decoding.vae, decoding.decode(z, y)), _SIZE)) for y in given]
