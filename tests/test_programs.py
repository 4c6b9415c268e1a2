"""Model and guide pairs: log-likelihood by effect handlers, and what is refused by name."""

import math
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import Tensor, nn
from torch.distributions import MultivariateNormal

from pyro_vae import log_likelihood
from pyro_vae.evaluation.estimators.base import AIS

from .models import bernoulli_vae, linear_gaussian

WEIGHT = torch.tensor([[1.0, -0.5], [0.3, 0.8], [-0.7, 0.2]]).double()
Program = Callable[[Tensor], Any]


def two_layers(x: Tensor) -> None:
    """z2 ~ N(0, 1), z1 | z2 ~ N(z2, 1) twice, x | z1 ~ N(W z1, 1/4)."""
    with pyro.plate("data", len(x)):
        zero = torch.zeros(2).double()
        z2 = pyro.sample("z2", dist.Normal(zero, 1.0).to_event(1))
        z1 = pyro.sample("z1", dist.Normal(z2, 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z1 @ WEIGHT.T, 0.5).to_event(1), obs=x)


def two_layers_guide(x: Tensor) -> None:
    """Draws the layers from the data up, the other way round."""
    with pyro.plate("data", len(x)):
        z1 = pyro.sample("z1", dist.Normal(0.8 * x @ WEIGHT, 0.8).to_event(1))
        pyro.sample("z2", dist.Normal(0.5 * z1, 0.9).to_event(1))


def two_layers_evidence() -> MultivariateNormal:
    covariance = 2 * WEIGHT @ WEIGHT.T + 0.25 * torch.eye(3).double()
    return MultivariateNormal(torch.zeros(3).double(), covariance)


@pytest.mark.parametrize(
    ("estimator", "num_samples"),
    [("importance", 4000), ("prior", 4000), (AIS(30, 5), 32)],
)
def test_two_layers_have_their_evidence(estimator: Any, num_samples: int) -> None:
    evidence = two_layers_evidence()
    x = evidence.sample((70,))
    result = log_likelihood(
        x=x, num_samples=num_samples, model=two_layers, guide=two_layers_guide,
        estimator=estimator, seed=0,
    )  # fmt: skip
    exact = evidence.log_prob(x)
    assert result.values.shape == (70,)
    # The bias of each value is about half its variance.
    bias = 70 * result.mc_error**2 / 2
    assert abs(result.mean + bias - exact.mean().item()) < 4 * result.mc_error


@pytest.mark.parametrize("estimator", ["importance", "prior", AIS(2, 1)])
def test_two_layers_do_not_depend_on_memory(estimator: Any) -> None:
    x = two_layers_evidence().sample((66,))
    wide, narrow = (
        log_likelihood(
            x=x, num_samples=5, model=two_layers, guide=two_layers_guide,
            estimator=estimator, seed=0, max_bytes=max_bytes,
        )
        for max_bytes in (2**28, 2**16)
    )  # fmt: skip
    torch.testing.assert_close(narrow.values, wide.values, rtol=1e-9, atol=0)


def pixels(mask: bool) -> Program:
    """x of independent pixels in a plate of its own, left of which is the data plate."""

    def model(x: Tensor) -> None:
        seen = ~x.isnan()
        with pyro.plate("data", len(x), dim=-2):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 1).double(), 1.0))
            with pyro.plate("pixels", 3, dim=-1):
                handler = poutine.mask(mask=seen) if mask else poutine.mask(mask=True)
                with handler:
                    loc = z * torch.tensor([1.0, -2.0, 0.5]).double()
                    pyro.sample("x", dist.Normal(loc, 1.0), obs=x.nan_to_num(-7.0))

    return model


def pixels_guide(x: Tensor) -> None:
    with pyro.plate("data", len(x), dim=-2):
        pyro.sample("z", dist.Normal(0.1 * x.nan_to_num().sum(1, keepdim=True), 0.9))


