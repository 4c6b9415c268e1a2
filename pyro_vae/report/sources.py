"""Where a report's evidence comes from: a pair with examples, or the folders of runs."""

import itertools
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from pyro_vae import datasets, storage
from pyro_vae.composed import Composed
from pyro_vae.evaluation import LogLikelihood
from pyro_vae.pair import Pair
from pyro_vae.report.evidence import EXAMPLES, Evidence, seen
from pyro_vae.report.score import Score
from pyro_vae.runs import open_run, with_labels
from pyro_vae.training import History
from pyro_vae.utils.checks import kind
from pyro_vae.utils.context import Batch, as_batch
from pyro_vae.utils.random import seeded

__all__ = ["evidence_of_pair", "evidence_of_runs"]


def evidence_of_pair(
    pair: Pair,
    x: Batch | None,
    labels: Tensor | Sequence[str] | None,
    history: History | None,
    result: LogLikelihood | None,
    seed: int | None,
) -> Evidence:
    """What a report shows of a pair; see :func:`pyro_vae.report.report`.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: The labels are not one for each example.
    """
    for name, value, expected in (
        ("history", history, History),
        ("result", result, LogLikelihood),
    ):
        if not isinstance(value, expected | None):
            raise TypeError(f"{name}: got {kind(value)}, expected a {expected.__name__}")
    about = {"pair": type(pair).__name__, "parameters": _parameters(pair)}
    name = pair.name if isinstance(pair, Composed) else type(pair).__name__
    scores = () if result is None else (Score.of(result),)
    batch = None if x is None else as_batch(x)
    names = _names(labels, 0 if batch is None else len(batch[0]))
    looked = None if batch is None else seen(pair, batch, names, history, seed)
    return Evidence(name, about, pair, history, scores, looked)


def _names(labels: object, count: int) -> list[str] | None:
    """Labels as strings."""
    if labels is None:
        return None
    if isinstance(labels, Tensor):
        if labels.dim() != 1 or labels.is_floating_point() or labels.is_complex():
            raise ValueError(
                f"labels: got {labels.dtype} of shape {tuple(labels.shape)}, expected an integer "
                "for each example"
            )
        names = [str(label) for label in labels.tolist()]
    elif isinstance(labels, Sequence) and not isinstance(labels, str):
        names = list(labels)
        for name in names:
            if not isinstance(name, str):
                raise TypeError(f"labels: got {kind(name)} among them, expected strings")
    else:
        raise TypeError(f"labels: got {kind(labels)}, expected a tensor, or a list of strings")
    if len(names) != count:
        raise ValueError(f"labels: got {len(names)}, expected one for each of {count} examples")
    return names


def _parameters(pair: Pair) -> str:
    return f"{sum(p.numel() for p in pair.parameters() if p.requires_grad):,}"


def evidence_of_runs(
    folders: Sequence[Path], root: Path | None, seed: int | None
) -> list[Evidence]:
    """What a report shows of runs, which are called by their folders.

    Raises:
        ValueError: A folder is given twice.
        FileNotFoundError: A folder holds no run.
        DamagedRun: A run is damaged.
    """
    places = [folder.resolve() for folder in folders]
    for first, second in itertools.combinations(places, 2):
        if first == second:
            raise ValueError(f"source: got {first} twice, expected different runs")
    short = [place.name for place in places]
    names = short if len(set(short)) == len(short) else [str(folder) for folder in folders]
    return [_of_run(*each, root, seed) for each in zip(names, folders, strict=True)]


def _of_run(name: str, folder: Path, root: Path | None, seed: int | None) -> Evidence:
    """A run's history, evaluations of its parameters, and what it makes of its test set."""
    run = open_run(folder, root)
    settings, config = run.settings, storage.read_config(folder)
    about = {
        "preset": f"{config['preset']['name']}, {config['preset']['z_dim']} latents",
        "data": f"{settings['data']}, {settings['pixels'] or 'rows of a table'}",
        "epochs": f"{settings.get('epochs_done')} of {settings.get('epochs')}",
        "objective": str(settings.get("objective", "unknown")),
        "parameters": _parameters(run.vae),
        "made by": "; ".join(settings.get("commands", ())) or "unknown",
        "made on": str(settings.get("date", "unknown")),
        "versions": ", ".join(f"{what} {version}" for what, version in config["versions"].items()),
    }
    history = History.load_csv(folder / storage.METRICS)
    digest = storage.weights_hash(folder)
    scores = [
        Score.read(record)
        for record in storage.evaluations(folder)
        if record.get("weights_hash") == digest and "bounds" in record
    ]
    test, labels = run.dataset.test[:EXAMPLES], run.dataset.test_labels[:EXAMPLES]
    if settings["pixels"] is not None:
        with seeded(seed):
            test = datasets.to_pixels(test, settings["pixels"])
    batch = with_labels(run.vae, test, labels)
    names = [str(label) for label in labels.tolist()] if len(labels) else None
    return Evidence(
        name, about, run.vae, history, scores, seen(run.vae, batch, names, history, seed)
    )
