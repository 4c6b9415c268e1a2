"""The result of an evaluation: log-likelihoods with errors, and a check of the weights."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pyro_vae.evaluation.estimators import EXACT, advice_of
from pyro_vae.evaluation.inputs import mean_and_stderr
from pyro_vae.evaluation.psis import khat_threshold
from pyro_vae.plots import bounds as plot_bounds
from pyro_vae.plots import khat as plot_khat
from pyro_vae.plots import panels
from pyro_vae.utils import html
from pyro_vae.utils.checks import check_number, check_path, is_sequence, kind, plain
from pyro_vae.utils.files import write_json
from pyro_vae.utils.tables import counted, summary
from pyro_vae.utils.warn import warn

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class UnreliableWeights(UserWarning):
    """Warns that importance weights are too heavy-tailed for their number.

    The message is :attr:`LogLikelihood.doubt`.

    Source: Vehtari et al. (2024), arXiv 1507.02646, section 3.2.4.

    Example:
        >>> import warnings
        >>> from pyro_vae.evaluation import UnreliableWeights
        >>> vae = presets.build("pyro-mlp", z_dim=2, shape=16)
        >>> with warnings.catch_warnings(record=True) as caught:
        ...     warnings.simplefilter("always", UnreliableWeights)
        ...     result = log_likelihood(vae, torch.ones(7, 16), num_samples=10)
        >>> str(caught[-1].message) == result.doubt
        True
    """


@dataclass(frozen=True, repr=False)
class LogLikelihood:
    r"""The log-likelihood of each example in nats, with errors and a check of the weights.

    .. math:: L_K = \log \frac1K \sum_{k=1}^K w_k, \quad E[L_K] \le \log p(x)

    Source: Burda, Grosse and Salakhutdinov (2016), arXiv 1509.00519, section 3, for the bound;
    Vehtari et al. (2024), arXiv 1507.02646, section 3, for k-hat; Nowozin (2018), Debiasing
    evidence approximations, ICLR, for the jackknife.

    Attributes:
        values: :math:`L_K` of the estimator's weights, shape ``(N,)``. Its expectation is a lower
            bound of log p(x) that grows with K.
        elbo: :math:`\frac1K \sum_k \log w_k`, shape ``(N,)``. For importance weights this is an
            estimate of the ELBO, for other weights one of the bound :math:`E[L_1]`. NaN for
            ``"exact"``. Where discrete latents are summed out, it is that of the others, at least
            the ELBO of all.
        ess: The effective sample size :math:`(\sum_k w_k)^2 / \sum_k w_k^2`, from 1 to K, shape
            ``(N,)``. It is 0 if all weights are zero, and the value is then -inf. NaN for
            ``"exact"``.
        khat: The shape of the Pareto tail of the weights, shape ``(N,)``. From 1/2 up, the weights
            have no finite variance. Above :math:`\min(1 - 1 / \log_{10} K, 0.7)`, K of them are
            too few. It is minus infinity if all weights are equal, infinity if all but a few are
            zero, and NaN for fewer than 21 samples or a tail with many equal weights.
        jackknife: `values` without their first-order bias, shape ``(N,)``. They are nearer to
            log p(x) if `ess` is large. They are not a bound, and not less noisy.
        mean: The mean of `values` over examples.
        stderr: The standard error of `mean` over examples; NaN for one example.
        mc_error: The Monte Carlo standard error of `mean` for these examples, by the delta method.
            It is right if `ess` is large, too small if a few weights dominate, and NaN for one
            sample. It is the error as an estimate of :math:`E[L_K]`, not of log p(x).
        bias: The mean of ``values - jackknife``, an estimate of the bias of `mean` as an estimate
            of log p(x).
        num_samples: K, the number of samples of each example; 0 for ``"exact"``.
        estimator: The name of the estimator.
        estimator_settings: The estimator's settings by name, such as the temperatures of AIS.
        seed: The seed of the noise, or None.
        data_hash: The first 16 hexadecimal digits of the SHA-256 of x.
        complete: False if the evaluation was interrupted. `values` are then those of the first
            examples.
        sizes: Numbers of samples k = 1, 2, 4, ... up to K / 2.
        bounds: The mean of :math:`L_k` over examples for each of `sizes`, from disjoint groups of
            the same weights.
        bound_errors: The Monte Carlo standard errors of `bounds`.

    Example:
        >>> vae = presets.build("pyro-mlp", z_dim=2, shape=16)
        >>> result = log_likelihood(vae, torch.ones(7, 16), num_samples=100, seed=0)
        >>> result.values.shape, result.khat.shape, result.sizes
        (torch.Size([7]), torch.Size([7]), (1, 2, 4, 8, 16, 32))
        >>> low, high = result.interval(0.95)
        >>> low < result.mean < high
        True
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
        r"""Returns a confidence interval for the mean of :math:`E[L_K]` over these examples.

        It is ``mean ± z * mc_error`` with the normal quantile z. It covers the bound, not
        log p(x): `bias` estimates the distance between them. More examples reduce the Monte Carlo
        error of the mean, but not the bias.

        Arguments:
            level: The confidence level, between 0 and 1.

        Returns:
            The ends of the interval in nats.

        Raises:
            TypeError, ValueError: `level` is not a number between 0 and 1.
        """
        check_number("level", level, above=0, below=1)
        width = NormalDist().inv_cdf((1 + float(plain(level))) / 2) * self.mc_error
        return self.mean - width, self.mean + width

    def above(self, other: "LogLikelihood") -> tuple[float, float]:
        """Returns by how much the mean is above that of another result, and the standard error.

        The difference is taken example by example, and the error is over examples. It is much
        smaller than that of either mean where both models find the same examples hard. How much
        another training would change is not in it.

        Arguments:
            other: A result of the same data, of another pair or by another estimator.

        Returns:
            The mean difference in nats, and its standard error; NaN for one example.

        Raises:
            TypeError: `other` is no such result.
            ValueError: It is of other data, or one of the two was interrupted.

        Example:
            >>> x = torch.ones(7, 16)
            >>> small, large = (presets.build("pyro-mlp", z_dim=d, shape=16) for d in (2, 5))
            >>> first = log_likelihood(small, x, num_samples=100, seed=0)
            >>> second = log_likelihood(large, x, num_samples=100, seed=0)
            >>> gain, error = second.above(first)
            >>> abs(gain - (second.mean - first.mean)) < 1e-4
            True
        """
        if not isinstance(other, LogLikelihood):
            raise TypeError(f"other: got {kind(other)}, expected a LogLikelihood")
        if self.data_hash != other.data_hash:
            raise ValueError(
                f"other: got a result of other data (data_hash {other.data_hash!r}), expected the "
                f"same ({self.data_hash!r}): only the same examples have a paired difference"
            )
        if len(self.values) != len(other.values):
            raise ValueError(
                f"other: got {len(other.values)} examples, expected {len(self.values)}: an "
                "evaluation was interrupted"
            )
        return mean_and_stderr((self.values - other.values).double())

    @property
    def unreliable(self) -> Tensor:
        """Whether the `khat` of each example is above the threshold or NaN, shape ``(N,)``.

        All False if there are too few samples for a k-hat.
        """
        threshold = khat_threshold(self.num_samples)
        if math.isnan(threshold):
            return torch.zeros_like(self.khat, dtype=torch.bool)
        return ~(self.khat <= threshold)

    @property
    def doubt(self) -> str | None:
        """What k-hat says against the estimates, in words; None if nothing does."""
        threshold, count = khat_threshold(self.num_samples), int(self.unreliable.sum())
        if self.estimator == EXACT:
            return None
        if math.isnan(threshold):
            return (
                f"{self.num_samples} samples are too few for a k-hat, which takes 21 or more: it "
                "is unknown how far values are below log p(x), and whether mc_error is right"
            )
        if not count:
            return None
        advice = "".join(f", or {hint}" for hint in advice_of(self.estimator))
        return (
            f"k-hat is above {threshold:.2f}, or undefined, for {count} of {len(self.values)} "
            f"examples: their weights are too heavy-tailed for {self.num_samples} samples, values "
            f"may be too low and mc_error too small; use more samples{advice}"
        )

    def plot(self, axes: "tuple[Axes, Axes] | None" = None) -> "tuple[Axes, Axes]":
        """Plots the bound against the number of samples, and a histogram of k-hat.

        Arguments:
            axes: The two matplotlib axes to draw on; None makes a new figure.

        Returns:
            Both axes.

        Raises:
            TypeError: `axes` are not two axes.
            ValueError: The estimator is ``"exact"``, which has neither bounds nor k-hat.
        """
        if self.estimator == EXACT:
            raise ValueError(
                'estimator: got "exact", which has no samples to plot, expected one that takes '
                "samples"
            )
        if axes is not None and not (is_sequence(axes) and len(axes) == 2):
            raise TypeError(f"axes: got {kind(axes)}, expected two matplotlib axes, or None")
        first, second = panels() if axes is None else axes
        sizes, bounds, errors = (
            (*self.sizes, self.num_samples),
            (*self.bounds, self.mean),
            (*self.bound_errors, self.mc_error),
        )
        plot_bounds(sizes, bounds, errors, ax=first)
        plot_khat(self.khat, khat_threshold(self.num_samples), ax=second)
        return first, second

    def to_dict(self) -> dict[str, Any]:
        """Returns all attributes by name, with tensors and tuples as lists."""
        record = {field.name: getattr(self, field.name) for field in fields(self)}
        for name, value in record.items():
            if isinstance(value, Tensor):
                record[name] = value.tolist()
            elif isinstance(value, tuple):
                record[name] = list(value)
        return record

    def save(self, path: str | Path) -> None:
        """Writes :meth:`to_dict` to a JSON file; NaN is null, infinities are strings."""
        check_path("path", path)
        write_json(Path(path), self.to_dict())

    def __repr__(self) -> str:
        return summary(self)

    def _repr_html_(self) -> str:
        return html.block(
            f"log p(x) of {counted(self)}",
            f"{self.num_samples} samples of each, estimator {self.estimator!r}",
            html.estimates(self, {"log-likelihood": ""}),
            None if self.complete else f"interrupted: only the first {counted(self)} are in it",
            f"in doubt: {self.doubt}" if self.doubt else f"not in doubt: {self._no_doubt}",
            html.details("all numbers", summary(self)),
        )

    @property
    def _no_doubt(self) -> str:
        """Why `doubt` is None."""
        if self.estimator == EXACT:
            return "nothing is sampled"
        return f"k-hat is at most {khat_threshold(self.num_samples):.2f} for all {counted(self)}"


def warn_of(result: LogLikelihood) -> None:
    """Warns with the result's `doubt`, if it has one."""
    if result.doubt is not None:
        warn(result.doubt, UnreliableWeights)
