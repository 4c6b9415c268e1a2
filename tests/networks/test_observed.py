"""Networks that are given the values of x and its mask."""

import pytest
import torch
from torch import nn

from pyro_vae import networks, posteriors

from ..holes import NAN
from ..vaes import Given


@pytest.mark.parametrize("batch", [(), (7,), (5, 7)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_values_and_mask_in_two_layers(batch: tuple[int, ...], dtype: torch.dtype) -> None:
    x = torch.randn(*batch, 4, 3, dtype=dtype)
    x[..., 1, 2] = NAN
    network = networks.Observed(Given(2, 4, 3), x_shape=(4, 3))
    values, mask = network(x).unbind(-3)
    assert network.out_shape == (2, 4, 3)
    assert values.dtype == mask.dtype == dtype
    assert torch.equal(mask, (~x.isnan()).to(dtype))
    assert torch.equal(values, x.nan_to_num(0.0))
    assert not torch.equal(network(x), network(x.nan_to_num(0.0)))  # 0 and missing differ


def test_networks_of_the_package_take_it() -> None:
    x = torch.rand(7, 8, 8)
    x[0] = NAN
    mlp, conv = (
        networks.Observed(network)
        for network in (networks.MLP((2, 8, 8), (16,), 4), networks.ConvEncoder((2, 8, 8), 4))
    )
    for network in (mlp, conv, networks.Scaled(mlp, 0.5)):
        q_z = posteriors.Normal(network)(x)
        assert q_z.batch_shape == (7,)
        assert q_z.mean.isfinite().all()


def test_shapes_that_do_not_fit_are_named() -> None:
    with pytest.raises(ValueError, match=r"x_shape: got None for a Given without in_shape"):
        networks.Observed(Given(2, 3))
    with pytest.raises(ValueError, match=r"in_shape \(784,\), expected \(2, \*x_shape\)"):
        networks.Observed(networks.MLP(784, (), 4))
    with pytest.raises(ValueError, match=r"in_shape \(2, 5\), expected \(2, 3\)"):
        networks.Observed(networks.MLP((2, 5), (), 4), x_shape=3)
    with pytest.raises(TypeError, match="out_shape"):
        networks.Observed(nn.Linear(3, 3), x_shape=3)
    with pytest.raises(ValueError, match=r"Observed: got an input of shape \(7, 4\)"):
        networks.Observed(networks.MLP((2, 3), (), 4))(torch.zeros(7, 4))
