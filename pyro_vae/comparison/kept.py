"""Runs of a comparison on disk, from which an interrupted one goes on."""

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyro_vae.datasets import Pixels
from pyro_vae.evaluation import LogLikelihood, data_hash
from pyro_vae.gradients import Gradient
from pyro_vae.pair import Pair
from pyro_vae.training import History
from pyro_vae.training.checkpoints import difference
from pyro_vae.utils.context import Batch, as_batch
from pyro_vae.utils.modules import device_of
from pyro_vae.utils.packed import Tensors, pack, unpack
from pyro_vae.utils.sealed import DamagedRun, sealed_state, unsealed_state, write_files
from pyro_vae.version import __version__

__all__ = [
    "KEPT",
    "LIKELIHOOD_EPOCHS",
    "KeptRuns",
    "Key",
    "Run",
    "described_data",
    "described_pair",
]

KEPT = "*.safetensors"
"""The files of a folder of runs."""
LIKELIHOOD_EPOCHS = "likelihood_epochs"
"""The setting that runs of an earlier version lack."""

_FORMAT = "a run of a comparison, 1"

Key = tuple[str, int]
"""A run: the objective's name and the seed."""


@dataclass(frozen=True)
class Run:
    """What is kept of a run.

    Attributes:
        pair: What the pair was before the training, by :func:`described_pair`.
        history: The history.
        log_likelihood: The log-likelihood of the test set.
        pixels: The pixels of the x in the log-likelihood; None for float data.
        gradients: The gradients that were measured along the run, of all objectives by epoch,
            objective and part; empty unless the run is the comparison's first.
        peaks: The peak bytes of a step by objective; empty likewise.
        likelihoods: The mean log-likelihood of the test set by epoch, that of the end too.
    """

    pair: Sequence[str]
    history: History
    log_likelihood: LogLikelihood
    pixels: Pixels | None
    gradients: Mapping[int, Mapping[str, Mapping[str, Gradient]]]
    peaks: Mapping[str, int]
    likelihoods: Mapping[int, float]


