"""Who takes NaN in x is said by the support of x; everywhere else it is refused as ever."""

import math
from collections.abc import Callable

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO
from torch import Tensor, nn

from pyro_vae import (
    VAE,
    Pair,
    distributions,
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
from pyro_vae.contracts import takes_holes

from ..holes import NAN, holed, observed_vae
from ..swaps import mlp
from ..vaes import bernoulli_vae, binary

Use = Callable[[Pair, Tensor], object]

USES: dict[str, Use] = {
    "fit": lambda pair, x: fit(pair, x, epochs=1, compile=False),
    "fit, test": lambda pair, x: fit(pair, x[-1:], test=x, epochs=1, compile=False),
    "fit of batches": lambda pair, x: fit(pair, [(x[-2:],), (x,)], epochs=1, compile=False),
    "model": lambda pair, x: pair.model(x),
    "guide": lambda pair, x: pair.guide(x),
    "log_likelihood": lambda pair, x: log_likelihood(pair, x, 30),
    "elbo": lambda pair, x: elbo(pair, x, 3),
}


def own_pair(masked: bool = True, observed: bool = True) -> Pair:
    """A pair of functions, whose x may have NaN, and whose guide may be given the mask."""
    decoder = mlp(2, 3)
    encoder = networks.Observed(mlp((2, 3), 4)) if masked else mlp(3, 4)

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            p_x = dist.Normal(decoder(z), 1.0).to_event(1)
            pyro.sample("x", distributions.Observed(p_x) if observed else p_x, obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            loc, scale = encoder(x).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, scale.exp()).to_event(1))

    return Pair(model, guide, decoder=decoder, encoder=encoder)


@pytest.mark.parametrize("use", USES)
def test_nan_is_refused_where_the_support_has_none(use: str) -> None:
    x = holed(binary(6, 6))
    with pytest.raises(ValueError, match=r"got nan at .*finite numbers; NaN .*\.Observed"):
        USES[use](bernoulli_vae(), x)


@pytest.mark.parametrize("use", USES)
def test_infinity_is_refused_beside_nan(use: str) -> None:
    vae = observed_vae(likelihoods.Gaussian(mlp(2, (2, 3))))
    x = holed(torch.randn(6, 3))
    x[-1, 0] = math.inf
    with pytest.raises(ValueError, match=r"got inf at 1 of .*expected finite numbers or NaN$"):
        USES[use](vae, x if use != "fit, test" else x.roll(1, 0))


@pytest.mark.parametrize("use", [use for use in USES if use != "model"])
@pytest.mark.parametrize("flow", [False, True])
def test_a_posterior_without_the_mask_is_named_before_a_step(use: str, flow: bool) -> None:
    class Unchecked(nn.Module):
        """A posterior that does not look at its parameters."""

        network = mlp(3, 4)

        def forward(self, x: Tensor) -> dist.Distribution:
            loc, scale = self.network(x).chunk(2, -1)
            return dist.Normal(loc, scale.exp(), validate_args=False).to_event(1)

    posterior = Unchecked() if flow else posteriors.Normal(mlp(3, 4))
    vae = observed_vae(likelihoods.Gaussian(mlp(2, (2, 3))), posterior=posterior)
    with pytest.raises(
        ValueError, match=r"posterior: gives NaN for x with NaN.*networks\.Observed"
    ):
        USES[use](vae, holed(torch.randn(6, 3)))


@pytest.mark.parametrize("use", ["fit", "fit of batches", "log_likelihood", "elbo"])
def test_any_pair_takes_nan_if_its_site_does(use: str) -> None:
    x = holed(torch.randn(6, 3))
    USES[use](own_pair(), x)
    with pytest.raises(ValueError, match=r"guide: gives NaN for x with NaN.*networks\.Observed"):
        USES[use](own_pair(masked=False), x)
    with pytest.raises(ValueError, match="nan"):
        USES[use](own_pair(observed=False), x)
    with pytest.raises(ValueError, match=r"got inf|Expected parameter"):
        USES[use](own_pair(), x.nan_to_num(math.inf))


