"""A study: a class that says what is compared, and the loop that runs its rows."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Generic, get_type_hints

from torch import Tensor

from pyro_vae import datasets
from pyro_vae.datasets import Dataset
from pyro_vae.evaluation import data_hash
from pyro_vae.studies.engine.document import Document
from pyro_vae.studies.engine.rows import R, keep, kept, runs_of
from pyro_vae.utils.checks import check_count

Say = Callable[[str], None]
"""Prints one line of progress."""

_NO_SETTINGS = ("data", "root", "only", "out")


@dataclass
class Study(ABC, Generic[R]):
    """What is compared, by which options.

    A subclass is a dataclass in a module of its own, whose name is that of the command. Its
    docstring is the command's help, its fields are the command's options. A help text for an
    option stands in its annotation: ``Annotated[int, "Gradients of each objective."]``. Options
    of type int are counts.

    Attributes:
        data: The name of the data set.
        root: The folder of the data sets that are not embedded.
        only: Names of the rows to run; None runs all.
        out: The folder for what is written.
        folder: The folder of the kept rows, inside `out`.
        text: The name of the Markdown file, inside `out`.
        always: Rows that are run even if `only` leaves them out.
    """

    data: str = "mnist"
    root: Path | None = None
    only: list[str] | None = None
    out: Path | None = Path("docs")

    folder: ClassVar[str]
    text: ClassVar[str]
    always: ClassVar[tuple[str, ...]] = ()

    @property
    @abstractmethod
    def kind(self) -> type[R]:
        """The class of the rows."""

    @abstractmethod
    def names(self) -> Sequence[str]:
        """Returns the names of all rows, in the order of the document."""

    @abstractmethod
    def run(self, name: str, say: Say = print) -> R:
        """Runs one row."""

    @abstractmethod
    def document(self, rows: Mapping[str, R | None]) -> Document:
        """Writes up the rows; those that have not been run are None, at least one has."""

    def __post_init__(self) -> None:
        """Raises ValueError for options that are out of range."""
        if self.data not in datasets.names():
            expected = ", ".join(datasets.names())
            raise ValueError(f"data: got {self.data!r}, expected one of {expected}")
        for name, kind in get_type_hints(type(self)).items():
            if kind is int:
                check_count(name, getattr(self, name))
        for row in self.only or ():
            if row not in self.names():
                expected = ", ".join(map(repr, self.names()))
                raise ValueError(f"only: got {row!r}, expected one of {expected}")

    @cached_property
    def dataset(self) -> Dataset:
        """The data set, as uint8 levels."""
        return datasets.load(self.data, self.root)

    def sizes(self) -> tuple[int | None, int | None]:
        """Returns how many training and test images to take; None takes all."""
        return None, None

    @property
    def train(self) -> Tensor:
        """The first training images, uint8 levels of shape ``(N, *x_shape)``."""
        return _first("train_examples", self.dataset.train, self.sizes()[0])

    @property
    def test(self) -> Tensor:
        """The first test images, uint8 levels of shape ``(N, *x_shape)``."""
        return _first("examples", self.dataset.test, self.sizes()[1])

    @cached_property
    def hashes(self) -> dict[str, str]:
        """The hashes of the images, which are among the settings of each row."""
        return {"train": data_hash(self.train), "test": data_hash(self.test)}

    def settings(self, name: str) -> dict[str, Any]:
        """Returns what a row depends on; by default the images and the study's own options.

        Raises:
            ValueError: The options do not fit each other.
        """
        own = [field.name for field in fields(self) if field.name not in _NO_SETTINGS]
        return {**self.hashes, **{option: getattr(self, option) for option in own}}

    @property
    def called(self) -> str:
        """The name of the study on the command line, that of its module."""
        return type(self).__module__.split(".")[-1].replace("_", "-")

    def command(self) -> str:
        """Returns the command that repeats the study, with all options that change a number."""
        words = [f"pyro-vae reproduce {self.called}"]
        for field in fields(self):
            value, option = getattr(self, field.name), f"--{field.name.replace('_', '-')}"
            if field.name == "data" or field.name not in _NO_SETTINGS:
                words += [option] * value if isinstance(value, bool) else [f"{option} {value}"]
        return " ".join(words)

    def kept(self) -> dict[str, R | None]:
        """Returns the rows of earlier runs, by whatever settings; None where there is none."""
        folder = self.home / self.folder
        return {name: kept(folder, name, {}, self.kind) for name in self.names()}

    def runs(self, name: str) -> Path:
        """Returns the folder where a row may keep what it consists of, until it is done."""
        return runs_of(self.home / self.folder, name)

    @property
    def home(self) -> Path:
        """The folder for what is written."""
        assert self.out is not None, "a study without a default folder chooses one"
        return self.out


def reproduce(study: Study[R], say: Say = print) -> list[Path]:
    """Runs the rows of a study that are not kept yet, and writes the document after each.

    An interrupted study goes on from the rows that are kept, and within a row from what
    :meth:`Study.runs` has: the trainings of a comparison, or the checkpoints of stages.

    Arguments:
        study: The study.
        say: Prints the outcome of each row, and the document at the end.

    Returns:
        The paths of the files that the document consists of.

    Raises:
        ValueError: The options do not fit each other, or a kept row is damaged or was made with
            other settings. Nothing is run then.
    """
    names = study.names()
    folder = study.home / study.folder
    settings = {name: study.settings(name) for name in names}
    rows = {name: kept(folder, name, settings[name], study.kind) for name in names}
    files: list[Path] = []
    for name in dict.fromkeys([*study.always, *study.only] if study.only else names):
        if rows[name] is None:
            keep(folder, study.run(name, say))
            rows[name] = kept(folder, name, settings[name], study.kind)
        row = rows[name]
        assert row is not None
        say(f"{name}: {row.outcome}")
        files = study.document(rows).write(study.home / study.text, study.command())
    say(files[0].read_text())
    say(f"written: {', '.join(map(str, files))}")
    return files


def _first(argument: str, images: Tensor, count: int | None) -> Tensor:
    if count is not None and count > len(images):
        raise ValueError(f"{argument}: got {count}, expected at most the {len(images)} images")
    return images[:count]
