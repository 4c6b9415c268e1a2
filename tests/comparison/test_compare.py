"""The comparison is paired: an objective against itself differs by nothing."""

import csv
import math
import os
import signal
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
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


def comparison(goal: float, **others: Any) -> Comparison:
    likelihood = log_likelihood(bernoulli_vae(), torch.zeros(2, 6), 2, seed=0)
    histories = {
        "first": [history([9.0, 7.0, 6.0], [5.0, 1.0, 1.0]), history([9.0, 8.0, 7.0], [5, 3, 2])],
        "second": [history([8.0, 6.5, 6.0], [9.0, 2.0, 2.0]), history([9.0, 8.5, 8.0], [9, 4, 2])],
    }
    likelihoods = {name: [likelihood, likelihood] for name in histories}
    peaks = dict.fromkeys(histories, 3 * 2**20)
    part = {"encoder": Gradient(1.0, 4.0, 0.25, 0.01)}
    gradients = {0: dict.fromkeys(histories, part), 3: dict.fromkeys(histories, part)}
    return Comparison((0, 1), histories, likelihoods, None, gradients, peaks, 4, goal, **others)


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
    # In milliseconds a step, the epochs took 250, 250, 750 and 500.
    assert "375.00 (250.00–562.50) |" in first
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


def test_seconds_to_a_log_likelihood_by_hand(tmp_path: Path) -> None:
    """At the epochs at which it was estimated; the last is that of the end."""
    end = comparison(goal=7.0).log_likelihoods["first"][0].mean
    along = {
        "first": [{1: end - 3, 2: end - 1, 3: end}, {1: end - 2, 3: end}],
        "second": [{1: end - 1}, {}],
    }
    result = comparison(7.0, likelihoods=along, likelihood_goal=end - 1)
    assert result.seconds_to_likelihood("first") == [6.0, 10.0]
    assert result.seconds_to_likelihood("second") == [9.0, 15.0]
    header, _, first, second = result.table().splitlines()
    assert f"s to log-likelihood {end - 1:.1f} |" in header
    assert "| 8.0 |" in " ".join(first.split())
    assert "| 12.0 |" in " ".join(second.split())
    above = comparison(7.0, likelihoods=along, likelihood_goal=end + 1)
    assert all(math.isnan(s) for s in above.seconds_to_likelihood("first"))
    none = comparison(7.0)
    assert "s to log" not in none.table()
    assert all(math.isnan(s) for s in none.seconds_to_likelihood("first"))

    result.save_csv(tmp_path / "runs.csv")
    with (tmp_path / "runs.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(r["seconds_to_likelihood_goal"]) for r in rows] == [6, 10, 9, 15]
    # The second run of the first objective: epochs of 3 and 2 seconds of 4 steps each.
    steps = [float(rows[1][f"step_seconds{end}"]) for end in ("_25", "", "_75")]
    assert steps == [0.5625, 0.625, 0.6875]


def test_every_curve_is_written(tmp_path: Path) -> None:
    along = {"first": [{1: -9.0}, {1: -8.0}], "second": [{1: -7.0}, {1: -6.0}]}
    result = comparison(goal=7.0, likelihoods=along)
    result.save_curves_csv(tmp_path / "curves.csv")
    with (tmp_path / "curves.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(r["objective"], r["seed"], r["epoch"]) for r in rows] == [
        (name, seed, epoch)
        for name in ("first", "second")
        for seed in ("0", "1")
        for epoch in ("1", "2", "3")
    ]
    for name, runs in result.histories.items():
        for seed, run in enumerate(runs):
            own = [r for r in rows if (r["objective"], r["seed"]) == (name, str(seed))]
            for column in ("cost", "reconstruction", "kl", "test_cost", "seconds"):
                assert [float(r[column]) for r in own] == run[column]
            end = result.log_likelihoods[name][seed].mean
            assert [r["log_likelihood"] for r in own] == [str(along[name][seed][1]), "", str(end)]


def test_log_likelihoods_are_drawn_beside_elbos() -> None:
    result = comparison(goal=7.0)
    left = result.plot()
    _, right = left.figure.axes
    assert [label.get_text() for label in right.get_yticklabels()] == ["first", "second"]
    elbo, likelihood = (list(each.lines[0].get_xdata()) for each in right.containers)
    for place, runs in enumerate(result.log_likelihoods.values()):
        assert elbo[place] == pytest.approx(runs[0].elbo.mean().item())
        assert likelihood[place] == pytest.approx(runs[0].mean)
        assert elbo[place] < likelihood[place]
    _, given = plt.subplots()
    assert result.plot(ax=given) is given
    assert given.figure.axes == [given]
    title = given.get_legend().get_title().get_text()
    assert title == "mean of 2 runs, band from least to greatest"


def test_log_likelihoods_along_a_run_are_those_of_its_epochs() -> None:
    """They change no number, and the estimate after an epoch is that of so long a training."""
    x = binary(40)
    losses = {"iwae": objectives.iwae(2)}
    settings: dict[str, Any] = {"seeds": (0, 3), "batch_size": 20, "num_samples": 5, "draws": 20}
    plain = compare(bernoulli_vae, x, x[:10], losses, epochs=3, **settings)
    assert plain.likelihoods == {"iwae": [{3: r.mean} for r in plain.log_likelihoods["iwae"]]}
    result = compare(
        bernoulli_vae, x, x[:10], losses, epochs=3, likelihood_epochs=np.array([1]), **settings
    )
    shorter = compare(bernoulli_vae, x, x[:10], losses, epochs=1, **settings)
    for run in range(2):
        assert result.histories["iwae"][run].cost == plain.histories["iwae"][run].cost
        same, end = (r.log_likelihoods["iwae"][run] for r in (result, plain))
        assert torch.equal(same.values, end.values)
        after_one = shorter.log_likelihoods["iwae"][run].mean
        assert result.likelihoods["iwae"][run] == {1: after_one, 3: end.mean}
    ax = result.plot_likelihood_curves()
    assert list(ax.lines[0].get_xdata()) == [1, 3]
    means = [[run[epoch] for run in result.likelihoods["iwae"]] for epoch in (1, 3)]
    assert list(ax.lines[0].get_ydata()) == pytest.approx([sum(each) / 2 for each in means])


def test_a_goal_in_log_likelihood_is_looked_for_in_each_epoch() -> None:
    x = binary(40)
    losses = {"elbo": objectives.trace_elbo()}
    settings: dict[str, Any] = {"epochs": 2, "batch_size": 20, "num_samples": 5, "draws": 20}
    settings |= {"seeds": (0,), "likelihood_goal": np.float32(-1e9)}
    result = compare(bernoulli_vae, x, x[:10], losses, **settings)
    assert list(result.likelihoods["elbo"][0]) == [1, 2]
    assert result.seconds_to_likelihood("elbo") == result.histories["elbo"][0].seconds[:1]
    assert isinstance(result.likelihood_goal, float)
    last = compare(bernoulli_vae, x, x[:10], losses, likelihood_epochs=(2,), **settings)
    assert last.seconds_to_likelihood("elbo") == [sum(last.histories["elbo"][0].seconds)]
    for epochs, got in (((0,), r"\(0,\)"), ((1, 3), r"\(1, 3\)")):
        with pytest.raises(ValueError, match=f"likelihood_epochs: got {got}, expected .* 1 to 2"):
            compare(bernoulli_vae, x, x, losses, likelihood_epochs=epochs, **settings)


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
