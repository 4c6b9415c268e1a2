"""What all parts have in common: batches, dtypes, errors by name."""

import gc
import math
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pyro_vae import datasets, likelihoods, networks, posteriors, presets, priors

from .swaps import (
    LIKELIHOODS,
    PAIRS,
    POSTERIORS,
    PRIORS,
    X_DIM,
    data,
    likelihood_of,
    posterior_for,
    vae_of,
)
from .tolerances import CLOSE
from .vaes import VAE_PRESETS, Given, given


@pytest.mark.parametrize("batch", [(), (2,), (3, 2)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_parts_work_on_any_batch(batch: tuple[int, ...], dtype: torch.dtype) -> None:
    """Each row of a batch is what it would be alone; ``expand`` repeats it."""
    x = torch.rand(*batch, X_DIM, dtype=dtype)
    z = torch.randn(*batch, 2, dtype=dtype)
    cases: list[tuple[nn.Module, Tensor, tuple[int, ...]]] = [
        (make(2).to(dtype), x, (2,)) for make in POSTERIORS.values()
    ]
    cases += [(posterior_for("Uniform", name, 2).to(dtype), x, (2,)) for name in POSTERIORS]
    cases += [(likelihood_of(name, 2).to(dtype), z, (X_DIM,)) for name in LIKELIHOODS]
    for module, argument, event in cases:
        conditional = module(argument)
        assert (conditional.batch_shape, conditional.event_shape) == (batch, event)
        torch.manual_seed(0)
        value = conditional.sample((4,))
        assert value.shape == (4, *batch, *event)
        log_prob = conditional.log_prob(value)
        assert log_prob.shape == (4, *batch)
        assert log_prob.dtype == dtype
        wider = conditional.expand((4, *batch))
        assert wider.sample().shape == value.shape
        pairs = [(wider.log_prob(value), log_prob)]
        if batch:
            pairs += [(module(argument[-1]).log_prob(value[:, -1]), log_prob[:, -1])]
        for same, own in pairs:
            assert (same.shape, same.dtype) == (own.shape, dtype)
            if dtype == torch.float64:  # the rounding of float32 goes with a part's scales
                torch.testing.assert_close(same, own, rtol=CLOSE, atol=CLOSE)
    for name, make in PRIORS.items():
        p_z = make(2, POSTERIORS["Normal"](2)).to(dtype)()
        assert (p_z.batch_shape, p_z.event_shape) == ((), (2,)), name
        value = p_z.sample((4, *batch))
        assert value.dtype == dtype
        wider = p_z.expand((4, *batch))
        assert wider.sample().shape == (*wider.log_prob(value).shape, 2) == value.shape
        if dtype == torch.float64:
            same = wider.log_prob(value)
            torch.testing.assert_close(same, p_z.log_prob(value), rtol=CLOSE, atol=CLOSE)


def test_nothing_but_parameters_and_buffers_holds_tensors() -> None:
    """What a module holds otherwise would not follow it to another device."""
    modules = [vae_of(*pair) for pair in PAIRS]
    modules += [vae_of("StandardNormal", "Normal", likelihood) for likelihood in LIKELIHOODS]
    for module in modules:
        for part in module.modules():
            assert not [k for k, v in vars(part).items() if isinstance(v, Tensor)], part


def test_no_draw_is_kept() -> None:
    kept = {}
    for pair in PAIRS:
        vae, x = vae_of(*pair), data("Bernoulli")
        q_z, p_z = vae.posterior(x), vae.prior()
        z = q_z.rsample()
        q_z.log_prob(z), p_z.log_prob(z)
        kept[pair] = weakref.ref(z)
    del z, q_z, p_z
    gc.collect()
    assert not [pair for pair, draw in kept.items() if draw() is not None]


def test_parts_follow_dtype() -> None:
    for name in VAE_PRESETS:
        vae = presets.build(name, z_dim=2, shape=(4, 4)).double()
        z = vae.prior().sample((3,))
        assert z.dtype == torch.float64
        c = given(name, (3,))
        assert vae.likelihood(z, *c).mean.dtype == torch.float64
        assert vae.posterior(torch.rand(3, 4, 4).double(), *c).rsample().dtype == torch.float64


def test_scales_have_their_floors() -> None:
    low = torch.full((2, 3), -1e4)
    p_x = likelihoods.Gaussian(Given(2, 3), scale="pixel")(low)
    assert torch.equal(p_x.base_dist.scale, torch.full((3,), 1 / 256))
    q_z = posteriors.Normal(Given(2))(low[:, :2])
    assert torch.equal(q_z.base_dist.scale, torch.full((2, 1), 1e-4))


def likelihood(name: str, numbers: int, **options: float) -> nn.Module:
    return getattr(likelihoods, name)(networks.MLP(2, (), (numbers, 2)), **options)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: priors.Uniform(2, 1.0, 1.0), "low, high: got 1.0 and 1.0"),
        (lambda: priors.Uniform(2, math.nan, 1.0), "low, high: got nan"),
        (lambda: priors.Uniform(2, -math.inf, 1.0), "low, high: got -inf"),
        (lambda: priors.Uniform(2, -3e38, 3e38), "low, high: got -3e[+]38"),
        (lambda: priors.Uniform(2, 1.0, 1 + 1e-9), "that differ in"),
        (lambda: priors.StudentT(2, 1e4), "df: got 10000.0"),
        (
            lambda: priors.VampPrior(POSTERIORS["Normal"](2), torch.rand(4, 5)),
            "that the posterior accepts",
        ),
        (lambda: priors.VampPrior(POSTERIORS["Normal"](2), torch.rand(4, 2, 3)), "one posterior"),
        (lambda: priors.StudentT(2, 0.0), "df: got 0.0"),
        (lambda: priors.GaussianMixture(2, 0), "components: got 0"),
        (lambda: priors.Flow(2, 0), "transforms: got 0"),
        (lambda: priors.Flow(2, hidden=(8, 0)), r"hidden: got \(8, 0\)"),
        (lambda: priors.Flow(2, hidden="ab"), "hidden: got 'ab'"),
        (lambda: posteriors.Flow(networks.MLP(3, (), 5), 2, hidden=-1), "hidden: got -1"),
        (lambda: likelihoods.Gaussian(networks.MLP(2, (), 3), scale=1e-60), "scale: got 1e-60"),
        (lambda: likelihoods.Gaussian(networks.MLP(2, (), 3), scale=torch.ones(3)), "scale: got"),
        (lambda: networks.MLP(2.5, (), 3), "in_shape: got 2.5"),
        (lambda: networks.Scaled(networks.MLP(2, (), 3), True), "factor: got True"),
        (
            lambda: priors.VampPrior(POSTERIORS["Flow"](2), torch.rand(2, 3)),
            "posterior: got a flow",
        ),
        (
            lambda: priors.VampPrior(posterior_for("Uniform", "Flow", 2), torch.rand(2, 3)),
            "posterior: got a flow",
        ),
        (lambda: priors.VampPrior(POSTERIORS["Normal"](2), torch.rand(3)), "got shape"),
        (
            lambda: priors.VampPrior(POSTERIORS["Normal"](2), 2 * torch.ones(2, 3)),
            r"values from 2 to 2, expected the range of x, from low=0 to high=1",
        ),
        (lambda: posteriors.LowRankNormal(networks.MLP(3, (), 8), 0), "rank: got 0"),
        (lambda: posteriors.Mixture(networks.MLP(3, (), 8), 0), "components: got 0"),
        (lambda: posteriors.Flow(networks.MLP(3, (), 4), 2), "a context for the flow"),
        (lambda: posteriors.Squashed(POSTERIORS["Normal"](2), 0, math.inf), "finite interval"),
        (lambda: likelihood("Categorical", 3, levels=4), r"out_shape \(3, 2\), expected \(4, "),
        (lambda: likelihood("DiscretizedLogistic", 2, levels=1), "levels: got 1"),
        (lambda: likelihood("DiscretizedLogistic", 2, components=2), r"expected \(6, "),
        (lambda: likelihood("Beta", 3), r"expected \(2, "),
        (lambda: likelihood("NegativeBinomial", 1), r"expected \(2, "),
        (lambda: likelihood("StudentT", 2, df=-1.0), "df: got -1.0"),
    ],
)
def test_wrong_parts_are_named(make: Callable[[], object], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        make()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: posteriors.Normal(None), "network: got None"),
        (lambda: posteriors.Squashed("x", 0.0, 1.0), "posterior: got a str"),
        (lambda: networks.Folded(None, 2, 3), "network: got None"),
        (lambda: priors.VampPrior(networks.MLP(3, (), 4), torch.rand(2, 3)), "gave a Tensor"),
    ],
)
def test_what_is_no_part_is_named(make: Callable[[], object], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        make()


def test_numbers_of_numpy_are_numbers() -> None:
    network = networks.MLP(np.int64(2), (np.int32(4),), (np.int64(3),))
    assert network.out_shape == (3,)
    assert likelihoods.Gaussian(network, scale=np.float32(0.5)).scale == 0.5
    two: Any = np.int64(2)
    bits = datasets.bits_per_dim(1.0, two, pixels="levels")
    assert bits == datasets.bits_per_dim(1.0, 2, pixels="levels")


@pytest.mark.parametrize(
    ("make", "numbers", "message"),
    [
        (posteriors.Normal, 3, "gave 3 numbers, expected 2"),
        (lambda network: posteriors.LowRankNormal(network, 2), 6, "gave 6 numbers, expected 4"),
        (posteriors.MultivariateNormal, 4, "gave 4 numbers, expected z_dim"),
        (lambda network: posteriors.Mixture(network, 2), 8, r"gave 8 numbers, expected 2 \* "),
        (lambda network: posteriors.Mixture(network, 2), 7, r"gave 7 numbers, expected 2 \* "),
    ],
)
def test_numbers_that_do_not_add_up_are_named(
    make: Callable[[nn.Module], nn.Module], numbers: int, message: str
) -> None:
    network = networks.MLP(3, (), numbers)
    with pytest.raises(ValueError, match=message):
        make(network)
    with pytest.raises(ValueError, match=r"got out_shape \(5, 4\), expected one dimension"):
        make(networks.MLP(3, (), (5, 4)))
    # A network that does not say is asked at its first call.
    silent = make(nn.Sequential(network))
    with pytest.raises(ValueError, match=message):
        silent(torch.rand(2, 3))


def test_wrong_shapes_and_scales_are_named() -> None:
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
            likelihoods.Gaussian(Given(3), scale=scale)
    with pytest.raises(ValueError, match=r"network: got out_shape \(3, 4\), expected \(2, "):
        likelihoods.Gaussian(Given(3, 4))
    with pytest.raises(TypeError, match="without an attribute out_shape"):
        likelihoods.Bernoulli(nn.Identity())
    with pytest.raises(ValueError, match="gave 3 numbers, expected 2"):
        posteriors.Normal(Given(3))(torch.zeros(4, 3))
