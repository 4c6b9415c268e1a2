"""Gradients of objectives: their bias in relation to each other, and their noise."""

import copy
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from pyro.infer import ELBO
from torch import Tensor, nn

from pyro_vae.contracts import check_context, check_data, check_dtype
from pyro_vae.objectives import check_elbo, schedule_of
from pyro_vae.pair import Pair, check_pair
from pyro_vae.utils.checks import (
    check_count,
    check_examples,
    check_mapping,
    check_seed,
    check_text,
)
from pyro_vae.utils.context import Batch, Examples, as_batch, rows
from pyro_vae.utils.memory import peak_bytes
from pyro_vae.utils.modules import device_of, evaluating
from pyro_vae.utils.progress import progress_bar
from pyro_vae.utils.random import seeded
from pyro_vae.utils.turns import one_at_a_time
from pyro_vae.vae import VAE

__all__ = ["MIN_DRAWS", "Gradient", "advanced", "check_draws", "check_objectives", "measure"]


def __dir__() -> list[str]:
    return __all__


_GROUPS = 10  # groups of draws; unbiased squares and their errors come from the groups' means

MIN_DRAWS = 2 * _GROUPS
"""The smallest number of gradients that are drawn for each objective."""


@dataclass(frozen=True)
class Gradient:
    r"""Statistics of the gradient g of an objective, in nats per example.

    g is the gradient of the loss per example by the parameters of the encoder or the decoder.

    Attributes:
        norm: The length of the mean gradient, :math:`\|E g\|`, corrected for noise.
        variance: The total variance of one draw, :math:`\mathrm{tr}\,\mathrm{Cov}(g)`.
        bias: The squared distance of the mean gradient from that of the first objective, relative
            to the latter's squared length, :math:`\|E g - E g_1\|^2 / \|E g_1\|^2`. The squared
            distance is estimated without bias, so `bias` may be negative. It is near 0 for
            objectives with the same expected gradient.
        bias_error: The standard error of `bias`, by the jackknife over groups of draws.

    Example:
        >>> from pyro_vae.gradients import Gradient
        >>> Gradient(norm=2.0, variance=16.0, bias=0.0, bias_error=0.0).snr
        0.5
    """

    norm: float
    variance: float
    bias: float
    bias_error: float

    @property
    def snr(self) -> float:
        r"""The signal-to-noise ratio, :math:`\|E g\| / \sqrt{\mathrm{tr}\,\mathrm{Cov}(g)}`.

        Infinite if there is no noise.
        """
        return self.norm / math.sqrt(self.variance) if self.variance > 0 else math.inf


