"""Priors, likelihoods, posteriors and networks: densities, shapes, starting weights."""

import itertools
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn
from torch.distributions import constraints

from pyro_vae import likelihoods, networks, posteriors, presets, priors
from pyro_vae.distributions.supports import (
    check_on_support,
    same_support,
    scored_support,
    support_of,
)


class Given(nn.Module):
    """A network that gives back its input, whatever it stands for."""

    def __init__(self, out_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.out_shape = torch.Size(out_shape)

    def forward(self, x: Tensor) -> Tensor:
        return x


# The lecture's formulas, term by term, in float64, constants included.


def test_bernoulli_is_the_lectures_cross_entropy() -> None:
    logits = torch.randn(4, 3, 2).double()
    x = torch.bernoulli(torch.full((4, 3, 2), 0.5)).double()
    y = torch.sigmoid(logits)
    lecture = (x * y.log() + (1 - x) * (1 - y).log()).sum((1, 2))
    for relaxed in (False, True):
        p_x = likelihoods.Bernoulli(Given((3, 2)), relaxed=relaxed)(logits)
        assert torch.allclose(p_x.log_prob(x), lecture, rtol=1e-12)
    grey = torch.rand(4, 3, 2).double()
    lecture = (grey * y.log() + (1 - grey) * (1 - y).log()).sum((1, 2))
    assert torch.allclose(p_x.log_prob(grey), lecture, rtol=1e-12)


def test_gaussian_with_scale_from_the_network_is_the_lectures() -> None:
    numbers = torch.randn(4, 2, 3, 5).double()
    mean, scale = numbers[:, 0], torch.log1p(numbers[:, 1].exp()) + 1 / 256
    x = torch.randn(4, 3, 5).double()
    lecture = -(0.5 * (scale**2).log() + (x - mean) ** 2 / (2 * scale**2)).sum((1, 2))
    p_x = likelihoods.Gaussian(Given((2, 3, 5)), scale="pixel")(numbers)
    constant = -15 / 2 * math.log(2 * math.pi)  # which the lecture leaves out
    assert torch.allclose(p_x.log_prob(x), lecture + constant, rtol=1e-12)


@pytest.mark.parametrize("scale", [1.0, 0.7, "shared"])
def test_gaussian_of_one_scale_is_squared_error(scale: float | str) -> None:
    mean, x = torch.randn(2, 4, 7).double()
    likelihood = likelihoods.Gaussian(Given((7,)), scale=scale).double()
    sigma = 1.0 if scale == "shared" else float(scale)
    lecture = -((x - mean) ** 2).sum(1) / (2 * sigma**2)
    constant = -7 / 2 * math.log(2 * math.pi) - 7 * math.log(sigma)
    # A shared scale starts as a float32 parameter; a fixed one is exact in any dtype.
    rtol = 1e-6 if scale == "shared" else 1e-12
    assert torch.allclose(likelihood(mean).log_prob(x), lecture + constant, rtol=rtol)
    assert [n for n, _ in likelihood.named_parameters()] == (
        ["raw_scale"] if scale == "shared" else []
    )


def test_kl_is_the_lectures_closed_form() -> None:
    numbers = torch.randn(4, 6).double()
    mu, sigma = numbers[:, :3], torch.log1p(numbers[:, 3:].exp()) + posteriors.SCALE_FLOOR
    lecture = 0.5 * (mu**2 + sigma**2 - (sigma**2).log() - 1).sum(1)
    q_z = posteriors.Normal(Given((6,)))(numbers)
    kl = torch.distributions.kl_divergence(q_z, priors.StandardNormal(3).double()())
    assert torch.allclose(kl, lecture, rtol=1e-12)
    # The slide for general covariances, with the matrices written out.
    covariance = torch.diag_embed(sigma**2)
    trace = covariance.diagonal(dim1=1, dim2=2).sum(1)
    general = 0.5 * (trace + (mu * mu).sum(1) - 3 - torch.logdet(covariance))
    assert torch.allclose(general, lecture, rtol=1e-12)


# Densities.


def test_bernoulli_sums_to_one() -> None:
    every = torch.tensor(list(itertools.product([0.0, 1.0], repeat=6))).double()
    for relaxed in (False, True):
        p_x = likelihoods.Bernoulli(Given((6,)), relaxed)(5 * torch.randn(6).double())
        assert p_x.log_prob(every).logsumexp(0).item() == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("scale", ["pixel", "shared", 0.3])
def test_gaussian_integrates_to_one(scale: float | str) -> None:
    likelihood = likelihoods.Gaussian(
        Given((2, 1) if scale == "pixel" else (1,)),
        scale=scale,
    ).double()
    line = torch.linspace(-30, 30, 60001).double()
    p_x = likelihood(torch.randn(2, 1).double() if scale == "pixel" else torch.randn(1).double())
    total = torch.trapezoid(p_x.log_prob(line[:, None]).exp(), line)
    assert total.item() == pytest.approx(1.0, abs=1e-9)


@pytest.mark.parametrize("logit", [20.0, 90.0, -90.0])
def test_bernoulli_keeps_precision_at_large_logits(logit: float) -> None:
    for relaxed in (False, True):
        p_x = likelihoods.Bernoulli(Given((1,)), relaxed)(torch.tensor([logit]))
        for x in (0.0, 1.0):
            exact = -math.log1p(math.exp(-logit if x else logit))
            assert p_x.log_prob(torch.tensor([x])).item() == pytest.approx(exact, rel=1e-6)


def bernoulli(logits: Tensor, dims: int = 1, relaxed: bool = False) -> dist.Distribution:
    """The distribution that a likelihood gives for these logits."""

    class Given(nn.Module):
        out_shape = torch.Size(logits.shape[logits.dim() - dims :])

        def forward(self, z: Tensor) -> Tensor:
            return logits

    return likelihoods.Bernoulli(Given(), relaxed)(torch.zeros(1))


@pytest.mark.parametrize("pixels", [1, 15, 16, 17, 32, 784])
@pytest.mark.parametrize("relaxed", [False, True])
@pytest.mark.parametrize("spread", [0.1, 5.0, 40.0])
def test_bernoulli_is_exact_in_float32(pixels: int, relaxed: bool, spread: float) -> None:
    """Value and gradients against torch's in float64, pixels shared by the seven draws of z."""
    logits = (torch.randn(7, 3, pixels) * spread).requires_grad_()
    x = torch.rand(3, pixels) if relaxed else torch.bernoulli(torch.full((3, pixels), 0.3))
    if relaxed:
        x.requires_grad_()
    value = bernoulli(logits, relaxed=relaxed).log_prob(x)
    exact_logits, exact_x = (t.detach().double().requires_grad_() for t in (logits, x))
    log_sigmoid = nn.functional.logsigmoid
    exact = exact_x * log_sigmoid(exact_logits) + (1 - exact_x) * log_sigmoid(-exact_logits)
    exact = exact.sum(-1)
    torch.testing.assert_close(value.double(), exact, rtol=1e-5, atol=1e-30)
    outer = torch.randn(7, 3)
    (value * outer).sum().backward()
    (exact * outer).sum().backward()
    # A difference of numbers near 1 keeps 2^-24 of 1.
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad.double(), exact_logits.grad, rtol=1e-5, atol=2e-6)
    if relaxed:
        # Sums over seven draws of numbers up to a few spreads.
        torch.testing.assert_close(x.grad.double(), exact_x.grad, rtol=1e-5, atol=1e-5 * spread)


