"""The commands ``pyro-vae reproduce``: what was published, and studies of this package's parts."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from pyro_vae import gradients
from pyro_vae.cli.options import (
    DataOption,
    EpochsOption,
    RootOption,
    SamplesOption,
    first_of,
    load_data,
    say,
    say_run,
)
from pyro_vae.datasets import Dataset
from pyro_vae.studies import analytic_kl as kl_study
from pyro_vae.studies import engine as study
from pyro_vae.studies import iwae_table, lecture
from pyro_vae.studies import likelihoods as pixel_likelihoods
from pyro_vae.studies import parts as richer_parts
from pyro_vae.studies.engine import Result
from pyro_vae.utils.checks import check_count
from pyro_vae.vae import VAE

app = typer.Typer(help="Train again what was published, and set the two side by side.")

OnlyOption = Annotated[
    list[str] | None, typer.Option(help="A row to run; may be repeated. Without it all.")
]
OutOption = Annotated[
    Path,
    typer.Option(help="Folder of what is written; rows that are kept there are not run again."),
]


@app.command(name="lecture")
def lecture_(
    data: DataOption = "mnist",
    root: RootOption = None,
    epochs: EpochsOption = 30,
    seeds: Annotated[int, typer.Option(help="Runs, on seeds 0, 1, ...")] = 3,
    out: Annotated[Path, typer.Option(help="Folder for lecture.md, .csv and .png.")] = Path(
        "docs"
    ),
) -> None:
    """The lecture's 30 epochs on MNIST: its table and curve beside ours."""
    check_count("seeds", seeds)
    dataset = load_data(data, root)
    result = lecture.run(dataset.train, dataset.test, range(seeds), epochs)
    files = result.save(out, _command("lecture", data=data, epochs=epochs, seeds=seeds))
    _report(files)


@app.command()
def parts(
    data: DataOption = "mnist",
    root: RootOption = None,
    epochs: EpochsOption = 100,
    num_samples: SamplesOption = 500,
    plain_epochs: Annotated[
        int | None,
        typer.Option(
            help="First epochs, which a prior that learns leaves to a standard normal; without it "
            "5, or half of all if that is less."
        ),
    ] = None,
    only: OnlyOption = None,
    out: OutOption = Path("docs"),
) -> None:
    """Richer priors and posteriors against the plain VAE: log-likelihoods on binarized pixels."""
    dataset = load_data(data, root)
    check_count("epochs", epochs)
    plain_epochs = min(5, epochs // 2) if plain_epochs is None else plain_epochs
    makers = richer_parts.makers(dataset.train)
    command = _command(
        "parts", data=data, epochs=epochs, num_samples=num_samples, plain_epochs=plain_epochs
    )

    def settings(name: str) -> dict[str, Any]:
        return study.settings_of(
            dataset.train,
            dataset.test,
            pixels="binary",
            epochs=epochs,
            num_samples=num_samples,
            plain_epochs=plain_epochs if name in richer_parts.TRAINED_PRIORS else 0,
        )

    _study(
        makers,
        dataset,
        {name: settings(name) for name in makers},
        # Whatever is asked for, the plain VAE is what it is compared with.
        only and [richer_parts.PLAIN, *only],
        out / "parts",
        lambda results: richer_parts.save(results, out, command),
    )


@app.command(name="pixel-likelihoods")
def pixel_likelihoods_(
    data: DataOption = "fashion-mnist",
    root: RootOption = None,
    epochs: EpochsOption = 10,
    train_examples: Annotated[int, typer.Option(help="First so many training images.")] = 10_000,
    examples: Annotated[int, typer.Option(help="The first so many test images.")] = 1000,
    num_samples: SamplesOption = 100,
    only: OnlyOption = None,
    out: OutOption = Path("docs"),
) -> None:
    """Likelihoods of 8-bit images in bits per dimension, and samples of each."""
    dataset = load_data(data, root)
    train = first_of("train_examples", dataset.train, train_examples)
    test = first_of("examples", dataset.test, examples)
    makers = pixel_likelihoods.makers(dataset.shape)
    command = _command(
        "pixel-likelihoods",
        data=data,
        epochs=epochs,
        train_examples=len(train),
        examples=len(test),
        num_samples=num_samples,
    )
    _study(
        {name: make for name, (_, make) in makers.items()},
        replace(dataset, train=train, test=test),
        {
            name: study.settings_of(
                train,
                test,
                pixels=pixels,
                epochs=epochs,
                num_samples=num_samples,
                draws=pixel_likelihoods.DRAWS,
            )
            for name, (pixels, _) in makers.items()
        },
        only,
        out / "likelihoods",
        lambda results: pixel_likelihoods.save(results, out, command, train=len(train)),
    )


@app.command(name="analytic-kl")
def analytic_kl(
    data: DataOption = "digits",
    root: RootOption = None,
    epochs: EpochsOption = 40,
    seeds: Annotated[int, typer.Option(help="Runs of each objective, on seeds 0, 1, ...")] = 5,
    num_samples: SamplesOption = 500,
    draws: Annotated[int, typer.Option(help="Gradients of each objective at each point.")] = 400,
    only: OnlyOption = None,
    out: OutOption = Path("docs/analytic_kl"),
) -> None:
    """When the closed-form KL helps, and what the other estimators do to gradients."""
    for argument, count in (("epochs", epochs), ("seeds", seeds), ("num_samples", num_samples)):
        check_count(argument, count)
    gradients.check_draws(draws)
    dataset = load_data(data, root)
    command = _command(
        "analytic-kl", data=data, epochs=epochs, seeds=seeds, num_samples=num_samples, draws=draws
    )
    settings = kl_study.settings_of(
        dataset.train,
        dataset.test,
        epochs=epochs,
        seeds=seeds,
        num_samples=num_samples,
        draws=draws,
    )
    _check_rows(only, kl_study.NAMES)
    rows = {name: kl_study.load(out, name, settings) for name in kl_study.NAMES}
    sizes = {"train": len(dataset.train), "test": len(dataset.test)}
    for name in dict.fromkeys(only or kl_study.NAMES):
        if rows[name] is None:
            say(f"{name}:")
            row = kl_study.run(name, dataset.train, dataset.test, settings, say_run)
            row.save(out)
            rows[name] = kl_study.load(out, name, settings)
        files = kl_study.save(rows, out, command, **sizes)
    _report(files)


@app.command(name="iwae-table")
def iwae_table_(
    data: DataOption = "mnist",
    root: RootOption = None,
    num_samples: SamplesOption = 5000,
    only: OnlyOption = None,
    quick: Annotated[
        bool,
        typer.Option(
            "--quick", help="An epoch a stage of 512 digits, 10 samples of 100: does it run?"
        ),
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder of what is written, docs or for --quick runs/iwae-table; rows that are "
            "kept there are not run again."
        ),
    ] = None,
) -> None:
    """Importance-weighted objectives against their papers' numbers: hours, a row at a time."""
    _check_rows(only, iwae_table.ENTRIES)  # before anything is downloaded
    folder = out or Path("runs/iwae-table" if quick else "docs")
    if quick:
        dataset = load_data("digits", None)
        dataset = replace(dataset, train=dataset.train[:512], test=dataset.test[:100])
        num_samples, command = 10, _command("iwae-table") + " --quick"
    else:
        dataset = load_data(data, root)
        command = _command("iwae-table", data=data, num_samples=num_samples)
    settings = {
        name: iwae_table.settings_of(
            name,
            dataset.train,
            dataset.test,
            num_samples=num_samples,
            quick=quick,
        )
        for name in iwae_table.ENTRIES
    }
    _rows(
        iwae_table.ENTRIES,
        settings,
        only,
        folder / "iwae_table",
        lambda name: iwae_table.run(name, dataset.train, dataset.test, settings[name]),
        lambda results: iwae_table.save(results, folder, command),
    )


