"""The pair: a Pyro model and guide of one's own, with parameters of their own, in every tool."""

import copy
import gc
import math
import pickle
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import pyro.optim
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO
from pyro.infer.autoguide import AutoDiagonalNormal, AutoNormal
from pyro.nn import PyroModule, PyroParam
from torch import Tensor, nn
from torch.distributions import constraints, kl_divergence

from pyro_vae import (
    VAE,
    Pair,
    elbo,
    fit,
    load,
    log_likelihood,
    networks,
    objectives,
    optim,
    save,
)
from pyro_vae.comparison import compare
from pyro_vae.evaluation import (
    active_units,
    certify,
    density_draw,
    elbo_gap,
    posterior_predictive,
)
from pyro_vae.gradients import measure

from .pairs import WEIGHT, two_layers_evidence
from .test_context import labelled
from .vaes import bernoulli_vae, binary, common_noise, linear_gaussian

# Programs that can be imported by name, and the modules that they close over.

decoder, encoder = networks.MLP(2, (8,), 5), networks.MLP(5, (8,), 2)


def model(x: Tensor) -> Tensor:
    pyro.module("decoder", decoder)
    scale = pyro.param("scale", torch.full((), 0.8), constraints.positive)
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
        return pyro.sample("x", dist.Normal(decoder(z), scale).to_event(1), obs=x)


def guide(x: Tensor) -> None:
    width = pyro.param("my.width", lambda: torch.full((2,), 0.5), constraints.positive)
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(encoder(x), width).to_event(1))


def pair_of(seed: int = 0) -> Pair:
    """A pair of closures over new modules."""
    torch.manual_seed(seed)
    decoder, encoder = networks.MLP(2, (8,), 5), networks.MLP(5, (8,), 2)

    def model(x: Tensor) -> None:
        scale = pyro.param("scale", torch.full((), 0.8), constraints.positive)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(decoder(z), scale).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        width = pyro.param("my.width", lambda: torch.full((2,), 0.5), constraints.positive)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(encoder(x), width).to_event(1))

    return Pair(model, guide, decoder=decoder, encoder=encoder)


