"""Parameters: each VAE's own, by stable names in Pyro's store."""

import copy
import functools
import gc
import weakref

import pyro
import pyro.distributions as dist
import pyro.infer.inspect
import pyro.optim
import pytest
import torch
from pyro import poutine
from pyro.contrib.autoname import scope
from pyro.infer import SVI, Trace_ELBO
from torch import Tensor

from pyro_vae import VAE, Pair, likelihoods, networks, posteriors, priors

from .vaes import bernoulli_vae, binary, common_noise


def test_model_and_guide_bind_their_own_parts() -> None:
    """Hiding the model's parameters trains the guide alone, as Pyro's users do it."""
    vae, x = bernoulli_vae(), binary()
    names = set(poutine.trace(vae.guide).get_trace(x).nodes)
    assert names & {f"vae.{path}" for path, _ in vae.named_parameters()} == {
        f"vae.posterior.{path}" for path, _ in vae.posterior.named_parameters()
    }
    before = [p.clone() for p in vae.likelihood.parameters()]
    model = poutine.block(vae.model, hide_types=["param"])
    SVI(model, vae.guide, pyro.optim.Adam({"lr": 1e-2}), Trace_ELBO()).step(x)
    assert all(torch.equal(a, b) for a, b in zip(before, vae.likelihood.parameters(), strict=True))


def test_a_part_that_two_vaes_share_is_one_part() -> None:
    x, first = binary(), bernoulli_vae()
    second = VAE(first.prior, first.likelihood, bernoulli_vae().posterior, name="second")
    for vae in (first, second):
        SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-2}), Trace_ELBO()).step(x)
    first.likelihood.requires_grad_(False)
    for vae in (first, second):
        vae.model(x)
    first.likelihood.requires_grad_(True)
    for vae in (first, second):
        vae.model(x)
    del vae, first, second
    gc.collect()
    assert not [name for name in pyro.get_param_store() if name.startswith("second")]


def test_a_name_that_another_took_leaves_no_way_back() -> None:
    x, one, two = binary(), bernoulli_vae(), bernoulli_vae()
    one.model(x)
    two.model(x)
    gone = one.likelihood.network.layers[0].weight
    assert pyro.get_param_store().param_name(gone) is not None
    del one
    gc.collect()
    assert pyro.get_param_store().param_name(gone) is None


def test_two_vaes_of_one_name_share_nothing() -> None:
    x = binary()
    first, second = bernoulli_vae(), bernoulli_vae()
    copies = [p.clone() for p in second.parameters()]
    step = [
        SVI(v.model, v.guide, pyro.optim.Adam({"lr": 1e-2}), Trace_ELBO()).step
        for v in (first, second)
    ]
    step[0](x)
    for copied, parameter in zip(copies, second.parameters(), strict=True):
        assert torch.equal(copied, parameter)
    after = [p.clone() for p in first.parameters()]
    step[1](x)
    for copied, parameter in zip(after, first.parameters(), strict=True):
        assert torch.equal(copied, parameter)
    # Steps in turn train each as if it were alone.
    alone = copy.deepcopy(first), copy.deepcopy(second)

    def losses(vaes: tuple[VAE, VAE], order: list[int]) -> list[float]:
        svis = [SVI(v.model, v.guide, pyro.optim.Adam({"lr": 0.1}), Trace_ELBO()) for v in vaes]
        return [common_noise(functools.partial(svis[k].step, x)) for k in order]

    turns = losses((first, second), [0, 1] * 5)
    rows = losses(alone, [0] * 5 + [1] * 5)
    assert turns[::2] + turns[1::2] == rows


def test_a_rerun_cell_starts_afresh() -> None:
    x = binary()

    def cell() -> list[float]:
        torch.manual_seed(3)
        vae = bernoulli_vae()
        svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-2}), Trace_ELBO())
        return [svi.step(x) for _ in range(5)]

    assert cell() == cell()


def test_clear_param_store_loses_nothing() -> None:
    x = binary()

    def losses(clear: bool) -> list[float]:
        torch.manual_seed(3)
        vae = bernoulli_vae()
        svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-2}), Trace_ELBO())
        out = []
        for _ in range(6):
            out.append(svi.step(x))
            if clear:
                pyro.clear_param_store()
        return out

    assert losses(clear=True) == losses(clear=False)


