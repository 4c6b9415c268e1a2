"""A posterior over one-hot codes, which may be relaxed in training."""

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_vae.distributions import OneHotCodes, RelaxedOneHotCodes
from pyro_vae.utils.checks import check_count, check_module, check_positive, plain
from pyro_vae.utils.context import given
from pyro_vae.utils.shapes import out_shape

__all__ = ["OneHotCategorical"]


class OneHotCategorical(nn.Module):
    r"""One-hot codes, :math:`q(z|x) = \prod_c \prod_k \pi_{ck}(x)^{z_{ck}}`.

    The network gives the logits, code after code. Without a temperature, z is one-hot: train by
    ``objectives.enumerated()`` while there are at most 1024 values (``levels ** codes``), or by
    ``pyro.infer.TraceGraph_ELBO()``.

    With a temperature :math:`\tau`, z is relaxed in train mode,
    :math:`\mathrm{softmax}((\log \pi + g) / \tau)` with Gumbel noise g. Its gradient is pathwise,
    so that ``objectives.trace_elbo()`` and ``objectives.analytic_kl()`` train it. Prior and
    posterior score it by the one-hot form, :math:`\sum z_{ck} \log \pi_{ck}`. A sampled KL is then
    biased, since the mean of a relaxed z is not :math:`\pi`, and so is the likelihood's term; both
    biases vanish with :math:`\tau`. The KL of ``analytic_kl`` is exact at any temperature. In eval
    mode z is one-hot, so :func:`log_likelihood` is that of the discrete latents.

    ``posterior.temperature`` is a tensor, which a callback may lower: ``temperature.fill_(0.5)``.

    Source: Jang, Gu and Poole (2017), arXiv 1611.01144, sections 2 and 3; Maddison, Mnih and Teh
    (2017), arXiv 1611.00712, section 3, score the relaxed z by its own density instead.

    Arguments:
        network: Maps x of shape ``(*batch, *x_shape)`` to shape ``(*batch, codes * levels)``.
        codes: Number of codes.
        temperature: The temperature in train mode, above 0; None does not relax.

    Raises:
        TypeError: `network` is not a module, or `temperature` is not a number.
        ValueError: `codes` is not a positive integer, `temperature` is not a finite number above
            0, or the network does not give ``codes * levels`` numbers (checked in ``forward``, and
            before if the network has an ``out_shape``).

    Example:
        >>> network = networks.MLP((28, 28), (500,), 3 * 10)
        >>> posterior = posteriors.OneHotCategorical(network, codes=3, temperature=0.5)
        >>> posterior(torch.rand(7, 28, 28)).rsample().shape
        torch.Size([7, 30])
    """

    temperature: Tensor | None

    def __init__(
        self, network: nn.Module, codes: int = 1, temperature: float | None = None
    ) -> None:
        super().__init__()
        check_module("network", network)
        check_count("codes", codes)
        if temperature is not None:
            check_positive("temperature", temperature)
        self.network = network
        self.codes = plain(codes)
        own = None if temperature is None else torch.tensor(float(plain(temperature)))
        self.register_buffer("temperature", own)
        if hasattr(network, "out_shape"):
            shape = out_shape(network)
            if len(shape) != 1:
                raise ValueError(
                    f"network: got out_shape {tuple(shape)}, expected one dimension for all "
                    "numbers"
                )
            self._logits(torch.empty(shape, device="meta"))

    def forward(self, x: Tensor, *context: Tensor) -> dist.Distribution:
        logits = self._logits(given(self.network, x, context))
        if self.temperature is not None and self.training:
            return RelaxedOneHotCodes(logits, self.temperature)
        return OneHotCodes(logits)

    def _logits(self, numbers: Tensor) -> Tensor:
        if not numbers.shape[-1] or numbers.shape[-1] % self.codes:
            raise ValueError(
                f"network: gave {numbers.shape[-1]} numbers, expected codes * levels, a multiple "
                f"of {self.codes}"
            )
        return numbers.unflatten(-1, (self.codes, -1))

    def extra_repr(self) -> str:
        return f"codes={self.codes}" + ("" if self.temperature is None else ", with a temperature")
