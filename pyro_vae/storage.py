"""Runs: a folder with a VAE's configuration, its weights, its history and its figures.

| file                | what                                                           |
|---------------------|----------------------------------------------------------------|
| `config.json`       | all that repeats the run: preset, training settings, versions  |
| `model.safetensors` | weights and buffers, without pickle                            |
| `metrics.csv`       | the history, a row an epoch                                    |
| `evaluation.json`   | the last evaluation, of the weights whose hash it has          |
| `figures/*.png`     | pictures                                                       |
"""

import hashlib
import json
import os
import platform
from collections.abc import Mapping
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

import numpy
import pyro
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_model

from pyro_vae import presets
from pyro_vae.utils.random import seeded
from pyro_vae.vae import VAE, check_vae
from pyro_vae.version import __version__

CONFIG, WEIGHTS, METRICS, FIGURES = "config.json", "model.safetensors", "metrics.csv", "figures"
_FORMAT = 1


def save(
    vae: VAE,
    folder: str | Path,
    *,
    training: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> None:
    """Writes a VAE into a folder, as `config.json` and `model.safetensors`.

    Each file is replaced whole, so that a failure leaves the former one.

    Arguments:
        vae: The VAE. One from ``presets.build`` can be loaded by its folder alone.
        folder: Made where it is missing.
        training: What else a repetition of the run needs to know; goes into `config.json`.
        overwrite: Replaces the run that is there.

    Raises:
        FileExistsError: The folder holds a run, and `overwrite` is False.
    """
    folder = Path(folder)
    if not overwrite:
        check_free(folder, ", or overwrite=True")
    config = {
        "format": _FORMAT,
        "name": vae.name,
        "preset": vae.preset if _is_as_built(vae) else None,
        "structure": _structure(vae),
        "training": None if training is None else dict(training),
        "versions": _versions(),
    }
    text = json.dumps(config, indent=2) + "\n"
    folder.mkdir(parents=True, exist_ok=True)
    new = {name: folder / (name + ".new") for name in (WEIGHTS, CONFIG)}
    save_model(vae, str(new[WEIGHTS]))
    new[CONFIG].write_text(text)
    for name, path in new.items():
        os.replace(path, folder / name)


def load(folder: str | Path, into: VAE | None = None) -> VAE:
    """Reads a VAE back, bit for bit.

    Arguments:
        folder: What :func:`save` wrote.
        into: The VAE that takes the weights, of the same structure; needed where it was not made
            by ``presets.build``, or was changed since.

    Returns:
        `into`, or a VAE built anew on the CPU.

    Raises:
        FileNotFoundError: The folder holds no run.
        ValueError: The configuration or the weights are damaged or of another model; `into` is
            missing. `into` is then as it was.
    """
    folder = Path(folder)
    config = read_config(folder)
    if into is None:
        if config["preset"] is None:
            raise ValueError(
                "into: got None, expected the VAE that takes the weights: the one saved in "
                f"{folder} is not as presets.build makes it, so it cannot be rebuilt from there"
            )
        try:
            with seeded(0):
                into = presets.build(**config["preset"])
            into.name = config["name"]
        except (TypeError, KeyError, ValueError) as error:
            raise ValueError(f"{folder / CONFIG}: damaged preset ({error})") from error
    elif _same_torch(config["versions"]) and config["structure"] != _structure(into):
        # Another torch may print the same modules otherwise; then names and shapes must do.
        raise ValueError(
            f"into: {_first_difference(_structure(into), config['structure'])} in what is saved "
            f"in {folder}, expected the same structure"
        )
    path = folder / WEIGHTS
    if not path.exists():
        raise FileNotFoundError(f"{folder}: holds no {WEIGHTS}")
    try:
        saved = load_file(path)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path}: damaged, or no safetensors file ({error})") from error
    into.load_state_dict(_whole_state(path, saved, into))
    return into


