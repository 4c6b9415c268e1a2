"""The diagnosis: cases built so that the right finding is known, and silence on good runs."""

import math
from collections.abc import Sequence
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import Tensor, nn

from pyro_vae import VAE, Pair, fit, likelihoods, networks, objectives, posteriors, presets, priors
from pyro_vae.datasets import Dataset, binarize
from pyro_vae.evaluation import Diagnosis, Finding, diagnose
from pyro_vae.training import History

from ..vaes import bernoulli_vae, binary, linear_gaussian


def names(diagnosis: Diagnosis) -> list[str]:
    return [finding.name for finding in diagnosis.findings]


COLLAPSED, IGNORED, SATURATED, APART = (
    "collapsed latents",
    "a decoder that ignores z",
    "saturated logits",
    "train and test apart",
)


# A decoder that ignores z.


def test_the_gain_of_its_own_z_has_a_closed_form() -> None:
    """For an exact posterior, E[log p(x|z) - log p(x|z')] = |W|^2 / s^2 for independent z'."""
    case = linear_gaussian(exact=True, examples=3000)
    found = diagnose(case.vae, case.x)
    gain, stderr = found.measured["gain"], found.measured["gain_stderr"]
    assert gain == pytest.approx((1.0 + 0.4**2) / 0.7**2, abs=5 * stderr)
    assert stderr < 0.1
    assert not found
    assert found.findings == ()
    assert str(found) == repr(found) == "nothing found"


def test_a_decoder_that_ignores_z_gains_nothing() -> None:
    case = linear_gaussian(exact=True, examples=300)
    with torch.no_grad():
        case.vae.likelihood.network.layers[0].weight.zero_()
    found = diagnose(case.vae, case.x)
    assert names(found) == [IGNORED]  # the latents still depend on x
    assert found.measured["gain"] == 0
    (finding,) = found.findings
    assert str(found) == f"{IGNORED}: {finding.text}; try {finding.advice}"
    assert "to 0.000 ± 0.000 nats" in finding.text
    assert "objectives.warm_up" in finding.advice


def test_a_gain_within_noise_is_none() -> None:
    """The posterior is the same for all x, so that the gain is noise of mean zero."""
    case = linear_gaussian(exact=True, examples=40)
    with torch.no_grad():
        case.vae.posterior.network.layers[0].weight.zero_()
    gains = []
    for seed in range(5):
        found = diagnose(case.vae, case.x, num_samples=1, seed=seed)
        assert names(found) == [COLLAPSED, IGNORED]
        assert found.measured["gain_stderr"] > 0.1
        gains.append(found.measured["gain"])
    assert max(gains) > 0.1  # above the least gain in nats, and not above noise


def test_a_gain_of_few_nats_is_none() -> None:
    """The gain is W Cov(x, z) / s^2, and so a third of a tenth with such a part of W."""
    case = linear_gaussian(exact=True, examples=4000)
    with torch.no_grad():
        case.vae.likelihood.network.layers[0].weight.mul_(0.02)
    found = diagnose(case.vae, case.x)
    gain, stderr = found.measured["gain"], found.measured["gain_stderr"]
    assert gain == pytest.approx(0.02 * (1.0 + 0.4**2) / 0.7**2, abs=5 * stderr)
    assert gain > 5 * stderr  # above noise
    assert names(found) == [IGNORED]


class CopiesContext(nn.Module):
    """A likelihood of x around its context, and by a part of it around z."""

    def __init__(self, by_z: float) -> None:
        super().__init__()
        self.by_z = by_z

    def forward(self, z: Tensor, c: Tensor) -> dist.Distribution:
        return dist.Normal(c + self.by_z * z, 1.0).to_event(1)


