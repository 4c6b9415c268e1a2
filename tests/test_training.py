"""Training: the same seed, the same weights; the terms add up; bad input and bad losses."""

import copy
import csv
import math
from collections.abc import Callable
from pathlib import Path

import pyro
import pyro.distributions as dist
import pyro.optim
import pytest
import torch
from pyro.infer import (
    SVI,
    RenyiELBO,
    ReweightedWakeSleep,
    Trace_ELBO,
    TraceGraph_ELBO,
    TraceMeanField_ELBO,
)
from pyro.optim import PyroOptim
from torch import Tensor, nn

from pyro_vae import (
    VAE,
    elbo,
    fit,
    likelihoods,
    log_likelihood,
    networks,
    optim,
    posteriors,
    presets,
    priors,
)
from pyro_vae.datasets import Dataset, Pixels, binarize, to_pixels
from pyro_vae.objectives import elbo as objectives
from pyro_vae.objectives.compiled import Compiled
from pyro_vae.training import fit as training
from pyro_vae.training.fit import NonFiniteLoss, TensorBoard
from pyro_vae.training.history import History

from .conftest import needs_compiler
from .models import bernoulli_vae


def small(pixels: Pixels = "binary", name: str = "pyro-mlp") -> VAE:
    torch.manual_seed(1)
    return presets.build(name, z_dim=3, shape=(28, 28), pixels=pixels)


def weights(vae: VAE) -> Tensor:
    return torch.cat([p.detach().flatten() for p in vae.parameters()])


def binary(examples: int = 8) -> Tensor:
    return torch.bernoulli(torch.full((examples, 6), 0.3))


def test_the_same_seed_gives_the_same_weights(digits: Dataset) -> None:
    runs = []
    for seed in (0, 0, 1):
        vae = small()
        state = torch.get_rng_state()
        history = fit(
            vae, digits.train[:300], test=digits.test[:50], epochs=2, pixels="binary", seed=seed
        )
        assert torch.equal(torch.get_rng_state(), state)
        runs.append((weights(vae), history))
    assert torch.equal(runs[0][0], runs[1][0])
    for column in ("cost", "reconstruction", "kl", "test_cost"):
        assert runs[0][1][column] == runs[1][1][column]
    assert not torch.equal(runs[0][0], runs[2][0])


def test_callbacks_see_each_epoch_and_change_nothing(digits: Dataset) -> None:
    seen = []

    def callback(vae: VAE, history: History) -> None:
        vae.generate(5, sample=True)
        torch.randn(7)
        seen.append((vae, len(history.epoch)))

    plain, watched = small(), small()
    fit(plain, digits.train[:300], epochs=3, pixels="binary")
    fit(watched, digits.train[:300], epochs=3, pixels="binary", callbacks=[callback])
    assert torch.equal(weights(plain), weights(watched))
    assert seen == [(watched, 1), (watched, 2), (watched, 3)]


def test_without_a_seed_the_global_generator_decides(digits: Dataset) -> None:
    runs = []
    for start in (5, 5, 6):
        vae = small()
        torch.manual_seed(start)
        fit(vae, digits.train[:300], epochs=1, pixels="binary", seed=None)
        runs.append(weights(vae))
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


@pytest.mark.parametrize("make", [optim.Adam, lambda: pyro.optim.Adam({"lr": 1e-3})])
def test_fit_is_the_loop_that_one_writes_with_svi(make: Callable[[], PyroOptim]) -> None:
    x, by_fit = binary(20), bernoulli_vae()
    by_hand = bernoulli_vae()
    by_hand.load_state_dict(by_fit.state_dict())
    svi = SVI(by_hand.model, by_hand.guide, make(), Trace_ELBO())
    torch.manual_seed(9)
    costs = []
    for _ in range(3):
        order = torch.randperm(20)
        costs.append(sum(svi.step(x[batch]) for batch in order.split(8)) / 20)
    torch.manual_seed(9)
    history = fit(by_fit, x, epochs=3, batch_size=8, seed=None, optim=make())
    assert torch.equal(weights(by_fit), weights(by_hand))
    assert history.cost == costs


