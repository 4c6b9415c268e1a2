"""Random programs compiled and uncompiled: losses, gradients, buffers and random states.

A long run, which goes on where it ended: ``python -m tests.differential 5000 --out FILE``.
"""

import argparse
import json
import traceback
import warnings
from pathlib import Path
from typing import Any

import pyro
import torch
from pyro.infer import SVI
from torch import Tensor

from pyro_vae import optim
from pyro_vae.objectives import Compiled

from .grammar import Drawn, drawn
from .tolerances import CLOSE

__all__ = ["differences", "main"]


def differences(seed: int, by_inductor: bool, refused: bool = False) -> tuple[list[str], str]:
    """What differs between a program compiled and uncompiled, and why it is not compiled, or "".

    Both ways take three steps from one seed, in float64.
    """
    found = []
    reasons: list[str] = []
    dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        for compiled in (False, True):
            program = drawn(seed, refused)
            elbo: Any = program.objective()
            if compiled:
                elbo = Compiled(elbo, strict=False, by_inductor=by_inductor)
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                found.append(_steps(program, elbo, evaluates=not by_inductor))
            texts = [str(each.message) for each in caught]
            reasons += [text for text in texts if "runs uncompiled" in text]
            if compiled and not reasons and not elbo._cache.made:
                return ["no graph, and no reason"], ""
    finally:
        torch.set_default_dtype(dtype)
    exact = bool(reasons)
    apart = [
        f"{name}: {value} and {other}"
        for (name, value), other in zip(found[0].items(), found[1].values(), strict=True)
        if not _same(value, other, exact)
    ]
    return apart, reasons[0] if reasons else ""


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


def _same(value: Tensor, other: Tensor, exact: bool) -> bool:
    if exact or not value.is_floating_point():
        return torch.equal(value, other)
    return torch.allclose(value, other, rtol=CLOSE, atol=CLOSE)


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
                apart, reason = differences(seed, options.inductor, refused=seed % 10 == 0)
            except Exception:
                apart, reason = [traceback.format_exc()], ""
            line = {"seed": seed, "apart": apart, "reason": reason}
            file.write(json.dumps(line) + "\n")
            file.flush()
            if apart:
                print(seed, *apart, sep="\n", flush=True)


if __name__ == "__main__":
    main()