def as_pair(vae: VAE) -> Pair:
    """A VAE's two programs, written out by hand."""
    prior, likelihood, posterior = vae.prior, vae.likelihood, vae.posterior

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", prior())
            pyro.sample("x", likelihood(z), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", posterior(x))

    return Pair(model, guide, prior=prior, likelihood=likelihood, posterior=posterior)


def two_layers_pair() -> Pair:
    """The linear model of two layers of which log p(x) is known, with weights of pyro.param."""

    def model(x: Tensor) -> None:
        weight = pyro.param("weight", WEIGHT.clone())
        with pyro.plate("data", len(x)):
            z2 = pyro.sample("z2", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            z1 = pyro.sample("z1", dist.Normal(z2, 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z1 @ weight.T, 0.5).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        gain = pyro.param("gain", 0.8 * WEIGHT)
        scale = pyro.param("scale", x.new_full((), 0.8), constraints.positive)
        with pyro.plate("data", len(x)):
            z1 = pyro.sample("z1", dist.Normal(x @ gain, scale).to_event(1))
            pyro.sample("z2", dist.Normal(0.5 * z1, 0.9).to_event(1))

    return Pair(model, guide)


def loss(pair: Pair, x: Tensor) -> float:
    return common_noise(lambda: Trace_ELBO().loss(pair.model, pair.guide, x))


def train(pair: Pair, x: Tensor, steps: int = 3) -> list[float]:
    torch.manual_seed(3)
    svi = SVI(pair.model, pair.guide, optim.Adam(lr=1e-2), Trace_ELBO())
    return [svi.step(x) for _ in range(steps)]


# The same numbers as those of a VAE.


def test_a_vaes_programs_as_a_pair_train_to_the_same_weights() -> None:
    x, vae = binary(20), bernoulli_vae()
    pair = as_pair(copy.deepcopy(vae))
    histories = [fit(p, x, test=x[:5], epochs=3, batch_size=8) for p in (vae, pair)]
    for column in ("cost", "reconstruction", "kl", "test_cost"):
        assert histories[0][column] == histories[1][column]
    for name, value in vae.state_dict().items():
        assert torch.equal(value, pair.state_dict()[name])


@pytest.mark.parametrize("estimator", ["importance", "prior", "ais:5:2"])
def test_a_vaes_programs_as_a_pair_have_its_log_likelihood(estimator: str) -> None:
    x, vae = binary(), bernoulli_vae()
    results = [log_likelihood(p, x, 30, estimator=estimator, seed=0) for p in (vae, as_pair(vae))]
    torch.testing.assert_close(results[0].values, results[1].values)


@pytest.mark.slow
def test_a_vaes_programs_as_a_pair_have_its_bounds_and_criticism() -> None:
    case = linear_gaussian(exact=False)
    vae, x = case.vae, case.x
    pair = as_pair(vae)
    for kl in ("sampled", "analytic"):
        ours, theirs = (elbo(p, x, 50, kl=kl, seed=0) for p in (pair, vae))
        torch.testing.assert_close(ours.values, theirs.values)
        torch.testing.assert_close(ours.kl, theirs.kl)
    units, own = active_units(pair, x), active_units(vae, x)
    torch.testing.assert_close(units.statistic, own.statistic)
    assert units.shapes == own.shapes == {"z": torch.Size([2])}
    losses = {"elbo": objectives.trace_elbo(), "iwae": objectives.iwae(3)}
    for part in ("encoder", "decoder"):
        gradients = [measure(p, x, losses, draws=20)["iwae"][part] for p in (pair, vae)]
        assert gradients[0].norm == pytest.approx(gradients[1].norm)
        assert gradients[0].bias == pytest.approx(gradients[1].bias)


@pytest.mark.slow
def test_refining_the_sites_of_a_pair_finds_the_exact_posterior() -> None:
    """The exact posterior is diagonal, and so in the family of the guide's site."""
    case = linear_gaussian(exact=False)
    log_p = case.evidence.log_prob(case.x)
    gap = elbo_gap(as_pair(case.vae), case.x, 500, steps=400, seed=0)
    own = elbo(case.vae, case.x, 500, kl="analytic", seed=1)
    assert gap.elbo.mean().item() == pytest.approx(own.mean, abs=7 * own.mc_error)
    before, after = (log_p - bound for bound in (gap.elbo, gap.refined))
    assert after.min() > -0.01  # The posterior that is found is exact but for Adam's last steps.
    assert after.mean() < 0.05 * before.mean()


@pytest.mark.slow
def test_refining_two_sites_keeps_that_one_depends_on_the_other() -> None:
    pair, x = two_layers_pair(), two_layers_evidence().sample((6,))
    pair.setup(x)
    gap = elbo_gap(pair, x, 2000, steps=500, seed=0)
    log_p = two_layers_evidence().log_prob(x)
    # q(z1|x) q(z2|z1) with z2 | z1 ~ N(z1 / 2, 0.9): only the scale of z2 is off, and is refined;
    # q(z1|x) is diagonal, which the posterior is not.
    assert (gap.amortization > 0).all()
    assert (gap.refined <= log_p + 0.05).all()
    assert (log_p - gap.refined).mean() < 0.5 * (log_p - gap.elbo).mean()


# Two layers of which everything is known.


@pytest.mark.slow
def test_two_layers_are_evaluated_like_a_vae() -> None:
    pair, evidence = two_layers_pair(), two_layers_evidence()
    x = evidence.sample((40,))
    pair.setup(x)
    result = log_likelihood(pair, x, 2000, seed=0)
    exact = evidence.log_prob(x).mean().item()
    assert result.mean == pytest.approx(exact, abs=5 * result.mc_error - result.bias)
    bound = elbo(pair, x, 100, seed=0)
    assert bound.mean < exact
    certificate = certify(pair, x=x, num_samples=20, estimator="ais:50:3", seed=0)
    truth = evidence.log_prob(certificate.x).mean().item()
    error = 4 * certificate.gap_error
    assert certificate.lower_mean - error < truth < certificate.upper_mean + error
    units = active_units(pair, x, seed=0)
    assert units.shapes == {"z1": torch.Size([2]), "z2": torch.Size([2])}
    mean = x @ (0.8 * WEIGHT)
    torch.testing.assert_close(units.by_site()["z1"], mean.var(0), rtol=1e-6, atol=1e-6)
    with pytest.raises(ValueError, match="the guide draws its sites in the order z1, z2"):
        elbo(pair, x, 10, kl="analytic")


def test_a_certificate_has_the_weight_of_an_exact_draw() -> None:
    """With one weight, the upper bound is off by KL(p(z|x), q(z|x)), which is known here."""
    case = linear_gaussian(exact=False, shift=0.3, width=1.4)
    like = torch.zeros(2000, 5).double()
    result = certify(as_pair(case.vae), x=like, num_samples=1, estimator="importance", seed=0)
    off = result.upper - case.evidence.log_prob(result.x)
    scale = case.posterior_scale
    exact = kl_divergence(dist.Normal(0.0, scale), dist.Normal(0.3, 1.4 * scale)).sum().item()
    assert off.mean().item() == pytest.approx(exact, abs=5 * off.std().item() / 2000**0.5)


def test_an_analytic_kl_of_two_sites_is_the_sampled_one_in_the_mean() -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z2 = pyro.sample("z2", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            z1 = pyro.sample("z1", dist.Normal(z2, 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z1, 0.5).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z2 = pyro.sample("z2", dist.Normal(0.4 * x, 0.7).to_event(1))
            pyro.sample("z1", dist.Normal(0.5 * x + 0.3 * z2, 0.6).to_event(1))

    pair, x = Pair(model, guide), torch.randn(30, 2)
    sampled, closed = (elbo(pair, x, 400, kl=kl, seed=0) for kl in ("sampled", "analytic"))
    assert closed.kl_mean == pytest.approx(sampled.kl_mean, abs=5 * sampled.kl_mc_error)
    assert 0 < closed.kl_mc_error < sampled.kl_mc_error


def test_a_predictive_check_draws_from_the_model_at_the_guides_latents() -> None:
    """x is z + N(0, 1) with z ~ q = N(x / 2, 1): a replication is N(x / 2, 2)."""

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x / 2, 1.0).to_event(1))

    x = torch.linspace(-2, 2, 5)[:, None]
    check = posterior_predictive(Pair(model, guide), x, lambda x: x[..., 0], 500, seed=0)
    assert torch.equal(check.observed, x[:, 0].double())
    exact = 1 - dist.Normal(x[:, 0] / 2, 2**0.5).cdf(x[:, 0])
    torch.testing.assert_close(check.p_values.float(), exact, atol=5 * 0.5 / 500**0.5, rtol=0)


def test_a_model_that_reads_its_own_x_is_not_simulated() -> None:
    def model(x: Tensor) -> None:
        shifted = torch.cat((x.new_zeros(len(x), 1), x[:, :-1]), 1)  # teacher forcing
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(3), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z + shifted, 1.0).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x / 2, 1.0).to_event(1))

    pair, x = Pair(model, guide), torch.randn(6, 3)
    assert log_likelihood(pair, x, 30, seed=0).values.shape == (6,)
    for use in (
        lambda: posterior_predictive(pair, x, lambda x: x.mean(-1)),
        lambda: certify(pair, x=x, num_samples=2, estimator="prior"),
    ):
        with pytest.raises(ValueError, match='the distribution of the site "x" depends on x'):
            use()


