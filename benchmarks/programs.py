"""The same step in each way of writing it: by hand, as Pyro's example does, and ours."""

import math
from collections.abc import Callable

import pyro
import pyro.distributions as dist
import pyro.optim
import torch
import torch.nn.functional as F
from pyro.infer import ELBO, SVI, JitTrace_ELBO, Trace_ELBO
from torch import Tensor, nn

from pyro_vae import VAE, objectives, optim
from pyro_vae.training import program

Step = Callable[[Tensor], float]
"""A training step on a batch; returns its loss."""


def by_hand(
    vae: VAE, *, fused: bool, compiled: bool = False, particles: int = 1, mode: str | None = None
) -> Step:
    """Plain PyTorch over the same networks, as one writes it without Pyro."""
    encoder, decoder = networks(vae)
    optimizer = torch.optim.Adam(vae.parameters(), lr=1e-3, fused=fused)

    def loss_of(x: Tensor) -> Tensor:
        loc, raw = encoder(x).chunk(2, -1)
        scale = F.softplus(raw) + 1e-4
        z = loc + scale * torch.randn((particles, *loc.shape), device=x.device)
        logits = decoder(z)
        x = x.expand_as(logits)
        reconstruction = F.binary_cross_entropy_with_logits(logits, x, reduction="sum")
        log_ratio = (-scale.log() - 0.5 * ((z - loc) / scale) ** 2 + 0.5 * z**2).sum()
        return (reconstruction + log_ratio) / particles

    forward = torch.compile(loss_of, mode=mode) if compiled or mode else loss_of

    def step(x: Tensor) -> float:
        optimizer.zero_grad()
        loss = forward(x)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def as_pyros_example(vae: VAE, elbo: ELBO) -> Step:
    """A model and guide in the manner of Pyro's VAE example, with its optimizer."""
    encoder, decoder = networks(vae)
    z_dim = vae.prior().event_shape[0]
    name = f"{id(vae)}"  # pyro.module shares what has one name

    def model(x: Tensor) -> None:
        pyro.module(f"decoder-{name}", decoder)
        with pyro.plate("data", x.shape[0]):
            loc = x.new_zeros((x.shape[0], z_dim))
            z = pyro.sample("z", dist.Normal(loc, torch.ones_like(loc)).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=decoder(z)).to_event(x.dim() - 1), obs=x)

    def guide(x: Tensor) -> None:
        pyro.module(f"encoder-{name}", encoder)
        with pyro.plate("data", x.shape[0]):
            loc, raw = encoder(x).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, F.softplus(raw) + 1e-4).to_event(1))

    return SVI(model, guide, pyro.optim.Adam({"lr": 1e-3}), elbo).step


def ours(vae: VAE, *, compiled: bool, precision: str = "float32", particles: int = 1) -> Step:
    """``SVI`` with this package's optimizer and objective."""
    objective = objectives.trace_elbo(particles)
    loss = objectives.compiled(objective) if compiled else objective
    return SVI(*program(vae, precision), optim.Adam(lr=1e-3), loss).step


def variants(make: Callable[[], VAE], particles: int = 1) -> dict[str, Step]:
    """All ways, each with networks of its own."""
    elbo = {"num_particles": particles, "vectorize_particles": particles > 1}
    nesting = {"max_plate_nesting": 1}
    return {
        "PyTorch by hand, Adam": by_hand(make(), fused=False, particles=particles),
        "PyTorch by hand, fused Adam": by_hand(make(), fused=True, particles=particles),
        "PyTorch by hand, torch.compile, fused Adam": by_hand(
            make(), fused=True, compiled=True, particles=particles
        ),
        "Pyro's example": as_pyros_example(make(), Trace_ELBO(**elbo)),
        "Pyro's example, JitTrace_ELBO": as_pyros_example(
            make(), JitTrace_ELBO(ignore_jit_warnings=True, **elbo, **nesting)
        ),
        "ours: SVI, optim.Adam": ours(make(), compiled=False, particles=particles),
        "ours: the same, compiled": ours(make(), compiled=True, particles=particles),
        "ours: the same, compiled, bf16": ours(
            make(), compiled=True, precision="bf16", particles=particles
        ),
    }


def networks(vae: VAE) -> tuple[nn.Module, nn.Module]:
    """Encoder and decoder of a VAE whose parts hold one network each."""
    encoder, decoder = vae.posterior.network, vae.likelihood.network
    assert isinstance(encoder, nn.Module)
    assert isinstance(decoder, nn.Module)
    return encoder, decoder


def products(decoder: nn.Module, z: Tensor, times: int) -> Callable[[], None]:
    """The matrix products of a decoder alone, for so many batches of latents."""
    weights = [p.detach() for p in decoder.parameters() if p.dim() == 2]

    def multiply() -> None:
        for _ in range(times):
            h = z
            for weight in weights:
                h = h @ weight.T

    return multiply


def importance_loop(vae: VAE, x: Tensor, samples: int, at_once: int) -> Callable[[], list[float]]:
    """log p(x) by importance weighting, as one writes it by hand over the same networks.

    Arguments:
        vae: The VAE.
        x: Binary pixels, of which 64 images are taken at a time.
        samples: The number of samples of each image.
        at_once: The number of samples that are taken at a time.
    """
    decoder = networks(vae)[1]

    @torch.no_grad()
    def loop() -> list[float]:
        values = []
        for some in x.split(64):
            q_z, log_w = vae.posterior(some), []
            for first in range(0, samples, at_once):
                z = q_z.sample((min(at_once, samples - first),))
                logits = decoder(z)
                log_p = -F.binary_cross_entropy_with_logits(
                    logits, some.expand_as(logits), reduction="none"
                ).sum((-2, -1))
                prior = torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(-1)
                log_w.append(log_p + prior - q_z.log_prob(z))
            values.append(torch.cat(log_w).logsumexp(0) - math.log(samples))
        return torch.cat(values).tolist()

    return loop
