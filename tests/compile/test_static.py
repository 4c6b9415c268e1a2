"""Programs with state that is no tensor: a graph follows it, or there is no graph."""

import cProfile
import gc
import itertools
import os
import random
import threading
import time
import types
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.utils import parametrizations, parametrize, prune
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from pyro_vae import VAE, likelihoods, networks, objectives, optim, posteriors, priors
from pyro_vae.compile import NotStatic, inductor
from pyro_vae.objectives import Compiled

from ..compiling import graphs
from ..tolerances import CLOSE

pytestmark = pytest.mark.usefixtures("float64")

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


class Hidden:
    __slots__ = ("__gain",)

    def __init__(self) -> None:
        self.__gain = 1.0

    def gain(self) -> float:
        return self.__gain

    def change(self) -> None:
        self.__gain = 0.5


class Kind(Enum):
    ONE = 1.0
    TWO = 2.0

    def __repr__(self) -> str:
        return "a kind"


def later() -> float:
    try:
        return LATER  # type: ignore[name-defined]
    except NameError:
        return 1.0


def own_attribute() -> None:
    pass


own_attribute.gain = 1.0


def on_a_layer() -> nn.Module:
    layer: Any = nn.Linear(1, 1)
    layer.settings = Settings()
    return layer


def partially() -> tuple["Encoder", Callable[[Any], object]]:
    settings = Settings()
    read = partial(lambda settings, encoder: settings.gain, settings)
    return Encoder(None, read), lambda encoder: setattr(settings, "gain", 0.5)


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


def of_this_thread() -> threading.local:
    settings = threading.local()
    settings.gain = 1.0
    return settings


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
    "thread local": case(of_this_thread, lambda e: e.has.gain,
                         lambda e: setattr(e.has, "gain", 0.5)),
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
    "absent": case(types.SimpleNamespace, lambda e: getattr(e.has, "beta", 1.0),
                   lambda e: setattr(e.has, "beta", 0.5)),
    "absent in a module": case(lambda: None, lambda e: getattr(e, "beta", 1.0), sets("beta")),
    "absent global": case(lambda: None, lambda e: later(), in_a_global("LATER", 0.5)),
    "partial": partially,
    "function's attribute": case(lambda: None, lambda e: own_attribute.gain,
                                 lambda e: setattr(own_attribute, "gain", 0.5)),
    "namespace": case(lambda: types.SimpleNamespace(sub=types.SimpleNamespace(gain=1.0)),
                      lambda e: e.has.sub.gain, lambda e: setattr(e.has.sub, "gain", 0.5)),
    "on a layer": case(lambda: on_a_layer(), lambda e: e.has.settings.gain,
                       lambda e: setattr(e.has.settings, "gain", 0.5)),
    "distribution": case(lambda: dist.Normal(1.0, 1.0), lambda e: e.has.loc,
                         lambda e: setattr(e.has, "loc", torch.tensor(0.5))),
    "mapping": case(lambda: types.MappingProxyType(NUMBERS), lambda e: e.has["gain"],
                    lambda e: NUMBERS.update(gain=0.5)),
    "bound method": case(lambda: NUMBERS.get, lambda e: e.has("gain"),
                         lambda e: NUMBERS.update(gain=0.5)),
    "enum": case(lambda: Kind.ONE, lambda e: e.has.value, sets("has", Kind.TWO)),
    "private slot": case(Hidden, lambda e: e.has.gain(), lambda e: e.has.change()),
    "spectral norm": case(lambda: None, lambda e: 1.0,
                          lambda e: parametrizations.spectral_norm(e.layer)),
}  # fmt: skip


def put_back() -> None:
    Encoder.gain = 1.0
    globals()["NUMBER"] = 1.0
    NUMBERS["gain"] = 1.0
    defaulted.__defaults__[0][0] = 1.0
    os.environ.pop("PYRO_VAE_GAIN", None)
    globals().pop("LATER", None)
    own_attribute.gain = 1.0


