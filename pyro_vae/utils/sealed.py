"""Files with a checksum of their content, which are written whole or not at all."""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as packed
from torch import Tensor

from pyro_vae.utils.checks import kind

__all__ = [
    "DamagedRun",
    "place_of",
    "sealed_config",
    "sealed_state",
    "sealed_tensors",
    "unsealed_config",
    "unsealed_state",
    "unsealed_tensors",
    "write_files",
]

_CHECKSUM, _STATE = "sha256", "state"


class DamagedRun(ValueError):
    """A file of a run is damaged, or is not what the package has written. The message names it."""


# JSON.


def sealed_config(config: Mapping[str, Any], indent: int | None = 2) -> bytes:
    """A configuration as JSON with a checksum. NumPy's numbers are written as Python's.

    Arguments:
        config: The configuration.
        indent: The spaces of a level; None writes one line.

    Raises:
        TypeError: A value is not one of JSON.
    """
    plain = json.loads(json.dumps(dict(config), default=_plain))
    text = json.dumps({**plain, _CHECKSUM: _config_checksum(plain)}, indent=indent)
    return (text + "\n").encode()


def unsealed_config(path: Path) -> dict[str, Any]:
    """Reads what :func:`sealed_config` made, without its checksum.

    Raises:
        DamagedRun: The file is damaged or was edited.
    """
    _check_file(path)
    try:
        config = json.loads(path.read_bytes())
    except (ValueError, RecursionError, OSError) as error:
        raise DamagedRun(f"{path}: damaged, expected JSON ({_line(error)})") from error
    if not isinstance(config, dict) or _CHECKSUM not in config:
        raise DamagedRun(f"{path}: has no checksum, expected a file that this package has written")
    if config.pop(_CHECKSUM) != _config_checksum(config):
        raise DamagedRun(f"{path}: damaged, or edited by hand: its checksum differs")
    return config


def _config_checksum(config: Any) -> str:
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"got {kind(value)} ({value!r}), expected values of JSON")


# Tensors.


def sealed_tensors(state: Mapping[str, Any]) -> bytes:
    """The tensors of a state, as safetensors with a checksum. Those that are one are kept once.

    Raises:
        TypeError: An entry is no tensor, or is sparse or quantized.
    """
    tensors = _dense(state)
    return packed(tensors, {_CHECKSUM: _tensors_checksum(tensors)})


def sealed_state(config: Any, tensors: Mapping[str, Tensor]) -> bytes:
    """Values of JSON and tensors as one file, with one checksum.

    Raises:
        TypeError: A tensor is sparse or quantized.
    """
    text, tensors = json.dumps(config), _dense(tensors)
    checksum = _tensors_checksum(tensors, text)
    return packed(tensors, {_STATE: text, _CHECKSUM: checksum})


def _dense(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors of a state on the CPU, without those that are one with another."""
    tensors: dict[str, Tensor] = {}
    seen: set[tuple[object, ...]] = set()
    for name, tensor in state.items():
        if not isinstance(tensor, Tensor) or tensor.layout != torch.strided or tensor.is_quantized:
            raise TypeError(f"{name}: got {_described(tensor)}, expected a dense tensor")
        place = place_of(tensor)
        if tensor.numel() and place in seen:
            continue
        seen.add(place)
        # Views of other tensors, as in a tied decoder, get memory of their own.
        tensors[name] = tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
    return tensors


def unsealed_tensors(path: Path) -> dict[str, Tensor]:
    """Reads what :func:`sealed_tensors` made.

    Raises:
        DamagedRun: The file is damaged or has no checksum.
    """
    return _read_tensors(path)[1]


def unsealed_state(path: Path) -> tuple[Any, dict[str, Tensor]]:
    """Reads what :func:`sealed_state` made.

    Raises:
        DamagedRun: The file is damaged or has no checksum.
    """
    text, tensors = _read_tensors(path)
    if text is None:
        raise DamagedRun(f"{path}: holds no state, expected a checkpoint")
    return json.loads(text), tensors


def _read_tensors(path: Path) -> tuple[str | None, dict[str, Tensor]]:
    _check_file(path)
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, RuntimeError, TypeError) as error:
        raise DamagedRun(
            f"{path}: damaged, expected a safetensors file ({_line(error)})"
        ) from error
    checksum, text = metadata.get(_CHECKSUM), metadata.get(_STATE)
    if checksum is None:
        raise DamagedRun(f"{path}: has no checksum, expected a file that this package has written")
    if checksum != _tensors_checksum(tensors, text):
        raise DamagedRun(f"{path}: damaged: its checksum differs")
    return text, tensors


def place_of(tensor: Tensor) -> tuple[object, ...]:
    """What two tensors have in common if they are one."""
    return tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype, tensor.device


def _tensors_checksum(tensors: Mapping[str, Tensor], text: str | None = None) -> str:
    digest = hashlib.sha256((text or "").encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _described(value: object) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of layout {value.layout} and dtype {value.dtype}"
    return kind(value)


# Files.


def write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """Writes files into a folder, which is made if need be.

    Each is written aside, flushed to the disk, and renamed, in their order. So a failure leaves
    the former one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    new = {name: folder / (name + ".new") for name in files}
    for name, path in new.items():
        with path.open("wb") as file:
            file.write(files[name])
            file.flush()
            os.fsync(file.fileno())
    for name, path in new.items():
        os.replace(path, folder / name)
    if hasattr(os, "O_DIRECTORY"):  # elsewhere a folder cannot be flushed
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _check_file(path: Path) -> None:
    """Raises DamagedRun if there is something else in a file's place."""
    if not path.is_file():
        raise DamagedRun(f"{path}: is no file, expected one")


def _line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
