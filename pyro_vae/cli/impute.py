"""``pyro-vae impute``: the holes of a table, filled by a run."""

import warnings
from pathlib import Path
from typing import Annotated

import typer
from torch import Tensor

from pyro_vae.cli.options import RunArgument, SamplesOption, check_out, say
from pyro_vae.evaluation import Imputation, UnreliableWeights, impute
from pyro_vae.runs import read_csv, table_of, trained
from pyro_vae.utils.checks import check_count, check_seed


def impute_file(
    run: RunArgument,
    data: Annotated[
        Path, typer.Argument(help="CSV file with the run's columns.", show_default=False)
    ],
    out: Annotated[Path, typer.Argument(help="CSV file that is written.", show_default=False)],
    num_samples: SamplesOption = 1000,
    draws: Annotated[
        int,
        typer.Option(
            help="Write so many complete tables, OUT-1.csv, OUT-2.csv, ..., each a draw of all "
            "holes. Without it one of means and most probable classes."
        ),
    ] = 0,
    seed: Annotated[int, typer.Option(help="Fixes the draws.")] = 0,
) -> None:
    """Fill the holes of a CSV file, given what is there; the rest of it stays as it is."""
    check_count("num_samples", num_samples)
    check_count("draws", draws, 0)
    check_seed(seed)
    vae, _ = trained(run)
    table = table_of(vae)
    if table is None or not table.holes:
        had = "images" if table is None else "a table without holes"
        raise ValueError(f"run: {run} was trained on {had}, expected one of a table with holes")
    files = [out] if not draws else [_numbered(out, i + 1) for i in range(draws)]
    for file in files:
        check_out(file, ".csv")
    given = read_csv(data, table)
    x = given.encode(table)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UnreliableWeights)
        result = impute(vae, x, num_samples, quantiles=(0.5,), num_draws=draws, seed=seed)
    for file, filled in zip(files, result.draws if draws else [result.point], strict=True):
        given.filled(table, filled).to_csv(file, index=False)
    say(_summary(result, x))
    for warning in caught:
        say(str(warning.message))
    say(f"written: {', '.join(map(str, files))}")


def _numbered(out: Path, number: int) -> Path:
    return out.with_name(f"{out.stem}-{number}{out.suffix}")


def _summary(result: Imputation, x: Tensor) -> str:
    """What was filled, and how good the weights were."""
    holes = x.isnan()
    rows = holes.any(1)
    text = f"{int(holes.sum())} holes in {int(rows.sum())} of {len(x)} rows"
    if not rows.any():
        return text
    ess = result.ess[rows]
    return (
        f"{text}, {result.num_samples} importance samples; effective sample size: median "
        f"{ess.median().item():.1f}, least {ess.min().item():.1f}"
    )
