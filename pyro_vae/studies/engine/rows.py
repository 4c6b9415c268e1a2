"""The rows of a study: each is kept in a JSON file when it is done, and not run again.

The file has a checksum. Rows of before there were checksums are read without one.
"""

import json
import re
import shutil
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

from pyro_vae.utils.files import writable
from pyro_vae.utils.sealed import DamagedRun, sealed_config, unsealed_config, write_files

R = TypeVar("R", bound="Row")


@dataclass(frozen=True)
class Row(ABC):
    """One experiment of a study.

    Attributes:
        name: The name of the row, unique in its study.
        settings: Everything that the row depends on but the code.
    """

    name: str
    settings: dict[str, Any]

    @property
    @abstractmethod
    def outcome(self) -> str:
        """The result in a few words, for the terminal."""

    @abstractmethod
    def record(self) -> dict[str, Any]:
        """Returns what is kept, ready for :func:`~pyro_vae.utils.files.writable`."""

    @classmethod
    @abstractmethod
    def read(cls, record: dict[str, Any]) -> Self:
        """Makes the row from what was kept.

        Raises:
            TypeError, KeyError, ValueError: The record is not one of such a row.
        """


def file_of(folder: Path, name: str) -> Path:
    """Returns the file of a row: ``gaussianmixture-50.json`` for ``GaussianMixture(50)``."""
    return folder / f"{'-'.join(re.findall('[a-z0-9]+', name.lower()))}.json"


def runs_of(folder: Path, name: str) -> Path:
    """Returns the folder of what a row consists of, until the row itself is kept."""
    return folder / "runs" / file_of(folder, name).stem


def keep(folder: Path, row: Row) -> None:
    """Writes a row to :func:`file_of`: aside, flushed to the disk and renamed.

    What it consists of is removed from :func:`runs_of`.
    """
    content = sealed_config(writable(row.record()), indent=None)
    write_files(folder, {file_of(folder, row.name).name: content})
    runs = runs_of(folder, row.name)
    if runs.is_dir():
        shutil.rmtree(runs)
        with suppress(OSError):  # those of another row are there
            runs.parent.rmdir()


def kept(folder: Path, name: str, settings: Mapping[str, Any], kind: type[R]) -> R | None:
    """Returns the row of an earlier run, or None if there is none.

    Arguments:
        folder: Where the rows of the study are kept.
        name: The name of the row.
        settings: What the row must have been made with; keys that are left out may differ.
        kind: The class of the row.

    Raises:
        ValueError: The file is damaged, or the row was made with other settings. The message
            names the file.
    """
    path = file_of(folder, name)
    if not path.exists():
        return None
    try:
        record = json.loads(path.read_bytes())
        if "sha256" in record:
            record = unsealed_config(path)
        made = record["settings"]
        if record["name"] != name or not isinstance(made, dict):
            raise ValueError(f"a row named {record['name']!r} with settings {made!r}")
        row = kind.read(record)
    except DamagedRun:
        raise
    except (ValueError, TypeError, KeyError, AttributeError, RuntimeError, OSError) as error:
        raise DamagedRun(f"{path}: damaged ({error}), expected a row of a study") from error
    other = [key for key, value in settings.items() if made.get(key) != value]
    if other:
        got, asked = (", ".join(f"{k}={s.get(k)!r}" for k in other) for s in (made, settings))
        raise ValueError(
            f"{path}: was made with {got}, expected {asked}; remove the file, or choose another "
            "folder"
        )
    return row
