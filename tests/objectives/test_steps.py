"""Each objective in training: by fit, compiled, and what a step leaves behind."""

import gc
import math
import pickle
from collections.abc import Callable

import pytest
import torch
from pyro.infer import ELBO, SVI
from torch import Tensor

from pyro_vae import fit, objectives, optim

from ..compiling import small_vae
from ..conftest import needs_compiler
from ..tolerances import CLOSE
from ..vaes import bernoulli_vae, binary, linear_gaussian, parameters

ALL = [
    lambda: objectives.sticking_the_landing(),
    lambda: objectives.sticking_the_landing(2),
    lambda: objectives.iwae(3),
    lambda: objectives.dreg(3),
    lambda: objectives.miwae(2, 2),
    lambda: objectives.ciwae(0.5, 3),
    lambda: objectives.piwae(2, 2),
    lambda: objectives.renyi(0.5, 3),
    lambda: objectives.warm_up(objectives.trace_elbo(), 3),
    lambda: objectives.warm_up(objectives.analytic_kl(2), 3),
    lambda: objectives.warm_up(objectives.sticking_the_landing(2), 3),
]


@pytest.mark.parametrize("make", ALL)
def test_fit_trains_by_each(make: Callable[[], ELBO]) -> None:
    vae = bernoulli_vae(z_dim=2)
    x = binary(200)
    objective = make()
    history = fit(
        vae, x, epochs=8, batch_size=50, objective=objective, optim=optim.Adam(lr=1e-2), test=x
    )
    assert history.test_cost[-1] < history.test_cost[0]
    likelihood = [r + k for r, k in zip(history.reconstruction, history.kl, strict=True)]
    assert all(math.isfinite(v) for v in likelihood)
    again = pickle.loads(pickle.dumps(objective))
    assert math.isfinite(again.loss(vae.model, vae.guide, x))


@needs_compiler
@pytest.mark.usefixtures("code")
@pytest.mark.parametrize(
    "make",
    [
        lambda: objectives.dreg(3),
        lambda: objectives.renyi(0.5, 3),
        lambda: objectives.warm_up(objectives.trace_elbo(), 3),
        lambda: objectives.sticking_the_landing(2),
        lambda: objectives.piwae(2, 2),
        lambda: objectives.warm_up(objectives.sticking_the_landing(), 3),
    ],
)
def test_compiled_steps_are_the_uncompiled_ones(make: Callable[[], ELBO]) -> None:
    """Over several steps, as the weight of a warm-up moves inside of the graph."""

    def run(objective: ELBO) -> tuple[list[float], Tensor]:
        torch.manual_seed(5)
        vae, x = small_vae().double(), torch.randn(8, 3).double()
        svi = SVI(vae.model, vae.guide, optim.Adam(lr=1e-2), objective)
        return [svi.step(x) for _ in range(5)], parameters(vae)

    (losses, own), (expected, theirs) = run(objectives.compiled(make())), run(make())
    assert losses == pytest.approx(expected, rel=CLOSE)
    torch.testing.assert_close(own, theirs, rtol=CLOSE, atol=CLOSE)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["sticking_the_landing", "iwae:3", "dreg:3", "piwae:2:2", "warm_up:5:trace_elbo"]
)
def test_a_step_leaves_nothing_for_the_garbage_collector(name: str) -> None:
    """A graph that holds itself is freed when Python gets to it, gigabytes later."""
    case, objective = linear_gaussian(exact=False), objectives.parse(name)

    def tensors() -> int:
        return sum(issubclass(type(o), Tensor) for o in gc.get_objects())

    objective.loss_and_grads(case.vae.model, case.vae.guide, case.x)
    gc.collect()
    gc.disable()
    try:
        before = tensors()
        for _ in range(3):
            objective.loss_and_grads(case.vae.model, case.vae.guide, case.x)
        assert tensors() == before
    finally:
        gc.enable()
