"""Checkpoints: the state of a training on disk, from which it goes on bit for bit."""

from pyro_vae.training.checkpoints.folder import (
    CheckpointError,
    Checkpoints,
    Loaded,
    load_checkpoint,
)
from pyro_vae.training.checkpoints.interval import Interval
from pyro_vae.training.checkpoints.settings import Settings, difference
from pyro_vae.training.checkpoints.state import State, random_state, set_random_state

__all__ = [
    "CheckpointError",
    "Checkpoints",
    "Interval",
    "Loaded",
    "Settings",
    "State",
    "difference",
    "load_checkpoint",
    "random_state",
    "set_random_state",
]
