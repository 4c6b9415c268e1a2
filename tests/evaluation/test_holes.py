"""Evaluations of data with holes: hashes, checks of independence, and criticism."""

import math
import struct

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

from pyro_vae import (
    Pair,
    distributions,
    elbo,
    likelihoods,
    log_likelihood,
    objectives,
)
from pyro_vae.compile import inductor
from pyro_vae.evaluation import (
    active_units,
    calibration,
    certify,
    data_hash,
    density_draw,
    diagnose,
    elbo_gap,
    posterior_predictive,
    scorer,
)
from pyro_vae.evaluation.independence import _extremes
from pyro_vae.gradients import measure

from ..holes import NAN, ExactPosterior, holed, linear_gaussian_with_holes, observed_vae
from ..swaps import mlp
from ..tolerances import CLOSE


def test_equal_data_with_nan_have_equal_hashes() -> None:
    """NaN has many bit patterns; a division of zeros gives another one than a constant."""
    x = torch.tensor([[1.0, NAN], [NAN, 0.5]])
    other = x.clone()
    other[0, 1] = -torch.tensor(NAN)
    payload = struct.unpack("f", struct.pack("I", 0x7FC12345))[0]
    other[1, 0] = torch.tensor(payload)
    same = x.view(torch.int32) == other.view(torch.int32)
    assert not same.all()
    assert data_hash(x) == data_hash(other) == data_hash((x,))
    assert data_hash(x) != data_hash(x.nan_to_num())
    assert data_hash(x) != data_hash(x.flip(0))
    assert data_hash((x, x)) == data_hash((other, x))


def test_the_extremes_of_a_batch_leave_nan_out() -> None:
    x = torch.tensor([[1.0, NAN, NAN], [3.0, 2.0, NAN], [NAN, 5.0, NAN]])
    low, high = _extremes(x)
    assert torch.equal(low[0, :2], torch.tensor([1.0, 2.0]))
    assert torch.equal(high[0, :2], torch.tensor([3.0, 5.0]))
    assert low[0, 2].isnan()
    assert high[0, 2].isnan()


@pytest.mark.parametrize("what", ["mean", "count"])
def test_examples_that_depend_on_each_other_are_found_beside_holes(what: str) -> None:
    """By the mean of a column over the batch, and by how many of its entries are missing."""

    def centred(x: Tensor) -> Tensor:
        seen = ~x.isnan()
        return x.nanmean(0).nan_to_num() if what == "mean" else seen.float().mean(0)

    decoder = mlp(2, 3)

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            p_x = dist.Normal(decoder(z), 1.0).to_event(1)
            pyro.sample("x", distributions.Observed(p_x), obs=x)

    def guide(x: Tensor) -> None:
        loc = x.nan_to_num()[:, :2] + centred(x)[:2]
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, 1.0).to_event(1))

    x = holed(torch.randn(9, 3))
    with pytest.raises(ValueError, match="must not depend on other examples"):
        elbo(Pair(model, guide, decoder=decoder), x, 3)


def test_a_statistic_compares_what_is_observed() -> None:
    """T counts ones; where all entries but one are holes, it counts that one."""

    class Ones(nn.Module):
        def forward(self, z: Tensor) -> dist.Distribution:
            return dist.Bernoulli(logits=z.new_full((*z.shape[:-1], 3), 30.0)).to_event(1)

    vae = observed_vae(Ones())
    x = torch.tensor([[1.0, NAN, NAN], [1.0, 1.0, 1.0], [NAN, 1.0, 1.0]])
    result = posterior_predictive(vae, x, lambda x: x.nansum(-1), 5, seed=0)
    assert result.observed.tolist() == [1.0, 3.0, 2.0]
    assert torch.equal(result.replicated, result.observed.expand(5, 3))
    assert result.p_values.tolist() == [0.5, 0.5, 0.5]
    with pytest.raises(ValueError, match=r"statistic: gave NaN for x with NaN.*nanmean"):
        posterior_predictive(vae, x, lambda x: x.mean(-1), 5, seed=0)


def test_every_evaluation_takes_holes() -> None:
    vae, x = observed_vae(likelihoods.Bernoulli(mlp(2, 3))), torch.bernoulli(torch.rand(70, 3))
    x = holed(x)
    assert elbo(vae, x, 10, seed=0).values.isfinite().all()
    assert elbo(vae, x, 10, kl="analytic", seed=0).values[0] <= CLOSE  # nothing is observed
    assert elbo_gap(vae, x[:9], 30, steps=3, seed=0).approximation.isfinite().all()
    assert active_units(vae, x).statistic.isfinite().all()
    assert certify(vae, 8, 4, estimator="ais:5:2", seed=0).upper.isfinite().all()
    assert calibration(vae, 20, 9, seed=0).p_values.isfinite().all()
    gradients = measure(vae, x, {"elbo": objectives.trace_elbo()}, draws=20, seed=0)
    assert set(gradients["elbo"]) == {"encoder", "decoder"}
    text = repr(diagnose(vae, x, seed=0))
    assert "decoder that ignores z" in text


def test_saturated_logits_are_found_among_the_observed_elements() -> None:
    class Sure(nn.Module):
        def forward(self, z: Tensor) -> dist.Distribution:
            return dist.Bernoulli(logits=z.new_full((*z.shape[:-1], 3), -50.0)).to_event(1)

    x = torch.tensor([[1.0, NAN, 0.0], [0.0, 1.0, NAN]])
    findings = diagnose(observed_vae(Sure()), x, seed=0).findings
    found = {finding.name: finding.values for finding in findings}
    assert found["saturated logits"]["saturated_wrong"] == 1.0
    assert found["saturated logits"]["saturated_nats"] == pytest.approx(50.0)


def test_grey_levels_are_binary_for_a_likelihood_of_binary_pixels_with_holes() -> None:
    levels = torch.zeros(7, 3, dtype=torch.uint8)
    for likelihood, pixels in (
        (likelihoods.Bernoulli(mlp(2, 3)), "binary"),
        (likelihoods.ContinuousBernoulli(mlp(2, 3)), "dequantized"),
    ):
        assert density_draw(observed_vae(likelihood), levels, "grey", seed=0)[1] == pixels


def test_the_elbo_of_a_refined_guide_is_log_p_of_what_is_observed() -> None:
    """A wide posterior whose network can be refined to the exact one, for each pattern."""
    known = linear_gaussian_with_holes(width=1.3)
    gap = elbo_gap(known.vae, known.x, 400, steps=400, seed=0)
    exact = known.evidence()
    assert (gap.refined - exact).abs().max() < 0.1
    assert isinstance(known.vae.posterior, ExactPosterior)


def test_holes_and_a_compiled_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inductor, "compile_by_inductor", lambda traced, inputs: traced)
    vae, x = observed_vae(likelihoods.Bernoulli(mlp(2, 3))), torch.bernoulli(torch.rand(70, 3))
    x = holed(x)
    plain = log_likelihood(vae, x, 128, seed=0)
    monkeypatch.setattr(scorer, "COMPILED_FROM", 1)
    monkeypatch.setattr(scorer, "DRAWN_COMPILED_FROM", 1)
    compiled = log_likelihood(vae, x, 128, seed=0)
    assert torch.allclose(plain.values, compiled.values, atol=1e-5)
    assert math.isfinite(compiled.mean)
