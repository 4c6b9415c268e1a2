"""Trainings in children that are killed at random moments, and go on in the next child.

    python -m tests.training.checkpoints.killing FOLDER KILLS SEED [CASE ...]

Children are forked from this process, which has imported all and has one thread. Half of them are
killed after a random time. The others kill themselves within the write of a checkpoint: before a
file is written, flushed, renamed or removed. Each training ends with the parameters and the
history of one that was not killed, or this program fails.
"""

import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"
os.environ["TQDM_DISABLE"] = "1"

import numpy as np
import torch
from torch.optim.lr_scheduler import ExponentialLR

from pyro_vae import fit, objectives, optim
from pyro_vae.training import EarlyStopping

from ...vaes import bernoulli_vae
from .test_resuming import Drawn, levels, on_disk, relaxed

torch.set_num_threads(1)
EPOCHS = 12


def _levels(folder: Path) -> dict[str, Any]:
    rate = optim.Adam(1e-2, clip_norm=1.0, schedule=lambda adam: ExponentialLR(adam, 0.999))
    stop = EarlyStopping(6, min_delta=0.1)
    return {
        "train": levels(60),
        "pixels": "binary",
        "validation": 0.2,
        "optim": rate,
        "objective": objectives.warm_up(objectives.trace_elbo(), 40),
        "callbacks": [stop],
    }


CASES: dict[str, Callable[[Path], dict[str, Any]]] = {
    "levels": _levels,
    "on disk": lambda folder: {"train": on_disk(folder), "pixels": "binary", "seed": None},
    "examples that draw": lambda folder: {"train": Drawn(torch.rand(60, 6)), "vae": relaxed()},
    "compiled": lambda folder: {**_levels(folder), "compile": True},
    "bf16": lambda folder: {**_levels(folder), "compile": True, "precision": "bf16"},
}


def trained(case: str, folder: Path, checkpoint: Path | None, after: int | None = None) -> None:
    """Trains, and writes what has come out; or dies after so many operations on files."""
    if after is not None:
        killed_in_a_write(after)
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002
    random.seed(0)
    settings = {"vae": bernoulli_vae(), "epochs": EPOCHS, "batch_size": 8, **CASES[case](folder)}
    every = "3 steps" if checkpoint is not None else "1 epoch"
    resume = checkpoint is not None
    history = fit(**settings, checkpoint=checkpoint, checkpoint_every=every, resume=resume)
    state = {name: t.tolist() for name, t in settings["vae"].state_dict().items()}
    columns = {name: values for name, values in history.items() if name != "seconds"}
    out = folder / "result.new"
    out.write_text(json.dumps([state, columns, history.ended]))
    out.rename(folder / "result.json")


def killed_in_a_write(after: int) -> None:
    """Kills this process before the so-manieth operation on files."""
    left = after

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal left
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **kwargs)

        return call

    for owner, names in ((os, ("fsync", "replace", "unlink")), (Path, ("open", "unlink"))):
        for name in names:
            setattr(owner, name, counted(getattr(owner, name)))


def forked(run: Callable[[], None]) -> int:
    """Runs a function in a child; returns the child's id."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        run()
        code = 0
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def ended(child: int) -> bool:
    """Waits for a child; whether it has ended by itself. Fails if it has failed."""
    _, status = os.waitpid(child, 0)
    if os.WIFEXITED(status) and os.WEXITSTATUS(status):
        sys.exit("a child failed")
    return os.WIFEXITED(status)


def main(folder: Path, kills: int, seed: int, cases: list[str]) -> None:
    chance = random.Random(seed)
    seconds: dict[str, float] = {}
    for case in cases:
        place = folder / case
        place.mkdir(parents=True)
        for _ in range(2):  # The first compiles.
            start = time.perf_counter()
            ended(forked(partial(trained, case, place, None)))
            seconds[case] = time.perf_counter() - start
        (place / "result.json").rename(place / "expected.json")
    done = number = 0
    while done < kills:
        case = cases[number % len(cases)]
        number += 1
        place = folder / case
        checkpoint = place / f"checkpoints-{number}"
        while True:
            inside = chance.random() < 0.5 and done < kills
            after = chance.randrange(60) if inside else None
            child = forked(partial(trained, case, place, checkpoint, after))
            if not inside and done < kills:
                time.sleep(chance.uniform(0, 1.2 * seconds[case]))
                os.kill(child, signal.SIGKILL)
            if ended(child):
                break
            done += 1
        if (place / "result.json").read_text() != (place / "expected.json").read_text():
            sys.exit(f"{case}: another result after {done} kills, seed {seed}")
        (place / "result.json").unlink()
    print(f"{done} kills, {number} trainings: all equal")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:] or list(CASES))
