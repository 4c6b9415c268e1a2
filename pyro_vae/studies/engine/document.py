"""The document of a study: text, tables and figures, from rows that may not all be there yet."""

import csv
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from pyro_vae import plots
from pyro_vae.utils.tables import markdown

if TYPE_CHECKING:
    from matplotlib.axes import Axes

T = TypeVar("T")

Panel = Callable[["Axes"], object]
"""Draws one panel of a figure."""


@dataclass(frozen=True)
class Figure:
    """A figure of a document.

    Attributes:
        name: The name of its PNG file, without the ending.
        title: What a reader gets who does not see it.
        draw: Draws it.
    """

    name: str
    title: str
    draw: "Callable[[], Axes]"


@dataclass(frozen=True)
class Csv:
    """A CSV file that a document comes with.

    Attributes:
        name: The name of the file, without the ending.
        header: The names of its columns.
        lines: Its rows, all digits kept.
    """

    name: str
    header: Sequence[str]
    lines: Iterable[Sequence[object]]


class Document:
    """A Markdown file and what belongs to it.

    Arguments:
        title: The heading.
        made: How the numbers were made; follows "Made by `the command`: ".
        blocks: Paragraphs, tables and figures, in order. Empty ones are left out.
    """

    def __init__(self, title: str, made: str, *blocks: str | Figure | Csv) -> None:
        self.title, self.made, self.blocks = title, made, blocks

    def markdown(self, command: str) -> str:
        """Returns the text, with links to the figures."""
        text = [f"# {self.title}", f"Made by `{command}`: {self.made}"]
        for block in self.blocks:
            if isinstance(block, Figure):
                text.append(f"![{block.title}]({block.name}.png)")
            elif isinstance(block, str) and block:
                text.append(block)
        return "\n\n".join(text) + "\n"

    def write(self, path: Path, command: str) -> list[Path]:
        """Writes the text to `path`, the other files next to it; returns all paths."""
        path.parent.mkdir(parents=True, exist_ok=True)
        files = [path]
        for block in self.blocks:
            if isinstance(block, Figure):
                files.append(path.parent / f"{block.name}.png")
                plots.save(block.draw(), files[-1])
            elif isinstance(block, Csv):
                files.append(path.parent / f"{block.name}.csv")
                _write_csv(files[-1], block)
        path.write_text(self.markdown(command))
        return files


def _write_csv(path: Path, data: Csv) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(data.header)
        writer.writerows(data.lines)


def table(
    title: str,
    rows: Iterable[tuple[str, T | None]],
    columns: Mapping[str, Callable[[T], str]],
    known: Mapping[str, Callable[[str], str]] | None = None,
) -> str:
    """Returns a Markdown table with a line for each row.

    Arguments:
        title: The heading of the first column, which has the names.
        rows: Names and what the columns are made from; None makes a line that says "not run".
        columns: Headings, and functions that make a cell.
        known: Columns in front of these that are made from the name alone.
    """
    known = known or {}
    lines = []
    for name, row in rows:
        cells = ["not run", *[""] * (len(columns) - 1)]
        if row is not None:
            cells = [make(row) for make in columns.values()]
        lines.append([name, *(make(name) for make in known.values()), *cells])
    return markdown([title, *known, *columns], lines)


def paired(values: Tensor, others: Tensor) -> tuple[float, float]:
    """Returns the mean of paired differences, and its standard error over examples."""
    difference = values - others
    return difference.mean().item(), difference.std().item() / math.sqrt(len(difference))


def plus_minus(difference: tuple[float, float], sign: str = "") -> str:
    """Returns a mean and its standard error to two digits; sign ``"+"`` shows the plus too."""
    mean, error = difference
    return f"{mean:{sign}.2f} ± {error:.2f}"


def given(
    rows: Mapping[str, T | None],
    names: Sequence[str],
    blocks: Callable[..., Sequence[str | Figure]],
    missing: str = "Not run.",
) -> Sequence[str | Figure]:
    """Returns the blocks that are made from some rows, or `missing` unless all have been run."""
    found = [rows[name] for name in names]
    return [missing] if any(row is None for row in found) else blocks(*found)


def panels(*draws: Panel) -> "Callable[[], Axes]":
    """Returns what draws panels side by side."""

    def draw() -> "Axes":
        from matplotlib import pyplot as plt

        size = (5.2 * len(draws), 4.0)
        axes = plt.subplots(1, len(draws), figsize=size, layout="constrained", squeeze=False)[1]
        for panel, ax in zip(draws, axes[0], strict=True):
            panel(ax)
        return axes[0, 0]

    return draw


def curves(
    x: Sequence[float],
    values: Mapping[str, Sequence[float]],
    ylabel: str,
    *,
    xlabel: str = "epoch",
    log: bool = False,
    xscale: Mapping[str, Any] | None = None,
    ticks: bool = False,
    level: float | None = None,
    **settings: Any,
) -> Panel:
    """Returns what draws a curve for each name.

    Arguments:
        x: The places of the values.
        values: The values of each curve.
        ylabel, xlabel: The labels of the axes.
        log: Makes the vertical axis logarithmic.
        xscale: The arguments of ``Axes.set_xscale``.
        ticks: Puts a tick at each place.
        level: Draws a horizontal line there.
        settings: Further arguments of ``Axes.set``, such as ``ylim=(0, None)``.
    """

    def draw(ax: "Axes") -> None:
        runs = {name: [list(own)] for name, own in values.items()}
        plots.bands(x, runs, ylabel, log=log, xlabel=xlabel, ax=ax)
        if xscale:
            ax.set_xscale(**xscale)
        ax.set(**settings)
        if ticks:
            ax.set_xticks(x, [f"{place:.0f}" for place in x])
        if level is not None:
            ax.axhline(level, color="black", lw=0.8)

    return draw


def differences(values: Mapping[str, Mapping[str, Sequence[float]]], xlabel: str) -> Panel:
    """Returns what draws means of paired differences and bars of two standard errors.

    Arguments:
        values: By series and then by row, one number for each run.
        xlabel: What the numbers are.
    """

    def draw(ax: "Axes") -> None:
        rows = list(next(iter(values.values())))
        for place, (series, by_row) in enumerate(values.items()):
            ends = torch.tensor([by_row[row] for row in rows])
            errors = 2 * ends.std(1) / ends.shape[1] ** 0.5 if ends.shape[1] > 1 else None
            y = torch.arange(len(rows)) + 0.3 * place
            ax.errorbar(ends.mean(1), y, xerr=errors, fmt="os^D"[place], capsize=3, label=series,
                        color=plots.COLOURS[place + 1])  # fmt: skip
        ax.set_yticks(range(len(rows)), rows)
        ax.invert_yaxis()
        ax.axvline(0, color="black", lw=0.8)
        ax.set(xlabel=xlabel)
        ax.grid(alpha=0.3)
        ax.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)

    return draw
