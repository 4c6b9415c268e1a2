"""Random programs compiled and uncompiled: losses, gradients, buffers and random states.

A long run, which goes on where it ended: ``python -m tests.differential 5000 --out FILE``.
"""

import argparse
import json
import random
import traceback
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import pyro
import torch
from pyro.infer import SVI
from torch import Tensor

from pyro_vae import Pair, networks, optim
from pyro_vae.objectives import Compiled

from .grammar import Drawn, drawn
from .tolerances import CLOSE

__all__ = ["differences", "main"]


NUMBERS: dict[str, tuple[torch.dtype, Callable[[Pair], AbstractContextManager[None]], float]] = {
    "float64": (torch.float64, lambda pair: nullcontext(), CLOSE),
    "float32": (torch.float32, lambda pair: nullcontext(), 1e-4),
    "networks in bfloat16": (torch.float32, networks.bfloat16, 2**-6),
    "autocast": (
        torch.float32,
        # Without its cache, which would keep the casts of parameters from before a step.
        lambda pair: torch.autocast("cpu", torch.bfloat16, cache_enabled=False),
        2**-3,  # densities are sums of rounded numbers, and steps follow their gradients
    ),
}
"""Dtypes: the default one, a context in which steps are taken, and how close both ways are."""


def numbers(seed: int) -> str:
    """In which of ``NUMBERS`` the program of a seed runs."""
    return random.Random(f"numbers of {seed}").choices([*NUMBERS], (5, 2, 2, 1))[0]


def differences(
    seed: int, by_inductor: bool, refused: bool = False, kind: str = "float64"
) -> tuple[list[str], str]:
    """What differs between a program compiled and uncompiled, and why it is not compiled, or "".

    Both ways take three steps from one seed, in one of ``NUMBERS``.
    """
    evaluates = not by_inductor
    try:
        plain, _ = _taken(seed, kind, refused, None, evaluates)
    except (NotImplementedError, RuntimeError) as error:
        if "BFloat16" in _text(error):
            return [], f"torch has no such operation in bfloat16: {_text(error)}"
        raise
    compiled, reason = _taken(seed, kind, refused, by_inductor, evaluates)
    if compiled is None:
        return ["no graph, and no reason"], ""
    assert plain is not None
    close = 0.0 if reason else NUMBERS[kind][2]
    apart = {name for name in plain if not _same(plain[name], compiled[name], close)}
    if apart and kind == "networks in bfloat16":
        exact, _ = _taken(seed, "float32", refused, None, evaluates)
        assert exact is not None
        apart -= {
            name for name in apart if _rounded_alike(plain[name], compiled[name], exact[name])
        }
    return [f"{name}: {plain[name]} and {compiled[name]}" for name in sorted(apart)], reason


def _taken(
    seed: int, kind: str, refused: bool, by_inductor: bool | None, evaluates: bool
) -> tuple[dict[str, Tensor] | None, str]:
    """What steps give, uncompiled if `by_inductor` is None, and why there was no graph, or "".

    None for what steps give if neither a graph was made nor a reason was given.
    """
    before = torch.get_default_dtype()
    dtype, context, _ = NUMBERS[kind]
    torch.set_default_dtype(dtype)
    try:
        program = drawn(seed, refused)
        elbo: Any = program.objective()
        if by_inductor is not None:
            elbo = Compiled(elbo, strict=False, by_inductor=by_inductor)
        with warnings.catch_warnings(record=True) as caught, context(program.pair):
            warnings.simplefilter("always")
            found = _steps(program, elbo, evaluates)
    finally:
        torch.set_default_dtype(before)
    texts = [str(each.message) for each in caught]
    reason = next((text for text in texts if "runs uncompiled" in text), "")
    if by_inductor is not None and not reason and not elbo._cache.made:
        return None, ""
    return found, reason


def _text(error: BaseException) -> str:
    """An error's text, with those of the errors in whose handling it was raised."""
    before = f"; {_text(error.__context__)}" if error.__context__ is not None else ""
    return f"{type(error).__name__}: {error}{before}"


def _steps(program: Drawn, elbo: Any, evaluates: bool) -> dict[str, Tensor]:
    """Losses, parameters and buffers after some steps, and the state of the generator.

    A loss without gradients has a graph of its own, for which Inductor takes as long again.
    """
    pair = program.pair
    pyro.clear_param_store()
    torch.manual_seed(1)
    pair.setup(*program.batches[0])  # makes the parameters of ``pyro.param``
    torch.manual_seed(2)
    # Plain steps: Adam would turn the rounding of a gradient that is zero into a step.
    svi = SVI(pair.model, pair.guide, optim.from_torch(torch.optim.SGD, lr=1e-2), elbo)
    losses = [svi.step(*batch) for batch in program.batches]
    if evaluates:
        losses.append(svi.evaluate_loss(*program.batches[0]))
    return {
        "losses": torch.tensor(losses),
        **{name: value.detach().clone() for name, value in pair.state_dict().items()},
        "random state": torch.get_rng_state(),
    }


def _same(value: Tensor, other: Tensor, close: float) -> bool:
    if not close or not value.is_floating_point():
        return torch.equal(value, other)
    return torch.allclose(value, other, rtol=close, atol=close)


def _rounded_alike(value: Tensor, other: Tensor, exact: Tensor) -> bool:
    """Whether the second of two roundings is no farther from the numbers than the first.

    Compiled code rounds less often, so it may be nearer. A batch norm of numbers that are nearly
    equal makes their rounding large.
    """
    if not value.is_floating_point():
        return False
    own, others = ((each - exact).abs().max().item() for each in (value, other))
    return others <= 4 * own


def main() -> None:
    """Runs the seeds that a file has no line for; prints and keeps what differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("count", type=int)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--inductor", action="store_true")
    options = parser.parse_args()
    done = set()
    if options.out.exists():
        done = {json.loads(line)["seed"] for line in options.out.read_text().splitlines()}
    with options.out.open("a") as file:
        for seed in range(options.first, options.first + options.count):
            if seed in done:
                continue
            try:
                apart, reason = differences(
                    seed, options.inductor, refused=seed % 10 == 0, kind=numbers(seed)
                )
            except Exception:
                apart, reason = [traceback.format_exc()], ""
            line = {"seed": seed, "apart": apart, "reason": reason}
            file.write(json.dumps(line) + "\n")
            file.flush()
            if apart:
                print(seed, *apart, sep="\n", flush=True)


if __name__ == "__main__":
    main()
