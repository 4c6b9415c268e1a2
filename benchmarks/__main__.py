"""Measures steps, epochs and the evaluator; every ratio is of runs that took turns.

python -m benchmarks --out docs/benchmarks.md
"""

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path

os.environ["TQDM_DISABLE"] = "1"  # before tqdm is imported

import psutil
import pyro
import pyro.optim
import torch
import torch.nn.functional as F
from pyro.infer import SVI, Trace_ELBO
from torch import Tensor, nn

from pyro_vae import VAE, datasets, fit, log_likelihood, objectives, presets
from pyro_vae.tables import markdown

BATCH = 128


def by_hand(vae: VAE, x: Tensor, fused: bool) -> Callable[[], object]:
    """A step of the same networks in plain PyTorch, as one writes it without Pyro."""
    encoder, decoder = vae.posterior.network, vae.likelihood.network
    assert isinstance(encoder, nn.Module)
    assert isinstance(decoder, nn.Module)
    optimizer = torch.optim.Adam(vae.parameters(), lr=1e-3, fused=fused)

    def step() -> float:
        optimizer.zero_grad()
        loc, raw = encoder(x).chunk(2, -1)
        scale = F.softplus(raw) + 1e-4
        z = loc + scale * torch.randn_like(loc)
        logits = decoder(z)
        reconstruction = F.binary_cross_entropy_with_logits(logits, x, reduction="sum")
        log_ratio = (-scale.log() - 0.5 * ((z - loc) / scale) ** 2 + 0.5 * z**2).sum()
        loss = reconstruction + log_ratio
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def by_svi(vae: VAE, x: Tensor) -> Callable[[], object]:
    svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-3}), Trace_ELBO())
    return lambda: svi.step(x)


def by_svi_unchecked(vae: VAE, x: Tensor) -> Callable[[], object]:
    step = by_svi(vae, x)

    def unchecked() -> None:
        with pyro.validation_enabled(False):
            step()

    return unchecked


def by_torch(vae: VAE, x: Tensor) -> Callable[[], object]:
    optimizer = torch.optim.Adam(vae.parameters(), lr=1e-3, fused=True)
    objective = objectives.trace_elbo()

    def step() -> float:
        optimizer.zero_grad()
        loss = objective.differentiable_loss(vae.model, vae.guide, x)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def in_turns(variants: Mapping[str, Callable[[], object]], rounds: int) -> list[list[str]]:
    """Rows of median time, and of the median ratio to the first variant with its quartiles."""
    for run in variants.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(rounds):
        for name, run in variants.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    first = next(iter(seconds.values()))
    rows = []
    for name, times in seconds.items():
        low, middle, high = statistics.quantiles(
            [t / f for t, f in zip(times, first, strict=True)], n=4
        )
        rows.append(
            [
                name,
                f"{1e3 * statistics.median(times):.1f}",
                f"{middle:.2f}",
                f"{low:.2f}–{high:.2f}",
            ]
        )
    return rows


def steps(rounds: int) -> str:
    data = datasets.load("digits")
    x = datasets.binarize(data.train[:BATCH], seed=0)

    def vae() -> VAE:
        torch.manual_seed(0)
        return presets.build("pyro-mlp", shape=data.shape)

    variants = {
        "PyTorch by hand, Adam": by_hand(vae(), x, fused=False),
        "PyTorch by hand, fused Adam": by_hand(vae(), x, fused=True),
        "SVI, pyro.optim.Adam": by_svi(vae(), x),
        "the same without validation": by_svi_unchecked(vae(), x),
        "differentiable_loss, fused Adam": by_torch(vae(), x),
    }
    return _table("a step of pyro-mlp, batch 128", in_turns(variants, rounds))


def epochs(rounds: int) -> str:
    data = datasets.load("digits")
    vae = presets.build("pyro-mlp", shape=data.shape)
    plain = by_hand(vae, datasets.binarize(data.train[:BATCH], seed=0), fused=False)
    batches = -(-len(data.train) // BATCH)

    def hand() -> None:
        for _ in range(batches):
            plain()

    variants = {
        "PyTorch by hand, steps alone on one batch": hand,
        "fit, binary pixels": lambda: fit(vae, data.train, epochs=1, pixels="binary"),
    }
    return _table("an epoch of 10,000 digits, pyro-mlp", in_turns(variants, rounds))


def evaluator(rounds: int) -> str:
    data = datasets.load("digits")
    vae = presets.build("pyro-mlp", shape=data.shape)
    x = datasets.binarize(data.test[:64], seed=0)
    weights = [p.detach() for p in vae.likelihood.parameters() if p.dim() == 2]

    def products() -> None:
        for _ in range(16):
            h = torch.randn(64 * 64, 50)
            for weight in weights:
                h = h @ weight.T

    variants = {
        "the decoder's matrix products alone": products,
        "log_likelihood": lambda: log_likelihood(vae, x, 1024, seed=0),
    }
    return _table("64 images x 1,024 importance samples, pyro-mlp", in_turns(variants, rounds))


def _table(what: str, rows: list[list[str]]) -> str:
    return markdown([what, "ms (median)", "ratio", "quartiles"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="the Markdown file to write")
    parser.add_argument("--rounds", type=int, default=200, help="steps of each variant")
    arguments = parser.parse_args()
    few = max(3, arguments.rounds // 20)
    tables = [steps(arguments.rounds), epochs(few), evaluator(few)]
    memory = psutil.virtual_memory().total / 2**30
    text = (
        "# Benchmarks\n\nMade by `make bench`. In each table the variants took turns in one "
        "process; a ratio is the median over turns of a variant's time to the first row's.\n\n"
        f"{platform.machine()}, {psutil.cpu_count(logical=False)} cores, {memory:.0f} GiB, "
        f"{torch.get_num_threads()} threads, torch {torch.__version__}, "
        f"Pyro {pyro.__version__}.\n\n" + "\n\n".join(tables) + "\n"
    )
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(text)
    print(text)


main()
