"""The command ``pyro-vae``: train, evaluate, compare, plot, reproduce."""

import logging
import math
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any, cast

import torch
import typer

from pyro_vae import comparison, datasets, plots, presets
from pyro_vae import storage as runs
from pyro_vae.cli import pairs, reproduce
from pyro_vae.cli.options import (
    BatchOption,
    DataOption,
    EpochsOption,
    ExamplesOption,
    PixelsOption,
    PresetOption,
    RootOption,
    SamplesOption,
    ZDimOption,
    first_of,
    load_data,
    say,
    say_run,
)
from pyro_vae.datasets import Dataset, Pixels
from pyro_vae.evaluation import LogLikelihood, density_draw
from pyro_vae.evaluation import elbo as estimate_elbo
from pyro_vae.evaluation.estimators import base as estimators
from pyro_vae.evaluation.psis import khat_threshold
from pyro_vae.evaluation.log_likelihood import estimated
from pyro_vae.objectives import elbo as objectives
from pyro_vae.training.fit import Callback, NonFiniteLoss, TensorBoard, fit
from pyro_vae.training.history import History
from pyro_vae.utils.checks import check_count, check_seed
from pyro_vae.utils.files import finite, write_json
from pyro_vae.utils.random import seeded
from pyro_vae.utils.tables import markdown
from pyro_vae.vae import VAE

_OBJECTIVES = ", ".join(objectives.names())
_INTERRUPTED = 130  # the shell's code for an end by SIGINT

app = typer.Typer(
    help="Auto-encoding variational Bayes in Pyro. Costs and likelihoods are nats per example.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(reproduce.app, name="reproduce", no_args_is_help=True)

RunArgument = Annotated[Path, typer.Argument(help="Folder of a run.", show_default=False)]


@app.command()
def train(
    preset: PresetOption = "bernoulli-mlp",
    data: DataOption = "digits",
    root: RootOption = None,
    epochs: EpochsOption = 30,
    batch_size: BatchOption = 128,
    z_dim: ZDimOption = None,
    objective: Annotated[str, typer.Option(help=f"One of {_OBJECTIVES}.")] = "trace_elbo",
    pixels: PixelsOption = None,
    seed: Annotated[int, typer.Option(help="Fixes weights, order and noise.")] = 0,
    precision: Annotated[str, typer.Option(help="Of the networks: float32, or bf16.")] = "float32",
    out: Annotated[
        Path | None, typer.Option(help="Folder of the run; without it runs/PRESET-DATA.")
    ] = None,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Also write scalars to OUT/tensorboard.")
    ] = False,
) -> None:
    """Train a preset, and write the run: configuration, weights, metrics."""
    folder = out or Path("runs") / f"{preset}-{data}"
    runs.check_free(folder)
    loss = objectives.parse(objective)
    dataset = load_data(data, root)
    vae = _build(preset, z_dim, dataset, pixels, seed)
    assert vae.preset is not None
    settings = {
        "data": data,
        "epochs": epochs,
        "batch_size": batch_size,
        "objective": objective,
        "pixels": vae.preset["pixels"],
        "seed": seed,
        "precision": precision,
        "compile": "auto",
        "optimizer": "optim.Adam(lr=1e-3)",
    }

    def record(vae: VAE, history: History) -> None:
        done = {**settings, "epochs_done": history.epoch[-1]}
        runs.save(vae, folder, training=done, overwrite=True)
        history.save_csv(folder / runs.METRICS)
        say(_epoch_line(history, epochs))

    callbacks: list[Callback] = [record]
    if tensorboard:
        callbacks.append(TensorBoard(folder / "tensorboard"))
    fit(
        vae,
        dataset.train,
        test=dataset.test,
        epochs=epochs,
        batch_size=batch_size,
        objective=loss,
        pixels=vae.preset["pixels"],
        seed=seed,
        precision=precision,  # type: ignore[arg-type]
        callbacks=callbacks,
    )
    say(f"run: {folder}")