@one_at_a_time
def measure(
    vae: Pair,
    x: Batch,
    objectives: Mapping[str, ELBO],
    draws: int = 200,
    *,
    batch_size: int | None = None,
    seed: int | None = 0,
) -> dict[str, dict[str, Gradient]]:
    r"""Measures the gradients of objectives at the current parameters of a VAE, in eval mode.

    .. math:: \mathrm{SNR} = \frac{\|E g\|}{\sqrt{\mathrm{tr}\,\mathrm{Cov}(g)}}, \quad
        \mathrm{bias} = \frac{\|E g - E g_1\|^2}{\|E g_1\|^2}

    The encoder's parameters are those that the guide reads (a ``VampPrior`` shares them), the
    decoder's are all others. Each draw has the same random numbers for all objectives, so that
    their differences are less noisy. The parameters, gradients and modes are not changed.

    Source: Rainforth et al. (2018), arXiv 1802.04537, section 3, who define the signal-to-noise
    ratio of each parameter.

    Arguments:
        vae: A VAE or any :class:`Pair`.
        x: Data of shape ``(N, *x_shape)``, or a tuple of them and their context.
        objectives: Pyro ELBOs by name. Copies are measured. A ``warm_up`` keeps its current
            weight of the KL.
        draws: The number of gradients for each objective, 20 or more.
        batch_size: The size of the random batch of each draw, whose noise is that of a training
            step. None takes all of x in each draw: the noise is then that of z alone.
        seed: Fixes the noise, and leaves torch's global generator as it was; None draws from that
            generator.

    Returns:
        A :class:`Gradient` by objective and part, ``"encoder"`` or ``"decoder"``. A part without
        trainable parameters is left out.

    Raises:
        TypeError: `vae` is not a pair, or x has another dtype.
        ValueError: There are no objectives, or an argument is out of range.

    Example:
        >>> from pyro_vae.gradients import measure
        >>> vae = presets.build("pyro-mlp", z_dim=2, shape=16)
        >>> bounds = {"elbo": objectives.trace_elbo(), "iwae": objectives.iwae(5)}
        >>> gradients = measure(vae, torch.ones(7, 16), bounds, draws=20)
        >>> list(gradients), list(gradients["iwae"])
        (['elbo', 'iwae'], ['encoder', 'decoder'])
    """
    check_pair(vae)
    batch = as_batch(x)
    check_examples("x", batch[0])
    if isinstance(vae, VAE):
        check_data(batch[0], "x", vae, batch[1:])
        check_dtype("x", batch[0], vae)
        check_context(vae, batch[1:], values=True)
    check_seed(seed)
    check_draws(draws)
    check_objectives(objectives)
    if batch_size is not None:
        check_count("batch_size", batch_size)
        if batch_size > len(batch[0]):
            raise ValueError(
                f"batch_size: got {batch_size}, expected at most the {len(batch[0])} examples"
            )
    batch = tuple(entry.to(device_of(vae)) for entry in batch)
    with seeded(seed, device=device_of(vae)):
        parts = {name: own for name, own in _parts(vae, batch).items() if own}
    before = {p: p.grad for own in parts.values() for p in own}
    samples: dict[str, dict[str, _Sample]] = {}
    try:
        with (
            evaluating(vae),
            progress_bar(draws * len(objectives), "gradients", "gradients") as progress,
        ):
            for name, objective in objectives.items():
                drawn = _drawn(vae, batch, objective, draws, batch_size, seed)
                samples[name] = {part: _Sample() for part in parts}
                for draw, size in enumerate(drawn):
                    for part, own in parts.items():
                        samples[name][part].add(_flat(own) / size, draw * _GROUPS // draws)
                    progress.update()
    finally:
        for parameter, gradient in before.items():
            parameter.grad = gradient
    first = next(iter(samples.values()))
    return {
        name: {part: _compared(sample, first[part]) for part, sample in own.items()}
        for name, own in samples.items()
    }


def _drawn(
    vae: Pair,
    batch: Examples,
    objective: ELBO,
    draws: int,
    batch_size: int | None,
    seed: int | None,
) -> Iterator[int]:
    """Leaves the gradients of each draw in the parameters; yields the number of examples."""
    objective, device = copy.deepcopy(objective), batch[0].device
    with seeded(seed, device=device):
        # At its first call, a Pyro ELBO runs model and guide to count the plates.
        objective.loss(vae.model, vae.guide, *rows(batch, slice(batch_size)))
    schedule = schedule_of(objective)
    taken = torch.zeros(()) if schedule is None else schedule.taken.clone()
    for draw in range(draws):
        vae.zero_grad()
        part = batch
        with seeded(seed, draw, device=device):
            if batch_size is not None:
                index = torch.randperm(len(batch[0]), device=device)[:batch_size]
                part = rows(batch, index)
            objective.loss_and_grads(vae.model, vae.guide, *part)
        if schedule is not None:
            schedule.taken.copy_(taken)  # draws do not count as training steps
        yield len(part[0])


def peak_of_step(vae: Pair, batch: Examples, objective: ELBO) -> int:
    """The peak bytes of a step, which include the gradients of the parameters."""
    objective = copy.deepcopy(objective)
    with seeded(0, device=batch[0].device):
        objective.loss(vae.model, vae.guide, *batch)  # the first call counts the plates
        vae.zero_grad()
        peak = peak_bytes(lambda: objective.loss_and_grads(vae.model, vae.guide, *batch))
        vae.zero_grad()
    return peak


def check_draws(draws: int) -> None:
    """Raises ValueError unless :func:`measure` accepts this number of draws.

    Example:
        >>> from pyro_vae.gradients import check_draws
        >>> check_draws(19)
        Traceback (most recent call last):
        ValueError: draws: got 19, expected 20 or more
    """
    check_count("draws", draws)
    if draws < MIN_DRAWS:
        raise ValueError(f"draws: got {draws}, expected {MIN_DRAWS} or more")


def check_objectives(objectives: Mapping[str, ELBO]) -> None:
    """Raises TypeError or ValueError unless `objectives` are ELBOs by name, at least one.

    Example:
        >>> from pyro_vae.gradients import check_objectives
        >>> check_objectives({})
        Traceback (most recent call last):
        ValueError: objectives: got none, expected at least one
    """
    check_mapping("objectives", objectives, "names to ELBOs")
    for name, objective in objectives.items():
        check_text("objectives, name", name)
        check_elbo(objective, f"objectives[{name!r}]")


def _parts(vae: Pair, batch: Examples) -> dict[str, list[nn.Parameter]]:
    """Returns the trainable parameters of the encoder and the decoder."""
    encoder = vae.reads("guide", *batch)
    ids = {id(p) for p in encoder}
    return {
        "encoder": encoder,
        "decoder": [p for p in vae.parameters() if p.requires_grad and id(p) not in ids],
    }


def _flat(parameters: list[nn.Parameter]) -> Tensor:
    """Returns the gradients of the parameters as one vector, in float64."""
    return torch.cat(
        [(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in parameters]
    ).double()


class _Sample:
    """Sums of gradients by group, and the sum of their squares."""

    def __init__(self) -> None:
        self.sums: list[Tensor] = []
        self.counts: list[int] = []
        self.squares: Tensor | float = 0.0

    def add(self, gradient: Tensor, group: int) -> None:
        if group == len(self.sums):
            self.sums.append(torch.zeros_like(gradient))
            self.counts.append(0)
        self.sums[group] += gradient
        self.counts[group] += 1
        self.squares = self.squares + gradient.square().sum()

    def means(self) -> Tensor:
        """Returns the mean gradient of each group, shape ``(groups, parameters)``."""
        return torch.stack([s / n for s, n in zip(self.sums, self.counts, strict=True)])

    def variance(self) -> float:
        count = sum(self.counts)
        mean = sum(self.sums) / count
        assert isinstance(mean, Tensor)
        return max(0.0, float(self.squares - count * mean.square().sum()) / (count - 1))


def _squared_length(products: Tensor) -> float:
    """Returns an unbiased estimate of the squared length of an expected vector.

    `products` are the inner products of independent estimates of the vector with each other.
    Those of two different ones are averaged.
    """
    count = len(products)
    return ((products.sum() - products.trace()) / (count * (count - 1))).item()


def _compared(sample: _Sample, first: _Sample) -> Gradient:
    """Returns the statistics of an objective's gradients, compared with the first objective's."""
    own, other = sample.means(), first.means()
    # Between groups, once: leaving a group out leaves out a row and a column.
    lengths, distances = ((m @ m.T).cpu() for m in (other, own - other))

    def bias(keep: Tensor) -> float:
        length = _squared_length(lengths[keep][:, keep])
        distance = _squared_length(distances[keep][:, keep])
        return distance / length if length > 0 else (0.0 if distance == 0 else math.nan)

    every = torch.arange(len(own))
    left_out = torch.tensor([bias(every[every != group]) for group in every])
    spread = (left_out - left_out.mean()).square().sum().item()
    return Gradient(
        norm=math.sqrt(max(0.0, _squared_length(own @ own.T))),
        variance=sample.variance(),
        bias=bias(every),
        bias_error=math.sqrt((len(own) - 1) / len(own) * spread),
    )


def advanced(objectives: Mapping[str, ELBO], steps: int) -> dict[str, ELBO]:
    """Copies of objectives, with their schedules moved on by a number of steps.

    Arguments:
        objectives: The objectives by name.
        steps: The number of steps.

    Example:
        >>> from pyro_vae.gradients import advanced
        >>> warm_up = objectives.warm_up(objectives.trace_elbo(), 10)
        >>> int(advanced({"warm_up": warm_up}, 5)["warm_up"].taken)
        5
    """
    check_objectives(objectives)
    check_count("steps", steps, 0)
    copies = {name: copy.deepcopy(objective) for name, objective in objectives.items()}
    for objective in copies.values():
        if (schedule := schedule_of(objective)) is not None:
            schedule.taken += steps
    return copies
