"""A prior over one-hot codes."""

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_vae.distributions import OneHotCodes
from pyro_vae.utils.checks import check_count, check_flag

__all__ = ["OneHotCategorical"]


class OneHotCategorical(nn.Module):
    r"""One-hot codes, :math:`p(z) = \prod_c \prod_k \pi_{ck}^{z_{ck}}`, uniform or trained.

    z has the codes one after the other: ``z_dim = codes * levels``. The score is linear in z, so
    that it takes the relaxed codes of ``posteriors.OneHotCategorical`` too.

    Source: Jang, Gu and Poole (2017), arXiv 1611.01144, section 4.

    Arguments:
        levels: Number of values of each code.
        codes: Number of codes.
        trained: Trains the probabilities, which start equal.

    Raises:
        TypeError: `trained` is not a bool.
        ValueError: `levels` or `codes` is not a positive integer.

    Example:
        >>> prior = priors.OneHotCategorical(levels=10, codes=3)
        >>> prior().sample((7,)).shape
        torch.Size([7, 30])
    """

    logits: Tensor

    def __init__(self, levels: int, codes: int = 1, trained: bool = False) -> None:
        super().__init__()
        check_count("levels", levels)
        check_count("codes", codes)
        check_flag("trained", trained)
        logits = torch.zeros(codes, levels)
        if trained:
            self.logits = nn.Parameter(logits)
        else:  # A constant, which follows device and dtype but need not be saved.
            self.register_buffer("logits", logits, persistent=False)

    def forward(self) -> dist.Distribution:
        return OneHotCodes(self.logits)

    def extra_repr(self) -> str:
        codes, levels = self.logits.shape
        return f"levels={levels}, codes={codes}, trained={isinstance(self.logits, nn.Parameter)}"