def test_values_off_the_support_are_refused_beside_nan() -> None:
    vae = observed_vae(likelihoods.Bernoulli(mlp(2, 3)))
    x = holed(torch.full((6, 3), 0.5))
    for use in (USES["fit"], USES["log_likelihood"]):
        with pytest.raises(ValueError, match=r"got 0.5 at .* expected values on Boolean or NaN"):
            use(vae, x)


def test_levels_have_no_holes() -> None:
    vae = observed_vae(likelihoods.Bernoulli(mlp(2, 3)))
    x = holed(binary(6, 3))
    with pytest.raises(ValueError, match=r"pixels: got 'binary' .*; put NaN into x .*binarize"):
        fit(vae, x, epochs=1, pixels="binary")
    fit(vae, (255 * torch.ones(6, 3)).byte(), epochs=1, pixels="binary", compile=False)


def test_what_a_pair_takes_follows_its_parts() -> None:
    vae = observed_vae(likelihoods.Gaussian(mlp(2, (2, 3))))
    x = holed(torch.randn(6, 3))
    assert takes_holes(vae)
    vae.guide(x)
    vae.likelihood = vae.likelihood.likelihood
    assert not takes_holes(vae)
    with pytest.raises(ValueError, match="got nan"):
        vae.guide(x)
    vae.likelihood = likelihoods.Observed(vae.likelihood)
    vae.guide(x)


def test_the_check_leaves_modes_and_random_numbers_as_they_are() -> None:
    vae, x = observed_vae(likelihoods.Gaussian(mlp(2, (2, 3)))), holed(torch.randn(6, 3))
    twin = observed_vae(likelihoods.Gaussian(mlp(2, (2, 3))))
    twin.load_state_dict(vae.state_dict())
    takes_holes(twin)
    for each in (vae, twin):
        torch.manual_seed(1)
        each.guide(x)  # which asks what it takes, or has done so
        each.seen = torch.rand(())
    assert torch.equal(vae.seen, twin.seen)
    assert all(module.training for module in vae.modules())


def test_plain_pyro_trains_and_gradients_are_finite() -> None:
    vae, x = observed_vae(likelihoods.Gaussian(mlp(2, (2, 3)))), holed(torch.randn(40, 3))
    svi = SVI(
        vae.model,
        vae.guide,
        optim.Adam(lr=1e-2),
        Trace_ELBO(num_particles=3, vectorize_particles=True),
    )
    losses = [svi.step(x) for _ in range(60)]
    assert sum(losses[-10:]) < sum(losses[:10])
    assert all(p.isfinite().all() for p in vae.parameters())
    Trace_ELBO().differentiable_loss(vae.model, vae.guide, x).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in vae.parameters())
    vae.model(num_samples=3)  # What is drawn is complete.
    assert vae.model(num_samples=3).isfinite().all()
    for made in (vae.embed(x), vae.reconstruct(x), vae.generate(3), vae.generate(3, sample=True)):
        assert made.isfinite().all()


def test_a_context_and_a_prior_of_it() -> None:
    class Prior(nn.Module):
        def forward(self, label: Tensor) -> dist.Distribution:
            return dist.Normal(label.unsqueeze(-1).expand(*label.shape, 2).float(), 1.0).to_event(
                1
            )

    vae = observed_vae(likelihoods.Gaussian(mlp(2, (2, 3))))
    vae = VAE(Prior(), vae.likelihood, vae.posterior)
    x, label = holed(torch.randn(6, 3)), torch.arange(6) % 2
    vae.guide(x, label)
    fit(vae, (x, label), epochs=1, compile=False)
    assert log_likelihood(vae, (x, label), 30, seed=0).values.isfinite().all()


def test_a_preset_refuses_nan_and_its_observed_twin_takes_it() -> None:
    vae = presets.build("pyro-mlp", z_dim=2, shape=6)
    x = holed(binary(6, 6))
    with pytest.raises(ValueError, match="got nan"):
        vae.model(x)
    encoder = networks.Observed(networks.MLP((2, 6), (8,), 4))
    likelihood = likelihoods.Observed(vae.likelihood)
    twin = VAE(priors.StandardNormal(2), likelihood, posteriors.Normal(encoder))
    twin.model(x)
    nothing = log_likelihood(twin, torch.full((2, 6), NAN), 30, estimator="prior", seed=0)
    assert nothing.values.abs().max() < 1e-12
