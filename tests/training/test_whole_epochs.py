"""Epochs as one program: the same weights as steps one by one, recorded or not."""

import copy
import gc
import importlib
import logging
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import pyro.optim
import pytest
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import (
    ExponentialLR,
    LambdaLR,
    OneCycleLR,
    ReduceLROnPlateau,
)

from pyro_vae import VAE, Pair, fit, likelihoods, networks, objectives, optim, posteriors, priors
from pyro_vae.compile import Repeated
from pyro_vae.training import History, NonFiniteLoss

from ..conftest import needs_compiler
from ..tolerances import CLOSE
from ..vaes import binary, parameters

pytestmark = [needs_compiler, pytest.mark.usefixtures("float64", "code")]
WHOLE = importlib.import_module("pyro_vae.training.whole_epochs")

WAYS = "program", "recorded"
"""Steps in one graph, and the same as on a GPU, but that Python repeats what is recorded there."""


@pytest.fixture
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Takes whole epochs in one of the ways."""
    if request.param == "recorded":
        monkeypatch.setattr(WHOLE, "recorder", lambda device: Repeated)
    return request.param


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Iterator[list[str]]:
    """What the log says about the way that is taken."""
    lines: list[str] = []
    with caplog.at_level(logging.INFO, WHOLE.__name__):
        yield lines
        lines += [record.getMessage() for record in caplog.records]


def vae(labels: int = 0) -> VAE:
    def conditioned(network: nn.Module) -> nn.Module:
        return networks.Conditioned(network, (), classes=labels) if labels else network

    return VAE(
        priors.StandardNormal(2),
        likelihoods.Bernoulli(conditioned(networks.MLP(2 + labels, (6,), (6,)))),
        posteriors.Normal(conditioned(networks.MLP(6 + labels, (6,), 4))),
    )


def both(start: Pair, data: Any, **settings: Any) -> tuple[History, History]:
    """Trains uncompiled step by step and by a program, and holds the weights together."""
    makes: dict[str, Any] = {
        name: settings.pop(name) for name in ("optim", "objective") if name in settings
    }  # each run has its own
    runs = []
    for compile in (False, True):
        pair = copy.deepcopy(start)
        own = {name: make(pair) for name, make in makes.items()}
        sizes = {"epochs": 3, "batch_size": 8}
        history = fit(pair, data, compile=compile, **{**sizes, **own, **settings})
        runs.append((parameters(pair), history))
    torch.testing.assert_close(runs[1][0], runs[0][0], rtol=CLOSE, atol=CLOSE)
    assert not torch.equal(runs[0][0], parameters(start))
    for name in set(runs[0][1]) - {"seconds"}:
        assert runs[1][1][name] == pytest.approx(runs[0][1][name], rel=CLOSE)
    return runs[0][1], runs[1][1]


OBJECTIVES: dict[str, Callable[[Any], Any]] = {
    "trace_elbo": lambda pair: objectives.trace_elbo(2),
    "analytic_kl": lambda pair: objectives.analytic_kl(),
    "sticking_the_landing": lambda pair: objectives.sticking_the_landing(),
    "iwae": lambda pair: objectives.iwae(3),
    "dreg": lambda pair: objectives.dreg(3),
    "beta": lambda pair: objectives.beta(2.0),
    "free_bits": lambda pair: objectives.free_bits(0.1),
    "warm_up": lambda pair: objectives.warm_up(objectives.trace_elbo(), 5, end=2.0),
}


@pytest.mark.parametrize("way", WAYS, indirect=True)
@pytest.mark.parametrize("name", OBJECTIVES)
def test_objectives_give_the_same_weights(name: str, way: str) -> None:
    both(vae(), binary(28), objective=OBJECTIVES[name])


OPTIMIZERS: dict[str, Callable[[Any], Any]] = {
    "Adam": lambda pair: optim.Adam(1e-2),
    "clipped": lambda pair: optim.Adam(1e-2, clip_norm=0.5),
    "ExponentialLR": lambda pair: optim.Adam(1e-2, schedule=lambda o: ExponentialLR(o, 0.9)),
    "LambdaLR": lambda pair: optim.Adam(
        1e-2, schedule=lambda o: LambdaLR(o, lambda step: 1 / (1 + step))
    ),
    "plateau": lambda pair: optim.Adam(
        1e-2, schedule=lambda o: ReduceLROnPlateau(o, patience=0, threshold=10.0)
    ),
    "OneCycleLR": lambda pair: optim.Adam(
        1e-2, schedule=lambda o: OneCycleLR(o, 1e-2, total_steps=12)
    ),
    "AdamW": lambda pair: optim.from_torch(torch.optim.AdamW, lr=1e-2, clip_norm=1.0),
    "SGD": lambda pair: optim.from_torch(
        torch.optim.SGD, lr=1e-2, momentum=0.9, schedule=lambda o: ExponentialLR(o, 0.9)
    ),
    "Adagrad": lambda pair: optim.from_torch(torch.optim.Adagrad, lr=1e-2),
    "held": lambda pair: torch.optim.RMSprop(pair.parameters(), lr=1e-2),
    "Pyro's": lambda pair: pyro.optim.ClippedAdam({"lr": 1e-2}),
}


QUICK = "Adam", "SGD", "plateau", "OneCycleLR"

NOT_RECORDED = {
    "OneCycleLR": "not recorded: the schedule changes more than rates",
    "Adagrad": "not recorded: Adagrad has no option capturable",
    "Pyro's": "not recorded: PyroOptim has an optimizer for each parameter",
}


@pytest.mark.parametrize("way", WAYS, indirect=True)
@pytest.mark.parametrize(
    "name",
    [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in OPTIMIZERS],
)
def test_optimizers_give_the_same_weights(
    name: str, way: str, said: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    x = binary(28)
    both(vae(), x, optim=OPTIMIZERS[name], test=x[:5])
    expected = "an epoch is one program"
    if way == "recorded":
        expected += ", whose steps are " + NOT_RECORDED.get(name, "recorded as CUDA graphs")
    assert caplog.records[-1].getMessage() == expected


@pytest.mark.parametrize("way", WAYS, indirect=True)
@pytest.mark.parametrize("size", [5, 8, 9, 16, 31])
def test_any_number_of_batches(size: int, way: str) -> None:
    both(vae(), binary(size), batch_size=min(8, size))


@pytest.mark.parametrize("way", WAYS, indirect=True)
@pytest.mark.parametrize("pixels", ["binary", "dequantized", "grey"])
def test_pixels_are_drawn_in_the_graph(pixels: str, way: str) -> None:
    levels = torch.randint(256, (20, 6), dtype=torch.uint8)
    pair = vae()
    if pixels != "binary":
        pair.likelihood = likelihoods.Gaussian(pair.likelihood.network, scale=0.5)
        if pixels == "grey":
            levels = levels.clamp(1, 254)
    both(pair, levels, pixels=pixels)


@pytest.mark.parametrize("way", WAYS, indirect=True)
def test_a_context_comes_along(way: str) -> None:
    both(vae(labels=4), (binary(28), torch.randint(4, (28,))))


@pytest.mark.parametrize("way", WAYS, indirect=True)
def test_bf16_gives_the_same_weights(way: str) -> None:
    torch.set_default_dtype(torch.float32)
    x, start, found = binary(28), vae(), []
    for compile in (False, True):
        pair = copy.deepcopy(start)
        fit(pair, x, epochs=2, batch_size=8, precision="bf16", compile=compile)
        found.append(parameters(pair))
    # Networks in bfloat16 have a relative precision of 2**-8, and Adam's first steps are of the
    # size of its rate whatever the gradient is.
    assert (found[0] - found[1]).abs().max() < 8 * 1e-3
    assert not torch.equal(found[0], parameters(start))


def test_the_log_says_which_way(said: list[str], caplog: pytest.LogCaptureFixture) -> None:
    x = binary(28)
    settings: dict[str, Any] = {"epochs": 3, "batch_size": 8, "compile": True}
    for data, more, expected in (
        (x, {}, "an epoch is one program"),
        (x, {"compile": False}, "the objective is not compiled"),
        ([(batch,) for batch in x.split(8)], {"batch_size": None}, "the data are not in memory"),
        (x, {"transform": lambda x: x}, "transform= may do something else for each batch"),
        (x[:5], {}, "an epoch is less than one batch"),
    ):
        caplog.clear()
        chosen = {**settings, **more}
        if chosen["batch_size"] is None:
            del chosen["batch_size"]
        few = pytest.warns(UserWarning, match="each epoch is one batch")
        with few if len(data) == 5 else nullcontext():
            fit(vae(), data, **chosen)
        (line,) = [r.getMessage() for r in caplog.records if r.name == WHOLE.__name__]
        assert expected in line


class Poisoned(nn.Module):
    """Passes on what it gets, and NaN from a batch on in which it finds a mark."""

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.where(x[..., :1] == 2.0, torch.nan, 0.0)


def poisoned() -> VAE:
    network = nn.Sequential(Poisoned(), nn.Linear(6, 4))
    return VAE(
        priors.StandardNormal(2),
        likelihoods.Gaussian(networks.MLP(2, (), (6,)), scale=0.5),
        posteriors.Normal(network),
    )


@pytest.mark.parametrize("way", WAYS, indirect=True)
def test_a_loss_that_is_not_finite_names_its_batch_and_is_not_taken(way: str) -> None:
    """The same error as step by step, with the weights from before that batch."""
    x = torch.randn(60, 6)
    x[37, 0] = 2.0
    start, found = poisoned(), []
    for compile in (False, True):
        pair, optimizer = copy.deepcopy(start), optim.Adam(1e-2)
        pair.posterior.network[0].eval()
        with pytest.raises(NonFiniteLoss) as error:
            fit(pair, x, epochs=2, batch_size=8, optim=optimizer, compile=compile)
        found.append((str(error.value).split(":")[0], parameters(pair)))
        assert list(error.value.history.epoch) == []
    assert found[0][0] == found[1][0]
    assert found[0][0].startswith("epoch 1, batch ")
    torch.testing.assert_close(found[0][1], found[1][1], rtol=CLOSE, atol=CLOSE)


@pytest.mark.parametrize("way", WAYS, indirect=True)
def test_callbacks_see_rates_as_numbers_and_may_change_them(way: str) -> None:
    rates: list[list[float]] = []

    def run(compile: bool) -> Tensor:
        pair = copy.deepcopy(start)
        rate, seen = optim.Adam(1e-2), []

        def halve(pair: VAE, history: History) -> None:
            (group,) = rate.optimizer.param_groups
            seen.append(group["lr"])
            group["lr"] = group["lr"] / 2

        settings: dict[str, Any] = {"optim": rate, "compile": compile, "callbacks": [halve]}
        fit(pair, binary(28), epochs=3, batch_size=8, **settings)
        rates.append(seen)
        return parameters(pair)

    start = vae()
    torch.manual_seed(1)
    first = run(False)
    torch.manual_seed(1)
    torch.testing.assert_close(run(True), first, rtol=CLOSE, atol=CLOSE)
    assert rates == [[1e-2, 5e-3, 2.5e-3]] * 2


@pytest.mark.parametrize("way", WAYS, indirect=True)
def test_a_callback_may_freeze_a_part(way: str) -> None:
    def run(compile: bool) -> Tensor:
        pair = copy.deepcopy(start)

        def freeze(pair: VAE, history: History) -> None:
            pair.posterior.requires_grad_(False)

        fit(pair, x, epochs=3, batch_size=8, compile=compile, callbacks=[freeze])
        return parameters(pair)

    start, x = vae(), binary(28)
    torch.testing.assert_close(run(True), run(False), rtol=CLOSE, atol=CLOSE)


@pytest.mark.parametrize("way", WAYS, indirect=True)
def test_without_a_seed_the_global_generator_decides(way: str) -> None:
    start, x, found = vae(), binary(28), []
    for compile in (False, True):
        pair = copy.deepcopy(start)
        torch.manual_seed(3)
        fit(pair, x, epochs=2, batch_size=8, seed=None, compile=compile)
        found.append((parameters(pair), torch.rand(3)))
    torch.testing.assert_close(found[1][0], found[0][0], rtol=CLOSE, atol=CLOSE)
    assert torch.equal(found[1][1], found[0][1])


@pytest.mark.parametrize("way", WAYS, indirect=True)
def test_a_second_training_goes_on_with_the_graph_of_the_first(way: str) -> None:
    pair, x = vae(), binary(28)
    objective, rate = objectives.compiled(objectives.trace_elbo()), optim.Adam(1e-2)
    settings: dict[str, Any] = {"batch_size": 8, "objective": objective, "optim": rate}
    fit(pair, x, epochs=1, **settings)
    seconds = objective.compile_seconds
    before = parameters(pair)
    fit(pair, x, epochs=1, seed=1, **settings)
    assert objective.compile_seconds == seconds
    assert not torch.equal(parameters(pair), before)


class Reading(nn.Module):
    """A network that reads a value."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) if float(x.sum()) > -1 else self.layer(-x)


