"""Densities of every part at any shape, dtype, memory layout and size of number.

Three laws. In float64, a likelihood is its formula, which mpmath evaluates to 160 digits. In
either dtype, the log-density and its gradients are those of float64 on a contiguous copy, up to
rounding, however the tensors lie in memory. Nothing is NaN or +inf, and -inf is a density that the
dtype cannot tell from zero.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import mpmath
import pyro.distributions as dist
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mpmath import mpf
from torch import Tensor, nn
from torch.func import functional_call

from pyro_vae import likelihoods, optim, posteriors, priors

from .swaps import LEVELS
from .vaes import Given

Pool = Sequence[float]
Formula = Callable[..., list[Any]]

QUICK = settings(max_examples=12, derandomize=True, deadline=None, database=None)
MANY = settings(max_examples=250, derandomize=True, deadline=None, database=None)

# Softplus of the first three gives 0, 1e-12 and 1e-6; torch's is the identity above 20.
RAW: Pool = (-1e4, -27.6, -13.8, -1.0, 0.0, 0.5, 19.9, 20.1, 1e4, 1e12)
LOC: Pool = (-1e6, -0.3, 0.0, 1e-30, 0.5, 255.0, 1e6)
CLOSE_LOC: Pool = LOC[1:-1]
WIDE_RAW: Pool = RAW[3:]
LOGIT: Pool = (-1e4, -80.0, -1.0, -1e-3, 0.0, 0.4, 17.0, 80.0, 1e4)
LOG_MEAN: Pool = (-1e4, -80.0, -9.2, 0.0, 1.0, 5.5, 20.0, 80.0, 100.0, 1e4)
REAL: Pool = (-1e12, -1e6, -1.0, -1e-38, 0.0, 1e-30, 0.5, 1.0, 255.0, 1e12)
COUNT: Pool = (0.0, 1.0, 2.0, 255.0, 1e6)
LEVEL: Pool = tuple(map(float, range(LEVELS)))
UNIT: Pool = (0.0, 1e-38, 1e-7, 0.3, 0.5, 1 - 2**-24, 1.0)
INSIDE: Pool = UNIT[1:-1]
LATENT: Pool = (-1e6, -6.0, -1.0, 0.0, 1e-30, 0.5, 1.0, 5.0, 255.0, 1e6)
NEAR: Pool = (-6.0, -4.9, -1.0, 0.0, 1e-30, 0.5, 1.0, 4.9, 6.0)  # on both sides of a spline's end
LOW, HIGH = -2.0, 3.0
BOX: Pool = (LOW, LOW + 2.0**-22, -1e-30, 0.0, 0.5, HIGH - 2.0**-22)  # of [LOW, HIGH)
SLOPE: Pool = (-100.0, -1.0, 0.0, 0.3, 10.0)


@dataclass
class Part:
    """A part as a function from numbers to its distribution.

    Attributes:
        distribution: Takes the numbers, of shape ``(*batch, K, *event)`` for a likelihood and
            ``(*batch, K)`` for others, and the event's shape.
        pools: The numbers worth a try, one pool for each of the K, for an event of some shape.
        values: The values worth a try.
        pixelwise: Whether each pixel has its K numbers, as those of a likelihood do.
        mixed: Whether a density is the logarithm of a sum in the dtype of the numbers, so that the
            weights in its gradient have the relative error of a logarithm of its size.
        batched: Whether the numbers have batch dimensions; those of a prior have none.
        formula: The terms of the log-density of one pixel, by mpmath.
    """

    distribution: Callable[[Tensor, tuple[int, ...]], Any]
    pools: Callable[[tuple[int, ...]], list[Pool]]
    values: Pool
    pixelwise: bool = False
    batched: bool = True
    mixed: bool = False
    formula: Formula | None = None

    def numbers(self, batch: tuple[int, ...], event: tuple[int, ...], seed: int) -> Tensor:
        """Numbers drawn from the pools, in float64 and exact in float32."""
        generator = torch.Generator().manual_seed(seed)
        tail = event if self.pixelwise else ()
        columns = [pick(pool, (*batch, *tail), generator) for pool in self.pools(event)]
        if not columns:
            return torch.zeros(*batch, 0).double()
        return torch.stack(columns, len(batch))


def pick(pool: Pool, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    values = torch.tensor(pool).double()  # rounded to float32
    return values[torch.randint(len(pool), shape, generator=generator)]


SHARED = mpf(torch.tensor(math.log(math.expm1(1 - likelihoods.SCALE_FLOOR))).item())
"""The raw scale with which a shared one starts: 1, up to a rounding of float32."""


def pixels(
    make: Callable[[nn.Module], nn.Module], pools: list[Pool], values: Pool, formula: Formula
) -> Part:
    """A likelihood of a network that gives back what it gets."""
    one = len(pools) == 1

    def distribution(numbers: Tensor, event: tuple[int, ...]) -> Any:
        if one:
            numbers = numbers.squeeze(-1 - len(event))
        network = Given(*event) if one else Given(len(pools), *event)
        return make(network).to(numbers.dtype)(numbers)

    return Part(
        distribution,
        lambda event: pools,
        values,
        pixelwise=True,
        mixed=LOGIT in pools and not one,
        formula=formula,
    )


def softplus(f: Any) -> Any:
    return mpmath.log1p(mpmath.exp(f))


def scale_of(f: Any) -> Any:
    return softplus(f) + mpf(1) / 256


def bernoulli(x: Any, f: Any) -> list[Any]:
    return [-x * softplus(-f), -(1 - x) * softplus(f)]


def continuous_bernoulli(x: Any, f: Any) -> list[Any]:
    if f == 0:
        return [mpf(0)]
    size = abs(f)
    return [(x - 1 if f > 0 else x) * f, -mpmath.log(-mpmath.expm1(-size) / size)]


def normal(x: Any, loc: Any, s: Any) -> list[Any]:
    return [-(((x - loc) / s) ** 2) / 2, -mpmath.log(s), -mpmath.log(2 * mpmath.pi) / 2]


def laplace(x: Any, loc: Any, s: Any) -> list[Any]:
    return [-abs(x - loc) / s, -mpmath.log(2 * s)]


def student_t(x: Any, loc: Any, s: Any) -> list[Any]:
    df = mpf(4)
    y = (x - loc) / s
    half = (df + 1) / 2
    constant = mpmath.loggamma(half) - mpmath.loggamma(df / 2) - mpmath.log(df * mpmath.pi) / 2
    return [-half * mpmath.log1p(y * y / df), -mpmath.log(s), constant]


def beta(x: Any, f: Any, g: Any) -> list[Any]:
    a, b = softplus(f) + mpf(1) / 1000, softplus(g) + mpf(1) / 1000
    return [
        (a - 1) * mpmath.log(x),
        (b - 1) * mpmath.log1p(-x),
        mpmath.loggamma(a + b),
        -mpmath.loggamma(a),
        -mpmath.loggamma(b),
    ]


def categorical(x: Any, *logits: Any) -> list[Any]:
    return [-mpmath.log(mpmath.fsum(mpmath.exp(f - logits[int(x)]) for f in logits))]


def bin_mass(x: Any, loc: Any, f: Any) -> Any:
    """The mass of a level, by the difference of distribution functions that is the smaller."""
    top = LEVELS - 1
    s = softplus(f) + mpf(1) / (8 * top)
    below, above = ((x + side) / top - loc for side in (-mpf(1) / 2, mpf(1) / 2))
    below = -mpmath.inf if x == 0 else below / s
    above = mpmath.inf if x == top else above / s
    if below > 0:
        below, above = -above, -below

    def cdf(y: Any) -> Any:
        return mpf(y > 0) if mpmath.isinf(y) else 1 / (1 + mpmath.exp(-y))

    return cdf(above) - cdf(below)


def discretized(x: Any, *numbers: Any) -> list[Any]:
    if len(numbers) == 2:
        return [mpmath.log(bin_mass(x, *numbers))]
    logits, locs, raws = numbers[0:2], numbers[2:4], numbers[4:6]
    greatest = max(logits)
    weights = [mpmath.exp(f - greatest) for f in logits]
    masses = [bin_mass(x, *pair) for pair in zip(locs, raws, strict=True)]
    joint = [w * mass for w, mass in zip(weights, masses, strict=True)]
    return [mpmath.log(mpmath.fsum(joint)), -mpmath.log(mpmath.fsum(weights))]


def poisson(x: Any, f: Any) -> list[Any]:
    rate = mpmath.exp(f) + mpf(1) / 10000
    return [x * mpmath.log(rate), -rate, -mpmath.loggamma(x + 1)]


def negative_binomial(x: Any, f: Any, g: Any) -> list[Any]:
    mean, r = mpmath.exp(f), softplus(g) + mpf(1) / 10000
    return [
        -x * mpmath.log1p(r / mean),
        -r * mpmath.log1p(mean / r),
        mpmath.loggamma(x + r) - mpmath.loggamma(r),
        -mpmath.loggamma(x + 1),
    ]


LIKELIHOODS: dict[str, Part] = {
    "Bernoulli": pixels(likelihoods.Bernoulli, [LOGIT], (0.0, 1.0), bernoulli),
    "Bernoulli-relaxed": pixels(
        lambda n: likelihoods.Bernoulli(n, relaxed=True), [LOGIT], UNIT, bernoulli
    ),
    "ContinuousBernoulli": pixels(
        likelihoods.ContinuousBernoulli, [LOGIT], UNIT, continuous_bernoulli
    ),
    "Gaussian-pixel": pixels(
        likelihoods.Gaussian, [LOC, RAW], REAL, lambda x, m, f: normal(x, m, scale_of(f))
    ),
    "Gaussian-shared": pixels(
        lambda n: likelihoods.Gaussian(n, scale="shared"),
        [LOC],
        REAL,
        lambda x, m: normal(x, m, scale_of(SHARED)),
    ),
    "Gaussian-fixed": pixels(
        lambda n: likelihoods.Gaussian(n, scale=1e-12),
        [LOC],
        REAL,
        lambda x, m: normal(x, m, mpf(1e-12)),
    ),
    "Laplace": pixels(
        likelihoods.Laplace, [LOC, RAW], REAL, lambda x, m, f: laplace(x, m, scale_of(f))
    ),
    "StudentT": pixels(
        likelihoods.StudentT, [LOC, RAW], REAL, lambda x, m, f: student_t(x, m, scale_of(f))
    ),
    "Beta": pixels(likelihoods.Beta, [RAW, RAW], INSIDE, beta),
    "Categorical": pixels(
        lambda n: likelihoods.Categorical(n, LEVELS), [LOGIT] * LEVELS, LEVEL, categorical
    ),
    "DiscretizedLogistic": pixels(
        lambda n: likelihoods.DiscretizedLogistic(n, LEVELS), [LOC, RAW], LEVEL, discretized
    ),
    "DiscretizedLogistic-2": pixels(
        lambda n: likelihoods.DiscretizedLogistic(n, LEVELS, components=2),
        [LOGIT, LOGIT, LOC, LOC, RAW, RAW],
        LEVEL,
        discretized,
    ),
    "Poisson": pixels(likelihoods.Poisson, [LOG_MEAN], COUNT, poisson),
    "NegativeBinomial": pixels(
        likelihoods.NegativeBinomial, [LOG_MEAN, RAW], COUNT, negative_binomial
    ),
}


def trained(part: nn.Module) -> nn.Module:
    """A part with a flow that is no longer the identity."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in part.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return part


