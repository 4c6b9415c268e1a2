"""A class as an input of parts, and as a label that may be missing."""

from collections.abc import Mapping, Sequence

import pyro.distributions as dist
import torch
from pyro.poutine.util import is_validation_enabled
from torch import Tensor

from pyro_vae.composed import Composed
from pyro_vae.contracts import call
from pyro_vae.utils.checks import kind
from pyro_vae.utils.context import broadcasts, expanded, takes_inputs

__all__ = ["check_categorical", "check_labels", "check_takes_class", "given_class", "given_labels"]


def given_class(
    vae: Composed,
    part: str,
    value: Tensor,
    batch: torch.Size,
    y: Tensor,
    context: Sequence[Tensor],
    swapped: Mapping[int, Tensor] | None = None,
) -> tuple[dist.Distribution, torch.Size]:
    """What a part gives for a value and a class, with the batch shape of both together.

    Arguments:
        vae: The pair.
        part: The path of the part.
        value: x or z.
        batch: Its batch shape.
        y: Classes. All of them may be in a dimension on the left, where all values share them.
        context: What is given with x.
        swapped: See :func:`~pyro_vae.contracts.call`.
    """
    both = torch.broadcast_shapes(y.shape, batch)
    own = expanded(context, both)
    if not broadcasts(vae.get_submodule(part)):
        value = value.expand(*both, *value.shape[len(batch) :])
    return call(vae, part, value, y.expand(both), context=own, swapped=swapped), both


def check_takes_class(vae: Composed, part: str) -> None:
    """Raises ValueError if a part of z and y would drop y, as one of a network of z alone does."""
    module = vae.get_submodule(part)
    # What a user's own forward does with y is not to be seen from its parameters.
    ours = type(module).forward.__module__.partition(".")[0] == __package__.partition(".")[0]
    if ours and not takes_inputs(module, 2):
        raise ValueError(
            f"{part}: got a {type(module).__name__} that does not take the class, expected "
            f"{part}(z, y): networks.Conditioned(network, ..., classes=K) makes a network take it"
        )


def check_categorical(
    part: str, p_y: object, classes: int | None = None, batch: torch.Size | None = None
) -> None:
    """Raises TypeError or ValueError unless a part gives a ``Categorical``, as wide as expected.

    Example:
        >>> from pyro_vae.models.classes import check_categorical
        >>> classifier = models.Classifier(torch.nn.Linear(5, 3))
        >>> check_categorical("classifier", classifier(torch.zeros(7, 5)), classes=3)
    """
    if not isinstance(p_y, torch.distributions.Categorical):
        raise TypeError(
            f"{part}: its forward returned a {type(p_y).__name__}, expected a Categorical of the "
            "classes, such as models.Classifier(network) gives"
        )
    if classes is not None and (own := p_y.logits.shape[-1]) != classes:
        raise ValueError(f"{part}: got {own} classes, expected {classes}")
    if batch is not None and p_y.batch_shape != batch:
        raise ValueError(
            f"{part}: got batch_shape {tuple(p_y.batch_shape)}, expected {tuple(batch)}"
        )


def check_labels(labels: object, size: int, classes: int, values: bool = False) -> None:
    """Raises TypeError or ValueError unless labels are classes or -1, one for each example.

    Values are read while Pyro validates, or if `values` is True.
    """
    if not isinstance(labels, Tensor):
        raise TypeError(f"labels: got {kind(labels)}, expected a torch.Tensor")
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise TypeError(f"labels: got {labels.dtype}, expected integers, -1 where one is missing")
    if labels.dtype == torch.uint8:
        raise TypeError("labels: got torch.uint8, which has no -1, expected labels.long()")
    if labels.shape != (size,):
        raise ValueError(f"labels: got shape {tuple(labels.shape)}, expected ({size},)")
    if (values or is_validation_enabled()) and labels.numel():
        least, greatest = (end.item() for end in labels.aminmax())
        if least < -1 or greatest >= classes:
            raise ValueError(
                f"labels: got values from {least} to {greatest}, expected -1 (missing) to "
                f"{classes - 1}"
            )


def given_labels(q_y: dist.Categorical, labels: Tensor) -> dist.Categorical:
    """q(y|x), or certainty of the label where there is one."""
    every = torch.arange(q_y.logits.shape[-1], device=labels.device)
    other = (labels >= 0).unsqueeze(-1) & (labels.unsqueeze(-1) != every)
    zero = torch.zeros((), dtype=q_y.logits.dtype, device=labels.device)
    # Its exponential is 0, and its product with a weight of 0 is no NaN, as that of -inf.
    known = torch.where(other, zero.new_tensor(-1e30), zero)
    logits = torch.where((labels >= 0).unsqueeze(-1), known, q_y.logits)
    return dist.Categorical(logits=logits)
