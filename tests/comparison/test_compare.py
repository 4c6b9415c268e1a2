"""The comparison is paired: an objective against itself differs by nothing."""

import csv
import math
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from pyro_vae import VAE, log_likelihood, objectives, presets
from pyro_vae.comparison import Comparison, compare
from pyro_vae.datasets import Dataset
from pyro_vae.evaluation import LogLikelihood
from pyro_vae.gradients import Gradient
from pyro_vae.training import History

from ..vaes import bernoulli_vae, binary


def test_an_objective_against_itself(digits: Dataset) -> None:
    images = slice(None), slice(8, 20), slice(8, 20)
    result = compare(
        lambda: presets.build("pyro-mlp", z_dim=2, shape=(12, 12)),
        digits.train[:200][images],
        digits.test[:50][images],
        {"one": objectives.trace_elbo(), "two": objectives.trace_elbo()},
        seeds=(0, 5),
        epochs=2,
        batch_size=100,
        pixels="binary",
        num_samples=20,
        draws=20,
    )
    for i in range(2):
        one, two = (result.histories[name][i] for name in ("one", "two"))
        assert one.cost == two.cost
        assert one.test_cost == two.test_cost
        one_l, two_l = (result.log_likelihoods[name][i] for name in ("one", "two"))
        assert torch.equal(one_l.values, two_l.values)
        assert one_l.data_hash == result.log_likelihoods["one"][0].data_hash
    assert result.histories["one"][0].cost != result.histories["one"][1].cost
    assert "| 0.00 ± 0.00 |" in repr(result)
    assert result.pixels == "binary"


