"""Simulation-based calibration: whether posterior draws have the spread that they should have."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pyro_vae.evaluation.blocks import EXAMPLES, Block, blocks, chunks
from pyro_vae.evaluation.estimators import AIS, parse
from pyro_vae.evaluation.estimators.annealed_path import Path
from pyro_vae.evaluation.log_densities import Latents, LogDensities
from pyro_vae.evaluation.memory_limit import MaxBytes, check_max_bytes
from pyro_vae.evaluation.simulation import simulated
from pyro_vae.pair import Pair, check_pair
from pyro_vae.utils.checks import check_count, check_seed
from pyro_vae.utils.context import Batch, Context, as_batch, as_context, rows
from pyro_vae.utils.modules import device_of, evaluating, without_gradients
from pyro_vae.utils.random import seeded
from pyro_vae.utils.tables import markdown
from pyro_vae.utils.turns import one_at_a_time

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SIMULATED = 2**31  # the random stream of the data, which no block has
_TIES, _RESAMPLED = 4, 5  # random streams of a block, beside those of its chains
_CHAINS = 4  # of AIS, of which one is drawn by its weight
_MOVES, _LEAPFROG_STEPS = 200, 10
_ORDERS = 4  # of the polynomials of the test
_LEVEL = 0.05  # of the corrected p-values

Draws = Callable[[Block, int], Iterator[Latents]]
"""Yields posterior draws of a block's examples in chunks, given their number."""


@dataclass(frozen=True, repr=False)
class Calibration:
    """Ranks of simulated latents among posterior draws given the simulated data.

    If the draws come from the posterior, each rank is uniform on 0, ..., L. Printed, it is a table
    of the quantities.

    Attributes:
        names: The quantities: each number of each latent site, and log p(x, z).
        ranks: The number of draws below the simulated value, shape ``(quantities, N)``. Ties are
            broken at random.
        p_values: The p-value of each quantity, by Neyman's smooth test of order 4, shape
            ``(quantities,)``.
        corrected: The p-values, corrected for their number by Holm's method.
        shift: The mean of the ranks in standard errors from the uniform one. Above 0, the draws
            are too low.
        width: The variance of the ranks in standard errors from the uniform one. Above 0, the
            draws are too narrow.
        num_samples: L, the number of draws given each data set.
        method: What made the draws.
        seed: The seed of data and draws, or None.

    Example:
        >>> from pyro_vae.evaluation import calibration
        >>> vae = presets.build("pyro-mlp", z_dim=2, shape=16)
        >>> result = calibration(vae, num_datasets=50, num_samples=9, seed=0)
        >>> result.names
        ('z[0]', 'z[1]', 'log p(x, z)')
        >>> result.ranks.shape, result.verdicts[0]
        (torch.Size([3, 50]), 'calibrated')
    """

    names: tuple[str, ...]
    ranks: Tensor
    p_values: Tensor
    corrected: Tensor
    shift: Tensor
    width: Tensor
    num_samples: int
    method: str
    seed: int | None

    @property
    def verdicts(self) -> tuple[str, ...]:
        """What the ranks say of the draws of each quantity, at a corrected p-value of 0.05.

        One of ``"calibrated"``, ``"too narrow"``, ``"too wide"``, ``"too low"``, ``"too high"``,
        and ``"of another shape"``, by the larger of :attr:`width` and :attr:`shift`.
        """
        columns = self.corrected, self.shift, self.width
        return tuple(map(_verdict, *(column.tolist() for column in columns)))

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Draws the ranks' distribution, see :func:`pyro_vae.plots.ranks`."""
        from pyro_vae import plots  # slow to import

        return plots.ranks(self.ranks, self.num_samples, self.names, ax=ax)

    def __repr__(self) -> str:
        columns = self.p_values, self.corrected, self.shift, self.width
        numbers = zip(*(column.tolist() for column in columns), strict=True)
        header = ("quantity", "p", "corrected", "shift", "width", "draws")
        lines = [
            (name, f"{p:.3g}", f"{corrected:.3g}", f"{shift:+.1f}", f"{width:+.1f}", verdict)
            for name, (p, corrected, shift, width), verdict in zip(
                self.names, numbers, self.verdicts, strict=True
            )
        ]
        head = f"{self.ranks.shape[1]} data sets, {self.num_samples} draws each by {self.method}"
        return f"{head}\n{markdown(header, lines)}"


