"""Presets: what they are, and the pixels that fit them."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyro
import pyro.infer.inspect
import pyro.optim
import pytest
import torch
from pyro.infer import SVI, RenyiELBO
from torch import nn

from pyro_vae import fit, load, log_likelihood, networks, objectives, presets, save
from pyro_vae.datasets import Dataset, Table

from ..vaes import IMAGE_PRESETS, common_noise, given, small


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
    for name in IMAGE_PRESETS:
        for pixels in ("grey", "binary", "dequantized", "levels"):
            if pixels in presets.get(name).pixels:
                vae = presets.build(name, shape=(4, 4), pixels=pixels)
                assert getattr(vae.likelihood, "relaxed", False) == (
                    pixels == "grey" and "binary" in presets.get(name).pixels
                )
            else:
                with pytest.raises(ValueError, match=f"pixels: got '{pixels}'"):
                    presets.build(name, shape=(4, 4), pixels=pixels)
    with pytest.raises(ValueError, match="preset: got 'vae', expected one of bernoulli-mlp"):
        presets.build("vae", shape=4)


def a_table() -> Table:
    """A column of each kind."""
    hidden = np.random.default_rng(0).normal(size=300)
    frame = pd.DataFrame(
        {
            "real": 5 + hidden,
            "two": hidden > 0,
            "three": np.select([hidden > 1, hidden > -1], ["a", "b"], "c"),
            "count": np.exp(2 + hidden).astype(int),
        }
    )
    return Table.from_frame(frame)


def test_a_preset_of_tables_is_built_from_a_table(tmp_path: Path) -> None:
    table = a_table()
    vae = presets.build("table-mlp", z_dim=3, table=table)
    assert vae.preset == {"name": "table-mlp", "z_dim": 3, "table": table.to_dict()}
    assert vae.likelihood.names == table.names
    history = fit(vae, table.x, epochs=3, batch_size=50)
    assert history.cost[-1] < history.cost[0]
    save(vae, tmp_path)
    loaded = load(tmp_path)
    assert loaded.preset == vae.preset
    found = Table.from_dict(loaded.preset["table"])
    own = loaded.generate(5)
    assert found.to_frame(own).dtypes.tolist() == table.to_frame(own).dtypes.tolist()
    values = log_likelihood(vae, table.x[:5], 30, seed=0).values
    assert torch.equal(log_likelihood(loaded, table.x[:5], 30, seed=0).values, values)


def test_images_and_tables_are_not_mixed_up() -> None:
    table = a_table()
    assert presets.build("table-mlp", table=table.to_dict()).prior().event_shape == (8,)
    for arguments, name in (
        ({}, "table"),
        ({"table": 3}, "table"),
        ({"table": table, "shape": 4}, "shape"),
        ({"table": table, "pixels": "binary"}, "pixels"),
    ):
        with pytest.raises((TypeError, ValueError), match=f"{name}: got"):
            presets.build("table-mlp", **arguments)
    with pytest.raises(ValueError, match="table: got a Table, expected None"):
        presets.build("pyro-mlp", shape=4, table=table)
    with pytest.raises(ValueError, match="shape: got None"):
        presets.build("pyro-mlp")


@pytest.mark.parametrize("preset", IMAGE_PRESETS)
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


@pytest.mark.parametrize("name", IMAGE_PRESETS)
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
        preset = presets.get(name)  # there are no labels here to add a classifier's loss for
        objective = objectives.parse("enumerated" if preset.labelled else preset.objective)
        how: Any = {"epochs": 3, "batch_size": 64, "pixels": pixels, "objective": objective}
        history = fit(vae, train, test=test, **how)
        assert history.cost[-1] < history.cost[0]
        assert history.test_cost[-1] < history.test_cost[0]
