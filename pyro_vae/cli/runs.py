"""``pyro-vae list``: the runs in a folder as a table."""

import math
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from pyro_vae import storage
from pyro_vae.cli.options import say
from pyro_vae.storage import DamagedRun
from pyro_vae.training import History
from pyro_vae.utils.sealed import unsealed_tensors
from pyro_vae.utils.tables import markdown

_DEPTH = 2  # levels of folders below the one that is listed
_HEADER = (
    "run", "preset", "data", "epochs", "cost", "test −ELBO", "log-likelihood", "examples",
    "written",
)  # fmt: skip


def list_runs(
    folder: Annotated[Path, typer.Argument(help="Folder with runs.", show_default=False)],
) -> None:
    """List the runs in a folder and its subfolders: data, epochs, costs, log-likelihood.

    Costs are the last ones, in nats per example. The log-likelihood, with its standard error, is
    that of the newest evaluation of these very parameters.
    """
    if not folder.is_dir():
        raise NotADirectoryError(f"folder: got {folder}, expected a folder with runs")
    rows, problems = [], []
    for run in _runs(folder, _DEPTH):
        name = _cell("." if run == folder else str(run.relative_to(folder)))
        try:
            rows.append([name, *_described(run), _written(run)])
        except (DamagedRun, OSError) as error:
            rows.append([name, "damaged", *[""] * (len(_HEADER) - 3), _written(run)])
            problems.append(f"{name}: {' '.join(str(error).split())}")
    if not rows:
        raise FileNotFoundError(
            f"folder: got {folder}, which holds no run ({storage.CONFIG}), nor do the two levels "
            "of folders below it, expected one with runs of pyro-vae train"
        )
    say(markdown(_HEADER, rows))
    for problem in problems:
        say(problem)


def _runs(folder: Path, depth: int) -> list[Path]:
    """The runs in a folder, sorted; what is in a run is no other one."""
    if (folder / storage.CONFIG).exists():
        return [folder]
    if not depth:
        return []
    below = sorted(path for path in folder.iterdir() if path.is_dir())
    return [run for path in below for run in _runs(path, depth - 1)]


def _described(run: Path) -> list[str]:
    """The cells of a run, but for its name and time.

    Raises:
        DamagedRun, OSError: A file is damaged or missing.
    """
    config = storage.read_config(run)
    unsealed_tensors(run / storage.WEIGHTS)  # damaged parameters are those of no run
    settings = config["training"] if isinstance(config["training"], dict) else {}
    preset = config["preset"]["name"] if isinstance(config["preset"], dict) else "own pair"
    data = settings.get("data", "")
    epochs = f"{settings['epochs_done']}/{settings['epochs']}" if _is_whole(settings) else ""
    return [
        _cell(str(preset)),
        _cell(Path(str(data)).name),
        epochs,
        *_costs(run / storage.METRICS),
        *_log_likelihood(run),
    ]


def _is_whole(settings: Mapping[str, Any]) -> bool:
    return {"epochs", "epochs_done"} <= set(settings)


def _costs(path: Path) -> list[str]:
    """The last cost of training and of the test set."""
    if not path.exists():
        return ["", ""]
    history = History.load_csv(path)
    columns = (history.get(name, []) for name in ("cost", "test_cost"))
    return [f"{column[-1]:.2f}" if column else "" for column in columns]


def _log_likelihood(run: Path) -> list[str]:
    """That of the newest evaluation of the parameters, and the number of its examples."""
    digest = storage.weights_hash(run)
    for record in reversed(storage.evaluations(run)):
        found = record.get("log-likelihood")
        if record.get("weights_hash") == digest and isinstance(found, dict):
            mean, stderr = (_number(found.get(name)) for name in ("mean", "stderr"))
            error = "" if math.isnan(stderr) else f" ± {stderr:.2f}"
            return [f"{mean:.2f}{error}", str(record.get("examples", ""))]
    return ["", ""]


def _number(value: object) -> float:
    """A number of a JSON file, where NaN is null and infinities are strings."""
    return float(value) if isinstance(value, int | float | str) else math.nan


def _written(run: Path) -> str:
    """When the parameters were written, or else the configuration."""
    for name in (storage.WEIGHTS, storage.CONFIG):
        if (run / name).exists():
            return datetime.fromtimestamp((run / name).stat().st_mtime).strftime("%Y-%m-%d %H:%M")
    return ""


def _cell(text: str) -> str:
    """A text as a cell of a Markdown table, on one line."""
    shown = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
    return shown.replace("|", "\\|")
