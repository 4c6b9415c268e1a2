"""The comparison is paired: an objective against itself differs by nothing."""

import pytest
import torch

from pyro_vae import objectives, presets
from pyro_vae.comparison import compare
from pyro_vae.datasets import Dataset

from .models import bernoulli_vae


def test_an_objective_against_itself(digits: Dataset) -> None:
    result = compare(
        lambda: presets.build("pyro-mlp", z_dim=2, shape=digits.shape),
        digits.train[:200],
        digits.test[:50],
        {"one": objectives.trace_elbo(), "two": objectives.trace_elbo()},
        seeds=(0, 5),
        epochs=2,
        batch_size=100,
        pixels="binary",
        num_samples=20,
    )
    for i in range(2):
        one, two = (result.histories[name][i] for name in ("one", "two"))
        assert one.cost == two.cost
        assert one.test_cost == two.test_cost
        one_l, two_l = (result.log_likelihoods[name][i] for name in ("one", "two"))
        assert torch.equal(one_l.values, two_l.values)
        assert one_l.data_hash == result.log_likelihoods["one"][0].data_hash
    assert result.histories["one"][0].cost != result.histories["one"][1].cost
    assert "| 0.00 ± 0.00 |" in repr(result)
    assert result.pixels == "binary"


def test_float_data_are_compared_as_they_are() -> None:
    x = torch.bernoulli(torch.full((40, 6), 0.3))
    state = torch.get_rng_state()
    result = compare(bernoulli_vae, x, x[:10], seeds=(0,), epochs=1, batch_size=20, num_samples=5)
    assert torch.equal(torch.get_rng_state(), state)
    assert list(result.histories) == ["trace_elbo", "analytic_kl"]
    assert result.pixels is None
    with pytest.raises(ValueError, match="seeds: got none"):
        compare(bernoulli_vae, x, x, seeds=(), epochs=1)
    with pytest.raises(ValueError, match="objectives: got none"):
        compare(bernoulli_vae, x, x, {}, epochs=1)