def test_masked_pixels_drop_out() -> None:
    """log p of what is seen alone, whatever stands where nothing was."""
    weight = torch.tensor([1.0, -2.0, 0.5]).double()
    covariance = torch.outer(weight, weight) + torch.eye(3).double()
    x = MultivariateNormal(torch.zeros(3).double(), covariance).sample((66,))
    x[::2, 1] = math.nan
    x[::3, 0] = math.nan
    exact = []
    for row in x:
        seen = ~row.isnan()
        part = covariance[seen][:, seen]
        exact.append(MultivariateNormal(torch.zeros(len(part)).double(), part).log_prob(row[seen]))
    result = log_likelihood(
        x=x, num_samples=3000, model=pixels(mask=True), guide=pixels_guide, seed=1
    )
    error = (1 / result.ess - 1 / 3000).sqrt()
    assert ((result.values - torch.stack(exact)).abs() < 5 * error + 1e-9).all()


def test_a_plate_around_the_examples() -> None:
    """Two views of each example, each with a latent of its own, in a plate left of the data's."""

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1):
            common = pyro.sample("common", dist.Normal(torch.zeros(len(x)).double(), 1.0))
            with pyro.plate("views", 2, dim=-2):
                own = pyro.sample("own", dist.Normal(common, 0.5))
                pyro.sample("x", dist.Normal(own, 0.5), obs=x.T)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1):
            common = pyro.sample("common", dist.Normal(0.4 * x.sum(1), 0.6))
            with pyro.plate("views", 2, dim=-2):
                pyro.sample("own", dist.Normal(0.5 * (common + x.T), 0.5))

    covariance = torch.ones(2, 2).double() + 0.5 * torch.eye(2).double()
    evidence = MultivariateNormal(torch.zeros(2).double(), covariance)
    x = evidence.sample((70,))
    wide, narrow = (
        log_likelihood(x=x, num_samples=300, model=model, guide=guide, seed=0, max_bytes=max_bytes)
        for max_bytes in (2**28, 2**14)
    )
    error = (1 / wide.ess - 1 / 300).sqrt()
    assert ((wide.values - evidence.log_prob(x)).abs() < 5 * error).all()
    torch.testing.assert_close(narrow.values, wide.values, rtol=1e-9, atol=0)


def test_a_vae_is_its_model_and_guide() -> None:
    vae, x = bernoulli_vae(), torch.bernoulli(torch.full((70, 6), 0.4))
    whole = log_likelihood(vae, x, 100, seed=2)
    pair = log_likelihood(x=x, num_samples=100, model=vae.model, guide=vae.guide, seed=2)
    assert torch.equal(whole.values, pair.values)
    assert whole.data_hash == pair.data_hash


def test_modules_of_a_pair_are_in_eval_mode() -> None:
    vae, x = bernoulli_vae(), torch.bernoulli(torch.full((9, 6), 0.4))
    vae.likelihood.network.layers.append(nn.Dropout(0.9))
    whole = log_likelihood(vae, x, 10, seed=2)
    masked = poutine.mask(vae.model, mask=torch.tensor(True))
    pair = log_likelihood(x=x, num_samples=10, model=masked, guide=vae.guide, seed=2)
    assert torch.equal(whole.values, pair.values)
    assert vae.training


def test_discrete_latents_are_weighed_too() -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Bernoulli(torch.tensor(0.3)))
            pyro.sample("x", dist.Normal(2 * z[..., None], 1.0).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Bernoulli(x[:, 0].sigmoid()))

    x = torch.randn(10, 1)
    exact = torch.logaddexp(
        math.log(0.7) + dist.Normal(0.0, 1.0).log_prob(x[:, 0]),
        math.log(0.3) + dist.Normal(2.0, 1.0).log_prob(x[:, 0]),
    )
    result = log_likelihood(x=x, num_samples=5000, model=model, guide=guide, seed=0)
    error = (1 / result.ess - 1 / 5000).sqrt()
    assert ((result.values - exact).abs() < 5 * error + 1e-5).all()
    with pytest.raises(ValueError, match=r'site "z": a latent on \w+ is discrete'):
        log_likelihood(x=x, num_samples=2, model=model, guide=guide, estimator="ais")


def outside(x: Tensor) -> None:
    pyro.sample("w", dist.Normal(0.0, 1.0))
    fine(x)


