"""Tables of papers: published log-likelihoods beside those obtained here."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor

from pyro_vae.studies.engine.document import plus_minus, table
from pyro_vae.studies.engine.training import Result, Stage
from pyro_vae.vae import VAE


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

    make: Callable[[Tensor], VAE]
    stages: tuple[Stage, ...]
    paper: float | None = None
    pythae: float | None = None
    source: str = ""


def published(entries: Mapping[str, Entry]) -> dict[str, Callable[[str], str]]:
    """Returns the columns of published numbers, which are known before a row has been run."""

    def cell(number: float | None) -> str:
        return "" if number is None else f"{number:.2f}"

    return {
        "paper": lambda name: cell(entries[name].paper),
        "Pythae": lambda name: cell(entries[name].pythae),
    }


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
