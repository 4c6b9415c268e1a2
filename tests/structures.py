"""Random programs of the further models and parts: layers, classes, labels, holes, columns, codes.

They have seeds of their own, from ``FIRST`` on, so that those of :mod:`tests.grammar` stay.
"""

import random
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from pyro.infer import ELBO
from torch import Tensor, nn

from pyro_vae import VAE, Pair, likelihoods, models, networks, objectives, posteriors, priors

from .swaps import LEVELS, X_DIM

__all__ = ["FIRST", "structured"]

FIRST = 10_000
"""The first seed of these programs."""

CLASSES = 3

Network = Callable[[int, networks.Shape], nn.Module]
Made = tuple[Pair, Callable[[int], tuple[Tensor, ...]], dict[str, Callable[[], ELBO]], str]

SAMPLED: dict[str, Callable[[], ELBO]] = {
    "trace": objectives.trace_elbo,
    "sticking the landing": objectives.sticking_the_landing,
    "iwae": partial(objectives.iwae, 3),
    "dreg": partial(objectives.dreg, 3),
    "piwae": partial(objectives.piwae, 2, 3),
    "warm-up": lambda: objectives.warm_up(objectives.trace_elbo(), 5),
}
SUMMED: dict[str, Callable[[], ELBO]] = {
    "enumerated": objectives.enumerated,
    "enumerated, warm-up": lambda: objectives.warm_up(objectives.enumerated(), 5),
}


def structured(
    draw: random.Random, make: Network, examples: int
) -> tuple[Pair, list[tuple[Tensor, ...]], Callable[[], ELBO], str, str]:
    """A random program of one of the models.

    Arguments:
        draw: Draws what it is.
        make: Makes a network from so many numbers to a shape.
        examples: The number of examples in a batch.
    """
    name = draw.choice([*_MODELS])
    pair, data, table, kind = _MODELS[name](draw, make)
    batches = [data(examples) for _ in range(3)]
    objective = draw.choice([*table])
    return pair, batches, table[objective], f"{name}, {objective}: {pair}", kind


def _reals(count: int) -> tuple[Tensor, ...]:
    return (torch.randn(count, X_DIM),)


def _joined(make: Network, into: int, more: int, out: networks.Shape, **how: Any) -> nn.Module:
    shape: networks.Shape = () if "classes" in how else more
    return networks.Conditioned(make(into + more, out), shape, **how)


def _layers(draw: random.Random, make: Network) -> Made:
    inference: Any = draw.choice(["bottom-up", "top-down", "ladder"])
    sizes = [draw.choice([1, 2]) for _ in range(draw.choice([2, 3]))]
    skip = draw.random() < 0.3
    own: list[nn.Module] = []
    for layer, size in enumerate(sizes):
        last = layer == len(sizes) - 1
        if inference == "bottom-up":
            network = make(sizes[layer - 1] if layer else X_DIM, 2 * size)
        elif inference == "top-down" and not last:
            network = _joined(make, X_DIM, sizes[layer + 1], 2 * size)
        else:
            network = make(X_DIM, 2 * size)
        own.append(posteriors.Normal(network))
    down = [posteriors.Normal(make(above, 2 * size)) for size, above in pairwise(sizes)]
    pair = models.HierarchicalVAE(
        [*down, priors.StandardNormal(sizes[-1])],
        likelihoods.Gaussian(make(sum(sizes) if skip else sizes[0], X_DIM), scale=0.7),
        own,
        inference,
        skip=skip,
    )
    free = partial(objectives.free_bits, {"z1": 0.3})
    return pair, _reals, SAMPLED | {"free bits": free}, "real"


def _mixture(draw: random.Random, make: Network) -> Made:
    z_dim, with_class = draw.choice([1, 2]), draw.random() < 0.5
    covariance: Any = draw.choice(["diagonal", "full"])
    encoder = make(X_DIM, 2 * z_dim)
    if with_class:
        encoder = _joined(make, X_DIM, CLASSES, 2 * z_dim, classes=CLASSES)
    pair = models.MixtureVAE(
        priors.GaussianMixture(z_dim, CLASSES, covariance),
        likelihoods.Gaussian(make(z_dim, X_DIM), scale=0.7),
        posteriors.Normal(encoder),
        models.Classifier(make(X_DIM, CLASSES)) if with_class else None,
    )
    return pair, _reals, SUMMED, "real"