def observed_outside(x: Tensor) -> None:
    pyro.sample("total", dist.Normal(0.0, 1.0), obs=x.sum())
    fine(x)


def fine(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z[..., None], 1.0).to_event(1), obs=x)


def fixed(x: Tensor) -> None:
    with pyro.plate("data", 20):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z[..., None], 1.0).to_event(1), obs=x)


def subsampled(x: Tensor) -> None:
    with pyro.plate("data", 20, subsample_size=len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z[..., None], 1.0).to_event(1), obs=x)


def looped(x: Tensor) -> None:
    for i in pyro.plate("data", len(x)):
        z = pyro.sample(f"z{i}", dist.Normal(0.0, 1.0))
        pyro.sample(f"x{i}", dist.Normal(z, 1.0).expand([1]).to_event(1), obs=x[i])


def other_latents(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("more", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z[..., None], 1.0).to_event(1), obs=x)


def none_observed(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(0.0, 1.0).expand([1]).to_event(1), obs=x)


def by_number(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z[..., None], 1.0).to_event(1), obs=x)
        if len(x) > 1:
            pyro.sample("y", dist.Normal(0.0, 1.0), obs=x[:, 0])


def off_support(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        rate = z.exp()[..., None]
        pyro.sample("x", dist.Exponential(rate, validate_args=False).to_event(1), obs=x)


def no_number(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        scale = torch.where(z > 1, math.nan, 1.0)[..., None]
        pyro.sample("x", dist.Normal(0.0, scale, validate_args=False).to_event(1), obs=x)


def narrow(x: Tensor) -> None:
    """Takes no dimension to the left of the examples."""
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
        loc = z.reshape(len(x), 1)
        pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)


def guide(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(0.5 * x[:, 0], 0.8))


def on_a_box(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Uniform(0.0, 1.0))
        pyro.sample("x", dist.Normal(z[..., None], 1.0).to_event(1), obs=x)


def without_event(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z[..., None, None], 1.0), obs=x[:, None])


def test_guides_that_are_no_density_on_the_models_set() -> None:
    x = torch.zeros(5, 1)

    def pointwise(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Delta(x[:, 0]))

    def narrower(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Uniform(0.0, 0.5))

    for other, model, message in (
        (pointwise, fine, 'site "z": the guide has Delta, expected a density'),
        (narrower, on_a_box, r"the guide's support is Interval\(0, 0.5\), expected .*\(0, 1\)"),
        (guide, on_a_box, r"the guide's support is Real, expected the model's, Interval"),
    ):
        with pytest.raises(ValueError, match=message):
            log_likelihood(x=x, num_samples=5, model=model, guide=other, seed=0)


def test_factors_under_a_mask() -> None:
    """A factor adds to log p(x) of the examples that are not masked."""
    x = torch.randn(10, 1)

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z[..., None], 1.0).to_event(1), obs=x)
            with poutine.mask(mask=x[:, 0] > 0):
                pyro.factor("more", torch.full(z.shape, 2.0))

    plain = log_likelihood(x=x, num_samples=50, model=fine, guide=guide, seed=0)
    result = log_likelihood(x=x, num_samples=50, model=model, guide=guide, seed=0)
    more = 2.0 * (x[:, 0] > 0)
    torch.testing.assert_close(result.values, plain.values + more.double())


def test_annealing_of_mixtures_and_what_it_cannot_do() -> None:
    def mixed(x: Tensor) -> None:
        parts = dist.Normal(torch.tensor([-1.0, 1.0]), 0.5)
        with pyro.plate("data", len(x)):
            prior = dist.MixtureSameFamily(dist.Categorical(torch.ones(2)), parts)
            z = pyro.sample("z", prior)
            pyro.sample("x", dist.Normal(z[..., None], 1.0).to_event(1), obs=x)

    x = torch.randn(10, 1)
    exact = torch.stack(
        [dist.Normal(m, math.sqrt(1.25)).log_prob(x[:, 0]) for m in (-1.0, 1.0)]
    ).logsumexp(0) - math.log(2)
    result = log_likelihood(
        x=x, num_samples=64, model=mixed, guide=guide, estimator=AIS(30, 4), seed=0
    )
    error = result.mc_error
    assert abs(result.mean + 5 * error**2 - exact.mean().item()) < 5 * error

    def circular(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.VonMises(torch.tensor(0.0), torch.tensor(1.0)))
            pyro.sample("x", dist.Normal(z[..., None], 1.0).to_event(1), obs=x)

    with pytest.raises(ValueError, match='site "z": a latent on a circle'):
        log_likelihood(x=x, num_samples=2, model=circular, guide=guide, estimator="ais")