@pytest.mark.parametrize("by_z", [0.0, 1.0])
def test_another_z_keeps_the_context(by_z: float) -> None:
    """The gain is that of z alone: of the context it would be 100 nats."""
    torch.manual_seed(0)
    context, noise = 10 * torch.randn(500, 1), torch.randn(500, 1)
    x = context + noise
    vae = VAE(
        priors.StandardNormal(1),
        CopiesContext(by_z),
        lambda x, c: dist.Normal((x - c) / 2, 0.5**0.5).to_event(1),
    )
    found = diagnose(vae, (x, context))
    assert names(found) == ([] if by_z else [IGNORED])
    # E[(x - z' - c)^2 - (x - z - c)^2] / 2 with z = e / 2 + r is E[e z] = 1 / 2.
    expected = by_z * 0.5
    assert found.measured["gain"] == pytest.approx(
        expected, abs=5 * found.measured["gain_stderr"] + 1e-9
    )


# Collapsed latents.


@pytest.mark.parametrize(
    ("units", "active", "collapsed"),
    [
        (2, 0, True),
        (2, 1, False),
        (20, 1, True),
        (20, 2, False),
        (50, 4, True),
        (50, 5, False),
        (200, 5, False),  # no more units than some five need to be active, however many there are
    ],
)
def test_latents_have_collapsed_if_fewer_than_a_tenth_are_active(
    units: int, active: int, collapsed: bool
) -> None:
    case = linear_gaussian(exact=True, examples=200, z_dim=units, x_dim=units)
    with torch.no_grad():
        case.vae.posterior.network.layers[0].weight[active:units].zero_()
    found = diagnose(case.vae, case.x)
    assert (found.measured["active"], found.measured["units"]) == (active, units)
    assert (COLLAPSED in names(found)) == collapsed
    if collapsed:
        assert f"{COLLAPSED}: {units - active} of {units} dimensions carry nothing" in str(found)


# Saturated logits.


def constant_pixels(logits: Sequence[float]) -> VAE:
    """A Bernoulli VAE of one latent whose logits are these for any z."""
    decoder = networks.MLP(1, (), len(logits))
    with torch.no_grad():
        decoder.layers[0].weight.zero_()
        decoder.layers[0].bias.copy_(torch.tensor(logits))
    encoder = networks.MLP(len(logits), (), 2)
    return VAE(
        priors.StandardNormal(1), likelihoods.Bernoulli(decoder), posteriors.Normal(encoder)
    )


@pytest.mark.parametrize(
    ("logit", "wrong", "found"), [(-30.0, 0, False), (-30.0, 1, False), (-30.0, 4, True)]
)
def test_logits_are_saturated_where_they_are_wrong(logit: float, wrong: int, found: bool) -> None:
    """Of 100 examples with 60 pixels of logit 0 and ten of -30, some have one such pixel lit."""
    vae = constant_pixels([0.0] * 60 + [logit] * 10)
    x = torch.zeros(100, 70)
    x[:wrong, -1] = 1.0
    diagnosis = diagnose(vae, x)
    measured = diagnosis.measured
    assert measured["saturated_wrong"] == wrong / 100
    assert measured["saturated_nats"] == pytest.approx(-logit * wrong / 100, rel=1e-5)
    cost = 60 * math.log(2) - logit * wrong / 100
    assert measured["reconstruction"] == pytest.approx(cost, rel=1e-5)
    assert (SATURATED in names(diagnosis)) == found == (-logit * wrong / 100 > 0.01 * cost)
    if found:
        assert f"and cost 1.20 of {cost:.2f} nats" in str(diagnosis)


def test_a_wrong_logit_counts_from_where_sigmoid_is_one() -> None:
    """In float32 that is the logit 16.64; below it, a wrong pixel is bad luck."""
    assert torch.tensor(16.64).sigmoid() == 1 > torch.tensor(16.63).sigmoid()
    ones = torch.ones(5, 2)
    assert diagnose(constant_pixels([-16.63, 0.0]), ones).measured["saturated_wrong"] == 0
    assert diagnose(constant_pixels([-16.64, 0.0]), ones).measured["saturated_wrong"] == 1


