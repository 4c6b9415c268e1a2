"""The components of a mixture as classes, and a network as a classifier."""

from collections.abc import Mapping, Sequence
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import Independent, MixtureSameFamily

from pyro_vae.composed import Composed
from pyro_vae.contracts import call, check_layer
from pyro_vae.distributions import describe_distribution
from pyro_vae.utils.checks import check_module, kind
from pyro_vae.utils.context import broadcasts, expanded, given
from pyro_vae.utils.shapes import out_shape

__all__ = ["Classifier", "check_mixture", "class_logits", "component", "labels_of", "posterior_of"]


class Classifier(nn.Module):
    r"""A classifier by a network, :math:`q(y|x) = \mathrm{Categorical}(\mathrm{softmax}(f(x)))`.

    Arguments:
        network: Maps x of shape ``(*batch, *x_shape)`` to logits of shape ``(*batch, classes)``.

    Raises:
        TypeError: `network` is not a module.
        ValueError: The network has an ``out_shape`` of more dimensions than one.

    Example:
        >>> classifier = models.Classifier(networks.MLP((28, 28), (500,), 10))
        >>> classifier(torch.rand(7, 28, 28)).probs.shape
        torch.Size([7, 10])
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        check_module("network", network)
        if hasattr(network, "out_shape") and len(out_shape(network)) != 1:
            raise ValueError(
                f"network: got out_shape {tuple(out_shape(network))}, expected one dimension: a "
                "number for each class"
            )
        self.network = network

    def forward(self, x: Tensor, *context: Tensor) -> dist.Distribution:
        return dist.Categorical(logits=given(self.network, x, context))


def check_mixture(mixture: object) -> None:
    """Raises TypeError unless a prior is a mixture of normals, with any covariance.

    Example:
        >>> from pyro_vae.models.components import check_mixture
        >>> check_mixture(priors.GaussianMixture(2, components=3)())
    """
    if isinstance(mixture, MixtureSameFamily):
        own = mixture.component_distribution
        if isinstance(own, torch.distributions.MultivariateNormal):
            return
        if isinstance(own, Independent) and isinstance(own.base_dist, torch.distributions.Normal):
            return
    assert isinstance(mixture, dist.Distribution)
    raise TypeError(
        f"prior: got {describe_distribution(mixture)}, expected a mixture of normals, such as "
        "priors.GaussianMixture: each component is a class"
    )


def component(mixture: MixtureSameFamily, y: Tensor) -> dist.Distribution:
    """The component of a mixture for each class y, with the batch shape of both together.

    Arguments:
        mixture: A mixture of K normals, of batch shape ``()`` or ``(N,)``.
        y: Classes of shape ``(*batch, N)``, or ``(*batch, 1)`` for all examples.
    """
    components: Any = mixture.component_distribution
    full = isinstance(components, torch.distributions.MultivariateNormal)
    normal = components if full else components.base_dist
    loc = _chosen(normal.loc, y, mixture.batch_shape)
    if full:
        tril = _chosen(normal.scale_tril.flatten(-2), y, mixture.batch_shape)
        return dist.MultivariateNormal(loc, scale_tril=tril.unflatten(-1, 2 * loc.shape[-1:]))
    return dist.Normal(loc, _chosen(normal.scale, y, mixture.batch_shape)).to_event(1)


def _chosen(each: Tensor, y: Tensor, batch: torch.Size) -> Tensor:
    """The row of each y, from ``(*batch, K, d)``."""
    if not batch:
        return each[y]
    both = torch.broadcast_shapes(y.shape, batch)
    wide = each.expand(*both, *each.shape[-2:])
    return torch.take_along_dim(wide, y.expand(both)[..., None, None], -2).squeeze(-2)


def class_logits(mixture: MixtureSameFamily, z: Tensor) -> Tensor:
    """log p(y, z) of each class, of shape ``(*batch, K)``."""
    log_p: Tensor = mixture.component_distribution.log_prob(z.unsqueeze(-2))
    return log_p + mixture.mixture_distribution.logits


def posterior_of(
    vae: Composed,
    x: Tensor,
    y: Tensor | None,
    context: Sequence[Tensor],
    swapped: Mapping[int, Tensor] | None = None,
) -> dist.Distribution:
    """q(z|x, y), with the batch shape of x and y together; without a class, q(z|x)."""
    if y is None:
        q_z = call(vae, "posterior", x, context=context, swapped=swapped)
        check_layer("posterior", q_z, x.shape[:1])
        return q_z
    # All values of a class may be in a dimension on the left, and all x share them there.
    batch = torch.broadcast_shapes(y.shape, x.shape[:1])
    own = expanded(context, batch)
    inputs = (x,) if broadcasts(vae.get_submodule("posterior")) else expanded([x], batch)
    q_z = call(vae, "posterior", *inputs, y.expand(batch), context=own, swapped=swapped)
    check_layer("posterior", q_z, batch)
    return q_z


def labels_of(y: object, size: int, classes: int) -> Tensor:
    """Classes as a tensor of shape ``(size,)``.

    Arguments:
        y: A class, or a tensor of them.
        size: The number of classes that are wanted.
        classes: The number of different ones.

    Raises:
        TypeError: `y` is not an integer, or a tensor of them.
        ValueError: `y` has another shape, or a class is out of range.
    """
    if isinstance(y, bool) or not (isinstance(y, Tensor) or hasattr(y, "__index__")):
        raise TypeError(f"y: got {kind(y)}, expected a class, or a tensor of classes")
    labels = torch.as_tensor(y)
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise TypeError(f"y: got {labels.dtype}, expected integer classes")
    if labels.dim() and labels.shape != (size,):
        raise ValueError(
            f"y: got shape {tuple(labels.shape)}, expected ({size},): a class for each example"
        )
    if labels.numel():
        least, greatest = (int(end) for end in labels.long().aminmax())
        if least < 0 or greatest >= classes:
            raise ValueError(
                f"y: got classes from {least} to {greatest}, expected 0 to {classes - 1}"
            )
    return labels.long().expand(size)