def test_levels_are_drawn_for_the_support_of_the_model() -> None:
    network = networks.MLP(2, (), 4)

    def programs(likelihood: Callable[[Tensor], Any]) -> Pair:
        def model(x: Tensor) -> None:
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
                pyro.sample("x", likelihood(network(z)).to_event(1), obs=x)

        def guide(x: Tensor) -> None:
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(x[:, :2], 1.0).to_event(1))

        return Pair(model, guide, network=network)

    levels = torch.randint(0, 256, (5, 4), dtype=torch.uint8)
    for likelihood, pixels in (
        (lambda logits: dist.Bernoulli(logits=logits), "binary"),
        (lambda loc: dist.Normal(loc, 1.0), "dequantized"),
    ):
        assert density_draw(programs(likelihood), levels, "grey", seed=0)[1] == pixels


# Parameters.


def test_parameters_of_pyro_are_the_pairs_own() -> None:
    x, first, second = torch.randn(7, 5), pair_of(), pair_of()
    for pair in (first, second):
        pair.setup(x)
        assert list(pair.params) == ["my.width", "scale"]
        assert len(list(pair.parameters())) == 10
    before = copy.deepcopy(second.state_dict())
    train(first, x)
    assert first.params["scale"].item() != second.params["scale"].item()
    for name, value in second.state_dict().items():
        assert torch.equal(value, before[name])
    pyro.clear_param_store()
    losses = train(first, x)
    pyro.clear_param_store()
    assert train(first, x)[0] < losses[0]
    name = "pair.params.scale"
    assert pyro.get_param_store()[name].item() == first.params["scale"].exp().item()
    names = set(pyro.get_param_store().keys())
    assert {n.split(".")[0] for n in names} == {"pair"}
    del first, second, pair
    gc.collect()
    assert not names & set(pyro.get_param_store().keys())


def test_a_cell_that_runs_again_starts_afresh() -> None:
    x, pair = torch.randn(7, 5), pair_of()
    losses = train(pair, x)
    assert train(pair_of(), x) == losses
    pyro.get_param_store()["scale"] = torch.tensor(5.0)
    assert train(pair_of(), x) == losses


