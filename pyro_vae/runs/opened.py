"""A run that ``pyro-vae train`` wrote: its pair, the training's settings, and its data."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyro_vae import datasets, presets, storage
from pyro_vae.composed import Composed
from pyro_vae.datasets import Dataset
from pyro_vae.runs import tables
from pyro_vae.utils.checks import check_count
from pyro_vae.utils.context import Batch

__all__ = [
    "Run",
    "first_of",
    "is_conditional",
    "load_any",
    "load_data",
    "open_run",
    "trained",
    "with_labels",
]


@dataclass(frozen=True)
class Run:
    """What a run's folder says, with its data.

    Attributes:
        folder: The folder.
        vae: The pair, with its trained parameters.
        settings: The settings of the training.
        dataset: The data that it was trained on, with the test set.
    """

    folder: Path
    vae: Composed
    settings: Mapping[str, Any]
    dataset: Dataset


def load_data(data: str, root: Path | None) -> Dataset:
    """Loads a data set; raises ValueError for an unknown name."""
    if data not in datasets.names():
        raise ValueError(f"data: got {data!r}, expected one of {', '.join(datasets.names())}")
    return datasets.load(data, root)


def load_any(
    data: str,
    root: Path | None,
    described: Mapping[str, Any] | None = None,
    kinds: Mapping[str, str] | None = None,
) -> Dataset:
    """Loads a data set, or the rows of a CSV file whose columns may be described already.

    Raises:
        ValueError: There is no such data set or file, or kinds of columns come with no table.
    """
    if not tables.is_table(data):
        if kinds is not None:
            raise ValueError(f"kinds: got {dict(kinds)}, expected none: {data} is no table")
        return load_data(data, root)
    if root is not None:
        raise ValueError(f"root: got {root}, expected none: {data} is a file")
    return tables.load(data, described, kinds)


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
    return _preset(vae).conditional


def with_labels(vae: Composed, images: Tensor, labels: Tensor) -> Batch:
    """Images, or a tuple of them and their class labels, for a preset that takes labels."""
    takes = _preset(vae).conditional or _preset(vae).labelled
    return (images, labels[: len(images)]) if takes else images


def _preset(vae: Composed) -> presets.Preset:
    """The preset of a run's pair: the command trains nothing else."""
    return presets.get((vae.preset or {})["name"])


def trained(run: Path) -> tuple[Composed, Mapping[str, Any]]:
    """The pair that ``pyro-vae train`` wrote, and the settings of its training.

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
    vae = storage.load(run)
    if not all(torch.isfinite(p).all() for p in vae.parameters()):
        raise ValueError(
            f"{run / storage.WEIGHTS}: holds parameters that are not finite, expected finite ones"
        )
    return vae, settings


def open_run(run: Path, root: Path | None) -> Run:
    """Reads what ``pyro-vae train`` wrote, and its data.

    Raises:
        FileNotFoundError: The folder holds no run, or the data are not there.
        ValueError: The run was written by other means, is damaged, or has parameters that are not
            finite; or the data are others.
    """
    vae, settings = trained(run)
    dataset = load_any(settings["data"], root, (vae.preset or {}).get("table"))
    if isinstance(dataset, tables.Rows) and dataset.digest != settings.get("data_hash"):
        raise ValueError(
            f"data: got another {settings['data']} than {run} was trained on, expected the same "
            "file"
        )
    return Run(run, vae, settings, dataset)
