"""Further pairs of data with holes: what they take is said by their likelihood, too."""

from collections.abc import Callable

import pytest
import torch

from pyro_vae import (
    fit,
    likelihoods,
    log_likelihood,
    models,
    networks,
    objectives,
    posteriors,
    priors,
)
from pyro_vae.composed import Composed
from pyro_vae.evaluation import impute

from ..holes import holed
from ..swaps import mlp


def gaussian(network: torch.nn.Module, observed: bool) -> torch.nn.Module:
    likelihood = likelihoods.Gaussian(network, scale=0.5)
    return likelihoods.Observed(likelihood) if observed else likelihood


def with_class(numbers: int) -> networks.Observed:
    network = networks.MLP(2 * 3 + 3, (8,), numbers)
    return networks.Observed(networks.Conditioned(network, (), classes=3), x_shape=3)


def hierarchical(observed: bool) -> Composed:
    return models.HierarchicalVAE(
        [posteriors.Normal(mlp(2, 4)), priors.StandardNormal(2)],
        gaussian(mlp(2, 3), observed),
        [posteriors.Normal(networks.Observed(mlp((2, 3), 4))), posteriors.Normal(mlp(2, 4))],
    )


def mixture(observed: bool) -> Composed:
    return models.MixtureVAE(
        priors.GaussianMixture(2, components=3),
        gaussian(mlp(2, 3), observed),
        posteriors.Normal(with_class(4)),
        models.Classifier(networks.Observed(mlp((2, 3), 3))),
    )


def semi_supervised(observed: bool) -> Composed:
    decoder = networks.Conditioned(networks.MLP(2 + 3, (8,), 3), (), classes=3)
    return models.SemiSupervisedVAE(
        priors.StandardNormal(2),
        gaussian(decoder, observed),
        posteriors.Normal(with_class(4)),
        models.Classifier(networks.Observed(mlp((2, 3), 3))),
        classes=3,
    )


MAKE: dict[str, Callable[[bool], Composed]] = {
    "hierarchical": hierarchical,
    "mixture": mixture,
    "semi-supervised": semi_supervised,
}


@pytest.mark.parametrize("name", MAKE)
def test_further_pairs_take_holes_and_refuse_them(name: str) -> None:
    x = holed(torch.randn(9, 3))
    pair, refusing = MAKE[name](True), MAKE[name](False)
    objective = objectives.trace_elbo() if name == "hierarchical" else objectives.enumerated()
    history = fit(pair, x, epochs=2, batch_size=5, objective=objective, compile=False)
    assert torch.tensor(history.cost).isfinite().all()
    assert log_likelihood(pair, x, 64, seed=0).values.isfinite().all()
    result = impute(pair, x, 64, num_draws=2, seed=0)
    for made in (result.mean, *result.quantiles, *result.draws):
        assert made.isfinite().all()
        assert torch.equal(made[~x.isnan()], x[~x.isnan()])
    assert pair.reconstruct(x).isfinite().all()
    with pytest.raises(ValueError, match="got nan"):
        fit(refusing, x, epochs=1, objective=objective, compile=False)
    with pytest.raises(ValueError, match="got nan"):
        log_likelihood(refusing, x, 64)
