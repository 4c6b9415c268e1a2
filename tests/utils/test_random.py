"""Random streams: apart from each other, repeatable, and without a trace."""

import itertools

import numpy as np
import pytest
import torch

from pyro_vae.utils.random import seeded


def draw(*key: int) -> float:
    with seeded(*key):
        return torch.rand((), dtype=torch.float64).item()


def test_streams_of_different_keys_are_different() -> None:
    values = (0, 1, 2, 64, 2**32 - 1)
    keys = [key for n in (1, 2, 3) for key in itertools.product(values, repeat=n)]
    assert len({draw(*key) for key in keys}) == len(keys)


def test_a_stream_repeats_and_leaves_the_generator() -> None:
    state = torch.get_rng_state()
    assert draw(3, 4) == draw(3, 4)

    def fail() -> None:
        with seeded(3):
            torch.rand(5)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert torch.equal(torch.get_rng_state(), state)


def test_a_seed_alone_is_that_of_torch() -> None:
    torch.manual_seed(7)
    assert torch.rand((), dtype=torch.float64).item() == draw(7)
    assert draw(np.int64(7)) == draw(7)


def test_no_seed_is_the_global_stream() -> None:
    torch.manual_seed(7)
    first = draw(7)
    with seeded(None):
        assert torch.rand((), dtype=torch.float64).item() == first
        assert torch.rand((), dtype=torch.float64).item() != first


@pytest.mark.parametrize("seed", [-1, 2**32, 1.0, True, "1"])
def test_wrong_seeds_are_named(seed: object) -> None:
    with pytest.raises((TypeError, ValueError), match="seed: got"):
        seeded(seed)
