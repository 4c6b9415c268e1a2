"""What the commands share: options, data sets, runs, and printing."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, cast

import torch
import typer
from torch import Tensor
from tqdm import tqdm

from pyro_vae import datasets, presets, storage
from pyro_vae.cli import tables
from pyro_vae.cli.processes import is_first
from pyro_vae.composed import Composed
from pyro_vae.datasets import Dataset, Pixels
from pyro_vae.utils.checks import check_count, check_seed
from pyro_vae.utils.context import Batch
from pyro_vae.utils.random import seeded

HELP = {
    "preset": f"One of {', '.join(presets.names())}.",
    "data": f"One of {', '.join(datasets.names())}.",
    "table": f"One of {', '.join(datasets.names())}, or a CSV file with a header.",
    "root": "Folder of mnist and fashion-mnist in torchvision's layout. Without it the folder in "
    "PYRO_VAE_DATA, or ~/.cache/pyro_vae.",
    "epochs": "Passes over the training data.",
    "batch_size": "Examples in a step.",
    "z_dim": "Latent dimensions. Without it the preset's own.",
    "pixels": f"One of {', '.join(datasets.PIXELS)}. Without it the preset's own.",
    "num_samples": "Importance samples for each example.",
    "examples": "Number of test images, the first ones. Without it all.",
}
"""The help of options that several commands have."""

PresetOption = Annotated[str, typer.Option(help=HELP["preset"])]
DataOption = Annotated[str, typer.Option(help=HELP["data"])]
TableOption = Annotated[str, typer.Option("--data", help=HELP["table"])]
RootOption = Annotated[Path | None, typer.Option(help=HELP["root"])]
EpochsOption = Annotated[int, typer.Option(help=HELP["epochs"])]
BatchOption = Annotated[int, typer.Option(help=HELP["batch_size"])]
ZDimOption = Annotated[int | None, typer.Option(help=HELP["z_dim"])]
PixelsOption = Annotated[str | None, typer.Option(help=HELP["pixels"])]
SamplesOption = Annotated[int, typer.Option(help=HELP["num_samples"])]
ExamplesOption = Annotated[int | None, typer.Option(help=HELP["examples"])]
RunArgument = Annotated[Path, typer.Argument(help="Folder of a run.", show_default=False)]


def say(text: str) -> None:
    """Prints a line, above the progress bar if there is one; of several processes, one does."""
    if is_first():
        tqdm.write(text)


def print_help(context: typer.Context) -> None:
    """Prints the help of a group of commands if none of them is given."""
    if context.invoked_subcommand is None:
        say(context.get_help())


def load_data(data: str, root: Path | None) -> Dataset:
    """Loads a data set; raises ValueError for an unknown name."""
    if data not in datasets.names():
        raise ValueError(f"data: got {data!r}, expected one of {', '.join(datasets.names())}")
    return datasets.load(data, root)


def load_any(data: str, root: Path | None, described: Mapping[str, Any] | None = None) -> Dataset:
    """Loads a data set, or the rows of a CSV file whose columns may be described already."""
    if not tables.is_table(data):
        return load_data(data, root)
    if root is not None:
        raise ValueError(f"root: got {root}, expected none: {data} is a file")
    return tables.load(data, described)


def first_of(argument: str, images: Tensor, count: int | None) -> Tensor:
    """Returns the first `count` images, all for None; raises ValueError if there are fewer."""
    if count is None:
        return images
    check_count(argument, count)
    if count > len(images):
        raise ValueError(f"{argument}: got {count}, expected at most the {len(images)} images")
    return images[:count]


def is_conditional(vae: Composed) -> bool:
    """Whether the VAE of a run takes class labels as its context."""
    assert vae.preset is not None
    return presets.get(vae.preset["name"]).conditional


def with_labels(vae: Composed, images: Tensor, labels: Tensor) -> Batch:
    """Images, or a tuple of them and their class labels, for a preset that takes labels."""
    assert vae.preset is not None
    takes = is_conditional(vae) or presets.get(vae.preset["name"]).labelled
    return (images, labels[: len(images)]) if takes else images


def build(
    preset: str, z_dim: int | None, dataset: Dataset, pixels: str | None, seed: int
) -> tuple[Composed, dict[str, Any]]:
    """Builds a preset's VAE for a data set on a seed; returns also what rebuilds it."""
    check_seed(seed)
    chosen = cast(Pixels | None, pixels)
    with seeded(seed):
        if isinstance(dataset, tables.Rows):
            vae: Composed = presets.build(preset, z_dim=z_dim, pixels=chosen, table=dataset.table)
        else:
            vae = presets.build(preset, z_dim=z_dim, shape=dataset.shape, pixels=chosen)
    assert vae.preset is not None
    return vae, dict(vae.preset)


def open_run(run: Path, root: Path | None) -> tuple[Composed, dict[str, Any], Dataset]:
    """Reads what ``pyro-vae train`` wrote: the VAE, the training's settings, and the data.

    Raises:
        FileNotFoundError: The folder holds no run.
        ValueError: The run was written by other means, is damaged, or has parameters that are not
            finite.
    """
    settings = storage.read_config(run).get("training")
    if not isinstance(settings, dict) or not {"data", "pixels"} <= set(settings):
        raise ValueError(
            f"{run}: was not written by pyro-vae train, so its data are unknown, expected a run "
            "of that command"
        )
    done, asked = settings.get("epochs_done"), settings.get("epochs")
    if done != asked:
        say(f"the run stopped after epoch {done} of {asked}")
    vae = storage.load(run)
    if not all(torch.isfinite(p).all() for p in vae.parameters()):
        raise ValueError(
            f"{run / storage.WEIGHTS}: holds parameters that are not finite, expected finite ones"
        )
    dataset = load_any(settings["data"], root, (vae.preset or {}).get("table"))
    if isinstance(dataset, tables.Rows) and dataset.digest != settings.get("data_hash"):
        raise ValueError(
            f"data: got another {settings['data']} than {run} was trained on, expected the same "
            "file"
        )
    return vae, settings, dataset
