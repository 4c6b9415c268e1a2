"""``pyro-vae compare``: trains with several objectives and writes what becomes of each."""

from pathlib import Path
from typing import Annotated

import typer
from pyro.infer import ELBO

from pyro_vae import comparison, objectives, plots, presets, storage
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
    build,
    say,
)
from pyro_vae.comparison import Comparison
from pyro_vae.evaluation import LogLikelihood
from pyro_vae.runs import first_of, load_data, with_labels
from pyro_vae.training import History
from pyro_vae.utils.checks import check_count

_RUNS = "runs"
_ALONG = "log_likelihood.png"
_FILES = (
    "comparison.md",
    "comparison.csv",
    "curves.csv",
    "gradients.csv",
    "comparison.png",
    "encoder.png",
    "decoder.png",
)


ObjectivesOption = Annotated[
    str,
    typer.Option(
        "--objectives",
        help="Objectives, separated by commas: trace_elbo,iwae:8. They are "
        f"{', '.join(objectives.names())}.",
    ),
]
SeedsOption = Annotated[int, typer.Option(help="Runs of each objective, on seeds 0, 1, ...")]
DrawsOption = Annotated[int, typer.Option(help="Gradients of each objective at each point.")]
GoalOption = Annotated[
    float | None,
    typer.Option(help="Test -ELBO to reach. Without it what the first objective reaches."),
]
LikelihoodGoalOption = Annotated[
    float | None,
    typer.Option(
        help="Test log-likelihood to reach, as it is estimated after each epoch, or after those "
        "of --likelihood-epochs."
    ),
]
LikelihoodEpochsOption = Annotated[
    str | None,
    typer.Option(
        help="Epochs after which the test log-likelihood is estimated, separated by commas, "
        "beside the last one: 1,5,10. Without it the last one alone, or all if there is a "
        "--likelihood-goal."
    ),
]
OutOption = Annotated[
    Path | None, typer.Option(help="Folder. Without it runs/compare-PRESET-DATA.")
]
ResumeOption = Annotated[
    bool,
    typer.Option("--resume", help="Go on with the runs in OUT/runs: only the others are trained."),
]


def compare(
    preset: PresetOption = "bernoulli-mlp",
    data: DataOption = "digits",
    root: RootOption = None,
    objectives_: ObjectivesOption = "trace_elbo,analytic_kl",
    seeds: SeedsOption = 3,
    epochs: EpochsOption = 30,
    batch_size: BatchOption = 128,
    z_dim: ZDimOption = None,
    pixels: PixelsOption = None,
    num_samples: SamplesOption = 500,
    examples: ExamplesOption = None,
    draws: DrawsOption = 100,
    goal: GoalOption = None,
    likelihood_goal: LikelihoodGoalOption = None,
    likelihood_epochs: LikelihoodEpochsOption = None,
    out: OutOption = None,
    resume: ResumeOption = False,
) -> None:
    """Compare objectives on the same seeds: -ELBO, log-likelihood, gradients, time, memory.

    Each run, an objective on a seed, is kept in OUT/runs as soon as it ends. After an
    interruption, the same command with --resume trains only the runs that are missing there. It
    takes the same options, but --seeds may grow.
    """
    folder = out or Path("runs") / f"compare-{preset}-{data}"
    kept = folder / _RUNS
    _check_free(folder, resume)
    losses, points = _parsed(objectives_), _points(likelihood_epochs)
    check_count("seeds", seeds)
    dataset = load_data(data, root)
    vae, chosen = build(preset, z_dim, dataset, pixels, 0)
    test = first_of("examples", dataset.test, examples)
    if resume:
        say(f"{_count(kept)} runs are in {kept}")
    try:
        result = comparison.compare(
            lambda: presets.build(**chosen),
            with_labels(vae, dataset.train, dataset.train_labels),
            with_labels(vae, test, dataset.test_labels),
            losses,
            range(seeds),
            epochs=epochs,
            batch_size=batch_size,
            pixels=chosen["pixels"],
            num_samples=num_samples,
            draws=draws,
            goal=goal,
            likelihood_goal=likelihood_goal,
            likelihood_epochs=points,
            on_run=_say_run,
            keep=kept,
        )
    except KeyboardInterrupt:
        say(_left(kept))
        raise
    settings = (
        f"{preset} on {data}, {chosen['pixels']} pixels, {chosen['z_dim']} latents, {epochs} "
        f"epochs, {len(result.seeds)} seeds, batch {batch_size}. The log-likelihood is that of "
        f"{len(test)} test images with {result.pixels} pixels, from {num_samples} importance "
        "samples each."
    )
    _report(result, f"{settings} {_explained(result, goal, draws)}", folder)
    if not result.complete:
        say(_left(kept))
        raise KeyboardInterrupt