def _command(name: str, **options: object) -> str:
    """The command that makes a study, with all that it depends on."""
    words = [f"--{name.replace('_', '-')} {value}" for name, value in options.items()]
    return " ".join(["pyro-vae reproduce", name, *words])


def _study(
    makers: Mapping[str, Callable[[], VAE]],
    dataset: Dataset,
    settings: Mapping[str, Mapping[str, Any]],
    only: Sequence[str] | None,
    folder: Path,
    save: Callable[[Mapping[str, Result | None]], list[Path]],
) -> None:
    """Rows that :func:`study.run` makes."""

    def run(name: str) -> Result:
        return study.run(name, makers[name], dataset.train, dataset.test, settings[name])

    _rows(makers, settings, only, folder, run, save)


def _rows(
    names: Collection[str],
    settings: Mapping[str, Mapping[str, Any]],
    only: Sequence[str] | None,
    folder: Path,
    run: Callable[[str], Result],
    save: Callable[[Mapping[str, Result | None]], list[Path]],
) -> None:
    """Runs the rows of a study that are not kept yet, and writes all after each of them."""
    _check_rows(only, names)
    results = {name: study.kept(folder, name, settings[name]) for name in names}
    for name in dict.fromkeys(only or names):
        result = results[name]
        if result is None:
            run(name).save(folder)
            results[name] = result = study.kept(folder, name, settings[name])
            assert result is not None
        say(f"{name}: log-likelihood {result.mean:.2f} ± {result.stderr:.2f}")
        files = save(results)
    _report(files)


def _check_rows(only: Sequence[str] | None, known: Collection[str]) -> None:
    for name in only or ():
        if name not in known:
            expected = ", ".join(map(repr, known))
            raise ValueError(f"only: got {name!r}, expected one of {expected}")


def _report(files: Sequence[Path]) -> None:
    say(files[0].read_text())
    say(f"written: {', '.join(map(str, files))}")
