"""Random right programs: pairs of random parts, networks, contexts, modes and objectives.

Each is drawn from a seed, and is the same on every machine. What users write is in it: modules of
their own with settings that are no tensors, buffers, tied and parametrized weights, hooks, and
loops; and plain Pyro programs.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer import ELBO, Trace_ELBO, TraceMeanField_ELBO
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint

from pyro_vae import VAE, Pair, likelihoods, networks, objectives, posteriors

from .structures import FIRST, structured
from .swaps import LEVELS, PRIORS, X_DIM

EXAMPLES = 5


@dataclass
class Drawn:
    """A random program.

    Attributes:
        pair: The pair, in train or eval mode.
        batches: Batches of one shape.
        objective: Makes the objective.
        text: What was drawn.
        kind: The kind of x, a name in ``DATA``.
    """

    pair: Pair
    batches: list[tuple[Tensor, ...]]
    objective: Callable[[], ELBO]
    text: str
    kind: str


# Layers: from (n, size) to (n, size).


class Settings:
    def __init__(self, gain: float) -> None:
        self.gain = gain
        self.more = {"shift": [0.1, 0.2]}


class Scaled(nn.Module):
    """A layer with settings in an object, a list of parts, and a tensor that is no buffer."""

    def __init__(self, size: int, gain: float) -> None:
        super().__init__()
        self.settings = Settings(gain)
        self.parts = [torch.tanh, torch.sin]
        self.constant = torch.linspace(-1, 1, size)

    def forward(self, x: Tensor) -> Tensor:
        for part in self.parts:
            x = part(x * self.settings.gain + self.settings.more["shift"][0])
        return x + self.constant.to(x)


class Moving(nn.Module):
    """A layer with a buffer that moves in place in train mode."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.mean: Tensor
        self.register_buffer("mean", torch.zeros(size))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            with torch.no_grad():
                self.mean.lerp_(x.mean(0).to(self.mean), 0.1)
        return x - self.mean