@one_at_a_time
def calibration(
    vae: Pair,
    num_datasets: int = 1000,
    num_samples: int = 99,
    method: str | AIS = "guide",
    context: Context | None = None,
    seed: int | None = None,
    *,
    x: Batch | None = None,
    max_bytes: MaxBytes = "auto",
) -> Calibration:
    r"""Simulation-based calibration of a guide, of AIS or of MCMC.

    .. math:: z^* \sim p(z), \quad x \sim p(x|z^*), \quad z_1, \dots, z_L \sim q(z|x), \quad
        r = \#\{l : z_l < z^*\}

    Given x, the simulated :math:`z^*` is a draw of the posterior, too. So the rank r of each
    dimension is uniform on 0, ..., L if the method draws from the posterior, and so is that of
    log p(x, z). Ranks near the ends show draws that are too narrow, ranks near the middle draws
    that are too wide, and a trend draws that are shifted. This says how well a guide fits the
    posteriors of simulated data, and nothing about real data.

    Source: Talts, Betancourt, Simpson, Vehtari and Gelman (2018), arXiv 1804.06788, algorithm 1;
    Modrák et al. (2025), Bayesian Analysis 20, for log p(x, z); Neyman (1937), Skandinavisk
    Aktuarietidskrift 20, for the test.

    Arguments:
        vae: A VAE or any :class:`Pair`; it is in eval mode meanwhile.
        num_datasets: N, the number of simulated data sets, each of one example.
        num_samples: L, the number of draws given each.
        method: ``"guide"`` draws from q(z|x). ``"ais"`` draws one of four chains of annealed
            importance sampling by their weights, for each draw; ``"ais:100:5"`` has other
            settings, as has an ``estimators.AIS``. ``"mcmc"`` takes the end of a Hamiltonian chain
            that starts at a draw of the prior, for each draw; ``"mcmc:200:10"`` has 200 moves of
            10 leapfrog steps. AIS and MCMC need continuous latents.
        context: What is given with the data of a VAE: tensors whose rows are used in turn.
        seed: Fixes data and draws, and leaves torch's global generator as it was; None draws from
            that generator.
        x: Examples of a pair that is no VAE, or a tuple of them and their context. The simulated
            data take their shape and context, in turn; their values are not used.
        max_bytes: A bound on the bytes of one step, as in :func:`log_likelihood`.

    Returns:
        The ranks, and p-values for their uniformity.

    Raises:
        TypeError: `vae` is not a pair, `x` is given for a VAE or missing for another pair, or an
            argument has the wrong type.
        ValueError: An argument is out of range, or the method does not work for the pair. The
            model observes something else than x, or the distribution of x depends on x itself.

    Example:
        >>> from pyro_vae.evaluation import calibration
        >>> vae = presets.build("pyro-mlp", z_dim=2, shape=16)
        >>> result = calibration(vae, num_datasets=50, num_samples=9, method="mcmc:20:5", seed=0)
        >>> result.method, result.verdicts[-1]
        ('mcmc:20:5', 'calibrated')
    """
    check_pair(vae)
    check_count("num_datasets", num_datasets)
    check_count("num_samples", num_samples)
    check_max_bytes(max_bytes)
    check_seed(seed)
    name, draws = _method(method)
    ranks: list[Tensor] = []
    with without_gradients(), evaluating(vae):
        given = None if context is None else _in_turn(as_context(context), num_datasets, "context")
        template = None if x is None else _in_turn(as_batch(x), num_datasets, "x")
        with seeded(seed, _SIMULATED, device=device_of(vae)):
            batch, z = simulated(vae, num_datasets, template, given)
        # Ranks of discrete latents show a wrong guide; chains move continuous ones alone.
        marginal = name != "guide"
        densities = LogDensities(vae.model, vae.guide, batch, marginal=marginal)
        for block in blocks(densities, batch, seed, max_bytes, desc="calibration"):
            first = block.index * EXAMPLES
            own = densities.part(z, slice(None), slice(first, first + len(block.x)))
            ranks.append(_ranks(block, own, draws(block, num_samples)))
    names = _names(densities, z)
    found = torch.cat(ranks, 1).cpu()
    shift, width, p_values = _tested(found, num_samples)
    corrected = _corrected(p_values)
    settings = found, p_values, corrected, shift, width, num_samples, name, seed
    return Calibration(names, *settings)


def _in_turn(entries: tuple[Tensor, ...], count: int, argument: str) -> tuple[Tensor, ...]:
    """The rows of some tensors, from the first again after the last."""
    if not entries or not len(entries[0]):
        raise ValueError(f"{argument}: got no rows, expected at least one")
    return rows(entries, torch.arange(count, device=entries[0].device) % len(entries[0]))


# The draws.


def _method(method: str | AIS) -> tuple[str, Draws]:
    """The name of a method, and what draws by it."""
    if isinstance(method, str):
        kind, *numbers = method.split(":")
        if method == "guide":
            return method, _of_the_guide
        if kind == "mcmc" and len(numbers) in (0, 2) and all(n.isdecimal() for n in numbers):
            moves, steps = map(int, numbers or (_MOVES, _LEAPFROG_STEPS))
            if moves and steps:
                return method, lambda block, count: _of_chains(block, count, moves, steps)
        if kind == "ais":
            found = parse(method)
            assert isinstance(found, AIS)
            return method, lambda block, count: _of_ais(block, count, found)
    elif isinstance(method, AIS):
        name = f"ais:{method.temperatures}:{method.leapfrog_steps}"
        return name, lambda block, count: _of_ais(block, count, method)
    else:
        raise TypeError(f'method: got {method!r}, expected "guide", "ais", "mcmc" or an AIS')
    raise ValueError(
        f'method: got {method!r}, expected "guide", "ais", "ais:T:L" of T temperatures and L '
        'leapfrog steps, "mcmc" or "mcmc:M:L" of M moves'
    )