class KeptRuns:
    """A folder of runs, a file each, which is written aside, flushed to the disk and renamed.

    Arguments:
        folder: The folder, which is made.
        settings: What decides the numbers of all runs, as values of JSON by argument. They are
            part of each file.
        names: The names of the objectives.

    Raises:
        NotADirectoryError: There is a file in the folder's place.
    """

    def __init__(
        self, folder: str | Path, settings: Mapping[str, Any], names: Sequence[str]
    ) -> None:
        self.folder = Path(folder)
        self.settings = settings
        self.names = list(names)
        if self.folder.exists() and not self.folder.is_dir():
            raise NotADirectoryError(
                f"keep: got {self.folder}, which is a file, expected a folder"
            )
        self.folder.mkdir(parents=True, exist_ok=True)

    def read(self) -> dict[Key, Run]:
        """Reads all runs.

        Raises:
            DamagedRun: A file is damaged.
            ValueError: A run was made with other settings.
        """
        return dict(self._read(path) for path in sorted(self.folder.glob(KEPT)))

    def write(self, name: str, seed: int, run: Run) -> None:
        """Writes a run.

        Raises:
            OSError: It cannot be written; the message names the file.
        """
        tensors = Tensors()
        likelihood = {f.name: getattr(run.log_likelihood, f.name) for f in fields(LogLikelihood)}
        gradients = {
            epoch: {objective: _each(by_part, asdict) for objective, by_part in by_name.items()}
            for epoch, by_name in run.gradients.items()
        }
        config = {
            "format": _FORMAT,
            "versions": {"pyro_vae": __version__, "torch": torch.__version__},
            "name": name,
            "seed": int(seed),
            "settings": dict(self.settings),
            "pair": list(run.pair),
            "history": [dict(run.history), run.history.ended],
            "log_likelihood": pack(likelihood, "log_likelihood", tensors),
            "pixels": run.pixels,
            "gradients": pack(gradients, "gradients", tensors),
            "peaks": dict(run.peaks),
            "likelihoods": [[int(epoch), mean] for epoch, mean in run.likelihoods.items()],
        }
        path = self._path(name, seed)
        try:
            write_files(self.folder, {path.name: sealed_state(config, tensors)})
        except OSError as error:
            message = f"keep: cannot write {path} ({error.strerror}); the runs before are kept"
            raise OSError(error.errno, message) from error

    def check(self, argument: str, value: Any, kept: Any) -> None:
        """Raises ValueError if a setting differs from that of the runs that are kept."""
        if value != kept:
            got, expected = difference(value, kept)
            raise ValueError(
                f"{argument}: got {got}, expected {expected}, with which the runs in "
                f"{self.folder} were made; the same settings go on with them, others need "
                "another folder"
            )

    def check_pair(self, pair: Pair, run: Run, seed: int) -> Run:
        """The run with its tensors where the pair is, if the run began with the same one.

        Raises:
            ValueError: The pair has another structure, device, or initial parameters.
        """
        self.check(f"vae_factory, on seed {seed}", described_pair(pair), list(run.pair))
        likelihood = run.log_likelihood
        tensors: dict[str, Any] = {
            field.name: value.to(device_of(pair))
            for field in fields(LogLikelihood)
            if isinstance(value := getattr(likelihood, field.name), Tensor)
        }
        return replace(run, log_likelihood=replace(likelihood, **tensors))

    def _path(self, name: str, seed: int) -> Path:
        """The file of a run: ``1-iwae-8-seed-0.safetensors`` for the second objective, iwae:8."""
        words = "-".join(re.findall("[a-z0-9_]+", name.lower()))[:40]
        return self.folder / f"{self.names.index(name)}-{words}-seed-{seed}.safetensors"

    def _read(self, path: Path) -> tuple[Key, Run]:
        config, tensors = unsealed_state(path)
        if not isinstance(config, dict) or config.get("format") != _FORMAT:
            raise DamagedRun(f"{path}: holds something else, expected {_FORMAT}")
        kept = config["settings"]
        # A run of before there were such epochs has the log-likelihood of its end.
        kept = {LIKELIHOOD_EPOCHS: [kept.get("epochs")], **kept}
        for argument, value in self.settings.items():
            self.check(argument, value, kept.get(argument))
        try:
            name, seed = config["name"], config["seed"]
            run, expected = _unpacked(config, tensors), self._path(name, seed)
        except (TypeError, KeyError, ValueError, AttributeError) as error:
            raise DamagedRun(f"{path}: is of another version, or damaged ({error!r})") from error
        if path != expected:
            raise DamagedRun(
                f"{path}: was renamed, expected {expected.name}, the name of {name} on seed {seed}"
            )
        return (name, seed), run


def _unpacked(config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Run:
    columns, ended = config["history"]
    gradients = {
        epoch: {name: _each(by_part, lambda g: Gradient(**g)) for name, by_part in by_name.items()}
        for epoch, by_name in unpack(config["gradients"], tensors).items()
    }
    likelihood = LogLikelihood(**unpack(config["log_likelihood"], tensors))
    likelihoods = config.get("likelihoods", [[columns["epoch"][-1], likelihood.mean]])
    return Run(
        config["pair"],
        History(columns, ended),
        likelihood,
        config["pixels"],
        gradients,
        config["peaks"],
        {int(epoch): mean for epoch, mean in likelihoods},
    )


def _each(values: Mapping[str, Any], change: Callable[[Any], Any]) -> dict[str, Any]:
    return {name: change(value) for name, value in values.items()}


def described_data(data: Batch, argument: str) -> list[str]:
    """Describes data: the type and shape of each entry, and a checksum of all values."""
    batch = as_batch(data, argument)
    entries = [f"{entry.dtype} {tuple(entry.shape)}" for entry in batch]
    return [*entries, f"checksum {data_hash(batch)}"]


def described_pair(pair: Pair) -> list[str]:
    """Describes a pair before its training: modules, device, and a checksum of its tensors."""
    digest = hashlib.sha256()
    for name, value in pair.state_dict().items():
        if isinstance(value, Tensor):
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            flat = value.detach().cpu().contiguous().reshape(-1)
            digest.update(flat.view(torch.uint8).numpy().data)
    modules = re.sub(r" at 0x[0-9a-f]+", "", repr(pair))  # an address differs by process
    return [
        *(line.strip() for line in modules.splitlines()),
        f"device {device_of(pair).type}",
        f"initial parameters with checksum {digest.hexdigest()[:16]}",
    ]