def test_bernoulli_works_with_torchs_transforms() -> None:
    logits, x = torch.randn(5, 20).double(), torch.ones(20).double()

    def score(logits: Tensor) -> Tensor:
        return bernoulli(logits, 1).log_prob(x)

    curvature = -(logits.sigmoid() * (1 - logits.sigmoid()))
    with pyro.validation_enabled(False):
        gradient = torch.func.vmap(torch.func.grad(score))(logits)
        torch.testing.assert_close(gradient, x - logits.sigmoid())
        hessian = torch.func.hessian(score)(logits[0])
        torch.testing.assert_close(hessian, torch.diag(curvature[0]))
    assert torch.autograd.gradgradcheck(score, logits.clone().requires_grad_())


def test_bernoulli_refuses_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="Boolean"):
        bernoulli(torch.zeros(2, 4)).log_prob(torch.full((2, 4), 0.5))
    with pytest.raises(ValueError, match="Boolean"):
        bernoulli(torch.zeros(2, 4)).log_prob(torch.full((2, 4), float("nan")))
    with pytest.raises(ValueError, match=r"match event_shape|broadcastable"):
        bernoulli(torch.zeros(2, 4)).log_prob(torch.ones(2, 3))
    with pytest.raises(ValueError, match="broadcastable"):
        bernoulli(torch.zeros(2, 4)).log_prob(torch.ones(3, 4))
    with pytest.raises(ValueError, match="between 0 and 1"):
        bernoulli(torch.zeros(2, 4), relaxed=True).log_prob(torch.full((2, 4), 1.5))
    assert bernoulli(torch.zeros(5), 0).log_prob(torch.ones(5)).shape == (5,)
    two = bernoulli(torch.zeros(3, 4, 5), 2)
    assert two.expand((6, 3)).log_prob(torch.ones(4, 5)).shape == (6, 3)


