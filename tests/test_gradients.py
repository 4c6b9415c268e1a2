"""Statistics of gradients against what is known of them, and the memory of a step."""

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from pyro_vae import VAE, gradients, likelihoods, networks, objectives, posteriors, priors
from pyro_vae.gradients import _compared, _Sample, _squared_length
from pyro_vae.utils.memory import peak_bytes

from .losses import exact_elbo_gradient
from .vaes import linear_gaussian


def test_squared_lengths_are_unbiased() -> None:
    """Of means with much noise about a short vector, over many repetitions."""
    mean, groups, repetitions = torch.tensor([0.3, -0.2, 0.1]).double(), 10, 4000
    samples = mean + 2 * torch.randn(repetitions, groups, 3).double()
    estimates = torch.tensor([_squared_length(s @ s.T) for s in samples])
    error = estimates.std() / math.sqrt(repetitions)
    assert abs(estimates.mean() - mean.square().sum()) < 5 * error
    assert (estimates < 0).any()  # as an unbiased estimate of little must be at times


@pytest.mark.slow
def test_the_bias_has_the_error_that_it_says() -> None:
    """The jackknife's error is the spread of the bias over repetitions."""
    mean, shift = torch.tensor([1.0, -2.0, 0.5]).double(), torch.tensor([0.3, 0.0, 0.2]).double()
    measured = []
    for _ in range(300):
        own, first = _Sample(), _Sample()
        for group in range(100):
            own.add(mean + shift + torch.randn(3).double(), group)
            first.add(mean + torch.randn(3).double(), group)
        measured.append(_compared(own, first))
    biases = torch.tensor([each.bias for each in measured])
    errors = torch.tensor([each.bias_error for each in measured])
    expected = (shift.square().sum() / mean.square().sum()).item()
    assert biases.mean().item() == pytest.approx(expected, abs=5 * biases.std().item() / 300**0.5)
    # The jackknife's variance is too large in the mean (Efron and Stein, 1981), here by a quarter.
    spread = biases.std().item()
    assert spread * (1 - 5 / 600**0.5) < errors.square().mean().sqrt().item() < 1.4 * spread


