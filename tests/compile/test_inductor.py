"""What Inductor makes of a graph: digits, and a machine without a compiler."""

import math
import os
import subprocess
import sys

import pyro
import pyro.distributions as dist
import pyro.optim
import pytest
import torch
import torch.nn.functional as F
from pyro.infer import Trace_ELBO
from torch import Tensor

from pyro_vae import objectives
from pyro_vae.compile import NotCompiled, compiled_function
from pyro_vae.objectives import Compiled

from ..compiling import nothing
from ..conftest import needs_compiler
from ..tolerances import rounding
from ..vaes import binary


@pytest.mark.slow
@pytest.mark.parametrize("name", ["log1p", "softplus"])
def test_compiled_logarithms_keep_their_last_digits(name: str) -> None:
    """By one logarithm of 1 + x, whose rounding is put back, or by a series; to infinity."""
    function = {"log1p": torch.log1p, "softplus": torch.nn.functional.softplus}[name]
    x = torch.logspace(-30, 30, 6001)
    edges = torch.tensor([0.0, math.inf, -0.5, -1 + 2**-24, 2**-24, 1e-7])
    x = torch.cat((x, edges)) if name == "log1p" else torch.cat((x, -x.sqrt(), edges))
    value = compiled_function(function, [x])(x)
    expected = function(x.double())
    torch.testing.assert_close(value.double(), expected, rtol=rounding(8), atol=1e-44)
    assert compiled_function(function, [x])(torch.full_like(x, math.nan)).isnan().all()
    if name == "log1p":
        assert compiled_function(function, [x])(torch.full_like(x, -1.0)).eq(-math.inf).all()
    else:
        great = torch.tensor([3e38, -3e38, math.inf])  # twice which is more than float32 has
        twice = compiled_function(lambda x: function(x, 2), [great])(great)
        assert twice.tolist() == function(great, 2).tolist()
        small = torch.linspace(-3, 3, 61)  # above a low threshold it is x itself
        value = compiled_function(lambda x: function(x, 2, 1), [small])(small)
        torch.testing.assert_close(value, function(small, 2, 1))


def everything_random(x: Tensor) -> list[Tensor]:
    """A draw of each kind that Inductor compiles."""
    p, empty = x.sigmoid(), torch.empty_like
    return [
        torch.bernoulli(p),
        torch.bernoulli(torch.full_like(x, 0.5)),
        torch.bernoulli(x, 0.3),
        empty(x).bernoulli_(0.3),
        empty(x).bernoulli_(p),
        torch.rand(x.shape),
        torch.rand_like(x),
        torch.randn(3),
        torch.randn_like(x),
        torch.normal(x, 1.0),
        torch.normal(x, p),
        torch.normal(0.0, 1.0, x.shape),
        torch.randint(2, 7, x.shape),
        torch.randint_like(x, 7),
        torch.randperm(6),
        torch.multinomial(p, 4, replacement=True),
        torch.multinomial(p, 2),
        torch.poisson(x.exp()),
        empty(x).uniform_(-1, 1),
        empty(x).normal_(),
        empty(x).exponential_(2.0),
        empty(x).cauchy_(),
        empty(x).geometric_(0.3),
        empty(x).log_normal_(),
        F.dropout(x, 0.3, training=True),
        F.alpha_dropout(x, 0.3, training=True),
        F.rrelu(x, training=True),
        F.gumbel_softmax(x, hard=True),
        dist.Bernoulli(logits=x).sample(),
        dist.Categorical(logits=x).sample(),
        dist.Geometric(p).sample(),
        dist.Poisson(x.exp()).sample(),
        dist.RelaxedBernoulli(torch.tensor(0.5), logits=x).rsample(),
    ]


@needs_compiler
def test_compiled_code_has_every_draw_of_torch() -> None:
    """Not only the same distribution, so that a seed gives the same steps both ways."""

    def draws(x: Tensor, wide: Tensor) -> list[Tensor]:
        return [*everything_random(x), *everything_random(wide)]

    x = torch.linspace(-2, 2, 30).view(5, 6)
    wide = x.double()
    run = compiled_function(draws, [x, wide])
    for seed in range(2):
        torch.manual_seed(seed)
        expected, state = draws(x, wide), torch.get_rng_state()
        torch.manual_seed(seed)
        found = run(x, wide)
        torch.testing.assert_close(list(found), expected)
        assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.slow
def test_without_a_compiler_there_is_one_warning() -> None:
    code = """
import warnings, torch
from pyro.infer import SVI
from pyro_vae import objectives, optim, presets
vae = presets.build("pyro-mlp", z_dim=2, shape=6)
objective = objectives.compiled(objectives.trace_elbo())
svi = SVI(vae.model, vae.guide, optim.Adam(), objective)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    losses = [svi.step(torch.ones(4, 6)) for _ in range(3)]
print([str(w.message) for w in caught if "C++" in str(w.message)], len(losses))
print(objective.compile_seconds)
"""
    run = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"CXX": "no-such-compiler"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.count("found no C++ compiler") == 1
    assert run.stdout.endswith("] 3\n0.0\n")


@torch.library.custom_op("pyro_vae_tests::without_a_shape", mutates_args=())
def without_a_shape(x: Tensor) -> Tensor:
    """An operation of which torch does not know what shape it gives."""
    return x.clone()


def test_what_torch_cannot_compile_is_said() -> None:
    def model(x: Tensor) -> None:
        loc = without_a_shape(x)
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)

    x = binary()
    with pytest.raises(NotCompiled, match="torch cannot compile this program"):
        objectives.compiled(Trace_ELBO()).loss(model, nothing, x)
    lenient = Compiled(Trace_ELBO(), strict=False)
    with pytest.warns(UserWarning, match="runs uncompiled"):
        assert lenient.loss(model, nothing, x) > 0
