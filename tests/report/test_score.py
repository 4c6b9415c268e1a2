"""Log-likelihoods of a result and of a record agree, and paired differences are those by hand."""

import math
from pathlib import Path

import pytest
import torch

from pyro_vae import log_likelihood
from pyro_vae.evaluation import LogLikelihood
from pyro_vae.report.score import Score
from pyro_vae.storage import add_evaluation, evaluations
from tests.vaes import bernoulli_vae, binary


@pytest.fixture
def result() -> LogLikelihood:
    return log_likelihood(bernoulli_vae(), binary(20), num_samples=50, seed=0)


def test_a_record_gives_the_score_of_its_result(result: LogLikelihood, tmp_path: Path) -> None:
    score = Score.of(result)
    record = {
        "log-likelihood": {n: getattr(result, n) for n in ("mean", "stderr", "mc_error")},
        "per example": {"values": result.values.tolist(), "khat": result.khat.tolist()},
        "num_samples": result.num_samples,
        "estimator": result.estimator,
        "sizes": list(result.sizes),
        "bounds": list(result.bounds),
        "bound_errors": list(result.bound_errors),
        "doubt": result.doubt,
        "data_hash": result.data_hash,
    }
    add_evaluation(tmp_path, record)
    read = Score.read(evaluations(tmp_path)[0])
    for name in ("mean", "stderr", "num_samples", "sizes", "bounds", "doubt", "data_hash", "how"):
        assert getattr(read, name) == getattr(score, name), name
    assert torch.equal(read.values, score.values.double())
    torch.testing.assert_close(read.khat, score.khat.double(), equal_nan=True)
    torch.testing.assert_close(
        torch.tensor(read.errors), torch.tensor(score.errors), equal_nan=True
    )


def test_missing_and_infinite_numbers_come_back(result: LogLikelihood, tmp_path: Path) -> None:
    values = [math.nan, math.inf, -math.inf]
    record = {
        "log-likelihood": {"mean": -math.inf, "stderr": math.nan, "mc_error": math.nan},
        "per example": {"values": values, "khat": values},
        "num_samples": 30,
        "estimator": "importance",
        "sizes": [1],
        "bounds": [-math.inf],
        "bound_errors": [math.nan],
        "doubt": None,
        "data_hash": "0",
    }
    add_evaluation(tmp_path, record)
    read = Score.read(evaluations(tmp_path)[0])
    assert (read.mean, read.doubt) == (-math.inf, "")
    assert math.isnan(read.stderr)
    expected = torch.tensor(values, dtype=torch.float64)
    torch.testing.assert_close(read.values, expected, equal_nan=True)
    assert read.doubtful == "2 of 3"  # Minus infinity is the best k-hat.


def test_a_paired_difference_is_that_by_hand() -> None:
    x = binary(20)
    results = [log_likelihood(bernoulli_vae(), x, num_samples=50, seed=s) for s in (0, 1)]
    first, second = map(Score.of, results)
    gains = [b - a for a, b in zip(first.values.tolist(), second.values.tolist(), strict=True)]
    mean = sum(gains) / 20
    variance = sum((gain - mean) ** 2 for gain in gains) / 19
    assert second.above(first) == pytest.approx((mean, math.sqrt(variance / 20)))


def test_scores_of_other_data_are_not_subtracted(result: LogLikelihood) -> None:
    other = log_likelihood(bernoulli_vae(), binary(20), num_samples=50, seed=0)
    assert Score.of(other).above(Score.of(result)) is None


def test_an_exact_score_has_no_samples() -> None:
    x = binary(4)
    score = Score.of(log_likelihood(bernoulli_vae(), x, num_samples=10, seed=0))
    assert (score.how, score.doubtful) == ("10 importance", "unknown")
