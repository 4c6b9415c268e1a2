"""Data: what is embedded, what becomes of levels, and what is said when files are missing."""

import math
import warnings
from pathlib import Path
from typing import Any

import pyro.distributions as dist
import pytest
import torch

from pyro_vae import datasets, fit, presets
from pyro_vae.datasets import Dataset, images


def test_digits_are_ten_and_two_thousand_images(digits: Dataset) -> None:
    assert digits.train.shape == (10000, 28, 28)
    assert digits.test.shape == (2000, 28, 28)
    assert digits.train.dtype == digits.test.dtype == torch.uint8
    assert digits.shape == (28, 28)
    assert digits.train_labels[:5].tolist() == [5, 0, 4, 1, 9]
    assert digits.test_labels.shape == (2000,)
    assert digits.test_labels.unique().tolist() == list(range(10))


@pytest.mark.mnist
def test_digits_are_the_first_of_mnist(digits: Dataset, mnist: Dataset) -> None:
    assert mnist.train.shape == (60000, 28, 28)
    for part in ("train", "train_labels", "test", "test_labels"):
        own, full = getattr(digits, part), getattr(mnist, part)
        assert torch.equal(own, full[: len(own)])


@pytest.mark.mnist
def test_root_and_environment_name_the_folder(
    mnist: Dataset, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    root = tmp_path / "data" / "MNIST"
    root.mkdir(parents=True)
    source = Path(__import__("os").environ.get("PYRO_VAE_DATA", Path.home() / ".cache/pyro_vae"))
    (root / "raw").symlink_to((source / "MNIST" / "raw").resolve())
    monkeypatch.delenv("PYRO_VAE_DATA", raising=False)
    assert torch.equal(datasets.load("mnist", root=tmp_path / "data").test, mnist.test)
    monkeypatch.setenv("PYRO_VAE_DATA", str(tmp_path / "data"))
    assert torch.equal(datasets.load("mnist").test, mnist.test)


def test_missing_files_name_both_ways_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A proxy that refuses is the surest way to have no network on any machine.
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with pytest.raises(FileNotFoundError, match=r"root=.*PYRO_VAE_DATA.*network"):
        datasets.load("fashion-mnist", root=tmp_path)


def test_wrong_names_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="name: got 'cifar', expected one of digits, mnist"):
        datasets.load("cifar")
    with pytest.raises(ValueError, match="root"):
        datasets.load("digits", root=tmp_path)


LEVELS = torch.arange(256, dtype=torch.uint8)


def test_binary_pixels_have_the_levels_probability() -> None:
    draws = 4000
    x = datasets.binarize(LEVELS.expand(draws, -1).contiguous(), seed=0)
    assert set(x.unique().tolist()) == {0.0, 1.0}
    p = LEVELS / 255
    error = (p * (1 - p) / draws).sqrt()
    assert ((x.mean(0) - p).abs() <= 5 * error).all()


def test_dequantized_pixels_stay_inside_and_are_uniform_in_their_level() -> None:
    draws = 4000
    x = datasets.dequantize(LEVELS.expand(draws, -1).contiguous(), seed=0)
    assert x.dtype == torch.float32
    assert x.min().item() > 0
    assert x.max().item() < 1
    u = x.double() * 256 - LEVELS
    assert ((u > 0) & (u < 1)).all()
    # A uniform has mean 1/2 and variance 1/12; of all 256 x draws together.
    count = u.numel()
    assert u.mean().item() == pytest.approx(0.5, abs=5 / math.sqrt(12 * count))
    assert u.var().item() == pytest.approx(1 / 12, abs=5 * math.sqrt(1 / 180 / count))
    # The extreme draws of the extreme levels.
    assert (255 + torch.tensor(2**15 - 0.5) / 2**15) / 256 < 1
    assert (0 + torch.tensor(0.5) / 2**15) / 256 > 0


def test_grey_and_levels() -> None:
    assert torch.equal(datasets.to_pixels(LEVELS, "grey"), LEVELS.float() / 255)
    levels = datasets.to_pixels(LEVELS, "levels")
    assert levels.dtype == torch.float32
    assert levels.tolist() == list(range(256))


@pytest.mark.parametrize("draw", [datasets.binarize, datasets.dequantize])
def test_a_seed_repeats_a_draw_and_leaves_the_generator(draw: object) -> None:
    assert callable(draw)
    levels = LEVELS.expand(5, -1).contiguous()
    state = torch.get_rng_state()
    first, second, other = draw(levels, 3), draw(levels, 3), draw(levels, 4)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    assert not torch.equal(draw(levels, None), draw(levels, None))


def test_pixels_of_a_kind_are_those_of_its_function() -> None:
    levels = LEVELS.expand(5, -1).contiguous()
    state = torch.get_rng_state()
    for pixels, draw in (("binary", datasets.binarize), ("dequantized", datasets.dequantize)):
        assert torch.equal(datasets.to_pixels(levels, pixels, seed=3), draw(levels, 3))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("pixels", ["binary", "dequantized", "grey"])
