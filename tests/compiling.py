"""Steps of compiled objectives against uncompiled ones."""

import importlib
from collections.abc import Callable
from typing import Any

import pyro
import pyro.optim
import torch
from pyro.infer import ELBO, SVI
from torch import Tensor

from pyro_vae import VAE, likelihoods, networks, objectives, optim, posteriors, priors
from pyro_vae.objectives import Compiled

from .tolerances import CLOSE, rounding

MODULE = importlib.import_module("pyro_vae.objectives.compiled")
"""Whose name in the package is that of the function."""

TERMS = 1000
"""No program here sums more numbers than that."""


def graphs(objective: Compiled) -> int:
    """How many graphs an objective keeps."""
    return sum(map(len, objective._cache._codes.values()))


def steps(objective: ELBO, model: Any, guide: Any, batches: list[tuple[Any, ...]]) -> list[float]:
    """The losses of some steps from one seed."""
    torch.manual_seed(5)
    svi = SVI(model, guide, optim.from_torch(torch.optim.SGD, lr=1e-2), objective)
    return [svi.step(*batch) for batch in batches]


def both(
    make: Callable[[], tuple[Any, Any]], elbo: ELBO, batches: list[tuple[Any, ...]]
) -> Compiled:
    """Holds compiled steps against uncompiled ones: losses, and in float64 all parameters.

    Parameters are drawn by a loss before, since that takes another part of the stream.
    """
    objective = objectives.compiled(elbo)
    runs = []
    for each in (elbo, objective):
        pyro.clear_param_store()
        torch.manual_seed(3)
        program = make()
        elbo.loss(*program, *batches[0])
        losses = torch.tensor(steps(each, *program, batches))
        store = pyro.get_param_store()
        runs.append((losses, {name: store[name].detach().clone() for name in store}))
    tolerance = rounding(TERMS, torch.get_default_dtype())
    torch.testing.assert_close(runs[1][0], runs[0][0], rtol=tolerance, atol=0)
    assert runs[0][1].keys() == runs[1][1].keys()
    for name, value in runs[0][1].items():
        if value.dtype == torch.float64:
            torch.testing.assert_close(runs[1][1][name], value, rtol=CLOSE, atol=CLOSE)
    assert graphs(objective) == 1
    return objective


def small_vae() -> VAE:
    """A VAE whose graph is as small as can be."""
    return VAE(
        priors.StandardNormal(1),
        likelihoods.Gaussian(networks.MLP(1, (), 3), scale=1.0),
        posteriors.Normal(networks.MLP(3, (), 2)),
    )


def program_of(make: Callable[[], VAE]) -> Callable[[], tuple[Any, Any]]:
    """What makes a VAE's model and guide, a new VAE's each time."""

    def program() -> tuple[Any, Any]:
        vae = make()
        return vae.model, vae.guide

    return program


def nothing(x: Tensor) -> None:
    """A guide without latents."""
