"""Pairs whose pages are opened."""

from collections.abc import Callable

import pytest
import torch

from pyro_vae import presets
from pyro_vae.composed import Composed


@pytest.fixture
def preset() -> Callable[[str], Composed]:
    """Presets of digits, far enough from their initial parameters for x to depend on z."""

    def made(name: str) -> Composed:
        torch.manual_seed(0)
        vae: Composed = presets.build(name, shape=(28, 28))
        with torch.no_grad():
            for parameter in vae.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        return vae

    return made