def test_scales_have_their_floors() -> None:
    low = torch.full((2, 3), -1e4)
    p_x = likelihoods.Gaussian(Given((2, 3)), scale="pixel")(low)
    assert torch.equal(p_x.base_dist.scale, torch.full((3,), 1 / 256))
    q_z = posteriors.Normal(Given((2,)))(low[:, :2])
    assert torch.equal(q_z.base_dist.scale, torch.full((2, 1), 1e-4))


def test_samplers_have_pathwise_gradients() -> None:
    numbers = torch.randn(3, 4).double().requires_grad_()
    posterior = posteriors.Normal(Given((4,)))

    def draw(numbers: Tensor) -> Tensor:
        with torch.random.fork_rng():
            torch.manual_seed(1)
            return posterior(numbers).rsample()

    assert torch.autograd.gradcheck(draw, (numbers,))


def test_parts_follow_dtype() -> None:
    for name in presets.names():
        vae = presets.build(name, z_dim=2, shape=(4, 4)).double()
        z = vae.prior().sample((3,))
        assert z.dtype == torch.float64
        assert vae.likelihood(z).mean.dtype == torch.float64
        assert vae.posterior(torch.rand(3, 4, 4).double()).rsample().dtype == torch.float64


# Supports.


def test_supports_are_compared_by_what_they_contain() -> None:
    normal = dist.Normal(torch.zeros(2), 1.0).to_event(1)
    mixture = dist.MixtureSameFamily(
        dist.Categorical(torch.ones(3)), dist.Normal(torch.zeros(3, 2), 1.0).to_event(1)
    )
    full = dist.MultivariateNormal(torch.zeros(2), torch.eye(2))
    assert same_support(normal.support, full.support)
    assert same_support(normal.support, mixture.support)
    assert same_support(constraints.positive, constraints.nonnegative)
    assert same_support(constraints.unit_interval, dist.Beta(torch.ones(2), 2.0).support)
    different = [
        constraints.real,
        constraints.positive,
        constraints.unit_interval,
        constraints.interval(-1, 1),
        constraints.boolean,
        constraints.nonnegative_integer,
        constraints.integer_interval(0, 255),
        constraints.simplex,
    ]
    for a, b in itertools.combinations(different, 2):
        assert not same_support(a, b)
    for a in different:
        assert same_support(a, constraints.independent(a, 1))


def test_supports_of_many_parts_and_of_transforms() -> None:
    real, positive, unit = constraints.real, constraints.positive, constraints.unit_interval
    assert same_support(constraints.cat([real, positive]), constraints.cat([real, positive]))
    assert not same_support(constraints.cat([real, positive]), constraints.cat([unit, real]))
    assert not same_support(constraints.cat([real]), real)
    low, high = torch.tensor([0.0, 0.1]), torch.tensor([1.0, 2.0])
    wide = dist.Uniform(low, high).expand([8, 2]).to_event(1)
    assert same_support(dist.Uniform(low, high).to_event(1).support, wide.support)
    assert same_support(constraints.interval(0.0, 0.1), constraints.interval(0.0, low[1]))
    squashed = dist.TransformedDistribution(
        dist.Normal(torch.zeros(3), 1.0),
        [dist.transforms.SigmoidTransform(), dist.transforms.AffineTransform(1.0, -2.0)],
    ).to_event(1)
    assert same_support(support_of(squashed), constraints.interval(-1.0, 1.0))
    shifted = dist.TransformedDistribution(
        dist.Normal(torch.zeros(3), 1.0), [dist.transforms.AffineTransform(1.0, -2.0)]
    )
    assert same_support(support_of(shifted), real)
    mixture = dist.MixtureSameFamily(
        dist.Categorical(torch.ones(2)), dist.Beta(torch.ones(2), 2.0)
    )
    check_on_support("x", torch.rand(5), mixture.support)
    with pytest.raises(ValueError, match=r"x: got 1.5 at 1 of 3 places, expected values on Int"):
        check_on_support("x", torch.tensor([0.5, 1.5, 0.1]), mixture.support)
    with pytest.raises(ValueError, match=r"x: got 1 of 2 events off the support, expected .* Simplex"):
        check_on_support("x", torch.eye(2) * torch.tensor([1.0, 2.0]), constraints.simplex)