@pytest.mark.parametrize(
    "objective",
    [
        Trace_ELBO(),
        objectives.trace_elbo(3),
        objectives.analytic_kl(),
        objectives.analytic_kl(3),
        TraceGraph_ELBO(),
    ],
)
def test_the_terms_add_up_to_an_elbo(objective: Trace_ELBO) -> None:
    vae, x = bernoulli_vae(2), binary(400)
    rate = pyro.optim.SGD({"lr": 0.0})
    history = fit(vae, x, epochs=1, batch_size=100, objective=objective, optim=rate)
    assert history.cost[0] == pytest.approx(history.reconstruction[0] + history.kl[0], rel=1e-5)
    exact = elbo(vae, x, num_samples=500, seed=0, kl="analytic")
    # One epoch's terms are means over 400 examples of draws that spread by a few nats.
    spread = 4 * math.sqrt(500 / objective.num_particles) * exact.reconstruction_mc_error
    assert history.reconstruction[0] == pytest.approx(exact.reconstruction_mean, abs=spread)
    if isinstance(objective, objectives.AnalyticKL_ELBO):
        assert history.kl[0] == pytest.approx(exact.kl_mean, rel=1e-5)
    sampled = elbo(vae, x, num_samples=500, seed=0)
    spread = 4 * math.sqrt(500) * sampled.kl_mc_error
    assert history.kl[0] == pytest.approx(exact.kl_mean, abs=spread)


def test_an_objective_that_is_no_elbo_keeps_its_own_value() -> None:
    vae, x = bernoulli_vae(2), binary(400)
    objective = RenyiELBO(alpha=0, num_particles=8, vectorize_particles=True)
    still = pyro.optim.SGD({"lr": 0.0})
    history = fit(vae, x, epochs=1, batch_size=100, objective=objective, optim=still)
    # The importance-weighted bound is tighter than the ELBO of the same samples (Jensen).
    assert history.cost[0] < history.reconstruction[0] + history.kl[0]
    exact = elbo(vae, x, num_samples=500, seed=0)
    spread = 4 * math.sqrt(500 / 8) * exact.kl_mc_error
    assert history.kl[0] == pytest.approx(exact.kl_mean, abs=spread)
    assert "_get_trace" not in vars(objective)


def test_test_cost_is_the_bound_on_one_draw(digits: Dataset) -> None:
    vae, levels = small(), digits.test[:200]
    history = fit(
        vae, digits.train[:300], test=levels, epochs=2, pixels="binary", seed=4, batch_size=64
    )
    exact = elbo(vae, binarize(levels, seed=4), num_samples=200, seed=0)
    spread = 4 * math.sqrt(200) * exact.mc_error
    assert history.test_cost[-1] == pytest.approx(-exact.mean, abs=spread)


def test_binary_pixels_are_drawn_anew_each_epoch() -> None:
    seen: list[Tensor] = []

    class Watching(posteriors.Normal):
        def forward(self, x: Tensor) -> dist.Distribution:
            if self.training:
                seen.append(x.clone())
            return super().forward(x)

    vae = VAE(
        priors.StandardNormal(1),
        likelihoods.Bernoulli(networks.MLP(1, (), 50)),
        Watching(networks.MLP(50, (), 2)),
    )
    levels = torch.full((10, 50), 128, dtype=torch.uint8)
    fit(vae, levels, epochs=2, batch_size=10, pixels="binary")
    assert len(seen) == 2
    assert not torch.equal(seen[0].sum(0), seen[1].sum(0))
    assert set(torch.stack(seen).unique().tolist()) == {0.0, 1.0}


def test_each_example_is_seen_once_an_epoch() -> None:
    seen: list[Tensor] = []

    class Watching(posteriors.Normal):
        def forward(self, x: Tensor) -> dist.Distribution:
            if self.training:
                seen.append(x[:, 0].clone())
            return super().forward(x)

    vae = VAE(
        priors.StandardNormal(1),
        likelihoods.Gaussian(networks.MLP(1, (), 3), scale=1.0),
        Watching(networks.MLP(3, (), 2)),
    )
    x = torch.arange(10.0)[:, None].expand(-1, 3) / 10
    fit(vae, x, epochs=2, batch_size=4)
    assert [len(batch) for batch in seen] == [4, 4, 2] * 2
    for epoch in (seen[:3], seen[3:]):
        assert torch.cat(epoch).sort().values.tolist() == x[:, 0].tolist()
    assert not torch.equal(torch.cat(seen[:3]), torch.cat(seen[3:]))


