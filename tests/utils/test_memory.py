"""The peak of what a function holds at once."""

import torch
from torch import Tensor, nn

from pyro_vae.utils.memory import peak_bytes


def test_peak_memory_is_what_is_held_at_once() -> None:
    size = 4 * 1000

    def chain() -> Tensor:
        a = torch.zeros(1000)
        b = a + 1
        del a
        c = b.view(10, 100)  # no memory of its own
        c.add_(1)
        return c * 2  # beside b

    assert peak_bytes(chain) == 2 * size
    weight = nn.Parameter(torch.ones(1000))

    def backward() -> None:
        y = weight.exp()  # kept for the backward pass
        y.sum().backward()

    # exp's result, the sum's number and its gradients, the weight's gradient.
    assert 2 * size <= peak_bytes(backward) <= 3 * size + 100
    outside = torch.zeros(1000)
    assert peak_bytes(lambda: outside.view(10, 100).add_(1)) == 0
