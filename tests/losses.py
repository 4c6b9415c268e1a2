"""Losses and gradients of objectives from a given seed, and many of them as a sample."""

import math
from collections.abc import Callable

import pyro.distributions as dist
import torch
from pyro.infer import ELBO
from torch import Tensor

from .vaes import LinearGaussian

Program = tuple[Callable[..., object], Callable[..., object], tuple[Tensor, ...], list[Tensor]]


COPIES = 20
"""Of the data in one loss, whose gradient is then a sum over as many independent draws."""

DRAWS = 60
"""Losses whose gradients make a sample."""


def program_of(case: LinearGaussian, copies: int = 1) -> Program:
    """A VAE on its data, which may be repeated."""
    vae = case.vae
    return vae.model, vae.guide, (case.x.repeat(copies, 1),), list(vae.parameters())


def primed(objective: ELBO, program: Program) -> ELBO:
    """After its first loss, in which Pyro also runs the program once to look at the plates."""
    model, guide, args, _ = program
    objective.loss(model, guide, *args)
    return objective


def gradient(objective: ELBO, program: Program, seed: int = 0) -> tuple[float, list[Tensor]]:
    """One loss and its gradients, by a fixed noise."""
    model, guide, args, parameters = program
    if objective.max_plate_nesting == math.inf:
        primed(objective, program)
    torch.manual_seed(seed)
    for parameter in parameters:
        parameter.grad = None
    loss = objective.loss_and_grads(model, guide, *args)
    return loss, [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in parameters]


def gradients(objective: ELBO, program: Program, draws: int = DRAWS, first: int = 0) -> Tensor:
    """Flat gradients of independent losses, shape (draws, numbers)."""
    rows = [gradient(objective, program, first + seed)[1] for seed in range(draws)]
    return torch.stack([torch.cat([g.flatten() for g in row]) for row in rows])


def log_weights(case: LinearGaussian, samples: int) -> Tensor:
    """log w of each sample and example, by the formula, with the noise of an objective."""
    q_z = case.vae.posterior(case.x)
    z = q_z.rsample((samples,))
    log_p = case.vae.prior().log_prob(z) + case.vae.likelihood(z).log_prob(case.x)
    return log_p - q_z.log_prob(z)


def exact_elbo_gradient(case: LinearGaussian) -> Tensor:
    """Of the negative ELBO, whose terms are all closed forms."""
    vae = case.vae
    vae.zero_grad()
    q_z = vae.posterior(case.x).base_dist
    layer, scale = vae.likelihood.network.layers[0], vae.likelihood.scale
    mean = q_z.loc @ layer.weight.T + layer.bias
    log_p = dist.Normal(mean, scale).log_prob(case.x).sum()
    log_p = log_p - (q_z.scale.square() @ layer.weight.square().sum(0)).sum() / (2 * scale**2)
    kl = 0.5 * (q_z.loc**2 + q_z.scale**2 - 2 * q_z.scale.log() - 1).sum()
    (kl - log_p).backward()
    return torch.cat([p.grad.flatten() for p in vae.parameters()])