def read_config(folder: str | Path) -> dict[str, Any]:
    """The configuration of a run.

    Raises:
        FileNotFoundError: The folder holds no run.
        ValueError: The configuration is damaged or of another format.
    """
    path = Path(folder) / CONFIG
    if not path.exists():
        raise FileNotFoundError(f"{folder}: holds no run (no {CONFIG})")
    try:
        config = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path}: damaged ({error})") from error
    entries = {"format", "preset", "structure", "versions"}
    if not isinstance(config, dict) or not entries <= set(config) or config["format"] != _FORMAT:
        raise ValueError(f"{path}: not a configuration of format {_FORMAT}")
    return config


def weights_hash(folder: str | Path) -> str:
    """First 16 hexadecimal digits of the SHA-256 of the file of a run's weights."""
    return hashlib.sha256((Path(folder) / WEIGHTS).read_bytes()).hexdigest()[:16]


def check_free(folder: str | Path, hint: str = "") -> None:
    """Raises FileExistsError if a folder holds a run, NotADirectoryError if it is a file.

    `hint` ends the former's message.
    """
    if Path(folder).exists() and not Path(folder).is_dir():
        raise NotADirectoryError(f"{folder}: is a file, expected a new or an empty folder")
    for name in (CONFIG, WEIGHTS, METRICS):
        if (Path(folder) / name).exists():
            raise FileExistsError(
                f"{folder}: holds another run ({name}), expected a new or an empty folder{hint}"
            )


def _is_as_built(vae: VAE) -> bool:
    if vae.preset is None:
        return False
    with torch.device("meta"):
        built = presets.build(**vae.preset)
    same_types = [p.dtype for p in built.parameters()] == [p.dtype for p in vae.parameters()]
    return same_types and _structure(built) == _structure(vae)


def _same_torch(versions: Any) -> bool:
    return isinstance(versions, dict) and versions.get("torch") == _versions()["torch"]


def _first_difference(own: str, saved: str) -> str:
    """Where two printed structures part, by their lines."""
    a, b = own.splitlines(), saved.splitlines()
    operations = SequenceMatcher(None, a, b, autojunk=False).get_opcodes()
    _, *ends = next(operation for operation in operations if operation[0] != "equal")
    got, expected = (
        " ".join(" ".join(lines).split()) or "nothing"
        for lines in (a[ends[0] : ends[1]], b[ends[2] : ends[3]])
    )
    return f"got {got} where there is {expected}"


def _whole_state(path: Path, saved: dict[str, torch.Tensor], vae: VAE) -> dict[str, torch.Tensor]:
    """What was saved under each name of the VAE's state; raises ValueError unless all fits.

    Of tensors that share memory (a VampPrior's and its posterior's) only one name is saved.
    """
    own = vae.state_dict()
    shared = {own[name].data_ptr(): tensor for name, tensor in saved.items() if name in own}
    problems = [f"unknown tensor {name}" for name in saved if name not in own]
    state = {}
    for name, tensor in own.items():
        found = saved.get(name, shared.get(tensor.data_ptr()))
        if found is None:
            problems.append(f"no tensor {name}")
        elif (found.shape, found.dtype) != (tensor.shape, tensor.dtype):
            problems.append(
                f"{name} is {found.dtype} {tuple(found.shape)}, expected "
                f"{tensor.dtype} {tuple(tensor.shape)}"
            )
        else:
            state[name] = found
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise ValueError(f"{path}: weights of another model: {'; '.join(problems[:3])}{more}")
    return state


def _versions() -> dict[str, str]:
    return {
        "python": platform.python_version(),
        "pyro_vae": __version__,
        "pyro-ppl": pyro.__version__,
        "torch": str(torch.__version__),
        "numpy": numpy.__version__,
    }


def _structure(vae: VAE) -> str:
    """What the three parts are made of, whatever the name and whichever parameters are trained."""
    return "\n".join(repr(part) for part in (vae.prior, vae.likelihood, vae.posterior))