def test_a_copy_runs_with_its_own_modules() -> None:
    x, pair = torch.randn(7, 5), pair_of()
    pair.setup(x)
    twin = copy.deepcopy(pair)
    assert loss(twin, x) == loss(pair, x)
    before = loss(pair, x)
    with torch.no_grad():
        twin.decoder.layers[0].weight.zero_()
        twin.params["scale"].add_(0.1)
    assert loss(pair, x) == before
    assert loss(twin, x) != before
    assert train(twin, x) != train(pair, x)
    pair.load_state_dict(twin.state_dict())
    assert loss(pair, x) == loss(twin, x)


def test_a_module_that_is_replaced_is_the_one_that_runs() -> None:
    x, pair = torch.randn(7, 5), pair_of()
    pair.setup(x)
    pair.decoder = nn.Sequential(networks.MLP(2, (3,), 5), nn.Tanh())
    seen = poutine.trace(pair.model).get_trace(x).nodes["x"]["fn"].base_dist.loc
    assert seen.abs().max() <= 1
    assert "pair.decoder.0.layers.0.weight" in pyro.get_param_store()


def test_modes_reach_the_modules_of_a_copy() -> None:
    drop = nn.Dropout(0.9)

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(drop(z + 1), 1.0).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x, 0.1).to_event(1))

    x = torch.ones(50, 2)
    with pytest.raises(ValueError, match=r"uses a module .*, Dropout as 'drop', expected it as"):
        Pair(model, guide).setup(x)
    pair = copy.deepcopy(Pair(model, guide, drop=drop)).eval()
    assert drop.training
    loc = poutine.trace(pair.model).get_trace(x).nodes["x"]["fn"].base_dist.loc
    assert (loc != 0).all()


def test_pickles_have_functions_by_name() -> None:
    x, pair = torch.randn(7, 5), Pair(model, guide, decoder=decoder, encoder=encoder)
    pair.setup(x)
    twin = pickle.loads(pickle.dumps(pair))
    assert loss(twin, x) == loss(pair, x)
    with torch.no_grad():
        twin.decoder.layers[0].weight.zero_()
    assert loss(twin, x) != loss(pair, x)
    with pytest.raises(pickle.PicklingError, match=r"model: got pair_of.<locals>.model, expected"):
        pickle.dumps(pair_of())


@pytest.mark.slow
@pytest.mark.parametrize("way", ["pickle", "save"])
def test_a_fresh_process_has_the_same_numbers(way: str, tmp_path: Path) -> None:
    x = torch.randn(7, 5)
    pair = Pair(model, guide, decoder=decoder, encoder=encoder)
    fit(pair, x, epochs=2, batch_size=4)
    torch.save(x, tmp_path / "x")
    if way == "pickle":
        (tmp_path / "pair").write_bytes(pickle.dumps(pair))
    else:
        save(pair, tmp_path / "pair")
    code = f"""
import pickle, torch
from pyro_vae import Pair, load, log_likelihood
from tests.test_pair import decoder, encoder, guide, model
if {way!r} == "pickle":
    pair = pickle.loads(open({str(tmp_path / "pair")!r}, "rb").read())
else:
    own = Pair(model, guide, decoder=decoder, encoder=encoder)
    pair = load({str(tmp_path / "pair")!r}, into=own)
x = torch.load({str(tmp_path / "x")!r})
print(log_likelihood(pair, x, 50, seed=0).values.tolist())
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    own = log_likelihood(pair, x, 50, seed=0).values.tolist()
    assert run.stdout.strip().splitlines()[-1] == str(own)


def test_saved_parameters_of_pyro_are_made_from_the_file(tmp_path: Path) -> None:
    x, pair = torch.randn(7, 5), pair_of()
    train(pair, x)
    save(pair, tmp_path)
    fresh = pair_of(seed=1)
    with pytest.raises(ValueError, match="into: got None, expected the pair"):
        load(tmp_path)
    assert load(tmp_path, into=fresh) is fresh
    assert set(fresh.params) == set(pair.params)
    assert loss(fresh, x) == loss(pair, x)
    other = Pair(pair.model, pair.guide, decoder=networks.MLP(2, (9,), 5))
    with pytest.raises(ValueError, match="into: got"):
        load(tmp_path, into=other)


def test_pairs_move_and_change_their_dtype_as_modules_do() -> None:
    x, pair = torch.randn(7, 5), pair_of()
    assert pair.double() is pair
    pair.setup(x.double())
    assert {p.dtype for p in pair.parameters()} == {torch.float64}
    assert isinstance(loss(pair, x.double()), float)
    late = pair_of().to("meta")
    with torch.device("meta"), pyro.validation_enabled(False):
        late.setup(torch.zeros(7, 5))
    assert {p.device.type for p in late.parameters()} == {"meta"}
    # A program of its own dtype keeps it, if the pair has not been changed.
    mixed = two_layers_pair()
    mixed.setup(torch.zeros(3, 3).double())
    assert mixed.params["weight"].dtype == torch.float64


class Generative(PyroModule):
    """A model as a PyroModule, with a PyroParam, a parameter and a network."""

    def __init__(self) -> None:
        super().__init__()
        self.net = networks.MLP(2, (8,), 5)
        self.scale = PyroParam(torch.tensor(0.7), constraints.positive)
        self.shift = nn.Parameter(torch.zeros(5))

    def forward(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            loc = self.net(z) + self.shift
            pyro.sample("x", dist.Normal(loc, self.scale).to_event(1), obs=x)


class Recognition(PyroModule):
    """A guide with a parameter of the same name as one of the model's."""

    def __init__(self) -> None:
        super().__init__()
        self.net = networks.MLP(5, (8,), 2)
        self.scale = PyroParam(torch.tensor(0.4), constraints.positive)

    def forward(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.net(x), self.scale).to_event(1))


