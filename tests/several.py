"""Runs a function in several processes that know each other, as ``torchrun`` does."""

import multiprocessing
import pickle
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch.distributed as dist

# Children are forked from a process that has imported all and has one thread.
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["pyro_vae", "tests.vaes", "tests.test_context"])
_SECONDS = 120


def run(work: Callable[..., Any], *args: Any, size: int = 2) -> list[Any]:
    """What a function returns in each process, or the error that it raises.

    A process that is killed gives minus the number of its signal.

    Arguments:
        work: A function of a module.
        args: Its arguments.
        size: The number of processes.
    """
    with TemporaryDirectory() as folder:
        children = [
            _context.Process(target=_main, args=(rank, size, folder, work, args))
            for rank in range(size)
        ]
        for child in children:
            child.start()
        for child in children:
            child.join(_SECONDS)
        late = [child for child in children if child.is_alive()]
        for child in late:
            child.kill()
        assert not late, f"a process did not end in {_SECONDS} s"
        return [
            pickle.loads(path.read_bytes()) if path.exists() else child.exitcode
            for child, path in zip(children, _results(folder, size), strict=True)
        ]


def _results(folder: str, size: int) -> list[Path]:
    return [Path(folder, f"result-{rank}") for rank in range(size)]


def _main(rank: int, size: int, folder: str, work: Callable[..., Any], args: Any) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/store",
        rank=rank,
        world_size=size,
        timeout=timedelta(seconds=60),
    )
    # A process that ends before another has connected to it would break that one's start.
    dist.barrier()
    torch.manual_seed(rank)
    try:
        result = work(*args)
    except Exception as error:
        result = error
    path = _results(folder, size)[rank]
    path.with_suffix(".new").write_bytes(pickle.dumps(result))
    path.with_suffix(".new").rename(path)
    dist.destroy_process_group()
