"""Whether a tensor was changed in place since something was computed from it."""

from torch import Tensor

from pyro_vae.compat import changes

__all__ = ["is_unchanged"]


def is_unchanged(tensor: Tensor, count: int) -> bool:
    """Whether a tensor is known to be unchanged since ``compat.changes(tensor)`` was `count`.

    False in inference mode, where torch does not count changes.

    Example:
        >>> from pyro_vae.compat import changes
        >>> from pyro_vae.distributions.versions import is_unchanged
        >>> z = torch.zeros(3)
        >>> count = changes(z)
        >>> is_unchanged(z, count), is_unchanged(z.add_(1), count)
        (True, False)
    """
    return count >= 0 and changes(tensor) == count
