"""Tensors become the pictures that they are."""

import base64
import io

import numpy
import pytest
import torch
from PIL import Image

from pyro_vae.report.layers import NotInPage
from pyro_vae.report.pictures import as_images, image_shape, png, sheet


@pytest.mark.parametrize(
    ("shape", "image"),
    [((5, 7), (1, 5, 7)), ((1, 5, 7), (1, 5, 7)), ((3, 5, 7), (3, 5, 7)), ((64,), (1, 8, 8))],
)
def test_what_is_an_image(shape: tuple[int, ...], image: tuple[int, ...]) -> None:
    assert image_shape(shape) == image


@pytest.mark.parametrize("shape", [(), (49,), (65,), (2, 5, 7), (3, 3, 5, 7)])
def test_what_is_none(shape: tuple[int, ...]) -> None:
    with pytest.raises(NotInPage, match="no image"):
        image_shape(shape)


def test_a_picture_is_read_back() -> None:
    colours = torch.randint(256, (4, 3, 5, 7)) / 255
    pixels = sheet(as_images(colours), 3)
    assert pixels.shape == (10, 21, 3)
    prefix, text = png(pixels).split(",")
    assert prefix == "data:image/png;base64"
    read = numpy.asarray(Image.open(io.BytesIO(base64.b64decode(text))))
    assert (read == pixels.numpy()).all()
    last = pixels[5:, :7].movedim(-1, 0)
    assert torch.equal(last, (255 * colours[3]).round().to(torch.uint8))
    assert (pixels[5:, 7:] == 255).all()  # What is missing is white.


def test_ink_is_black() -> None:
    images = as_images(torch.tensor([[[0.0, 1.0], [0.5, float("nan")]]]))
    assert images.flatten().tolist() == [255, 0, 128, 255]
