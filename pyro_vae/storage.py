"""Runs: a folder with a pair's configuration, its parameters, its history and its figures.

* `config.json`: what repeats the run: preset, training settings, versions
* `model.safetensors`: parameters and buffers, without pickle
* `metrics.csv`: the history, one row an epoch
* `evaluations/*.json`: evaluations, each with a hash of the parameters that it belongs to
* `figures/*`: pictures
"""

import hashlib
import platform
from collections.abc import Mapping
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any, TypeVar, overload

import numpy
import pyro
import torch

from pyro_vae import presets
from pyro_vae.pair import Pair, check_pair
from pyro_vae.utils.checks import check_flag, check_mapping, check_path
from pyro_vae.utils.files import writable
from pyro_vae.utils.random import seeded
from pyro_vae.utils.sealed import (
    DamagedRun,
    place_of,
    sealed_config,
    sealed_tensors,
    unsealed_config,
    unsealed_tensors,
    write_files,
)
from pyro_vae.utils.turns import one_at_a_time
from pyro_vae.vae import VAE
from pyro_vae.version import __version__

__all__ = [
    "CONFIG",
    "EVALUATIONS",
    "FIGURES",
    "METRICS",
    "WEIGHTS",
    "DamagedRun",
    "add_evaluation",
    "check_free",
    "check_savable",
    "evaluations",
    "load",
    "read_config",
    "save",
    "weights_hash",
]


def __dir__() -> list[str]:
    return __all__


CONFIG, WEIGHTS, METRICS = "config.json", "model.safetensors", "metrics.csv"
EVALUATIONS, FIGURES = "evaluations", "figures"
_FORMAT = 2

Kind = TypeVar("Kind", bound=Pair)


