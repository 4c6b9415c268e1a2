"""The moving average of the parameters: its recursion, and what is evaluated and kept."""

import importlib
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from pyro_vae import Pair, elbo, fit, load, objectives, optim, posteriors, save
from pyro_vae.compile import Repeated
from pyro_vae.training import Averaging, EarlyStopping, History, load_checkpoint

from ..conftest import needs_compiler
from ..test_pair import pair_of
from ..vaes import bernoulli_vae, binary, parameters


def seen(pair: Pair, x: torch.Tensor, average: Averaging, **settings: Any) -> list[torch.Tensor]:
    """The parameters after each step, where each epoch is one step."""
    steps: list[torch.Tensor] = []

    def look(pair: Pair, history: History) -> None:
        steps.append(parameters(pair))

    fit(pair, x, batch_size=len(x), average=average, callbacks=[look], **settings)
    return steps


@pytest.mark.parametrize("make", [bernoulli_vae, pair_of])
def test_it_is_the_recursion(make: Any) -> None:
    x = binary(16) if make is bernoulli_vae else torch.randn(16, 5)
    average = Averaging(0.7)
    steps = seen(make(), x, average, epochs=9, optim=optim.Adam(0.05))
    expected = steps[0].double()
    for step in steps[1:]:
        expected = 0.7 * expected + 0.3 * step.double()
    assert average.pair is not None
    torch.testing.assert_close(parameters(average.pair).double(), expected, rtol=1e-5, atol=1e-6)


WAYS = ["uncompiled", "program", "recorded"]


@needs_compiler
@pytest.mark.usefixtures("code")
@pytest.mark.parametrize("way", WAYS)
def test_each_way_averages_after_each_step(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A decay of zero is the last step; the training is that without an average."""
    if way == "recorded":
        whole = importlib.import_module("pyro_vae.training.whole_epochs")
        monkeypatch.setattr(whole, "recorder", lambda device: Repeated)
    x, pairs, averages = binary(20), [], [None, Averaging(0.0), Averaging(0.9)]
    for average in averages:
        torch.manual_seed(0)
        pairs.append(bernoulli_vae())
        settings: dict[str, Any] = {
            "objective": objectives.trace_elbo(),
            "compile": way != "uncompiled",
        }
        fit(pairs[-1], x, epochs=5, batch_size=8, average=average, **settings)
    assert torch.equal(parameters(pairs[0]), parameters(pairs[1]))
    assert torch.equal(parameters(pairs[0]), parameters(pairs[2]))
    last, slow = averages[1:]
    assert last is not None
    assert last.pair is not None
    assert torch.equal(parameters(last.pair), parameters(pairs[0]))
    assert slow is not None
    assert slow.pair is not None
    assert not torch.allclose(parameters(slow.pair), parameters(pairs[0]))


class Failing(Repeated):
    """A recorder of a device that records nothing."""

    def __init__(self, *args: Any) -> None:
        raise RuntimeError("no such device")


@pytest.mark.usefixtures("code")
def test_a_recording_that_fails_leaves_the_average_as_it_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its first steps are taken again, one by one."""
    x, found = binary(40), []
    for recorder in (None, Failing):
        whole = importlib.import_module("pyro_vae.training.whole_epochs")
        if recorder is not None:
            monkeypatch.setattr(whole, "recorder", lambda device: Failing)
        torch.manual_seed(0)
        vae, average = bernoulli_vae(), Averaging(0.6)
        fit(vae, x, epochs=3, batch_size=4, average=average, compile=True)
        assert average.pair is not None
        found.append((parameters(vae), parameters(average.pair)))
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])


@pytest.mark.parametrize("evaluate", [True, False])
def test_held_out_costs_are_those_of_the_judged_pair(evaluate: bool) -> None:
    vae, x, average = bernoulli_vae(), binary(64), Averaging(0.9, evaluate)
    history = fit(vae, x, test=x, epochs=3, batch_size=8, average=average, optim=optim.Adam(0.05))
    judged = average.pair if evaluate else vae
    other = vae if evaluate else average.pair
    costs = [elbo(pair, x, 300, seed=0) for pair in (judged, other)]
    distances = [abs(history.test_cost[-1] + each.mean) for each in costs]
    assert distances[0] < distances[1]


def test_buffers_are_the_pairs() -> None:
    class Encoder(nn.Sequential):
        out_shape = torch.Size((2,))

    vae, average = bernoulli_vae(), Averaging()
    vae.posterior = posteriors.Normal(Encoder(nn.BatchNorm1d(6), nn.Linear(6, 2)))
    fit(vae, binary(32), epochs=2, batch_size=8, average=average)
    assert average.pair is not None
    for own, theirs in zip(average.pair.buffers(), vae.buffers(), strict=True):
        assert torch.equal(own, theirs)
    assert not average.pair.training


def test_it_is_kept(tmp_path: Path) -> None:
    vae, average = bernoulli_vae(), Averaging(0.9)
    fit(vae, binary(32), epochs=2, batch_size=8, average=average, checkpoint=tmp_path / "c")
    fresh, plain = bernoulli_vae(), bernoulli_vae()
    load_checkpoint(tmp_path / "c", fresh, averaged=True)
    load_checkpoint(tmp_path / "c", plain)
    assert average.pair is not None
    assert torch.equal(parameters(fresh), parameters(average.pair))
    assert torch.equal(parameters(plain), parameters(vae))
    save(average.pair, tmp_path / "run")
    loaded = load(tmp_path / "run", into=bernoulli_vae())
    assert torch.equal(parameters(loaded), parameters(average.pair))
    fit(vae, binary(32), epochs=1, batch_size=8, checkpoint=tmp_path / "d")
    with pytest.raises(ValueError, match=r"averaged: got True, and .* holds no average"):
        load_checkpoint(tmp_path / "d", fresh, averaged=True)


def test_wrong_arguments() -> None:
    for decay, error in (
        ("high", TypeError),
        (True, TypeError),
        (1.0, ValueError),
        (-0.1, ValueError),
    ):
        with pytest.raises(error, match="decay: got"):
            Averaging(decay)
    with pytest.raises(TypeError, match="evaluate: got 1"):
        Averaging(0.9, 1)
    with pytest.raises(TypeError, match="average: got a float"):
        fit(bernoulli_vae(), binary(8), epochs=1, average=0.9)
    stop = EarlyStopping(2)
    settings: dict[str, Any] = {"validation": 0.5, "callbacks": [stop], "average": Averaging()}
    with pytest.raises(ValueError, match="average: got one that is evaluated, with EarlyStopping"):
        fit(bernoulli_vae(), binary(8), epochs=1, **settings)
