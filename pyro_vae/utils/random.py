"""Streams of random numbers that integers fix, drawn from torch's global generators."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext

import numpy as np
import torch
from torch import Tensor

from pyro_vae.utils.checks import check_seed

__all__ = [
    "Stream",
    "generator_states",
    "random_operator",
    "random_words",
    "seeded",
    "set_generator_states",
    "streams",
]

_library = torch.library.Library("pyro_vae", "FRAGMENT")


def random_operator(
    schema: str, draw: Callable[..., Tensor], empty: Callable[..., Tensor]
) -> Callable[..., Tensor]:
    """An operator that draws random numbers, which a traced graph holds as one node.

    Arguments:
        schema: The operator's name, arguments and result, in torch's notation.
        draw: Draws from torch's global generators.
        empty: The same without drawing; its result has the shape and type, and any values.
    """
    name = schema.partition("(")[0]
    if not hasattr(torch.ops.pyro_vae, name):  # An operator outlives a reload.
        _library.define(schema, tags=(torch.Tag.nondeterministic_seeded,))
        _library.impl(name, draw, "CompositeExplicitAutograd")
        torch.library.register_fake(f"pyro_vae::{name}", empty)
    return getattr(torch.ops.pyro_vae, name)


def _empty_words(count: int, device: torch.device) -> Tensor:
    return torch.empty(count, dtype=torch.int64, device=device)


def _random_words(count: int, device: torch.device) -> Tensor:
    return _empty_words(count, device).random_(-(2**63), None)


# Tensor.random_ over all integers is fast, but a traced graph cannot hold it: its name in torch,
# ``random_.from``, is no Python.
_words = random_operator(
    "random_words(int count, Device device) -> Tensor", _random_words, _empty_words
)


def random_words(count: int, device: torch.device) -> Tensor:
    """64 random bits in each of so many integers, from torch's generator of the device."""
    return _words(count, device)


def seeded(
    seed: int | None, *key: int, device: torch.device | str = "cpu"
) -> AbstractContextManager[None]:
    """A context in which torch's global generators give the stream ``(seed, *key)``.

    Everything inside the block that draws from them, Pyro included, repeats for the same integers.
    Afterwards the generators continue from where they were before the block. A seed without a key
    gives the stream of ``torch.manual_seed(seed)``.

    Arguments:
        seed: An int from 0 to 2**32 - 1; None leaves the generators as they are.
        key: Further integers; each tuple gives a stream of its own.
        device: The device whose generator is seeded, in addition to the CPU's.

    Raises:
        TypeError: The seed is neither an int nor None.
        ValueError: The seed is out of range.

    Example:
        >>> from pyro_vae.utils.random import seeded
        >>> with seeded(0):
        ...     first = torch.randn(3)
        >>> with seeded(0):
        ...     print(torch.equal(first, torch.randn(3)))
        True
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


@contextmanager
def streams(seed: int | None, device: torch.device) -> Iterator[Callable[..., None]]:
    """A context for many streams in turn; yields a function that begins the stream of a key.

    ``begin(*key)`` gives what ``with seeded(seed, *key, device=device)`` does. The generators'
    states are kept once, and not for each stream.

    Arguments:
        seed: An int from 0 to 2**32 - 1; None leaves the generators as they are.
        device: The device whose generator is seeded, in addition to the CPU's.

    Example:
        >>> from pyro_vae.utils.random import seeded, streams
        >>> with streams(0, torch.device("cpu")) as begin:
        ...     begin(3)
        ...     first = torch.randn(2)
        >>> with seeded(0, 3):
        ...     print(torch.equal(first, torch.randn(2)))
        True
    """
    check_seed(seed)
    if seed is None:
        yield lambda *key: None
        return
    with seeded(seed, device=device):
        start = torch.default_generator if device.type == "cpu" else torch

        def begin(*key: int) -> None:
            start.manual_seed(_mix((seed, *key)))

        yield begin


def _mix(words: tuple[int, ...]) -> int:
    return int(np.random.SeedSequence([len(words), *words]).generate_state(1, np.uint64)[0])


def generator_states(device: torch.device) -> dict[str, Tensor]:
    """The states of torch's global generators, that of the CPU and that of a device."""
    states = {"cpu": torch.get_rng_state()}
    if device.type != "cpu":
        states[device.type] = torch.get_device_module(device).get_rng_state(device)
    return states


def set_generator_states(states: Mapping[str, Tensor], device: torch.device) -> None:
    """Puts the generators back to states from :func:`generator_states`."""
    torch.set_rng_state(states["cpu"])
    if device.type in states and device.type != "cpu":
        torch.get_device_module(device).set_rng_state(states[device.type], device)


class Stream:
    """A random stream that continues where it was left, each time that its context is entered.

    Work that alternates with other random work, such as a data loader between training steps,
    neither takes numbers from the other nor repeats its own. The numbers are those of the CPU's
    generator.

    Arguments:
        seed: An int from 0 to 2**32 - 1; None leaves the generator as it is.
        key: Further integers; each tuple gives a stream of its own.

    Attributes:
        state: Where the stream was left; None without a seed.

    Example:
        >>> from pyro_vae.utils.random import Stream
        >>> stream = Stream(0, 1)
        >>> with stream:
        ...     first = torch.randn(3)
        >>> with stream:
        ...     print(torch.equal(first, torch.randn(3)))
        False
    """

    def __init__(self, seed: int | None, *key: int) -> None:
        self.state: torch.Tensor | None = None
        self._outer: torch.Tensor | None = None
        if seed is not None:
            with seeded(seed, *key):
                self.state = torch.get_rng_state()

    def __enter__(self) -> "Stream":
        if self.state is not None:
            self._outer = torch.get_rng_state()
            torch.set_rng_state(self.state)
        return self

    def __exit__(self, *error: object) -> None:
        if self._outer is not None:
            self.state = torch.get_rng_state()
            torch.set_rng_state(self._outer)
