"""Steps, epochs, memory and growth on a processor; every ratio is of runs that took turns."""

import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import psutil
import pyro
import torch
from pyro.infer import Trace_ELBO
from torch import Tensor

from pyro_vae import VAE, datasets, fit, log_likelihood, objectives, optim, presets
from pyro_vae.estimators import Importance
from pyro_vae.evaluation.blocks import Block
from pyro_vae.evaluation.importance_weights import Weights
from pyro_vae.evaluation.log_densities import LogDensities
from pyro_vae.evaluation.scorer import DRAWN_COMPILED_FROM, Scorer
from pyro_vae.objectives import Compiled
from pyro_vae.utils.tables import markdown

from .checkpoints import cost
from .measure import compared, in_turns
from .others import NumPyro, pythae_epoch
from .programs import (
    Step,
    as_pyros_example,
    by_hand,
    importance_loop,
    networks,
    ours,
    products,
    variants,
)

BATCH = 128
GOAL = 105.0  # nats of -ELBO on the test set
EPOCHS = 20  # of the comparison of precisions


def build(name: str = "pyro-mlp", z_dim: int | None = None, seed: int = 0) -> VAE:
    torch.manual_seed(seed)
    return presets.build(name, shape=(28, 28), z_dim=z_dim)


def steps(rounds: int) -> list[str]:
    levels = datasets.load("digits").train
    tables = []
    for name, batch, particles in (
        ("pyro-mlp", 32, 1),
        ("pyro-mlp", 128, 1),
        ("pyro-mlp", 1024, 1),
        ("pyro-mlp", 128, 16),
        ("conv", 128, 1),
    ):
        x = datasets.binarize(levels[:batch], seed=0)
        runs = variants(lambda name=name: build(name), particles)  # type: ignore[misc]
        few = max(20, rounds * 128 // max(128, batch * particles) // (4 if name == "conv" else 1))
        what = f"a step of {name}, batch {batch}, {particles} particle{'s'[: particles > 1]}"
        tables.append(compared(what, {n: _on(step, x) for n, step in runs.items()}, few))
    x = datasets.binarize(levels[:BATCH], seed=0)
    eager = ours(build(), compiled=False)

    def unchecked() -> None:
        with pyro.validation_enabled(False):
            eager(x)

    overhead = {
        "PyTorch by hand, fused Adam": _on(by_hand(build(), fused=True), x),
        "ours: SVI, optim.Adam": _on(eager, x),
        "the same without Pyro's validation": unchecked,
    }
    tables.append(compared("uncompiled, pyro-mlp, batch 128", overhead, rounds))
    return tables


def _on(step: Step, x: Tensor) -> Callable[[], object]:
    return lambda: step(x)


def epoch_by(step: Step, levels: Tensor) -> Callable[[], object]:
    """An epoch by a step: in a new order, binarized afresh."""

    def epoch() -> float:
        order = torch.randperm(len(levels))
        return sum(step(torch.bernoulli(levels[i] / 255)) for i in order.split(BATCH))

    return epoch


def epoch_of_fit(levels: Tensor, *, compiled: bool, precision: str) -> Callable[[], object]:
    vae, optimizer = build(), optim.Adam(lr=1e-3)
    objective = objectives.trace_elbo()
    loss = objectives.compiled(objective) if compiled else objective
    settings = {"epochs": 1, "pixels": "binary", "compile": False, "precision": precision}
    return lambda: fit(vae, levels, objective=loss, optim=optimizer, **settings)  # type: ignore[arg-type]


def epochs(levels: Tensor, rounds: int) -> str:
    runs = {
        "NumPyro, jitted": NumPyro(levels, BATCH).epoch,
        "PyTorch by hand, fused Adam": epoch_by(by_hand(build(), fused=True), levels),
        "Pyro's example": epoch_by(as_pyros_example(build(), Trace_ELBO()), levels),
        "Pythae (pixels binarized once)": pythae_epoch(
            build(), datasets.binarize(levels, seed=0), BATCH
        ),
        "ours: fit": epoch_of_fit(levels, compiled=False, precision="float32"),
        "ours: fit, compiled": epoch_of_fit(levels, compiled=True, precision="float32"),
        "ours: fit, compiled, bf16": epoch_of_fit(levels, compiled=True, precision="bf16"),
    }
    what = f"an epoch of {len(levels):,} images, pyro-mlp, batch 128, data and metrics included"
    return compared(what, runs, rounds, warm_up=1)


def time_to_goal(data: datasets.Dataset) -> str:
    """Seconds of training, from the first line to the goal; scoring the test set left out."""
    test = datasets.binarize(data.test, seed=0)

    def by_epochs(epoch: Callable[[], object], cost: Callable[[], float]) -> tuple[float, int]:
        seconds, count = 0.0, 0
        while count == 0 or cost() > GOAL:
            start = time.perf_counter()
            epoch()
            seconds += time.perf_counter() - start
            count += 1
        return seconds, count

    def cost_of(vae: VAE) -> Callable[[], float]:
        loss = Trace_ELBO().loss

        def cost() -> float:
            with torch.no_grad():
                return sum(loss(vae.model, vae.guide, x) for x in test.split(1000)) / len(test)

        return cost

    rows = []
    numpyro = NumPyro(data.train, BATCH)
    hand, example = build(), build()
    for name, (seconds, count) in {
        "NumPyro, jitted": by_epochs(numpyro.epoch, lambda: numpyro.test_cost(test)),
        "PyTorch by hand, fused Adam": by_epochs(
            epoch_by(by_hand(hand, fused=True), data.train), cost_of(hand)
        ),
        "Pyro's example": by_epochs(
            epoch_by(as_pyros_example(example, Trace_ELBO()), data.train), cost_of(example)
        ),
    }.items():
        rows.append([name, f"{seconds:.1f}", str(count)])
    for precision in ("float32", "bf16"):
        vae, optimizer = build(), optim.Adam(lr=1e-3)
        objective = objectives.compiled(objectives.trace_elbo())
        seeds = iter(range(1000))

        def epoch(
            vae: VAE = vae,
            optimizer: optim.JointOptim = optimizer,
            objective: Compiled = objective,
            precision: str = precision,
            seeds: Iterator[int] = seeds,
        ) -> None:
            fit(
                vae,
                data.train,
                epochs=1,
                pixels="binary",
                objective=objective,
                optim=optimizer,
                precision=precision,  # type: ignore[arg-type]
                seed=next(seeds),
            )

        seconds, count = by_epochs(epoch, cost_of(vae))
        name = f"ours: fit, compiled, {precision} (compilation {objective.compile_seconds:.1f} s)"
        rows.append([name, f"{seconds:.1f}", str(count)])
    return markdown([f"to a test -ELBO of {GOAL:.0f} nats", "seconds", "epochs"], rows)


def precisions(data: datasets.Dataset) -> str:
    rows = []
    for seed in (0, 1, 2):
        costs = []
        for precision in ("float32", "bf16"):
            vae = build(seed=seed)
            history = fit(
                vae,
                data.train,
                test=data.test,
                epochs=EPOCHS,
                pixels="binary",
                seed=seed,
                precision=precision,
            )
            costs.append(history.test_cost[-1])
        rows.append(
            [str(seed), f"{costs[0]:.2f}", f"{costs[1]:.2f}", f"{costs[1] - costs[0]:+.2f}"]
        )
    names = ["float32", "bf16", "difference"]
    return markdown([f"test -ELBO after {EPOCHS} epochs of MNIST, seed", *names], rows)


def memory() -> str:
    rows = []
    for what, options in {
        "fit": ["compile=False"],
        "fit, compiled": ["compile=True"],
        "fit, compiled, bf16": ["compile=True", "precision=bf16"],
    }.items():
        for images in (10_000, 60_000):
            command = [sys.executable, "-m", "benchmarks.memory", str(images), *options]
            run = subprocess.run(command, capture_output=True, text=True, check=True)
            rows.append([what, f"{images:,}", run.stdout.strip()])
    return markdown(["peak memory beyond data and model", "images", "MiB"], rows)


def growth(rounds: int) -> str:
    levels = datasets.load("digits").train
    rows = []
    cases = [(batch, 1, 50) for batch in (32, 128, 512, 2048)]
    cases += [(128, particles, 50) for particles in (4, 16)]
    cases += [(128, 1, z_dim) for z_dim in (2, 200)]
    for batch, particles, z_dim in cases:
        x = datasets.binarize(levels[:batch], seed=0)
        runs = {
            "hand": by_hand(build(z_dim=z_dim), fused=True, particles=particles),
            "ours": ours(build(z_dim=z_dim), compiled=True, particles=particles),
        }
        seconds = in_turns({n: _on(step, x) for n, step in runs.items()}, rounds)
        medians = [1e3 * statistics.median(seconds[name]) for name in ("hand", "ours")]
        ratio = statistics.median(
            o / h for h, o in zip(seconds["hand"], seconds["ours"], strict=True)
        )
        numbers = [str(batch), str(particles), str(z_dim)]
        rows.append([*numbers, *(f"{m:.1f}" for m in medians), f"{ratio:.2f}"])
    names = ["particles", "latents", "by hand, fused: ms", "ours, compiled: ms", "ratio"]
    return markdown(["batch", *names], rows)


def growth_with_data(levels: Tensor, rounds: int) -> str:
    sizes = (10_000, 30_000, 60_000)
    runs = {
        f"{size:,} images": epoch_of_fit(levels[:size], compiled=True, precision="float32")
        for size in sizes
    }
    return compared("an epoch of fit, compiled, of", runs, rounds, warm_up=1)


def evaluator(rounds: int) -> str:
    vae = build().eval()
    x = datasets.binarize(datasets.load("digits").test[:64], seed=0)
    scorer = Scorer(LogDensities(vae.model, vae.guide, (x,)), DRAWN_COMPILED_FROM)

    @torch.no_grad()
    def block() -> None:
        found = Weights(1024)
        for log_w in Importance().log_weights(Block(scorer, (x,), 0, 0, 2**28), 1024):
            found.add(log_w)
        found.statistics()

    runs = {
        "the decoder's matrix products alone": products(
            networks(vae)[1], torch.randn(64 * 64, 50), 16
        ),
        "a loop by hand": importance_loop(vae, x, 1024, 64),
        "log_likelihood, uncompiled, with its start": lambda: log_likelihood(vae, x, 1024, seed=0),
        "log_likelihood, a block of a long one (compiled)": block,
    }
    return compared("64 images x 1,024 importance samples, pyro-mlp", runs, rounds)


def main(out: Path, only: Sequence[str], rounds: int) -> None:
    """Writes the tables.

    Arguments:
        out: The Markdown file.
        only: The titles of the sections to measure; none for all.
        rounds: The number of steps of each variant.
    """
    data, few = datasets.load("mnist"), max(5, rounds // 20)
    sections: dict[str, Callable[[], list[str]]] = {
        "Memory": lambda: [memory()],
        "Steps": lambda: steps(rounds),
        "Epochs": lambda: [epochs(data.train, few)],
        "Time to a goal": lambda: [time_to_goal(data)],
        "Precision": lambda: [precisions(data)],
        "Growth": lambda: [
            growth(max(5, rounds // 4)),
            growth_with_data(data.train, few),
        ],
        "Evaluation": lambda: [evaluator(max(5, rounds // 8))],
        "Checkpoints": lambda: [cost(build, data.train, max(5, rounds // 10))],
    }
    memory_size = psutil.virtual_memory().total / 2**30
    capability = torch.backends.cpu.get_cpu_capability()
    text = (
        "# Benchmarks\n\nMade by `make bench`. In each table the variants took turns in one "
        "process; a ratio is the median over turns of a variant's time to the first row's, with "
        "its quartiles. Batches are the same binary pixels for all variants of a step; an epoch "
        "binarizes afresh, where the row does not say otherwise.\n\n"
        f"{platform.machine()} ({capability}), {psutil.cpu_count(logical=False)} cores, "
        f"{memory_size:.0f} GiB, {torch.get_num_threads()} threads, torch {torch.__version__}, "
        f"Pyro {pyro.__version__}.\n"
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    for title, tables in sections.items():
        if only and title not in only:
            continue
        start = time.perf_counter()
        text += f"\n## {title}\n\n" + "\n\n".join(tables()) + "\n"
        out.write_text(text)
        print(f"{title}: {time.perf_counter() - start:.0f} s", flush=True)
    print(text)
