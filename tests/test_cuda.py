"""Pairs on a GPU: the same laws, with data from the CPU and all work on the device."""

import copy
import importlib
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pyro.infer import SVI
from torch import Tensor
from torch.optim.lr_scheduler import ExponentialLR
from torch.utils.data import DataLoader, TensorDataset

from pyro_vae import Pair, elbo, fit, load, log_likelihood, objectives, optim, save
from pyro_vae.evaluation import active_units, certify, elbo_gap, posterior_predictive
from pyro_vae.gradients import measure

from .pairs import two_layers_evidence
from .test_context import labelled
from .test_pair import as_pair, modular, pair_of, two_layers_pair
from .vaes import bernoulli_vae, binary, linear_gaussian

pytestmark = pytest.mark.cuda

OBJECTIVES: dict[str, Callable[[], Any]] = {
    "trace_elbo": lambda: objectives.trace_elbo(2),
    "analytic_kl": objectives.analytic_kl,
    "stl": objectives.sticking_the_landing,
    "iwae": lambda: objectives.iwae(3),
    "dreg": lambda: objectives.dreg(3),
    "beta": lambda: objectives.beta(2.0),
    "free_bits": lambda: objectives.free_bits(0.1),
    "warm_up": lambda: objectives.warm_up(objectives.trace_elbo(), 5, end=2.0),
}


def devices(pair: torch.nn.Module) -> set[str]:
    return {t.device.type for t in (*pair.parameters(), *pair.buffers())}


@pytest.mark.parametrize("make", [pair_of, modular, two_layers_pair])
@pytest.mark.parametrize("compiled", [False, True])
def test_pairs_train_where_they_are(make: Callable[[], Pair], compiled: bool) -> None:
    pair = make().to("cuda")
    x = torch.randn(512, 3 if make is two_layers_pair else 5)
    x = x.double() if make is two_layers_pair else x
    rate = optim.Adam(lr=1e-2)
    history = fit(pair, x, test=x[:50], epochs=5, batch_size=64, compile=compiled, optim=rate)
    assert devices(pair) == {"cuda"}
    assert history.cost[-1] < history.cost[0]
    result = log_likelihood(pair, x[:64], 200, seed=0)
    assert result.values.device.type == "cuda"


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("compiled", [False, True])
def test_objectives_take_a_context_on_the_device(name: str, compiled: bool) -> None:
    vae = labelled().to("cuda")
    batch = (torch.rand(256, 3, 2) < 0.5).float(), torch.randint(4, (256,))
    history = fit(
        vae, batch, epochs=3, batch_size=64, objective=OBJECTIVES[name](), compile=compiled
    )
    assert len(history.cost) == 3
    assert all(np.isfinite(history.cost))


def test_sources_give_the_same_weights(tmp_path: Path) -> None:
    x, y = (torch.rand(200, 3, 2) < 0.5).float(), torch.randint(4, (200,))
    for name, entry in (("x", x), ("y", y)):
        np.save(tmp_path / f"{name}.npy", entry.numpy())
    mapped = tuple(np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in "xy")
    start = labelled().to("cuda")
    weights = []
    sources: tuple[Any, ...] = ((x, y), (x.numpy(), y.numpy()), mapped, TensorDataset(x, y))
    for data in (*sources, (x.cuda(), y.cuda())):
        vae = copy.deepcopy(start)
        fit(vae, data, epochs=2, batch_size=32)
        weights.append(torch.cat([p.flatten() for p in vae.parameters()]))
    assert all(torch.equal(weights[0], other) for other in weights[1:])
    loader = DataLoader(TensorDataset(x, y), 32, shuffle=True, pin_memory=True)
    assert len(fit(copy.deepcopy(start), loader, epochs=2).cost) == 2
    levels = (255 * x).byte()
    fit(copy.deepcopy(start), (levels, y), epochs=1, batch_size=32, pixels="binary")

    def drawn(batch: Any) -> tuple[Tensor, Tensor]:
        assert {entry.device.type for entry in batch} == {"cuda"}
        return torch.bernoulli(batch[0] / 255), batch[1]

    fit(copy.deepcopy(start), (levels, y), epochs=1, batch_size=32, transform=drawn)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_epochs_are_recorded(name: str, caplog: pytest.LogCaptureFixture) -> None:
    """With the weights of steps one by one, and of the same epochs again."""
    whole = importlib.import_module("pyro_vae.training.whole_epochs")
    x, start = binary(200).cuda(), bernoulli_vae().to("cuda")
    found = []
    for way in ("recorded", "recorded again", "one by one"):
        vae = copy.deepcopy(start)
        with pytest.MonkeyPatch.context() as patch, caplog.at_level(logging.INFO, whole.__name__):
            if way == "one by one":
                patch.setattr(whole, "recorder", lambda device: None)
            rate = optim.Adam(lr=1e-2, schedule=lambda adam: ExponentialLR(adam, 0.99))
            objective = objectives.compiled(OBJECTIVES[name]())
            fit(vae, x, epochs=4, batch_size=16, objective=objective, optim=rate)
        recorded = "an epoch is one program, whose steps are recorded as CUDA graphs"
        assert caplog.messages[-1] == (recorded if way != "one by one" else recorded[:25])
        found.append(torch.cat([p.detach().flatten() for p in vae.parameters()]))
    assert torch.equal(found[0], found[1])
    torch.testing.assert_close(found[0], found[2], rtol=1e-4, atol=1e-5)


