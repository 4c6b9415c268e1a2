"""Graphs in two: the same numbers, with what rarely changes computed when it does."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from pyro_vae.compile import compiled_function
from pyro_vae.compile.partition import split

from ..tolerances import CLOSE, assert_rounded


def layer_and_noise(x: Tensor, w: Tensor, y: Tensor) -> tuple[Tensor, ...]:
    h = (x @ w).tanh()
    return (h * y + torch.randn_like(h),)


def layer_written_over(x: Tensor, w: Tensor, y: Tensor) -> tuple[Tensor, ...]:
    h = x @ w
    before = h.exp()
    h.view(-1)[:3].mul_(y.sum())
    return before, h, h.tanh() + y, (x @ w).exp() * y


def parts_of_a_layer(x: Tensor, w: Tensor, y: Tensor) -> tuple[Tensor, ...]:
    a, b = (x @ w).chunk(2, -1)
    variance, mean = torch.var_mean(x @ w, -1, keepdim=True)
    return a.exp() * y[:, :3], b.t(), (y - mean) / variance


def repeated_layer(x: Tensor, w: Tensor, y: Tensor) -> tuple[Tensor, ...]:
    return (x @ w).expand(3, 4, 6).exp() + y + torch.arange(6), x.sum()


def nothing_but_inputs(x: Tensor, w: Tensor, y: Tensor) -> tuple[Tensor, ...]:
    return x.t(), x * y[:, :1] + torch.zeros(()), y


def input_written_over(x: Tensor, w: Tensor, y: Tensor) -> tuple[Tensor, ...]:
    before = (x @ w).exp() * y
    w[:2].mul_(2)
    return before, x @ w, w.clone()


def batch_norm_in_train_mode(x: Tensor, w: Tensor, y: Tensor) -> tuple[Tensor, ...]:
    """Writes over running means and variances, and does not say so."""
    mean, variance = w[0, :5], w[1, :5].exp()
    batch_norm = torch.nn.functional.batch_norm
    return batch_norm(x, mean, variance, training=True) * y[:, :5], mean + y[0, :5]


@pytest.mark.slow
@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    ("program", "products"),
    [
        (input_written_over, None),
        (batch_norm_in_train_mode, None),
        (layer_and_noise, 1),
        (layer_written_over, 1),
        (parts_of_a_layer, 2),
        (repeated_layer, 1),
        (nothing_but_inputs, None),
    ],
)
def test_what_rarely_changes_is_computed_when_it_does(
    program: Callable[..., tuple[Tensor, ...]], products: int | None
) -> None:
    """The same numbers as without, when a tensor is another or has been changed in place.

    In float64: the programs take exp of products, whose rounding it multiplies.
    """
    x, y, w = torch.randn(4, 5), torch.randn(4, 6), torch.randn(5, 6)

    parts = split(make_fx(program)(x, w, y), 2)
    assert (parts is None) == (products is None)
    if parts is not None:
        called = [[node.target for node in part.graph.nodes] for part in parts]
        assert called[0].count(torch.ops.aten.mm.default) == products
        assert not any("rand" in str(target) for target in called[0])
        assert torch.ops.aten.expand.default not in called[0]

    compiled = compiled_function(lambda x, y: program(x, w, y), [x, y], fixed=1)

    def agrees(x: Tensor) -> None:
        y, copies = torch.randn(4, 6), (x.clone(), w.clone())
        torch.manual_seed(1)
        expected = program(*copies, y)
        torch.manual_seed(1)
        torch.testing.assert_close(tuple(compiled(x, y)), expected, rtol=CLOSE, atol=CLOSE)
        torch.testing.assert_close(w, copies[1], rtol=CLOSE, atol=CLOSE)

    agrees(x)
    agrees(x)
    agrees(torch.randn(4, 5))
    x.mul_(2)
    agrees(x)
    w.add_(1)
    agrees(x)
    for _ in range(3):
        w.data = w.data * 1.5
        w.data = w.data - 1
        agrees(x)
    with torch.inference_mode():
        first = torch.randn(4, 5)
    agrees(first)
    with torch.inference_mode():
        first.add_(1)
    agrees(first)


def test_what_is_written_through_a_view_is_seen() -> None:
    held, x = torch.zeros(6), torch.randn(4, 6)
    view = held[:3]

    def program(x: Tensor, y: Tensor) -> Tensor:
        view.copy_(x[0, :3])
        return held.sin() * y

    compiled = compiled_function(program, [x, x.clone()], fixed=1)
    for _ in range(2):
        y = torch.randn(4, 6)
        expected = torch.cat((x[0, :3], torch.zeros(3))).sin() * y
        assert_rounded(compiled(x, y), expected, terms=3)
