"""The processes that ``torchrun`` has begun."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch.distributed as dist

TOGETHER = "train", "evaluate"
"""The commands that several processes run together."""


def count() -> int:
    """The number of processes; 1 without ``torchrun``."""
    launched = dist.is_available() and dist.is_torchelastic_launched()
    return int(os.environ["WORLD_SIZE"]) if launched else 1


def is_first() -> bool:
    """Whether this is the process that prints and writes."""
    return count() == 1 or os.environ["RANK"] == "0"


@contextmanager
def joined() -> Iterator[None]:
    """A context in which the processes know each other; they are on CPUs, as the command is."""
    if count() == 1:
        yield
        return
    dist.init_process_group("gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()