def masked_by_all(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        with poutine.mask(mask=torch.ones(20, dtype=torch.bool)):
            pyro.sample("x", dist.Normal(z[..., None], 1.0).to_event(1), obs=x)


def masked_nan(x: Tensor) -> None:
    x = x.where(x > 0, math.nan)
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pixels = dist.Normal(z[..., None], 1.0).mask(~x.isnan()).to_event(1)
        pyro.sample("x", pixels, obs=x)


def beside_others(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        loc = z[..., None] + len(x) * x.mean(0)
        pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)


def by_place(x: Tensor) -> None:
    with pyro.plate("data", len(x)) as place:
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        loc = z[..., None] + place[:, None]
        pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)


def half_masked(x: Tensor) -> None:
    """Its mask fits two examples, and no other number of them."""
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        with poutine.mask(mask=torch.tensor([True, False])):
            pyro.sample("x", dist.Normal(z[..., None], 1.0).to_event(1), obs=x)


def unseen(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(0.0, 1.0))


@pytest.mark.parametrize(
    ("model", "error", "message"),
    [
        (outside, ValueError, r'the latent site "w" is outside of the plate "data"'),
        (observed_outside, ValueError, r'the observed site "total" is outside of the plate'),
        (fixed, ValueError, r'plate "data": has 20 examples for 1 of x, expected .*len\(x\)'),
        (subsampled, ValueError, r'site "z" has a log-probability scaled by 20'),
        (looped, ValueError, r"in a loop over a plate, expected .with pyro"),
        (other_latents, ValueError, r'site "more": latent in the model, and not in the guide'),
        (none_observed, ValueError, r'site "z": latent in the guide, and not in the model'),
        (by_number, ValueError, r"has the sites 'x', 'y', 'z', and had 'x', 'z' at its first"),
        (off_support, ValueError, r"x: .*expected"),
        (no_number, FloatingPointError, r'site "x": a log-probability is NaN'),
        (narrow, ValueError, r"one example alone, but not two with two samples"),
        (without_event, ValueError, r"(?i)shape mismatch inside plate|outside of all plates"),
        (
            poutine.scale(fine, scale=2.0),
            ValueError,
            r'the latent site "z" has a log-probability scaled by 2.0, expected no poutine.scale',
        ),
        (masked_by_all, ValueError, r"not two with two samples .*masks and all else .*come from"),
        (
            masked_nan,
            ValueError,
            r"fail on the first example alone (?s:.)*nan(?s:.)*what is not seen is ma",
        ),
        (beside_others, ValueError, r"log p\(x, z\) of example 0 is .*each example by itself"),
        (by_place, ValueError, r"log p\(x, z\) of example 1 is .* wherever it stands"),
        (half_masked, ValueError, r"of example . is .* in a batch of two"),
        (unseen, ValueError, r"model: has no observed site, expected pyro.sample\(..., obs=x\)"),
    ],
)
def test_what_has_no_weight_for_each_example_is_refused(
    model: Program, error: type[Exception], message: str
) -> None:
    x = torch.full((20, 1), -1.0)
    state = torch.get_rng_state()
    with pytest.raises(error, match=message):
        log_likelihood(x=x, num_samples=100, model=model, guide=guide, seed=0)
    assert torch.equal(torch.get_rng_state(), state)
    log_likelihood(x=x, num_samples=100, model=fine, guide=guide, seed=0)


