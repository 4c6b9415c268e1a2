"""Class labels of which only some are kept."""

import torch
from torch import Tensor

from pyro_vae.utils.checks import check_count, check_seed, check_tensor, plain
from pyro_vae.utils.random import seeded

__all__ = ["keep_labels"]


def keep_labels(labels: Tensor, count: int, seed: int | None) -> Tensor:
    """Keeps some labels, as many of each class, and sets the others to -1, which is missing.

    Arguments:
        labels: Class labels of shape ``(N,)``.
        count: The number of labels to keep, a multiple of the number of classes.
        seed: Decides which, and leaves torch's global generator as it was; None draws from that
            generator.

    Returns:
        The labels, of the same shape and dtype.

    Raises:
        TypeError: `labels` are no integers.
        ValueError: `count` is no multiple of the number of classes, or a class has too few.

    Example:
        >>> data = datasets.load("digits")
        >>> labels = datasets.keep_labels(data.train_labels, 100, seed=0)
        >>> labels[labels >= 0].bincount().tolist()
        [10, 10, 10, 10, 10, 10, 10, 10, 10, 10]
    """
    check_tensor("labels", labels, "N")
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise TypeError(f"labels: got {labels.dtype}, expected integer classes")
    check_count("count", count)
    check_seed(seed)
    classes = labels[labels >= 0].unique()
    each, rest = divmod(plain(count), max(1, len(classes)))
    if rest or not len(classes):
        raise ValueError(
            f"count: got {count} for {len(classes)} classes, expected as many labels of each"
        )
    kept = torch.full_like(labels, -1)
    with seeded(seed, device=labels.device):
        for label in classes.tolist():
            places = (labels == label).nonzero().flatten()
            if len(places) < each:
                raise ValueError(
                    f"count: got {count}, which are {each} of each class, expected at most the "
                    f"{len(places)} of class {label}"
                )
            chosen = torch.randperm(len(places), device=labels.device)[:each]
            kept[places[chosen]] = label
    return kept
