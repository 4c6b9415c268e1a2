"""Training: the same seed gives the same parameters, and each example is seen once an epoch."""

import copy
import math
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pyro.optim
import pytest
import torch
from pyro.infer import (
    ELBO,
    SVI,
    ReweightedWakeSleep,
    Trace_ELBO,
    TraceEnum_ELBO,
    TraceMeanField_ELBO,
)
from pyro.optim import PyroOptim
from torch import Tensor, nn
from torch.utils.data import DataLoader

from pyro_vae import VAE, elbo, fit, likelihoods, networks, objectives, optim, posteriors, priors
from pyro_vae.compat import cpp_compiler
from pyro_vae.datasets import Dataset, binarize
from pyro_vae.pair import Pair
from pyro_vae.training import History, NonFiniteLoss

from ..pairs import two_layers, two_layers_evidence, two_layers_guide
from ..tolerances import CLOSE
from ..vaes import bernoulli_vae, binary, parameters, small


def test_the_same_seed_gives_the_same_weights(digits: Dataset) -> None:
    runs = []
    for seed in (0, 0, 1):
        vae = small()
        state = torch.get_rng_state()
        history = fit(
            vae, digits.train[:300], test=digits.test[:50], epochs=2, pixels="binary", seed=seed
        )
        assert torch.equal(torch.get_rng_state(), state)
        runs.append((parameters(vae), history))
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
    assert torch.equal(parameters(plain), parameters(watched))
    assert seen == [(watched, 1), (watched, 2), (watched, 3)]


def test_without_a_seed_the_global_generator_decides(digits: Dataset) -> None:
    runs = []
    for start in (5, 5, 6):
        vae = small()
        torch.manual_seed(start)
        fit(vae, digits.train[:300], epochs=1, pixels="binary", seed=None)
        runs.append(parameters(vae))
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
    assert torch.equal(parameters(by_fit), parameters(by_hand))
    assert history.cost == costs


def test_test_cost_is_the_bound_on_one_draw(digits: Dataset) -> None:
    vae, levels = small(), digits.test[:200]
    history = fit(
        vae, digits.train[:300], test=levels, epochs=2, pixels="binary", seed=4, batch_size=64
    )
    exact = elbo(vae, binarize(levels, seed=4), num_samples=200, seed=0)
    spread = 5 * math.sqrt(200) * exact.mc_error
    assert history.test_cost[-1] == pytest.approx(-exact.mean, abs=spread)


def test_binary_pixels_are_drawn_anew_each_epoch() -> None:
    seen: list[Tensor] = []

    class Watching(posteriors.Normal):
        def forward(self, x: Tensor, *context: Tensor) -> dist.Distribution:
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
        def forward(self, x: Tensor, *context: Tensor) -> dist.Distribution:
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
    assert len(seen.pop(0)) == 2, "the check of the last batch"
    assert [len(batch) for batch in seen] == [4, 4, 2] * 2
    for epoch in (seen[:3], seen[3:]):
        assert torch.cat(epoch).sort().values.tolist() == x[:, 0].tolist()
    assert not torch.equal(torch.cat(seen[:3]), torch.cat(seen[3:]))


def test_training_in_float64(digits: Dataset) -> None:
    vae = small().double()
    fit(vae, digits.train[:64], test=digits.test[:64], epochs=1, batch_size=32, pixels="binary")
    assert parameters(vae).dtype == torch.float64


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


def test_gradients_that_were_left_over_change_nothing() -> None:
    x, clean = binary(), bernoulli_vae()
    other = copy.deepcopy(clean)
    (50 * Trace_ELBO().differentiable_loss(other.model, other.guide, x)).backward()
    for vae in (clean, other):
        fit(vae, x, epochs=2, batch_size=4)
    assert torch.equal(parameters(clean), parameters(other))


def test_a_fit_within_a_fit_may_share_the_objective() -> None:
    x, objective = binary().double(), Trace_ELBO()
    settings: dict[str, Any] = {"batch_size": 4, "objective": objective}
    inner: list[History] = []

    def callback(vae: VAE, history: History) -> None:
        inner.append(fit(bernoulli_vae().double(), x, epochs=1, **settings))

    outer = fit(bernoulli_vae().double(), x, epochs=2, callbacks=[callback], **settings)
    assert "_get_trace" not in vars(objective)
    for history in (outer, *inner):
        for row in history.rows():
            assert row["cost"] == pytest.approx(row["reconstruction"] + row["kl"], rel=CLOSE)
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