def test_what_cannot_be_traced_trains_step_by_step(
    said: list[str], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = vae()
    pair.posterior = posteriors.Normal(Reading())
    monkeypatch.setattr(importlib.import_module("pyro_vae.training.fit"), "COMPILED_FROM", 1)
    with pytest.warns(UserWarning, match="runs uncompiled"):
        history = fit(pair, binary(28), epochs=2, batch_size=8)
    assert len(history.cost) == 2
    assert sum("reads a tensor's value" in r.getMessage() for r in caplog.records) == 1


@pytest.mark.parametrize("at", [1, 12])
@pytest.mark.parametrize("way", WAYS, indirect=True)
def test_ctrl_c_leaves_the_schedule_where_the_steps_are(way: str, at: int) -> None:
    """It is pressed in a step; recorded steps end together, as those of a warm-up do."""
    steps = 0

    class Pressing(torch.optim.SGD):
        def step(self, *args: Any) -> None:  # type: ignore[override]
            nonlocal steps
            super().step(*args)
            steps += 1
            if steps == at:
                os.kill(os.getpid(), signal.SIGINT)

    rates = optim.from_torch(Pressing, lr=1e-3, schedule=lambda o: ExponentialLR(o, 0.9))
    history = fit(vae(), binary(64), epochs=5, batch_size=8, compile=True, optim=rates)
    assert history.ended == "interrupted"
    assert len(history.epoch) == (at - 1) // 8
    assert steps == {"program": at, "recorded": 3 if at < 8 else 16}[way]
    assert rates.optimizer is not None
    assert rates.optimizer.param_groups[0]["lr"] == pytest.approx(1e-3 * 0.9**steps)
    fit(vae(), binary(64), epochs=1, batch_size=8, compile=True)


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS, indirect=True)
def test_epochs_hold_memory_flat(way: str) -> None:
    """All tensors that are alive after each tenth of 300 epochs.

    The smaller last batch is compiled in its hundredth run, which adds a graph.
    """
    alive: list[int] = []

    def count(pair: VAE, history: History) -> None:
        if len(history.epoch) % 10:
            return
        gc.collect()  # This takes most of the time.
        tensors = [each for each in gc.get_objects() if isinstance(each, Tensor)]
        alive.append(sum(t.numel() for t in tensors))

    fit(vae(), binary(60), epochs=300, batch_size=8, compile=True, callbacks=[count])
    assert len(set(alive[:9])) == 1
    assert len(set(alive[10:])) == 1
    assert len(alive) == 30