def flow_posterior(d: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(2)
        return trained(posteriors.Flow(Given(2 * d + 3), d, hidden=(8,)))


def flow_prior(d: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(2)
        return trained(priors.Flow(d, transforms=2, hidden=(8,)))


def latents(
    make: Callable[[int], nn.Module],
    pools: Callable[[int], list[Pool]],
    values: Pool = LATENT,
    mixed: bool = False,
) -> Part:
    """A posterior whose network gives back x."""

    def distribution(numbers: Tensor, event: tuple[int, ...]) -> Any:
        return make(*event).to(numbers.dtype)(numbers)

    return Part(distribution, lambda event: pools(*event), values, mixed=mixed)


def normal_pools(d: int) -> list[Pool]:
    return [LOC] * d + [RAW] * d


def triangular_pools(d: int) -> list[Pool]:
    return [CLOSE_LOC] * d + [RAW] * d + [SLOPE[1:4]] * (d * (d - 1) // 2)


POSTERIORS: dict[str, Part] = {
    "Normal": latents(lambda d: posteriors.Normal(Given(2 * d)), normal_pools),
    "LowRankNormal": latents(
        lambda d: posteriors.LowRankNormal(Given(4 * d), rank=2),
        lambda d: normal_pools(d) + [SLOPE] * (2 * d),
    ),
    "MultivariateNormal": latents(
        lambda d: posteriors.MultivariateNormal(Given(d * (d + 3) // 2)),
        triangular_pools,
        NEAR,
    ),
    "Mixture": latents(
        lambda d: posteriors.Mixture(Given(3 * (1 + 2 * d)), components=3),
        lambda d: 3 * [LOGIT, *normal_pools(d)],
        mixed=True,
    ),
    "Flow": latents(flow_posterior, lambda d: [CLOSE_LOC] * d + [RAW] * d + [SLOPE] * 3, NEAR),
    "Squashed": latents(
        lambda d: posteriors.Squashed(posteriors.Normal(Given(2 * d)), LOW, HIGH),
        normal_pools,
        BOX[1:],
    ),
}


def constant(make: Callable[[int], nn.Module], values: Pool = LATENT) -> Part:
    """A prior without numbers that a test could choose."""
    return Part(
        lambda numbers, event: make(*event).to(numbers.dtype)(),
        lambda event: [],
        values,
        batched=False,
    )


def gaussian_mixture(numbers: Tensor, event: tuple[int, ...]) -> Any:
    (d,) = event
    logits, loc, raw_scale = numbers.unflatten(-1, (3, 1 + 2 * d)).split((1, d, d), -1)
    parameters = {"logits": logits.squeeze(-1), "loc": loc, "raw_scale": raw_scale}
    return functional_call(priors.GaussianMixture(d, components=3), parameters, ())


def full_mixture(numbers: Tensor, event: tuple[int, ...]) -> Any:
    (d,) = event
    sizes = (1, d, d, d * (d - 1) // 2)
    logits, *others = numbers.unflatten(-1, (3, sum(sizes))).split(sizes, -1)
    names = "loc", "raw_scale", "below"
    parameters = {"logits": logits.squeeze(-1), **dict(zip(names, others, strict=True))}
    prior = priors.GaussianMixture(d, components=3, covariance="full")
    return functional_call(prior, parameters, ())


def vamp_prior(numbers: Tensor, event: tuple[int, ...]) -> Any:
    (d,) = event
    start = torch.zeros(3, 2 * d)
    prior = priors.VampPrior(posteriors.Normal(Given(2 * d)), start, -math.inf, math.inf)
    return functional_call(prior, {"raw": numbers.unflatten(-1, (3, 2 * d))}, ())


PRIORS: dict[str, Part] = {
    "StandardNormal": constant(priors.StandardNormal),
    "Uniform": constant(lambda d: priors.Uniform(d, LOW, HIGH), BOX),
    "Laplace": constant(priors.Laplace),
    "StudentT": constant(lambda d: priors.StudentT(d, df=5.0)),
    "GaussianMixture": Part(
        gaussian_mixture,
        lambda event: 3 * [LOGIT, *normal_pools(*event)],
        LATENT,
        batched=False,
    ),
    "GaussianMixture-full": Part(
        full_mixture,
        lambda event: 3 * [LOGIT, *triangular_pools(*event)],
        NEAR,
        batched=False,
        mixed=True,
    ),
    "VampPrior": Part(vamp_prior, lambda event: 3 * normal_pools(*event), LATENT, batched=False),
    "Flow": constant(flow_prior, NEAR),
}

PARTS: dict[str, Part] = {
    **{f"likelihood-{name}": part for name, part in LIKELIHOODS.items()},
    **{f"prior-{name}": part for name, part in PRIORS.items()},
    **{f"posterior-{name}": part for name, part in POSTERIORS.items()},
}


# The formulas, in float64.

ROUNDINGS = 64
"""Of the terms of one pixel in float64: each is a few calls of functions, and products."""


def truncation(numbers: list[float]) -> float:
    """How far torch's softplus and its gradient are off above 20, where it is the identity."""
    return max((math.exp(-n) for n in numbers if n > 20), default=0.0)


def held(value: float, terms: list[Any], off: float, what: str, size: float) -> None:
    """Holds a float64 number against the sum of its terms, each rounded by so many times its size.

    A gradient may be the difference of two numbers near 1, such as x and a sigmoid, so that a
    term of 1 counts for each number.
    """
    expected = mpmath.fsum(terms)
    if abs(expected) > torch.finfo(torch.float64).max:
        assert value == math.copysign(math.inf, expected), what
        return
    total = float(mpmath.fsum(abs(term) for term in terms))
    tolerance = ROUNDINGS * 2.0**-53 * size * (total + 1) + 4 * off * total
    assert abs(value - float(expected)) <= tolerance, f"{what}: {value}, {float(expected)}"


def check_formula(name: str, x: float, numbers: list[float]) -> None:
    part = LIKELIHOODS[name]
    assert part.formula is not None
    raw = torch.tensor(numbers, dtype=torch.float64)[:, None].requires_grad_()
    value = torch.tensor([x], dtype=torch.float64)
    log_prob = part.distribution(raw, (1,)).log_prob(value)
    (gradient,) = torch.autograd.grad(log_prob, raw)
    with mpmath.workdps(160):
        off, exact = truncation(numbers), [mpf(n) for n in numbers]
        terms = part.formula(mpf(x), *exact)
        # A weight among levels or components has the relative error of a logarithm of its size.
        logits = [
            abs(n) for n, pool in zip(numbers, part.pools((1,)), strict=True) if pool is LOGIT
        ]
        size = 1 + max(logits) + abs(log_prob.item()) if part.mixed else 1.0
        held(log_prob.item(), terms, off, f"log p({x}; {numbers})", size)
        if not math.isfinite(log_prob.item()):
            return
        for k, (got,) in enumerate(gradient.tolist()):
            steps = [mpf(10) ** -45 * (1 + abs(exact[k])) * sign for sign in (1, -1)]
            ends = [
                part.formula(mpf(x), *exact[:k], exact[k] + step, *exact[k + 1 :])
                for step in steps
            ]
            slopes = [(a - b) / (steps[0] - steps[1]) for a, b in zip(*ends, strict=True)]
            held(got, slopes, off, f"gradient {k} of log p({x}; {numbers})", size)


# Any shape, dtype and layout, against float64.

EVENTS = {True: [(1,), (3,), (2, 2)], False: [(1,), (3,)]}
BATCHES: list[tuple[int, ...]] = [(), (1,), (3,), (2, 3)]
EMPTY: list[tuple[int, ...]] = [(0,), (0, 4), (2, 0)]
SAMPLES: list[tuple[int, ...]] = [(), (2,)]
DRAWS = 6
LAYOUTS = ("contiguous", "transposed", "strided", "offset", "expanded")


def laid_out(value: Tensor, layout: str) -> Tensor:
    """A tensor with the same numbers that lies otherwise in memory, where its shape allows."""
    if layout == "transposed" and value.dim() > 1:
        return value.mT.contiguous().mT
    if layout in ("strided", "offset") and value.dim():
        *outer, size = value.shape
        step = 2 if layout == "strided" else 1
        wide = value.new_full((*outer, step * size + 1), math.nan)
        return wide[..., 1 : step * size + 1 : step].copy_(value)
    if layout == "expanded" and value.dim():
        return value[:1].contiguous().expand(value.shape)
    return value.clone()


@dataclass
class Scores:
    """A log-density, and the gradients of its sum by the numbers and, if any, by the value."""

    log_prob: Tensor
    gradients: list[Tensor]
    sizes: list[Tensor]
    """The sums of absolute gradients over the events that share the numbers."""


def scores(
    part: Part, numbers: Tensor, value: Tensor, event: tuple[int, ...], apart: bool = False
) -> Scores:
    numbers = numbers.detach().requires_grad_()
    p = part.distribution(numbers, event)
    by_value = not p.support.is_discrete and not part.pixelwise
    value = value.detach().requires_grad_(by_value)
    log_prob = p.log_prob(value)
    wanted = [t for t in (numbers, value) if t.requires_grad]
    if not log_prob.requires_grad:
        zeros = [torch.zeros_like(t) for t in wanted]
        return Scores(log_prob.detach(), zeros, zeros)
    gradients = of(log_prob.sum(), wanted)
    sizes = [torch.zeros_like(t) for t in wanted]
    for one in log_prob.flatten() if apart else ():
        for size, g in zip(sizes, of(one, wanted), strict=True):
            size += g.abs()
    return Scores(log_prob.detach(), gradients, sizes)


def of(log_prob: Tensor, inputs: list[Tensor]) -> list[Tensor]:
    found = torch.autograd.grad(log_prob, inputs, allow_unused=True, retain_graph=True)
    return [
        torch.zeros_like(t) if g is None else g.detach()
        for t, g in zip(inputs, found, strict=True)
    ]


@dataclass
class Reference:
    """Scores in float64, and how far a dtype may be off them."""

    exact: Scores
    spread: Scores


def reference(
    part: Part, numbers: Tensor, value: Tensor, event: tuple[int, ...], dtype: torch.dtype
) -> Reference:
    """What rounding each input moves, twice over, and a rounding of each term of the sums.

    A computation is as good as its dtype allows if its result is exact for inputs that are off by
    so many roundings, and is itself rounded so many times. A term of 64 stands for the logarithms
    and constants of each number, which may cancel; a gradient may be the difference of two numbers
    near 1.
    """
    numbers, value = numbers.double(), value.double()
    exact = scores(part, numbers, value, event, apart=True)
    unit = ROUNDINGS * torch.finfo(dtype).eps / 2
    generator = torch.Generator().manual_seed(1)

    def off(t: Tensor) -> Tensor:
        steps = 2 * torch.rand(t.shape, generator=generator).double() - 1
        return t + unit * steps * (t.abs() + 1)

    spread = Scores(
        unit * (exact.log_prob.abs() + 64 * math.prod(event)),
        [
            unit * (1 + size) * (weight(exact.log_prob, size) if part.mixed else 1)
            for size in exact.sizes
        ],
        [],
    )
    discrete = all(v == int(v) for v in part.values)
    for _ in range(DRAWS):
        inside = value if discrete else moved(part, value, unit, generator)
        near = scores(part, off(numbers), inside, event)
        spread.log_prob += (near.log_prob - exact.log_prob).abs().nan_to_num(nan=math.inf)
        for total, a, b in zip(spread.gradients, near.gradients, exact.gradients, strict=True):
            total += (a - b).abs().nan_to_num(nan=math.inf)
    return Reference(exact, spread)


def weight(log_prob: Tensor, like: Tensor) -> Tensor:
    """1 + the greatest size of the log-densities that share numbers, to broadcast with those."""
    size = 1 + log_prob.abs()
    while size.dim() and size.shape != like.shape[: size.dim()]:
        size = size.amax(0)
    return size[(..., *[None] * (like.dim() - size.dim()))]


def moved(part: Part, value: Tensor, unit: float, generator: torch.Generator) -> Tensor:
    """Latents a few roundings off, on the same support."""
    steps = 2 * torch.rand(value.shape, generator=generator).double() - 1
    return (value + unit * steps * value.abs()).clamp(min(part.values), max(part.values))


def check_scores(got: Scores, wanted: Reference) -> None:
    """Holds scores against float64, where the dtype has numbers for them."""
    limit = torch.finfo(got.log_prob.dtype).max / 64
    exact, spread = wanted.exact.log_prob, wanted.spread.log_prob
    assert not exact.isnan().any()
    assert not (exact == math.inf).any()
    error = (got.log_prob.double() - exact).abs()
    assert not got.log_prob.isnan().any(), "NaN"
    assert not (got.log_prob == math.inf).any(), "+inf"
    small = exact.abs() < limit
    assert (error[small] <= spread[small]).all(), (got.log_prob, exact, spread)
    assert (got.log_prob[~small] < -limit / 64).all(), (got.log_prob, exact)
    if not small.all():
        return
    for gradient, g, tolerance in zip(
        got.gradients, wanted.exact.gradients, wanted.spread.gradients, strict=True
    ):
        inside = g.abs() < limit
        assert not gradient[inside].isnan().any(), ("NaN", gradient, g)
        error = (gradient.double() - g).abs()
        assert (error[inside] <= tolerance[inside]).all(), (gradient, g, tolerance)


@st.composite
def cases(draw: st.DrawFn, pixelwise: bool) -> tuple[Any, ...]:
    return (
        draw(st.sampled_from(EVENTS[pixelwise])),
        draw(st.sampled_from(BATCHES)),
        draw(st.sampled_from(SAMPLES)),
        draw(st.sampled_from((torch.float32, torch.float64))),
        draw(st.sampled_from(LAYOUTS)),
        draw(st.sampled_from(LAYOUTS)),
        draw(st.integers(0, 2**31)),
    )


def refused_or_scored(
    part: Part, numbers: Tensor, value: Tensor, event: tuple[int, ...]
) -> Scores | None:
    """Scores; None where rounding leaves no digits, which is refused by name."""
    try:
        return scores(part, numbers, value, event)
    except ValueError as error:
        if not str(error).startswith(("cov_factor: got", "scale: got")):
            raise
        return None


def check_case(part: Part, case: tuple[Any, ...]) -> None:
    event, batch, sample, dtype, numbers_layout, value_layout, seed = case
    own = batch if part.batched else ()
    numbers = laid_out(part.numbers(own, event, seed).to(dtype), numbers_layout)
    generator = torch.Generator().manual_seed(seed)
    value = pick(part.values, (*sample, *batch, *event), generator)
    value = laid_out(value.to(dtype), value_layout)
    got = refused_or_scored(part, numbers, value, event)
    if got is None:
        return
    assert got.log_prob.shape == (*sample, *batch)
    assert got.log_prob.dtype == dtype
    assert [g.shape for g in got.gradients] == [numbers.shape, value.shape][: len(got.gradients)]
    check_scores(got, reference(part, numbers, value, event, dtype))


@pytest.mark.parametrize("name", sorted(PARTS))
def test_scores_are_those_of_float64_for_any_shape_dtype_and_layout(name: str) -> None:
    part = PARTS[name]
    QUICK(given(cases(part.pixelwise))(lambda case: check_case(part, case)))()


@pytest.mark.parametrize("batch", EMPTY)
@pytest.mark.parametrize("name", sorted(PARTS))
def test_an_empty_batch_is_refused(name: str, batch: tuple[int, ...]) -> None:
    """By parts with a network; the densities of priors are torch's, which cannot reshape it."""
    part = PARTS[name]
    for event in EVENTS[part.pixelwise]:
        numbers = part.numbers(batch if part.batched else (), event, seed=0)
        value = torch.zeros(*batch, *event).double()
        with pytest.raises((ValueError, RuntimeError), match=r"input: got no examples|0 elements"):
            scores(part, numbers, value, event)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(PARTS))
def test_scores_are_those_of_float64_in_many_cases(name: str) -> None:
    part = PARTS[name]
    MANY(given(cases(part.pixelwise))(lambda case: check_case(part, case)))()


def between(pool: Pool) -> st.SearchStrategy[float]:
    low, high = max(-20.0, pool[0]), min(20.0, pool[-1])
    return st.floats(low, high, width=32, allow_subnormal=False)


@st.composite
def points(draw: st.DrawFn, part: Part) -> tuple[float, list[float]]:
    """A pixel and its numbers: from the pools, or any between their ends."""
    numbers = [draw(st.one_of(st.sampled_from(pool), between(pool))) for pool in part.pools((1,))]
    return draw(st.sampled_from(part.values)), numbers


@pytest.mark.parametrize("name", sorted(LIKELIHOODS))
def test_likelihoods_are_their_formulas_at_any_numbers(name: str) -> None:
    part = LIKELIHOODS[name]
    QUICK(given(points(part))(lambda point: check_formula(name, *point)))()


@pytest.mark.parametrize("x", COUNT)
@pytest.mark.parametrize("r", [29.9, 30.1, 1e3, 1e6, 1e12])
def test_a_negative_binomial_is_right_up_to_the_poisson(r: float, x: float) -> None:
    """Its log-gammas have no digits in common where r is large."""
    check_formula("NegativeBinomial", x, [2.0, r])


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(LIKELIHOODS))
def test_likelihoods_are_their_formulas_at_many_numbers(name: str) -> None:
    part = LIKELIHOODS[name]
    MANY(given(points(part))(lambda point: check_formula(name, *point)))()


@pytest.mark.parametrize("name", sorted(LIKELIHOODS))
def test_likelihoods_have_no_nan_at_extremes(name: str) -> None:
    """All pairs of the values with the numbers in the pools, or a thousand of them."""
    part = LIKELIHOODS[name]
    every = list(itertools.product(part.values, *part.pools((1,))))
    every = every[:: -(-len(every) // 1000)]
    table = torch.tensor(every)  # float32
    value, numbers = table[:, :1], table[:, 1:, None]
    got = scores(part, numbers, value, (1,))
    check_scores(got, reference(part, numbers, value, (1,), torch.float32))
    for log_prob in (got.log_prob, scores(part, numbers.double(), value.double(), (1,)).log_prob):
        assert not log_prob.isnan().any()
        assert not (log_prob == math.inf).any()


@pytest.mark.parametrize("name", ["Uniform", "Squashed"])
def test_next_to_the_ends_of_a_box(name: str) -> None:
    """The density is finite at every number strictly inside, by the last bit."""
    for dtype in (torch.float32, torch.float64):
        low, high = torch.tensor([LOW, HIGH], dtype=dtype)
        ends = torch.stack((torch.nextafter(low, high), torch.nextafter(high, low)))[:, None]
        part = PRIORS[name] if name in PRIORS else POSTERIORS[name]
        numbers = torch.zeros(0 if name in PRIORS else 2, dtype=dtype)
        got = scores(part, numbers, ends, (1,))
        assert got.log_prob.isfinite().all()
        if name == "Squashed":
            y = torch.log((ends.double() - LOW) / (HIGH - ends.double()))
            scale = torch.tensor(2.0).double().log() + posteriors.SCALE_FLOOR
            loc = torch.zeros_like(scale)
            exact = dist.Normal(loc, scale).log_prob(y) - (
                math.log(HIGH - LOW) - nn.functional.softplus(y) - nn.functional.softplus(-y)
            )
            torch.testing.assert_close(
                got.log_prob.double(), exact.squeeze(-1), rtol=1e3 * torch.finfo(dtype).eps, atol=0
            )


@pytest.mark.parametrize("lr", [-1.0, math.nan, math.inf, "1e-3", None])
def test_adam_refuses_a_rate_that_is_none(lr: object) -> None:
    with pytest.raises((TypeError, ValueError), match=r"\blr\b"):
        optim.Adam(lr=lr)


@pytest.mark.parametrize("clip_norm", [-1.0, 0.0, math.nan, math.inf, "1", True])
def test_adam_refuses_a_norm_that_is_none(clip_norm: object) -> None:
    with pytest.raises((TypeError, ValueError), match="clip_norm: got"):
        optim.Adam(clip_norm=clip_norm)


@pytest.mark.parametrize("lr", [0.0, 1e-30, 1e3])
@pytest.mark.parametrize("clip_norm", [None, 1e-30, 1e3])
def test_adam_takes_the_step_of_its_formula(lr: float, clip_norm: float | None) -> None:
    """The first step is the rate times g / (|g| + 1e-8), with g clipped to the norm."""
    weight = torch.tensor([3.0, -4.0], requires_grad=True)
    weight.square().sum().mul(0.5).backward()
    g = weight.detach().double()
    g = g if clip_norm is None else g * min(1.0, clip_norm / (5 + 1e-6))
    start = weight.detach().double()
    optim.Adam(lr=lr, clip_norm=clip_norm)([weight])
    expected = start - lr * g / (g.abs() + 1e-8)
    torch.testing.assert_close(weight.detach().double(), expected, rtol=1e-6, atol=1e-6 * lr)
