"""Training data: levels and their pixels, and what does not fit."""

import math

import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

from pyro_vae import VAE, fit, likelihoods, log_likelihood, networks, optim, posteriors, priors
from pyro_vae.datasets import Dataset, to_pixels

from ..vaes import small


class Counts(nn.Module):
    """255 trials a pixel: a support whose bounds are tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.network = networks.MLP(2, (), 6)

    def forward(self, z: Tensor) -> dist.Distribution:
        return dist.Binomial(total_count=255, logits=self.network(z)).to_event(1)


def test_levels_fit_a_likelihood_of_counts() -> None:
    # Of levels as they are the posterior's mean would be hundreds, its scale next to nothing,
    # and so the mean's rounding would decide the density.
    encoder = networks.Scaled(networks.MLP(6, (), 4), 1 / 255)
    vae = VAE(priors.StandardNormal(2), Counts(), posteriors.Normal(encoder))
    levels = torch.randint(0, 256, (20, 6), dtype=torch.uint8)
    rate = optim.Adam(lr=1e-2)
    history = fit(vae, levels, epochs=30, batch_size=10, pixels="levels", optim=rate)
    assert history.cost[-1] < history.cost[0]
    assert math.isfinite(log_likelihood(vae, to_pixels(levels, "levels"), 5).mean)


def test_levels_may_be_fewer_than_256() -> None:
    """What counts is which levels there are, not which there could be."""
    vae = VAE(
        priors.StandardNormal(2),
        likelihoods.Categorical(networks.MLP(2, (), (4, 6)), levels=4),
        posteriors.Normal(networks.MLP(6, (), 4)),
    )
    levels = torch.randint(0, 4, (20, 6), dtype=torch.uint8)
    levels[0] = torch.tensor([0, 1, 2, 3, 0, 0])
    fit(vae, levels, epochs=1, batch_size=10, pixels="levels")
    levels[3, 2] = 7
    with pytest.raises(
        ValueError,
        match=r"pixels: got 'levels', .* at 1 of the 5 levels in train, 7 .*, 3\)",
    ):
        fit(vae, levels, epochs=1, batch_size=10, pixels="levels")


def test_wrong_data_are_named(digits: Dataset) -> None:
    vae, levels = small(), digits.train[:8]
    x = to_pixels(levels, "binary")
    with pytest.raises(ValueError, match=r"pixels: got None .* grey, binary, dequantized, levels"):
        fit(vae, levels, epochs=1, batch_size=4)
    with pytest.raises(ValueError, match=r"pixels: got 'binary' with torch.float32 as train"):
        fit(vae, x, epochs=1, batch_size=4, pixels="binary")
    with pytest.raises(ValueError, match=r"pixels: got 'gray'"):
        fit(vae, levels, epochs=1, batch_size=4, pixels="gray")
    with pytest.raises(TypeError, match=r"torch.int64"):
        fit(vae, levels.long(), epochs=1, batch_size=4)
    with pytest.raises(ValueError, match=r"pixels: got 'grey', which this likelihood does not"):
        fit(vae, levels, epochs=1, batch_size=4, pixels="grey")
    for pixels in ("dequantized", "levels"):
        with pytest.raises(ValueError, match=rf"pixels: got '{pixels}'.*Boolean"):
            fit(vae, levels, epochs=1, batch_size=4, pixels=pixels)
    with pytest.raises(ValueError, match=r"train: got 0\.\d+ at \d+ of \d+ places.*Boolean"):
        fit(vae, levels / 255, epochs=1, batch_size=4)
    with pytest.raises(ValueError, match=r"train: got shape \(8, 784\), expected \(N, 28, 28\)"):
        fit(vae, x.reshape(8, 784), epochs=1, batch_size=4)
    for bad in (math.nan, math.inf):
        broken = x.clone()
        broken[5, 3, 3] = bad
        with pytest.raises(ValueError, match=f"train: got {bad} at 1 of 6272 places"):
            fit(vae, broken, epochs=1, batch_size=4)
        with pytest.raises(ValueError, match=f"test: got {bad} at 1 of 6272 places"):
            fit(vae, x, test=broken, epochs=1, batch_size=4)
    with pytest.raises(ValueError, match="train: got an empty data set"):
        fit(vae, levels[:0], epochs=1, pixels="binary")
    with pytest.raises(ValueError, match="test: got an empty data set"):
        fit(vae, levels, test=levels[:0], epochs=1, batch_size=4, pixels="binary")
    with pytest.raises(TypeError, match="train: got a dict, expected a tensor, a NumPy array"):
        fit(vae, {"x": levels}, epochs=1, pixels="binary")
