"""The explorer: what a page needs to decode latents itself, or a grid that is decoded before."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyro_vae.report.decoding import Decoding
from pyro_vae.report.layers import Layer, NotInPage, half
from pyro_vae.report.pictures import as_images, image_shape, png, sheet
from pyro_vae.utils.random import seeded

__all__ = ["Explorer", "explorer_of"]

_SIZE, _LIMIT = 15, 1.5  # the lecture's manifold
_DRAWS = 4000
_SLIDERS = 64  # more latents than these stay at their means


@dataclass(frozen=True)
class Explorer:
    """A decoder in a page.

    Attributes:
        spec: What the script reads, as JSON.
        note: Why there is a grid in place of a decoder; empty if there is none.
        latents: The latents that have a slider, the most active first.
        classes: The classes that have a button.
    """

    spec: dict[str, Any]
    note: str
    latents: Sequence[dict[str, Any]]
    classes: Sequence[int]


@torch.no_grad()
def explorer_of(
    decoding: Decoding, activity: Tensor | None = None, scale: tuple[float, float] = (0.0, 1.0)
) -> Explorer:
    """Makes the explorer of a decoder.

    Arguments:
        decoding: The decoder.
        activity: How active each latent is, which orders them; None leaves them as they are.
        scale: The values of x that are white and black.

    Raises:
        NotInPage: x is no image.
    """
    channels, height, width = image_shape(decoding.shape)
    count = decoding.z_dim
    order = list(range(count))
    if activity is not None:
        order = torch.as_tensor(activity).argsort(descending=True, stable=True).tolist()
    with seeded(0):
        draws = _prior_draws(decoding)
    low, middle, high = draws.quantile(torch.tensor([0.002, 0.5, 0.998]).to(draws), 0)
    start = torch.where((low < 0) & (high > 0), torch.zeros_like(middle), middle)
    spec: dict[str, Any] = {
        "image": {
            "channels": channels,
            "height": height,
            "width": width,
            "low": scale[0],
            "high": scale[1],
        },
        "order": order,
        "start": _rounded(start),
        "moments": torch.stack([draws.mean(0), draws.std(0)], 1).tolist(),
        "size": _SIZE,
        "limit": _LIMIT,
    }
    note = ""
    try:
        spec |= _written(decoding.layers())
    except NotInPage as error:
        note = str(error)
        spec["grid"] = _grid(decoding, order, start, scale)
    latents = [
        {"index": d, "low": round(low[d].item(), 2), "high": round(high[d].item(), 2)}
        for d in (order[:2] if note else order[:_SLIDERS])
    ]
    classes = range(decoding.classes or 0) if not note else ()
    return Explorer(spec, note, latents, list(classes))


def _prior_draws(decoding: Decoding) -> Tensor:
    """Draws of the latents of the top."""
    vae: Any = decoding.vae
    prior = vae.priors[-1] if hasattr(vae, "priors") else vae.prior
    draws: Tensor = prior().sample((_DRAWS,)).float().cpu()
    return draws


def _rounded(values: Tensor) -> list[float]:
    return [round(value, 4) for value in values.tolist()]


def _written(layers: Sequence[Layer]) -> dict[str, Any]:
    """Layers with the numbers of their weights, and all weights as one text."""
    written, parts = [], []
    for layer in layers:
        entry: dict[str, Any] = {"kind": layer.kind, **layer.sizes}
        if layer.weights:
            entry["counts"] = [weight.numel() for weight in layer.weights]
            parts += [half(weight).flatten().cpu() for weight in layer.weights]
        written.append(entry)
    bits = torch.cat(parts).numpy().astype("<f2").tobytes() if parts else b""
    return {"layers": written, "weights": base64.b64encode(bits).decode("ascii")}


def _grid(
    decoding: Decoding, order: Sequence[int], start: Tensor, scale: tuple[float, float]
) -> str:
    """The grid of the first two latents, the others at their start, as one picture."""
    line = torch.linspace(-_LIMIT, _LIMIT, _SIZE)
    second, first = torch.cartesian_prod(line.flip(0), line).unbind(1)
    z = start.expand(_SIZE**2, -1).clone()
    z[:, order[0]] = first
    if len(order) > 1:
        z[:, order[1]] = second
    y = None if decoding.classes is None else torch.zeros(len(z), dtype=torch.long)
    return png(sheet(as_images(decoding.decode(z, y), scale), _SIZE))
