"""Compiled scores: those of the program, or an error that says where NaN comes from."""

import logging
import math
from typing import Any

import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

from pyro_vae import VAE, log_likelihood
from pyro_vae.compile import compiled_function
from pyro_vae.evaluation import scorer as module
from pyro_vae.evaluation.log_densities import LogDensities
from pyro_vae.evaluation.scorer import Scorer

from ..conftest import needs_compiler
from ..tolerances import CLOSE, assert_rounded
from ..vaes import bernoulli_vae, binary


@needs_compiler
@pytest.mark.usefixtures("code")
def test_compiled_scores_are_those_of_the_program(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """For shapes that come often; what is no static program runs as it is."""
    vae, x = bernoulli_vae(2).double(), binary(320).double()
    plain = log_likelihood(vae, x, 300, seed=0)
    monkeypatch.setattr(module, "COMPILED_FROM", 0)
    monkeypatch.setattr(module, "DRAWN_COMPILED_FROM", 0)
    compiled = []

    def counted(*arguments: Any) -> Any:
        compiled.append(arguments)
        return compiled_function(*arguments)

    monkeypatch.setattr(module, "compiled_function", counted)
    result = log_likelihood(vae, x, 300, seed=0)
    # Whole blocks alone: a single pair, of which memory is asked, is none to compile for.
    assert {len(arguments[1][0]) for arguments in compiled} == {64}
    torch.testing.assert_close(result.values, plain.values, rtol=CLOSE, atol=0)
    torch.testing.assert_close(result.khat, plain.khat, rtol=1e-6, atol=1e-6)

    class Reads(nn.Module):
        def forward(self, z: Tensor) -> dist.Distribution:
            if z.sum() > 1e9:
                raise AssertionError
            return vae.likelihood(z)

    dynamic = VAE(vae.prior, Reads(), vae.posterior)
    with caplog.at_level(logging.INFO, "pyro_vae.evaluation.scorer"):
        result = log_likelihood(dynamic, x, 300, seed=0)
    assert (
        "a score runs uncompiled: NotStatic: compiled: the model, the guide or the" in caplog.text
    )
    torch.testing.assert_close(result.values, plain.values, rtol=CLOSE, atol=0)


@needs_compiler
@pytest.mark.usefixtures("code")
def test_compiled_scores_say_where_nan_comes_from() -> None:
    """And in float32 are those of the program up to rounding."""
    vae, x = bernoulli_vae(2), binary(64)
    with torch.no_grad():
        scorer = Scorer(LogDensities(vae.model, vae.guide, (x,)), module.DRAWN_COMPILED_FROM)
        for _ in range(5):
            z, _ = scorer.draw((x,), 8)
            scorer.score((x,), z)
        assert {key[0] for key in scorer._cache.made} == {"draw", "score"}
        # Sums over pixels of products with the hidden units, and over latents.
        log_p_z, log_p_x = scorer.score((x,), z)
        plain_z, plain_x = scorer.densities.score((x,), z)
        assert_rounded(log_p_x, plain_x, terms=6 * 10)
        assert_rounded(log_p_z, plain_z, terms=10)
        torch.manual_seed(3)
        z, log_q = scorer.draw((x,), 8)
        torch.manual_seed(3)
        plain, plain_q = scorer.densities.draw((x,), 8)
        assert_rounded(z["z"], plain["z"], terms=20, magnitude=plain["z"].abs() + 1)
        assert_rounded(log_q, plain_q, terms=40, magnitude=plain_q.abs() + 10)
        with pytest.raises(ValueError, match="likelihood: Expected parameter logits"):
            scorer.score((x,), {"z": torch.full_like(z["z"], math.inf)})
        next(vae.posterior.parameters()).fill_(math.nan)
        with pytest.raises(ValueError, match="posterior: Expected parameter loc"):
            scorer.draw((x,), 8)
        z, log_q = scorer.draw((x,), 8, check=False)
        with pytest.raises(ValueError, match="posterior: Expected parameter loc"):
            scorer.check((x,), z, log_q)
