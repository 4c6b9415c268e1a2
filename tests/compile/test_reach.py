"""What a program reads in roundabout ways: attributes of tensors, caches, operators, libraries."""

import functools
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyro
import pytest
import torch
from pyro.distributions import transforms
from pyro.infer import Trace_ELBO
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from pyro_vae import VAE, likelihoods, log_likelihood, networks, objectives, posteriors, priors
from pyro_vae.compile import NotStatic, inductor
from pyro_vae.objectives import Compiled

from ..compiling import graphs
from ..tolerances import CLOSE
from .test_static import Encoder, case, losses, vae_of

pytestmark = pytest.mark.usefixtures("float64")

HALF = {"gain": 1.0}


@functools.lru_cache
def cached(name: str) -> float:
    return HALF[name]


def empty_the_cache(_: Any) -> None:
    HALF["gain"] = 0.5
    cached.cache_clear()


def with_a_cache() -> tuple[Encoder, Callable[[Any], object]]:
    HALF["gain"] = 1.0
    cached.cache_clear()
    cached("gain")  # Its body does not run again.
    return Encoder(None, lambda e: cached("gain")), empty_the_cache


def by_kind() -> tuple[Encoder, Callable[[Any], object]]:
    @functools.singledispatch
    def gain(value: object) -> float:
        return 1.0

    return Encoder(2.0, lambda e: gain(e.has)), lambda e: gain.register(float, lambda value: 0.5)


class Item:
    def __getitem__(self, name: str) -> float:
        return 1.0


def with_an_operator() -> tuple[Encoder, Callable[[Any], object]]:
    setattr(Item, "__getitem__", lambda self, name: 1.0)  # noqa: B010
    return (
        Encoder(Item(), lambda e: e.has["gain"]),
        lambda e: setattr(Item, "__getitem__", lambda self, name: 0.5),
    )


class Meta(type):
    gain = 1.0


class Known(metaclass=Meta):
    pass


def with_a_metaclass() -> tuple[Encoder, Callable[[Any], object]]:
    Meta.gain = 1.0
    return Encoder(Known, lambda e: e.has.gain), lambda e: setattr(Meta, "gain", 0.5)


def with_a_class() -> tuple[Encoder, Callable[[Any], object]]:
    class Later(Encoder):
        pass

    class Other:
        pass

    encoder = Later(Other(), lambda e: getattr(e, "beta", 1.0) * getattr(e.has, "beta", 1.0))
    return encoder, lambda e: setattr(type(e), "beta", 0.5)


def with_a_class_of_a_part() -> tuple[Encoder, Callable[[Any], object]]:
    encoder, _ = with_a_class()
    return encoder, lambda e: setattr(type(e.has), "beta", 0.5)


def affine() -> Any:
    return transforms.AffineTransform(torch.tensor(1.0), torch.tensor(1.0))


def halve_the_scale(e: Any) -> None:
    e.has.scale = torch.tensor(0.5)


def gain_of(tensor: Tensor) -> float:
    return getattr(tensor, "gain", 1.0)


def with_gain(tensor: Tensor) -> Tensor:
    tensor.gain = 1.0
    return tensor


def resize(e: Any) -> None:
    e.has.data = torch.zeros(3)


READ: dict[str, Callable[[], tuple[Encoder, Callable[[Any], object]]]] = {
    "transform": case(affine, lambda e: e.has(torch.ones(())), halve_the_scale),
    "number of a transform": case(affine, lambda e: e.has.scale, halve_the_scale),
    "shape": case(lambda: torch.zeros(2), lambda e: e.has.shape[0], resize),
    "size": case(lambda: torch.zeros(2), lambda e: e.has.numel(), lambda e: e.has.resize_(3)),
    "tensor's attribute": case(lambda: with_gain(torch.zeros(2)), lambda e: e.has.gain,
                               lambda e: setattr(e.has, "gain", 0.5)),
    "parameter's attribute": case(lambda: None, lambda e: gain_of(e.layer.weight),
                                  lambda e: setattr(e.layer.weight, "gain", 0.5)),
    "class later": with_a_class,
    "class of a part later": with_a_class_of_a_part,
    "cache": with_a_cache,
    "array of objects": case(lambda: np.array([{"gain": 1.0}]), lambda e: e.has[0]["gain"],
                             lambda e: e.has[0].update(gain=0.5)),
    "single dispatch": by_kind,
    "library": case(lambda: sys.argv.__setitem__(slice(None), ["a"]), lambda e: len(sys.argv),
                    lambda e: sys.argv.append("b")),
    "operator": with_an_operator,
    "metaclass": with_a_metaclass,
}  # fmt: skip
SLOW = "number of a transform", "size", "class of a part later", "metaclass", "operator"


