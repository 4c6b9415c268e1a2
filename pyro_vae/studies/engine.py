"""A study: VAEs trained and judged alike, each kept in a small file as it is done."""

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from pyro_vae import datasets
from pyro_vae.datasets import Pixels
from pyro_vae.evaluation.elbo import elbo
from pyro_vae.evaluation.inputs import data_hash
from pyro_vae.evaluation.log_likelihood import estimated
from pyro_vae.networks import MLP, xavier_
from pyro_vae.priors import StandardNormal
from pyro_vae.training.fit import fit
from pyro_vae.utils.checks import check_count
from pyro_vae.utils.files import write_json
from pyro_vae.utils.random import seeded
from pyro_vae.vae import VAE

Row = TypeVar("Row")

Z_DIM = 50
"""Latents of all VAEs here."""


def mlp(in_shape: Sequence[int] | int, out_shape: Sequence[int] | int) -> MLP:
    """The networks of the IWAE paper's one-layer model: 200-200 tanh."""
    return MLP(in_shape, (200, 200), out_shape, activation=nn.Tanh, init=xavier_)


@dataclass(frozen=True)
class Result:
    """What became of one VAE; :meth:`save` keeps it as a small JSON file.

    Attributes:
        name: Its parts.
        settings: What :func:`run` was told, with hashes of the data.
        values: Importance-weighted log-likelihood of each test example, in nats, shape ``(N,)``.
        mean, stderr, mc_error: Over `values`, as of :class:`~pyro_vae.evaluation.LogLikelihood`.
        elbo, kl: Mean ELBO and KL(q, p) of the test set, in nats.
        median_ess: Of the importance weights.
        parameters: Number of trained parameters.
        seconds: Of training, by the wall clock; in :mod:`~pyro_vae.iwae_table` the processor's.
        threads: Of torch, while it trained.
        shape: Of one x.
        samples: Point values of draws of the prior, 8-bit levels, where asked for.
        curve: Epochs, minutes and test log-likelihoods on the way, where asked for.
    """

    name: str
    settings: dict[str, Any]
    values: Tensor
    mean: float
    stderr: float
    mc_error: float
    elbo: float
    kl: float
    median_ess: float
    parameters: int
    seconds: float
    threads: int
    shape: tuple[int, ...]
    samples: Tensor | None = None
    curve: Sequence[Sequence[float]] = ()

    @property
    def pixels(self) -> Pixels:
        """What x was."""
        return self.settings["pixels"]

    def save(self, folder: Path) -> None:
        """Writes all of it to :func:`file_of`, the values to three digits behind the point."""
        record = {field.name: getattr(self, field.name) for field in fields(self)}
        record = {name: _number(value) for name, value in record.items()}
        record["values"] = [round(v, 3) for v in self.values.tolist()]
        record["samples"] = None if self.samples is None else self.samples.tolist()
        record["curve"] = [list(point) for point in self.curve]
        keep_record(folder, record)


def _number(value: Any) -> Any:
    """JSON has no NaN: the standard error of one example is none."""
    return None if isinstance(value, float) and math.isnan(value) else value


def file_of(folder: Path, name: str) -> Path:
    """Where a row of a study is kept: ``gaussianmixture-50.json``, say."""
    return folder / f"{'-'.join(re.findall('[a-z0-9]+', name.lower()))}.json"


def keep_record(folder: Path, record: Mapping[str, Any]) -> None:
    """Writes a row, which has a name and settings, to :func:`file_of`."""
    path = file_of(folder, record["name"])
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, dict(record), indent=None)


def kept_record(
    folder: Path,
    name: str,
    settings: Mapping[str, Any],
    read: Callable[[dict[str, Any]], Row],
) -> Row | None:
    """The row of an earlier run as `read` makes it of what was written, or None.

    Raises:
        ValueError: The file is damaged, or was made by other settings.
    """
    path = file_of(folder, name)
    if not path.exists():
        return None
    try:
        record = json.loads(path.read_text())
        made = record["settings"]
        if record["name"] != name or not isinstance(made, dict):
            raise ValueError(f"a row named {record['name']!r}, of settings {made!r}")
        row = read(record)
    except (ValueError, TypeError, KeyError, AttributeError, RuntimeError) as error:
        raise ValueError(f"{path}: damaged ({error}), expected a row of a study") from error
    other = [key for key, value in settings.items() if made.get(key) != value]
    if other:
        got, asked = (", ".join(f"{k}={s.get(k)!r}" for k in other) for s in (made, settings))
        raise ValueError(
            f"{path}: was made with {got}, expected {asked}: remove it, or name another folder"
        )
    return row


