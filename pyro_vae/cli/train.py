"""``pyro-vae train``: trains a preset and writes a run."""

import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from pyro_vae import datasets, objectives, presets, storage
from pyro_vae.cli.options import (
    BatchOption,
    EpochsOption,
    PixelsOption,
    PresetOption,
    RootOption,
    TableOption,
    ZDimOption,
    build,
    say,
)
from pyro_vae.cli.processes import count, is_first, joined
from pyro_vae.composed import Composed
from pyro_vae.datasets import Dataset
from pyro_vae.evaluation import density_draw, diagnose
from pyro_vae.pair import Pair
from pyro_vae.runs import PRESET, Rows, is_table, load_any, with_labels
from pyro_vae.training import Averaging, History, TensorBoard, fit
from pyro_vae.utils.context import Batch
from pyro_vae.utils.progress import clock, without_lines

CHECKPOINTS = "checkpoints"

_DIAGNOSED = 1000  # test images
_SETTINGS = (
    "data", "epochs", "batch_size", "objective", "seed", "precision", "average", "labels",
    "labelled", "kinds",
)  # fmt: skip

_GIVEN = "epochs", "batch_size", "pixels", "seed", "precision", "labelled"

ObjectiveOption = Annotated[
    str | None,
    typer.Option(help=f"One of {', '.join(objectives.names())}. Default: the preset's own."),
]
LabelsOption = Annotated[
    int | None,
    typer.Option(
        help="Keep so many labels of the training images, as many of each class, for a preset "
        "whose labels may be missing. Default: all."
    ),
]
KindsOption = Annotated[
    str | None,
    typer.Option(
        help="What columns of a table are, where it is not to be found out: real, class or count, "
        "such as visits=count,city=class."
    ),
]
LabelledOption = Annotated[
    float | None, typer.Option(help="Share of labelled images in each batch, such as 0.125.")
]
SeedOption = Annotated[
    int, typer.Option(help="Fixes the initial parameters, the order of examples and the noise.")
]
PrecisionOption = Annotated[str, typer.Option(help="Precision of the networks: float32 or bf16.")]
AverageOption = Annotated[
    float | None,
    typer.Option(
        help="Decay of a moving average of the parameters, such as 0.999. It is evaluated and "
        "written in their place."
    ),
]
OutOption = Annotated[
    Path | None, typer.Option(help="Folder of the run. Without it runs/PRESET-DATA.")
]
TensorBoardOption = Annotated[
    bool, typer.Option("--tensorboard", help="Also write scalars to OUT/tensorboard.")
]


CheckpointOption = Annotated[
    str, typer.Option(help='How often OUT/checkpoints is written: "500 steps" or "10 min".')
]
ResumeOption = Annotated[
    bool,
    typer.Option(
        "--resume",
        help="Go on from OUT/checkpoints, or begin if there are none. Options that are not given "
        "are those of the run.",
    ),
]