def test_levels_have_saturated_logits_too() -> None:
    decoder = networks.MLP(1, (), (3, 4))
    with torch.no_grad():
        decoder.layers[0].weight.zero_()
        decoder.layers[0].bias.copy_(torch.tensor([40.0, 0.0, 0.0]).repeat_interleave(4))
    vae = VAE(
        priors.StandardNormal(1),
        likelihoods.Categorical(decoder, levels=3),
        posteriors.Normal(networks.MLP(4, (), 2)),
    )
    x = torch.zeros(10, 4)
    assert SATURATED not in names(diagnose(vae, x))
    x[:5, 0] = 2.0
    found = diagnose(vae, x)
    assert SATURATED in names(found)
    assert found.measured["saturated_nats"] == pytest.approx(20.0, rel=1e-5)


def test_of_densities_there_are_no_logits() -> None:
    case = linear_gaussian(exact=True)
    assert "saturated_nats" not in diagnose(case.vae, case.x).measured


# Train and test apart.


def history(train: Sequence[float], test: Sequence[float], **more: Any) -> dict[str, list[float]]:
    """Columns whose KL is 20 nats."""
    return {
        "epoch": list(range(1, len(train) + 1)),
        "cost": list(train),
        "reconstruction": [cost - 20 for cost in train],
        "kl": [20.0] * len(train),
        "test_cost": list(test),
        **more,
    }


FALLS = [max(90.0, 150 - 6 * i) for i in range(30)]
LATER = [max(95.0, 135 - 4 * i) for i in range(30)]  # from epoch 11 on it is 95
RISES = [cost + 0.4 * max(0, i - 14) for i, cost in enumerate(LATER)]
NORMAL = torch.randn(30, generator=torch.Generator().manual_seed(0)).tolist()


def judged(columns: Any) -> Diagnosis:
    """The diagnosis of a good VAE with a history."""
    case = linear_gaussian(exact=True, examples=60)
    found = diagnose(case.vae, case.x, history=columns, num_samples=2)
    assert set(names(found)) <= {APART}
    return found


def test_a_cost_that_rises_is_found() -> None:
    found = judged(history(FALLS, RISES))
    assert "test_cost has risen by 5.60 nats since epoch 11, to 100.60" in str(found)
    assert "training.EarlyStopping" in str(found)
    assert found.measured["cost_noise"] < 1e-9


@pytest.mark.parametrize(
    "columns",
    [
        history(FALLS, LATER),
        history(FALLS, [cost + 2 * noise for cost, noise in zip(LATER, NORMAL, strict=True)]),
        history([cost - 89.5 for cost in FALLS], [cost - 89.5 for cost in LATER]),
        history(FALLS[:4], [90.0, 91.0, 150.0, 200.0]),
        history(FALLS, LATER[:15] + [LATER[14] + 0.05 * i for i in range(15)]),
    ],
    ids=["a normal gap", "noise", "costs through zero", "four epochs", "a rise under 1 %"],
)
def test_normal_histories_are_silent(columns: dict[str, list[float]]) -> None:
    assert not judged(columns)


@pytest.mark.parametrize(("noise", "found"), [(0.3, True), (3.0, False)])
def test_a_rise_counts_above_its_noise(noise: float, found: bool) -> None:
    """5.6 nats are 19 times the one noise, and twice the other."""
    rough = [cost + noise * each for cost, each in zip(RISES, NORMAL, strict=True)]
    diagnosis = judged(history(FALLS, rough))
    assert diagnosis.measured["cost_rise"] > 0.9  # 1 % of the cost
    assert bool(diagnosis) == found


def test_the_noise_of_a_cost_is_measured_beside_its_trend() -> None:
    trend = [100 - 0.5 * i for i in range(1000)]
    noisy = [float(cost + noise) for cost, noise in zip(trend, torch.randn(1000), strict=True)]
    assert judged(history(trend, noisy)).measured["cost_noise"] == pytest.approx(1.0, rel=0.25)


