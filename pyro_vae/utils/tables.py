"""Results as text: Markdown tables that read well on a terminal too, and one-line summaries."""

import csv
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from torch import Tensor

from pyro_vae.utils.checks import check_path


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Returns a Markdown table; the first column is aligned left, the others right."""
    table = [tuple(header), *map(tuple, rows)]
    widths = [max(3, *map(len, column)) for column in zip(*table, strict=True)]
    rule = tuple(
        "-" * width if i == 0 else "-" * (width - 1) + ":" for i, width in enumerate(widths)
    )
    lines = []
    for row in (table[0], rule, *table[1:]):
        cells = (
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def summary(result: Any, unit: str = "examples") -> str:
    """Returns the numbers of a dataclass in one line.

    Tensors, which have a number for each `unit`, are counted instead of printed.
    """
    parts = [counted(result, unit), *(f"{name}={text}" for name, text in named(result).items())]
    return f"{type(result).__name__}({', '.join(parts)})"


def counted(result: Any, unit: str = "examples") -> str:
    """Returns how many examples, or other units, a dataclass has a number for, in words."""
    values = (getattr(result, field.name) for field in fields(result))
    return f"{len(next(value for value in values if isinstance(value, Tensor)))} {unit}"


def named(result: Any) -> dict[str, str]:
    """Returns the numbers of a dataclass by name, to six digits, without tensors and tuples."""
    values = {field.name: getattr(result, field.name) for field in fields(result)}
    return {
        name: f"{value:.6g}" if isinstance(value, float) else repr(value)
        for name, value in values.items()
        if not isinstance(value, Tensor | tuple)
    }


def mean_and_error(values: Sequence[float]) -> str:
    """Returns the mean and its standard error to two digits; the number alone if there is one."""
    mean = sum(values) / len(values)
    if len(values) == 1:
        return f"{mean:.2f}"
    return f"{mean:.2f} ± {statistics.stdev(values) / len(values) ** 0.5:.2f}"


def write_csv(path: str | Path, rows: Iterable[Sequence[object]]) -> None:
    """Writes rows, of which the first is the header, to a CSV file."""
    check_path("path", path)
    with Path(path).open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)
