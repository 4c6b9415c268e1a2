"""Free bits: a KL that counts from a threshold up, dimension by dimension."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn
from torch.distributions import kl_divergence

from pyro_vae import VAE, Pair, fit, likelihoods, networks, objectives, optim, posteriors, priors
from pyro_vae.objectives import described

from ..losses import gradient, program_of
from ..pairs import WEIGHT, two_layers, two_layers_evidence, two_layers_guide
from ..vaes import bernoulli_vae, binary, linear_gaussian


def test_no_free_bits_are_the_bound() -> None:
    """Zero nats are always exceeded by the KL in closed form."""
    program = program_of(linear_gaussian(exact=False))
    for particles in (1, 3):
        own = gradient(objectives.free_bits(0.0, particles), program)
        exact = gradient(objectives.analytic_kl(particles), program)
        assert own[0] == pytest.approx(exact[0])
        for a, b in zip(own[1], exact[1], strict=True):
            torch.testing.assert_close(a, b)


@pytest.mark.parametrize("particles", [1, 3])
def test_each_dimension_counts_its_mean_or_the_threshold(particles: int) -> None:
    case = linear_gaussian(exact=False)
    program = program_of(case)
    kl = kl_divergence(case.vae.posterior(case.x).base_dist, case.vae.prior().base_dist).mean(0)
    least, most = kl.sort()[0].tolist()
    for nats in (0.5 * least, (least + most) / 2, 2 * most):
        value, gradients = gradient(objectives.free_bits(nats, particles), program)
        base = gradient(objectives.beta(0.0, particles), program)
        counted = kl.clamp(min=nats).sum() * len(case.x)
        assert value == pytest.approx(base[0] + counted.item())
        if nats > most:  # No dimension is above: the KL has no gradient.
            for a, b in zip(gradients, base[1], strict=True):
                torch.testing.assert_close(a, b)


def test_a_transform_of_each_dimension_factorizes() -> None:
    """A KL of transformed distributions is that of their bases, if both are transformed alike."""
    torch.manual_seed(0)
    q = posteriors.Squashed(posteriors.Normal(networks.MLP(6, (), 4)), -2.0, 3.0)
    decoder = networks.MLP(2, (), 6)
    vae = VAE(priors.Uniform(2, -2.0, 3.0), likelihoods.Bernoulli(decoder), q)
    x, losses = binary(400), []
    for elbo in (objectives.free_bits(0.0), objectives.trace_elbo()):
        torch.manual_seed(1)
        losses.append(elbo.loss(vae.model, vae.guide, x))
    # Both draw the same z; the KL of each dimension is a mean over 400 draws, and positive.
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_a_kl_without_a_closed_form_is_sampled() -> None:
    class Heavy(nn.Module):
        def forward(self) -> dist.Distribution:
            return dist.StudentT(torch.full((2,), 5.0), 0.0, 1.0).to_event(1)

    def programs(prior: nn.Module) -> VAE:
        torch.manual_seed(0)
        decoder, encoder = networks.MLP(2, (), 6), networks.MLP(6, (), 4)
        return VAE(prior, likelihoods.Bernoulli(decoder), posteriors.Normal(encoder))

    x, vae = binary(50), programs(Heavy())
    torch.manual_seed(1)
    loss = objectives.free_bits(0.0).loss(vae.model, vae.guide, x)
    torch.manual_seed(1)
    objectives.free_bits(0.0).loss(vae.model, vae.guide, x)
    torch.manual_seed(1)
    q_z = vae.posterior(x)
    many = 4000
    z = q_z.rsample((many,))
    kl = (q_z.base_dist.log_prob(z) - vae.prior().base_dist.log_prob(z)).mean((0, 1))
    log_p = vae.likelihood(z).log_prob(x)
    exact = (kl.clamp(min=0).sum() - log_p.mean()) * len(x)
    spread = ((vae.prior().log_prob(z) + log_p - q_z.log_prob(z)).std() * len(x) ** 0.5).item()
    assert loss == pytest.approx(exact.item(), abs=5 * spread)


def test_the_history_has_the_kl_itself() -> None:
    x, vae = binary(40), bernoulli_vae()
    rate = optim.from_torch(torch.optim.SGD, lr=0.0)
    free = objectives.free_bits(3.0)
    history = fit(vae, x, epochs=1, batch_size=40, objective=free, optim=rate)
    row = history.rows()[0]
    assert row["cost"] == pytest.approx(row["reconstruction"] + 3.0, rel=1e-6)
    assert row["kl"] < 1


def test_a_plate_inside_and_a_mask_are_counted() -> None:
    """Latents in a plate of their own are dimensions; masked ones have no KL."""
    mask = torch.tensor([[True], [False]])

    @contextmanager
    def parts(size: int) -> Iterator[None]:
        with pyro.plate("data", size, dim=-1), pyro.plate("parts", 2, dim=-2):
            yield

    def model(x: Tensor) -> None:
        with parts(len(x)):
            with pyro.poutine.mask(mask=mask):
                z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x.T)

    def guide(x: Tensor) -> None:
        with parts(len(x)), pyro.poutine.mask(mask=mask):
            pyro.sample("z", dist.Normal(x.T, 0.5))

    x, pair = torch.randn(6, 2), Pair(model, guide)
    kl = kl_divergence(dist.Normal(x, 0.5), dist.Normal(0.0, 1.0)).mean(0)
    for nats in (0.0, 10.0):
        torch.manual_seed(0)
        value = objectives.free_bits(nats).loss(pair.model, pair.guide, x)
        torch.manual_seed(0)
        base = objectives.beta(0.0).loss(pair.model, pair.guide, x)
        exact = 6 * max(nats, kl[0].item())
        assert value - base == pytest.approx(exact, rel=1e-5)


def test_a_scale_multiplies_and_a_mask_leaves_out() -> None:
    x, vae = binary(32), bernoulli_vae()
    free = objectives.free_bits(5.0)

    def loss(wrapped: Callable[[Any], Any], x: Tensor) -> float:
        torch.manual_seed(0)
        return free.loss(wrapped(vae.model), wrapped(vae.guide), x)

    plain = loss(lambda program: program, x)
    assert loss(lambda program: pyro.poutine.scale(program, 10.0), x) == pytest.approx(10 * plain)
    mask = torch.arange(32) < 16
    masked = loss(lambda program: pyro.poutine.mask(program, mask), x)
    torch.manual_seed(0)
    base = objectives.beta(0.0).loss(
        pyro.poutine.mask(vae.model, mask), pyro.poutine.mask(vae.guide, mask), x
    )
    assert masked - base == pytest.approx(16 * 5.0, rel=1e-5)
    # Without a threshold, the sum of the KL of those that are not masked.
    torch.manual_seed(0)
    value = objectives.free_bits(0.0).loss(
        pyro.poutine.mask(vae.model, mask), pyro.poutine.mask(vae.guide, mask), x
    )
    kl = kl_divergence(vae.posterior(x), vae.prior())[:16].sum().item()
    assert value - base == pytest.approx(kl, rel=1e-4)


def test_what_does_not_factorize_is_refused_before_the_first_step() -> None:
    x, vae = binary(), bernoulli_vae(z_dim=2)
    wide = VAE(vae.prior, vae.likelihood, posteriors.MultivariateNormal(networks.MLP(6, (), 5)))
    mixed = VAE(priors.GaussianMixture(2, 3), vae.likelihood, vae.posterior)
    for own, message in (
        (wide, 'site "z": the guide has MultivariateNormal.*, expected a distribution that fact'),
        (mixed, 'site "z": the model has NormalMixture|Mixture'),
    ):
        before = [p.clone() for p in own.parameters()]
        with pytest.raises(ValueError, match=message):
            fit(own, x, epochs=1, batch_size=4, objective=objectives.free_bits(0.1))
        assert all(torch.equal(a, b) for a, b in zip(before, own.parameters(), strict=True))
    for nats in (-1.0, float("nan"), True):
        with pytest.raises((TypeError, ValueError), match=f"nats: got {nats}"):
            objectives.free_bits(nats)


def layers(nats: Any, particles: int, guide: Callable[..., None]) -> list[float]:
    """Losses of two layers, by noise that is the same for each objective."""
    torch.manual_seed(0)
    x = two_layers_evidence().sample((40,))
    losses = []
    for objective in (objectives.free_bits(nats, particles), objectives.trace_elbo(particles)):
        torch.manual_seed(1)
        losses.append(objective.loss(two_layers, guide, x))
    return losses


def test_a_layer_below_is_sampled() -> None:
    """A guide from the data up draws z1 before z2, on which p(z1|z2) depends.

    A KL in closed form would take z1 as independent of z2 given x. From the samples, the terms
    are those of the sampled bound, unless one is negative in the mean.
    """
    many = 5000
    free, sampled = layers(0.0, many, two_layers_guide)
    # Only the KL of z2 is in closed form, so both have the same mean. A draw scatters by less
    # than 3 nats for each of 40 examples.
    error = 3 * (40 / many) ** 0.5
    assert free == pytest.approx(sampled, abs=5 * error)

    def down(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z2 = pyro.sample("z2", dist.Normal(0.3 * x @ WEIGHT, 0.9).to_event(1))
            loc = 0.5 * z2 + 0.4 * x @ WEIGHT
            pyro.sample("z1", dist.Normal(loc, 0.8).to_event(1))

    free, sampled = layers(0.0, many, down)
    assert free == pytest.approx(sampled, abs=5 * error)


def test_each_layer_has_free_bits_of_its_own() -> None:
    none, _ = layers(0.0, 3, two_layers_guide)
    same, _ = layers({"z1": 0.0, "z2": 0.0}, 3, two_layers_guide)
    both, _ = layers(50.0, 3, two_layers_guide)
    one, _ = layers({"z1": 50.0}, 3, two_layers_guide)
    other, _ = layers({"z2": 50.0}, 3, two_layers_guide)
    assert same == none
    # Each of two dimensions of a layer counts 50 nats for each of 40 examples.
    assert one + other == pytest.approx(none + both)
    assert both - one == pytest.approx(other - none)
    with pytest.raises(ValueError, match="nats: got the sites z3, expected some of z1, z2"):
        layers({"z3": 1.0}, 1, two_layers_guide)
    wrong: Any = {"z1": -1.0}
    with pytest.raises(ValueError, match=r"nats\['z1'\]: got -1.0"):
        objectives.free_bits(wrong)
    with pytest.raises(ValueError, match="nats: got none"):
        objectives.free_bits({})
    first, second = (described(objectives.free_bits({"z1": n})) for n in (0.1, 0.2))
    assert first != second
