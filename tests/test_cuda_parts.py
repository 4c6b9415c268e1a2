"""Every part and estimator on a GPU: the values of a CPU, and the same ones again."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.optim.lr_scheduler import ExponentialLR

from pyro_vae import (
    VAE,
    datasets,
    elbo,
    fit,
    load,
    log_likelihood,
    objectives,
    optim,
    presets,
    save,
)
from pyro_vae.utils.random import seeded

from .swaps import LIKELIHOODS, PAIRS, data, vae_of
from .vaes import IMAGE_PRESETS, bernoulli_vae, binary, parameters

pytestmark = pytest.mark.cuda

DEVICE = "cuda"

PARTS = [
    *(("StandardNormal", "Normal", name) for name in LIKELIHOODS),
    *((*pair, "Bernoulli") for pair in PAIRS),
]

ESTIMATES: dict[str, Callable[..., Any]] = {
    "importance": partial(log_likelihood, num_samples=1000),
    "ais": partial(log_likelihood, num_samples=20, estimator="ais:50:3"),
    "prior": partial(log_likelihood, num_samples=1000, estimator="prior"),
    "elbo": partial(elbo, num_samples=1000),
}


@pytest.fixture(autouse=True)
def seeds() -> Iterator[None]:
    with seeded(0, device=DEVICE):
        yield


@pytest.mark.parametrize(("prior", "posterior", "likelihood"), PARTS)
def test_densities_are_those_of_a_cpu(prior: str, posterior: str, likelihood: str) -> None:
    """log p(z), log p(x|z) and log q(z|x) of the same z, in float64."""
    host, x = vae_of(prior, posterior, likelihood).double().eval(), data(likelihood, 5).double()
    device = copy.deepcopy(host).to(DEVICE)
    with torch.no_grad():
        z = host.posterior(x).sample((7,))
        for vae in (host, device):
            vae.requires_grad_(False)
        values = [
            [
                (part(*given) if given else part()).log_prob(value).cpu()
                for part, given, value in (
                    (vae.prior, (), z.to(at)),
                    (vae.likelihood, (z.to(at),), x.to(at)),
                    (vae.posterior, (x.to(at),), z.to(at)),
                )
            ]
            for vae, at in ((host, "cpu"), (device, DEVICE))
        ]
    torch.testing.assert_close(values[1], values[0], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("prior", "posterior", "likelihood"), PARTS)
def test_parts_train_and_are_evaluated(
    prior: str, posterior: str, likelihood: str, tmp_path: Path
) -> None:
    vae, x = vae_of(prior, posterior, likelihood).to(DEVICE), data(likelihood, 64)
    history = fit(vae, x, test=x, epochs=2, batch_size=16)
    assert len(history.test_cost) == 2
    z, drawn = vae.embed(x), vae.generate(5, sample=True)
    for value in (z, drawn, vae.decode(z), vae.reconstruct(x)):
        assert value.device.type == DEVICE
        assert value.isfinite().all()
    result = log_likelihood(vae, x, 200, seed=0)
    assert result.values.device.type == DEVICE
    # The noise of a GPU is another, so the two differ by their errors.
    save(vae, tmp_path)
    host = load(tmp_path, into=vae_of(prior, posterior, likelihood))
    assert torch.equal(parameters(host), parameters(vae).cpu())
    other = log_likelihood(host, x, 200, seed=0)
    error = (result.mc_error**2 + other.mc_error**2) ** 0.5
    # A k-hat near one makes the errors themselves uncertain.
    assert abs(result.mean - other.mean) < 6 * error + abs(result.bias) + abs(other.bias)


@pytest.mark.parametrize("name", ESTIMATES)
def test_estimates_do_not_depend_on_memory(name: str) -> None:
    vae, x = bernoulli_vae().to(DEVICE), binary(100)
    first, *others = (
        ESTIMATES[name](vae, x, seed=0, max_bytes=most).values for most in ("auto", 2**22, 2**26)
    )
    for other in others:
        torch.testing.assert_close(other, first, rtol=1e-5, atol=0.0)


def runs() -> dict[str, Callable[[], dict[str, Any]]]:
    """Settings of `fit` by name, made anew for each run."""
    return {
        "uncompiled": lambda: {"compile": False},
        "compiled": lambda: {"compile": True},
        "bf16": lambda: {"compile": True, "precision": "bf16"},
        "clipped, with a schedule": lambda: {
            "compile": True,
            "optim": optim.Adam(1e-2, clip_norm=1.0, schedule=lambda o: ExponentialLR(o, 0.99)),
        },
        "SGD": lambda: {
            "compile": True,
            "optim": optim.from_torch(torch.optim.SGD, lr=1e-4, momentum=0.9),
        },
        "iwae": lambda: {"compile": True, "objective": objectives.iwae(5)},
    }


def levels(examples: int = 200) -> Tensor:
    return torch.randint(256, (examples, 28, 28), dtype=torch.uint8)


@pytest.mark.parametrize("name", runs())
def test_a_seed_gives_the_same_bits(name: str) -> None:
    x, start = levels(), presets.build("bernoulli-mlp", shape=(28, 28)).to(DEVICE)
    weights = []
    for _ in range(2):
        vae = copy.deepcopy(start)
        fit(vae, x, epochs=4, batch_size=64, pixels="binary", **runs()[name]())
        weights.append(parameters(vae))
    assert torch.equal(*weights)


@contextmanager
def products(precision: str) -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def test_tf32_is_the_users_setting() -> None:
    """It is read at each call, also by code that is compiled already."""
    x, vae = (levels(128) > 127).float(), presets.build("pyro-mlp", shape=(28, 28)).to(DEVICE)
    values = {}
    for precision in ("highest", "high", "highest"):
        with products(precision):
            values[precision] = log_likelihood(vae, x, 200, seed=0).values
            fit(copy.deepcopy(vae), x, epochs=2, batch_size=32, compile=True)
            assert torch.get_float32_matmul_precision() == precision
    # TF32 has 10 bits of a significand, and a logit is a sum of a few hundred products.
    torch.testing.assert_close(values["high"], values["highest"], rtol=1e-3, atol=0.0)


@pytest.mark.parametrize("name", IMAGE_PRESETS)
def test_presets_train_and_move(name: str, tmp_path: Path) -> None:
    pixels: datasets.Pixels = "dequantized" if name.startswith("gaussian") else "binary"
    vae = presets.build(name, shape=(28, 28), pixels=pixels).to(DEVICE)
    labels = (torch.randint(10, (64,)),) if name.startswith("conditional") else ()
    fit(vae, (levels(64), *labels), epochs=2, batch_size=32, pixels=pixels)
    save(vae, tmp_path)
    host = load(tmp_path)
    assert isinstance(host, VAE)
    assert next(host.parameters()).device.type == "cpu"
    assert torch.equal(parameters(host), parameters(vae).cpu())
