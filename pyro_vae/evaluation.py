"""Judgement: the ELBO and the importance-weighted log-likelihood of each example, with errors."""

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Literal

import torch
from torch import Tensor
from torch.distributions import constraints, kl_divergence
from torch.utils._python_dispatch import TorchDispatchMode

from pyro_vae import datasets
from pyro_vae.arguments import check_count, check_seed
from pyro_vae.datasets import Pixels
from pyro_vae.divergences import check_analytic_kl, describe
from pyro_vae.progress import progress_bar
from pyro_vae.seeding import seeded
from pyro_vae.supports import check_on_support, same_support
from pyro_vae.vae import (
    VAE,
    call,
    check_data,
    check_dtype,
    device_of,
    dtype_of,
    evaluating,
    examine,
)

# The noise of an estimate belongs to blocks of so many examples and samples, whatever the memory.
_BLOCK_EXAMPLES = 64
_BLOCK_SAMPLES = 64
# On a processor, steps that outgrow its caches are slower (1.4 to 2 times at 2**28 bytes); and so
# are those of fewer pairs of sample and example than pay for the calls (a spline prior 1.9 times).
_CPU_STEP_BYTES = 2**25
_CPU_STEP_PAIRS = 512


@dataclass(frozen=True, repr=False)
class Elbo:
    r"""The ELBO of each example and its two terms, in nats: ``values = -(reconstruction + kl)``.

    Attributes:
        values: Estimates of :math:`E_q[\log p(x|z)] - KL(q, p)`, shape ``(N,)``.
        reconstruction: Estimates of :math:`-E_q[\log p(x|z)]`, shape ``(N,)``.
        kl: :math:`KL(q(z|x), p(z))`, shape ``(N,)``: exact, or an estimate.
        mean, stderr, mc_error: Of `values`: the mean over examples, its standard error over
            examples, and the Monte Carlo standard error of the mean for these examples.
        reconstruction_mean, reconstruction_stderr, reconstruction_mc_error: The same of
            `reconstruction`.
        kl_mean, kl_stderr, kl_mc_error: The same of `kl`.
        num_samples: Samples of z for each example.
        seed: What fixed the noise, or None.

    A standard error over one example, or a Monte Carlo error from one sample, is NaN.
    """

    values: Tensor
    reconstruction: Tensor
    kl: Tensor
    mean: float
    stderr: float
    mc_error: float
    reconstruction_mean: float
    reconstruction_stderr: float
    reconstruction_mc_error: float
    kl_mean: float
    kl_stderr: float
    kl_mc_error: float
    num_samples: int
    seed: int | None

    def __repr__(self) -> str:
        return _summary(self)


@dataclass(frozen=True, repr=False)
class LogLikelihood:
    r"""The importance-weighted log-likelihood of each example, in nats.

    Attributes:
        values: :math:`\log \frac1K \sum_k w_k` with :math:`w_k = p(x, z_k) / q(z_k|x)`, shape
            ``(N,)``. In the mean a lower bound of log p(x), :math:`E[L_K]`.
        elbo: :math:`\frac1K \sum_k \log w_k` of the same samples, shape ``(N,)``.
        ess: Effective sample size :math:`(\sum_k w_k)^2 / \sum_k w_k^2`, shape ``(N,)``, from 1 to
            K; 0 where all weights are zero, and the value is -inf.
        mean: Mean of `values`.
        stderr: Its standard error over examples; NaN for one example.
        mc_error: Its Monte Carlo standard error for these examples, by the delta method: good
            where `ess` is large, too small where a few weights rule, NaN for one sample. It
            covers :math:`E[L_K]`, not log p(x).
        num_samples: K.
        estimator: ``"importance"``.
        seed: What fixed the noise, or None.
        data_hash: First 16 hexadecimal digits of the SHA-256 of x.
    """

    values: Tensor
    elbo: Tensor
    ess: Tensor
    mean: float
    stderr: float
    mc_error: float
    num_samples: int
    estimator: str
    seed: int | None
    data_hash: str

    def __repr__(self) -> str:
        return _summary(self)


