"""The tensors that the graph of a training step reads."""

from collections.abc import Callable

import pytest
import torch
from pyro.infer import ELBO
from torch import nn

from pyro_vae import VAE, objectives
from pyro_vae.objectives import LossGraph, schedule_of

from ..swaps import LIKELIHOODS, PAIRS, data, slow_but, vae_of
from ..vaes import bernoulli_vae, binary

OBJECTIVES: dict[str, Callable[[], ELBO]] = {
    "trace_elbo": lambda: objectives.trace_elbo(3),
    "analytic_kl": objectives.analytic_kl,
    "sticking_the_landing": objectives.sticking_the_landing,
    "iwae": lambda: objectives.iwae(3),
    "dreg": lambda: objectives.dreg(3),
    "beta": lambda: objectives.beta(2.0),
    "free_bits": lambda: objectives.free_bits(0.1),
    "warm_up": lambda: objectives.warm_up(objectives.trace_elbo(), 5),
}


def graph_of(vae: VAE, objective: ELBO, *batch: torch.Tensor) -> LossGraph:
    return LossGraph(
        "gradients", objective, vae.model, vae.guide, batch, {}, None, by_inductor=False
    )


def assert_reads_its_own(vae: VAE, objective: ELBO, *batch: torch.Tensor) -> None:
    """All that can change is a parameter, a buffer or the count of a warm-up.

    These are where the pair is, so a step on a GPU needs nothing from the CPU.
    """
    graph = graph_of(vae, objective, *batch)
    own = {id(t) for t in (*vae.parameters(), *vae.buffers())}
    annealed = schedule_of(objective)
    if annealed is not None:
        own.add(id(annealed.taken))
    assert graph.varying
    assert [tuple(t.shape) for t in graph.varying if id(t) not in own] == []


@pytest.mark.parametrize("name", OBJECTIVES)
def test_objectives_read_only_the_pairs_tensors(name: str) -> None:
    assert_reads_its_own(bernoulli_vae(), OBJECTIVES[name](), binary(8))


@pytest.mark.parametrize(
    ("prior", "posterior", "likelihood"),
    slow_but(
        [
            *(("StandardNormal", "Normal", name) for name in LIKELIHOODS),
            *((*pair, "Bernoulli") for pair in PAIRS),
        ],
        {"Gaussian-shared", "GaussianMixture"},
    ),
)
def test_parts_read_only_the_pairs_tensors(prior: str, posterior: str, likelihood: str) -> None:
    vae = vae_of(prior, posterior, likelihood)
    assert_reads_its_own(vae, objectives.trace_elbo(), data(likelihood))


def test_a_tensor_of_the_program_is_read() -> None:
    """It may be on another device, and may change; a literal may not."""
    weight = torch.tensor(2.0)

    class Scaled(nn.Module):
        def __init__(self, network: nn.Module) -> None:
            super().__init__()
            self.network = network
            self.out_shape = network.out_shape

        def forward(self, z: torch.Tensor) -> torch.Tensor:
            return self.network(z) * weight + torch.tensor(1.0)

    vae = bernoulli_vae()
    vae.likelihood.network = Scaled(vae.likelihood.network)
    graph = graph_of(vae, objectives.trace_elbo(), binary(8))
    assert any(tensor is weight for tensor in graph.varying)
    literals = [t for t in graph.captured if not any(t is other for other in graph.varying)]
    assert torch.tensor(1.0) in [t for t in literals if not t.dim()]
