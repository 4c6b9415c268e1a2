"""Runs: a folder with a pair's configuration, its parameters, its history and its figures.

| file                | content                                                               |
|---------------------|-----------------------------------------------------------------------|
| `config.json`       | what repeats the run: preset, training settings, versions             |
| `model.safetensors` | parameters and buffers, without pickle                                |
| `metrics.csv`       | the history, one row an epoch                                         |
| `evaluation.json`   | the last evaluation, with a hash of the parameters that it belongs to |
| `figures/*.png`     | pictures                                                              |
"""

import hashlib
import json
import os
import platform
from collections.abc import Mapping
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any, TypeVar, overload

import numpy
import pyro
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_model

from pyro_vae import presets
from pyro_vae.pair import Pair, check_pair
from pyro_vae.utils.random import seeded
from pyro_vae.vae import VAE
from pyro_vae.version import __version__

__all__ = [
    "CONFIG",
    "FIGURES",
    "METRICS",
    "WEIGHTS",
    "check_free",
    "load",
    "read_config",
    "save",
    "weights_hash",
]


def __dir__() -> list[str]:
    return __all__


CONFIG, WEIGHTS, METRICS, FIGURES = "config.json", "model.safetensors", "metrics.csv", "figures"
_FORMAT = 1

Kind = TypeVar("Kind", bound=Pair)


def save(
    vae: Pair,
    folder: str | Path,
    *,
    training: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> None:
    """Saves a VAE or another pair in a folder, as ``config.json`` and ``model.safetensors``.

    Each file is written under another name and then renamed, so a failure keeps the old one.

    Arguments:
        vae: The pair. One from ``presets.build`` can be loaded without ``into=``.
        folder: The folder; it is created if it does not exist.
        training: Further settings for ``config.json``, which a repetition of the run needs.
        overwrite: Replaces a run in the folder.

    Raises:
        TypeError: `vae` is not a pair.
        FileExistsError: The folder holds a run, and `overwrite` is False.
        NotADirectoryError: `folder` is a file.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> vae = presets.build("bernoulli-mlp", z_dim=2, shape=(28, 28))
        >>> with TemporaryDirectory() as folder:
        ...     save(vae, folder)
        ...     print(sorted(os.listdir(folder)))
        ['config.json', 'model.safetensors']
    """
    check_pair(vae)
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


@overload
def load(folder: str | Path, into: None = None) -> VAE: ...
@overload
def load(folder: str | Path, into: Kind) -> Kind: ...
def load(folder: str | Path, into: Pair | None = None) -> Pair:
    """Loads a VAE or another pair that :func:`save` wrote, bit for bit.

    Arguments:
        folder: The folder that was given to :func:`save`.
        into: A pair of the same structure, which receives the parameters and buffers. It is
            required unless ``presets.build`` made the saved VAE and its structure has not been
            changed since. Parameters of ``pyro.param`` that it has not made yet are made from the
            file. An autoguide needs :meth:`Pair.setup` first.

    Returns:
        `into`, or a new VAE on the CPU.

    Raises:
        TypeError: `into` is not a pair.
        FileNotFoundError: The folder holds no run.
        ValueError: The configuration or the parameters are damaged or of another model, or `into`
            is missing. `into` is unchanged then.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> vae = presets.build("bernoulli-mlp", z_dim=2, shape=(28, 28))
        >>> with TemporaryDirectory() as folder:
        ...     save(vae, folder)
        ...     loaded = load(folder)
        >>> torch.equal(loaded.embed(torch.zeros(28, 28)), vae.embed(torch.zeros(28, 28)))
        True
    """
    if into is not None:
        check_pair(into, "into")
    folder = Path(folder)
    config = read_config(folder)
    if into is None:
        if config["preset"] is None:
            raise ValueError(
                "into: got None, expected the pair that receives the parameters: the one saved in "
                f"{folder} is not one of presets.build, so its structure cannot be rebuilt"
            )
        try:
            with seeded(0):
                into = presets.build(**config["preset"])
            into.name = config["name"]
        except (TypeError, KeyError, ValueError) as error:
            raise ValueError(f"{folder / CONFIG}: damaged preset ({error})") from error
    elif _same_torch(config["versions"]) and config["structure"] != _structure(into):
        # Another torch may print the same modules differently, so its print is not compared;
        # the names and shapes of the tensors are, below.
        raise ValueError(
            f"into: {_first_difference(_structure(into), config['structure'])} in the pair saved "
            f"in {folder}, expected the same structure"
        )
    path = folder / WEIGHTS
    if not path.exists():
        raise FileNotFoundError(f"{folder}: holds no {WEIGHTS}, expected a folder from save")
    try:
        saved = load_file(path)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path}: damaged, expected a safetensors file ({error})") from error
    into.load_state_dict(_whole_state(path, saved, into))
    return into


