"""Right programs that no check may refuse, and the same with one fault that each must be refused.

A long run until 1,000 programs are right, which goes on where it ended:
``python -m tests.alarms 1000 --out FILE``.
"""

import argparse
import itertools
import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pyro_vae import log_likelihood
from pyro_vae.evaluation.log_densities import LogDensities
from pyro_vae.networks import Folded
from pyro_vae.utils.modules import evaluating

from .grammar import Drawn, drawn
from .swaps import LEVELS, X_DIM

__all__ = ["alarms", "main"]

OFF = {"bits": 0.5, "unit": 1.5, "levels": 2.5}
"""A value off the support of each kind of x."""

DEPENDENT = "track_running_stats=False"
"""What makes a random program depend on other examples, in eval mode too."""


class Leak:
    """A hook by which the output for one example has some of another one's input.

    Attributes:
        size: How much; it has no effect at 0.
    """

    def __init__(self, to: int, of: int) -> None:
        self.to, self.of, self.size = to, of, 0.0

    def __call__(self, network: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> Tensor:
        (x,) = args
        if not self.size or x.dim() < 2 or x.shape[-2] <= max(self.to, self.of):
            return out
        own = torch.zeros(x.shape[-2], device=x.device, dtype=x.dtype)
        own[self.to] = self.size
        leaked = x[..., self.of, :].sum(-1)[..., None] * own
        return out + leaked.reshape(*leaked.shape, *[1] * (out.dim() - leaked.dim()))


def alarms(seed: int) -> tuple[list[str], dict[str, str]]:
    """The cases of a seed, and what goes wrong: refused though right, or accepted though wrong.

    The cases are the program as it is, which is ``"right"`` but for batch norm without statistics,
    and each fault that is planted in a right one. It is float32, in which densities are rounded
    most.
    """
    draw = random.Random(seed)
    wrong: dict[str, str] = {}
    size = draw.choice([1, 2, 3, 5, 17, 64])
    program = drawn(seed, examples=size)
    dependent = DEPENDENT in program.text
    refused = _refused(program, program.batches[0])
    if bool(refused) is not dependent:
        wrong["right"] = refused or "batch norm without statistics was accepted"
    if dependent:
        return ["batch norm without statistics"], wrong
    cases = ["right"]
    if size > 1:
        to, of = draw.sample(range(size), 2)
        program = drawn(seed, examples=size)
        planted = _planted(program, to, of, draw)
        if planted:
            cases.append("dependence")
        if planted and not _refused(program, program.batches[0]):
            wrong["dependence"] = f"of {to} on {of} of {size}, by {planted}"
    x, *context = drawn(seed, examples=size).batches[0]
    place = draw.randrange(size), draw.randrange(X_DIM)
    infinite = [float("inf"), -float("inf")]
    values = {"non-finite": draw.choice(infinite + [float("nan")] * (program.kind != "holes"))}
    if program.kind in OFF:
        values["off the support"] = draw.choice([OFF[program.kind], float(-LEVELS)])
    for kind, value in values.items():
        bad = x.clone()
        bad[place] = value
        if not _refused(drawn(seed, examples=size), (bad, *context)):
            wrong[kind] = f"{value} at {place}"
    return [*cases, *values], wrong


def _refused(program: Drawn, batch: tuple[Tensor, ...]) -> str:
    """The text of the error by which an evaluation refuses a batch, or ""."""
    try:
        with evaluating(program.pair):
            program.pair.setup(*program.batches[0])
        log_likelihood(program.pair, batch, 2, seed=0)
    except ValueError as error:
        return str(error).partition("\n")[0]
    return ""


def _planted(program: Drawn, to: int, of: int, draw: random.Random) -> str:
    """Lets one example depend on another one, so that a log-density changes by 1e-3; says where.

    It is "" where no network can be made to leak so much.
    """
    pair, batch = program.pair, program.batches[0]
    if all(torch.equal(entry[:1].expand_as(entry), entry) for entry in batch):
        return ""  # Examples that are alike have nothing to tell each other.
    folded = [(path, m) for path, m in pair.named_modules() if isinstance(m, Folded)]
    path, network = draw.choice(folded)
    leak = Leak(to, of)
    network.register_forward_hook(leak)
    with torch.no_grad(), evaluating(pair):
        pair.setup(*batch)
        densities = LogDensities(pair.model, pair.guide, batch)
        torch.manual_seed(0)
        z, _ = densities.draw(batch, 1)
        before = densities.scores(batch, z)
        for power in range(-14, 4):
            leak.size = 2.0**power
            after = densities.scores(batch, z)
            for kind in before.keys() & after.keys():
                own, other = before[kind][0, to], after[kind][0, to]
                if (other - own).abs() >= 1e-3 * own.abs() and (other - own).abs() > 1e-5:
                    return f"{leak.size} in {path}"
    return ""


def main() -> None:
    """Runs seeds until a file has so many right programs; prints and keeps what goes wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("count", type=int)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    done: dict[int, Any] = {}
    if options.out.exists():
        lines = map(json.loads, options.out.read_text().splitlines())
        done = {line["seed"]: line for line in lines}
    counts: Counter[str] = Counter()
    with options.out.open("a") as file:
        for seed in itertools.count():
            if seed not in done:
                cases, wrong = alarms(seed)
                done[seed] = {"seed": seed, "cases": cases, "wrong": wrong}
                file.write(json.dumps(done[seed]) + "\n")
                file.flush()
                if wrong:
                    print(seed, wrong, flush=True)
            counts.update(done[seed]["cases"])
            counts["wrong"] += bool(done[seed]["wrong"])
            if counts["right"] == options.count:
                break
    print(f"seeds 0 to {seed}: {dict(counts)}")


if __name__ == "__main__":
    main()