def test_the_variance_is_that_of_all_draws() -> None:
    draws = torch.randn(40, 5).double() * torch.tensor([1.0, 2.0, 0.0, 3.0, 0.5]) + 7
    sample = _Sample()
    for place, draw in enumerate(draws):
        sample.add(draw, place * 10 // 40)
    assert sample.variance() == pytest.approx(draws.var(0).sum().item())
    torch.testing.assert_close(sample.means().mean(0), draws.mean(0))


@pytest.mark.slow
def test_gradients_of_a_linear_gaussian_are_the_exact_ones() -> None:
    """Length by the closed form; no bias between estimators of one target, and one between two."""
    case = linear_gaussian(exact=False)
    exact = exact_elbo_gradient(case) / len(case.x)
    state = torch.get_rng_state()
    measured = gradients.measure(
        case.vae,
        case.x,
        {
            "trace": objectives.trace_elbo(4),
            "stick": objectives.sticking_the_landing(4),
            "iwae": objectives.iwae(4),
        },
        draws=200,
    )
    assert torch.equal(torch.get_rng_state(), state)
    for part, own in (("encoder", exact[-24:]), ("decoder", exact[:-24])):
        for name in ("trace", "stick"):
            g = measured[name][part]
            # The error of the length is that of the mean along it, at most all of its noise.
            error = math.sqrt(g.variance / 200)
            assert g.norm == pytest.approx(own.norm().item(), abs=5 * error)
            assert g.snr == pytest.approx(g.norm / math.sqrt(g.variance))
        assert measured["trace"][part].bias == 0
        stick, iwae = measured["stick"][part], measured["iwae"][part]
        assert abs(stick.bias) <= 5 * stick.bias_error + 1e-12
        assert iwae.bias > 10 * iwae.bias_error > 0


def test_noise_that_is_not_there_is_an_infinite_ratio() -> None:
    """The encoder's, by sticking the landing, once rounding is all that is left of it."""
    case = linear_gaussian(exact=True)
    elbos = {"trace": objectives.trace_elbo(), "stick": objectives.sticking_the_landing()}
    measured = gradients.measure(case.vae, case.x, elbos, draws=20)
    assert measured["stick"]["encoder"].variance < 1e-20
    assert measured["trace"]["encoder"].variance > 1e-2
    # With nothing to be relative to, the ELBO's gradient being zero there, bias is not a number
    # or of the size of its error.
    bias = measured["stick"]["encoder"].bias
    assert math.isnan(bias) or abs(bias) < 5 * measured["stick"]["encoder"].bias_error


def test_a_measurement_leaves_the_vae_as_it_was() -> None:
    case = linear_gaussian(exact=False)
    vae = case.vae.train()
    vae.likelihood.network.layers[0].bias.requires_grad_(False)
    for parameter in vae.posterior.parameters():
        parameter.grad = torch.full_like(parameter, 3.0)
    before = copy.deepcopy(vae.state_dict())
    annealed = objectives.warm_up(objectives.trace_elbo(), 5)
    first = gradients.measure(vae, case.x, {"a": annealed}, draws=20, seed=3)
    assert gradients.measure(vae, case.x, {"a": annealed}, draws=20, seed=3) == first
    assert annealed.taken == 0
    assert vae.training
    assert all(torch.equal(vae.state_dict()[key], before[key]) for key in before)
    assert all((p.grad == 3).all() for p in vae.posterior.parameters())
    assert all(p.grad is None for p in vae.likelihood.parameters())


@pytest.mark.slow
def test_the_noise_of_steps_is_that_of_random_batches() -> None:
    """Its variance falls as one over the batch size, and is more than that of z alone."""
    case = linear_gaussian(exact=False, examples=1000)
    elbos, draws = {"elbo": objectives.trace_elbo()}, 300

    def variance(batch_size: int) -> float:
        measured = gradients.measure(case.vae, case.x, elbos, draws, batch_size=batch_size)
        return measured["elbo"]["decoder"].variance

    few, many = variance(5), variance(80)
    # The logarithm of each variance has an error of sqrt(2 / draws), a little more by heavy tails.
    assert math.log(few / many) == pytest.approx(math.log(16), abs=5 * math.sqrt(2 * 2 / draws))
    of_z = gradients.measure(case.vae, case.x[:80], elbos, draws)["elbo"]["decoder"].variance
    assert of_z < 0.9 * many
    whole = gradients.measure(case.vae, case.x, elbos, 20, batch_size=1000)["elbo"]["decoder"]
    plain = gradients.measure(case.vae, case.x, elbos, 20)["elbo"]["decoder"]
    error = math.sqrt((whole.variance + plain.variance) / 20)
    assert whole.norm == pytest.approx(plain.norm, abs=5 * error)


def test_a_warm_up_is_measured_at_the_weight_that_it_has() -> None:
    case = linear_gaussian(exact=False)
    half = objectives.warm_up(objectives.trace_elbo(), 10)
    half.taken += 5
    other = objectives.warm_up(objectives.trace_elbo(), 10**6, start=0.5)
    measured = gradients.measure(case.vae, case.x, {"half": half, "other": other}, 30)
    assert half.taken == 5
    for part in ("encoder", "decoder"):
        own, theirs = measured["half"][part], measured["other"][part]
        assert own.norm == pytest.approx(theirs.norm, rel=1e-4)
        assert own.variance == pytest.approx(theirs.variance, rel=1e-4)
    plain = gradients.measure(case.vae, case.x, {"elbo": objectives.trace_elbo()}, 30)
    assert plain["elbo"]["encoder"].norm != pytest.approx(
        measured["half"]["encoder"].norm, rel=0.01
    )


def test_a_shared_encoder_is_the_encoder() -> None:
    q = posteriors.Normal(networks.MLP(4, (), 2))
    likelihood = likelihoods.Bernoulli(networks.MLP(1, (), 4)).requires_grad_(False)
    prior = priors.VampPrior(q, torch.rand(2, 4))
    prior.raw.requires_grad_(False)
    vae = VAE(prior, likelihood, q)
    x = torch.bernoulli(torch.full((5, 4), 0.5))
    measured = gradients.measure(vae, x, {"elbo": objectives.trace_elbo()}, draws=20)
    assert list(measured["elbo"]) == ["encoder"]


def test_wrong_arguments_of_a_measurement() -> None:
    case = linear_gaussian(exact=False)
    elbos = {"elbo": objectives.trace_elbo()}
    with pytest.raises(ValueError, match="draws: got 19, expected 20 or more"):
        gradients.measure(case.vae, case.x, elbos, draws=19)
    with pytest.raises(ValueError, match="objectives: got none"):
        gradients.measure(case.vae, case.x, {})
    with pytest.raises(ValueError, match="batch_size: got 8, expected at most the 7 examples"):
        gradients.measure(case.vae, case.x, elbos, batch_size=8)
    with pytest.raises(TypeError, match=r"x: got torch\.float32"):
        gradients.measure(case.vae, case.x.float(), elbos)


def test_peak_memory_is_what_is_held_at_once() -> None:
    size = 4 * 1000

    def chain() -> Tensor:
        a = torch.zeros(1000)
        b = a + 1
        del a
        c = b.view(10, 100)  # no memory of its own
        c.add_(1)
        return c * 2  # beside b

    assert peak_bytes(chain) == 2 * size
    weight = nn.Parameter(torch.ones(1000))

    def backward() -> None:
        y = weight.exp()  # kept for the backward pass
        y.sum().backward()

    # exp's result, the sum's number and its gradients, the weight's gradient.
    assert 2 * size <= peak_bytes(backward) <= 3 * size + 100
    outside = torch.zeros(1000)
    assert peak_bytes(lambda: outside.view(10, 100).add_(1)) == 0