@one_at_a_time
def save(
    vae: Pair,
    folder: str | Path,
    *,
    training: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> None:
    """Saves a VAE or another pair in a folder, as ``config.json`` and ``model.safetensors``.

    Each file has a checksum of its content. It is written under another name, flushed to the disk
    and renamed, so a failure keeps the old one. Tensors that are one are written once; views of
    others, as in a tied decoder, are written by themselves.

    Arguments:
        vae: The pair. One from ``presets.build`` can be loaded without ``into=``.
        folder: The folder; it is created if it does not exist.
        training: Further settings for ``config.json``, which a repetition of the run needs.
        overwrite: Replaces a run in the folder.

    Raises:
        TypeError: An argument has the wrong type, or see :func:`check_savable`.
        FileExistsError: The folder holds a run, and `overwrite` is False.
        NotADirectoryError: `folder` is a file.

    Example:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> vae = presets.build("bernoulli-mlp", z_dim=2, shape=(28, 28))
        >>> with TemporaryDirectory() as folder:
        ...     save(vae, folder)
        ...     print(sorted(path.name for path in Path(folder).iterdir()))
        ['config.json', 'model.safetensors']
    """
    check_pair(vae)
    check_path("folder", folder)
    check_flag("overwrite", overwrite)
    folder = Path(folder)
    check_folder(folder)
    if not overwrite:
        check_free(folder, ", or overwrite=True")
    write_files(folder, _files(vae, training))


def check_savable(vae: Pair, training: Mapping[str, Any] | None = None) -> None:
    """Raises the error that :func:`save` would, for use before a long training.

    Arguments:
        vae: The pair.
        training: Further settings for ``config.json``.

    Raises:
        TypeError: `vae` is not a pair, its state has entries that are no dense tensors, or
            `training` has values that JSON has not.

    Example:
        >>> from pyro_vae.storage import check_savable
        >>> vae = presets.build("bernoulli-mlp", z_dim=2, shape=(28, 28))
        >>> check_savable(vae, {"epochs": 3})
        >>> check_savable(vae, {"epochs": {3}})
        Traceback (most recent call last):
        TypeError: training: got a set ({3}), expected values of JSON
    """
    check_pair(vae)
    _files(vae, training)


def _files(vae: Pair, training: Mapping[str, Any] | None) -> dict[str, bytes]:
    """The content of the files of a run, the weights first."""
    if training is not None:
        check_mapping("training", training, empty=True)
    config = {
        "format": _FORMAT,
        "name": vae.name,
        "preset": vae.preset if _is_as_built(vae) else None,
        "structure": _structure(vae),
        "training": None if training is None else dict(training),
        "versions": _versions(),
    }
    try:
        sealed = sealed_config(config)
    except TypeError as error:
        raise TypeError(f"training: {error}") from error
    return {WEIGHTS: sealed_tensors(vae.state_dict()), CONFIG: sealed}


@overload
def load(folder: str | Path, into: None = None) -> Any: ...
@overload
def load(folder: str | Path, into: Kind) -> Kind: ...
@one_at_a_time
def load(folder: str | Path, into: Pair | None = None) -> Pair:
    """Loads a VAE or another pair that :func:`save` wrote, bit for bit.

    Arguments:
        folder: The folder that was given to :func:`save`.
        into: A pair of the same structure, which receives the parameters and buffers. It is
            required unless ``presets.build`` made the saved VAE and its structure has not been
            changed since. Parameters of ``pyro.param`` that it has not made yet are made from the
            file. An autoguide needs :meth:`Pair.setup` first.

    Returns:
        `into`, or a new VAE or other pair of a preset, on the CPU.

    Raises:
        TypeError: `into` is not a pair, or `folder` not a path.
        FileNotFoundError: The folder holds no run.
        DamagedRun: A file is damaged, or was edited. It is a ValueError that names the file.
        ValueError: The parameters are those of another model than `into`, or `into` is missing.
            `into` is unchanged then.

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
    check_path("folder", folder)
    folder = Path(folder)
    config = read_config(folder)
    path = folder / WEIGHTS
    if into is None and config["preset"] is None:
        raise ValueError(
            "into: got None, expected the pair that receives the parameters: the one saved in "
            f"{folder} is not one of presets.build, so its structure cannot be rebuilt"
        )
    # Another torch may print the same modules differently, so its print is not compared; the names
    # and shapes of the tensors are, below.
    own = None if into is None or not _same_torch(config["versions"]) else _structure(into)
    if own is not None and own != config["structure"]:
        raise ValueError(
            f"into: {_first_difference(own, config['structure'])} in the pair saved in {folder}, "
            "expected the same structure"
        )
    if not path.exists():
        raise FileNotFoundError(f"{folder}: holds no {WEIGHTS}, expected a folder from save")
    saved = unsealed_tensors(path)
    if into is None:
        # The tensors bound what is built: a number in the configuration may be of any size.
        with torch.device("meta"):
            planned = _built(folder, config)
        try:
            _whole_state(path, saved, planned)
        except ValueError as error:
            raise DamagedRun(str(error)) from error
        with seeded(0):
            into = _built(folder, config)
    into.load_state_dict(_whole_state(path, saved, into))
    return into


def _built(folder: Path, config: Mapping[str, Any]) -> Pair:
    """The VAE of a configuration, with new parameters."""
    try:
        vae: Pair = presets.build(**config["preset"])
        vae.name = config["name"]
    except (TypeError, KeyError, ValueError, RuntimeError, OverflowError) as error:
        reason = str(error).splitlines()[0]
        path = folder / CONFIG
        raise DamagedRun(f"{path}: damaged preset ({reason}), expected that of save") from error
    return vae


def read_config(folder: str | Path) -> dict[str, Any]:
    """Reads the configuration of a run.

    Arguments:
        folder: The folder that was given to :func:`save`.

    Returns:
        The content of ``config.json``.

    Raises:
        FileNotFoundError: The folder holds no run.
        DamagedRun: The configuration is damaged, was edited, or has another format.
    """
    path = Path(folder) / CONFIG
    if not path.exists():
        raise FileNotFoundError(f"{folder}: holds no run (no {CONFIG}), expected one from save")
    config = unsealed_config(path)
    entries = {"format", "name", "preset", "structure", "training", "versions"}
    if set(config) != entries or config["format"] != _FORMAT:
        raise DamagedRun(f"{path}: not a configuration of format {_FORMAT}, expected one")
    return config


def add_evaluation(folder: str | Path, record: Mapping[str, Any]) -> Path:
    """Adds an evaluation to a run, beside those that it has; returns its file.

    Arguments:
        folder: The folder of the run.
        record: Values of JSON. NaN becomes null, and infinities ``"inf"`` and ``"-inf"``.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from pyro_vae.storage import add_evaluation, evaluations
        >>> with TemporaryDirectory() as folder:
        ...     for mean in (-150.2, -149.8):
        ...         path = add_evaluation(folder, {"mean": mean})
        ...     print(path.name, [record["mean"] for record in evaluations(folder)])
        2.json [-150.2, -149.8]
    """
    files = _evaluation_files(folder)
    name = f"{max(files, default=0) + 1}.json"
    write_files(Path(folder) / EVALUATIONS, {name: sealed_config(writable(record))})
    return Path(folder) / EVALUATIONS / name


def evaluations(folder: str | Path) -> list[dict[str, Any]]:
    """The evaluations of a run, in their order.

    Arguments:
        folder: The folder of the run.

    Raises:
        DamagedRun: An evaluation is damaged, or was edited.
    """
    return [unsealed_config(path) for _, path in sorted(_evaluation_files(folder).items())]


def _evaluation_files(folder: str | Path) -> dict[int, Path]:
    paths = (Path(folder) / EVALUATIONS).glob("*.json")
    return {int(path.stem): path for path in paths if path.stem.isdecimal()}


def weights_hash(folder: str | Path) -> str:
    """The first 16 hexadecimal digits of the SHA-256 of a run's ``model.safetensors``."""
    return hashlib.sha256((Path(folder) / WEIGHTS).read_bytes()).hexdigest()[:16]


def check_free(folder: str | Path, hint: str = "") -> None:
    """Raises FileExistsError if a folder holds a run, NotADirectoryError if it is a file.

    Arguments:
        folder: The folder, which need not exist.
        hint: The end of the FileExistsError's message.
    """
    check_folder(folder)
    for name in (CONFIG, WEIGHTS, METRICS):
        if (Path(folder) / name).exists():
            raise FileExistsError(
                f"{folder}: holds another run ({name}), expected a new or an empty folder{hint}"
            )


def check_folder(folder: str | Path) -> None:
    """Raises NotADirectoryError if a file is where a folder is to be."""
    if Path(folder).exists() and not Path(folder).is_dir():
        raise NotADirectoryError(f"{folder}: is a file, expected a new or an empty folder")


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
    shared = {place_of(own[name]): tensor for name, tensor in saved.items() if name in own}
    made = {name for name in saved if name not in own and _is_made_later(name, vae)}
    problems = [f"unknown tensor {name}" for name in saved if name not in own and name not in made]
    state = {name: saved[name] for name in made}
    for name, tensor in own.items():
        found = saved.get(name, None if tensor.is_meta else shared.get(place_of(tensor)))
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
        what = f"{'; '.join(problems[:3])}{more}; expected the tensors of the pair"
        raise ValueError(f"{path}: parameters of another model: {what}")
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