def elbo(
    vae: VAE,
    x: Tensor,
    num_samples: int = 100,
    *,
    kl: Literal["sampled", "analytic"] = "sampled",
    seed: int | None = None,
    max_bytes: int = 2**28,
) -> Elbo:
    r"""Estimates each example's ELBO, reconstruction and KL apart, in eval mode.

    .. math:: \log p(x) \ge E_q[\log p(x|z)] - KL(q(z|x), p(z))

    Arguments:
        vae: The VAE.
        x: Data of shape ``(N, *x_shape)`` on the likelihood's support.
        num_samples: Samples of z for each example.
        kl: ``"sampled"`` from the same samples, or ``"analytic"``, in closed form.
        seed: Fixes the noise and leaves torch's global generator as it was; None draws from it.
        max_bytes: Bound on what one step of prior and likelihood allocates (the posterior takes 64
            examples at a time); changes numbers by float rounding only.

    Raises:
        TypeError, ValueError: x does not fit the VAE or is off the likelihood's support; the KL
            has no closed form; an argument is out of range.

    Source: Kingma and Welling (2014), section 2.3.
    """
    if kl not in ("sampled", "analytic"):
        raise ValueError(f'kl: got {kl!r}, expected "sampled" or "analytic"')
    check_count("num_samples", num_samples)
    rows: list[Tensor] = []
    with torch.no_grad():
        for block in _blocks(vae, x, seed, max_bytes, desc="ELBO"):
            sums: Tensor | float = 0.0
            for log_p_x, log_ratio in block.samples(num_samples):
                negative = torch.stack((-log_p_x, log_ratio, log_ratio - log_p_x)).double()
                sums = sums + torch.stack((negative.sum(1), negative.square().sum(1)))
            assert isinstance(sums, Tensor)
            mean = sums[0] / num_samples
            # The sum of squares about the mean, then the variance of the mean of K samples.
            spread = (sums[1] - num_samples * mean.square()).clamp(min=0)
            variance = (
                spread / (num_samples * (num_samples - 1))
                if num_samples > 1
                else torch.full_like(spread, math.nan)
            )
            if kl == "analytic":
                check_analytic_kl(block.q_z, block.p_z)
                mean[1] = kl_divergence(block.q_z, block.p_z).double()
                mean[2] = mean[0] + mean[1]
                variance[1], variance[2] = 0.0, variance[0]
            rows.append(torch.cat((mean, variance)))
    reconstruction, divergence, cost, *variances = torch.cat(rows, dim=1)
    return Elbo(
        -cost,
        reconstruction,
        divergence,
        *_over_examples(-cost, variances[2]),
        *_over_examples(reconstruction, variances[0]),
        *_over_examples(divergence, variances[1]),
        num_samples=num_samples,
        seed=seed,
    )