def test_wrong_settings_are_named() -> None:
    vae, x = bernoulli_vae(), binary(8)
    with pytest.raises(TypeError, match=r"train: got torch.float64, expected the VAE's torch.fl"):
        fit(vae, x.double(), epochs=1, batch_size=4)
    with pytest.raises(TypeError, match="objective: got a ReweightedWakeSleep, expected an ELBO"):
        fit(vae, x, epochs=1, batch_size=4, objective=ReweightedWakeSleep(num_particles=2))
    with pytest.raises(TypeError, match="vae: got a method, expected a VAE"):
        fit(vae.model, x, epochs=1, batch_size=4)
    with pytest.raises(TypeError, match="callbacks: got 'print' among them"):
        fit(vae, x, epochs=1, batch_size=4, callbacks=["print"])
    with pytest.raises(ValueError, match="epochs: got 0"):
        fit(vae, x, epochs=0)
    with pytest.raises(ValueError, match="batch_size: got 0"):
        fit(vae, x, epochs=1, batch_size=0)
    with pytest.raises(TypeError, match="objective: got <function"):
        fit(vae, x, epochs=1, batch_size=4, objective=objectives.trace_elbo)
    with pytest.raises(TypeError, match=r"optim: got a str, expected a pyro.optim.PyroOptim"):
        fit(vae, x, epochs=1, batch_size=4, optim="adam")
    other = torch.optim.Adam(bernoulli_vae().parameters())
    with pytest.raises(ValueError, match="optim: got a torch optimizer that holds none"):
        fit(vae, x, epochs=1, batch_size=4, optim=other)
    with pytest.raises(ValueError, match="seed: got -3"):
        fit(vae, x, epochs=1, batch_size=4, seed=-3)
    with pytest.raises(TypeError, match="seed: got 'a'"):
        fit(vae, x, epochs=1, batch_size=4, seed="a")


class Doubled(Trace_ELBO):
    """An ELBO of one's own, made from Pyro's traces."""

    def loss(self, *args: Any, **kwargs: Any) -> float:
        return 2 * super().loss(*args, **kwargs)

    def loss_and_grads(self, *args: Any, **kwargs: Any) -> float:
        return 2 * super().loss_and_grads(*args, **kwargs)


