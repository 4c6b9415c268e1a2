"""Presets: what they are, and the pixels that fit them."""

import math

import pyro
import pyro.infer.inspect
import pyro.optim
import pytest
import torch
from pyro.infer import SVI, RenyiELBO
from torch import nn

from pyro_vae import fit, networks, presets
from pyro_vae.datasets import Dataset

from .vaes import common_noise, given, small


def test_presets_are_what_they_say() -> None:
    def widths(network: networks.MLP) -> list[int]:
        return [m.out_features for m in network.layers if isinstance(m, nn.Linear)]

    for name in ("bernoulli-mlp", "gaussian-mlp", "gaussian-unit-mlp"):
        vae = presets.build(name, shape=(28, 28))
        assert widths(vae.posterior.network) == [500, 500, 4]
        assert widths(vae.likelihood.network) == [
            500,
            500,
            1568 if name == "gaussian-mlp" else 784,
        ]
        first = vae.posterior.network.layers[0].weight
        assert first.var().item() == pytest.approx(2 / 784, rel=4 * math.sqrt(2 / first.numel()))
        assert not vae.posterior.network.layers[0].bias.any()
    vae = presets.build("iwae-mlp", shape=784)
    assert (widths(vae.posterior.network), widths(vae.likelihood.network)) == (
        [200, 200, 100],
        [200, 200, 784],
    )
    vae = presets.build("pyro-mlp", shape=784)
    assert (widths(vae.posterior.network), widths(vae.likelihood.network)) == (
        [400, 100],
        [400, 784],
    )


def test_presets_take_the_pixels_that_fit() -> None:
    for name in presets.names():
        for pixels in ("grey", "binary", "dequantized", "levels"):
            if pixels in presets.get(name).pixels:
                vae = presets.build(name, shape=(4, 4), pixels=pixels)
                assert getattr(vae.likelihood, "relaxed", False) == (
                    pixels == "grey" and "gaussian" not in name
                )
            else:
                with pytest.raises(ValueError, match=f"pixels: got '{pixels}'"):
                    presets.build(name, shape=(4, 4), pixels=pixels)
    with pytest.raises(ValueError, match="preset: got 'vae', expected one of bernoulli-mlp"):
        presets.build("vae", shape=4)


@pytest.mark.parametrize("preset", presets.names())
@pytest.mark.parametrize("vectorized", [False, True])
def test_every_preset_trains_with_particles(preset: str, vectorized: bool) -> None:
    vae = presets.build(preset, z_dim=3, shape=(7, 6))
    x = torch.bernoulli(torch.full((4, 7, 6), 0.3)) * 0.999 + 0.0005
    x = x.round() if vae.preset is not None and vae.preset["pixels"] == "binary" else x
    elbo = RenyiELBO(num_particles=2, vectorize_particles=vectorized)
    svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-3}), elbo)
    c = given(preset, (4,))
    before = common_noise(lambda: svi.evaluate_loss(x, *c))
    for _ in range(3):
        common_noise(lambda: svi.step(x, *c))
    assert common_noise(lambda: svi.evaluate_loss(x, *c)) < before


@pytest.mark.parametrize("name", presets.names())
def test_every_preset_fits_each_of_its_pixels(name: str, digits: Dataset) -> None:
    for pixels in presets.get(name).pixels:
        vae = small(pixels, name)
        train, test = (
            (levels, *given(name, (), labels))
            for levels, labels in (
                (digits.train[:256], digits.train_labels[:256]),
                (digits.test[:64], digits.test_labels[:64]),
            )
        )
        history = fit(vae, train, test=test, epochs=3, batch_size=64, pixels=pixels)
        assert history.cost[-1] < history.cost[0]
        assert history.test_cost[-1] < history.test_cost[0]