def log_likelihood(
    vae: VAE,
    x: Tensor,
    num_samples: int = 1000,
    *,
    seed: int | None = None,
    max_bytes: int = 2**28,
) -> LogLikelihood:
    r"""Estimates each example's log p(x) by importance weighting, in eval mode.

    .. math::
        L_K = \log \frac1K \sum_{k=1}^K \frac{p(x|z_k) p(z_k)}{q(z_k|x)}, \quad z_k \sim q(z|x)

    Its mean is a lower bound of log p(x) that grows with K. Samples are streamed: memory depends
    on `max_bytes`, not on the number of samples or examples.

    Arguments:
        vae: The VAE.
        x: Data of shape ``(N, *x_shape)`` on the likelihood's support, the set on which it is a
            density: binarized pixels for a relaxed Bernoulli too.
        num_samples: K.
        seed: Fixes the noise and leaves torch's global generator as it was; None draws from it.
        max_bytes: Bound on what one step of prior and likelihood allocates (the posterior takes 64
            examples at a time); changes numbers by float rounding only.

    Raises:
        TypeError, ValueError: x does not fit the VAE or is off the likelihood's support; an
            argument is out of range.

    Source: Burda, Grosse and Salakhutdinov (2016), section 3; Monte Carlo error of a log-mean by
    the delta method, :math:`\sqrt{(K/\mathrm{ESS} - 1) / (K - 1)}`.
    """
    check_count("num_samples", num_samples)
    rows: list[Tensor] = []
    with torch.no_grad():
        for block in _blocks(vae, x, seed, max_bytes, desc="log-likelihood"):
            # Sums of w and of w^2 relative to the largest weight so far, and of log w.
            size, device = len(block.x), block.x.device
            largest = torch.full((size,), -math.inf, dtype=torch.float64, device=device)
            weights, squares, logs = torch.zeros(3, size, dtype=torch.float64, device=device)
            for log_p_x, log_ratio in block.samples(num_samples):
                log_w = (log_p_x - log_ratio).double()
                new = torch.maximum(largest, log_w.amax(0))
                base = torch.where(new.isneginf(), 0.0, new)  # no weight yet that is not zero
                shrink, relative = (largest - base).exp(), (log_w - base).exp()
                weights = weights * shrink + relative.sum(0)
                squares = squares * shrink.square() + relative.square().sum(0)
                logs = logs + log_w.sum(0)
                largest = new
            value = largest + weights.log() - math.log(num_samples)
            ess = torch.where(weights > 0, weights.square() / squares, 0.0)
            rows.append(torch.stack((value, logs / num_samples, ess)))
    values, elbos, ess = torch.cat(rows, dim=1)
    # The sample variance of w over its squared mean, over K; NaN for one sample. Where all weights
    # are equal, rounding leaves a little less than nothing.
    spread = (num_samples / ess - 1).clamp(min=0)
    variances = spread / (num_samples - 1) if num_samples > 1 else spread * math.nan
    return LogLikelihood(
        values,
        elbos,
        ess,
        *_over_examples(values, variances),
        num_samples=num_samples,
        estimator="importance",
        seed=seed,
        data_hash=data_hash(x),
    )