def kept(folder: Path, name: str, settings: Mapping[str, Any]) -> Result | None:
    """The :class:`Result` of an earlier run, or None; raises as :func:`kept_record` does."""
    return kept_record(folder, name, settings, _result)


def _result(record: dict[str, Any]) -> Result:
    for key in ("mean", "stderr", "mc_error", "elbo", "kl", "median_ess", "seconds"):
        record[key] = math.nan if record[key] is None else float(record[key])
    record["values"] = torch.tensor(record["values"], dtype=torch.float64)
    record["shape"] = tuple(record["shape"])
    if record["samples"] is not None:
        record["samples"] = torch.tensor(record["samples"], dtype=torch.uint8)
    return Result(**record)


def settings_of(
    train: Tensor,
    test: Tensor,
    *,
    pixels: Pixels,
    epochs: int,
    num_samples: int,
    plain_epochs: int = 0,
    draws: int = 0,
    seed: int = 0,
) -> dict[str, Any]:
    """What a row depends on, beside the VAE and this code.

    Arguments:
        train, test: uint8 levels of shape ``(N, *x_shape)``.
        pixels: What they become.
        epochs: Passes over the training data.
        num_samples: Importance samples for each test example.
        plain_epochs: How many of the epochs have a standard normal prior, at first.
        draws: How many draws of the trained prior to decode.
        seed: Of weights, training, test pixels and importance samples.
    """
    check_count("epochs", epochs)
    check_count("num_samples", num_samples)
    if not 0 <= plain_epochs < epochs:
        raise ValueError(
            f"plain_epochs: got {plain_epochs}, expected a number from 0 to {epochs - 1}, below "
            f"that of all epochs, {epochs}"
        )
    return {
        "train": data_hash(train),
        "test": data_hash(test),
        "pixels": pixels,
        "epochs": epochs,
        "num_samples": num_samples,
        "plain_epochs": plain_epochs,
        "draws": draws,
        "seed": seed,
    }


def run(
    name: str, make: Callable[[], VAE], train: Tensor, test: Tensor, settings: Mapping[str, Any]
) -> Result:
    """Trains a VAE on uint8 levels by ``fit``'s defaults, and judges it on the test set.

    A prior that learns can follow posteriors that do not look at x yet, and then nothing makes
    them look: from random weights a VampPrior on MNIST stays where all posteriors are alike. So
    the first epochs may have a standard normal in its place, as papers warm up the KL.

    Arguments:
        name: Its parts.
        make: Makes the VAE.
        train, test: uint8 levels of shape ``(N, *x_shape)``.
        settings: Of :func:`settings_of`.
    """
    pixels, seed = settings["pixels"], settings["seed"]
    plain_epochs = settings["plain_epochs"]
    with seeded(seed):
        vae = make()
    seconds = 0.0
    if plain_epochs:
        plain = VAE(StandardNormal(Z_DIM), vae.likelihood, vae.posterior)
        seconds += sum(fit(plain, train, epochs=plain_epochs, pixels=pixels, seed=seed).seconds)
    epochs = settings["epochs"] - plain_epochs
    seconds += sum(fit(vae, train, epochs=epochs, pixels=pixels, seed=seed + 1).seconds)
    return judged(name, vae, test, settings, seconds)


def judged(
    name: str,
    vae: VAE,
    test: Tensor,
    settings: Mapping[str, Any],
    seconds: float,
    curve: Sequence[Sequence[float]] = (),
) -> Result:
    """What a trained VAE is worth on the test set's uint8 levels.

    Arguments:
        name: Its parts.
        vae: The VAE.
        test: uint8 levels of shape ``(N, *x_shape)``.
        settings: Of :func:`settings_of`.
        seconds: Of its training.
        curve: What was found on the way.
    """
    pixels, seed, draws = settings["pixels"], settings["seed"], settings["draws"]
    with seeded(seed):
        x = datasets.to_pixels(test, pixels)
    ll = estimated(vae, x, settings["num_samples"], seed=seed)
    with seeded(seed):
        samples = vae.generate(draws) if draws else None
    if samples is not None:
        levels = samples if pixels == "levels" else samples * 255
        samples = levels.round().clamp(0, 255).to(torch.uint8)
    return Result(
        name=name,
        settings=dict(settings),
        values=ll.values,
        mean=ll.mean,
        stderr=ll.stderr,
        mc_error=ll.mc_error,
        elbo=ll.elbo.mean().item(),
        kl=elbo(vae, x, 10, seed=seed).kl_mean,
        median_ess=ll.ess.median().item(),
        parameters=sum(p.numel() for p in vae.parameters() if p.requires_grad),
        seconds=seconds,
        threads=torch.get_num_threads(),
        shape=tuple(test.shape[1:]),
        samples=samples,
        curve=curve,
    )