T = torch.distributions.transforms


@pytest.mark.parametrize(
    ("base", "transforms", "ends"),
    [
        (dist.Normal(0.0, 1.0), [T.SigmoidTransform(), T.AffineTransform(1.0, 2.0)], (1, 3)),
        (dist.Normal(0.0, 1.0), [T.SigmoidTransform(), T.AffineTransform(0.0, 0.5).inv], (0, 2)),
        (dist.Normal(0.0, 1.0), [T.SigmoidTransform(), T.AffineTransform(0.0, -1.0)], (-1, 0)),
        (
            dist.Normal(0.0, 1.0),
            [T.SigmoidTransform(), T.PowerTransform(torch.tensor(2.0))],
            (0, 1),
        ),
        (dist.Uniform(0.0, 1.0), [T.ExpTransform()], (1, math.e)),
        (dist.Uniform(1.0, 2.0), [T.ExpTransform().inv], (0, math.log(2))),
        (dist.Normal(0.0, 1.0), [T.ExpTransform()], (0, math.inf)),
        (dist.Normal(0.0, 1.0), [T.ExpTransform(), T.AffineTransform(1.0, 2.0)], (1, math.inf)),
        (dist.Normal(0.0, 1.0), [T.SigmoidTransform(), T.SigmoidTransform().inv], None),
        (dist.Normal(0.0, 1.0), [T.AffineTransform(1.0, 2.0)], None),
    ],
)
def test_supports_of_transforms_are_where_the_draws_can_be(
    base: dist.Distribution, transforms: list[T.Transform], ends: tuple[float, float] | None
) -> None:
    own = dist.TransformedDistribution(base, transforms)
    expected = constraints.real if ends is None else constraints.interval(*ends)
    assert same_support(support_of(own), expected)
    assert same_support(support_of(own.expand((2,)).to_event(1)), expected)


def test_the_relaxed_bernoulli_scores_more_than_its_support() -> None:
    p_x = likelihoods.Bernoulli(Given((2,)), relaxed=True)(torch.zeros(3, 2)).expand((5, 3))
    grey = torch.full((5, 3, 2), 0.5)
    check_on_support("x", grey, scored_support(p_x))
    with pytest.raises(ValueError, match=r"x: got 0.5 at 30 of 30 places.*Boolean"):
        check_on_support("x", grey, p_x.support)


# Networks.


@pytest.mark.parametrize("batch", [(), (2,), (3, 2), (0,)])
def test_mlp_treats_batch_dimensions_alike(batch: tuple[int, ...]) -> None:
    network = networks.MLP((3, 2), (5, 4), (2, 6), nn.Tanh)
    x = torch.randn(*batch, 3, 2)
    y = network(x)
    assert y.shape == (*batch, 2, 6)
    for part, own in zip(x.reshape(-1, 3, 2), y.reshape(-1, 2, 6), strict=True):
        assert torch.allclose(network(part), own, atol=1e-6)


@pytest.mark.parametrize("batch", [(), (2,), (3, 2), (0,)])
@pytest.mark.parametrize("shape", [(28, 28), (1, 9, 14), (3, 7, 5), (2, 3, 6, 6), (1, 1)])
def test_convolutions_mirror_each_other(batch: tuple[int, ...], shape: tuple[int, ...]) -> None:
    encoder = networks.ConvEncoder(shape, 4, channels=(3, 5, 2))
    decoder = networks.ConvDecoder(4, shape, channels=(2, 5, 3))
    x = torch.randn(*batch, *shape)
    z = encoder(x)
    assert z.shape == (*batch, 4)
    assert decoder(z).shape == x.shape
    for image, own in zip(x.reshape(-1, *shape), decoder(z).reshape(-1, *shape), strict=True):
        assert torch.allclose(decoder(encoder(image)), own, atol=1e-6)


