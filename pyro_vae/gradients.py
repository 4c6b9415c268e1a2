"""Gradients of objectives: how far their means are apart, and how much noise they have."""

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from pyro.infer import ELBO
from torch import Tensor, nn

from pyro_vae.contracts import check_data, check_dtype
from pyro_vae.objectives import schedule_of
from pyro_vae.utils.checks import check_count, check_seed
from pyro_vae.utils.modules import device_of, evaluating
from pyro_vae.utils.progress import progress_bar
from pyro_vae.utils.random import seeded
from pyro_vae.vae import VAE, check_vae

__all__ = ["MIN_DRAWS", "Gradient", "check_draws", "measure"]


def __dir__() -> list[str]:
    return __all__


_GROUPS = 10  # of draws, whose means are the sample for unbiased squares and their errors

MIN_DRAWS = 2 * _GROUPS
"""Gradients for each objective, at least."""


@dataclass(frozen=True)
class Gradient:
    r"""The gradient g of one objective by one part's parameters, of the loss per example.

    Attributes:
        norm: Length of the mean gradient, :math:`\|E g\|`, its noise taken out.
        variance: Of one draw, :math:`\mathrm{tr}\,\mathrm{Cov}(g)`.
        bias: Squared distance of the mean gradient from that of the first objective, relative to
            the latter's squared length, :math:`\|E g - E g_1\|^2 / \|E g_1\|^2`. The estimate is
            unbiased, so that it scatters about 0 for objectives of one target.
        bias_error: Its standard error, by the jackknife over groups of draws.
    """

    norm: float
    variance: float
    bias: float
    bias_error: float

    @property
    def snr(self) -> float:
        r"""Signal-to-noise ratio, :math:`\|E g\| / \sqrt{\mathrm{tr}\,\mathrm{Cov}(g)}`.

        Infinite where there is no noise.
        """
        return self.norm / math.sqrt(self.variance) if self.variance > 0 else math.inf


