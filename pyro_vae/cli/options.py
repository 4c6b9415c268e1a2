"""What the commands share: options, data sets, runs, and printing."""

from pathlib import Path
from typing import Annotated, Any, cast

import typer
from tqdm import tqdm

from pyro_vae import datasets, presets, runs
from pyro_vae.cli.processes import is_first
from pyro_vae.composed import Composed
from pyro_vae.datasets import Dataset, Pixels
from pyro_vae.utils.checks import check_seed
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


def build(
    preset: str, z_dim: int | None, dataset: Dataset, pixels: str | None, seed: int
) -> tuple[Composed, dict[str, Any]]:
    """Builds a preset's VAE for a data set on a seed; returns also what rebuilds it."""
    check_seed(seed)
    chosen = cast(Pixels | None, pixels)
    with seeded(seed):
        if isinstance(dataset, runs.Rows):
            vae: Composed = presets.build(preset, z_dim=z_dim, pixels=chosen, table=dataset.table)
        else:
            vae = presets.build(preset, z_dim=z_dim, shape=dataset.shape, pixels=chosen)
    assert vae.preset is not None
    return vae, dict(vae.preset)


def check_out(out: Path, suffix: str) -> None:
    """Raises an error, before anything is computed, unless a file can be written.

    Raises:
        FileExistsError: It is there already.
        NotADirectoryError: Its folder is not there.
        ValueError: It has another suffix.
    """
    if out.suffix.lower() != suffix:
        raise ValueError(f"out: got {out}, expected a file {suffix}")
    if out.exists():
        raise FileExistsError(f"out: got {out}, which is there already, expected a new file")
    if not out.parent.is_dir():
        raise NotADirectoryError(f"out: got {out}, whose folder is not there")


def opened(run: Path, root: Path | None) -> runs.Run:
    """Reads a run, and says if its training did not end."""
    found = runs.open_run(run, root)
    done, asked = (found.settings.get(name) for name in ("epochs_done", "epochs"))
    if done != asked:
        say(f"the run stopped after epoch {done} of {asked}")
    return found
