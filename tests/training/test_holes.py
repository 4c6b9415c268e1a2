"""Training on data with holes: in every way the same, and complete data as without them."""

import copy
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pyro.infer import ELBO
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from pyro_vae import VAE, fit, likelihoods, networks, objectives, posteriors, priors
from pyro_vae.comparison import compare
from pyro_vae.compile import Repeated

from ..conftest import needs_compiler
from ..holes import holed, observed_vae
from ..swaps import LIKELIHOODS, data, likelihood_of, mlp
from ..tolerances import CLOSE
from ..vaes import binary, parameters

WHOLE = importlib.import_module("pyro_vae.training.whole_epochs")


def digits_vae() -> VAE:
    return observed_vae(likelihoods.Bernoulli(mlp(2, 6)), x_dim=6)


def pixels(examples: int = 20) -> Tensor:
    return holed(binary(examples, 6))


OBJECTIVES: dict[str, Callable[[], ELBO]] = {
    "trace_elbo": lambda: objectives.trace_elbo(),
    "three particles": lambda: objectives.trace_elbo(num_particles=3),
    "analytic_kl": lambda: objectives.analytic_kl(),
    "sticking_the_landing": lambda: objectives.sticking_the_landing(),
    "iwae": lambda: objectives.iwae(4),
    "dreg": lambda: objectives.dreg(4),
    "free_bits": lambda: objectives.free_bits(0.1),
}


@needs_compiler
@pytest.mark.usefixtures("float64", "code")
@pytest.mark.parametrize("recorded", [False, True])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_compiled_it_is_the_same_training(
    name: str, recorded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Step by step, as one program, and as what repeats on a GPU; its last batch is smaller."""
    if recorded:
        monkeypatch.setattr(WHOLE, "recorder", lambda device: Repeated)
    start, x = digits_vae(), pixels(23)
    trained, costs = [], []
    for compile in (True, False):
        vae = copy.deepcopy(start)
        settings: dict[str, Any] = {"objective": OBJECTIVES[name](), "compile": compile}
        history = fit(vae, x, epochs=2, batch_size=5, test=x[:4], **settings)
        trained.append(parameters(vae))
        costs.append(history.cost)
    assert trained[0].isfinite().all()
    assert torch.allclose(trained[0], trained[1], rtol=CLOSE, atol=CLOSE)
    assert costs[0] == pytest.approx(costs[1], rel=CLOSE)
    assert not torch.equal(trained[0], parameters(start))


def test_complete_data_train_as_without_it_bit_for_bit() -> None:
    likelihood, encoder = likelihoods.Bernoulli(mlp(2, 6)), mlp(6, 4)
    plain = VAE(priors.StandardNormal(2), likelihood, posteriors.Normal(encoder))
    observed = copy.deepcopy(plain)
    observed.likelihood = likelihoods.Observed(observed.likelihood)
    x = binary(20, 6)
    histories = [fit(vae, x, epochs=2, batch_size=8, compile=False) for vae in (plain, observed)]
    assert torch.equal(parameters(plain), parameters(observed))
    assert histories[0].cost == histories[1].cost


@pytest.mark.parametrize("name", [n for n in LIKELIHOODS if not n.startswith("Observed")])
def test_each_likelihood_trains(name: str) -> None:
    vae, x = observed_vae(likelihood_of(name, 2)), holed(data(name))
    history = fit(vae, x, epochs=2, batch_size=4, compile=False)
    assert torch.tensor(history.cost).isfinite().all()
    assert parameters(vae).isfinite().all()


def test_data_of_any_kind(tmp_path: Path) -> None:
    """A tensor, an array, a file, a data set and batches: the same data, and the same numbers."""
    start, x = digits_vae(), pixels()
    np.save(tmp_path / "x.npy", x.numpy())
    kinds: dict[str, Any] = {
        "tensor": x,
        "array": x.numpy(),
        "file": np.load(tmp_path / "x.npy", mmap_mode="r"),
        "data set": TensorDataset(x),
    }
    trained = {}
    for kind, given in kinds.items():
        vae = copy.deepcopy(start)
        fit(vae, given, epochs=2, batch_size=8, validation=0.2, compile=False)
        trained[kind] = parameters(vae)
    for kind in kinds:
        assert torch.equal(trained[kind], trained["tensor"]), kind
    loader = DataLoader(TensorDataset(x), batch_size=8)
    assert (
        torch.tensor(fit(digits_vae(), loader, epochs=2, test=loader).test_cost).isfinite().all()
    )


def test_levels_get_holes_by_a_transform() -> None:
    """Each batch of levels becomes pixels, and what the mask in the context says becomes NaN."""

    def with_holes(batch: Any) -> Tensor:
        x, seen = batch
        return x.masked_fill(~seen, float("nan"))

    levels = (255 * torch.rand(20, 6)).byte()
    seen = torch.rand(20, 6) < 0.7
    settings: dict[str, Any] = {"pixels": "binary", "transform": with_holes, "compile": False}
    history = fit(digits_vae(), (levels, seen), epochs=2, batch_size=8, **settings)
    assert torch.tensor(history.cost).isfinite().all()


def test_a_checkpoint_goes_on_bit_for_bit(tmp_path: Path) -> None:
    start, x = digits_vae(), pixels()
    whole, parted = copy.deepcopy(start), copy.deepcopy(start)
    settings: dict[str, Any] = {"batch_size": 8, "compile": False}
    fit(whole, x, epochs=3, **settings)
    fit(parted, x, epochs=1, checkpoint=tmp_path / "run", **settings)
    fit(parted, x.clone(), epochs=3, checkpoint=tmp_path / "run", resume=True, **settings)
    assert torch.equal(parameters(whole), parameters(parted))


def test_objectives_are_compared() -> None:
    bounds = {"elbo": objectives.trace_elbo(), "iwae": objectives.iwae(3)}
    settings: dict[str, Any] = {"epochs": 1, "num_samples": 30, "draws": 20, "batch_size": 8}
    result = compare(digits_vae, pixels(), pixels(), bounds, (0,), **settings)
    for found in result.log_likelihoods.values():
        assert found[0].values.isfinite().all()


def test_a_flow_and_a_vamp_prior_take_holes() -> None:
    pytest.importorskip("zuko")
    encoder = networks.Observed(mlp((2, 6), 2 * 2 + 3))
    posterior = posteriors.Normal(networks.Observed(mlp((2, 6), 4)))
    likelihood = likelihoods.Observed(likelihoods.Bernoulli(mlp(2, 6)))
    for prior, q in (
        (priors.StandardNormal(2), posteriors.Flow(encoder, 2, hidden=(8,))),
        (priors.VampPrior(posterior, torch.rand(3, 6)), posterior),
    ):
        vae = VAE(prior, likelihood, q)
        history = fit(vae, pixels(), epochs=2, batch_size=8, compile=False)
        assert torch.tensor(history.cost).isfinite().all()