@pytest.mark.parametrize("name", presets.names())
def test_every_preset_fits_each_of_its_pixels(name: str, digits: Dataset) -> None:
    for pixels in presets.get(name).pixels:
        vae = small(pixels, name)
        history = fit(
            vae, digits.train[:256], test=digits.test[:64], epochs=3, batch_size=64, pixels=pixels
        )
        assert history.cost[-1] < history.cost[0]
        assert history.test_cost[-1] < history.test_cost[0]


def test_training_in_float64(digits: Dataset) -> None:
    vae = small().double()
    fit(vae, digits.train[:64], test=digits.test[:64], epochs=1, batch_size=32, pixels="binary")
    assert weights(vae).dtype == torch.float64


def test_modes_are_put_back() -> None:
    vae = bernoulli_vae()
    vae.eval()
    fit(vae, binary(), test=binary(), epochs=1, batch_size=4)
    assert not any(m.training for m in vae.modules())


def test_batch_norm_learns_in_training_and_stands_still_in_testing() -> None:
    encoder = networks.MLP(6, (4,), 2)
    encoder.layers.insert(1, nn.BatchNorm1d(4))
    vae = VAE(
        priors.StandardNormal(1),
        likelihoods.Bernoulli(networks.MLP(1, (), 6)),
        posteriors.Normal(encoder),
    )
    counts = []

    def count(vae: VAE, history: History) -> None:
        counts.append(int(encoder.layers[1].num_batches_tracked))

    fit(vae, binary(10), test=binary(10), epochs=2, batch_size=4, callbacks=[count])
    assert counts == [3, 6]


# History.


