"""Tensors as pictures inside a page."""

import base64
import io
from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor

from pyro_vae.report.layers import NotInPage

__all__ = ["as_images", "image_shape", "png", "sheet"]


def image_shape(shape: Sequence[int]) -> tuple[int, int, int]:
    """Channels, height and width of x.

    Raises:
        NotInPage: It is no image: not of two dimensions, or of three with 1 or 3 channels first,
            or a vector of a square number of pixels, 64 or more.
    """
    if len(shape) == 1 and (side := round(shape[0] ** 0.5)) ** 2 == shape[0] and side > 7:
        return 1, side, side
    if len(shape) == 2:
        return 1, shape[0], shape[1]
    if len(shape) == 3 and shape[0] in (1, 3):
        return shape[0], shape[1], shape[2]
    raise NotInPage(f"x of shape {tuple(shape)} is no image")


def as_images(x: Tensor) -> Tensor:
    """x from 0 to 1 as uint8 images, grey ones from white to black, ``(N, H, W, 1 or 3)``.

    Raises:
        NotInPage: x is no image.
    """
    channels, height, width = image_shape(x.shape[1:])
    values = x.detach().float().cpu().clamp(0, 1).nan_to_num()
    images = values.reshape(-1, channels, height, width).movedim(1, -1)
    return (255 * (images if channels == 3 else 1 - images)).round().to(torch.uint8)


def sheet(images: Tensor, columns: int) -> Tensor:
    """Images side by side, row by row; missing ones in the last row are white."""
    count, height, width, channels = images.shape
    rows = -(-count // columns)
    filled = images.new_full((rows * columns, height, width, channels), 255)
    filled[:count] = images
    grid = filled.unflatten(0, (rows, columns)).permute(0, 2, 1, 3, 4)
    return grid.flatten(0, 1).flatten(1, 2)


def png(image: Tensor) -> str:
    """A picture ``(H, W, 1 or 3)`` of uint8 as the address of its own data."""
    pixels = image.squeeze(-1).numpy()
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
