"""The network of a table's columns: one-hot classes, logarithms of counts, masks of holes."""

import math
from typing import Any

import pytest
import torch

from pyro_vae import networks

from ..vaes import Given

COLUMNS = [3, "real", "count", 2, "real"]
X = torch.tensor([[2.0, 0.5, 7.0, 0.0, -1.5], [0.0, 1.0, 0.0, 1.0, 2.5]])
ONE_HOT = [[0.0, 0, 1, 1, 0], [1.0, 0, 0, 0, 1]]


def test_classes_are_one_hot_and_counts_are_logarithms() -> None:
    network = networks.Columns(Given(8), COLUMNS)
    expected = [[0.5, -1.5, math.log(8), *ONE_HOT[0]], [1.0, 2.5, 0.0, *ONE_HOT[1]]]
    torch.testing.assert_close(network(X), torch.tensor(expected))
    assert networks.Columns.numbers(COLUMNS) == 8
    assert torch.equal(network(X.expand(3, 2, 5))[1], network(X))
    double = network.double()(X.double())
    assert double.dtype == torch.float64


def test_holes_are_zeros_with_a_mask() -> None:
    network = networks.Columns(Given(11), COLUMNS, holes=True)
    x = X.clone()
    x[0, 0] = x[0, 1] = x[1, 2] = math.nan
    expected = [
        [0.0, -1.5, math.log(8), 0, 1, 1, 0, 0, 0, 1, 0],
        [1.0, 2.5, 0.0, 1, 1, 0, *ONE_HOT[1]],
    ]
    torch.testing.assert_close(network(x), torch.tensor(expected))
    # An observed 0 differs from a hole by the mask alone.
    x[0, 1] = 0.0
    assert (network(x)[0] - torch.tensor(expected)[0]).nonzero().flatten().tolist() == [3]


def test_gradients_of_a_trained_x_are_finite() -> None:
    """Those of pseudo-inputs, of which a negative real has no logarithm."""
    x = X.clone().requires_grad_()
    networks.Columns(Given(8), COLUMNS)(x).sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, torch.tensor([[0.0, 1, 1 / 8, 0, 1], [0.0, 1, 1, 0, 1]]))


def test_the_context_is_handed_on() -> None:
    inner = networks.Conditioned(networks.MLP(8 + 2, (), 4), (), classes=2)
    label, features = torch.tensor([0, 1]), networks.Columns(Given(8), COLUMNS)(X)
    assert torch.equal(networks.Columns(inner, COLUMNS)(X, label), inner(features, label))


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (["number"], "columns: got 'number', expected 'real', 'count'"),
        ([0], "columns: got 0"),
        ([], "columns: got none"),
        (["real", 2], r"network: got in_shape \(4,\), expected \(3,\)"),
    ],
)
def test_columns_that_do_not_fit_are_named(columns: list[Any], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        networks.Columns(networks.MLP(4, (), 2), columns)
    assert networks.Columns(networks.MLP(4, (), 2), [2, 2]).out_shape == (2,)
    with pytest.raises(ValueError, match="Columns: got an input"):
        networks.Columns(networks.MLP(4, (), 2), [2, 2])(torch.zeros(5, 3))
