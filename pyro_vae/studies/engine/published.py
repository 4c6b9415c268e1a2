"""Tables of papers: published log-likelihoods beside those obtained here."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Annotated, ClassVar

from torch import Tensor

from pyro_vae.composed import Composed
from pyro_vae.studies.engine.document import plus_minus, table
from pyro_vae.studies.engine.training import Result, Stage, VAEStudy


@dataclass(frozen=True)
class Entry:
    """A row of a paper's table.

    Attributes:
        make: Makes the VAE, for training images.
        stages: Its training; the last stage has the row's own objective.
        paper: The paper's negative log-likelihood in nats.
        pythae: What Pythae obtained.
        source: The paper.
    """

    make: Callable[[Tensor], Composed]
    stages: tuple[Stage, ...]
    paper: float | None = None
    pythae: float | None = None
    source: str = ""


@dataclass
class PublishedStudy(VAEStudy):
    """A study of VAEs that papers have trained, with curves and cycles of the learning rate.

    Attributes:
        entries: The rows, with the published numbers.
    """

    num_samples: int = 5000
    quick: Annotated[
        bool, "Only test the program: an epoch a stage, 512 digits, 10 samples of 100 images."
    ] = False
    out: Annotated[
        Path | None,
        "Folder of what is written; rows that are kept there are not run again. Without it docs, "
        "or a folder in runs for --quick.",
    ] = None

    entries: ClassVar[Mapping[str, Entry]]
    cycle = True
    curve_examples = 1000

    def __init_subclass__(cls) -> None:
        cls.vaes = {name: entry.make for name, entry in cls.entries.items()}

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.quick:
            self.data, self.root, self.num_samples = "digits", None, 10
        self.out = self.out or (Path("runs", self.called) if self.quick else Path("docs"))

    def sizes(self) -> tuple[int | None, int | None]:
        """Returns how many images to take."""
        return (512, 100) if self.quick else (None, None)

    def command(self) -> str:
        """Returns the command; nothing else matters with --quick."""
        return f"pyro-vae reproduce {self.called} --quick" if self.quick else super().command()

    def stages(self, name: str) -> Sequence[Stage]:
        """Returns the training of a row."""
        return [replace(s, epochs=1) if self.quick else s for s in self.entries[name].stages]


def published(entries: Mapping[str, Entry]) -> dict[str, Callable[[str], str]]:
    """Returns the columns of published numbers, which are known before a row has been run."""

    def cell(number: float | None) -> str:
        return "" if number is None else f"{number:.2f}"

    columns: dict[str, Callable[[str], str]] = {"paper": lambda name: cell(entries[name].paper)}
    if any(entry.pythae is not None for entry in entries.values()):
        columns["Pythae"] = lambda name: cell(entries[name].pythae)
    return columns


def sources(entries: Mapping[str, Entry]) -> str:
    """Returns the papers by row, in a line."""
    return "; ".join(f"{name}: {entry.source}" for name, entry in entries.items() if entry.source)


def order(rows: Mapping[str, Result | None], entries: Mapping[str, Entry]) -> str:
    """Returns a table of how much better each model is than the next in the papers' order.

    It is empty unless at least two of the papers' models have been run.
    """
    done = {name: row for name, row in rows.items() if row is not None}
    paper = {n: e.paper for n, e in entries.items() if n in done and e.paper is not None}
    steps = list(pairwise(sorted(paper, key=lambda name: -paper[name])))
    columns: dict[str, Callable[[tuple[str, str]], str]] = {
        "below": lambda step: step[0],
        "papers": lambda step: f"{paper[step[0]] - paper[step[1]]:.2f}",
        "here": lambda step: plus_minus(done[step[1]].above(done[step[0]])),
    }
    return table("model", [(step[1], step) for step in steps], columns) if steps else ""