def measure(
    vae: VAE,
    x: Tensor,
    objectives: Mapping[str, ELBO],
    draws: int = 200,
    *,
    batch_size: int | None = None,
    seed: int | None = 0,
) -> dict[str, dict[str, Gradient]]:
    r"""The gradients of some objectives at the weights that a VAE has, in eval mode.

    Encoder are the posterior's parameters (a ``VampPrior`` shares them), decoder all others. For
    each draw the objectives have the same noise, as far as they use it alike, so that their
    differences have less. Weights, gradients and modes are left as they were.

    Arguments:
        vae: The VAE.
        x: Data of shape ``(N, *x_shape)``.
        objectives: Pyro ELBOs by name; copies are measured, a ``warm_up`` at the weight that it
            has.
        draws: Gradients for each objective, 20 or more.
        batch_size: Examples that each draw picks at random, so that the noise is that of a step of
            training; None is all of x in each, and then the noise is that of z alone.
        seed: Fixes the noise; None draws from torch's global generator.

    Returns:
        By objective, ``"encoder"`` and ``"decoder"``, of those that have parameters to train.

    Raises:
        TypeError, ValueError: x is no data for the VAE; no objective; `draws`, `batch_size` or
            `seed` is out of range.

    Source: signal-to-noise ratios of estimators: Rainforth et al. (2018), arXiv 1802.04537,
    section 3 (there for each parameter).
    """
    check_vae(vae)
    check_data(x)
    check_dtype("x", x, vae)
    check_seed(seed)
    check_draws(draws)
    if not objectives:
        raise ValueError("objectives: got none, expected at least one")
    if batch_size is not None:
        check_count("batch_size", batch_size)
        if batch_size > len(x):
            raise ValueError(
                f"batch_size: got {batch_size}, expected at most the {len(x)} examples"
            )
    x = x.to(device_of(vae))
    parts = {name: own for name, own in _parts(vae).items() if own}
    before = {p: p.grad for own in parts.values() for p in own}
    samples: dict[str, dict[str, _Sample]] = {}
    try:
        with (
            evaluating(vae),
            progress_bar(draws * len(objectives), "gradients", "gradients") as progress,
        ):
            for name, objective in objectives.items():
                objective = copy.deepcopy(objective)
                with seeded(seed, device=x.device):
                    # Pyro's first looks at the plates.
                    objective.loss(vae.model, vae.guide, x[:batch_size])
                samples[name] = {part: _Sample() for part in parts}
                schedule = schedule_of(objective)
                taken = torch.zeros(()) if schedule is None else schedule.taken.clone()
                for draw in range(draws):
                    vae.zero_grad()
                    batch = x
                    with seeded(seed, draw, device=x.device):
                        if batch_size is not None:
                            batch = x[torch.randperm(len(x), device=x.device)[:batch_size]]
                        objective.loss_and_grads(vae.model, vae.guide, batch)
                    if schedule is not None:
                        schedule.taken.copy_(taken)  # a draw is no step
                    for part, own in parts.items():
                        samples[name][part].add(_flat(own) / len(batch), draw * _GROUPS // draws)
                    progress.update()
    finally:
        for parameter, gradient in before.items():
            parameter.grad = gradient
    first = next(iter(samples.values()))
    return {
        name: {part: _compared(sample, first[part]) for part, sample in own.items()}
        for name, own in samples.items()
    }


def check_draws(draws: int) -> None:
    """Raises ValueError unless :func:`measure` can do with so many draws."""
    check_count("draws", draws)
    if draws < MIN_DRAWS:
        raise ValueError(f"draws: got {draws}, expected {MIN_DRAWS} or more")


def _parts(vae: VAE) -> dict[str, list[nn.Parameter]]:
    encoder = [p for p in vae.posterior.parameters() if p.requires_grad]
    ids = {id(p) for p in encoder}
    return {
        "encoder": encoder,
        "decoder": [p for p in vae.parameters() if p.requires_grad and id(p) not in ids],
    }


def _flat(parameters: list[nn.Parameter]) -> Tensor:
    return torch.cat(
        [(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in parameters]
    ).double()


class _Sample:
    """Sums of gradients by group, and of their squares."""

    def __init__(self) -> None:
        self.sums: list[Tensor] = []
        self.counts: list[int] = []
        self.squares = 0.0

    def add(self, gradient: Tensor, group: int) -> None:
        if group == len(self.sums):
            self.sums.append(torch.zeros_like(gradient))
            self.counts.append(0)
        self.sums[group] += gradient
        self.counts[group] += 1
        self.squares += gradient.square().sum().item()

    def means(self) -> Tensor:
        """The mean of each group, shape (groups, numbers)."""
        return torch.stack([s / n for s, n in zip(self.sums, self.counts, strict=True)])

    def variance(self) -> float:
        count = sum(self.counts)
        mean = sum(self.sums) / count
        assert isinstance(mean, Tensor)
        return max(0.0, (self.squares - count * mean.square().sum().item()) / (count - 1))


def _squared_length(means: Tensor) -> float:
    """An unbiased estimate of the squared length of an expected vector, from independent means."""
    count = len(means)
    products = means @ means.T
    return ((products.sum() - products.trace()) / (count * (count - 1))).item()


def _compared(sample: _Sample, first: _Sample) -> Gradient:
    own, other = sample.means(), first.means()

    def bias(keep: Tensor) -> float:
        length = _squared_length(other[keep])
        apart = _squared_length(own[keep] - other[keep])
        return apart / length if length > 0 else (0.0 if apart == 0 else math.nan)

    every = torch.arange(len(own))
    left_out = torch.tensor([bias(every[every != group]) for group in every])
    spread = (left_out - left_out.mean()).square().sum().item()
    return Gradient(
        norm=math.sqrt(max(0.0, _squared_length(own))),
        variance=sample.variance(),
        bias=bias(every),
        bias_error=math.sqrt((len(own) - 1) / len(own) * spread),
    )