def test_fifty_vaes_leave_nothing_behind() -> None:
    x = binary()
    gc.collect()
    before = set(pyro.get_param_store().keys())
    alive = []
    for i in range(50):
        vae = bernoulli_vae()
        vae.name = "vae" if i % 2 else f"vae{i}"
        svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-2}), Trace_ELBO())
        svi.step(x)
        alive += [weakref.ref(p) for p in vae.parameters()]
        del vae, svi
    gc.collect()
    assert not [p for p in alive if p() is not None]
    assert set(pyro.get_param_store().keys()) <= before


def test_two_vaes_of_one_name_in_one_trace_raise() -> None:
    x = binary()
    one, two = bernoulli_vae(), bernoulli_vae()

    def model() -> None:
        with scope(prefix="a"):
            one.model(x)
        with scope(prefix="b"):
            two.model(x)

    with pytest.raises(ValueError, match="different names"):
        poutine.trace(model).get_trace()
    two.name = "other"
    trace = poutine.trace(model).get_trace()
    assert {"a/z", "a/x", "b/z", "b/x"} <= set(trace.nodes)


def test_optimizer_state_fits_after_a_restart() -> None:
    x, vae = binary(), bernoulli_vae()
    optimizer = pyro.optim.Adam({"lr": 1e-2})
    svi = SVI(vae.model, vae.guide, optimizer, Trace_ELBO())
    svi.step(x)
    # Another VAE of the same name in between leaves the names of this one's state alone.
    bernoulli_vae().model(x)
    other = bernoulli_vae()
    other.guide(x)
    state = optimizer.get_state()
    assert set(state) == {f"vae.{path}" for path, _ in vae.named_parameters()}
    saved, restarted = copy.deepcopy((state, vae))
    common_noise(lambda: svi.step(x))

    pyro.clear_param_store()
    optimizer = pyro.optim.Adam({"lr": 1e-2})
    optimizer.set_state(saved)
    svi = SVI(restarted.model, restarted.guide, optimizer, Trace_ELBO())
    common_noise(lambda: svi.step(x))
    pairs = zip(vae.parameters(), restarted.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_replaced_part_leaves_the_store() -> None:
    vae, x = bernoulli_vae(), binary()
    vae.model(x)
    old = weakref.ref(vae.likelihood.network.layers[0].weight)
    vae.likelihood = likelihoods.Bernoulli(networks.MLP(1, (), 6))
    vae.model(x)
    gc.collect()
    assert old() is None
    assert "vae.likelihood.network.layers.2.bias" not in pyro.get_param_store()


def test_a_vae_that_goes_leaves_what_it_shared_to_the_others() -> None:
    """A part of one VAE serves another, whose step the end of the first must not disturb."""
    x = binary()
    first = VAE(
        priors.StandardNormal(2),
        likelihoods.Bernoulli(networks.MLP(2, (), 6)),
        posteriors.Normal(networks.MLP(6, (), 4)),
    )
    first.guide(x)
    second = VAE(priors.Laplace(2), first.likelihood, first.posterior)
    second.guide(x)
    store, shared = pyro.get_param_store(), dict(second.posterior.named_parameters())
    names = [f"vae.posterior.{name}" for name in shared]
    del first
    gc.collect()
    for name, parameter in zip(names, shared.values(), strict=True):
        assert store[name] is parameter
    del second
    gc.collect()
    assert not any(name in store for name in names)


def _pair(name: str) -> Pair:
    def model(x: Tensor) -> None:
        loc = pyro.param("loc", torch.zeros(2))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(loc, 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x, 1.0).to_event(1))

    return Pair(model, guide, name=name)


def test_a_pair_may_go_at_any_moment_of_another_ones_call() -> None:
    """The garbage collector may run at each allocation, so a pair goes at each of them in turn."""
    x, living = torch.zeros(3, 2), _pair("living")
    living.model(x)
    gone, going = list[int](), list[Pair]()

    def end(phase: str, info: object) -> None:
        gone.extend(range(len(going)))
        going.clear()

    before = gc.get_threshold()
    for moment in range(1, 150):
        going.append(_pair("going"))
        going[0].model(x)
        assert "going.params.loc" in pyro.get_param_store()
        gc.collect(0)  # The next one comes after so many allocations.
        gc.callbacks.append(end)
        try:
            gc.set_threshold(moment)
            living.model(x)
        finally:
            gc.set_threshold(*before)
            gc.callbacks.remove(end)
        assert going or "going.params.loc" not in pyro.get_param_store(), moment
        if going:
            break
    assert len(gone) > 30
    assert "living.params.loc" in pyro.get_param_store()
