"""A page's layers decode what the pair decodes."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from pyro_vae import VAE, Pair, likelihoods, networks, posteriors, priors
from pyro_vae.composed import Composed
from pyro_vae.report.decoding import BOUND, MOST_BYTES, decoding_of, images_of, is_given
from pyro_vae.report.layers import NotInPage, computed
from tests.pairs import fine, guide
from tests.vaes import IMAGE_PRESETS


@pytest.mark.parametrize("name", IMAGE_PRESETS)
def test_each_presets_decoder_is_known(name: str, preset: Callable[[str], Composed]) -> None:
    vae = preset(name)
    decoding = decoding_of(vae)
    z = 2 * torch.randn(100, decoding.z_dim)
    y = torch.randint(decoding.classes or 1, (100,))
    found = computed(decoding.layers(), z, y)
    off = found - decoding.decode(z, y).flatten(1)
    assert off.abs().max() < BOUND
    assert decoding.decode(z, y).flatten(1).std(0).max() > 0.05  # It depends on z.


def test_a_plain_decode_is_that_of_the_vae(preset: Callable[[str], Composed]) -> None:
    vae = preset("bernoulli-mlp")
    z = torch.randn(5, 2)
    assert torch.equal(decoding_of(vae).decode(z), vae.decode(z))


def test_each_class_is_decoded(preset: Callable[[str], Composed]) -> None:
    vae = preset("conditional-mlp")
    decoding = decoding_of(vae)
    z = torch.zeros(10, decoding.z_dim)
    y = torch.arange(10)
    assert torch.equal(decoding.decode(z, y), vae.decode(z, y))
    assert decoding.of_each_class(3).shape == (30, 28, 28)


def of(network: nn.Module, z_dim: int = 2) -> VAE:
    shape = tuple(network.out_shape)
    return VAE(
        priors.StandardNormal(z_dim),
        likelihoods.Bernoulli(network),
        posteriors.Normal(networks.MLP(shape, (4,), 2 * z_dim)),
    )


def test_a_decoder_is_refused_by_its_length_alone() -> None:
    # Base64 writes 3 bytes as 4, and a weight is 2 bytes.
    hidden = (MOST_BYTES * 3 // 8 - 64) // (2 + 1 + 64)
    short, long = (networks.MLP(2, (hidden + more,), (8, 8)) for more in (0, 1))
    assert decoding_of(of(short)).layers()
    with pytest.raises(NotInPage, match="4"):
        decoding_of(of(long)).layers()


def test_a_decoder_that_is_off_is_refused() -> None:
    network = networks.MLP(2, (4,), (8, 8))
    with torch.no_grad():
        network.layers[-1].weight.mul_(30_000)
    with pytest.raises(NotInPage, match="a pixel is off by"):
        decoding_of(of(network)).layers()


@pytest.mark.parametrize(
    "likelihood",
    [
        likelihoods.Categorical(networks.MLP(2, (4,), (4, 8, 8)), levels=4),
        likelihoods.Beta(networks.MLP(2, (4,), (2, 8, 8))),
    ],
    ids=["Categorical", "Beta"],
)
def test_an_unknown_mean_is_refused(likelihood: nn.Module) -> None:
    posterior = posteriors.Normal(networks.MLP((8, 8), (4,), 4))
    vae = VAE(priors.StandardNormal(2), likelihood, posterior)
    with pytest.raises(NotInPage, match="the mean of a"):
        decoding_of(vae).layers()


@pytest.mark.parametrize("scale", ["pixel", "shared", 0.5])
def test_the_mean_of_each_scale(scale: str | float) -> None:
    shape = (2, 8, 8) if scale == "pixel" else (8, 8)
    likelihood = likelihoods.Gaussian(networks.MLP(2, (4,), shape), scale=scale)
    posterior = posteriors.Normal(networks.MLP((8, 8), (4,), 4))
    decoding = decoding_of(VAE(priors.StandardNormal(2), likelihood, posterior))
    z = torch.randn(9, 2)
    assert (computed(decoding.layers(), z) - decoding.decode(z).flatten(1)).abs().max() < BOUND


def test_other_pairs_have_no_decoder() -> None:
    with pytest.raises(NotInPage, match="no decoder"):
        decoding_of(Pair(fine, guide))
    codes = VAE(
        priors.OneHotCategorical(3, codes=2),
        likelihoods.Bernoulli(networks.MLP(6, (4,), (8, 8))),
        posteriors.OneHotCategorical(networks.MLP((8, 8), (4,), 6), codes=2),
    )
    with pytest.raises(NotInPage, match="discrete"):
        decoding_of(codes)
    given = networks.Conditioned(networks.MLP(2 + 3, (4,), (8, 8)), context_shape=3)
    with pytest.raises(NotInPage, match="context"):
        decoding_of(of(given))
    assert is_given(of(given))
    assert not is_given(of(networks.MLP(2, (4,), (8, 8))))


def test_levels_are_drawn_on_their_own_scale() -> None:
    likelihood = likelihoods.Categorical(networks.MLP(2, (4,), (16, 8, 8)), levels=16)
    vae = VAE(
        priors.StandardNormal(2), likelihood, posteriors.Normal(networks.MLP((8, 8), (4,), 4))
    )
    x = torch.arange(16.0).repeat(4).reshape(1, 8, 8)
    assert images_of(vae, x).unique().tolist() == [17 * level for level in range(16)]
