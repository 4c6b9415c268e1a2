"""What a model and a guide owe to each example, and the errors that name the site."""

import math
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import Tensor

from pyro_vae import (
    Pair,
    fit,
    likelihoods,
    log_likelihood,
    models,
    networks,
    posteriors,
    priors,
)

from ..pairs import fine, guide


def outside(x: Tensor) -> None:
    pyro.sample("w", dist.Normal(0.0, 1.0))
    fine(x)


def observed_outside(x: Tensor) -> None:
    pyro.sample("total", dist.Normal(0.0, 1.0), obs=x.sum())
    fine(x)


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


def on_a_box(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Uniform(0.0, 1.0))
        pyro.sample("x", dist.Normal(z[..., None], 1.0).to_event(1), obs=x)


def without_event(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z[..., None, None], 1.0), obs=x[:, None])


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
        (fixed, ValueError, r'plate "data": got size 20 for x of length 1, expected .*len\(x\)'),
        (subsampled, ValueError, r'site "z" has a log-probability scaled by 20'),
        (looped, ValueError, r"in a loop over a plate, expected .with pyro"),
        (other_latents, ValueError, r'site "more": latent in the model, and not in the guide'),
        (none_observed, ValueError, r'site "z": latent in the guide, and not in the model'),
        (by_number, ValueError, r"got the sites 'x', 'y', 'z', expected .* first call, 'x', 'z'"),
        (off_support, ValueError, r"x: .*expected"),
        (no_number, FloatingPointError, r'site "x": a log-probability is NaN'),
        (narrow, ValueError, r"one example, but fail on two samples of two examples"),
        (without_event, ValueError, r"(?i)shape mismatch inside plate|outside of all plates"),
        (
            poutine.scale(fine, scale=2.0),
            ValueError,
            r'the latent site "z" has a log-probability scaled by 2.0, expected no poutine.scale',
        ),
        (masked_by_all, ValueError, r"two samples .*masks and other tensors .* from x"),
        (
            masked_nan,
            ValueError,
            r"fail on the first example alone (?s:.)*nan(?s:.)*unobserved entries of x",
        ),
        (beside_others, ValueError, r"example 0 is .* not depend on other examples"),
        (by_place, ValueError, r"log p\(x, z\) of example 1 is .* or on the index"),
        (half_masked, ValueError, r"fail on the first examples (?s:.)*size of tensor"),
        (unseen, ValueError, r"model: has no observed site, expected pyro.sample\(..., obs=x\)"),
    ],
)
def test_what_has_no_weight_for_each_example_is_refused(
    model: Callable[[Tensor], Any], error: type[Exception], message: str
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


def test_what_a_part_or_a_label_says_is_the_message_and_shapes_have_no_parameters() -> None:
    """Of a label out of range its own error, of a user's site what failed, without weights."""
    scores = networks.MLP(3, (), 2)
    given = networks.Conditioned(networks.MLP(2 + 2, (), 3), (), classes=2)
    vae = models.SemiSupervisedVAE(
        priors.StandardNormal(2),
        likelihoods.Bernoulli(given),
        posteriors.Normal(networks.MLP(3, (), 4)),
        models.Classifier(scores),
        classes=2,
    )
    x = torch.bernoulli(torch.full((6, 3), 0.5))
    message = r"^(train: )?labels: got values from 0 to 5, expected -1 \(missing\) to 1$"
    for run in (
        lambda y: fit(vae, (x, y), epochs=1, batch_size=2, compile=False),
        lambda y: log_likelihood(vae, (x, y), num_samples=2),
    ):
        for place in (0, 5):
            y = torch.zeros(6, dtype=torch.long)
            y[place] = 5
            with pytest.raises(ValueError, match=message.replace("0 to 5", "[05] to 5")):
                run(y)

    def model(x: Tensor) -> None:
        pyro.param("a_weight", torch.ones(3))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z.reshape(4), 1.0), obs=x[:, 0])

    with pytest.raises(ValueError, match="fail on the first example alone") as caught:
        log_likelihood(Pair(model, guide), torch.zeros(4, 2), num_samples=2)
    assert "z dist" in str(caught.value)
    assert "a_weight" not in str(caught.value)


def test_a_later_example_with_what_is_not_seen_is_explained() -> None:
    x = torch.tensor([[1.0], [-1.0], [1.0]])
    with pytest.raises(ValueError, match=r"fail on the first examples (?s:.)*nan(?s:.)*masked"):
        log_likelihood(x=x, num_samples=100, model=masked_nan, guide=guide, seed=0)


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
