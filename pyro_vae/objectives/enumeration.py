"""Expected terms of the ELBO over discrete sites that Pyro enumerates in parallel."""

import math
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from functools import reduce
from typing import Any

import pyro.ops.einsum.torch_log  # noqa: F401  which a first contraction would import, not a graph
import torch
from pyro.distributions.util import is_identically_zero, scale_and_mask
from pyro.infer.util import compute_site_dice_factor
from pyro.ops import packed
from pyro.ops.contract import contract_tensor_tree
from pyro.ops.rings import LogRing
from pyro.poutine import Trace
from torch import Tensor

from pyro_vae.compat import model_factors, packed_dims

__all__ = [
    "UNANNEALED",
    "WEIGHT",
    "expected_elbo",
    "expected_sum",
    "expected_terms",
    "is_summed",
    "kl_weight",
]

UNANNEALED = "pyro_vae.unannealed"
"""The key of a site's ``infer`` that holds its scale without the weight of an annealed KL."""
WEIGHT = "pyro_vae.weight"
"""The key of a site's ``infer`` that holds that weight."""

Ordinal = frozenset[Any]
"""The plates of a site, by the symbols that Pyro gives them."""


def is_summed(site: Any) -> bool:
    """Whether all values of a site are in a dimension of their own, to be summed over."""
    return site["type"] == "sample" and site["infer"].get("_enumerate_dim") is not None


def expected_terms(model: Trace, guide: Trace) -> tuple[Tensor, Tensor]:
    r"""Returns :math:`E_q[\log p(x|z)]` and KL(q, p) of enumerated traces, in nats.

    Both are summed over examples, and exact over the enumerated sites of the guide. With a site y
    of the model alone, :math:`p(z) = \sum_y p(y)\, p(z|y)` and
    :math:`p(x|z) = \sum_y p(y)\, p(z|y)\, p(x|z, y) / p(z)`. An annealed KL has weight one.

    Arguments:
        model, guide: The traces of a ``TraceEnum_ELBO``.
    """
    model, guide = _unannealed(model), _unannealed(guide)
    latents = _part(model, {name: model.nodes[name] for name in model.stochastic_nodes})
    negative_kl = expected_elbo(latents, guide)
    return expected_elbo(model, guide) - negative_kl, -negative_kl


def expected_elbo(model: Trace, guide: Trace) -> Tensor:
    r"""Returns the ELBO :math:`E_q[\log \sum_y p(x, z, y) - \log q(z|x)]` of enumerated traces.

    A value of probability zero counts nothing, whatever its log-probabilities are, and reads no
    value, so that the program can be compiled. Pyro's ``Dice`` looks whether there is any.

    The gradient is that of the expectation for enumerated sites, by the score function for other
    sites of the guide that are not reparameterized, and else through their values (DiCE).

    Source: Foerster et al. (2018), arXiv 1802.05098, section 3; Pyro's ``TraceEnum_ELBO``.

    Arguments:
        model, guide: The traces of a ``TraceEnum_ELBO``.

    Returns:
        A scalar tensor in nats, summed over examples and vectorized particles.
    """
    costs, factors, ordering, dims, scale = model_factors(model, guide)
    for ordinal, terms in _contracted(factors, dims).items():
        costs.setdefault(ordinal, []).extend(packed.scale_and_mask(t, scale=scale) for t in terms)
    for name, site in guide.nodes.items():
        if site["type"] == "sample":
            costs.setdefault(ordering[name], []).append(packed.neg(site["packed"]["log_prob"]))
    return _expectation(guide, costs)


def expected_sum(guide: Trace, name: str, values: Tensor) -> Tensor:
    r"""Returns the sum of :math:`E_q[v]` over the plates of a site, of an enumerated trace.

    Its gradient is that of :func:`expected_elbo`.

    Arguments:
        guide: The trace of the guide of a ``TraceEnum_ELBO``.
        name: A site of it.
        values: What depends on the sites before it, with the dimensions of its log-probability.
    """
    site = guide.nodes[name]
    own = packed.pack(values, site["infer"]["_dim_to_symbol"])
    return _expectation(guide, {_ordinal(guide, site): [own]})


def _ordinal(trace: Trace, site: Any) -> Ordinal:
    frames = site["cond_indep_stack"]
    return frozenset(trace.plate_to_symbol[frame.name] for frame in frames if frame.vectorized)


