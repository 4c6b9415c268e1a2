"""Certificates: bounds on both sides of the evidence."""

import math
from typing import Any

import pytest
import torch

from pyro_vae.evaluation import certify
from pyro_vae.evaluation.estimators import AIS

from ..vaes import linear_gaussian


@pytest.mark.parametrize(
    ("estimator", "count"),
    [("importance", 50), ("prior", 50), pytest.param(AIS(20, 4), 8, marks=pytest.mark.slow)],
)
def test_a_certificate_holds_the_evidence_between_its_bounds(estimator: Any, count: int) -> None:
    case = linear_gaussian(exact=False)
    result = certify(case.vae, 200, count, estimator=estimator, seed=0)
    exact = case.evidence.log_prob(result.x)
    for side, bound in ((1, exact - result.lower), (-1, exact - result.upper)):
        error = bound.std().item() / math.sqrt(200)
        assert side * bound.mean().item() > -4 * error
    assert result.gap == pytest.approx((result.upper - result.lower).mean().item())
    assert result.gap > 0
    assert "gap=" in repr(result)


def test_a_certificate_is_tight_at_the_exact_posterior() -> None:
    case = linear_gaussian(exact=True)
    result = certify(case.vae, 70, 3, estimator="importance", seed=0)
    exact = case.evidence.log_prob(result.x)
    torch.testing.assert_close(result.lower, exact)
    torch.testing.assert_close(result.upper, exact)
    with pytest.raises(ValueError, match='estimator: got "exact", which has no error'):
        certify(case.vae, estimator="exact")