def test_levels_that_are_binary_pixels_are_told_of(pixels: datasets.Pixels) -> None:
    """They would be zero almost everywhere, and a training on them looks like any other."""
    bits = torch.tensor([0, 1, 1, 0], dtype=torch.uint8).repeat(20, 2)
    name = "gaussian-mlp" if pixels == "dequantized" else "bernoulli-mlp"
    vae = presets.build(name, z_dim=2, shape=(8,), pixels=pixels)
    for call in (
        lambda x: datasets.to_pixels(x, pixels),
        lambda x: fit(vae, x, epochs=1, batch_size=20, pixels=pixels),
    ):
        with pytest.warns(UserWarning, match="levels: got none above 1") as caught:
            call(bits)
        assert {each.filename for each in caught} == {__file__}
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for levels in (2 * bits, 0 * bits):
                call(levels)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert datasets.to_pixels(bits, "levels").max() == 1  # counts


def test_wrong_levels_are_refused() -> None:
    for call in (
        lambda x: datasets.binarize(x, 0),
        lambda x: datasets.dequantize(x, 0),
        lambda x: datasets.to_pixels(x, "grey"),
    ):
        with pytest.raises(TypeError, match=r"levels: got torch.float32, expected torch.uint8"):
            call(torch.rand(3))
    with pytest.raises(ValueError, match="pixels: got 'gray', expected one of grey, binary"):
        datasets.to_pixels(LEVELS, "gray")
    with pytest.raises(ValueError, match="seed"):
        datasets.binarize(LEVELS, -1)
    with pytest.raises(TypeError, match="seed"):
        datasets.binarize(LEVELS, 0.5)


def test_bits_of_what_is_known() -> None:
    """A uniform distribution over 256 levels is 8 bits, in both of its forms."""
    uniform = 4 * math.log(256)
    assert datasets.bits_per_dim(uniform, (2, 2), pixels="levels") == pytest.approx(8.0)
    assert datasets.bits_per_dim(0.0, (2, 2), pixels="dequantized") == pytest.approx(8.0)
    nats = torch.tensor([0.0, 1.0])
    bits = datasets.bits_per_dim(nats, (1,), 2, pixels="dequantized")
    torch.testing.assert_close(bits, torch.tensor([1.0, 1 + 1 / math.log(2)]))
    for pixels in ("grey", "binary"):
        with pytest.raises(ValueError, match="pixels: got"):
            datasets.bits_per_dim(1.0, (2,), pixels=pixels)
    with pytest.raises(ValueError, match="levels: got 0"):
        datasets.bits_per_dim(1.0, (2,), 0, pixels="levels")


def test_dequantized_bits_are_a_bound_on_those_of_the_levels() -> None:
    """-E log of a density over cells is above -log of the cell's mass, by Jensen."""
    density = dist.Beta(torch.tensor(2.0).double(), torch.tensor(5.0).double())
    edges = torch.arange(257).double() / 256
    # The mass of a cell by its midpoints.
    inner = (torch.arange(64).double() + 0.5) / 64 / 256
    log_density = density.log_prob(edges[:-1, None] + inner)
    mass = log_density.exp().mean(1) / 256
    levels = -(mass * mass.log()).sum()
    dequantized = -(mass * log_density.mean(1)).sum()
    exact = datasets.bits_per_dim(levels.item(), (1,), pixels="levels")
    bound = datasets.bits_per_dim(dequantized.item(), (1,), pixels="dequantized")
    assert exact < bound < exact + 1e-2


def test_bits_of_a_graph_have_the_probability_of_the_level() -> None:
    """Exactly at both ends; a chi-squared of 254 numbers within five of its deviations."""
    draws = 4000
    levels = torch.arange(256, dtype=torch.uint8).expand(draws, -1).contiguous()
    x = images._drawn_bits(levels)
    assert (x[:, 0] == 0).all()
    assert (x[:, 255] == 1).all()
    p = torch.arange(1, 255) / 255
    z = (x[:, 1:255].mean(0) - p) / (p * (1 - p) / draws).sqrt()
    assert abs(z.square().sum().item() - 254) < 5 * (2 * 254) ** 0.5


@pytest.mark.parametrize("draw", [datasets.binarize, datasets.dequantize])
def test_a_seed_gives_the_same_pixels_under_each_default_dtype(draw: Any) -> None:
    levels = torch.arange(256, dtype=torch.uint8).repeat(20)
    expected = draw(levels, seed=0)
    try:
        torch.set_default_dtype(torch.float64)
        assert torch.equal(draw(levels, seed=0).float(), expected)
    finally:
        torch.set_default_dtype(torch.float32)