class Opaque(ELBO):
    """A loss that is not made from traces, so that its terms are unknown."""

    def _get_trace(self, *args: Any) -> Any:
        raise NotImplementedError

    def loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> float:
        return 1.0

    def loss_and_grads(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> float:
        guide(*args)
        loss = model(*args).sum()
        if loss.requires_grad:
            loss.backward()
        return 1.0


class Half(Trace_ELBO):
    """A loss that SVI does not call."""

    def differentiable_loss(self, *args: Any, **kwargs: Any) -> Any:
        return 0.5 * super().differentiable_loss(*args, **kwargs)


class Tripled(Trace_ELBO):
    """A loss and its gradient, as SVI and as a graph take it."""

    def differentiable_loss(self, *args: Any, **kwargs: Any) -> Any:
        return 3 * super().differentiable_loss(*args, **kwargs)

    def loss_and_grads(self, *args: Any, **kwargs: Any) -> float:
        loss = self.differentiable_loss(*args, **kwargs)
        loss.backward()
        return loss.item()


def test_an_elbo_whose_losses_are_not_one_is_refused() -> None:
    """SVI takes loss_and_grads, and compiled code differentiable_loss."""
    x, vae = binary(20), bernoulli_vae()
    message = ": got Half, which has a differentiable_loss of its own, and the loss_and_grads of"
    with pytest.raises(TypeError, match=f"objective{message}"):
        fit(vae, x, epochs=1, batch_size=20, objective=Half())
    with pytest.raises(TypeError, match=f"elbo{message}"):
        objectives.compiled(Half())
    for make in (
        lambda: objectives.compiled(Doubled()),
        lambda: fit(vae, x, epochs=1, batch_size=20, objective=Doubled(), compile=True),
    ):
        with pytest.raises(TypeError, match=r"elbo: got Doubled, which has a loss_and_grads of"):
            make()
    with pytest.warns(UserWarning, match="runs uncompiled: a Doubled has a loss_and_grads of"):
        fit(vae, x, epochs=100, batch_size=1, objective=Doubled())
    if cpp_compiler() is not None:
        objectives.compiled(Tripled())


def test_an_elbo_of_ones_own_works_or_is_refused_before_the_first_step() -> None:
    x, vae = binary(20), bernoulli_vae()
    twin = copy.deepcopy(vae)
    history = fit(vae, x, epochs=1, batch_size=20, objective=Doubled())
    plain = fit(twin, x, epochs=1, batch_size=20)
    assert history.cost[0] == pytest.approx(2 * plain.cost[0])
    assert history.reconstruction == plain.reconstruction
    before = copy.deepcopy(vae.state_dict())
    with pytest.raises(TypeError, match="objective: got an Opaque, expected an ELBO whose"):
        fit(vae, x, epochs=1, batch_size=20, objective=Opaque())
    for name, value in vae.state_dict().items():
        assert torch.equal(value, before[name])


# What would change nothing, or fail after some steps.


def test_lazy_modules_are_trained() -> None:
    layers = nn.Sequential(nn.LazyLinear(5), nn.Tanh(), nn.LazyLinear(2))
    vae = VAE(
        priors.StandardNormal(1),
        likelihoods.Bernoulli(networks.MLP(1, (), 6)),
        posteriors.Normal(networks.Folded(layers, 6, 2)),
    )
    history = fit(vae, binary(), epochs=30, optim=optim.Adam(0.05), seed=0)
    assert history.cost[-1] < history.cost[0]


def test_what_a_callback_breaks_after_the_last_epoch_is_named() -> None:
    def breaks(pair: Pair, history: History) -> None:
        if len(history.epoch) == 2:
            next(pair.parameters()).data.fill_(math.inf)

    with pytest.raises(NonFiniteLoss, match="epoch 2, after the callbacks: the parameter"):
        fit(bernoulli_vae(), binary(), epochs=2, callbacks=[breaks])


def test_parameters_that_cannot_be_trained_are_named() -> None:
    with torch.inference_mode():
        made = bernoulli_vae()
    with pytest.raises(ValueError, match=r"made within torch\.inference_mode"):
        fit(made, binary(), epochs=1)
    with pytest.raises(ValueError, match="vae: got parameters on the device meta"):
        fit(bernoulli_vae().to("meta"), binary(), epochs=1)


@pytest.mark.parametrize("off", [torch.no_grad, torch.inference_mode])
def test_training_with_gradients_off_is_refused(off: Any) -> None:
    vae, x = bernoulli_vae(), binary(20)
    before = [p.clone() for p in vae.parameters()]
    with off(), pytest.raises(RuntimeError, match="fit: gradients are off here"):
        fit(vae, x, epochs=2, batch_size=8)
    assert all(map(torch.equal, before, vae.parameters()))
    with torch.no_grad(), torch.enable_grad():
        fit(vae, x, epochs=1, batch_size=8)
    assert not all(map(torch.equal, before, vae.parameters()))


def test_a_callback_that_turns_gradients_off_ends_the_training() -> None:
    def forgets(pair: Pair, history: History) -> None:
        torch.set_grad_enabled(False)

    try:
        with pytest.raises(RuntimeError, match="epoch 2: gradients are off"):
            fit(bernoulli_vae(), binary(20), epochs=3, batch_size=8, callbacks=[forgets])
    finally:
        torch.set_grad_enabled(True)


def test_a_pair_with_nothing_to_train_is_refused() -> None:
    vae = bernoulli_vae().requires_grad_(False)
    with pytest.raises(ValueError, match="vae: has no parameter that requires grad"):
        fit(vae, binary(20), epochs=2, batch_size=8)
    vae.posterior.requires_grad_(True)
    fit(vae, binary(20), epochs=1, batch_size=8)

    def freezes(pair: Pair, history: History) -> None:
        pair.requires_grad_(False)

    with pytest.raises(ValueError, match="vae: has no parameter that requires grad"):
        fit(vae, binary(20), epochs=2, batch_size=8, callbacks=[freezes])


def normed() -> VAE:
    layers = nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Linear(4, 4)
    return VAE(
        priors.StandardNormal(2),
        likelihoods.Bernoulli(networks.MLP(2, (), 6)),
        posteriors.Normal(networks.Folded(nn.Sequential(*layers), 6, 4)),
    )


@pytest.mark.parametrize("kind", ["tensor", "loader"])
def test_a_last_batch_that_fails_is_named_before_the_first_step(kind: str) -> None:
    x, vae = binary(17), normed()
    data: Any = {"train": x, "batch_size": 8}
    if kind == "loader":
        data = {"train": DataLoader(x, 8)}
    before = {name: value.clone() for name, value in vae.state_dict().items()}
    with pytest.raises(ValueError, match=r"a last one of 1, on which .* more than 1 value"):
        fit(vae, **data, epochs=2)
    assert all(torch.equal(value, before[name]) for name, value in vae.state_dict().items())
    assert vae.training
    # Right programs close by: a last batch of two, and none, and a norm for one example.
    fit(vae, x, batch_size=3, epochs=1)
    fit(vae, DataLoader(x, 8, drop_last=True), epochs=1)
    vae.posterior.network.network[1] = nn.LayerNorm(4)
    fit(vae, **data, epochs=1)


class Twice(Trace_ELBO):
    """Twice the ELBO."""

    def _differentiable_loss_particle(self, model_trace: Any, guide_trace: Any) -> Any:
        loss, surrogate = super()._differentiable_loss_particle(model_trace, guide_trace)
        return 2 * loss, 2 * surrogate


class Named(Trace_ELBO):
    """The ELBO by another name."""


@pytest.mark.parametrize("compile", [False, True])
def test_the_kl_of_what_is_no_elbo_is_the_elbos(compile: bool) -> None:
    """The first loss of each is from the same draws."""
    if compile and cpp_compiler() is None:
        pytest.skip("needs a C++ compiler")
    found = {}
    for objective in (Trace_ELBO(), Named(), Twice()):
        torch.manual_seed(0)
        vae = bernoulli_vae()
        found[type(objective)] = fit(
            vae, binary(20), epochs=1, batch_size=20, objective=objective, compile=compile
        )
    elbo, named, doubled = found.values()
    assert named.cost == elbo.cost
    assert named.kl == elbo.kl
    assert doubled.cost[0] == pytest.approx(2 * elbo.cost[0])
    assert doubled.kl[0] == pytest.approx(elbo.kl[0], rel=1e-4)
    assert doubled.reconstruction[0] == pytest.approx(elbo.reconstruction[0])


def test_importance_weighted_objectives_log_nothing(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", "pyro"):
        fit(bernoulli_vae(), binary(20), epochs=1, batch_size=8, objective=objectives.iwae(3))
        elbo = Trace_ELBO(2, vectorize_particles=True)
        fit(bernoulli_vae(), binary(20), epochs=1, batch_size=8, objective=elbo)
    assert not [record for record in caplog.records if "Guessed" in record.getMessage()]


def test_a_cost_out_of_all_proportion_is_warned_of() -> None:
    levels = torch.randint(0, 256, (40, 6)).float()
    vae = VAE(
        priors.StandardNormal(2),
        likelihoods.Gaussian(networks.MLP(2, (8,), 6), scale=1.0),
        posteriors.Normal(networks.MLP(6, (8,), 4)),
    )
    with pytest.warns(UserWarning, match=r"epoch 1 has a cost of .* for each number in x") as seen:
        fit(vae, levels, epochs=3, batch_size=20)
    assert len(seen) == 1
    fit(vae, levels / 255, epochs=1, batch_size=20)


def test_pyros_enumeration_takes_marked_latents_alone() -> None:
    """An unmarked one of the model alone would be drawn, and its density stay in the loss."""

    def programs(infer: dict[str, str]) -> Pair:
        def model(x: Tensor) -> None:
            with pyro.plate("data", len(x)):
                y = pyro.sample("y", dist.Categorical(logits=torch.zeros(2)), infer=infer)
                z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
                pyro.sample("x", dist.Normal(y + z, 1.0), obs=x)

        return Pair(model, guide, net=nn.Linear(1, 1), name=f"marked{len(infer)}")

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x * pyro.param("w", torch.tensor(0.5)), 1.0))

    x = torch.randn(8)
    fit(programs({"enumerate": "parallel"}), x, epochs=1, batch_size=8, objective=TraceEnum_ELBO())
    with pytest.raises(ValueError, match=r'site "y": .*objectives\.enumerated\(\)'):
        fit(programs({}), x, epochs=1, batch_size=8, objective=TraceEnum_ELBO())


def test_pyros_mean_field_needs_the_order_of_the_model() -> None:
    x = two_layers_evidence().sample((8,))
    pair = Pair(two_layers, two_layers_guide, net=nn.Linear(1, 1))
    with pytest.raises(ValueError, match="the guide draws its sites in the order z1, z2"):
        fit(pair, x, epochs=1, batch_size=8, objective=TraceMeanField_ELBO())
