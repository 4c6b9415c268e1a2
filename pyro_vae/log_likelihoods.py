"""The log-likelihood of each example, and how far to trust it."""

import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from pyro_vae import estimators, gaussian, plots
from pyro_vae.arguments import check_count
from pyro_vae.blocks import blocks
from pyro_vae.estimators import EXACT, Estimator
from pyro_vae.files import finite, write_json
from pyro_vae.judging import (
    check_arguments,
    data_hash,
    evaluating_vae,
    over_examples,
    prepared,
)
from pyro_vae.programs import Program
from pyro_vae.tables import summary
from pyro_vae.vae import VAE, evaluating
from pyro_vae.weights import Statistics, Weights, khat_threshold

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
        other = {
            "importance": ", or a better guide, or AIS with enough temperatures",
            "prior": ", or importance weights by a guide",
            "ais": ", or more temperatures",
        }.get(self.estimator, "")
        return (
            f"k-hat is above {threshold:.2f}, or cannot be told, for {count} of "
            f"{len(self.values)} examples: their weights' tails are heavy for {self.num_samples} "
            f"samples, values may be too low and mc_error too small; more samples tell more{other}"
        )

    def plot(self, axes: "tuple[Axes, Axes] | None" = None) -> "tuple[Axes, Axes]":
        """The bound against the number of samples, and a histogram of k-hat; returns both axes.

        Raises:
            ValueError: The estimate is the exact one, which has neither.
        """
        if self.estimator == EXACT:
            raise ValueError("estimator: an exact log-likelihood has no samples to be drawn")
        first, second = plots.pair() if axes is None else axes
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
        """Writes :meth:`to_dict` as JSON, which has no infinities: they and NaN are strings."""
        write_json(Path(path), finite(self.to_dict()))

    def __repr__(self) -> str:
        return summary(self)


def log_likelihood(
    vae: VAE | None = None,
    x: Tensor | None = None,
    num_samples: int = 1000,
    *,
    model: Callable[[Tensor], Any] | None = None,
    guide: Callable[[Tensor], Any] | None = None,
    estimator: str | Estimator = "importance",
    seed: int | None = None,
    max_bytes: int = 2**28,
) -> LogLikelihood:
    r"""Estimates each example's log p(x), by importance weighting or another estimator.

    .. math:: L_K = \log \frac1K \sum_{k=1}^K w_k, \quad E[w_k] = p(x)

    Its mean is a lower bound of log p(x) that grows with K. Of a VAE, in eval mode, or of any Pyro
    ``model(x)`` and ``guide(x)`` whose sites are all in the plate ``"data"``, of the size of x:
    any latents in it, masked observations too. Modules that these call are in the mode that they
    are in, but for `model` and `guide` themselves and the modules whose methods they are, which
    are in eval mode. Samples are streamed: memory depends on `max_bytes`, not on the number of
    samples or examples. From 2**23 pairs of sample and example on the model is compiled, where it
    is a static program, which changes numbers by float rounding only. An interruption (Ctrl-C)
    returns what is done.

    Arguments:
        vae: The VAE; or else `model` and `guide`.
        x: Data of shape ``(N, *x_shape)``. For a VAE on the likelihood's support, the set on which
            it is a density: binarized pixels for a relaxed Bernoulli too.
        num_samples: K.
        model, guide: A Pyro pair, in the place of `vae`.
        estimator: ``"importance"``, ``"prior"``, ``"ais"`` (``"ais:100:5"`` with 100 temperatures
            and 5 leapfrog steps), or one of :mod:`estimators`; ``"exact"`` for a VAE that is
            linear and Gaussian, which takes no samples.
        seed: Fixes the noise and leaves torch's global generator as it was; None draws from it.
        max_bytes: Bound on what one step of the model allocates (the guide takes 64 examples at a
            time, and 64 samples; a model that draws from its prior 64 and 8); changes numbers by
            float rounding only.

    Raises:
        TypeError, ValueError: x does not fit, or is off its support; neither a VAE nor a pair; a
            pair has latents or observations outside of the plate, plates of a fixed size,
            subsampled or scaled ones, sites that change from call to call, latents that only one
            of both has; an argument is out of range.
        FloatingPointError: A log-probability is NaN.

    Warns:
        UnreliableWeights: For how many examples `khat` is above its threshold, or that samples
            are too few for it.

    Source: Burda, Grosse and Salakhutdinov (2016), section 3; Monte Carlo error of a log-mean by
    the delta method, :math:`\sqrt{(K/\mathrm{ESS} - 1) / (K - 1)}`; :mod:`pyro_vae.weights` and
    :mod:`pyro_vae.estimators` have the others.
    """
    result = estimated(
        vae,
        x,
        num_samples,
        model=model,
        guide=guide,
        estimator=estimator,
        seed=seed,
        max_bytes=max_bytes,
        interruptible=True,
    )
    warn_of(result, stacklevel=3)
    return result


