"""What parts owe each other and x, and the errors that name what does not fit."""

import math

import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO
from pyro.nn import PyroModule
from torch import Tensor, nn

from pyro_vae import VAE, likelihoods, log_likelihood, networks, posteriors, presets, priors

from ..swaps import POSTERIORS, data, likelihood_of
from ..vaes import bernoulli_vae, binary


@pytest.mark.parametrize("method", ["model", "guide"])
def test_wrong_x_is_named(method: str) -> None:
    vae = presets.build("conv", z_dim=2, shape=(8, 8))
    call = getattr(vae, method)
    with pytest.raises(ValueError, match=r"\(3, 64\)"):
        call(torch.zeros(3, 64))
    with pytest.raises(ValueError, match=r"8, 8"):
        call(torch.zeros(8, 8))
    with pytest.raises(TypeError, match=r"torch.uint8.*to_pixels"):
        call(torch.zeros(3, 8, 8, dtype=torch.uint8))
    with pytest.raises(TypeError, match=r"torch.int64"):
        call(torch.zeros(3, 8, 8, dtype=torch.int64))
    with pytest.raises(TypeError, match=r"ndarray"):
        call(torch.zeros(3, 8, 8).numpy())


def test_values_off_the_support_are_refused_by_the_model() -> None:
    vae = bernoulli_vae()
    with pytest.raises(ValueError):
        Trace_ELBO().loss(vae.model, vae.guide, torch.full((3, 6), 0.5))
    relaxed = VAE(
        priors.StandardNormal(1),
        likelihoods.Bernoulli(networks.MLP(1, (), 6), relaxed=True),
        posteriors.Normal(networks.MLP(6, (), 2)),
    )
    assert math.isfinite(Trace_ELBO().loss(relaxed.model, relaxed.guide, torch.rand(3, 6)))
    for bad, expected in (
        (1.5, "0 and 1"),
        (-0.1, "0 and 1"),
        (math.nan, "x: got nan at 18 of 18"),
    ):
        with pytest.raises(ValueError, match=expected):
            Trace_ELBO().loss(relaxed.model, relaxed.guide, torch.full((3, 6), bad))


@pytest.mark.parametrize("part", ["likelihood", "posterior"])
def test_an_input_that_a_part_changes_in_place_is_named(part: str) -> None:
    """The likelihood would score another x than the posterior has seen, and so with z."""

    def vae_with(layer: nn.Module) -> VAE:
        changing, plain = (
            nn.Sequential(layer, nn.Linear(4, 8), nn.Unflatten(-1, (2, 4))),
            networks.MLP(4, (), (2, 4)),
        )
        network, other = (changing, plain) if part == "likelihood" else (plain, changing)
        return VAE(
            priors.StandardNormal(4),
            likelihoods.Gaussian(networks.Folded(network, 4, (2, 4))),
            posteriors.Normal(networks.Folded(nn.Sequential(other, nn.Flatten(-2)), 4, 8)),
        )

    x = torch.randn(6, 4)
    for layer in (nn.ReLU(inplace=True), nn.Dropout(inplace=True)):
        vae = vae_with(layer)
        with pytest.raises(ValueError, match=f"{part}: its input of shape"):
            Trace_ELBO().loss(vae.model, vae.guide, x.clone())
    for right in (nn.ReLU(), nn.Sequential(nn.Linear(4, 4), nn.ReLU(inplace=True))):
        vae = vae_with(right)
        assert math.isfinite(Trace_ELBO().loss(vae.model, vae.guide, x))
        assert log_likelihood(vae, x, 40, seed=0).values.isfinite().all()


def test_distributions_that_pyro_cannot_sample_are_named() -> None:
    vae = bernoulli_vae()
    vae.prior = Plain()
    with pytest.raises(TypeError, match=r"prior: .*torch.distributions.*expected .*pyro.distrib"):
        vae.model(binary())


class Plain(nn.Module):
    """A prior of torch's own."""

    def forward(self) -> torch.distributions.Distribution:
        normal = torch.distributions.Normal(torch.zeros(1), torch.ones(1))
        return torch.distributions.Independent(normal, 1)


class Fixed(nn.Module):
    """A prior that is one distribution."""

    def __init__(self, distribution: dist.Distribution) -> None:
        super().__init__()
        self.distribution = distribution

    def forward(self) -> dist.Distribution:
        return self.distribution


def test_a_prior_of_another_shape_is_named_by_all_that_draw_from_it() -> None:
    vae = bernoulli_vae(z_dim=2)
    x = torch.bernoulli(torch.full((2, 6), 0.5))
    for shape, events in (((2,), 0), ((5, 2), 1)):
        vae.prior = Fixed(dist.Normal(torch.zeros(shape), 1.0).to_event(events))
        for draw in (lambda: vae.model(x), lambda: vae.generate(3)):
            with pytest.raises(ValueError, match="prior: got batch_shape"):
                draw()