def test_a_wide_gap_is_found() -> None:
    found = judged(history([cost - 30 for cost in FALLS], LATER))
    assert "test_cost is 95.00 nats, 35.00 above that of training (58 %)" in str(found)
    assert not judged(history([cost - 8 for cost in FALLS], LATER))


def test_the_validation_cost_is_taken_before_the_test_cost() -> None:
    assert not judged(history(FALLS, RISES, validation_cost=LATER))
    assert "validation_cost has risen" in str(judged(history(FALLS, LATER, validation_cost=RISES)))


def test_the_cost_of_an_objective_that_is_no_elbo_is_not_compared() -> None:
    """A test cost is -ELBO, and so are reconstruction + KL, whatever the objective."""
    columns = history(FALLS, LATER)
    assert not judged(columns | {"cost": [cost - 60 for cost in FALLS]})
    del columns["kl"]
    assert judged(columns | {"cost": [cost - 60 for cost in FALLS]})


def test_a_training_that_was_stopped_is_judged_at_its_best_epoch() -> None:
    columns = history(FALLS, RISES)
    assert judged(History(columns, "epochs"))
    stopped = judged(History(columns, "stopped"))
    assert not stopped
    assert stopped.measured["cost_rise"] == 0
    assert judged(History(history([cost - 40 for cost in FALLS], RISES), "stopped"))


def test_without_held_out_costs_the_last_finding_is_left_out() -> None:
    columns = history(FALLS, RISES)
    del columns["test_cost"]
    assert "cost_rise" not in judged(columns).measured
    assert "cost_rise" not in judged(None).measured


# Real trainings.


@pytest.mark.parametrize(
    "preset", ["pyro-mlp", pytest.param("conditional-mlp", marks=pytest.mark.slow)]
)
def test_a_good_run_is_silent(digits: Dataset, preset: str) -> None:
    vae = presets.build(preset, shape=digits.shape)
    take = (lambda x, y: (x, y)) if presets.get(preset).conditional else (lambda x, y: x)
    run = fit(
        vae,
        take(digits.train[:1000], digits.train_labels[:1000]),
        test=take(digits.test[:200], digits.test_labels[:200]),
        epochs=5,
        batch_size=50,
        pixels="binary",
        seed=0,
        compile=False,
    )
    x = take(binarize(digits.test[:200], seed=0), digits.test_labels[:200])
    found = diagnose(vae, x, history=run)
    assert str(found) == "nothing found"
    assert {"active", "gain", "saturated_nats", "cost_rise"} <= found.measured.keys()


def test_a_run_that_collapses_is_found(digits: Dataset) -> None:
    """A KL that counts a thousandfold leaves nothing in the latents."""
    vae = presets.build("pyro-mlp", z_dim=5, shape=digits.shape)
    fit(
        vae,
        digits.train[:1000],
        epochs=6,
        batch_size=50,
        objective=objectives.beta(1000.0),
        pixels="binary",
        seed=0,
        compile=False,
    )
    found = diagnose(vae, binarize(digits.test[:200], seed=0))
    assert names(found) == [COLLAPSED, IGNORED]
    assert len(str(found).splitlines()) == 2


# Pairs.


def test_a_pair_with_the_functions_of_a_vae_has_its_numbers() -> None:
    vae, x = bernoulli_vae(z_dim=2), binary(100)
    pair = Pair(lambda x: vae.model(x), lambda x: vae.guide(x), vae=vae)
    assert diagnose(pair, x).measured == pytest.approx(diagnose(vae, x).measured)


def test_a_plate_of_pixels_is_an_event() -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(0.0, 1.0))
            with pyro.plate("pixels", 6, dim=-2):
                pyro.sample("x", dist.Bernoulli(logits=torch.tensor(-40.0)), obs=x.T)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(x.mean(-1), 1.0))

    x = binary(20)
    measured = diagnose(Pair(model, guide), x).measured
    assert measured["saturated_wrong"] == pytest.approx(x.sum(-1).mean().item())
    assert measured["saturated_nats"] == pytest.approx(40 * x.sum(-1).mean().item())