def _expectation(guide: Trace, costs: Mapping[Ordinal, list[Tensor]]) -> Tensor:
    """The sum of costs, each in expectation over the sites of the guide before it."""
    weights: list[tuple[Ordinal, Tensor]] = []
    denominators: list[tuple[Ordinal, float]] = []
    for site in guide.nodes.values():
        if site["type"] == "sample":
            factor, denominator = compute_site_dice_factor(site)
            own = _ordinal(guide, site)
            if not is_identically_zero(factor):
                weights.append((own, factor))
            denominators.append((own, denominator))
    total: Tensor | float = 0.0
    for ordinal, terms in costs.items():
        upstream = [factor for own, factor in weights if own <= ordinal]
        # A site that is enumerated one value after another repeats what is not downstream.
        repeats = sum(number for own, number in denominators if not own <= ordinal)
        total = total + _expected(terms, upstream) * math.exp(-repeats)
    return torch.as_tensor(total)


def kl_weight(traces: Iterable[Trace]) -> Tensor | float | None:
    """The weight that an annealed objective gives to the KL; None for any other."""
    for trace in traces:
        for site in trace.nodes.values():
            if site["type"] == "sample" and WEIGHT in site["infer"]:
                weight: Tensor | float = site["infer"][WEIGHT]
                return weight
    return None


def _contracted(factors: Any, dims: set[str]) -> Any:
    """Log-factors of the model, with the sites that it has alone summed out."""
    if not factors:
        return factors
    sizes: dict[str, int] = {}
    for terms in factors.values():
        for term in terms:
            sizes.update(zip(packed_dims(term), term.shape, strict=True))
    return contract_tensor_tree(OrderedDict(factors), dims, ring=LogRing(dim_to_size=sizes))


def _expected(costs: list[Tensor], factors: list[Tensor]) -> Tensor | float:
    """The sum of costs, each weighted by the probability of the values that it depends on."""
    total: Tensor | float = 0.0
    weights = [(packed_dims(factor), factor.exp()) for factor in factors]
    marginals: dict[frozenset[str], tuple[str, Tensor]] = {}
    for cost in costs:
        if not weights:
            total = total + cost.sum()
            continue
        dims = packed_dims(cost)
        kept = frozenset(d for d in dims if any(d in own for own, _ in weights))
        if kept not in marginals:
            marginals[kept] = _marginal(weights, kept)
        probability = _spread(*marginals[kept], dims)
        counted = torch.where(probability > 0, cost, cost.new_zeros(()))
        total = total + (probability * counted).sum()
    return total


def _marginal(weights: list[tuple[str, Tensor]], kept: frozenset[str]) -> tuple[str, Tensor]:
    """The product of weights, summed over all dimensions but some, one dimension at a time.

    There are no matrix products, which a GPU may round to fewer digits.
    """
    left = set().union(*(dims for dims, _ in weights)) - kept
    while left:
        joined = {d: _joined(weights, d) for d in left}
        dim = min(sorted(left), key=lambda d: len(joined[d]))
        left.remove(dim)
        dims, product = _product([each for each in weights if dim in each[0]], joined[dim])
        weights = [each for each in weights if dim not in each[0]]
        weights.append((dims.replace(dim, ""), product.sum(dims.index(dim))))
    return _product(weights, "".join(sorted(kept)))


def _joined(weights: list[tuple[str, Tensor]], dim: str) -> str:
    """The dimensions of the product of all weights that have a dimension."""
    return "".join(sorted(set().union(*(dims for dims, _ in weights if dim in dims))))


def _product(weights: list[tuple[str, Tensor]], dims: str) -> tuple[str, Tensor]:
    return dims, reduce(torch.mul, (_spread(own, weight, dims) for own, weight in weights))


def _spread(dims: str, value: Tensor, over: str) -> Tensor:
    """A value whose dimensions are in the order of others, those that it lacks of size 1."""
    value = value.permute([dims.index(d) for d in over if d in dims])
    sizes = iter(value.shape)
    return value.reshape([next(sizes) if d in dims else 1 for d in over])


def _part(trace: Trace, nodes: dict[str, Any]) -> Trace:
    """A trace with other nodes, whose dimensions have the same symbols."""
    part = Trace(graph_type=trace.graph_type)
    part.nodes.update(nodes)
    part.plate_to_symbol, part.symbol_to_dim = trace.plate_to_symbol, trace.symbol_to_dim
    return part


def _unannealed(trace: Trace) -> Trace:
    """A trace whose sites have the scales without the weight of an annealed KL."""
    nodes = {}
    for name, site in trace.nodes.items():
        if site["type"] == "sample" and UNANNEALED in site["infer"]:
            scale = site["infer"][UNANNEALED]
            log_prob = scale_and_mask(site["unscaled_log_prob"], scale, site["mask"])
            own = {"log_prob": packed.pack(log_prob, site["infer"]["_dim_to_symbol"])}
            site = {**site, "scale": scale, "packed": {**site["packed"], **own}}
        nodes[name] = site
    return _part(trace, nodes)
