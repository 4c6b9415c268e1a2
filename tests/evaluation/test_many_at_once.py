"""Many samples in one step, as a GPU takes them: the values of one chunk after the other."""

import importlib
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from pyro_vae import elbo, log_likelihood
from pyro_vae.compile import Repeated
from pyro_vae.evaluation import certify
from pyro_vae.evaluation.importance_weights import Weights

from ..conftest import needs_compiler
from ..tolerances import CLOSE
from ..vaes import bernoulli_vae, binary, linear_gaussian

BLOCKS = importlib.import_module("pyro_vae.evaluation.blocks")
SCORER = importlib.import_module("pyro_vae.evaluation.scorer")


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Switches to the way of a GPU, with Python in place of recordings."""

    def switch() -> None:
        monkeypatch.setattr(BLOCKS, "_takes_many", lambda device: True)
        monkeypatch.setattr(SCORER, "recorder", lambda device: Repeated)

    return switch


@pytest.mark.parametrize(
    "estimator", [pytest.param("importance", marks=pytest.mark.slow), "prior"]
)
def test_values_are_those_of_one_chunk_at_a_time(estimator: str, at_once: Any) -> None:
    vae, x = bernoulli_vae(2).double(), binary(70).double()
    settings: dict[str, Any] = {"estimator": estimator, "seed": 3}
    plain = log_likelihood(vae, x, 300, **settings)
    at_once()
    for max_bytes in (2**14, 2**17, "auto"):
        result = log_likelihood(vae, x, 300, max_bytes=max_bytes, **settings)
        torch.testing.assert_close(result.values, plain.values, rtol=CLOSE, atol=0)
        torch.testing.assert_close(result.khat, plain.khat, rtol=1e-6, atol=1e-6)
        assert result.bounds == pytest.approx(plain.bounds, rel=CLOSE)


def test_without_a_seed_the_global_generator_decides(at_once: Any) -> None:
    vae, x = bernoulli_vae(2).double(), binary(70).double()
    torch.manual_seed(1)
    plain = log_likelihood(vae, x, 150)
    at_once()
    torch.manual_seed(1)
    result = log_likelihood(vae, x, 150)
    torch.testing.assert_close(result.values, plain.values, rtol=CLOSE, atol=0)


def test_bounds_take_the_same_path(at_once: Any) -> None:
    case = linear_gaussian(exact=False)

    def bounds() -> tuple[Any, Any]:
        settings: dict[str, Any] = {"num_samples": 100, "estimator": "importance", "seed": 0}
        return elbo(case.vae, case.x, 200, seed=0), certify(case.vae, 9, **settings)

    plain = bounds()
    at_once()
    found = bounds()
    torch.testing.assert_close(found[0].values, plain[0].values, rtol=CLOSE, atol=0)
    torch.testing.assert_close(found[1].lower, plain[1].lower, rtol=CLOSE, atol=0)


@needs_compiler
@pytest.mark.usefixtures("code")
def test_draws_are_recorded(at_once: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    vae, x = bernoulli_vae(2).double(), binary(200).double()
    plain = log_likelihood(vae, x, 300, seed=3)
    at_once()
    monkeypatch.setattr(SCORER, "COMPILED_FROM", 0)
    monkeypatch.setattr(SCORER, "DRAWN_COMPILED_FROM", 0)
    made = []

    def replayed(*arguments: Any) -> Any:
        made.append(own(*arguments))
        return made[-1]

    own = SCORER.Replayed
    monkeypatch.setattr(SCORER, "Replayed", replayed)
    result = log_likelihood(vae, x, 300, seed=3)
    torch.testing.assert_close(result.values, plain.values, rtol=CLOSE, atol=0)
    assert len(made) == 1


def test_nan_among_many_draws_is_named(at_once: Any) -> None:
    vae, x = bernoulli_vae(2), binary(5)
    at_once()
    with torch.no_grad():
        vae.posterior.network.layers[-1].bias.fill_(math.nan)
    with pytest.raises(ValueError, match="posterior: Expected parameter loc"):
        log_likelihood(vae, x, 200, seed=0)


def test_weights_may_come_in_any_number_of_chunks() -> None:
    log_w = torch.randn(5000, 7).double()
    results = []
    for size in (64, 640, 1024, 4096, 5000):
        weights = Weights(5000)
        for part in log_w.split(size):
            weights.add(part)
        results.append(weights.statistics())
    for result in results[1:]:
        for name in ("value", "khat", "bounds", "bound_variances", "jackknife"):
            assert torch.equal(getattr(result, name), getattr(results[0], name))


def test_a_bound_that_is_none() -> None:
    with pytest.raises(ValueError, match="max_bytes: got 'all', expected a number of bytes"):
        log_likelihood(bernoulli_vae(2), binary(5), 5, max_bytes="all")
    with pytest.raises(ValueError, match="max_bytes"):
        log_likelihood(bernoulli_vae(2), binary(5), 5, max_bytes=0)
