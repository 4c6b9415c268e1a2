"""Programs with state that is no tensor: a graph follows it, or there is no graph."""

import itertools
import os
import random
import time
import types
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune

from pyro_vae import VAE, likelihoods, networks, objectives, optim, posteriors, priors
from pyro_vae.compile import NotStatic
from pyro_vae.objectives import Compiled

from ..compiling import graphs
from ..tolerances import CLOSE

pytestmark = pytest.mark.usefixtures("float64", "code")

SETTINGS = types.ModuleType("settings")
NUMBER = 1.0
NUMBERS = {"gain": 1.0}


class Encoder(nn.Module):
    """An encoder with something in its place that has a gain, and a layer whose output has it."""

    out_shape = (4,)
    gain = 1.0

    def __init__(self, has: Any = None, read: Callable[[Any], Any] = lambda self: 1.0) -> None:
        super().__init__()
        self.layer, self.has, self.read = nn.Linear(3, 4), has, read

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) * self.read(self)


def vae_of(encoder: nn.Module) -> VAE:
    return VAE(
        priors.StandardNormal(2),
        likelihoods.Gaussian(networks.MLP(2, (), 3), scale=1.0),
        posteriors.Normal(encoder),
    )


def losses(vae: VAE, elbo: Any, change: Callable[[nn.Module], object]) -> list[float]:
    """The losses of some steps; after two of them, something of the encoder is changed."""
    torch.manual_seed(1)
    optimizer = optim.from_torch(torch.optim.SGD, lr=1e-3)
    svi, found = SVI(vae.model, vae.guide, optimizer, elbo), []
    for step in range(5):
        if step == 2:
            change(vae.posterior.network)
        found.append(svi.step(X))
    return found


X = torch.linspace(-1, 1, 12, dtype=torch.float64).view(4, 3)


@dataclass
class Settings:
    gain: float = 1.0
    more: dict[str, Any] = field(default_factory=lambda: {"inner": [1.0]})


class Slotted:
    __slots__ = ("gain",)

    def __init__(self) -> None:
        self.gain = 1.0


class Gain:
    """A gain that is a property of something else."""

    def __init__(self) -> None:
        self.half = 0.5

    @property
    def gain(self) -> float:
        return 2 * self.half


def closure() -> tuple[Callable[[Any], float], Callable[[float], None]]:
    gain = 1.0

    def read(_: Any) -> float:
        return gain

    def change(value: float) -> None:
        nonlocal gain
        gain = value

    return read, change


def defaulted(_: Any, gains: list[float] = [1.0]) -> float:  # noqa: B006
    return gains[0]