def warn_of(result: LogLikelihood, stacklevel: int) -> None:
    """Warns of what k-hat says against a result."""
    if result.doubt is not None:
        warnings.warn(result.doubt, UnreliableWeights, stacklevel=stacklevel)


def estimated(
    vae: VAE | None,
    x: Tensor | None,
    num_samples: int,
    *,
    model: Callable[[Tensor], Any] | None = None,
    guide: Callable[[Tensor], Any] | None = None,
    estimator: str | Estimator = "importance",
    seed: int | None = None,
    max_bytes: int = 2**28,
    interruptible: bool = False,
) -> LogLikelihood:
    """:func:`log_likelihood` for programs: an interruption is one, and nothing is warned of."""
    check_count("num_samples", num_samples)
    chosen = estimators.parse(estimator)
    x = check_arguments(x, seed, max_bytes)
    if (vae is None) == (model is None) or (model is None) != (guide is None):
        raise TypeError(
            f"vae, model, guide: got {_given(vae=vae, model=model, guide=guide)}, expected a vae, "
            "or a model and a guide"
        )
    if chosen is None:
        if vae is None:
            raise ValueError(f'estimator: got "{EXACT}" for a pair, expected it for a VAE')
        return _exact(vae, x)
    done: list[Statistics] = []
    complete = True
    digest = data_hash(x)
    with torch.no_grad(), ExitStack() as modes:
        if vae is not None:
            modes.enter_context(evaluating_vae(vae))
            program, x = prepared(vae, x)
        else:
            assert model is not None
            assert guide is not None
            for own in (model, guide):
                modes.enter_context(_evaluating_owner(own))
            program = Program(model, guide, x)
        try:
            for block in blocks(program, x, seed, max_bytes, "log-likelihood", num_samples):
                weights = Weights(num_samples)
                for log_w in chosen.log_weights(block, num_samples):
                    weights.add(log_w)
                done.append(weights.statistics())
        except KeyboardInterrupt:
            if not done or not interruptible:
                raise
            complete = False
    return _gathered(done, num_samples, chosen, seed, digest, complete)


def _gathered(
    blocks: list[Statistics],
    num_samples: int,
    estimator: Estimator,
    seed: int | None,
    data_hash: str,
    complete: bool,
) -> LogLikelihood:
    values, log_mean, ess, khat, jackknife, variance = (
        torch.cat([getattr(block, name) for block in blocks])
        for name in ("value", "log_mean", "ess", "khat", "jackknife", "variance")
    )
    bounds, bound_variances = (
        torch.cat([getattr(block, name) for block in blocks], dim=1)
        for name in ("bounds", "bound_variances")
    )
    return LogLikelihood(
        values,
        log_mean,
        ess,
        khat,
        jackknife,
        *over_examples(values, variance),
        bias=(values - jackknife).mean().item(),
        num_samples=int(num_samples),
        estimator=estimator.name,
        estimator_settings=_settings(estimator),
        seed=None if seed is None else int(seed),
        data_hash=data_hash,
        complete=complete,
        sizes=blocks[0].sizes,
        bounds=tuple(bounds.mean(1).tolist()),
        bound_errors=tuple((bound_variances.sum(1).sqrt() / len(values)).tolist()),
    )


def _settings(estimator: object) -> dict[str, Any]:
    """Numbers and words as they are, anything else as it shows itself."""
    names = [field.name for field in fields(estimator)] if is_dataclass(estimator) else []
    values = {name: getattr(estimator, name) for name in names}
    plain = (int, float, str, type(None))
    return {n: value if isinstance(value, plain) else repr(value) for n, value in values.items()}


def _exact(vae: VAE, x: Tensor) -> LogLikelihood:
    with torch.no_grad(), evaluating_vae(vae):
        _, on_device = prepared(vae, x)
        values = gaussian.evidence(vae, on_device)
    none = torch.full_like(values, math.nan)
    return LogLikelihood(
        values,
        none,
        none,
        torch.full_like(values, -math.inf),
        values,
        *over_examples(values, torch.zeros_like(values)),
        bias=0.0,
        num_samples=0,
        estimator=EXACT,
        estimator_settings={},
        seed=None,
        data_hash=data_hash(x),
        complete=True,
        sizes=(),
        bounds=(),
        bound_errors=(),
    )


def _given(**arguments: object) -> str:
    return ", ".join(name for name, value in arguments.items() if value is not None) or "none"


@contextmanager
def _evaluating_owner(program: Callable[..., Any]) -> Iterator[None]:
    """Eval mode for a module, or that of which a program is a method, whatever is around it."""
    owner: Any = program
    while owner is not None and not isinstance(owner, nn.Module):
        # A handler's `poutine.mask(model)` keeps what it is around as `fn`, a partial as `func`.
        owner = next(
            (
                getattr(owner, name)
                for name in ("__self__", "fn", "func", "__wrapped__")
                if getattr(owner, name, None) is not None
            ),
            None,
        )
    if owner is None:
        yield
    else:
        with evaluating(owner):
            yield
