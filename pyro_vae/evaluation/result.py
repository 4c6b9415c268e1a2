"""The log-likelihood of each example, and how far to trust it."""

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pyro_vae import plots
from pyro_vae.evaluation.estimators import EXACT, advice_of
from pyro_vae.evaluation.psis import khat_threshold
from pyro_vae.utils.files import write_json
from pyro_vae.utils.tables import summary

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class UnreliableWeights(UserWarning):
    """Importance weights have tails too heavy for their number."""


@dataclass(frozen=True, repr=False)
class LogLikelihood:
    r"""The log-likelihood of each example, in nats, and how far to trust it.

    Attributes:
        values: :math:`\log \frac1K \sum_k w_k` of the estimator's weights, shape ``(N,)``. In the
            mean a lower bound of log p(x), :math:`E[L_K]`, that grows with K.
        elbo: :math:`\frac1K \sum_k \log w_k`, shape ``(N,)``: for importance weights the ELBO, for
            others the same bound by their weights.
        ess: Effective sample size :math:`(\sum_k w_k)^2 / \sum_k w_k^2`, shape ``(N,)``, from 1 to
            K; 0 where all weights are zero, and the value is -inf.
        khat: Shape of the Pareto tail of the weights, shape ``(N,)``: from 1/2 up they have no
            variance, above ``khat_threshold(K)`` K of them do not do. Minus infinity where all are
            the same, infinity where all but a few are nothing, NaN where they are too few to
            tell, below 21, or many of the tail are the same.
        jackknife: `values` with their bias of first order taken out, shape ``(N,)``; nearer to
            log p(x) where `ess` is large, and neither a bound nor of less noise.
        mean: Mean of `values`.
        stderr: Its standard error over examples; NaN for one example.
        mc_error: Its Monte Carlo standard error for these examples, by the delta method: good
            where `ess` is large, too small where a few weights rule, NaN for one sample. It
            covers :math:`E[L_K]`, not log p(x).
        bias: Mean of ``values - jackknife``, an estimate of how far :math:`E[L_K]` is below
            log p(x).
        num_samples: K; 0 for the exact one.
        estimator: Its name.
        estimator_settings: Its numbers by name, such as the temperatures of AIS.
        seed: What fixed the noise, or None.
        data_hash: First 16 hexadecimal digits of the SHA-256 of x.
        complete: False where it was interrupted, and `values` are those of the first examples.
        sizes: Numbers of samples k = 1, 2, 4, ... up to K / 2.
        bounds: For each of these the mean over examples of :math:`L_k`, from disjoint groups of
            the same weights.
        bound_errors: Their Monte Carlo standard errors.
    """

    values: Tensor
    elbo: Tensor
    ess: Tensor
    khat: Tensor
    jackknife: Tensor
    mean: float
    stderr: float
    mc_error: float
    bias: float
    num_samples: int
    estimator: str
    estimator_settings: Mapping[str, Any]
    seed: int | None
    data_hash: str
    complete: bool
    sizes: tuple[int, ...]
    bounds: tuple[float, ...]
    bound_errors: tuple[float, ...]

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        r"""An interval for the mean over these examples of :math:`E[L_K]`, by normal theory.

        It is one for the bound and not for log p(x), from which `bias` says how far that is: the
        Monte Carlo error of a mean falls with the number of examples, the bias does not.

        Raises:
            ValueError: `level` is not between 0 and 1.
        """
        if not 0 < level < 1:
            raise ValueError(f"level: got {level!r}, expected a number between 0 and 1")
        width = NormalDist().inv_cdf((1 + level) / 2) * self.mc_error
        return self.mean - width, self.mean + width

    @property
    def unreliable(self) -> Tensor:
        """Which examples have a `khat` above the threshold, or none by ties, shape ``(N,)``.

        None where the samples are too few for any to have one.
        """
        threshold = khat_threshold(self.num_samples)
        if math.isnan(threshold):
            return torch.zeros_like(self.khat, dtype=torch.bool)
        return ~(self.khat <= threshold)

    @property
    def doubt(self) -> str | None:
        """What k-hat says against the numbers; None where it says nothing against them."""
        threshold, count = khat_threshold(self.num_samples), int(self.unreliable.sum())
        if self.estimator == EXACT:
            return None
        if math.isnan(threshold):
            return (
                f"{self.num_samples} samples are too few for a k-hat, which takes 21: nothing "
                "tells how far values are below log p(x), nor whether mc_error is right"
            )
        if not count:
            return None
        advice = "".join(f", or {hint}" for hint in advice_of(self.estimator))
        return (
            f"k-hat is above {threshold:.2f}, or cannot be told, for {count} of "
            f"{len(self.values)} examples: their weights' tails are heavy for {self.num_samples} "
            f"samples, values may be too low and mc_error too small; more samples tell more{advice}"
        )

    def plot(self, axes: "tuple[Axes, Axes] | None" = None) -> "tuple[Axes, Axes]":
        """The bound against the number of samples, and a histogram of k-hat; returns both axes.

        Raises:
            ValueError: The estimate is the exact one, which has neither.
        """
        if self.estimator == EXACT:
            raise ValueError("estimator: an exact log-likelihood has no samples to be drawn")
        first, second = plots.panels() if axes is None else axes
        sizes, bounds, errors = (
            (*self.sizes, self.num_samples),
            (*self.bounds, self.mean),
            (*self.bound_errors, self.mc_error),
        )
        plots.bounds(sizes, bounds, errors, ax=first)
        plots.khat(self.khat, khat_threshold(self.num_samples), ax=second)
        return first, second

    def to_dict(self) -> dict[str, Any]:
        """All attributes by name, tensors and tuples as lists."""
        record = {field.name: getattr(self, field.name) for field in fields(self)}
        for name, value in record.items():
            if isinstance(value, Tensor):
                record[name] = value.tolist()
            elif isinstance(value, tuple):
                record[name] = list(value)
        return record

    def save(self, path: str | Path) -> None:
        """Writes :meth:`to_dict` as JSON: NaN is null, infinities are strings."""
        write_json(Path(path), self.to_dict())

    def __repr__(self) -> str:
        return summary(self)


def warn_of(result: LogLikelihood, stacklevel: int) -> None:
    """Warns of what k-hat says against a result."""
    if result.doubt is not None:
        warnings.warn(result.doubt, UnreliableWeights, stacklevel=stacklevel)