def _some_labels(count: int) -> tuple[Tensor, ...]:
    return (*_reals(count), torch.randint(-1, CLASSES, (count,)))


def _labels(draw: random.Random, make: Network) -> Made:
    z_dim = draw.choice([1, 2])
    pair = models.SemiSupervisedVAE(
        priors.StandardNormal(z_dim),
        likelihoods.Gaussian(_joined(make, z_dim, CLASSES, X_DIM, classes=CLASSES), scale=0.7),
        posteriors.Normal(_joined(make, X_DIM, CLASSES, 2 * z_dim, classes=CLASSES)),
        models.Classifier(make(X_DIM, CLASSES)),
        CLASSES,
    )
    both = {"classified": lambda: objectives.classified(2.0, objectives.enumerated())}
    return pair, _some_labels, SUMMED | both, "real"


def _with_holes(count: int) -> tuple[Tensor, ...]:
    (x,) = _reals(count)
    return (x.masked_fill(torch.rand(x.shape) < 0.3, torch.nan),)


def _mask_encoder(make: Network, numbers: int) -> nn.Module:
    inner = nn.Sequential(nn.Flatten(1), make(2 * X_DIM, numbers))
    return networks.Observed(networks.Folded(inner, (2, X_DIM), numbers))


def _holes(draw: random.Random, make_any: Network) -> Made:
    def make(into: int, out: networks.Shape) -> nn.Module:
        # Whether x may have holes is asked of a single draw, which has no statistics.
        network = make_any(into, out)
        while "track_running_stats=False" in str(network):
            network = make_any(into, out)
        return network

    z_dim = draw.choice([1, 2])
    q = posteriors.Normal(_mask_encoder(make, 2 * z_dim))
    p = likelihoods.Gaussian(make(z_dim, X_DIM), scale=0.7)
    if draw.random() < 0.5:
        pair: Pair = VAE(priors.StandardNormal(z_dim), likelihoods.Observed(p), q)
        return pair, _with_holes, SAMPLED, "holes"
    mask = likelihoods.Bernoulli(networks.SelfMasking((X_DIM,)))
    pair = models.NotMissingAtRandom(priors.StandardNormal(z_dim), p, q, mask)
    return pair, _with_holes, {"trace": SAMPLED["trace"], "iwae": SAMPLED["iwae"]}, "holes"


def _table(count: int) -> tuple[Tensor, ...]:
    columns = torch.randn(count), torch.randint(LEVELS, (count,)), torch.randint(6, (count,))
    return (torch.stack([column.to(columns[0]) for column in columns], -1),)


def _columns(draw: random.Random, make: Network) -> Made:
    z_dim = draw.choice([1, 2])
    table: dict[str, likelihoods.Column] = {
        "real": likelihoods.Gaussian,
        "class": partial(likelihoods.Categorical, levels=LEVELS),
        "count": likelihoods.Poisson,
    }
    numbers = likelihoods.Columns.numbers(table)
    p_x = likelihoods.Columns(make(z_dim, numbers), table)
    q = posteriors.Normal(make(X_DIM, 2 * z_dim))
    return VAE(priors.StandardNormal(z_dim), p_x, q), _table, SAMPLED, "table"


def _codes(draw: random.Random, make: Network) -> Made:
    codes, levels = draw.choice([1, 2]), 3
    relaxed = draw.random() < 0.5
    pair = VAE(
        priors.OneHotCategorical(levels, codes),
        likelihoods.Gaussian(make(codes * levels, X_DIM), scale=0.7),
        posteriors.OneHotCategorical(
            make(X_DIM, codes * levels), codes, temperature=0.5 if relaxed else None
        ),
    )
    # In eval mode codes are not relaxed, and analytic_kl refuses them.
    sampled = {"trace": SAMPLED["trace"]}
    return pair, _reals, sampled if relaxed else SUMMED, "real"


_MODELS: dict[str, Callable[[random.Random, Network], Made]] = {
    "layers": _layers,
    "a mixture": _mixture,
    "labels": _labels,
    "holes": _holes,
    "columns": _columns,
    "codes": _codes,
}
