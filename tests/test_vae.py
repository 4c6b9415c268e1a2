"""A VAE: point values, modes, copies, what it prints."""

import copy
import functools
import io
import math

import pyro
import pyro.distributions as dist
import pyro.infer.inspect
import pyro.optim
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO
from torch import Tensor, nn

from pyro_vae import VAE, likelihoods, networks, objectives, posteriors, presets, priors

from .swaps import X_DIM, vae_of
from .vaes import VAE_PRESETS, bernoulli_vae, binary, common_noise, given, linear_gaussian


class UniformPrior(nn.Module):
    def forward(self) -> dist.Distribution:
        return dist.Uniform(torch.zeros(1), torch.ones(1)).to_event(1)


class BetaPosterior(nn.Module):
    def __init__(self, x_dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(x_dim, 2)

    def forward(self, x: Tensor) -> dist.Distribution:
        a, b = nn.functional.softplus(self.linear(x)).split(1, -1)
        return dist.Beta(1 + a, 1 + b).to_event(1)


def test_a_users_own_parts_are_full_citizens() -> None:
    x = binary()
    vae = VAE(
        UniformPrior(),
        likelihoods.Bernoulli(networks.MLP(1, (4,), 6)),
        BetaPosterior(6),
    )
    svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-2}), objectives.trace_elbo(2))
    assert math.isfinite(svi.step(x))
    assert vae.reconstruct(x).shape == x.shape
    assert vae.generate(3).shape == (3, 6)


@pytest.mark.parametrize("batch", [(), (3,), (2, 3)])
def test_parts_and_point_values_take_any_batch(batch: tuple[int, ...]) -> None:
    for name in VAE_PRESETS:
        vae = presets.build(name, z_dim=3, shape=(7, 6))
        x, c = torch.rand(*batch, 7, 6), given(name, batch)
        q_z = vae.posterior(x, *c)
        assert (q_z.batch_shape, q_z.event_shape) == (batch, (3,))
        p_x = vae.likelihood(torch.randn(*batch, 3), *c)
        assert (p_x.batch_shape, p_x.event_shape) == (batch, (7, 6))
        assert vae.embed(x, c).shape == (*batch, 3)
        assert torch.equal(vae.reconstruct(x, c), vae.decode(vae.embed(x, c), c))
        assert vae.reconstruct(x, c).shape == x.shape


def test_a_vae_that_is_called_names_its_methods() -> None:
    vae = bernoulli_vae()
    for arguments in ((binary(),), ()):
        with pytest.raises(TypeError, match=r"vae: got a call, .*vae\.reconstruct\(x\)"):
            vae(*arguments)


class Cauchy(nn.Module):
    """A posterior and, in another role, a likelihood whose mean is NaN."""

    def forward(self, x: Tensor) -> dist.Distribution:
        return dist.StudentT(torch.ones_like(x), x, 0.1).to_event(1)


class Implicit(nn.Module):
    def forward(self, x: Tensor) -> dist.Distribution:
        base = dist.Normal(x[..., :1], 1.0).to_event(1)
        return dist.TransformedDistribution(base, [dist.transforms.TanhTransform()])


def test_point_values_without_a_mean() -> None:
    vae = VAE(priors.StandardNormal(2), Cauchy(), posteriors.Normal(networks.MLP(2, (), 4)))
    z = torch.randn(3, 2)
    assert torch.equal(vae.decode(z), z)  # the mode
    vae = VAE(priors.StandardNormal(2), likelihoods.Bernoulli(networks.MLP(2, (), 2)), Cauchy())
    assert torch.isfinite(vae.embed(z.abs())).all()
    vae = VAE(priors.StandardNormal(1), Implicit(), posteriors.Normal(networks.MLP(1, (), 2)))
    assert vae.generate(5).shape == (5, 1)
    vae = VAE(priors.StandardNormal(1), likelihoods.Bernoulli(networks.MLP(1, (), 4)), Implicit())
    x = torch.full((5, 4), 0.3)
    # The average of 32 draws of tanh(u), u ~ N(0.3, 1): its standard deviation is below 0.65.
    grid = torch.linspace(-10, 10, 4001)
    weights = torch.exp(dist.Normal(0.3, 1.0).log_prob(grid))
    mean = (torch.tanh(grid) * weights).sum() / weights.sum()
    assert ((vae.embed(x) - mean).abs() < 5 * 0.65 / math.sqrt(32)).all()