def test_a_distribution_is_no_part() -> None:
    prior = dist.Normal(torch.zeros(2), 1.0).to_event(1)
    with pytest.raises(TypeError, match=r"prior: got a distribution, Independent.*prior=lambda"):
        VAE(prior, bernoulli_vae(2).likelihood, bernoulli_vae(2).posterior)


def test_another_dtype_is_named() -> None:
    vae, x = bernoulli_vae(z_dim=2), torch.bernoulli(torch.full((3, 6), 0.5))
    for call in (vae.model, vae.guide):
        with pytest.raises(TypeError, match=r"x: got torch.float64, expected the VAE's torch.fl"):
            call(x.double())
    vae.prior = Fixed(dist.Normal(torch.zeros(2), 1.0).to_event(1))
    vae.double()
    for draw in (lambda: vae.generate(3), lambda: log_likelihood(vae, x.double(), 3)):
        with pytest.raises(TypeError, match=r"prior: got torch.float32, expected the VAE's tor"):
            draw()


class UniformPrior(nn.Module):
    def forward(self) -> dist.Distribution:
        return dist.Uniform(torch.zeros(1), torch.ones(1)).to_event(1)


def test_supports_that_disagree_are_named() -> None:
    vae = VAE(
        UniformPrior(),
        likelihoods.Bernoulli(networks.MLP(1, (), 6)),
        posteriors.Normal(networks.MLP(6, (), 2)),
    )
    with pytest.raises(ValueError, match=r"Real.*Interval\(0, 1\)"):
        vae.guide(binary())
    # A prior that is swapped in later is looked at again.
    vae = bernoulli_vae()
    vae.guide(binary())
    vae.prior = UniformPrior()
    with pytest.raises(ValueError, match="support"):
        vae.guide(binary())


def test_a_part_that_gives_no_distribution_is_named() -> None:
    vae = VAE(nn.Identity(), nn.Linear(2, 6), posteriors.Normal(networks.MLP(6, (), 4)))
    with pytest.raises(TypeError, match=r"likelihood: its forward returned a torch\.Tensor"):
        vae.decode(torch.zeros(2))
    vae = VAE(priors.StandardNormal(2), networks.MLP(3, (), 6), networks.MLP(6, (), 4))
    with pytest.raises(ValueError, match=r"likelihood: MLP: got an input of shape \(2,\)"):
        vae.decode(torch.zeros(2))


def test_parts_that_do_not_fit_are_named() -> None:
    x = binary()
    decoder, encoder = networks.MLP(2, (), 6), networks.MLP(6, (), 4)
    with pytest.raises(TypeError, match="likelihood: got a Tensor"):
        VAE(priors.StandardNormal(2), x, posteriors.Normal(encoder))
    with pytest.raises(TypeError, match="name"):
        VAE(priors.StandardNormal(2), decoder, encoder, name="")
    vae = VAE(priors.StandardNormal(3), likelihoods.Bernoulli(decoder), posteriors.Normal(encoder))
    with pytest.raises(ValueError, match=r"posterior: .*event_shape \(2,\).*the prior's \(3,\)"):
        vae.guide(x)

    class Unwrapped(nn.Module):
        def forward(self, z: Tensor) -> dist.Distribution:
            return dist.Bernoulli(logits=decoder(z))

    vae = VAE(priors.StandardNormal(2), Unwrapped(), posteriors.Normal(encoder))
    with pytest.raises(ValueError, match=r"likelihood: got batch_shape \(8, 6\)"):
        vae.model(x)


def test_pyro_modules_are_refused() -> None:
    """They would share weights between two VAEs by the names that they give them."""
    decoder = PyroModule[nn.Sequential](PyroModule[nn.Linear](1, 6))
    decoder.out_shape = torch.Size((6,))
    posterior = posteriors.Normal(networks.MLP(6, (), 2))
    with pytest.raises(TypeError, match="likelihood: holds a PyroModule"):
        VAE(priors.StandardNormal(1), likelihoods.Bernoulli(decoder), posterior)


def test_ends_that_all_but_agree_do_not() -> None:
    """A draw in the gap would have no prior density, and an error far from its cause."""
    vae = VAE(
        priors.Uniform(2),
        likelihood_of("Bernoulli", 2),
        posteriors.Squashed(POSTERIORS["Normal"](2), 0.0, 1.000005),
    )
    with pytest.raises(ValueError, match=r"posterior: its support is .*expected the prior's"):
        vae.guide(data("Bernoulli"))