class Doubling(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return 2 * weight


def sets(name: str, value: Any = 0.5) -> Callable[[Any], None]:
    return lambda encoder: setattr(encoder, name, value)


def case(
    has: Callable[[], Any], read: Callable[[Any], Any], change: Callable[[Any], object]
) -> Callable[[], tuple[Encoder, Callable[[Any], object]]]:
    return lambda: (Encoder(has(), read), change)


def closed() -> tuple[Encoder, Callable[[Any], object]]:
    read, change = closure()
    return Encoder(None, read), lambda encoder: change(0.5)


def in_a_global(name: str, value: Any) -> Callable[[Any], None]:
    def change(_: Any) -> None:
        globals()[name] = value

    return change


FOLLOWED: dict[str, Callable[[], tuple[Encoder, Callable[[Any], object]]]] = {
    "number": case(lambda: 1.0, lambda e: e.has, sets("has")),
    "from one to True": case(lambda: 2, lambda e: e.has, sets("has", 2.0)),
    "sign of zero": case(lambda: 0.0, lambda e: 1 / (1e-9 + abs(np.copysign(1e-9, e.has) - 1e-9))
                         * 1e-9, sets("has", -0.0)),
    "dict": case(lambda: {"gain": 1.0}, lambda e: e.has["gain"], lambda e: e.has.update(gain=0.5)),
    "nested": case(lambda: {"a": [{"b": 1.0}]}, lambda e: e.has["a"][0]["b"],
                   lambda e: e.has["a"][0].update(b=0.5)),
    "list": case(lambda: [1.0, 0.0], lambda e: sum(e.has), lambda e: e.has.append(1.0)),
    "set": case(lambda: {1.0}, lambda e: sum(e.has), lambda e: e.has.add(2.0)),
    "tuple": case(lambda: ([1.0],), lambda e: e.has[0][0], lambda e: e.has[0].__setitem__(0, 2.0)),
    "dataclass": case(Settings, lambda e: e.has.gain, lambda e: setattr(e.has, "gain", 0.5)),
    "deep": case(Settings, lambda e: e.has.more["inner"][0],
                 lambda e: e.has.more["inner"].__setitem__(0, 0.5)),
    "slots": case(Slotted, lambda e: e.has.gain, lambda e: setattr(e.has, "gain", 0.5)),
    "property": case(Gain, lambda e: e.has.gain, lambda e: setattr(e.has, "half", 2.0)),
    "any name": case(lambda: 1.0, lambda e: getattr(e, "".join("sah"[::-1])), sets("has")),
    "constant name": case(lambda: 1.0, lambda e: getattr(e, "has"), sets("has")),  # noqa: B009
    "array": case(lambda: np.ones(4), lambda e: torch.tensor(e.has),
                  lambda e: e.has.__setitem__(0, 0.5)),
    "shared array": case(lambda: np.ones(4), lambda e: torch.from_numpy(e.has),
                         lambda e: e.has.__setitem__(0, 0.5)),
    "numpy number": case(lambda: np.float64(1), lambda e: e.has, sets("has", np.float64(0.5))),
    "string": case(lambda: "1.0", lambda e: float(e.has), sets("has", "0.5")),
    "dtype": case(lambda: torch.float64, lambda e: torch.tensor(1 / 3, dtype=e.has),
                  sets("has", torch.float16)),
    "function": case(lambda: torch.sin, lambda e: e.has(torch.ones(())), sets("has", torch.cos)),
    "reader": case(lambda: None, lambda e: 1.0, sets("read", lambda e: 0.5)),
    "closure": closed,
    "default": case(lambda: None, defaulted,
                    lambda e: defaulted.__defaults__[0].__setitem__(0, 9.0)),
    "global": case(lambda: None, lambda e: NUMBER, in_a_global("NUMBER", 0.5)),
    "global dict": case(lambda: None, lambda e: NUMBERS["gain"],
                        lambda e: NUMBERS.update(gain=0.5)),
    "module": case(lambda: setattr(SETTINGS, "gain", 1.0), lambda e: SETTINGS.gain,
                   lambda e: setattr(SETTINGS, "gain", 0.5)),
    "environment": case(lambda: os.environ.update(PYRO_VAE_GAIN="1"),
                        lambda e: float(os.environ["PYRO_VAE_GAIN"]),
                        lambda e: os.environ.update(PYRO_VAE_GAIN="2")),
    "class": case(lambda: None, lambda e: e.gain, lambda e: setattr(Encoder, "gain", 0.5)),
    "instance over class": case(lambda: None, lambda e: e.gain, sets("gain")),
    "method": case(lambda: None, lambda e: 1.0,
                   lambda e: setattr(e, "forward", lambda x: 2 * e.layer(x))),
    "method of a part": case(
        lambda: None, lambda e: 1.0,
        lambda e: setattr(e.layer, "forward", lambda x: x @ e.layer.weight.T)),
    "kind of a part": case(lambda: nn.Dropout(0.5), lambda e: e.has(torch.ones(4)),
                           lambda e: setattr(e.has, "__class__", nn.AlphaDropout)),
    "mode of a part": case(lambda: nn.Dropout(0.5), lambda e: e.has(torch.ones(4)),
                           lambda e: e.has.eval()),
    "rate of a part": case(lambda: nn.Dropout(0.5), lambda e: e.has(torch.ones(4)),
                           lambda e: setattr(e.has, "p", 0.1)),
    "part": case(lambda: nn.Tanh(), lambda e: e.has(torch.ones(4)), sets("has", nn.ReLU())),
    "part in a list": case(lambda: [nn.Tanh()], lambda e: e.has[0](torch.ones(4)),
                           lambda e: e.has.__setitem__(0, nn.ReLU())),
    "tensor": case(lambda: torch.ones(4), lambda e: e.has, sets("has", torch.full((4,), 0.5))),
    "tensor in place": case(lambda: torch.ones(4), lambda e: e.has, lambda e: e.has.mul_(0.5)),
    "tensor in a list": case(lambda: [torch.ones(4)], lambda e: e.has[0],
                             lambda e: e.has.__setitem__(0, torch.full((4,), 0.5))),
    "frozen": case(lambda: None, lambda e: 1.0, lambda e: e.layer.weight.requires_grad_(False)),
    "parametrized": case(
        lambda: None, lambda e: 1.0,
        lambda e: parametrize.register_parametrization(e.layer, "weight", Doubling())),
    "weight norm": case(lambda: None, lambda e: 1.0,
                        lambda e: parametrizations.weight_norm(e.layer)),
    "spectral norm": case(lambda: None, lambda e: 1.0,
                          lambda e: parametrizations.spectral_norm(e.layer)),
}  # fmt: skip


def put_back() -> None:
    Encoder.gain = 1.0
    globals()["NUMBER"] = 1.0
    NUMBERS["gain"] = 1.0
    defaulted.__defaults__[0][0] = 1.0
    os.environ.pop("PYRO_VAE_GAIN", None)


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    yield
    put_back()


QUICK = (
    "number", "dict", "deep", "slots", "any name", "array", "closure", "global", "environment",
    "class", "method", "mode of a part", "part in a list", "frozen", "parametrized",
)  # fmt: skip


@pytest.mark.parametrize(
    "kind",
    [pytest.param(kind, marks=() if kind in QUICK else pytest.mark.slow) for kind in FOLLOWED],
)
def test_a_setting_may_change(kind: str) -> None:
    """The losses are those of uncompiled code, and differ from those without the change."""
    found: list[list[float]] = []
    compiled = objectives.compiled(Trace_ELBO())
    for elbo in (Trace_ELBO(), Trace_ELBO(), compiled):
        torch.manual_seed(0)
        encoder, change = FOLLOWED[kind]()
        found.append(losses(vae_of(encoder), elbo, change if found else lambda encoder: None))
        put_back()
    assert found[2] == pytest.approx(found[1], rel=CLOSE)
    assert kind in SAME or found[0][2:] != found[1][2:]
    assert graphs(compiled) == 1


SAME = "from one to True", "weight norm"


def test_what_a_program_does_not_read_may_change() -> None:
    """One graph serves all steps, also if an attribute of another use changes at each."""
    encoder: Any = Encoder()
    encoder.history, encoder.steps = [], 0
    objective = objectives.compiled(Trace_ELBO())
    vae = vae_of(encoder)
    svi = SVI(vae.model, vae.guide, optim.Adam(lr=1e-3), objective)
    for step in range(5):
        encoder.history.append(svi.step(X))
        encoder.steps = encoder.more = step
    assert sum(objective._cache.made.values()) == 1


def counts(e: Any) -> float:
    e.has["calls"] += 1
    return 1.0 + e.has["calls"]


def appends(e: Any) -> float:
    e.has.append(len(e.has))
    return len(e.has)


def counts_globally(e: Any) -> float:
    global NUMBER
    NUMBER += 1
    return NUMBER


def counted() -> Encoder:
    calls = 0

    def read(_: Any) -> float:
        nonlocal calls
        calls += 1
        return float(calls)

    return Encoder(None, read)


def prints(e: Any) -> float:
    print("here")
    return 1.0


def hooked(register: str) -> Encoder:
    encoder = Encoder([])
    hook: Any = lambda *args: encoder.has.append(1)  # noqa: E731
    getattr(encoder.layer, register)(hook)
    return encoder


def hooked_parameter(register: str) -> Encoder:
    encoder = Encoder([])
    getattr(encoder.layer.weight, register)(lambda tensor: encoder.has.append(1))
    return encoder


class Counting(torch.autograd.Function):
    """What changes something in the backward pass alone."""

    calls: list[int] = []  # noqa: RUF012

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> Any:
        Counting.calls.append(1)
        return gradient * len(Counting.calls)


def backward() -> Encoder:
    Counting.calls.clear()
    return Encoder(None, lambda e: Counting.apply(e.layer.bias))


REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "counter": (lambda: Encoder({"calls": 0}, counts), r"changes .*has"),
    "list": (lambda: Encoder([], appends), r"changes .*has"),
    "global": (lambda: Encoder(None, counts_globally), "changes NUMBER"),
    "closure": (counted, r"changes calls of VAE\.posterior"),
    "backward pass": (backward, "changes Counting.calls"),
    "print": (lambda: Encoder(None, prints), "calls print at .*test_static"),
    "time": (lambda: Encoder(None, lambda e: time.time() * 0 + 1), "calls time.time"),
    "random": (lambda: Encoder(None, lambda e: random.random()), "random numbers of Python"),
    "numpy": (
        lambda: Encoder(None, lambda e: np.random.rand()),  # noqa: NPY002
        "random numbers of Python",
    ),
    "own random": (lambda: Encoder(random.Random(0), lambda e: e.has.random()), "changes .*has"),
    "own numpy": (
        lambda: Encoder(np.random.default_rng(0), lambda e: e.has.normal()),
        "changes .*has",
    ),
    "own torch": (
        lambda: Encoder(torch.Generator(), lambda e: torch.rand(4, generator=e.has)),
        "changes .*has",
    ),
    "iterator": (lambda: Encoder(itertools.count(1), lambda e: next(e.has)), "an iterator"),
    "generator": (
        lambda: Encoder((float(n) for n in range(99)), lambda e: next(e.has)),
        "an iterator",
    ),
    "large array": (
        lambda: Encoder(np.ones(10**6 + 1), lambda e: float(e.has[0])),
        "an array of 1,000,001 numbers",
    ),
    "forward hook": (lambda: hooked("register_forward_hook"), "hook of VAE.posterior.network"),
    "forward pre-hook": (lambda: hooked("register_forward_pre_hook"), "hook of VAE.posterior"),
    "backward hook": (lambda: hooked("register_full_backward_hook"), "hook of VAE.posterior"),
    "hook of a parameter": (lambda: hooked_parameter("register_hook"), "weight, a tensor with"),
    "hook of a gradient": (
        lambda: hooked_parameter("register_post_accumulate_grad_hook"),
        "weight, a tensor with",
    ),
    "torch.compile": (lambda: compiled_by_torch(Encoder()), "compiled by torch itself"),
    "pruning": (lambda: pruned(Encoder()), r"replaces Linear\.weight"),
    "old weight norm": (lambda: old_norm(Encoder()), r"replaces Linear\.weight"),
}