def _of_the_guide(block: Block, count: int) -> Iterator[Latents]:
    for _, z, _ in block.draws(count):
        yield z


def _of_chains(block: Block, count: int, moves: int, leapfrog_steps: int) -> Iterator[Latents]:
    path = Path(block, 1, leapfrog_steps, warm_up=moves)
    for start, number in chunks(count):
        yield path.moved(start, number, moves)


def _of_ais(block: Block, count: int, ais: AIS) -> Iterator[Latents]:
    """Draws one of some chains by its weight, for each draw, so that draws are independent."""
    path = Path(block, ais.temperatures, ais.leapfrog_steps)
    for start, number in chunks(count * _CHAINS):
        z, log_w = path.weighted(start, number)
        groups = log_w.view(-1, _CHAINS, log_w.shape[1]).movedim(1, -1)
        with block.stream(_RESAMPLED, start):
            chosen = torch.distributions.Categorical(logits=groups).sample()
        chains = chosen + _CHAINS * torch.arange(len(chosen), device=chosen.device)[:, None]
        yield {name: _chosen(block, value, chains) for name, value in z.items()}


def _chosen(block: Block, value: Tensor, chains: Tensor) -> Tensor:
    """The chains of each example with some numbers, of shape ``(samples, N)``."""
    index = block.densities.broadcastable(chains, value)
    return value.gather(0, index.expand(len(chains), *value.shape[1:]))


# The ranks.


def _ranks(block: Block, own: Latents, draws: Iterator[Latents]) -> Tensor:
    """The ranks of simulated latents and their log-densities, shape ``(quantities, N)``."""
    mine = _quantities(block, own)
    below = torch.zeros_like(mine[0], dtype=torch.long)
    equal = below.clone()
    for z in draws:
        values = _quantities(block, z)
        below += (values < mine).sum(0)
        equal += (values == mine).sum(0)
    with block.stream(_TIES):
        uniform = torch.rand(equal.shape, device=equal.device, dtype=torch.float64)
    return below + (uniform * (equal + 1)).long()


def _quantities(block: Block, z: Latents) -> Tensor:
    """All numbers of the latents and log p(x, z), shape ``(samples, quantities, N)``."""
    axis, size = block.densities.example_axis, len(block.x)
    log_p_z, log_p_x = block.score(z)
    values = [z[name].movedim(axis, -1) for name in block.densities.latents]
    values.append(log_p_z + log_p_x)
    return torch.cat([value.reshape(len(value), -1, size).double() for value in values], 1)


def _names(densities: LogDensities, z: Latents) -> tuple[str, ...]:
    found = []
    for name in densities.latents:
        value = z[name].movedim(densities.example_axis, -1)
        places = product(*map(range, value.shape[1:-1]))
        found += [f"{name}[{', '.join(map(str, place))}]" if place else name for place in places]
    return (*found, "log p(x, z)")


# Whether they are uniform.


def _tested(ranks: Tensor, num_samples: int) -> tuple[Tensor, Tensor, Tensor]:
    """Shift, width and p-value of ranks of shape ``(quantities, N)``.

    The components of the test are means of polynomials that are orthonormal over 0, ..., L. The
    first is the shift, and the second the width. The sum of their squares is nearly chi-squared.
    """
    orders = min(_ORDERS, num_samples)
    line = torch.linspace(-1, 1, num_samples + 1, dtype=torch.float64)
    powers = torch.stack([line**order for order in range(orders + 1)], 1)
    basis = torch.linalg.qr(powers).Q * math.sqrt(num_samples + 1)
    basis = basis * basis[-1].sign()  # Each grows at the end.
    components = basis[:, 1:][ranks].mean(1) * math.sqrt(ranks.shape[1])
    squares = components.square().sum(-1)
    halves = torch.full_like(squares, orders / 2)
    p_values = torch.special.gammaincc(halves, squares / 2)
    width = components[:, 1] if orders > 1 else torch.zeros_like(squares)
    return components[:, 0], width, p_values


def _corrected(p_values: Tensor) -> Tensor:
    """Holm's correction: the chance that any p-value is below a level is at most that level."""
    order = p_values.argsort()
    factors = torch.arange(len(p_values), 0, -1)
    sorted_ = (p_values[order] * factors).cummax(0).values.clamp(max=1)
    return torch.empty_like(p_values).scatter_(0, order, sorted_)


def _verdict(corrected: float, shift: float, width: float) -> str:
    if corrected >= _LEVEL:
        return "calibrated"
    if max(abs(shift), abs(width)) < 2:
        return "of another shape"
    if abs(width) >= abs(shift):
        return "too narrow" if width > 0 else "too wide"
    return "too low" if shift > 0 else "too high"