def modular() -> Pair:
    return Pair(Generative(), Recognition())


def test_pyro_modules_keep_apart_what_has_one_name() -> None:
    pyro.get_param_store()["scale"] = torch.tensor(9.0)  # left by an earlier cell
    x, generative, recognition = torch.randn(7, 5), Generative(), Recognition()
    pair = Pair(generative, recognition)
    losses = train(pair, x, 30)
    assert losses[-1] < losses[0]
    scales = generative.scale.item(), recognition.scale.item()
    assert 0.4 < scales[0] != 0.7
    assert scales[1] not in (0.4, scales[0])
    assert generative.shift.abs().sum() > 0
    assert pyro.get_param_store()["scale"].item() == 9.0
    twin = copy.deepcopy(pair)
    assert loss(twin, x) == loss(pair, x)
    fit(twin, x, epochs=2, batch_size=4)
    assert loss(twin, x) != loss(pair, x)


def test_an_autoguide_has_its_parameters_after_the_first_call() -> None:
    x, pair = torch.randn(7, 5), pair_of()
    own = Pair(Generative(), AutoNormal(pair.model), pair=pair)
    own.setup(x)
    assert not list(own.params)
    assert "programs.guide.locs.z_unconstrained" in own.state_dict()
    losses = train(own, x, 30)
    assert losses[-1] < losses[0]
    twin = copy.deepcopy(own)
    assert loss(twin, x) == loss(own, x)
    # It has a latent for each example by its place, and so cannot be trained in another order.
    with pytest.raises(ValueError, match='plate "data": got size 7 for x of length 1'):
        fit(own, x, epochs=1, batch_size=7)


def test_an_autoguide_of_global_latents_trains_as_in_pyro() -> None:
    def model(x: Tensor) -> None:
        mean = pyro.sample("mean", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(mean, 1.0).to_event(1), obs=x)

    x, losses = torch.randn(10, 2) + 1, []
    for own in (True, False):
        torch.manual_seed(0)
        pyro.clear_param_store()
        guide = AutoDiagonalNormal(model)
        guide(x)
        pair = Pair(model, guide)
        programs = (pair.model, pair.guide) if own else (model, guide)
        torch.manual_seed(1)
        svi = SVI(*programs, pyro.optim.Adam({"lr": 0.01}), Trace_ELBO())
        losses.append([svi.step(x) for _ in range(5)])
    assert losses[0] == pytest.approx(losses[1])
    fresh = Pair(model, AutoDiagonalNormal(model))
    fit(fresh, x, epochs=2, batch_size=10)
    assert "programs.guide.loc" in fresh.state_dict()


def test_constraints_are_known_again_after_loading(tmp_path: Path) -> None:
    """The guide makes a parameter that the model reads without an initial value."""

    def make() -> Pair:
        def model(x: Tensor) -> None:
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(x.new_zeros(5), 1.0).to_event(1))
                pyro.sample("x", dist.Normal(z, pyro.param("scale")).to_event(1), obs=x)

        def guide(x: Tensor) -> None:
            pyro.param("scale", torch.tensor(0.3), constraints.positive)
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(x.new_zeros(5), 1.0).to_event(1))

        return Pair(model, guide)

    x, pair = torch.randn(7, 5), make()
    result = log_likelihood(pair, x, 30, seed=0)  # which sets the pair up
    save(pair, tmp_path)
    again = load(tmp_path, into=make())
    with pytest.raises(ValueError, match=r"its constraint is not known yet, expected pair.setup"):
        again.model(x)
    assert torch.equal(log_likelihood(again, x, 30, seed=0).values, result.values)