@pytest.mark.parametrize(
    "during", ["training", pytest.param("between runs", marks=pytest.mark.slow)]
)
def test_ctrl_c_keeps_the_seeds_that_have_run(during: str) -> None:
    """It is pressed in the sixth run, the second objective's third, or after the fifth."""
    x = binary(40)
    runs: list[tuple[str, int]] = []
    presses: list[int] = []

    class Pressed(nn.Module):
        def forward(self) -> torch.distributions.Distribution:
            step = self.training and torch.is_grad_enabled()
            if during == "training" and len(runs) == 5 and step and not presses:
                presses.append(1)
                os.kill(os.getpid(), signal.SIGINT)
            return bernoulli_vae().prior()

    def make() -> VAE:
        vae = bernoulli_vae()
        return VAE(Pressed(), vae.likelihood, vae.posterior)

    def on_run(name: str, seed: int, history: History, result: LogLikelihood) -> None:
        runs.append((name, seed))
        if during == "between runs" and len(runs) == 5:
            os.kill(os.getpid(), signal.SIGINT)

    settings: dict[str, Any] = {"epochs": 2, "batch_size": 40, "num_samples": 5, "draws": 20}
    result = compare(make, x, x, seeds=(0, 1, 2, 3), on_run=on_run, **settings)
    assert runs.pop() == ("trace_elbo", 2)
    assert len(runs) == 4
    assert not result.complete
    assert result.seeds == (0, 1)
    assert {len(each) for each in result.histories.values()} == {2}
    assert {len(each) for each in result.log_likelihoods.values()} == {2}
    whole = compare(make, x, x, seeds=(0, 1), **settings)  # presses nothing
    assert whole.complete
    for name, results in whole.log_likelihoods.items():
        for one, other in zip(results, result.log_likelihoods[name], strict=True):
            assert torch.equal(one.values, other.values)
    runs.clear()

    def at_once(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        compare(make, x, x, seeds=(0, 1), on_run=at_once, **settings)


def test_float_data_are_compared_as_they_are() -> None:
    x = torch.bernoulli(torch.full((40, 6), 0.3))
    state = torch.get_rng_state()
    result = compare(bernoulli_vae, x, x[:10], seeds=(0,), epochs=1, batch_size=20, num_samples=5)
    assert torch.equal(torch.get_rng_state(), state)
    assert list(result.histories) == ["trace_elbo", "analytic_kl"]
    assert result.pixels is None
    assert set(result.gradients) == {0, 1}
    for by_name in result.gradients.values():
        assert by_name.keys() == {"trace_elbo", "analytic_kl"}
        # The same in the mean; and the decoder sees no difference at all.
        analytic = by_name["analytic_kl"]
        assert abs(analytic["encoder"].bias) <= 5 * analytic["encoder"].bias_error
        assert analytic["decoder"].bias == 0
    assert result.peak_bytes.keys() == {"trace_elbo", "analytic_kl"}
    with pytest.raises(ValueError, match="seeds: got none"):
        compare(bernoulli_vae, x, x, seeds=(), epochs=1)
    with pytest.raises(ValueError, match="objectives: got none"):
        compare(bernoulli_vae, x, x, {}, epochs=1)
    losses = {"iwae": objectives.iwae(2)}
    for arguments, message in (
        ((bernoulli_vae(), x, x), "vae_factory: got a VAE, expected a function"),
        ((lambda: None, x, x, losses), "vae: got None, expected a VAE"),
        ((bernoulli_vae, x, x, [objectives.iwae(2)]), "objectives: got a list, expected a mapp"),
        (
            (bernoulli_vae, x, x, {"iwae": "iwae:2"}),
            r"objectives\['iwae'\]: got 'iwae:2', expected a pyro",
        ),
        ((bernoulli_vae, x, x, losses, 2), "seeds: got an int, expected a sequence"),
        ((bernoulli_vae, x, x, losses, (0.5,)), "seed: got 0.5"),
    ):
        with pytest.raises(TypeError, match=message):
            compare(*arguments, epochs=1)
    with pytest.raises(ValueError, match=r"seeds: got \[0, 0\], expected each once"):
        compare(bernoulli_vae, x, x, losses, (0, 0), epochs=1)


def test_a_comparison_says_what_khat_says() -> None:
    """Of the run with most examples above the threshold, on the screen and in the file."""
    x = torch.bernoulli(torch.full((40, 6), 0.3))
    few, many = (
        compare(
            bernoulli_vae, x, x[:10], seeds=(0,), epochs=1, batch_size=20, num_samples=k, draws=20
        )
        for k in (5, 200)
    )
    assert "5 samples are too few for a k-hat" in repr(few)
    counts = [int(runs[0].unreliable.sum()) for runs in many.log_likelihoods.values()]
    assert (many.doubt is None) == (max(counts) == 0)
    assert max(counts) == 0 or f"for {max(counts)} of 10 examples" in repr(many)


def history(costs: list[float], seconds: list[float]) -> History:
    n = len(costs)
    columns = {name: [0.0] * n for name in ("cost", "reconstruction", "kl")}
    epochs = [float(i) for i in range(1, n + 1)]
    return History({"epoch": epochs, **columns, "test_cost": costs, "seconds": seconds})


def comparison(goal: float) -> Comparison:
    likelihood = log_likelihood(bernoulli_vae(), torch.zeros(2, 6), 2, seed=0)
    histories = {
        "first": [history([9.0, 7.0, 6.0], [5.0, 1.0, 1.0]), history([9.0, 8.0, 7.0], [5, 3, 2])],
        "second": [history([8.0, 6.5, 6.0], [9.0, 2.0, 2.0]), history([9.0, 8.5, 8.0], [9, 4, 2])],
    }
    likelihoods = {name: [likelihood, likelihood] for name in histories}
    peaks = dict.fromkeys(histories, 3 * 2**20)
    part = {"encoder": Gradient(1.0, 4.0, 0.25, 0.01)}
    gradients = {0: dict.fromkeys(histories, part), 3: dict.fromkeys(histories, part)}
    return Comparison((0, 1), histories, likelihoods, None, gradients, peaks, 4, goal)


def test_times_and_differences_by_hand(tmp_path: Path) -> None:
    result = comparison(goal=7.0)
    assert result.seconds_a_step("first") == 1.5 / 4  # of the epochs behind the first: 1, 1, 3, 2
    assert result.seconds_to_goal("first") == [6.0, 10.0]
    reached = result.seconds_to_goal("second")
    assert reached[0] == 11.0
    assert math.isnan(reached[1])
    # Means of 6 and 7, of 6 and 8, and of the differences 0 and 1.
    first, second = result.table().splitlines()[2:]
    assert "6.50 ± 0.50 |" in first
    assert "7.00 ± 1.00 |" in second
    assert "0.50 ± 0.50 |" in second
    assert "375.00 |" in first
    assert "11.0 (1 of 2) |" in second
    assert "3.0 |" in second
    assert "not reached" in comparison(goal=1.0).table()
    assert "0.2500 ± 0.0100" in result.gradient_table()
    result.save_gradients_csv(tmp_path / "gradients.csv")
    with (tmp_path / "gradients.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(r["epoch"], r["objective"], r["snr"]) for r in rows] == [
        (epoch, name, "0.5") for epoch in ("0", "3") for name in ("first", "second")
    ]
    ax = result.plot_gradients("encoder")
    assert ax.get_yscale() == "log"
    assert len(ax.lines) == 2


def test_each_run_has_an_objective_of_its_own() -> None:
    """A warm-up that has ended by the first run starts anew for the second."""
    x = torch.bernoulli(torch.full((40, 6), 0.3))
    annealed = objectives.warm_up(objectives.trace_elbo(), 4)
    result = compare(
        bernoulli_vae,
        x,
        x[:10],
        {"annealed": annealed, "again": annealed},
        seeds=(0,),
        epochs=2,
        batch_size=20,
        num_samples=5,
        draws=20,
        gradient_epochs=(1,),
        goal=3.0,
    )
    assert list(result.gradients) == [1]
    with pytest.raises(ValueError, match=r"gradient_epochs: got \(3,\), expected .* 0 to 2"):
        compare(bernoulli_vae, x, x, seeds=(0,), epochs=2, gradient_epochs=(3,))
    assert annealed.taken == 0
    assert result.histories["annealed"][0].cost == result.histories["again"][0].cost
    assert result.goal == 3.0


def test_gradients_of_a_warm_up_are_those_of_its_step() -> None:
    """Before training its KL weighs nothing; behind its end it is the ELBO, draw for draw."""
    x = torch.bernoulli(torch.full((40, 6), 0.3))
    runs: list[tuple[str, int]] = []
    result = compare(
        bernoulli_vae,
        x,
        x[:10],
        {
            "plain": objectives.trace_elbo(),
            "annealed": objectives.warm_up(objectives.trace_elbo(), 4),
        },
        seeds=(0, 3),
        epochs=2,
        batch_size=20,
        num_samples=5,
        draws=20,
        gradient_epochs=(0, 1, 2),
        on_run=lambda name, seed, history, likelihood: runs.append((name, seed)),
    )
    bias = [result.gradients[epoch]["annealed"]["encoder"].bias for epoch in (0, 1, 2)]
    assert bias[0] > 0.01
    assert bias[0] > bias[1] > 0
    assert bias[2] == 0
    assert runs == [("plain", 0), ("annealed", 0), ("plain", 3), ("annealed", 3)]
