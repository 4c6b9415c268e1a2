"""The conditional distributions of the layers of a hierarchical VAE."""

from collections.abc import Mapping, Sequence
from typing import Literal

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import Independent

from pyro_vae.composed import Composed
from pyro_vae.contracts import call, check_layer
from pyro_vae.distributions import describe_distribution
from pyro_vae.utils.context import broadcasts, expanded

__all__ = ["Inference", "posterior_of", "prior_of"]

Inference = Literal["bottom-up", "ladder", "top-down"]
"""How the posteriors of the layers depend on each other; see :class:`HierarchicalVAE`."""


def prior_of(
    vae: Composed,
    layer: int,
    above: Tensor | None,
    context: Sequence[Tensor],
    swapped: Mapping[int, Tensor] | None = None,
) -> dist.Distribution:
    """p(z) of a layer, given the one above it; the last has none."""
    path = f"priors.{layer}"
    if above is None:
        p_z = call(vae, path, context=context, swapped=swapped)
        each = context and p_z.batch_shape  # Each example may have one, by its context.
        check_layer(path, p_z, context[0].shape[:1] if each else torch.Size())
        return p_z
    own = expanded(context, above.shape[:-1])
    p_z = call(vae, path, above, context=own, swapped=swapped)
    check_layer(path, p_z, above.shape[:-1])
    return p_z


def posterior_of(
    vae: Composed,
    inference: Inference,
    layer: int,
    x: Tensor,
    z: Mapping[int, Tensor],
    context: Sequence[Tensor],
    swapped: Mapping[int, Tensor] | None = None,
) -> dist.Distribution:
    """q(z) of a layer, given x and the layers that are drawn already.

    Arguments:
        layer: The layer.
        x: The data, of shape ``(N, *x_shape)``.
        z: Values of layers, of shape ``(*particles, N, z_dim)``.
        context: What is given with x.
        swapped: See :func:`~pyro_vae.contracts.call`.
    """
    path = f"posteriors.{layer}"
    beside = z.get(layer - 1 if inference == "bottom-up" else layer + 1)
    if beside is None or inference == "ladder":
        q_z = call(vae, path, x, context=context, swapped=swapped)
        check_layer(path, q_z, x.shape[:1])
        if beside is None:
            return q_z
        return _product(layer, q_z, prior_of(vae, layer, beside, context, swapped))
    batch = beside.shape[:-1]
    given = expanded(context, batch)
    if inference == "bottom-up":
        inputs: tuple[Tensor, ...] = (beside,)
    elif broadcasts(vae.get_submodule(path)):
        inputs = (x, beside)
    else:
        inputs = (*expanded([x], batch), beside)
    q_z = call(vae, path, *inputs, context=given, swapped=swapped)
    check_layer(path, q_z, batch)
    return q_z


def _product(layer: int, q_z: dist.Distribution, p_z: dist.Distribution) -> dist.Distribution:
    """The normalized product of two normals: precisions add up."""
    (q_loc, q_scale), (p_loc, p_scale) = (
        _moments(f"{part}[{layer}]", normal)
        for part, normal in (("posteriors", q_z), ("priors", p_z))
    )
    # The weight of the posterior's mean; ratios neither overflow nor lose the smaller precision.
    weight = 1 / (1 + (q_scale / p_scale).square())
    return dist.Normal(torch.lerp(p_loc, q_loc, weight), q_scale * weight.sqrt()).to_event(1)


def _moments(part: str, normal: dist.Distribution) -> tuple[Tensor, Tensor]:
    base = normal.base_dist if isinstance(normal, Independent) else normal
    if not isinstance(base, torch.distributions.Normal):
        raise ValueError(
            f"{part}: got {describe_distribution(normal)}, expected a normal with diagonal "
            "covariance, whose precision a ladder adds to that of the other"
        )
    return base.loc, base.scale