def test_steps_by_hand_are_recorded(caplog: pytest.LogCaptureFixture) -> None:
    x, vae = binary(16).cuda(), bernoulli_vae().to("cuda")
    objective = objectives.compiled(objectives.trace_elbo())
    svi = SVI(vae.model, vae.guide, optim.Adam(lr=1e-3), objective)
    graph = importlib.import_module("pyro_vae.compile.graph")
    with caplog.at_level(logging.INFO, graph.__name__):
        losses = [svi.step(x) for _ in range(30)]
    assert not [line for line in caplog.messages if "not recorded" in line]
    assert all(np.isfinite(losses))
    assert losses[-1] < losses[0]


def test_evaluation_agrees_with_closed_forms() -> None:
    evidence, pair = two_layers_evidence(), two_layers_pair().to("cuda")
    x = evidence.sample((64,))
    pair.setup(x.cuda())
    result = log_likelihood(pair, x, 2000, seed=0)
    exact = evidence.log_prob(x).mean().item()
    assert abs(result.mean - exact) < 5 * result.mc_error + abs(result.bias)
    assert elbo(pair, x, 100, seed=0).mean < exact
    certificate = certify(pair, x=x, num_samples=20, estimator="ais:50:3", seed=0)
    truth = evidence.log_prob(certificate.x.cpu()).mean().item()
    error = 4 * certificate.gap_error
    assert certificate.lower_mean - error < truth < certificate.upper_mean + error
    assert active_units(pair, x, seed=0).statistic.shape == (4,)
    check = posterior_predictive(pair, x, lambda x: x.mean(-1), 20, seed=0)
    assert check.replicated.shape == (20, 64)
    case = linear_gaussian(exact=False)
    gap = elbo_gap(as_pair(case.vae.to("cuda")), case.x, 300, steps=200, seed=0)
    log_p = case.evidence.log_prob(case.x)
    assert (log_p.cuda() - gap.refined).mean() < 0.1 * (log_p.cuda() - gap.elbo).mean()
    gradients = measure(pair, x, {"elbo": objectives.trace_elbo()}, draws=20)
    assert set(gradients["elbo"]) == {"encoder", "decoder"}


def test_pairs_move_with_their_parameters_of_pyro(tmp_path: Path) -> None:
    x, pair = torch.randn(20, 5), pair_of().to("cuda")
    pair.setup(x.cuda())
    assert devices(pair) == {"cuda"}
    save(pair, tmp_path)
    fresh = load(tmp_path, into=pair_of().to("cuda"))
    assert devices(fresh) == {"cuda"}
    for name, value in pair.state_dict().items():
        assert torch.equal(value, fresh.state_dict()[name])
    host = load(tmp_path, into=pair_of())
    assert devices(host) == {"cpu"}
    twin = copy.deepcopy(pair).cpu()
    assert torch.equal(twin.params["scale"], host.params["scale"])


def test_many_draws_are_scored_by_compiled_code() -> None:
    x, pair = binary(2048), as_pair(bernoulli_vae()).to("cuda")
    result = log_likelihood(pair, x, 5000, seed=0)
    assert result.values.isfinite().all()