@app.command()
def evaluate(
    run: RunArgument,
    estimator: Annotated[
        str,
        typer.Option(
            help=f"One of {', '.join(estimators.names())}; ais:100:5 has 100 temperatures and 5 "
            "leapfrog steps."
        ),
    ] = "importance",
    num_samples: SamplesOption = 1000,
    examples: ExamplesOption = None,
    seed: Annotated[int, typer.Option(help="Fixes the estimator's noise.")] = 0,
    pixels_seed: Annotated[int, typer.Option(help="Fixes the draw of the pixels.")] = 0,
    root: RootOption = None,
) -> None:
    """Score the test set: ELBO and log-likelihood, and how far to trust it; evaluation.json."""
    vae, settings, dataset = _open(run, root)
    weights = runs.weights_hash(run)
    x, pixels = density_draw(
        vae, first_of("examples", dataset.test, examples), settings["pixels"], pixels_seed
    )
    if pixels != settings["pixels"]:
        say(
            f"trained on {settings['pixels']} pixels, on which the model has no density: scored "
            f"on a {pixels} draw of the test set, seed {pixels_seed}"
        )
    result = estimated(vae, x, num_samples, estimator=estimator, seed=seed, interruptible=True)
    done = x[: len(result.values)]
    bound = estimate_elbo(vae, done, num_samples=min(num_samples, 100), seed=seed)
    rows = [
        ("log-likelihood", result.mean, result.stderr, result.mc_error),
        ("ELBO", bound.mean, bound.stderr, bound.mc_error),
        (
            "reconstruction",
            bound.reconstruction_mean,
            bound.reconstruction_stderr,
            bound.reconstruction_mc_error,
        ),
        ("KL", bound.kl_mean, bound.kl_stderr, bound.kl_mc_error),
    ]
    say(
        markdown(
            ["nats per example", "mean", "std. error", "MC error"],
            [(name, f"{m:.2f}", f"{s:.2f}", f"{e:.3f}") for name, m, s, e in rows],
        )
    )
    say(_trust(result, pixels))
    threshold = khat_threshold(result.num_samples)
    record: dict[str, Any] = {
        "data": settings["data"],
        "examples": len(done),
        "pixels": pixels,
        "pixels_seed": pixels_seed,
        "seed": seed,
        "num_samples": result.num_samples,
        "estimator": result.estimator,
        "estimator_settings": dict(result.estimator_settings),
        "data_hash": result.data_hash,
        "weights_hash": weights,
        "ess_median": result.ess.median().item(),
        "ess_min": result.ess.min().item(),
        "elbo_num_samples": bound.num_samples,
        "interval_of_the_bound": result.interval(0.95),
        "bias": result.bias,
        "khat_threshold": None if math.isnan(threshold) else threshold,
        "above_it": None if math.isnan(threshold) else int(result.unreliable.sum()),
        "complete": result.complete,
    }
    for name, mean, stderr, mc_error in rows:
        errors = {"mean": mean, "stderr": stderr, "mc_error": mc_error}
        # JSON has no NaN: the standard error of one example is none.
        record[name] = {key: v if math.isfinite(v) else None for key, v in errors.items()}
    record["per example"] = {
        name: getattr(result, name).tolist()
        for name in ("values", "elbo", "ess", "khat", "jackknife")
    }
    path = run / ("evaluation.json" if result.complete else "evaluation.partial.json")
    write_json(path, finite(record))
    say(f"written: {path}")
    if not result.complete:
        raise KeyboardInterrupt


