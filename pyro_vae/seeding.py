"""Random streams fixed by integers, on torch's global generators, put back afterwards."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import numpy as np
import torch

from pyro_vae.arguments import check_seed


def seeded(
    seed: int | None, *key: int, device: torch.device | str = "cpu"
) -> AbstractContextManager[None]:
    """Runs a block on the random stream `(seed, *key)` of the CPU and of `device`.

    Everything that draws from torch's global generators inside the block, Pyro included, repeats
    for the same integers; afterwards the generators stand where they stood before. With
    ``seed=None`` the block draws from the global generators as any torch code does. ``seed``
    alone gives the stream of ``torch.manual_seed(seed)``.

    Raises:
        TypeError, ValueError: The seed is no whole number from 0 up.
    """
    check_seed(seed)
    if seed is None:
        return nullcontext()
    # SeedSequence keeps the streams of (0, 1) and (1, 0), or of (3,) and (3, 0), apart.
    word = _mix((int(seed), *key)) if key else int(seed)
    return _seeded(word, torch.device(device))


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    if device.type == "cpu":
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            yield
    else:
        count = torch.get_device_module(device).device_count()
        with torch.random.fork_rng(devices=range(count), device_type=device.type):
            torch.manual_seed(seed)
            yield


def _mix(words: tuple[int, ...]) -> int:
    return int(np.random.SeedSequence([len(words), *words]).generate_state(1, np.uint64)[0])