def test_evaluation_runs_in_eval_mode_and_puts_the_mode_back() -> None:
    encoder = networks.MLP(6, (4,), 2)
    encoder.layers.append(nn.Dropout(0.5))
    encoder.layers.append(nn.BatchNorm1d(2))
    decoder = networks.MLP(1, (4,), 6)
    vae = VAE(priors.StandardNormal(1), likelihoods.Bernoulli(decoder), posteriors.Normal(encoder))
    encoder.layers[1].eval()
    modes = [m.training for m in vae.modules()]
    statistics = encoder.layers[-1].running_mean.clone()
    x = binary()
    assert torch.equal(vae.embed(x), vae.embed(x))
    assert modes == [m.training for m in vae.modules()]
    assert torch.equal(statistics, encoder.layers[-1].running_mean)


def test_generate_draws_from_the_prior() -> None:
    vae = linear_gaussian(exact=True)
    x = vae.vae.generate(4000, sample=True)
    error = vae.evidence.variance.sqrt() / math.sqrt(4000)
    assert ((x.mean(0) - vae.evidence.mean).abs() < 5 * error).all()
    # Relative standard error of a variance: sqrt(2 / n).
    ratio = (x.var(0) / vae.evidence.variance).log().abs()
    assert (ratio < 5 * math.sqrt(2 / 4000)).all()


def test_copies_and_pickles_are_vaes_of_their_own() -> None:
    x, vae = binary(), bernoulli_vae()
    svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-2}), Trace_ELBO())
    svi.step(x)
    file = io.BytesIO()
    torch.save(vae, file)
    file.seek(0)

    def loss(v: VAE) -> float:
        return common_noise(lambda: Trace_ELBO().loss(v.model, v.guide, x))

    others = [copy.deepcopy(vae), torch.load(file, weights_only=False)]
    before = loss(vae)
    assert [loss(v) for v in others] == [before, before]
    svi.step(x)
    assert loss(vae) != before
    assert [loss(v) for v in others] == [before, before]


def test_parts_can_be_pickled_after_training() -> None:
    vae, x = bernoulli_vae(), binary()
    SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-2}), Trace_ELBO()).step(x)
    file = io.BytesIO()
    torch.save(vae.posterior, file)
    file.seek(0)
    posterior = torch.load(file, weights_only=False)
    assert torch.equal(posterior(x).mean, vae.posterior(x).mean)
    VAE(vae.prior, vae.likelihood, posterior).guide(x)


def test_channels_last_weights_are_trained_in_place() -> None:
    vae = presets.build("conv", z_dim=2, shape=(8, 8)).to(memory_format=torch.channels_last)
    x = torch.bernoulli(torch.full((4, 8, 8), 0.3))
    before = [p.clone() for p in vae.parameters()]
    SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-2}), Trace_ELBO()).step(x)
    assert all(not torch.equal(a, b) for a, b in zip(before, vae.parameters(), strict=True))


@pytest.mark.parametrize("kind", ["partial", "object"])
def test_functions_of_any_kind_print_without_an_address(kind: str) -> None:
    """A saved structure is that of another process too."""

    class Callable_:
        def __call__(self) -> dist.Distribution:
            return dist.Normal(torch.zeros(2), 1.0).to_event(1)

    prior = functools.partial(Callable_().__call__) if kind == "partial" else Callable_()
    vae = VAE(prior, likelihoods.Bernoulli(networks.MLP(2, (), 6)), bernoulli_vae(2).posterior)
    assert " at 0x" not in repr(vae)
    assert "Callable_" in repr(vae.prior)


def test_a_vae_says_what_is_trained() -> None:
    vae = vae_of("VampPrior", "Normal")
    vae.likelihood.requires_grad_(False)
    posterior = sum(p.numel() for p in vae.posterior.parameters())
    text = repr(vae)
    assert (
        f"prior: {posterior + 4 * X_DIM} trained ({posterior} shared with the posterior)" in text
    )
    fixed = sum(p.numel() for p in vae.likelihood.parameters())
    assert f"likelihood: 0 trained, {fixed} fixed" in text
    assert isinstance(vae, VAE)


@pytest.mark.parametrize("posterior", ["Normal", "MultivariateNormal", "Flow"])
def test_point_values_of_no_examples_are_refused(posterior: str) -> None:
    """By every posterior and likelihood alike, though torch could reshape some of them."""
    vae = vae_of("StandardNormal", posterior)
    x, z = torch.zeros(0, X_DIM), torch.zeros(0, 2)
    for call in (lambda: vae.embed(x), lambda: vae.reconstruct(x), lambda: vae.decode(z)):
        with pytest.raises(ValueError, match="input: got no examples"):
            call()