def read_config(folder: str | Path) -> dict[str, Any]:
    """Reads the configuration of a run.

    Arguments:
        folder: The folder that was given to :func:`save`.

    Returns:
        The content of ``config.json``.

    Raises:
        FileNotFoundError: The folder holds no run.
        ValueError: The configuration is damaged or of another format.
    """
    path = Path(folder) / CONFIG
    if not path.exists():
        raise FileNotFoundError(f"{folder}: holds no run (no {CONFIG}), expected one from save")
    try:
        config = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path}: damaged, expected JSON ({error})") from error
    entries = {"format", "preset", "structure", "versions"}
    if not isinstance(config, dict) or not entries <= set(config) or config["format"] != _FORMAT:
        raise ValueError(f"{path}: not a configuration of format {_FORMAT}, expected one")
    return config


def weights_hash(folder: str | Path) -> str:
    """The first 16 hexadecimal digits of the SHA-256 of a run's ``model.safetensors``."""
    return hashlib.sha256((Path(folder) / WEIGHTS).read_bytes()).hexdigest()[:16]


def check_free(folder: str | Path, hint: str = "") -> None:
    """Raises FileExistsError if a folder holds a run, NotADirectoryError if it is a file.

    Arguments:
        folder: The folder, which need not exist.
        hint: The end of the FileExistsError's message.
    """
    if Path(folder).exists() and not Path(folder).is_dir():
        raise NotADirectoryError(f"{folder}: is a file, expected a new or an empty folder")
    for name in (CONFIG, WEIGHTS, METRICS):
        if (Path(folder) / name).exists():
            raise FileExistsError(
                f"{folder}: holds another run ({name}), expected a new or an empty folder{hint}"
            )


def _is_as_built(vae: Pair) -> bool:
    if vae.preset is None:
        return False
    with torch.device("meta"):
        built = presets.build(**vae.preset)
    same_types = [p.dtype for p in built.parameters()] == [p.dtype for p in vae.parameters()]
    return same_types and _structure(built) == _structure(vae)


def _same_torch(versions: Any) -> bool:
    return isinstance(versions, dict) and versions.get("torch") == _versions()["torch"]


def _first_difference(own: str, saved: str) -> str:
    """Describes the first difference between two printed structures."""
    a, b = own.splitlines(), saved.splitlines()
    operations = SequenceMatcher(None, a, b, autojunk=False).get_opcodes()
    _, *ends = next(operation for operation in operations if operation[0] != "equal")
    got, expected = (
        " ".join(" ".join(lines).split()) or "nothing"
        for lines in (a[ends[0] : ends[1]], b[ends[2] : ends[3]])
    )
    return f"got {got} where there is {expected}"


def _whole_state(path: Path, saved: dict[str, torch.Tensor], vae: Pair) -> dict[str, torch.Tensor]:
    """The saved tensor for each name of the pair's state; raises ValueError unless all fit.

    Tensors that share memory, such as those of a VampPrior and its posterior, are saved once.
    """
    own = vae.state_dict()
    shared = {own[name].data_ptr(): tensor for name, tensor in saved.items() if name in own}
    made = {name for name in saved if name not in own and _is_made_later(name, vae)}
    problems = [f"unknown tensor {name}" for name in saved if name not in own and name not in made]
    state = {name: saved[name] for name in made}
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
        raise ValueError(f"{path}: parameters of another model: {'; '.join(problems[:3])}{more}")
    return state


def _is_made_later(name: str, pair: Pair) -> bool:
    """Whether a tensor is one of ``pyro.param``, which a pair may not have made yet."""
    return not isinstance(pair, VAE) and name.startswith("params.") and not pair.params.is_whole


def _versions() -> dict[str, str]:
    return {
        "python": platform.python_version(),
        "pyro_vae": __version__,
        "pyro-ppl": pyro.__version__,
        "torch": torch.__version__.split("+")[0],
        "numpy": numpy.__version__,
    }


def _structure(pair: Pair) -> str:
    """The print of the modules, which shows neither the name nor which parameters train."""
    return "\n".join(
        f"({name}): {module!r}" if not isinstance(pair, VAE) else repr(module)
        for name, module in pair.named_children()
        if isinstance(pair, VAE) or name != "params"
    )