def compiled_by_torch(encoder: Encoder) -> Encoder:
    encoder.layer.compile(backend="eager")
    return encoder


def pruned(encoder: Encoder) -> Encoder:
    prune.l1_unstructured(encoder.layer, "weight", amount=3)
    return encoder


def old_norm(encoder: Encoder) -> Encoder:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        nn.utils.weight_norm(encoder.layer)
    return encoder


@pytest.mark.parametrize("kind", REFUSED)
@pytest.mark.filterwarnings("ignore:the objective runs uncompiled")
def test_what_a_graph_does_not_do_is_named(kind: str) -> None:
    """``compiled`` raises; what may run uncompiled has the losses of uncompiled code."""
    make, message = REFUSED[kind]
    vae = vae_of(make())
    with pytest.raises(NotStatic, match=message):
        objectives.compiled(Trace_ELBO()).loss_and_grads(vae.model, vae.guide, X)
    found = []
    for elbo in (Trace_ELBO(), Compiled(Trace_ELBO(), strict=False)):
        put_back()
        random.seed(0)
        np.random.seed(0)  # noqa: NPY002
        torch.manual_seed(0)
        found.append(losses(vae_of(make()), elbo, lambda encoder: None))
    assert found[0] == found[1] or kind == "time"


@pytest.mark.parametrize("kind", [kind for kind in REFUSED if "hook" in kind])
def test_a_hook_may_come_later(kind: str) -> None:
    register = {
        "hook of a parameter": "register_hook",
        "hook of a gradient": "register_post_accumulate_grad_hook",
        "backward hook": "register_full_backward_hook",
    }.get(kind, "register_" + kind.replace(" ", "_").replace("pre-", "pre_"))
    vae, calls = vae_of(Encoder()), list[int]()
    layer: Any = vae.posterior.network.layer
    owner = layer.weight if "of a" in kind else layer
    objective = Compiled(Trace_ELBO(), strict=False)
    svi = SVI(vae.model, vae.guide, optim.Adam(lr=1e-3), objective)
    svi.step(X)
    getattr(owner, register)(lambda *args: calls.append(1))
    objective._cache.patience = 0
    with pytest.warns(UserWarning, match="runs uncompiled"):
        svi.step(X)
    svi.step(X)
    assert len(calls) >= 2
