"""Whether a tensor was changed in place since its log-density or its inverse was stored."""

from torch import Tensor

__all__ = ["is_version", "version"]


def version(tensor: Tensor) -> int:
    """The number of in-place changes of a tensor; -1 in inference mode, where none are counted.

    Example:
        >>> from pyro_vae.distributions.versions import version
        >>> z = torch.zeros(3)
        >>> before = version(z)
        >>> version(z.add_(1)) - before
        1
    """
    return -1 if tensor.is_inference() else tensor._version


def is_version(tensor: Tensor, number: int) -> bool:
    """Whether a tensor is known to be unchanged since :func:`version` gave `number`.

    Example:
        >>> from pyro_vae.distributions.versions import is_version, version
        >>> z = torch.zeros(3)
        >>> is_version(z, version(z))
        True
    """
    return number >= 0 and version(tensor) == number
