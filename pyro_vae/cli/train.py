"""``pyro-vae train``: trains a preset and writes a run."""

from pathlib import Path
from typing import Annotated

import typer

from pyro_vae import objectives, storage
from pyro_vae.cli.options import (
    BatchOption,
    DataOption,
    EpochsOption,
    PixelsOption,
    PresetOption,
    RootOption,
    ZDimOption,
    build,
    labelled,
    load_data,
    say,
)
from pyro_vae.pair import Pair
from pyro_vae.training import History, TensorBoard, fit

ObjectiveOption = Annotated[str, typer.Option(help=f"One of {', '.join(objectives.names())}.")]
SeedOption = Annotated[
    int, typer.Option(help="Fixes the initial parameters, the order of examples and the noise.")
]
PrecisionOption = Annotated[str, typer.Option(help="Precision of the networks: float32 or bf16.")]
OutOption = Annotated[
    Path | None, typer.Option(help="Folder of the run. Without it runs/PRESET-DATA.")
]
TensorBoardOption = Annotated[
    bool, typer.Option("--tensorboard", help="Also write scalars to OUT/tensorboard.")
]


def train(
    preset: PresetOption = "bernoulli-mlp",
    data: DataOption = "digits",
    root: RootOption = None,
    epochs: EpochsOption = 30,
    batch_size: BatchOption = 128,
    z_dim: ZDimOption = None,
    objective: ObjectiveOption = "trace_elbo",
    pixels: PixelsOption = None,
    seed: SeedOption = 0,
    precision: PrecisionOption = "float32",
    out: OutOption = None,
    tensorboard: TensorBoardOption = False,
) -> None:
    """Train a preset and write the run: configuration, parameters, metrics."""
    folder = out or Path("runs") / f"{preset}-{data}"
    storage.check_free(folder)
    loss = objectives.parse(objective)
    dataset = load_data(data, root)
    vae, chosen = build(preset, z_dim, dataset, pixels, seed)
    settings = {
        "data": data,
        "epochs": epochs,
        "batch_size": batch_size,
        "objective": objective,
        "pixels": chosen["pixels"],
        "seed": seed,
        "precision": precision,
        "compile": "auto",
        "optimizer": "optim.Adam(lr=1e-3)",
    }

    storage.check_savable(vae, settings)

    def write(vae: Pair, history: History) -> None:
        done = {**settings, "epochs_done": history.epoch[-1]}
        storage.save(vae, folder, training=done, overwrite=True)
        history.save_csv(folder / storage.METRICS)
        say(_epoch_line(history, epochs))

    history = fit(
        vae,
        labelled(vae, dataset.train, dataset.train_labels),
        test=labelled(vae, dataset.test, dataset.test_labels),
        epochs=epochs,
        batch_size=batch_size,
        objective=loss,
        pixels=chosen["pixels"],
        seed=seed,
        precision=precision,  # type: ignore[arg-type]
        callbacks=[write],
        tracker=TensorBoard(folder / "tensorboard") if tensorboard else None,
    )
    if history.ended == "interrupted":
        raise KeyboardInterrupt
    say(f"run: {folder}")


def _epoch_line(history: History, epochs: int) -> str:
    row = history.rows()[-1]
    return (
        f"epoch {row['epoch']:{len(str(epochs))}d}/{epochs}  cost {row['cost']:.2f}  "
        f"reconstruction {row['reconstruction']:.2f}  KL {row['kl']:.2f}  "
        f"test -ELBO {row['test_cost']:.2f}  {row['seconds']:.1f} s"
    )
