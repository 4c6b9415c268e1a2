"""Trackers: what they are told, in which order, and however a training ends."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from torch import nn

from pyro_vae import VAE, fit, objectives, optim
from pyro_vae.training import History, NonFiniteLoss, StopTraining, TensorBoard

from ..vaes import bernoulli_vae, binary, parameters


class Kept:
    """A tracker that keeps all it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []

    def config(self, values: Mapping[str, Any]) -> None:
        self.told.append(("config", dict(values)))

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        self.told.append(("scalars", dict(values), step))

    def figure(self, name: str, figure: Figure, step: int) -> None:
        self.told.append(("figure", name, figure, step))

    def close(self) -> None:
        self.told.append(("close",))

    @property
    def kinds(self) -> list[str]:
        return [kind for kind, *_ in self.told]


def test_a_tracker_is_told_of_settings_rows_and_curves() -> None:
    plt.close("all")  # what other tests have left
    vae, x, kept = bernoulli_vae(), binary(20), Kept()
    twin = bernoulli_vae()
    twin.load_state_dict(vae.state_dict())
    settings: dict[str, Any] = {"test": x, "validation": x[:5], "epochs": 3, "batch_size": 8}
    loss = objectives.warm_up(objectives.trace_elbo(), 5)
    history = fit(vae, x, tracker=kept, objective=loss, optim=optim.Adam(1e-2), **settings)
    assert kept.kinds == ["config", *["scalars"] * 3, "figure", "close"]
    assert kept.told[0][1] == {
        "pair": "vae",
        "parameters": sum(p.numel() for p in vae.parameters()),
        "examples": 20,
        "epochs": 3,
        "batch_size": 8,
        "objective": "Annealed of Trace_ELBO",
        "optimizer": "Adam",
        "pixels": None,
        "seed": 0,
        "precision": "float32",
        "device": "cpu",
        "compiled": False,
    }
    rows = [{"epoch": step, **values} for _, values, step in kept.told[1:4]]
    assert rows == history.rows()
    name, figure, step = kept.told[4][1:]
    assert (name, step) == ("history", 3)
    assert sum(len(ax.lines) for ax in figure.axes) == 5  # the KL has an axis of its own
    assert not plt.get_fignums()
    other = objectives.warm_up(objectives.trace_elbo(), 5)
    fit(twin, x, objective=other, optim=optim.Adam(1e-2), **settings)
    assert torch.equal(parameters(vae), parameters(twin))


def test_a_tracker_is_closed_however_a_training_ends() -> None:
    def stop(vae: VAE, history: History) -> None:
        raise StopTraining

    kept = Kept()
    fit(bernoulli_vae(), binary(20), epochs=5, batch_size=20, callbacks=[stop], tracker=kept)
    assert kept.kinds == ["config", "scalars", "figure", "close"]

    def damage(vae: VAE, history: History) -> None:
        with torch.no_grad():
            next(vae.parameters()).fill_(torch.nan)

    kept = Kept()
    with pytest.raises(NonFiniteLoss):
        fit(bernoulli_vae(), binary(20), epochs=5, batch_size=20, callbacks=[damage], tracker=kept)
    assert kept.kinds == ["config", "scalars", "close"]

    def fail(vae: VAE, history: History) -> None:
        raise OSError

    kept = Kept()
    with pytest.raises(OSError):
        fit(bernoulli_vae(), binary(20), epochs=5, batch_size=20, callbacks=[fail], tracker=kept)
    assert kept.kinds == ["config", "scalars", "close"]


def test_what_is_no_tracker_is_named() -> None:
    for wrong, lacks in ((3, "an? int without a method config"), (TensorBoard, "expected an ob")):
        with pytest.raises(TypeError, match=f"tracker: got .*{lacks}"):
            fit(bernoulli_vae(), binary(8), epochs=1, batch_size=8, tracker=wrong)
    half = nn.Module()
    half.config = half.scalars = half.figure = lambda *_: None  # type: ignore[assignment]
    with pytest.raises(TypeError, match="tracker: got a Module without a method close"):
        fit(bernoulli_vae(), binary(8), epochs=1, batch_size=8, tracker=half)


def test_tensorboard_writes_settings_columns_and_curves(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    history = fit(
        bernoulli_vae(),
        binary(),
        test=binary(),
        epochs=2,
        batch_size=4,
        tracker=TensorBoard(tmp_path),
    )
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert set(events.Tags()["scalars"]) == {
        "avg_loss",
        "reconstruction",
        "kl",
        "test_cost",
        "seconds",
    }
    scalars = events.Scalars("avg_loss")
    assert [s.step for s in scalars] == [1, 2]
    assert [s.value for s in scalars] == pytest.approx(history.cost, rel=1e-6)
    assert events.Tags()["images"] == ["history"]
    (text,) = events.Tensors("config/text_summary")
    assert "batch_size" in text.tensor_proto.string_val[0].decode()
