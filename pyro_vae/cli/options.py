"""What the commands share: their options, data, and what they say."""

from pathlib import Path
from typing import Annotated

import typer
from torch import Tensor
from tqdm.auto import tqdm

from pyro_vae import datasets, presets
from pyro_vae.datasets import Dataset
from pyro_vae.evaluation.log_likelihood import LogLikelihood
from pyro_vae.training.history import History
from pyro_vae.utils.checks import check_count

PresetOption = Annotated[str, typer.Option(help=f"One of {', '.join(presets.names())}.")]
DataOption = Annotated[str, typer.Option(help=f"One of {', '.join(datasets.names())}.")]
RootOption = Annotated[
    Path | None,
    typer.Option(
        help="Folder of mnist and fashion-mnist in torchvision's layout; else that of "
        "PYRO_VAE_DATA, else ~/.cache/pyro_vae."
    ),
]
EpochsOption = Annotated[int, typer.Option(help="Passes over the training data.")]
BatchOption = Annotated[int, typer.Option(help="Examples a step.")]
ZDimOption = Annotated[
    int | None, typer.Option(help="Latent dimensions; without it the preset's own.")
]
PixelsOption = Annotated[
    str | None,
    typer.Option(help=f"One of {', '.join(datasets.PIXELS)}; without it the preset's own."),
]
SamplesOption = Annotated[int, typer.Option(help="Importance samples an example.")]
ExamplesOption = Annotated[
    int | None, typer.Option(help="Only the first so many test images; without it all.")
]


def say(text: str) -> None:
    """Prints, above a progress bar, if there is one."""
    tqdm.write(text)


def say_run(name: str, seed: int, history: History, likelihood: LogLikelihood) -> None:
    """Prints what came of one run of a comparison."""
    say(
        f"{name}, seed {seed}: test -ELBO {history.test_cost[-1]:.2f}, log-likelihood "
        f"{likelihood.mean:.2f}, {sum(history.seconds):.0f} s"
    )


def load_data(data: str, root: Path | None) -> Dataset:
    """A data set by its name; raises ValueError unless there is one."""
    if data not in datasets.names():
        raise ValueError(f"data: got {data!r}, expected one of {', '.join(datasets.names())}")
    return datasets.load(data, root)


def first_of(argument: str, images: Tensor, count: int | None) -> Tensor:
    """The first so many of some images, None for all; raises ValueError if there are fewer."""
    if count is None:
        return images
    check_count(argument, count)
    if count > len(images):
        raise ValueError(f"{argument}: got {count}, expected at most the {len(images)} images")
    return images[:count]