@pytest.mark.parametrize("max_bytes", [1, 2**28])
def test_an_example_far_back_is_on_its_support(max_bytes: int) -> None:
    x = torch.ones(150, 1)
    x[149] = -1.0
    log_likelihood(x=x[:149], num_samples=3, model=off_support, guide=guide, max_bytes=max_bytes)
    with pytest.raises(ValueError, match=r"x: got -1 at 1 of .* places"):
        log_likelihood(x=x, num_samples=3, model=off_support, guide=guide, max_bytes=max_bytes)


def test_a_later_example_with_what_is_not_seen_is_explained() -> None:
    x = torch.tensor([[1.0], [-1.0], [1.0]])
    with pytest.raises(
        ValueError, match=r"fail on the first two examples (?s:.)*nan(?s:.)*masked"
    ):
        log_likelihood(x=x, num_samples=100, model=masked_nan, guide=guide, seed=0)


def test_guides_that_only_score_what_they_draw() -> None:
    """A planar flow has no inverse, tanh loses digits far out: drawn ones have their density."""
    x = torch.randn(3, 1)
    planar = dist.transforms.planar(2)

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
            pyro.sample("x", dist.Normal(z[..., :1], 1.0).to_event(1), obs=x)

    def flow(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            base = dist.Normal(torch.zeros(2), 1.0).to_event(1).expand([len(x)])
            pyro.sample("z", dist.TransformedDistribution(base, [planar]))

    result = log_likelihood(x=x, num_samples=2000, model=model, guide=flow, seed=0)
    exact = dist.Normal(0.0, math.sqrt(2)).log_prob(x).mean().item()
    assert abs(result.jackknife.mean().item() - exact) < 5 * result.mc_error + 0.01

    def box(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Uniform(-1.0, 1.0))
            pyro.sample("x", dist.Normal(z[..., None], 1.0).to_event(1), obs=x)

    def edge(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            tanh = dist.transforms.TanhTransform(cache_size=1)
            base = dist.Normal(9.0, 0.01).expand([len(x)])
            pyro.sample("z", dist.TransformedDistribution(base, [tanh]))

    assert (
        log_likelihood(x=x, num_samples=5, model=box, guide=edge, seed=0).values.isfinite().all()
    )


def test_a_point_mass_after_a_network_in_both() -> None:
    """Computed for one example or two it may differ in its last digit, which is no dependence."""
    layer, x = nn.Linear(7, 5), torch.randn(3, 1)

    def both(x: Tensor, observed: bool) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0).expand([7]).to_event(1))
            w = pyro.sample("w", dist.Delta(layer(z)).to_event(1))
            if observed:
                pyro.sample("x", dist.Normal(w[..., :1], 1.0).to_event(1), obs=x)

    result = log_likelihood(
        x=x, num_samples=9, model=lambda x: both(x, True), guide=lambda x: both(x, False), seed=0
    )
    assert result.values.isfinite().all()


def test_a_pair_or_a_vae() -> None:
    vae, x = bernoulli_vae(), torch.zeros(2, 6)
    for arguments in ({}, {"vae": vae, "model": vae.model, "guide": vae.guide}, {"guide": guide}):
        with pytest.raises(TypeError, match=r"vae, model, guide: got .*expected a vae, or a mo"):
            log_likelihood(x=x, **arguments)
    with pytest.raises(TypeError, match=r"x: got NoneType, expected a torch\.Tensor"):
        log_likelihood(vae)
    with pytest.raises(ValueError, match=r'estimator: got "exact" for a pair'):
        log_likelihood(x=x, model=vae.model, guide=vae.guide, estimator="exact")
    for text in ("best", "ais:3:2:1", "ais:x", "prior:3", "exact:1"):
        with pytest.raises(ValueError, match=f"estimator: got '{text}', expected one of importan"):
            log_likelihood(vae, x, estimator=text)
    with pytest.raises(ValueError, match="leapfrog_steps: got 0, expected a positive integer"):
        log_likelihood(vae, x, estimator="ais:3:0")


def test_the_linear_gaussian_pair_in_float64() -> None:
    case = linear_gaussian(exact=False)
    exact = case.evidence.log_prob(case.x)
    torch.testing.assert_close(
        log_likelihood(case.vae, case.x, estimator="exact").values, exact, rtol=1e-10, atol=0
    )
