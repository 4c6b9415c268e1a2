"""Networks: batches, shapes, starting weights."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pyro_vae import VAE, fit, likelihoods, log_likelihood, networks, posteriors, priors

from ..tolerances import CLOSE


@pytest.mark.parametrize("batch", [(), (2,), (3, 2), (0,)])
def test_mlp_treats_batch_dimensions_alike(batch: tuple[int, ...]) -> None:
    network = networks.MLP((3, 2), (5, 4), (2, 6), nn.Tanh).double()
    x = torch.randn(*batch, 3, 2).double()
    y = network(x)
    assert y.shape == (*batch, 2, 6)
    for part, own in zip(x.reshape(-1, 3, 2), y.reshape(-1, 2, 6), strict=True):
        torch.testing.assert_close(network(part), own, rtol=CLOSE, atol=CLOSE)


@pytest.mark.parametrize("batch", [(), (2,), (3, 2), (0,)])
@pytest.mark.parametrize("shape", [(28, 28), (1, 9, 14), (3, 7, 5), (2, 3, 6, 6), (1, 1)])
def test_convolutions_mirror_each_other(batch: tuple[int, ...], shape: tuple[int, ...]) -> None:
    encoder = networks.ConvEncoder(shape, 4, channels=(3, 5, 2)).double()
    decoder = networks.ConvDecoder(4, shape, channels=(2, 5, 3)).double()
    x = torch.randn(*batch, *shape).double()
    z = encoder(x)
    assert z.shape == (*batch, 4)
    assert decoder(z).shape == x.shape
    for image, own in zip(x.reshape(-1, *shape), decoder(z).reshape(-1, *shape), strict=True):
        torch.testing.assert_close(decoder(encoder(image)), own, rtol=CLOSE, atol=CLOSE)


def test_convolutional_decoder_reaches_every_pixel() -> None:
    decoder = networks.ConvDecoder(2, (9, 6))
    z = torch.randn(2, requires_grad=True)
    with torch.no_grad():
        decoder.linear.bias.fill_(0.5)
    spread = decoder(torch.randn(50, 2)).std(0)
    assert (spread > 0).all()
    assert decoder(z).requires_grad


@pytest.mark.parametrize("fan_in", [50, 784])
def test_variance_scaling_has_the_stated_variance(fan_in: int) -> None:
    layer = nn.Linear(fan_in, 2000)
    networks.variance_scaling_(layer)
    weight, count = layer.weight.detach(), layer.weight.numel()
    # Kurtosis below the normal's 3, so the variance's relative error is below sqrt(2 / n).
    error = math.sqrt(2 / count)
    assert weight.var().item() * fan_in / 2 == pytest.approx(1.0, abs=5 * error)
    cut = 2 / 0.8796256610342398  # in standard deviations of what is left
    assert weight.abs().max().item() <= cut * math.sqrt(2 / fan_in) * (1 + 1e-6)
    assert not layer.bias.any()


class OneBatchDimension(nn.Module):
    """A decoder as users write them."""

    out_shape = torch.Size((2, 3))

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(2, 5), nn.BatchNorm1d(5), nn.Linear(5, 6), nn.Unflatten(1, (2, 3))
        )

    def forward(self, z: Tensor) -> Tensor:
        return self.layers(z)


def test_networks_of_one_batch_dimension_are_named_and_can_be_folded() -> None:
    decoder = OneBatchDimension()

    def vae(network: nn.Module) -> VAE:
        return VAE(
            priors.StandardNormal(2),
            likelihoods.Bernoulli(network),
            posteriors.Normal(networks.MLP((2, 3), (), 4)),
        )

    x = torch.bernoulli(torch.full((20, 2, 3), 0.5))
    for judge in (
        lambda: fit(vae(decoder), x, epochs=1, batch_size=10),
        lambda: log_likelihood(vae(decoder), x, 3),
    ):
        with pytest.raises(ValueError, match=r"likelihood: takes z .* not of \(2, 1, 2\).*Folded"):
            judge()
    folded = networks.Folded(decoder, 2, (2, 3))
    fit(vae(folded), x, epochs=1, batch_size=10)
    assert math.isfinite(log_likelihood(vae(folded), x, 3).mean)
    folded.eval().double()
    z = torch.randn(4, 5, 2).double()
    torch.testing.assert_close(folded(z), torch.stack([decoder(each) for each in z]))
    torch.testing.assert_close(folded(z[0, 0]), decoder(z[0, :1])[0])
    with pytest.raises(ValueError, match=r"expected \(\*batch, 2\)"):
        folded(torch.randn(4, 3).double())
    with pytest.raises(ValueError, match=r"shape \(4, 2, 3\) for 4 inputs.*expected \(N, 3\)"):
        networks.Folded(decoder, 2, 3)(torch.randn(4, 2).double())


def test_a_network_behind_a_factor() -> None:
    network = networks.MLP(3, (), 2).double()
    x = torch.rand(4, 3).double()
    torch.testing.assert_close(networks.Scaled(network)(255 * x), network(x))
    assert networks.Scaled(network).out_shape == (2,)
    with pytest.raises(TypeError, match="out_shape"):
        networks.Scaled(nn.Identity())


def test_an_out_shape_may_be_a_number() -> None:
    class Flat(nn.Module):
        out_shape: Any = 4

        def forward(self, x: Tensor) -> Tensor:
            return x[..., :4]

    assert posteriors.Normal(Flat())(torch.zeros(7, 6)).event_shape == (2,)
    assert likelihoods.Bernoulli(Flat())(torch.zeros(7, 6)).event_shape == (4,)
    for wrong in (0, -1, 2.5, ("four",), (4, 0)):
        Flat.out_shape = wrong
        with pytest.raises(ValueError, match=r"network\.out_shape: got .*, expected positive int"):
            likelihoods.Bernoulli(Flat())(torch.zeros(7, 6))


@pytest.mark.parametrize("text", ["", "four", b""])
def test_a_text_is_no_shape(text: Any) -> None:
    """Not even an empty one, which has no entries that could be wrong."""
    with pytest.raises(TypeError, match=r"out_shape: got .*, expected a positive integer or"):
        networks.MLP(2, (), text)