def train(
    context: typer.Context,
    preset: PresetOption = "bernoulli-mlp",
    data: TableOption = "digits",
    root: RootOption = None,
    epochs: EpochsOption = 30,
    batch_size: BatchOption = 128,
    z_dim: ZDimOption = None,
    objective: ObjectiveOption = None,
    labels: LabelsOption = None,
    labelled: LabelledOption = None,
    kinds: KindsOption = None,
    pixels: PixelsOption = None,
    seed: SeedOption = 0,
    precision: PrecisionOption = "float32",
    average: AverageOption = None,
    out: OutOption = None,
    tensorboard: TensorBoardOption = False,
    checkpoint_every: CheckpointOption = "1 epoch",
    resume: ResumeOption = False,
) -> None:
    """Train a preset and write the run: configuration, parameters, metrics, checkpoints."""
    options = dict(context.params)
    if is_table(data) and source_of(context, "preset") == "DEFAULT":
        options["preset"] = PRESET
    folder = out or _default_folder(options["preset"], data)
    begun = resume and (folder / storage.CONFIG).exists()
    if begun:
        options |= _kept(context, folder)
    elif not resume:
        storage.check_free(folder)
    options["objective"] = options["objective"] or presets.get(options["preset"]).objective
    loss = objectives.parse(options["objective"])
    dataset = load_any(options["data"], root, kinds=_kinds(options["kinds"]))
    vae, chosen = _built(options, dataset)
    settings = _settings(options, chosen.get("pixels"), dataset) | _made(folder, begun)
    if isinstance(dataset, Rows):
        say(f"{dataset.table}")
    tracker = TensorBoard(folder / "tensorboard") if tensorboard and is_first() else None
    writer = _Writer(folder, settings, begun, _average(settings["average"]))
    images, test = _data(vae, dataset, options)
    with joined(), without_lines():
        history = fit(
            vae,
            images,
            test=test,
            **{name: settings[name] for name in _GIVEN},
            objective=loss,
            callbacks=[writer],
            tracker=tracker,
            average=writer.average,
            checkpoint=folder / CHECKPOINTS,
            checkpoint_every=checkpoint_every,
            resume=resume,
        )
    if history.ended == "interrupted":
        raise KeyboardInterrupt
    if is_first():
        for line in _diagnosed(writer.judged(vae), dataset, settings, history):
            say(line)
        say(f"run: {folder}")


def _default_folder(preset: str, data: str) -> Path:
    return Path("runs") / f"{preset}-{Path(data).stem if is_table(data) else data}"


def _average(decay: float | None) -> Averaging | None:
    return None if decay is None else Averaging(decay)


def _kinds(text: str | None) -> dict[str, str] | None:
    """The kinds of columns that an option names."""
    if text is None:
        return None
    pairs = [pair.rpartition("=") for pair in text.split(",")]
    for name, _, kind in pairs:
        if not name or not kind:
            raise ValueError(f"kinds: got {text!r}, expected such as visits=count,city=class")
    return {name.strip(): kind.strip() for name, _, kind in pairs}


def _built(options: Mapping[str, Any], dataset: Dataset) -> tuple[Composed, dict[str, Any]]:
    """The preset's pair for a data set, and what rebuilds it."""
    named = (options[name] for name in ("pixels", "seed"))
    return build(options["preset"], options["z_dim"], dataset, *named)


def _data(vae: Composed, dataset: Dataset, options: Mapping[str, Any]) -> tuple[Batch, Batch]:
    """The training and test data, with labels if the preset takes them, all or some."""
    labels, test = dataset.train_labels, with_labels(vae, dataset.test, dataset.test_labels)
    if options["labels"] is None:
        return with_labels(vae, dataset.train, labels), test
    if not presets.get(options["preset"]).labelled:
        raise ValueError(
            f"labels: got {options['labels']} with preset {options['preset']!r}, expected none: "
            "it has no labels that may be missing"
        )
    kept = datasets.keep_labels(labels, options["labels"], options["seed"])
    return with_labels(vae, dataset.train, kept), test


def _settings(options: Mapping[str, Any], pixels: str | None, dataset: Dataset) -> dict[str, Any]:
    """What repeats the training."""
    settings = {
        **{name: options[name] for name in _SETTINGS},
        "pixels": pixels,
        "compile": "auto",
        "processes": count(),
        "optimizer": "optim.Adam(lr=1e-3)",
    }
    if isinstance(dataset, Rows):  # The file is read again to evaluate the run.
        settings |= {"data": str(Path(options["data"]).resolve()), "data_hash": dataset.digest}
    return settings