@pytest.mark.usefixtures("code")
def test_a_fixed_parameter_of_pyro_stays_where_it_is() -> None:
    x, pair = torch.randn(20, 5), pair_of()
    pair.setup(x)
    pair.params["scale"].requires_grad_(False)
    for compiled in (False, True):
        fit(pair, x, epochs=1, batch_size=10, compile=compiled)
    assert pair.params["scale"].exp().item() == pytest.approx(0.8)


def test_a_state_of_another_pair_is_refused_once_all_parameters_are_there() -> None:
    x, pair = torch.randn(7, 5), pair_of()
    pair.setup(x)
    state = {**pair.state_dict(), "params.junk": torch.zeros(2)}
    with pytest.raises(RuntimeError, match="junk"):
        pair.load_state_dict(state)


def test_a_module_keeps_its_own_parameter_unconstrained() -> None:
    weight = nn.Linear(1, 1)

    def shifted(x: Tensor) -> None:
        shift = pyro.param("shift", weight.bias, constraint=constraints.unit_interval)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(shift, 1.0))

    with pytest.raises(
        ValueError, match=r'"shift"\): got a parameter of a module with the constr'
    ):
        Pair(shifted, shifted, weight=weight).setup(torch.zeros(3))


def test_active_units_of_scalars_and_of_classes() -> None:
    def programs(q: Callable[[Tensor], Any], p: Any) -> Pair:
        def model(x: Tensor) -> None:
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", p)
                pyro.sample("x", dist.Normal(z[..., None] * torch.ones(5), 1.0).to_event(1), obs=x)

        def guide(x: Tensor) -> None:
            with pyro.plate("data", len(x)):
                pyro.sample("z", q(x))

        return Pair(model, guide)

    x = torch.randn(30, 5)
    units = active_units(programs(lambda x: dist.Normal(x[:, 0], 1.0), dist.Normal(0.0, 1.0)), x)
    torch.testing.assert_close(units.statistic, x[:, :1].double().var(0))
    discrete = programs(lambda x: dist.Bernoulli(logits=x[:, 0]), dist.Bernoulli(0.5))
    with pytest.raises(ValueError, match='site "z": a discrete latent, expected continuous ones'):
        active_units(discrete, x)


def test_methods_are_those_that_were_given() -> None:
    class Net(nn.Module):
        def model(self, x: Tensor) -> str:
            return "base"

    class Sub(Net):
        def model(self, x: Tensor) -> str:
            return "derived"

    net = Sub()
    pair = Pair(super(Sub, net).model, guide, net=net, encoder=encoder)
    assert pair.model(torch.zeros(3, 5)) == "base"
    wrapped = types.MethodType(lambda self, x: self.model(x), net)
    assert Pair(wrapped, guide, net=net, encoder=encoder).model(torch.zeros(3, 5)) == "derived"


def test_methods_of_a_module_are_programs() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.decoder, self.encoder = networks.MLP(2, (8,), 5), networks.MLP(5, (8,), 2)

        def model(self, x: Tensor) -> None:
            pyro.module("decoder", self.decoder)
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
                pyro.sample("x", dist.Normal(self.decoder(z), 1.0).to_event(1), obs=x)

        def guide(self, x: Tensor) -> None:
            pyro.module("encoder", self.encoder)
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(self.encoder(x), 0.5).to_event(1))

    x, net = torch.randn(7, 5), Net()
    named, unnamed = Pair(net.model, net.guide, net=net), Pair(net.model, net.guide)
    assert loss(named, x) == loss(unnamed, x)
    assert len(list(unnamed.parameters())) == len(list(net.parameters())) == 8
    twin = copy.deepcopy(named)
    train(twin, x)
    assert loss(named, x) == loss(unnamed, x) != loss(twin, x)


def test_handlers_may_put_values_in_the_place_of_parameters() -> None:
    x, pair = torch.randn(7, 5), pair_of()
    pair.setup(x)
    name = "pair.decoder.layers.0.weight"
    values = {name: torch.zeros(8, 2), "pair.params.scale": torch.tensor(2.0)}
    fn = poutine.trace(poutine.substitute(pair.model, values)).get_trace(x).nodes["x"]["fn"]
    assert torch.equal(fn.base_dist.loc[0], fn.base_dist.loc[1])
    assert (fn.base_dist.scale == 2).all()
    assert pair.decoder.layers[0].weight.abs().sum() > 0
    lifted = poutine.lift(pair.model, {name: dist.Normal(0.0, 1e-8).expand((8, 2)).to_event(2)})
    trace = poutine.trace(lifted).get_trace(x)
    assert trace.nodes[name]["type"] == "sample"
    loc = trace.nodes["x"]["fn"].base_dist.loc
    torch.testing.assert_close(loc[0], loc[1], atol=1e-5, rtol=0)


