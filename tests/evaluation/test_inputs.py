"""What evaluations take: data, seeds, pixels on a density; and the rest by name."""

import math

import pytest
import torch

from pyro_vae import elbo, log_likelihood, presets
from pyro_vae.datasets import Dataset, binarize, to_pixels
from pyro_vae.evaluation import density_draw


def test_grey_pixels_are_judged_on_a_density(digits: Dataset) -> None:
    levels = digits.test[:20]
    relaxed = presets.build("bernoulli-mlp", shape=digits.shape, pixels="grey")
    with pytest.raises(ValueError, match=r"x: got 0\.\d+ at .*Boolean"):
        log_likelihood(relaxed, to_pixels(levels, "grey"), 10)
    with pytest.raises(ValueError, match="Boolean"):
        elbo(relaxed, to_pixels(levels, "grey"))
    x, pixels = density_draw(relaxed, levels, "grey", seed=3)
    assert pixels == "binary"
    assert torch.equal(x, binarize(levels, seed=3))
    assert math.isfinite(log_likelihood(relaxed, x, 10).mean)
    gaussian = presets.build("gaussian-mlp", shape=digits.shape, pixels="grey")
    x, pixels = density_draw(gaussian, levels, "grey", seed=3)
    assert pixels == "dequantized"
    assert density_draw(gaussian, levels, "dequantized", seed=3)[1] == "dequantized"


def test_wrong_input_is_named(digits: Dataset) -> None:
    vae = presets.build("bernoulli-mlp", shape=digits.shape)
    x = binarize(digits.test[:4], seed=0)
    bad = x.clone()
    bad[1, 2, 3] = math.nan
    for judge in (elbo, log_likelihood):
        with pytest.raises(ValueError, match="x: got nan at 1 of 3136 places"):
            judge(vae, bad)
        bad[1, 2, 3] = math.inf
        with pytest.raises(ValueError, match="x: got inf at 1 of 3136 places"):
            judge(vae, bad)
        bad[1, 2, 3] = math.nan
        with pytest.raises(TypeError, match=r"uint8"):
            judge(vae, digits.test[:4])
        with pytest.raises(ValueError, match=r"\(4, 784\)"):
            judge(vae, x.reshape(4, 784))
        with pytest.raises(ValueError, match=r"x: got shape \(28, 28\), expected \(N, 28, 28\)"):
            judge(vae, x[0])
        with pytest.raises(TypeError, match=r"x: got torch.float64, expected the VAE's"):
            judge(vae, x.double())
        with pytest.raises(ValueError, match="no examples"):
            judge(vae, x[:0])
        with pytest.raises(ValueError, match="num_samples: got 0"):
            judge(vae, x, num_samples=0)
        with pytest.raises(ValueError, match="seed: got -1"):
            judge(vae, x, seed=-1)
        with pytest.raises(ValueError, match="max_bytes: got 0"):
            judge(vae, x, max_bytes=0)
    with pytest.raises(ValueError, match="kl: got 'exact'"):
        elbo(vae, x, kl="exact")