def test_convolutional_decoder_reaches_every_pixel() -> None:
    decoder = networks.ConvDecoder(2, (9, 6))
    z = torch.randn(2, requires_grad=True)
    with torch.no_grad():
        decoder.linear.bias.fill_(0.5)
    spread = decoder(torch.randn(50, 2)).std(0)
    assert (spread > 0).all()
    assert decoder(z).requires_grad


@pytest.mark.parametrize("fan_in", [50, 784])
def test_variance_scaling_has_the_stated_variance(fan_in: int) -> None:
    layer = nn.Linear(fan_in, 2000)
    networks.variance_scaling_(layer)
    weight, count = layer.weight.detach(), layer.weight.numel()
    # Kurtosis below the normal's 3, so the variance's relative error is below sqrt(2 / n).
    error = math.sqrt(2 / count)
    assert weight.var().item() * fan_in / 2 == pytest.approx(1.0, abs=4 * error)
    cut = 2 / 0.8796256610342398  # in standard deviations of what is left
    assert weight.abs().max().item() <= cut * math.sqrt(2 / fan_in) * (1 + 1e-6)
    assert not layer.bias.any()


def test_presets_are_what_they_say() -> None:
    def widths(network: networks.MLP) -> list[int]:
        return [m.out_features for m in network.layers if isinstance(m, nn.Linear)]

    for name in ("bernoulli-mlp", "gaussian-mlp", "gaussian-unit-mlp"):
        vae = presets.build(name, shape=(28, 28))
        assert widths(vae.posterior.network) == [500, 500, 4]
        assert widths(vae.likelihood.network) == [
            500,
            500,
            1568 if name == "gaussian-mlp" else 784,
        ]
        first = vae.posterior.network.layers[0].weight
        assert first.var().item() == pytest.approx(2 / 784, rel=4 * math.sqrt(2 / first.numel()))
        assert not vae.posterior.network.layers[0].bias.any()
    vae = presets.build("iwae-mlp", shape=784)
    assert (widths(vae.posterior.network), widths(vae.likelihood.network)) == (
        [200, 200, 100],
        [200, 200, 784],
    )
    vae = presets.build("pyro-mlp", shape=784)
    assert (widths(vae.posterior.network), widths(vae.likelihood.network)) == (
        [400, 100],
        [400, 784],
    )


def test_presets_take_the_pixels_that_fit() -> None:
    for name in presets.names():
        for pixels in ("grey", "binary", "dequantized", "levels"):
            if pixels in presets.get(name).pixels:
                vae = presets.build(name, shape=(4, 4), pixels=pixels)
                assert getattr(vae.likelihood, "relaxed", False) == (
                    pixels == "grey" and "gaussian" not in name
                )
            else:
                with pytest.raises(ValueError, match=f"pixels: got '{pixels}'"):
                    presets.build(name, shape=(4, 4), pixels=pixels)
    with pytest.raises(ValueError, match="preset: got 'vae', expected one of bernoulli-mlp"):
        presets.build("vae", shape=4)


def test_wrong_parts_are_named() -> None:
    with pytest.raises(ValueError, match="z_dim: got"):
        priors.StandardNormal(0)
    with pytest.raises(ValueError, match="hidden: got"):
        networks.MLP(3, (0,), 2)
    with pytest.raises(ValueError, match=r"MLP: got an input of shape \(5, 4\), expected"):
        networks.MLP(3, (), 2)(torch.zeros(5, 4))
    with pytest.raises(ValueError, match="in_shape: got"):
        networks.ConvEncoder(5, 2)
    with pytest.raises(ValueError, match="channels: got none"):
        networks.ConvDecoder(5, (4, 4), channels=())
    for scale in (0.0, -1.0, math.inf, math.nan, "image", True):
        with pytest.raises(ValueError, match="scale: got"):
            likelihoods.Gaussian(Given((3,)), scale=scale)
    with pytest.raises(ValueError, match=r"network: got out_shape \(3, 4\), expected \(2, "):
        likelihoods.Gaussian(Given((3, 4)))
    with pytest.raises(TypeError, match="without an attribute out_shape"):
        likelihoods.Bernoulli(nn.Identity())
    with pytest.raises(ValueError, match="gave 3 numbers, expected 2"):
        posteriors.Normal(Given((3,)))(torch.zeros(4, 3))
