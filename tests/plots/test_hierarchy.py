"""Pictures of layers: rows share with the images what the upper layers have decided."""

import numpy as np
import pytest
import torch

from pyro_vae import plots, presets

from .test_pictures import sheet


def test_rows_share_what_upper_layers_decide() -> None:
    """With z2 the same for all images, draws below it are those of one distribution."""
    vae = presets.build("two-layers-mlp", z_dim=2, shape=(4, 3))
    x = torch.bernoulli(torch.full((3, 4, 3), 0.5))
    torch.manual_seed(0)
    ax = plots.layers(vae, x, columns=10)
    rows = sheet(ax).reshape(4, 4, 3, 3)  # row, height, column, width
    names = [label.get_text() for label in ax.get_yticklabels()]
    assert names == ["x", "reconstructed", "z1 anew", "z1, z2 anew"]
    images = torch.from_numpy(rows.transpose(0, 2, 1, 3).copy()).float()
    torch.testing.assert_close(images[0], x)
    torch.testing.assert_close(images[1], vae.reconstruct(x))
    torch.manual_seed(0)
    z = vae.embed(x)
    torch.testing.assert_close(images[2], vae.generate(1, level=1, z=z))
    torch.testing.assert_close(images[3], vae.generate(1, level=2, z=z))
    assert not np.allclose(images[2], images[3])


def test_a_pair_without_layers_is_named() -> None:
    vae = presets.build("pyro-mlp", z_dim=2, shape=(4, 3))
    with pytest.raises(TypeError, match=r"vae: got a VAE, expected a models\.HierarchicalVAE"):
        plots.layers(vae, torch.rand(3, 4, 3))