def _check_free(folder: Path, resume: bool) -> None:
    """Raises FileExistsError if there is a comparison that is not to go on, or cannot."""
    storage.check_free(folder)
    runs = _count(folder / _RUNS)
    if runs and not resume:
        raise FileExistsError(
            f"{folder}: holds another comparison, expected a new folder, or --resume to go on "
            "with it"
        )
    if not runs and any((folder / name).exists() for name in _FILES):
        raise FileExistsError(
            f"{folder}: holds another comparison, whose runs are not there, expected a new folder"
        )


def _parsed(text: str) -> dict[str, ELBO]:
    names = text.split(",")
    if len(set(names)) < len(names):
        raise ValueError(f"objectives: got {text!r}, expected each name once")
    return {name: objectives.parse(name) for name in names}


def _points(text: str | None) -> list[int] | None:
    """The epochs after which the log-likelihood is estimated."""
    if text is None:
        return None
    words = text.split(",")
    if not all(word.strip().isdecimal() for word in words):
        raise ValueError(f"likelihood_epochs: got {text!r}, expected epochs such as 1,5,10")
    return [int(word) for word in words]


def _count(kept: Path) -> int:
    """The number of runs in a folder."""
    return len(list(kept.glob(comparison.KEPT)))


def _left(kept: Path) -> str:
    return f"{_count(kept)} runs are in {kept}; the same command with --resume goes on with them"


def _say_run(name: str, seed: int, history: History, likelihood: LogLikelihood) -> None:
    say(
        f"{name}, seed {seed}: test -ELBO {history.test_cost[-1]:.2f}, log-likelihood "
        f"{likelihood.mean:.2f}, {sum(history.seconds):.0f} s"
    )


def _explained(result: Comparison, goal: float | None, draws: int) -> str:
    """Returns the tables, and what their columns mean."""
    chosen = "where the first ends at worst" if goal is None else "which was asked for"
    blocks = [
        "Numbers are nats per example, ± the standard error over seeds; differences are paired by "
        "seed, from the first row. Milliseconds are those of a training step, the median over "
        "epochs with the quartiles; MiB are those of an uncompiled step. "
        f"s to {result.goal:.1f}: seconds of training until the test -ELBO is at that value, "
        f"{chosen}.{_of_likelihood_goal(result)}",
        result.table(),
        result.doubt or "",
        f"Gradients of the loss per example, from {draws} draws on one batch, at the parameters "
        "of the first row. Bias: the squared distance of the mean gradient from the first row's, "
        "relative to the squared length of the latter; about 0 for objectives with one "
        "expectation. Variance: that of one draw, summed over parameters. Signal / noise: the "
        "length of the mean gradient over the root of the variance.",
        result.gradient_table(),
        "comparison.png: on the left, lines are means over seeds, and bands reach from the least "
        "to the greatest; on the right, each small mark is a seed, and the open one their mean ± "
        "its standard error. ELBO and log-likelihood are of the same images and samples there, "
        "after training. curves.csv has each epoch of each run.",
    ]
    return "\n\n".join(block for block in blocks if block)


def _of_likelihood_goal(result: Comparison) -> str:
    if result.likelihood_goal is None:
        return ""
    return (
        f" s to log-likelihood {result.likelihood_goal:.1f}: the same until the log-likelihood is "
        "at least that, at the epochs at which it was estimated."
    )


def _report(result: Comparison, text: str, folder: Path) -> None:
    """Writes all files, and prints the text and their names."""
    files = _write(result, text, folder)
    say(text)
    say(f"written: {', '.join(str(folder / name) for name in files)}")


def _write(result: Comparison, text: str, folder: Path) -> list[str]:
    """Writes all files; returns their names."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "comparison.md").write_text(text + "\n")
    result.save_csv(folder / "comparison.csv")
    result.save_curves_csv(folder / "curves.csv")
    result.save_gradients_csv(folder / "gradients.csv")
    plots.save(result.plot(), folder / "comparison.png")
    for part in ("encoder", "decoder"):
        plots.save(result.plot_gradients(part), folder / f"{part}.png")
    if len(next(iter(result.likelihoods.values()))[0]) == 1:
        return list(_FILES)
    plots.save(result.plot_likelihood_curves(), folder / _ALONG)
    return [*_FILES, _ALONG]