def test_what_a_pair_lacks_is_left_out() -> None:
    """Masked elements have no cost, and a discrete latent has no mean."""

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x.mean(-1), 1.0))

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            with poutine.mask(mask=x[:, 0] > 0):
                p_x = dist.Bernoulli(logits=z[..., None].expand(*z.shape, 6))
                pyro.sample("x", p_x.to_event(1), obs=x)

    x = binary(50)
    measured = diagnose(Pair(model, guide), x).measured
    assert measured.keys() == {"active", "units", "threshold", "gain", "gain_stderr"}

    def coin(x: Tensor, name: str = "z") -> Tensor:
        return pyro.sample(name, dist.Bernoulli(torch.full(x.shape[:1], 0.5)))

    def flips(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = coin(x)
            pyro.sample("x", dist.Bernoulli(logits=(4 * z - 2)[..., None]).to_event(1), obs=x)

    def sees(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Bernoulli(0.1 + 0.8 * x[:, 0]))

    found = diagnose(Pair(flips, sees), torch.eye(2)[:, :1].repeat(50, 1))
    assert found.measured.keys() == {
        "gain",
        "gain_stderr",
        "saturated_wrong",
        "saturated_nats",
        "reconstruction",
    }
    assert not found


# Seeds, modes, memory and errors.


def test_seeds_repeat_and_leave_generators_and_modes_alone() -> None:
    vae = bernoulli_vae()
    vae.likelihood.network.layers.append(nn.Dropout(0.5))
    vae.likelihood.network.layers[0].eval()
    modes = [module.training for module in vae.modules()]
    x, state = binary(100), torch.get_rng_state()
    first = diagnose(vae, x)
    assert torch.equal(torch.get_rng_state(), state)
    assert [module.training for module in vae.modules()] == modes
    assert diagnose(vae, x, seed=0).measured == first.measured
    assert diagnose(vae, x, seed=1).measured["gain"] != first.measured["gain"]
    assert diagnose(vae, x, seed=None).measured["gain"] != first.measured["gain"]
    assert not torch.equal(torch.get_rng_state(), state)
    small = diagnose(vae, x, max_bytes=20000)
    assert small.measured == pytest.approx(first.measured, rel=1e-4)


def test_wrong_arguments_are_named() -> None:
    vae, x = bernoulli_vae(), binary(5)
    with pytest.raises(ValueError, match="x: got one example, expected two or more, to compare"):
        diagnose(vae, x[:1])
    with pytest.raises(ValueError, match="num_samples: got 0, expected a positive integer"):
        diagnose(vae, x, num_samples=0)
    with pytest.raises(TypeError, match="seed: got 'a'"):
        diagnose(vae, x, seed="a")
    with pytest.raises(ValueError, match="max_bytes: got 0"):
        diagnose(vae, x, max_bytes=0)
    with pytest.raises(ValueError, match=r"x: got 1\.5 at 30 of 30 places"):
        diagnose(vae, x + 0.5)
    with pytest.raises(TypeError, match="vae: got a Linear"):
        diagnose(nn.Linear(2, 3), x)


@pytest.mark.parametrize(
    ("columns", "error", "message"),
    [
        ([1.0], TypeError, "history: got a list, expected the History that fit returns"),
        ({"epoch": [1]}, ValueError, "history: got the columns epoch, expected reconstruction"),
        (
            {"cost": [1.0], "test_cost": []},
            ValueError,
            r"history: got columns of lengths .*'cost': 1",
        ),
    ],
)
def test_wrong_histories_are_named(columns: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        diagnose(bernoulli_vae(), binary(5), history=columns)


def test_a_diagnosis_is_its_lines() -> None:
    finding = Finding("a name", "a text", "an advice", {"gain": 0.0})
    diagnosis = Diagnosis((finding, finding), {})
    assert str(diagnosis).splitlines() == ["a name: a text; try an advice"] * 2
    assert bool(diagnosis)
    assert not Diagnosis((), {})
