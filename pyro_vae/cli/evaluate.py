"""``pyro-vae evaluate``: scores the test set with a run's VAE."""

import math
import warnings
from typing import Annotated, Any

import typer
from torch import Tensor

from pyro_vae import estimators, storage
from pyro_vae.cli.options import (
    ExamplesOption,
    RootOption,
    RunArgument,
    SamplesOption,
    opened,
    say,
)
from pyro_vae.cli.processes import count, is_first, joined
from pyro_vae.composed import Composed
from pyro_vae.evaluation import (
    Elbo,
    LogLikelihood,
    UnreliableWeights,
    density_draw,
    elbo,
    khat_threshold,
    log_likelihood,
)
from pyro_vae.runs import Rows, first_of, with_labels
from pyro_vae.utils.context import Batch, as_batch, rows
from pyro_vae.utils.tables import markdown


def evaluate(
    run: RunArgument,
    estimator: Annotated[
        str,
        typer.Option(
            help=f"One of {', '.join(estimators.names())}. ais:100:5 has 100 temperatures and 5 "
            "leapfrog steps."
        ),
    ] = "importance",
    num_samples: SamplesOption = 1000,
    examples: ExamplesOption = None,
    seed: Annotated[int, typer.Option(help="Fixes the estimator's noise.")] = 0,
    pixels_seed: Annotated[int, typer.Option(help="Fixes the draw of the pixels.")] = 0,
    root: RootOption = None,
) -> None:
    """Score the test set: ELBO and log-likelihood, and how far to trust it; evaluations/*.json."""
    found = opened(run, root)
    vae, settings, dataset = found.vae, found.settings, found.dataset
    digest = storage.weights_hash(run)
    images = first_of("examples", dataset.test, examples)
    levels = with_labels(vae, images, dataset.test_labels)
    x, pixels = images, settings["pixels"]
    if pixels is not None:
        x, pixels = density_draw(vae, levels, pixels, pixels_seed)
    if pixels != settings["pixels"]:
        say(
            f"trained on {settings['pixels']} pixels, for which the model has no density: scored "
            f"on a {pixels} draw of the test set, seed {pixels_seed}"
        )
    given = with_labels(vae, x, dataset.test_labels)
    with joined():
        result, bound = _scores(vae, given, num_samples, estimator, seed)
    if not is_first():
        return
    means = _means(result, bound)
    if isinstance(dataset, Rows):
        means |= _in_the_files_units(result, dataset, x)
    say(
        markdown(
            ["nats per example", "mean", "std. error", "MC error"],
            [(name, f"{m:.2f}", f"{s:.2f}", f"{e:.3f}") for name, (m, s, e) in means.items()],
        )
    )
    say(_reliability(result, pixels))
    record = {
        "data": settings["data"],
        "examples": len(result.values),
        "pixels": pixels,
        "pixels_seed": pixels_seed,
        "seed": seed,
        **_settings_of(result),
        "weights_hash": digest,
        **_diagnostics(result, bound),
    }
    for name, (mean, stderr, mc_error) in means.items():
        record[name] = {"mean": mean, "stderr": stderr, "mc_error": mc_error}
    columns = ("values", "elbo", "ess", "khat", "jackknife")
    record["per example"] = {name: getattr(result, name).tolist() for name in columns}
    say(f"written: {storage.add_evaluation(run, record)}")
    if not result.complete:
        raise KeyboardInterrupt


def _scores(
    vae: Composed, x: Batch, num_samples: int, estimator: str, seed: int
) -> tuple[LogLikelihood, Elbo]:
    """Estimates the log-likelihood, and the ELBO of the same examples."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnreliableWeights)  # `_reliability` says it
        settings: dict[str, Any] = {"seed": seed, "shared": count() > 1}
        result = log_likelihood(vae, x, num_samples, estimator=estimator, **settings)
    done = rows(as_batch(x), slice(len(result.values)))
    return result, elbo(vae, done, num_samples=min(num_samples, 100), **settings)


def _means(result: LogLikelihood, bound: Elbo) -> dict[str, tuple[float, float, float]]:
    """Returns each mean with its standard error over examples and its Monte Carlo error."""
    return {
        "log-likelihood": (result.mean, result.stderr, result.mc_error),
        "ELBO": (bound.mean, bound.stderr, bound.mc_error),
        "reconstruction": (
            bound.reconstruction_mean,
            bound.reconstruction_stderr,
            bound.reconstruction_mc_error,
        ),
        "KL": (bound.kl_mean, bound.kl_stderr, bound.kl_mc_error),
    }


def _in_the_files_units(
    result: LogLikelihood, rows_: Rows, x: Tensor
) -> dict[str, tuple[float, float, float]]:
    """The mean log-likelihood of rows in the units of their file, where reals have a scale."""
    values = result.values + rows_.table.log_jacobian(x[: len(result.values)]).to(result.values)
    stderr = values.std().item() / math.sqrt(len(values))
    name = "log-likelihood in the file's units"
    return {name: (values.mean().item(), stderr, result.mc_error)}


def _settings_of(result: LogLikelihood) -> dict[str, Any]:
    return {
        "num_samples": result.num_samples,
        "estimator": result.estimator,
        "estimator_settings": dict(result.estimator_settings),
        "data_hash": result.data_hash,
    }


def _diagnostics(result: LogLikelihood, bound: Elbo) -> dict[str, Any]:
    threshold = khat_threshold(result.num_samples)
    return {
        "ess_median": result.ess.median().item(),
        "ess_min": result.ess.min().item(),
        "elbo_num_samples": bound.num_samples,
        "interval_of_the_bound": result.interval(0.95),
        "bias": result.bias,
        "sizes": list(result.sizes),
        "bounds": list(result.bounds),
        "bound_errors": list(result.bound_errors),
        "khat_threshold": threshold,
        "above_it": None if math.isnan(threshold) else int(result.unreliable.sum()),
        "doubt": result.doubt,
        "complete": result.complete,
    }


def _reliability(result: LogLikelihood, pixels: str | None) -> str:
    """Returns how far to trust a log-likelihood, in a few lines."""
    what = "test rows" if pixels is None else f"test images, {pixels} pixels"
    text = f"{len(result.values)} {what}"
    if not result.num_samples:
        return f"{text}; the exact log-likelihood"
    ess = result.ess
    lines = [
        f"{text}, {result.num_samples} {result.estimator} samples; effective sample size: median "
        f"{ess.median().item():.1f}, least {ess.min().item():.1f}"
    ]
    if result.num_samples > 1:
        low, high = result.interval(0.95)
        lines.append(
            f"95 % interval of the bound's mean, not of log p(x): {low:.2f} to {high:.2f}; "
            f"estimated bias {result.bias:.3f}"
        )
    if result.doubt is not None:
        lines.append(result.doubt)
    return "\n".join(lines)