class Residual(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return x + 0.5 * self.inner(x)


class Tied(nn.Module):
    """Two products with one weight."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.first = nn.Linear(size, size)
        self.second = nn.Linear(size, size, bias=False)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.tanh(self.first(x))) @ self.first.weight.t()


class Recurrent(nn.Module):
    def __init__(self, size: int, kind: type[nn.Module]) -> None:
        super().__init__()
        self.inner = kind(1, 3, batch_first=True)
        self.out = nn.Linear(3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.inner(x.unsqueeze(-1))[0]).squeeze(-1)


class Attentive(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.inner = nn.MultiheadAttention(4, 2, batch_first=True)
        self.up, self.down = nn.Linear(1, 4), nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.up(x.unsqueeze(-1))
        return self.down(self.inner(h, h, h, need_weights=False)[0]).squeeze(-1)


class Convolved(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.inner = nn.Conv1d(1, 2, 3, padding=1)
        self.norm = nn.GroupNorm(1, 2)
        self.out = nn.Conv1d(2, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.norm(self.inner(x.unsqueeze(-2)))).squeeze(-2)


class Checkpointed(Residual):
    def forward(self, x: Tensor) -> Tensor:
        return checkpoint(self.inner, x, use_reentrant=False)


class _Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.tanh()

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> Any:
        (x,) = ctx.saved_tensors
        return 2 * gradient / x.cosh().square()


class OwnGradient(nn.Module):
    """A gradient that is twice the true one."""

    def forward(self, x: Tensor) -> Tensor:
        return _Doubled.apply(x)


class Noisy(nn.Module):
    """Noise by another way than dropout, in train mode."""

    def forward(self, x: Tensor) -> Tensor:
        return x + 0.1 * torch.randn_like(x) if self.training else x


class Counted(nn.Module):
    """A layer that counts its calls, which no graph does."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x * (1 + 0.1 * self.calls)


def hooked(layer: nn.Module) -> nn.Module:
    layer.register_forward_hook(lambda module, args, out: 0.9 * out)
    return layer


def norm(size: int, kind: Callable[[nn.Module], nn.Module]) -> nn.Module:
    return kind(nn.Linear(size, size))


REFUSED = "counted", "hooked"
"""Layers that no graph has."""

LAYERS: dict[str, Callable[[int, random.Random], nn.Module]] = {
    "linear": lambda n, r: nn.Linear(n, n),
    "relu": lambda n, r: nn.Sequential(nn.Linear(n, n), nn.ReLU()),
    "softplus": lambda n, r: nn.Sequential(nn.Linear(n, n), nn.Softplus()),
    "gelu": lambda n, r: nn.Sequential(nn.Linear(n, n), nn.GELU()),
    "elu": lambda n, r: nn.Sequential(nn.Linear(n, n), nn.ELU()),
    "layer norm": lambda n, r: nn.LayerNorm(n),
    "batch norm": lambda n, r: nn.BatchNorm1d(n),
    "batch norm, no tracking": lambda n, r: nn.BatchNorm1d(n, track_running_stats=False),
    "dropout": lambda n, r: nn.Dropout(r.choice([0.1, 0.5])),
    "alpha dropout": lambda n, r: nn.AlphaDropout(0.2),
    "weight norm": lambda n, r: norm(n, parametrizations.weight_norm),
    "spectral norm": lambda n, r: norm(n, parametrizations.spectral_norm),
    "orthogonal": lambda n, r: norm(n, parametrizations.orthogonal),
    "residual": lambda n, r: Residual(layer(n, r)),
    "checkpoint": lambda n, r: Checkpointed(nn.Sequential(nn.Linear(n, n), nn.Tanh())),
    "settings": lambda n, r: Scaled(n, r.choice([0.5, 1.0, 2.0])),
    "moving": lambda n, r: Moving(n),
    "tied": lambda n, r: Tied(n),
    "gru": lambda n, r: Recurrent(n, nn.GRU),
    "lstm": lambda n, r: Recurrent(n, nn.LSTM),
    "rnn": lambda n, r: Recurrent(n, nn.RNN),
    "attention": lambda n, r: Attentive(n),
    "convolution": lambda n, r: Convolved(n),
    "own gradient": lambda n, r: OwnGradient(),
    "noise": lambda n, r: Noisy(),
    "frozen": lambda n, r: nn.Linear(n, n).requires_grad_(False),
    "lazy": lambda n, r: nn.LazyLinear(n),
    "squared": lambda n, r: Squared(n),
    "counted": lambda n, r: Counted(),
    "hooked": lambda n, r: hooked(nn.Linear(n, n)),
}


class Squared(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.inner = nn.Bilinear(size, size, size)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.inner(x, x))


def layer(size: int, draw: random.Random, refused: bool = False) -> nn.Module:
    names = [name for name in LAYERS if refused or name not in REFUSED]
    return LAYERS[draw.choice(names)](size, draw)


def network(into: int, out: networks.Shape, draw: random.Random, refused: bool) -> nn.Module:
    """A network of one to three random layers, for any batch dimensions."""
    numbers = torch.Size((out,) if isinstance(out, int) else out)
    size = draw.choice([4, 6])
    inner = [layer(size, draw, refused) for _ in range(draw.randint(1, 3))]
    # Outputs stay small, so that no density is extreme.
    layers = nn.Linear(into, size), *inner, nn.Linear(size, numbers.numel()), nn.Tanh()
    return networks.Folded(nn.Sequential(*layers, nn.Unflatten(-1, numbers)), into, out)


# Parts.

LIKELIHOODS = {
    "Bernoulli": (1, likelihoods.Bernoulli, "bits"),
    "ContinuousBernoulli": (1, likelihoods.ContinuousBernoulli, "unit"),
    "Beta": (2, likelihoods.Beta, "unit"),
    "Gaussian": (2, likelihoods.Gaussian, "real"),
    "Gaussian, shared": (1, partial(likelihoods.Gaussian, scale="shared"), "real"),
    "Gaussian, fixed": (1, partial(likelihoods.Gaussian, scale=0.7), "real"),
    "Laplace": (2, likelihoods.Laplace, "real"),
    "StudentT": (2, likelihoods.StudentT, "real"),
    "Categorical": (LEVELS, partial(likelihoods.Categorical, levels=LEVELS), "levels"),
    "DiscretizedLogistic": (
        2,
        partial(likelihoods.DiscretizedLogistic, levels=LEVELS),
        "levels",
    ),
    "Poisson": (1, likelihoods.Poisson, "levels"),
    "NegativeBinomial": (2, likelihoods.NegativeBinomial, "levels"),
}

DATA: dict[str, Callable[[int], Tensor]] = {
    "bits": lambda n: torch.bernoulli(torch.full((n, X_DIM), 0.4)),
    "unit": lambda n: torch.rand(n, X_DIM) * 0.98 + 0.01,
    "real": lambda n: torch.randn(n, X_DIM),
    "levels": lambda n: torch.randint(LEVELS, (n, X_DIM)).to(torch.get_default_dtype()),
}

POSTERIORS: dict[str, tuple[Callable[[int], int], Callable[[nn.Module, int], nn.Module]]] = {
    "Normal": (lambda d: 2 * d, lambda network, d: posteriors.Normal(network)),
    "LowRankNormal": (
        lambda d: 3 * d,
        lambda network, d: posteriors.LowRankNormal(network, rank=1),
    ),
    "MultivariateNormal": (
        lambda d: d * (d + 3) // 2,
        lambda network, d: posteriors.MultivariateNormal(network),
    ),
    "Mixture": (
        lambda d: 2 * (1 + 2 * d),
        lambda network, d: posteriors.Mixture(network, components=2),
    ),
    "Flow": (
        lambda d: 2 * d + 3,
        lambda network, d: posteriors.Flow(network, d, transforms=1, hidden=(4,)),
    ),
}

OBJECTIVES: dict[str, Callable[[], ELBO]] = {
    "trace": objectives.trace_elbo,
    "trace, particles": partial(objectives.trace_elbo, num_particles=3),
    "Pyro's": Trace_ELBO,
    "Pyro's, in a loop": partial(Trace_ELBO, num_particles=2),
    "sticking the landing": objectives.sticking_the_landing,
    "iwae": partial(objectives.iwae, 4),
    "dreg": partial(objectives.dreg, 3),
    "miwae": partial(objectives.miwae, 2, 3),
    "ciwae": partial(objectives.ciwae, 0.3, 3),
    "renyi": partial(objectives.renyi, 0.5, 3),
    "beta": partial(objectives.beta, 0.5),
    "warm-up": lambda: objectives.warm_up(objectives.trace_elbo(), 5),
}

CLOSED: dict[str, Callable[[], ELBO]] = {
    "analytic": objectives.analytic_kl,
    "mean field": TraceMeanField_ELBO,
    "free bits": partial(objectives.free_bits, 0.1),
}
"""Objectives that need a KL in closed form, of each dimension."""


def drawn(seed: int, refused: bool = False, examples: int = EXAMPLES) -> Drawn:
    """The random program of a seed.

    Arguments:
        seed: The seed.
        refused: May have layers that no graph has.
        examples: The number of examples in a batch.
    """
    draw = random.Random(seed)
    torch.manual_seed(seed)
    if seed < FIRST:
        make = _plain if draw.random() < 0.2 else _vae
        pair, batches, objective, text, kind = make(draw, refused, examples)
    else:

        def networks_of(into: int, out: networks.Shape) -> nn.Module:
            return network(into, out, draw, refused)

        pair, batches, objective, text, kind = structured(draw, networks_of, examples)
    training = draw.random() < 0.7
    pair.train(training)
    if draw.random() < 0.1 and "Lazy" not in text:
        text += ", frozen encoder"
        next(iter(pair.children())).requires_grad_(False)
    return Drawn(pair, batches, objective, text + (", train" if training else ", eval"), kind)


# By name, since a seed is to draw the same program whatever priors come later.
DRAWN = (
    "StandardNormal", "Uniform", "Laplace", "StudentT", "GaussianMixture", "VampPrior", "Flow",
)  # fmt: skip


def _vae(draw: random.Random, refused: bool, examples: int) -> tuple[Pair, Any, Any, str, str]:
    z_dim = draw.choice([1, 2, 3])
    names = [draw.choice([*table]) for table in (DRAWN, POSTERIORS, LIKELIHOODS)]
    if names[:2] == ["VampPrior", "Flow"]:  # refused: it has no density at a pseudo-input's z
        names[1] = "Normal"
    context = draw.random() < 0.25 and names[0] != "VampPrior"
    count, q = POSTERIORS[names[1]]
    posterior = q(
        _conditioned(network(X_DIM + context, count(z_dim), draw, refused), context), z_dim
    )
    if names[0] == "Uniform":
        posterior = posteriors.Squashed(posterior, -2.0, 3.0)
    numbers, p, kind = LIKELIHOODS[names[2]]
    out = X_DIM if numbers == 1 else (numbers, X_DIM)
    likelihood = p(_conditioned(network(z_dim + context, out, draw, refused), context))
    vae = VAE(PRIORS[names[0]](z_dim, posterior), likelihood, posterior)
    batches = [
        (DATA[kind](examples), *([torch.randn(examples, 1)] if context else [])) for _ in range(3)
    ]
    table = OBJECTIVES
    if names[0] == "StandardNormal" and names[1] == "Normal":
        table = OBJECTIVES | CLOSED
    objective = draw.choice([*table])
    text = f"{', '.join(names)}{', a context' if context else ''}, {objective}: {vae}"
    return vae, batches, table[objective], text, kind


def _conditioned(network: nn.Module, context: bool) -> nn.Module:
    return networks.Conditioned(network, 1) if context else network


def _plain(draw: random.Random, refused: bool, examples: int) -> tuple[Pair, Any, Any, str, str]:
    """A pair of Pyro programs with a parameter, two plates, a mask and a scale."""
    gain, masked = {"gain": draw.choice([0.5, 1.0])}, draw.random() < 0.5
    encoder = network(X_DIM, 4, draw, refused)
    decoder = network(2, X_DIM, draw, refused)
    weights = [torch.ones(2), torch.full((2,), 0.5)]

    def model(x: Tensor) -> None:
        scale = pyro.param("scale", lambda: torch.rand(()) + 0.5, dist.constraints.positive)
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), weights[0]).to_event(1))
            loc = decoder(z * gain["gain"])
            with (
                poutine.mask(mask=x.new_ones(len(x), dtype=torch.bool))
                if masked
                else poutine.scale(scale=1.0)
            ):
                pyro.sample("x", dist.Normal(loc, scale).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        loc, raw = encoder(x).chunk(2, -1)
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(loc, raw.exp() * weights[1]).to_event(1))

    pair = Pair(model, guide, encoder=encoder, decoder=decoder)
    batches = [(torch.randn(examples, X_DIM),) for _ in range(3)]
    objective = draw.choice([*OBJECTIVES])
    return pair, batches, OBJECTIVES[objective], f"a plain pair, {objective}: {pair}", "real"
