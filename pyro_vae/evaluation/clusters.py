"""How well clusters agree with labels."""

import torch
from torch import Tensor

from pyro_vae.utils.checks import check_examples, check_tensor
from pyro_vae.utils.extras import extra


def cluster_accuracy(clusters: Tensor, labels: Tensor) -> float:
    r"""The share of examples whose cluster is that of their label, by the best matching.

    .. math:: \max_\pi \frac1N \sum_n [\pi(c_n) = l_n]

    The matching :math:`\pi` gives each cluster a label of its own; where there are more clusters
    than labels, or fewer, some have none. It is found exactly, by the Hungarian algorithm of
    SciPy.

    Source: Xie, Girshick and Farhadi (2016), arXiv 1511.06335, equation 10.

    Arguments:
        clusters: A cluster for each example, integers of shape ``(N,)``; or probabilities of shape
            ``(N, clusters)``, such as those of ``MixtureVAE.classify``, whose largest counts.
        labels: Integers from 0 up, of shape ``(N,)``.

    Returns:
        The accuracy, from 0 to 1.

    Raises:
        TypeError: An argument is no tensor, or has another dtype.
        ValueError: The shapes do not fit, there are no examples, or a number is negative.
        ModuleNotFoundError: SciPy is not installed.

    Example:
        >>> from pyro_vae.evaluation import cluster_accuracy
        >>> cluster_accuracy(torch.tensor([2, 2, 0, 0]), torch.tensor([0, 0, 1, 2]))
        0.75
    """
    if isinstance(clusters, Tensor) and clusters.dim() == 2 and clusters.is_floating_point():
        check_tensor("clusters", clusters, "N", "clusters")
        if not clusters.numel() or clusters.isnan().any():
            raise ValueError(
                f"clusters: got probabilities of shape {tuple(clusters.shape)}, some of them NaN "
                "or none, expected numbers"
            )
        clusters = clusters.argmax(1)
    for argument, value in (("clusters", clusters), ("labels", labels)):
        check_tensor(argument, value, "N")
        if value.is_floating_point() or value.is_complex() or value.dtype == torch.bool:
            raise TypeError(f"{argument}: got {value.dtype}, expected integers")
        check_examples(argument, value)
        if value.min() < 0:
            raise ValueError(f"{argument}: got {int(value.min())}, expected integers from 0 up")
    if len(clusters) != len(labels):
        raise ValueError(
            f"labels: got {len(labels)} for {len(clusters)} clusters, expected one for each"
        )
    return _matched(clusters.cpu().long(), labels.cpu().long())


def _matched(clusters: Tensor, labels: Tensor) -> float:
    """The share of examples that agree, under the best matching."""
    with extra("clusters", {"scipy": "scipy"}, "the best matching"):
        from scipy.optimize import linear_sum_assignment
    _, own = clusters.unique(return_inverse=True)
    _, true = labels.unique(return_inverse=True)
    counts = torch.zeros(int(own.max()) + 1, int(true.max()) + 1, dtype=torch.long)
    counts.index_put_((own, true), torch.ones_like(own), accumulate=True)
    rows, columns = linear_sum_assignment(counts.numpy(), maximize=True)
    return float(counts[rows, columns].sum()) / len(own)