def test_history_round_trips(tmp_path: Path) -> None:
    history = fit(bernoulli_vae(), binary(), test=binary(), epochs=3, batch_size=4)
    assert list(history) == ["epoch", "cost", "reconstruction", "kl", "test_cost", "seconds"]
    assert history.epoch == [1, 2, 3]
    history.save_csv(tmp_path / "metrics.csv")
    assert dict(History.load_csv(tmp_path / "metrics.csv")) == dict(history)
    with (tmp_path / "metrics.csv").open() as file:
        assert [float(row["cost"]) for row in csv.DictReader(file)] == history.cost
    assert repr(history).count("\n") == 4
    assert history._repr_html_().count("<tr>") == 4
    plain = fit(bernoulli_vae(), binary(), epochs=1, batch_size=4)
    assert "test_cost" not in plain
    with pytest.raises(AttributeError, match="history has no column 'test_cost'"):
        plain.test_cost  # noqa: B018
    (tmp_path / "foreign.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="got columns"):
        History.load_csv(tmp_path / "foreign.csv")
    (tmp_path / "damaged.csv").write_text("epoch,cost\n1,2\n3\n")
    with pytest.raises(ValueError, match="damaged"):
        History.load_csv(tmp_path / "damaged.csv")


def test_tensorboard_writes_the_columns(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    history = fit(
        bernoulli_vae(), binary(), test=binary(), epochs=2, batch_size=4,
        callbacks=[TensorBoard(tmp_path)],
    )  # fmt: skip
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert set(events.Tags()["scalars"]) == {
        "avg_loss",
        "reconstruction",
        "kl",
        "test_cost",
        "seconds",
    }
    scalars = events.Scalars("avg_loss")
    assert [s.step for s in scalars] == [1, 2]
    assert [s.value for s in scalars] == pytest.approx(history.cost, rel=1e-6)


# State that was there before.


def test_gradients_that_were_left_over_change_nothing() -> None:
    x, clean = binary(), bernoulli_vae()
    other = copy.deepcopy(clean)
    (50 * Trace_ELBO().differentiable_loss(other.model, other.guide, x)).backward()
    for vae in (clean, other):
        fit(vae, x, epochs=2, batch_size=4)
    assert torch.equal(weights(clean), weights(other))


def test_a_fit_within_a_fit_may_share_the_objective() -> None:
    x, objective = binary(), Trace_ELBO()
    inner: list[History] = []

    def callback(vae: VAE, history: History) -> None:
        inner.append(fit(bernoulli_vae(), x, epochs=1, batch_size=4, objective=objective))

    outer = fit(
        bernoulli_vae(), x, epochs=2, batch_size=4, objective=objective, callbacks=[callback]
    )
    assert "_get_trace" not in vars(objective)
    for history in (outer, *inner):
        for row in history.rows():
            assert row["cost"] == pytest.approx(row["reconstruction"] + row["kl"])
            assert row["reconstruction"] > 0


class OneHot(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 3)

    def forward(self, x: Tensor | None = None) -> dist.Distribution:
        return dist.OneHotCategorical(logits=torch.zeros(3) if x is None else self.linear(x))


def test_pyros_validation_stays_on_in_fit() -> None:
    vae = VAE(OneHot(), likelihoods.Bernoulli(networks.MLP(3, (), 6)), OneHot())
    with pytest.raises(NotImplementedError, match="fully reparameterized"):
        fit(vae, binary(), epochs=1, batch_size=4, objective=TraceMeanField_ELBO())


class Counts(nn.Module):
    """255 trials a pixel: a support whose bounds are tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.network = networks.MLP(2, (), 6)

    def forward(self, z: Tensor) -> dist.Distribution:
        return dist.Binomial(total_count=255, logits=self.network(z)).to_event(1)


def test_levels_fit_a_likelihood_of_counts() -> None:
    vae = VAE(priors.StandardNormal(2), Counts(), posteriors.Normal(networks.MLP(6, (), 4)))
    levels = torch.randint(0, 256, (20, 6), dtype=torch.uint8)
    history = fit(vae, levels, epochs=3, batch_size=10, pixels="levels")
    assert history.cost[-1] < history.cost[0]
    assert math.isfinite(log_likelihood(vae, to_pixels(levels, "levels"), 5).mean)


def test_levels_may_be_fewer_than_256() -> None:
    """What counts is which levels there are, not which there could be."""
    vae = VAE(
        priors.StandardNormal(2),
        likelihoods.Categorical(networks.MLP(2, (), (4, 6)), levels=4),
        posteriors.Normal(networks.MLP(6, (), 4)),
    )
    levels = torch.randint(0, 4, (20, 6), dtype=torch.uint8)
    levels[0] = torch.tensor([0, 1, 2, 3, 0, 0])
    fit(vae, levels, epochs=1, batch_size=10, pixels="levels")
    levels[3, 2] = 7
    with pytest.raises(
        ValueError,
        match=r"pixels: got 'levels', .* at 1 of the 5 levels in train, 7 .*, 3\)",
    ):
        fit(vae, levels, epochs=1, batch_size=10, pixels="levels")


class OneBatchDimension(nn.Module):
    """A decoder as users write them."""

    out_shape = torch.Size((2, 3))

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(2, 5), nn.BatchNorm1d(5), nn.Linear(5, 6), nn.Unflatten(1, (2, 3))
        )

    def forward(self, z: Tensor) -> Tensor:
        return self.layers(z)


def test_networks_of_one_batch_dimension_are_named_and_can_be_folded() -> None:
    decoder = OneBatchDimension()

    def vae(network: nn.Module) -> VAE:
        return VAE(
            priors.StandardNormal(2),
            likelihoods.Bernoulli(network),
            posteriors.Normal(networks.MLP((2, 3), (), 4)),
        )

    x = torch.bernoulli(torch.full((20, 2, 3), 0.5))
    for judge in (
        lambda: fit(vae(decoder), x, epochs=1, batch_size=10),
        lambda: log_likelihood(vae(decoder), x, 3),
    ):
        with pytest.raises(ValueError, match=r"likelihood: takes z .* not of \(2, 1, 2\).*Folded"):
            judge()
    folded = networks.Folded(decoder, 2, (2, 3))
    fit(vae(folded), x, epochs=1, batch_size=10)
    assert math.isfinite(log_likelihood(vae(folded), x, 3).mean)
    folded.eval()
    z = torch.randn(4, 5, 2)
    torch.testing.assert_close(folded(z), torch.stack([decoder(each) for each in z]))
    torch.testing.assert_close(folded(z[0, 0]), decoder(z[0, :1])[0])
    with pytest.raises(ValueError, match=r"expected \(\*batch, 2\)"):
        folded(torch.randn(4, 3))
    with pytest.raises(ValueError, match=r"shape \(4, 2, 3\) for 4 inputs.*expected \(N, 3\)"):
        networks.Folded(decoder, 2, 3)(torch.randn(4, 2))


# What goes wrong.


class Breaking(nn.Module):
    """A network that gives NaN from its n-th call in training on."""

    def __init__(self, network: networks.MLP, after: int, value: float) -> None:
        super().__init__()
        self.network = network
        self.out_shape = network.out_shape
        self.after = after
        self.value = value
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += self.training
        y = self.network(x)
        return y * self.value if self.training and self.calls > self.after else y


@pytest.mark.parametrize(
    ("part", "value", "term"),
    [
        ("likelihood", math.nan, "reconstruction"),
        ("likelihood", math.inf, "reconstruction"),
        ("posterior", 1e30, "KL"),
    ],
)
def test_a_loss_that_is_not_finite_stops_the_run(part: str, value: float, term: str) -> None:
    decoder, encoder = networks.MLP(1, (), 6), networks.MLP(6, (), 2)
    vae = VAE(
        priors.StandardNormal(1),
        likelihoods.Gaussian(
            Breaking(decoder, 5, value) if part == "likelihood" else decoder,
            scale=1.0,
        ),
        posteriors.Normal(Breaking(encoder, 5, value) if part == "posterior" else encoder),
    )
    kept = []

    def keep(vae: VAE, history: History) -> None:
        kept.append(weights(vae))

    if part == "posterior":  # the reconstruction of such a z is finite: it does not depend on z
        nn.init.zeros_(decoder.layers[0].weight)
        decoder.requires_grad_(False)
    with pytest.raises(NonFiniteLoss, match=rf"epoch 2, batch 2: the {term} term") as caught:
        fit(vae, binary(16), epochs=3, batch_size=4, callbacks=[keep])
    assert len(caught.value.history.epoch) == 1
    assert len(kept) == 1
    assert torch.isfinite(weights(vae)).all()
    assert all(p.grad is None for p in vae.parameters())


def test_weights_that_are_not_finite_stop_the_run() -> None:
    vae = bernoulli_vae()
    with pytest.raises(NonFiniteLoss, match=r"epoch 1"):
        fit(vae, binary(4), epochs=2, batch_size=4, optim=pyro.optim.SGD({"lr": math.inf}))


def test_wrong_data_are_named(digits: Dataset) -> None:
    vae, levels = small(), digits.train[:8]
    x = to_pixels(levels, "binary")
    with pytest.raises(ValueError, match=r"pixels: got None .* grey, binary, dequantized, levels"):
        fit(vae, levels, epochs=1, batch_size=4)
    with pytest.raises(ValueError, match=r"pixels: got 'binary' with torch.float32 as train"):
        fit(vae, x, epochs=1, batch_size=4, pixels="binary")
    with pytest.raises(ValueError, match=r"pixels: got 'gray'"):
        fit(vae, levels, epochs=1, batch_size=4, pixels="gray")
    with pytest.raises(TypeError, match=r"torch.int64"):
        fit(vae, levels.long(), epochs=1, batch_size=4)
    with pytest.raises(ValueError, match=r"pixels: got 'grey', which this likelihood does not"):
        fit(vae, levels, epochs=1, batch_size=4, pixels="grey")
    for pixels in ("dequantized", "levels"):
        with pytest.raises(ValueError, match=rf"pixels: got '{pixels}'.*Boolean"):
            fit(vae, levels, epochs=1, batch_size=4, pixels=pixels)
    with pytest.raises(ValueError, match=r"train: got 0\.\d+ at \d+ of \d+ places.*Boolean"):
        fit(vae, levels / 255, epochs=1, batch_size=4)
    with pytest.raises(ValueError, match=r"train: got shape \(8, 784\), expected \(N, 28, 28\)"):
        fit(vae, x.reshape(8, 784), epochs=1, batch_size=4)
    for bad in (math.nan, math.inf):
        broken = x.clone()
        broken[5, 3, 3] = bad
        with pytest.raises(ValueError, match=f"train: got {bad} at 1 of 6272 places"):
            fit(vae, broken, epochs=1, batch_size=4)
        with pytest.raises(ValueError, match=f"test: got {bad} at 1 of 6272 places"):
            fit(vae, x, test=broken, epochs=1, batch_size=4)
    with pytest.raises(ValueError, match="train: got an empty data set"):
        fit(vae, levels[:0], epochs=1, pixels="binary")
    with pytest.raises(ValueError, match="test: got an empty data set"):
        fit(vae, levels, test=levels[:0], epochs=1, batch_size=4, pixels="binary")
    with pytest.raises(TypeError, match="train: got a ndarray"):
        fit(vae, levels.numpy(), epochs=1, pixels="binary")


def test_wrong_settings_are_named() -> None:
    vae, x = bernoulli_vae(), binary(8)
    with pytest.raises(TypeError, match=r"train: got torch.float64, expected the VAE's torch.fl"):
        fit(vae, x.double(), epochs=1, batch_size=4)
    with pytest.raises(TypeError, match="objective: a ReweightedWakeSleep gave no loss of one"):
        fit(vae, x, epochs=1, batch_size=4, objective=ReweightedWakeSleep(num_particles=2))
    with pytest.raises(TypeError, match="vae: got a method, expected a VAE"):
        fit(vae.model, x, epochs=1, batch_size=4)
    with pytest.raises(TypeError, match="callbacks: got 'print' among them"):
        fit(vae, x, epochs=1, batch_size=4, callbacks=["print"])
    with pytest.raises(ValueError, match="epochs: got 0"):
        fit(vae, x, epochs=0)
    with pytest.raises(ValueError, match="batch_size: got 0"):
        fit(vae, x, epochs=1, batch_size=0)
    with pytest.raises(ValueError, match="batch_size: got 9, expected at most the 8"):
        fit(vae, x, epochs=1, batch_size=9)
    with pytest.raises(TypeError, match="objective: got <function"):
        fit(vae, x, epochs=1, batch_size=4, objective=objectives.trace_elbo)
    with pytest.raises(TypeError, match=r"optim: got a Adam, expected a pyro.optim.PyroOptim"):
        fit(vae, x, epochs=1, batch_size=4, optim=torch.optim.Adam(vae.parameters()))
    with pytest.raises(ValueError, match="seed: got -3"):
        fit(vae, x, epochs=1, batch_size=4, seed=-3)
    with pytest.raises(TypeError, match="seed: got 'a'"):
        fit(vae, x, epochs=1, batch_size=4, seed="a")


# Speed: compiled, and in bfloat16.


@needs_compiler
def test_compiled_it_is_the_same_training(digits: Dataset) -> None:
    histories, vaes = [], []
    for compile in (False, True):
        vae = small()
        vaes.append(vae)
        histories.append(
            fit(
                vae,
                digits.train[:700],
                test=digits.test[:200],
                epochs=2,
                pixels="binary",
                compile=compile,
            )
        )
    for name in ("cost", "reconstruction", "kl", "test_cost"):
        assert histories[1][name] == pytest.approx(histories[0][name], rel=1e-5)
    torch.testing.assert_close(weights(vaes[1]), weights(vaes[0]), rtol=1e-3, atol=1e-4)


def test_auto_compiles_by_the_number_of_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "COMPILED_FROM", 6)
    trace, renyi = objectives.trace_elbo(), RenyiELBO(num_particles=2)
    for steps, objective, compile, expected in (
        (6, trace, "auto", True),
        (5, trace, "auto", False),
        (6, trace, False, False),
        (5, trace, True, True),
        (6, renyi, "auto", False),
    ):
        recorded = training._recorded(objective, compile, steps)
        assert isinstance(recorded, Compiled) is expected
    own = objectives.compiled(trace)
    assert training._recorded(own, False, 1) is own


class Reading(nn.Module):
    """A likelihood that reads a value of z."""

    def __init__(self) -> None:
        super().__init__()
        self.network = networks.MLP(1, (), 6)

    def forward(self, z: Tensor) -> dist.Distribution:
        logits = self.network(z)
        return dist.Bernoulli(logits=logits if z.sum() > 0 else 2 * logits).to_event(1)


@needs_compiler
def test_auto_goes_on_uncompiled_where_the_program_is_not_static(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(training, "COMPILED_FROM", 1)
    parts = priors.StandardNormal(1), Reading(), posteriors.Normal(networks.MLP(6, (), 2))
    with pytest.warns(UserWarning, match="runs uncompiled"):
        history = fit(VAE(*parts), binary(20), epochs=2, batch_size=10)
    assert len(history.cost) == 2
    with pytest.raises(RuntimeError, match="reads a tensor's value"):
        fit(VAE(*parts), binary(20), epochs=2, batch_size=10, compile=True)


def test_bf16_is_in_the_networks_alone(digits: Dataset) -> None:
    seen = []

    class Watched(networks.MLP):
        def forward(self, x: Tensor) -> Tensor:
            out = super().forward(x)
            seen.append(out.dtype)
            return out

    vae = VAE(
        priors.StandardNormal(2),
        likelihoods.Bernoulli(Watched(2, (20,), (28, 28))),
        posteriors.Normal(Watched((28, 28), (20,), 4)),
    )
    costs = []
    start = copy.deepcopy(vae.state_dict())
    for precision in ("float32", "bf16"):
        vae.load_state_dict(start)
        seen.clear()
        data = {"test": digits.test[:50], "pixels": "binary", "compile": False}
        history = fit(vae, digits.train[:512], epochs=2, precision=precision, **data)
        costs.append(history.cost[-1])
        inside = torch.bfloat16 if precision == "bf16" else torch.float32
        # Checks and the test set are in float32, whatever the training is in.
        assert seen.count(inside) >= 2 * 4 * 2
        assert set(seen) <= {inside, torch.float32}
        assert all(p.dtype == torch.float32 for p in vae.parameters())
        assert vae.likelihood(torch.zeros(1, 2)).base_dist.logits.dtype == torch.float32
        assert seen[-1] == torch.float32
    assert costs[0] != costs[1]
    # bfloat16 rounds each activation by up to 2^-9; costs move by less than that.
    assert costs[1] == pytest.approx(costs[0], rel=2**-9)


def test_bf16_of_a_network_that_two_parts_share() -> None:
    q = posteriors.Normal(networks.MLP(6, (), 4))
    vae = VAE(
        priors.VampPrior(q, torch.rand(4, 6)), likelihoods.Bernoulli(networks.MLP(2, (), 6)), q
    )
    history = fit(vae, binary(), epochs=1, batch_size=4, precision="bf16")
    assert math.isfinite(history.cost[0])
    assert vae.posterior(binary()).rsample().dtype == torch.float32


@needs_compiler
def test_bf16_compiled_agrees_with_bf16(digits: Dataset) -> None:
    costs = []
    for compile in (False, True):
        vae = small()
        data = {"epochs": 1, "pixels": "binary", "compile": compile, "precision": "bf16"}
        costs.append(fit(vae, digits.train[:256], **data).cost[0])
    assert costs[1] == pytest.approx(costs[0], rel=2**-9)


def test_wrong_speed_settings() -> None:
    vae, x = bernoulli_vae(), binary(20)
    for wrong in ("yes", None, 1):
        with pytest.raises(ValueError, match="compile: got"):
            fit(vae, x, epochs=1, batch_size=5, compile=wrong)
    with pytest.raises(ValueError, match=r"precision: got 'float16'"):
        fit(vae, x, epochs=1, batch_size=5, precision="float16")
    with pytest.raises(ValueError, match=r"for a VAE of torch\.float64"):
        fit(vae.double(), x.double(), epochs=1, batch_size=5, precision="bf16")

    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(6))

        def forward(self, z: Tensor) -> dist.Distribution:
            return dist.Bernoulli(logits=z * self.weight).to_event(1)

    class Posterior(nn.Module):
        def forward(self, x: Tensor) -> dist.Distribution:
            return dist.Normal(x[..., :1], 1.0).to_event(1)

    bare = VAE(priors.StandardNormal(1), Plain(), Posterior())
    with pytest.raises(ValueError, match="no part holds a network"):
        fit(bare, x, epochs=1, batch_size=5, precision="bf16")
