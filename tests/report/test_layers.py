"""Networks as layers give what the networks give."""

import pytest
import torch
from torch import nn

from pyro_vae import networks
from pyro_vae.report.layers import Layer, NotInPage, computed, half, layers_of

ACTIVATIONS = (
    nn.ReLU(),
    nn.Sigmoid(),
    nn.SiLU(),
    nn.Tanh(),
    nn.LeakyReLU(0.1),
    nn.ELU(0.5),
    nn.GLU(),
)
ROUNDED = 2e-3
"""Weights below 1 are off by 2^-12 in float16, and sums of some tens of them by 2e-3."""


@pytest.mark.parametrize("activation", [*ACTIVATIONS, nn.Softplus(2.0, 5.0)], ids=repr)
def test_each_activation(activation: nn.Module) -> None:
    network = nn.Sequential(nn.Linear(3, 8), activation)
    z = 3 * torch.randn(50, 3)
    off = computed(layers_of(network), z) - network(z)
    assert off.abs().max() < 5 * ROUNDED


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [3, 4, (2, 5)])
@pytest.mark.parametrize("padding", [0, 1])
def test_each_transposed_convolution(
    stride: int, kernel: int | tuple[int, int], padding: int
) -> None:
    extra = stride - 1
    convolution = nn.ConvTranspose2d(3, 2, kernel, stride, padding, extra, bias=padding > 0)
    network = nn.Sequential(nn.Linear(2, 60), nn.Unflatten(-1, (3, 4, 5)), convolution)
    layers = [*layers_of(network[0]), *layers_of(network[2], (3, 4, 5))]
    z = torch.randn(7, 2)
    off = computed(layers, z) - network(z).flatten(1)
    assert off.abs().max() < 5 * ROUNDED


@pytest.mark.parametrize(
    "network",
    [
        networks.MLP(2, (9, 8), (3, 3)),
        networks.GatedMLP(2, (9, 8), (3, 3)),
        networks.ConvDecoder(2, (1, 12, 12), (8, 4)),
        networks.Folded(nn.Sequential(nn.Linear(2, 9), nn.Unflatten(-1, (3, 3))), 2, (3, 3)),
    ],
    ids=lambda network: type(network).__name__,
)
def test_each_network(network: nn.Module) -> None:
    z = torch.randn(50, 2)
    off = computed(layers_of(network), z) - network(z).flatten(1)
    assert off.abs().max() < 5 * ROUNDED


def test_a_class_is_appended() -> None:
    network = networks.Conditioned(networks.MLP(2 + 4, (8,), 5), (), classes=4)
    z, y = torch.randn(50, 2), torch.randint(4, (50,))
    off = computed(layers_of(network), z, y) - network(z, y)
    assert off.abs().max() < 5 * ROUNDED
    with pytest.raises(ValueError, match="y: got None"):
        computed(layers_of(network), z)


@pytest.mark.parametrize(
    "network",
    [
        nn.Bilinear(2, 2, 3),
        nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)),
        nn.Sequential(nn.Linear(2, 4), nn.ConvTranspose2d(4, 4, 3, groups=2)),
        networks.Conditioned(networks.MLP(2 + 3, (4,), 5), context_shape=3),
    ],
    ids=["Bilinear", "BatchNorm1d", "groups", "covariates"],
)
def test_what_a_page_does_not_know_is_refused(network: nn.Module) -> None:
    with pytest.raises(NotInPage):
        layers_of(network)


def test_a_subclass_of_a_network_may_compute_something_else() -> None:
    class Doubled(networks.MLP):
        pass

    with pytest.raises(NotInPage, match="Doubled"):
        layers_of(Doubled(2, (3,), 4))


def test_the_greatest_weight_of_float16_is_taken() -> None:
    assert half(torch.tensor([65504.0, -65504.0, 1e-8])).tolist() == [65504.0, -65504.0, 0.0]
    with pytest.raises(NotInPage, match="float16"):
        half(torch.tensor([65520.0]))


def test_the_first_numbers_are_kept() -> None:
    z = torch.randn(4, 6)
    assert torch.equal(computed([Layer("first", {"count": 2})], z), z[:, :2])