@app.command()
def compare(
    preset: PresetOption = "bernoulli-mlp",
    data: DataOption = "digits",
    root: RootOption = None,
    objectives_: Annotated[
        str,
        typer.Option(
            "--objectives",
            help=f"Objectives with commas between: trace_elbo,iwae:8. They are {_OBJECTIVES}.",
        ),
    ] = "trace_elbo,analytic_kl",
    seeds: Annotated[int, typer.Option(help="Runs an objective, on seeds 0, 1, ...")] = 3,
    epochs: EpochsOption = 30,
    batch_size: BatchOption = 128,
    z_dim: ZDimOption = None,
    pixels: PixelsOption = None,
    num_samples: SamplesOption = 500,
    examples: ExamplesOption = None,
    draws: Annotated[int, typer.Option(help="Gradients of each objective.")] = 100,
    goal: Annotated[
        float | None,
        typer.Option(help="Test -ELBO to reach; without it what the first objective reaches."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder; without it runs/compare-PRESET-DATA.")
    ] = None,
) -> None:
    """Compare objectives on the same seeds: -ELBO, log-likelihood, gradients, time, memory."""
    folder = out or Path("runs") / f"compare-{preset}-{data}"
    names = ("comparison.md", "comparison.csv", "gradients.csv")
    files = [folder / name for name in (*names, "comparison.png", "encoder.png", "decoder.png")]
    runs.check_free(folder)
    for file in files:
        if file.exists():
            raise FileExistsError(f"{folder}: holds another comparison, expected a new folder")
    texts = objectives_.split(",")
    if len(set(texts)) < len(texts):
        raise ValueError(f"objectives: got {objectives_!r}, expected each name once")
    losses = {text: objectives.parse(text) for text in texts}
    check_count("seeds", seeds)
    dataset = load_data(data, root)
    chosen = _build(preset, z_dim, dataset, pixels, 0).preset
    assert chosen is not None
    test = first_of("examples", dataset.test, examples)
    result = comparison.compare(
        lambda: presets.build(**chosen),
        dataset.train,
        test,
        losses,
        range(seeds),
        epochs=epochs,
        batch_size=batch_size,
        pixels=chosen["pixels"],
        num_samples=num_samples,
        draws=draws,
        goal=goal,
        on_run=say_run,
    )
    folder.mkdir(parents=True, exist_ok=True)
    text = (
        f"{preset} on {data}, {chosen['pixels']} pixels, {chosen['z_dim']} latents, {epochs} "
        f"epochs, {seeds} seeds, batch {batch_size}; log-likelihood on {result.pixels} pixels "
        f"with {num_samples} importance samples; {len(test)} test images. Nats per example, "
        "± the standard error over seeds; differences are paired by seed, from the first row; "
        "seconds and milliseconds are of training, MiB those of an uncompiled step; "
        f"s to {result.goal:.1f}: until an epoch's test -ELBO is there, "
        f"{'which was asked for' if goal is not None else 'with which the first ends at worst'}."
        f"\n\n{result.table()}\n\n"
        + (f"{result.doubt}\n\n" if result.doubt else "")
        + f"Gradients of the loss per example from {draws} draws on one batch, at the weights of "
        "the first row: bias is the squared distance of the mean gradient from the first row's, "
        "relative to the latter's squared length, about 0 where both have one target; variance is "
        "that of one draw, summed over parameters; signal / noise is the mean gradient's length "
        "over the root of that.\n\n"
        f"{result.gradient_table()}"
    )
    files[0].write_text(text + "\n")
    result.save_csv(files[1])
    result.save_gradients_csv(files[2])
    plots.save(result.plot(), files[3])
    for part, file in (("encoder", files[4]), ("decoder", files[5])):
        plots.save(result.plot_gradients(part), file)
    say(text)
    say(f"written: {', '.join(map(str, files))}")


@app.command()
def plot(
    run: RunArgument,
    quantiles: Annotated[
        bool,
        typer.Option("--quantiles", help="Space the manifold evenly in the prior's probability."),
    ] = False,
    seed: Annotated[int, typer.Option(help="Fixes the pixels' draw and what is generated.")] = 0,
    root: RootOption = None,
) -> None:
    """Draw a run: curves, reconstructions, generated images, manifold, latent space."""
    vae, settings, dataset = _open(run, root)
    with seeded(seed):
        x = datasets.to_pixels(dataset.test[:2000], settings["pixels"])
        generated = vae.generate(100)
    labels = dataset.test_labels[: len(x)]
    # Ten digits in a row say more than the first ten images.
    shown = [int((labels == label).nonzero()[0, 0]) for label in labels.unique()]
    z = vae.embed(x)
    figures = {
        "curves": History.load_csv(run / runs.METRICS).plot(),
        "reconstructions": plots.reconstructions(x[shown], vae.reconstruct(x[shown])),
        "generated": plots.generated(generated),
    }
    if z.shape[1] == 2:
        base = vae.prior().base_dist
        quantile = base.icdf if quantiles else None
        figures["manifold"] = plots.manifold(vae.decode, quantile=quantile)
    elif quantiles:
        raise ValueError(f"quantiles: the run has {z.shape[1]} latents, expected 2")
    if z.shape[1] >= 2:
        figures["latent"] = plots.latent(z, labels)
    folder = run / runs.FIGURES
    folder.mkdir(exist_ok=True)
    for name, ax in figures.items():
        plots.save(ax, folder / f"{name}.png")
    if "manifold" not in figures:
        say(f"no manifold: it takes 2 latents, the run has {z.shape[1]}")
    say(f"pictures: {folder} ({', '.join(f'{name}.png' for name in figures)})")


@app.command(name="pairs")
def print_pairs() -> None:
    """Which priors go with which posteriors, and whose KL is exact (analytic_kl) or sampled."""
    say(pairs.table())


def main() -> None:
    """Runs the command; a wrong argument ends in one line on stderr and exit code 2."""
    logging.getLogger("pyro").setLevel(logging.WARNING)  # it tells each plate nesting it guesses
    # typer's usage errors; their base class has moved between packages from version to version.
    usage_error = cast(type[Exception], typer.BadParameter.__mro__[2])
    try:
        code = app(standalone_mode=False)
        if code == _INTERRUPTED:  # typer has caught the interrupt, and says nothing
            raise KeyboardInterrupt
        sys.exit(code)
    except usage_error as error:
        given = shlex.join(["pyro-vae", *sys.argv[1:]])
        _fail(f"{cast(Any, error).format_message()} (in: {given})", 2)
    except (ValueError, OSError, ModuleNotFoundError) as error:
        _fail(str(error), 2)
    except FloatingPointError as error:
        if not isinstance(error, NonFiniteLoss):
            _fail(str(error), 1)
        _fail(f"{error}; what was written of the epochs before it is kept", 1)
    except (typer.Abort, KeyboardInterrupt):
        _fail("interrupted; what was written is kept", _INTERRUPTED)


def _fail(message: str, code: int) -> None:
    typer.echo(f"pyro-vae: error: {' '.join(message.split())}", err=True)
    sys.exit(code)


def _build(preset: str, z_dim: int | None, dataset: Dataset, pixels: str | None, seed: int) -> VAE:
    check_seed(seed)
    with seeded(seed):
        return presets.build(
            preset, z_dim=z_dim, shape=dataset.shape, pixels=cast(Pixels | None, pixels)
        )


def _open(run: Path, root: Path | None) -> tuple[VAE, dict[str, Any], Dataset]:
    config = runs.read_config(run)
    settings = config.get("training")
    if not isinstance(settings, dict) or not {"data", "pixels"} <= set(settings):
        raise ValueError(f"{run}: was not written by pyro-vae train, its data are not known")
    done, asked = settings.get("epochs_done"), settings.get("epochs")
    if done != asked:
        say(f"the run stopped after epoch {done} of {asked}")
    vae = runs.load(run)
    if not all(torch.isfinite(p).all() for p in vae.parameters()):
        raise ValueError(f"{run / runs.WEIGHTS}: holds weights that are not finite")
    return vae, settings, load_data(settings["data"], root)


def _trust(result: LogLikelihood, pixels: str) -> str:
    """What stands behind a log-likelihood, in a few lines."""
    text = f"{len(result.values)} test images, {pixels} pixels"
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


def _epoch_line(history: History, epochs: int) -> str:
    row = history.rows()[-1]
    return (
        f"epoch {row['epoch']:{len(str(epochs))}d}/{epochs}  cost {row['cost']:.2f}  "
        f"reconstruction {row['reconstruction']:.2f}  KL {row['kl']:.2f}  "
        f"test -ELBO {row['test_cost']:.2f}  {row['seconds']:.1f} s"
    )