@dataclass
class _Writer:
    """Writes the run, before the first step and after each epoch; of several processes, one does.

    Attributes:
        folder: The folder of the run.
        settings: The settings of the training.
        begun: Whether the run is there already.
        average: The average of the parameters, which is written in their place; or None.
    """

    folder: Path
    settings: dict[str, Any]
    begun: bool
    average: Averaging | None
    _start: float = 0.0
    _epochs: int = 0

    def judged(self, vae: Pair) -> Pair:
        """The pair that is evaluated and written."""
        return vae if self.average is None or self.average.pair is None else self.average.pair

    def before_training(self, vae: Pair, columns: Sequence[str]) -> None:
        """Writes the settings, by which the run can go on from now on."""
        if not self.begun and is_first():
            none = {**self.settings, "epochs_done": 0}
            # A kill between two files leaves a folder that is no run, which --resume begins.
            storage.save(self.judged(vae), self.folder, training=none, overwrite=True)
        self._start = time.perf_counter()

    def __call__(self, vae: Pair, history: History) -> None:
        """Writes the parameters and the history."""
        if not is_first():
            return
        done = {**self.settings, "epochs_done": history.epoch[-1]}
        storage.save(self.judged(vae), self.folder, training=done, overwrite=True)
        history.save_csv(self.folder / storage.METRICS)
        self._epochs += 1  # in this process: a run that goes on has others before
        an_epoch = (time.perf_counter() - self._start) / self._epochs
        left = an_epoch * (self.settings["epochs"] - history.epoch[-1])
        say(f"{_epoch_line(history, self.settings['epochs'])}  {clock(left)} left")


def _diagnosed(
    vae: Pair, dataset: Dataset, settings: Mapping[str, Any], history: History
) -> list[str]:
    """A line for each thing that went wrong; none for a good run."""
    assert isinstance(vae, Composed)
    pixels, seed = settings["pixels"], settings["seed"]
    try:
        images, labels = dataset.test[:_DIAGNOSED], dataset.test_labels
        given = with_labels(vae, images, labels)
        if pixels is not None:
            given = with_labels(vae, density_draw(vae, given, pixels, seed)[0], labels)
        found = diagnose(vae, given, history=history, seed=seed)
    except (ValueError, FloatingPointError) as error:  # The run is written, and is whole.
        return [f"not diagnosed: {error}"]
    return [str(found)] if found else []


def _made(folder: Path, begun: bool) -> dict[str, Any]:
    """By which commands the run is made, one after the other, and when the first one began."""
    before = storage.read_config(folder)["training"] if begun else {}
    commands = before.get("commands", [])
    own = shlex.join(["pyro-vae", *sys.argv[1:]])
    now = datetime.now(UTC).isoformat(timespec="seconds")
    again = commands[-1:] == [own]  # as where a cluster starts it again and again
    return {"commands": commands if again else [*commands, own], "date": before.get("date", now)}


def _kept(context: typer.Context, folder: Path) -> dict[str, Any]:
    """The options of a run that is to go on, with those that are given on the command line."""
    config = storage.read_config(folder)
    settings = config["training"]
    if not isinstance(settings, dict) or config["preset"] is None or "epochs" not in settings:
        raise ValueError(
            f"resume: {folder} was not written by pyro-vae train, expected such a run"
        )
    run = {
        "average": None,
        "kinds": None,
        **settings,
        "preset": config["preset"]["name"],
        "z_dim": config["preset"]["z_dim"],
    }
    return {
        name: run[name] if source_of(context, name) == "DEFAULT" else value
        for name, value in context.params.items()
        if name in run
    }


def source_of(context: typer.Context, name: str) -> str | None:
    """Where an option has its value from, such as ``"COMMANDLINE"`` or ``"DEFAULT"``."""
    source = context.get_parameter_source(name)
    return None if source is None else source.name


def _epoch_line(history: History, epochs: int) -> str:
    row = history.rows()[-1]
    return (
        f"epoch {row['epoch']:{len(str(epochs))}d}/{epochs}  cost {row['cost']:.2f}  "
        f"reconstruction {row['reconstruction']:.2f}  KL {row['kl']:.2f}  "
        f"test -ELBO {row['test_cost']:.2f}  {row['seconds']:.1f} s"
    )