def test_a_vae_inside_a_program_trains() -> None:
    x, vae = binary(), bernoulli_vae()
    pair = Pair(vae.model, vae.guide, vae=vae)
    before = copy.deepcopy(vae.state_dict())
    assert loss(pair, x) == loss(vae, x)
    fit(pair, x, epochs=1, batch_size=4)
    assert all(not torch.equal(v, before[n]) for n, v in vae.state_dict().items())


@pytest.mark.usefixtures("code")
@pytest.mark.parametrize("make", [pair_of, modular])
def test_pairs_are_compiled(make: Callable[[], Pair]) -> None:
    x, pair = torch.randn(20, 5), make()
    pair.setup(x)
    for own in (pair, copy.deepcopy(pair)):
        twin = copy.deepcopy(own)
        fit(own, x, epochs=3, batch_size=5, compile=True)
        fit(twin, x, epochs=3, batch_size=5, compile=False)
        for a, b in zip(own.parameters(), twin.parameters(), strict=True):
            torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "make", [pair_of, pytest.param(modular, marks=pytest.mark.slow), bernoulli_vae]
)
@pytest.mark.parametrize(
    "objective",
    [
        objectives.trace_elbo(2),
        objectives.analytic_kl(),
        objectives.sticking_the_landing(),
        objectives.iwae(3),
        objectives.dreg(3),
        objectives.piwae(2, 2),
        objectives.renyi(0.5, 3),
        objectives.beta(2.0),
        objectives.free_bits(0.1, 2),
        objectives.warm_up(objectives.trace_elbo(), 3, end=2.0),
        objectives.compiled(objectives.beta(2.0)),
        objectives.compiled(objectives.free_bits(0.1)),
    ],
    ids=lambda objective: type(objective).__name__,
)
@pytest.mark.usefixtures("code")
def test_every_objective_trains_every_pair(make: Callable[[], Pair], objective: Any) -> None:
    pair = make()
    x = binary(10) if isinstance(pair, VAE) else torch.randn(10, 5)
    pair.setup(x)
    before = copy.deepcopy(pair.state_dict())
    history = fit(pair, x, epochs=1, batch_size=4, objective=copy.deepcopy(objective))
    assert math.isfinite(history.cost[0])
    changed = [not torch.equal(v, before[n]) for n, v in pair.state_dict().items()]
    assert all(changed)


def test_pairs_are_compared() -> None:
    x = torch.randn(12, 5)
    result = compare(pair_of, x, x, seeds=(0,), epochs=1, batch_size=4, num_samples=5, draws=20)
    assert set(result.gradients[1]["analytic_kl"]) == {"encoder", "decoder"}


# What a pair refuses.


def test_a_pair_has_the_modules_that_it_was_given() -> None:
    x = torch.randn(7, 5)
    with pytest.raises(ValueError, match=r'pyro.module\("decoder", ...\): got a module that the'):
        Pair(model, guide, encoder=encoder).setup(x)
    message = r"guide: guide uses a module that the pair does not have, Linear as 'encoder'"
    with pytest.raises(ValueError, match=message):
        Pair(model, guide, decoder=decoder).setup(x)
    with pytest.raises(ValueError, match=r'^pyro.module\("decoder", ...\): got a module that the'):
        fit(Pair(model, guide, encoder=encoder), x, epochs=1, batch_size=7)
    with pytest.raises(ValueError, match=r"^train: got a first batch on which model or guide fai"):
        fit(pair_of(), x.double(), epochs=1, batch_size=7)
    stray = torch.zeros(2, requires_grad=True)

    def shifted(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(stray, 1.0).to_event(1))

    with pytest.raises(ValueError, match=r"guide: .*shifted reads a tensor of shape \(2,\) that"):
        Pair(model, shifted, decoder=decoder).setup(x)


