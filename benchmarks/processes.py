"""What several processes gain, and what limits them.

python -m benchmarks.processes --rounds 5 --out docs/processes.md

Each measurement is a program that ``torchrun`` begins; those of one process and of two take turns.
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

os.environ["TQDM_DISABLE"] = "1"  # before tqdm is imported

import torch
import torch.distributed as dist

from pyro_vae import datasets, fit, presets
from pyro_vae.utils.processes import Processes
from pyro_vae.utils.tables import markdown

IMAGES = 20_000
EPOCHS = 4
BATCHES = 128, 1024
NAMES = {
    "1x2": "one process of two threads",
    "1x1": "one process of one thread",
    "2x1": "two processes of one thread each",
}

# The model: what a fast network between machines does.
BANDWIDTH = 12.5e9  # bytes a second: 100 Gbit/s
LATENCY = 20e-6  # seconds of a message


def measured() -> dict[str, float]:
    """Seconds of an epoch by batch size, and of the messages of a step, in this process."""
    levels = datasets.load("mnist").train[:IMAGES]
    found: dict[str, float] = {}
    for batch in BATCHES:
        torch.manual_seed(0)
        vae = presets.build("pyro-mlp", shape=levels.shape[1:])
        settings: dict[str, Any] = {"pixels": "binary", "batch_size": batch, "compile": True}
        history = fit(vae, levels, epochs=1 + EPOCHS, **settings)
        found[f"epoch {batch}"] = statistics.median(history.seconds[1:])
    numbers = sum(p.numel() for p in vae.parameters())
    found["bytes"] = 4.0 * numbers
    if dist.is_initialized():
        processes = Processes(torch.device("cpu"))
        for name, tensor in (("gradient", torch.zeros(numbers)), ("terms", torch.zeros(40))):
            times = []
            for _ in range(200):
                start = time.perf_counter()
                processes.add([tensor])
                times.append(time.perf_counter() - start)
            found[name] = statistics.median(times)
    return found


def child() -> None:
    if int(os.environ["WORLD_SIZE"]) > 1:
        dist.init_process_group("gloo")
    found = measured()
    if os.environ["RANK"] == "0":
        print(json.dumps(found))
    if dist.is_initialized():
        dist.destroy_process_group()


def run(variant: str) -> dict[str, float]:
    size, threads = variant.split("x")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += [f"--nproc-per-node={size}", "-m", "benchmarks.processes"]
    environment = {**os.environ, "OMP_NUM_THREADS": threads}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def modelled(size: int, batch: int, compute: float, bytes_: float) -> float:
    """Seconds of a step of so many processes that each take a batch of this size.

    The gradient goes round a ring, in 2 (N - 1) messages of an N-th of it each; the terms go up
    and down a tree.
    """
    gradient = 2 * (size - 1) * (LATENCY + bytes_ / size / BANDWIDTH)
    terms = 2 * math.ceil(math.log2(size)) * LATENCY
    return compute * batch + gradient + terms


def tables(rounds: int) -> list[str]:
    found: dict[str, list[dict[str, float]]] = {name: [] for name in NAMES}
    for _ in range(rounds):
        for variant, runs in found.items():
            runs.append(run(variant))
    rows = []
    for batch in BATCHES:
        key = f"epoch {batch}"
        first = [each[key] for each in found["1x2"]]
        for variant, runs in found.items():
            ratios = [each[key] / other for each, other in zip(runs, first, strict=True)]
            seconds = statistics.median(each[key] for each in runs)
            ratio = statistics.median(ratios)
            spread = f"{min(ratios):.2f}–{max(ratios):.2f}"
            rows.append([str(batch), NAMES[variant], f"{seconds:.2f}", f"{ratio:.2f}", spread])
    names = ["batch", f"an epoch of {IMAGES:,} images", "s (median)", "ratio", "range"]
    two, bytes_ = found["2x1"], found["2x1"][0]["bytes"]
    messages = [
        [f"the gradient, {bytes_ / 2**20:.1f} MiB", *_milliseconds(two, "gradient")],
        ["terms, flags and counts", *_milliseconds(two, "terms")],
    ]
    alone = statistics.median(each["epoch 128"] for each in found["1x1"])
    compute = alone / IMAGES
    cases = []
    for batch in BATCHES:
        for size in (8, 64, 512):
            step = modelled(size, batch, compute, bytes_)
            share = compute * batch / step
            cases.append([str(batch), str(size), f"{1e3 * step:.1f}", f"{100 * share:.0f} %"])
    model = ["examples each", "processes", "a step: ms", "of it computing"]
    return [
        markdown(names, rows),
        markdown(["a message between the two processes", "ms (median)"], messages),
        markdown(model, cases),
    ]


def _milliseconds(runs: list[dict[str, float]], name: str) -> list[str]:
    return [f"{1e3 * statistics.median(each[name] for each in runs):.2f}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="the Markdown file to write")
    parser.add_argument("--rounds", type=int, default=5, help="runs of each variant")
    arguments = parser.parse_args()
    text = "\n\n".join(tables(arguments.rounds)) + "\n"
    arguments.out.write_text(text)
    print(text)


if __name__ == "__main__":
    child() if "RANK" in os.environ else main()
