"""Training: the SVI loop, its data, history, callbacks and precision."""

from pyro_vae.training.averaging import Averaging
from pyro_vae.training.callbacks import Callback
from pyro_vae.training.checkpoints import CheckpointError, load_checkpoint
from pyro_vae.training.early_stopping import EarlyStopping
from pyro_vae.training.ending import StopTraining, interrupt
from pyro_vae.training.epoch_terms import NonFiniteLoss
from pyro_vae.training.fit import COMPILED_FROM, fit
from pyro_vae.training.history import History
from pyro_vae.training.precision import program
from pyro_vae.training.recovery import Recovery
from pyro_vae.training.trackers import TensorBoard, Tracker

__all__ = [
    "COMPILED_FROM",
    "Averaging",
    "Callback",
    "CheckpointError",
    "EarlyStopping",
    "History",
    "NonFiniteLoss",
    "Recovery",
    "StopTraining",
    "TensorBoard",
    "Tracker",
    "fit",
    "interrupt",
    "load_checkpoint",
    "program",
]


def __dir__() -> list[str]:
    return __all__