@pytest.mark.parametrize("name", ["params", "programs", "forward", "training", "setup", "preset"])
def test_keywords_that_are_attributes_are_refused(name: str) -> None:
    with pytest.raises(TypeError, match=f"{name}: got it as a keyword, expected another name"):
        Pair(model, guide, **{name: decoder})


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(TypeError, match="decoder: got a function, expected a torch"):
        Pair(model, guide, decoder=model)
    with pytest.raises(TypeError, match=r"guide: got 3, expected a function guide\(x, \*context"):
        Pair(model, 3)
    with pytest.raises(TypeError, match="name: got MLP"):
        Pair(model, guide, name=decoder)
    pair, x = pair_of(), torch.randn(7, 5)
    with pytest.raises(TypeError, match="pair: got a call, expected pair"):
        pair(x)
    for use in (lambda: pair.model(x, x), lambda: log_likelihood(pair, (x, x), 10)):
        with pytest.raises(TypeError, match=r"does not take x and 1 entries of a context"):
            use()
    with pytest.raises(ValueError, match='estimator: got "exact" for a pair, expected it for a'):
        log_likelihood(pair, x, estimator="exact")
    with pytest.raises(TypeError, match="x: got None, expected examples"):
        certify(pair)
    with pytest.raises(TypeError, match="vae: got a function, expected a VAE or a Pair"):
        fit(model, x, epochs=1)

    def late(x: Tensor) -> None:
        pyro.param("late")

    with pytest.raises(ValueError, match=r'pyro.param\("late"\): got no initial value'):
        Pair(late, guide, encoder=encoder).model(x)


def test_what_needs_three_parts_says_so() -> None:
    for name in ("embed", "decode", "reconstruct", "generate", "prior"):
        with pytest.raises(AttributeError, match=f"pair: has no '{name}', which needs the three"):
            getattr(pair_of(), name)
    with pytest.raises(AttributeError, match="has no attribute 'embedding'"):
        pair_of().embedding  # noqa: B018
    assert as_pair(bernoulli_vae()).prior().event_shape == (1,)


def test_global_latents_need_all_data_in_one_batch() -> None:
    def model(x: Tensor) -> None:
        mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(mean, 1.0), obs=x)

    def guide(x: Tensor) -> None:
        loc = pyro.param("loc", torch.zeros(()))
        scale = pyro.param("scale", torch.ones(()), constraints.positive)
        pyro.sample("mean", dist.Normal(loc, scale))

    x, pair = torch.randn(10) + 1, Pair(model, guide)
    with pytest.raises(ValueError, match='the site "mean" is outside of the plate "data"'):
        fit(pair, x, epochs=1, batch_size=5)
    fit(pair, x, epochs=300, batch_size=10, optim=optim.Adam(lr=0.05))
    exact = x.sum() / (len(x) + 1)  # of the posterior N(sum x / (N + 1), 1 / (N + 1))
    assert pair.params["loc"].item() == pytest.approx(exact.item(), abs=0.1)


def test_a_vae_is_a_pair_with_a_context_of_its_own() -> None:
    vae = labelled()
    assert isinstance(vae, Pair)
    x, y = (torch.rand(20, 3, 2) < 0.5).float(), torch.randint(4, (20,))
    certificate = certify(vae, 20, 4, estimator="prior", context=y, seed=0)
    assert certificate.x.shape == (20, 3, 2)
    with pytest.raises(TypeError, match="x: got it with a VAE"):
        certify(vae, x=(x, y))


def test_a_print_shows_programs_and_parameters() -> None:
    pair = pair_of()
    pair.setup(torch.zeros(3, 5))
    pair.decoder.requires_grad_(False)
    assert pair.extra_repr() == (
        "name='pair', model=pair_of.<locals>.model, guide=pair_of.<locals>.guide\n"
        "parameters: 69 trained, 69 fixed"
    )


@pytest.mark.parametrize("what", ["x in the guide", "x in the model", "z in the model"])
@pytest.mark.parametrize("call", ["fit", "log_likelihood"])
def test_what_a_program_changes_in_place_is_named(what: str, call: str) -> None:
    """The model would score other values than the guide has seen, or has drawn."""
    encoder, decoder = networks.MLP(3, (), 4), networks.MLP(2, (), 3)

    def model(x: Tensor) -> None:
        if what == "x in the model":
            x.mul_(2)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            if what == "z in the model":
                z.mul_(0.5)
            pyro.sample("x", dist.Normal(decoder(z), 1.0).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        loc, log_scale = encoder(x.mul_(2) if what == "x in the guide" else x).chunk(2, -1)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))

    pair, x = Pair(model, guide, encoder=encoder, decoder=decoder), torch.randn(20, 3)
    with pytest.raises(ValueError, match=r"its input of shape \(.*\) is changed in place"):
        fit(pair, x, epochs=1, batch_size=20) if call == "fit" else log_likelihood(pair, x, 40)