@pytest.fixture(autouse=True)
def _as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Graphs as they were traced: Inductor changes nothing of what is held here."""
    monkeypatch.setattr(inductor, "compile_by_inductor", lambda traced, inputs: traced)
    yield
    put_back()


QUICK = (
    "number", "dict", "deep", "slots", "any name", "array", "closure", "global", "environment",
    "class", "method", "absent", "partial", "mode of a part", "part in a list", "frozen",
    "parametrized", "thread local",
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


class Odd(dict[str, float]):
    def items(self) -> Any:
        raise RuntimeError("no items")


def nested(depth: int) -> list[Any]:
    found: list[Any] = []
    for _ in range(depth):
        found = [found]
    return found


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
    "odd dict": (lambda: Encoder(Odd(), lambda e: len(e.has)), "objects that cannot be compared"),
    "deep": (lambda: Encoder(nested(2000), lambda e: len(e.has)), "nested more than 150 deep"),
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


class HalvedProducts(TorchDispatchMode):
    def __torch_dispatch__(self, f: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = f(*args, **(kwargs or {}))
        return 0.5 * found if f is torch.ops.aten.addmm.default else found


class HalvedLayers(TorchFunctionMode):
    def __torch_function__(self, f: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = f(*args, **(kwargs or {}))
        return 0.5 * found if f is nn.functional.linear else found


@pytest.mark.parametrize(
    "mode",
    [HalvedProducts, HalvedLayers, lambda: saved_tensors_hooks(lambda t: 0.5 * t, lambda t: t)],
)
def test_what_stands_between_operations_takes_part(mode: Callable[[], Any]) -> None:
    """A graph has none of it, so steps within are uncompiled, and those after compiled again."""
    found = []
    for elbo in (Trace_ELBO(), objectives.compiled(Trace_ELBO())):
        torch.manual_seed(0)
        vae = vae_of(Encoder())
        optimizer = optim.from_torch(torch.optim.SGD, lr=1e-2)
        svi = SVI(vae.model, vae.guide, optimizer, elbo)
        torch.manual_seed(1)
        steps = [svi.step(X)]
        with mode():
            steps += [svi.step(X), svi.evaluate_loss(X)]
        found.append([*steps, svi.step(X)])
    assert found[1] == pytest.approx(found[0], rel=CLOSE)


def test_what_is_in_reach_may_fail_to_be_compared_later() -> None:
    class Later(dict[str, float]):
        fails = False

        def items(self) -> Any:
            return Odd().items() if self.fails else super().items()

    kept = Later({"gain": 1.0})
    vae = vae_of(Encoder(kept, lambda e: e.has["gain"]))
    objective = Compiled(Trace_ELBO(), strict=False)
    svi = SVI(vae.model, vae.guide, optim.Adam(lr=1e-3), objective)
    svi.step(X)
    kept.fails, objective._cache.patience = True, 0
    with pytest.warns(UserWarning, match=r"cannot be compared \(RuntimeError: no items\)"):
        svi.step(X)


def test_an_object_among_the_arguments_may_change() -> None:
    def model(x: Tensor, settings: Settings) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(settings.gain, 1.0), obs=x)

    def guide(x: Tensor, settings: Settings) -> None:
        pass

    found = []
    for elbo in (Trace_ELBO(), objectives.compiled(Trace_ELBO())):
        settings = Shared()
        losses = [elbo.loss(model, guide, X[:, 0], settings)]
        settings.gain = 2.0
        losses.append(elbo.loss(model, guide, X[:, 0], settings))
        found.append(losses)
    assert found[1] == pytest.approx(found[0], rel=CLOSE)


class Shared(Settings):
    """Settings that can be told apart by their identity."""

    __hash__ = object.__hash__


def test_arguments_that_cannot_be_compared_run_uncompiled() -> None:
    def model(x: Tensor, numbers: Any) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(float(sum(numbers)), 1.0), obs=x)

    def guide(x: Tensor, numbers: Any) -> None:
        pass

    lenient = Compiled(Trace_ELBO(), strict=False)
    with pytest.warns(UserWarning, match="runs uncompiled: .*argument of type ndarray"):
        found = lenient.loss(model, guide, X[:, 0], np.ones(2))
    assert found == Trace_ELBO().loss(model, guide, X[:, 0], np.ones(2))


def test_a_profiler_goes_on() -> None:
    profile = cProfile.Profile()
    profile.enable()
    try:
        vae = vae_of(Encoder())
        objectives.compiled(Trace_ELBO()).loss(vae.model, vae.guide, X)
        vae.embed(X)
    finally:
        profile.disable()
    assert any("embed" in str(entry.code) for entry in profile.getstats())


def test_the_garbage_collectors_callbacks_are_no_part_of_a_program() -> None:
    def collected(*_: object) -> None:
        time.perf_counter()

    gc.callbacks.append(collected)
    try:
        vae = vae_of(Encoder(None, lambda e: float(len([[] for _ in range(3000)]) > 0)))
        objectives.compiled(Trace_ELBO()).loss(vae.model, vae.guide, X)
    finally:
        gc.callbacks.remove(collected)
