"""The processes that ``torchrun`` has begun."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

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
    rank, size = int(os.environ["RANK"]), count()
    store = _store(size)
    if store is None:
        dist.init_process_group("gloo")
    else:
        dist.init_process_group("gloo", store=store, rank=rank, world_size=size)
    try:
        yield
    finally:
        dist.destroy_process_group()


def leave(code: int) -> NoReturn:
    """Ends this process with an exit code.

    One of several ends without the interpreter's clean-up, in which a thread of
    ``torch.distributed`` may abort it, and torchrun then ends those that still write.
    """
    if count() == 1:
        sys.exit(code)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _store(size: int) -> Any:
    """A store for this start of the processes alone; None for torch's own.

    After a restart, torchrun hands on the store of the processes that have ended, at whose
    addresses the new ones would wait. Starts are counted alike on one machine only.
    """
    if os.environ.get("GROUP_WORLD_SIZE") != "1" or not os.environ.get("MASTER_PORT"):
        return None
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return None
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    start = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    store = dist.TCPStore(address, port, size, is_master=False)  # type: ignore[attr-defined]
    return dist.PrefixStore(f"start {start}", store)  # type: ignore[attr-defined]