@pytest.fixture
def _traced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Graphs as they were traced."""
    monkeypatch.setattr(inductor, "compile_by_inductor", lambda traced, inputs: traced)


@pytest.fixture
def _same_arguments() -> Iterator[None]:
    before = list(sys.argv)
    yield
    sys.argv[:] = before


@pytest.mark.usefixtures("_traced", "_same_arguments")
@pytest.mark.parametrize(
    "kind", [pytest.param(k, marks=pytest.mark.slow if k in SLOW else ()) for k in READ]
)
def test_what_is_read_may_change(kind: str) -> None:
    """The losses are those of uncompiled code, and differ from those without the change."""
    found: list[list[float]] = []
    compiled = objectives.compiled(Trace_ELBO())
    for elbo in (Trace_ELBO(), Trace_ELBO(), compiled):
        torch.manual_seed(0)
        encoder, change = READ[kind]()
        found.append(losses(vae_of(encoder), elbo, change if found else lambda encoder: None))
    assert found[2] == pytest.approx(found[1], rel=CLOSE)
    assert found[0][2:] != found[1][2:]
    assert graphs(compiled) == 1


def seeds(e: Any) -> Tensor:
    torch.manual_seed(0)
    return torch.rand(4)


def seeds_pyro(e: Any) -> Tensor:
    pyro.set_rng_seed(0)
    return torch.rand(4)


def seeds_the_generator(e: Any) -> Tensor:
    torch.default_generator.manual_seed(0)
    return torch.rand(4)


def forks(e: Any) -> Tensor:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return torch.rand(4)


def puts_back(e: Any) -> Tensor:
    before = torch.get_rng_state()
    noise = torch.rand(4)
    torch.set_rng_state(before)
    return noise


@contextmanager
def own_fork() -> Iterator[None]:
    with torch.random.fork_rng():
        yield


def forks_by_itself(e: Any) -> Tensor:
    with own_fork():
        return torch.rand(4)


def draws_again(e: Any) -> Tensor:
    """Dropout that is drawn again in the backward pass, as it was."""
    drop = nn.functional.dropout
    found: Any = checkpoint(lambda b: drop(b * b, 0.5), e.layer.bias, use_reentrant=False)
    return found


SEEDING: dict[str, tuple[Callable[[Any], Any], str]] = {
    "seed": (seeds, r"torch\.random\.manual_seed"),
    "seed of Pyro": (seeds_pyro, r"pyro\.util\.set_rng_seed"),
    "seed of a generator": (seeds_the_generator, r"torch\.Generator\.manual_seed"),
    "fork": (forks, r"torch\.random\.fork_rng"),
    "state": (puts_back, r"torch\.random\.get_rng_state"),
    "own function": (forks_by_itself, r"torch\.random\.fork_rng"),
    "checkpointed dropout": (draws_again, r"torch\.utils\.checkpoint with random numbers"),
    "initial seed": (lambda e: torch.initial_seed() * 0 + 1.0, r"torch\.random\.initial_seed"),
}


@pytest.mark.usefixtures("_traced")
@pytest.mark.parametrize("kind", SEEDING)
def test_a_program_that_seeds_has_no_graph(kind: str) -> None:
    """A graph has the draws without the seeds."""
    read, name = SEEDING[kind]
    with pytest.raises(NotStatic, match=f"calls {name} at .*, which a graph does not repeat"):
        losses(vae_of(Encoder(None, read)), objectives.compiled(Trace_ELBO()), lambda e: None)
    found = []
    for elbo in (Trace_ELBO(), Compiled(Trace_ELBO(), strict=False)):
        torch.manual_seed(0)
        with warnings.catch_warnings(record=True) as caught:
            found.append(losses(vae_of(Encoder(None, read)), elbo, lambda e: None))
    assert "which a graph does not repeat" in str(caught[0].message)
    assert found[1] == found[0]


def test_an_evaluation_of_a_program_that_seeds_is_right() -> None:
    """From a million pairs of x and z on evaluations are compiled; the evidence has a formula."""

    class Projected(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(8, 3)

        def forward(self, z: Tensor) -> Tensor:
            with torch.random.fork_rng():
                torch.manual_seed(0)
                return self.layer(z @ torch.randn(2, 8))

    vae = VAE(
        priors.StandardNormal(2),
        likelihoods.Gaussian(networks.Folded(Projected(), 2, 3), scale=1.0),
        posteriors.Normal(networks.MLP(3, (), 4)),
    )
    x = torch.randn(1, 3).expand(1100, 3).contiguous()
    exact = log_likelihood(vae, x[:1], estimator="exact").mean
    found = log_likelihood(vae, x, 1000, estimator="prior", seed=0)
    assert abs(found.mean - exact) < 5 * found.mc_error
