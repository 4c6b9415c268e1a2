"""Log-likelihoods as a report has them: those of a result, or of an evaluation on disk."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyro_vae.evaluation import LogLikelihood, khat_threshold

__all__ = ["Score"]


@dataclass(frozen=True)
class Score:
    """A log-likelihood of test data, in nats, and how far to trust it.

    Attributes:
        mean, stderr, mc_error: The mean, its standard error over examples, and its Monte Carlo
            error.
        values: The estimate of each example, shape ``(N,)``.
        num_samples, estimator: How it was estimated.
        khat: The k-hat of each example, shape ``(N,)``.
        sizes, bounds, errors: The mean of L_k by the number of samples k, and its errors.
        doubt: What k-hat says against it; empty if nothing.
        data_hash: The hash of x.
    """

    mean: float
    stderr: float
    mc_error: float
    values: Tensor
    num_samples: int
    estimator: str
    khat: Tensor
    sizes: Sequence[int]
    bounds: Sequence[float]
    errors: Sequence[float]
    doubt: str
    data_hash: str

    @property
    def threshold(self) -> float:
        """The k-hat above which so many samples are too few."""
        return khat_threshold(self.num_samples)

    @property
    def how(self) -> str:
        """How it was estimated, in words."""
        return f"{self.num_samples:,} {self.estimator}" if self.num_samples else self.estimator

    @property
    def doubtful(self) -> str:
        """For how many examples k-hat is too high, in words."""
        if math.isnan(self.threshold):
            return "unknown" if self.num_samples else "exact"
        return f"{int((~(self.khat <= self.threshold)).sum()):,} of {len(self.khat):,}"

    def above(self, other: "Score") -> tuple[float, float] | None:
        """The mean paired difference from another, and its standard error over examples.

        None where the two are not of the same x.
        """
        if self.data_hash != other.data_hash or len(self.values) != len(other.values):
            return None
        gain = (self.values - other.values).double()
        return gain.mean().item(), gain.std().item() / math.sqrt(len(gain))

    @classmethod
    def of(cls, result: LogLikelihood) -> "Score":
        """That of a result."""
        return cls(
            result.mean,
            result.stderr,
            result.mc_error,
            result.values,
            result.num_samples,
            result.estimator,
            result.khat,
            (*result.sizes, result.num_samples),
            (*result.bounds, result.mean),
            (*result.bound_errors, result.mc_error),
            result.doubt or "",
            result.data_hash,
        )

    @classmethod
    def read(cls, record: Mapping[str, Any]) -> "Score":
        """That of a record of ``pyro-vae evaluate``."""
        means, each = record["log-likelihood"], record["per example"]
        mean, error = _number(means["mean"]), _number(means["mc_error"])
        return cls(
            mean,
            _number(means["stderr"]),
            error,
            _numbers(each["values"]),
            record["num_samples"],
            record["estimator"],
            _numbers(each["khat"]),
            (*record["sizes"], record["num_samples"]),
            (*map(_number, record["bounds"]), mean),
            (*map(_number, record["bound_errors"]), error),
            record["doubt"] or "",
            record["data_hash"],
        )


def _number(value: float | str | None) -> float:
    return math.nan if value is None else float(value)


def _numbers(values: Sequence[float | str | None]) -> Tensor:
    return torch.tensor([_number(value) for value in values], dtype=torch.float64)