def data_hash(x: Tensor) -> str:
    """First 16 hexadecimal digits of the SHA-256 of a tensor's shape, dtype and bytes."""
    digest = hashlib.sha256(f"{x.dtype}{tuple(x.shape)}".encode())
    digest.update(x.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def density_draw(
    vae: VAE, levels: Tensor, pixels: Pixels, seed: int | None
) -> tuple[Tensor, Pixels]:
    """8-bit levels as x on which the VAE has a density, and which pixels these are.

    They are those it was trained on, but for grey ones, on which there is no density: then they
    are binarized for a likelihood on {0, 1}, and dequantized for any other.
    """
    if pixels == "grey":
        with torch.no_grad(), evaluating(vae), seeded(0, device=device_of(vae)):
            support = call(vae, "likelihood", call(vae, "prior").sample((1,))).support
        pixels = "binary" if same_support(support, constraints.boolean) else "dequantized"
    with seeded(seed, device=levels.device):
        return datasets.to_pixels(levels, pixels).to(dtype_of(vae)), pixels


class _Block:
    """Some examples with their prior and posterior, and a stream of samples of z for them."""

    def __init__(self, vae: VAE, x: Tensor, seed: int | None, index: int, max_bytes: int) -> None:
        self.vae = vae
        self.x = x
        self.seed = seed
        self.index = index
        self.max_bytes = max_bytes
        self.p_z = call(vae, "prior")
        self.q_z = call(vae, "posterior", x)

    def samples(self, num_samples: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields log p(x|z) and log q(z|x) - log p(z), each of shape (samples, examples)."""
        pairs: int | None = None
        for start in range(0, num_samples, _BLOCK_SAMPLES):
            count = min(_BLOCK_SAMPLES, num_samples - start)
            with seeded(self.seed, self.index, start, device=self.x.device):
                z = self.q_z.sample((count,))
            if pairs is None:
                pairs = self._pairs(self._bytes_of_a_pair(z[:1, :1]))
            log_p_x, log_p_z = self._score(z, pairs)
            yield log_p_x, self.q_z.log_prob(z) - log_p_z

    def _score(self, z: Tensor, pairs: int) -> tuple[Tensor, Tensor]:
        """log p(x|z) and log p(z), from at most so many pairs of sample and example at once."""
        log_p_x, log_p_z = torch.empty(2, *z.shape[:-1], dtype=z.dtype, device=z.device)
        examples = min(pairs, len(self.x))
        for first in range(0, len(self.x), examples):
            of = slice(first, first + examples)
            for samples in torch.arange(len(z), device=z.device).split(max(1, pairs // examples)):
                part = z[samples, of]
                log_p_x[samples, of] = call(self.vae, "likelihood", part).log_prob(self.x[of])
                log_p_z[samples, of] = self.p_z.log_prob(part)
        return log_p_x, log_p_z

    def _pairs(self, size: int) -> int:
        """How many pairs of sample and example one step takes, each of so many bytes."""
        pairs = max(1, self.max_bytes // size)
        if self.x.device.type == "cpu":
            pairs = min(pairs, max(_CPU_STEP_PAIRS, _CPU_STEP_BYTES // size))
        return pairs

    def _bytes_of_a_pair(self, z: Tensor) -> int:
        """What a further pair makes torch allocate; `z` is one pair's."""

        def allocated(z: Tensor) -> int:
            with _Allocated() as count:
                call(self.vae, "likelihood", z).log_prob(self.x[:1])
                self.p_z.log_prob(z)
            return count.bytes

        return max(1, allocated(z.expand(2, -1, -1)) - allocated(z))


class _Allocated(TorchDispatchMode):
    """Counts the bytes of all that torch's operations return: a bound of what is alive at once."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else (result,):
            if isinstance(tensor, Tensor):
                self.bytes += tensor.numel() * tensor.element_size()
        return result


def _blocks(vae: VAE, x: Tensor, seed: int | None, max_bytes: int, desc: str) -> Iterator[_Block]:
    """The data in blocks of examples, checked, with the VAE in eval mode."""
    if not isinstance(vae, VAE):
        raise TypeError(f"vae: got a {type(vae).__name__}, expected a VAE")
    check_data(x)
    check_seed(seed)
    check_count("max_bytes", max_bytes)
    if not len(x):
        raise ValueError(f"x: got no examples (shape {tuple(x.shape)}), expected at least one")
    check_dtype("x", x, vae)
    device = device_of(vae)
    q_z, p_x = examine(vae, x[:1].to(device), x.shape)
    if "Delta" in describe(q_z):
        raise ValueError(
            f"posterior: got {describe(q_z)}, expected a density: a point mass has no importance "
            "weights"
        )
    check_on_support("x", x.to(device), p_x.support)
    with evaluating(vae), progress_bar(len(x), "examples", desc) as progress:
        for index, part in enumerate(x.split(_BLOCK_EXAMPLES)):
            yield _Block(vae, part.to(device), seed, index, max_bytes)
            progress.update(len(part))


def _over_examples(values: Tensor, variances: Tensor) -> tuple[float, float, float]:
    """Mean, its standard error over examples, and its Monte Carlo error from each variance."""
    count = len(values)
    stderr = values.std().item() / math.sqrt(count) if count > 1 else math.nan
    return values.mean().item(), stderr, math.sqrt(variances.sum().item()) / count


def _summary(result: Elbo | LogLikelihood) -> str:
    """The numbers over examples; of what is one number an example, only how many there are."""
    parts = [f"{len(result.values)} examples"]
    for field in fields(result):
        value = getattr(result, field.name)
        if not isinstance(value, Tensor):
            parts.append(
                f"{field.name}={value:.4g}"
                if isinstance(value, float)
                else (f"{field.name}={value!r}")
            )
    return f"{type(result).__name__}({', '.join(parts)})"
