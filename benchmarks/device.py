"""Steps, epochs, evaluation and growth on a GPU, beside NumPyro and PyTorch by hand."""

import importlib.util
import math
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyro
import torch
import torch.nn.functional as F
from pyro.infer import SVI
from torch import Tensor

from pyro_vae import VAE, datasets, fit, log_likelihood, objectives, optim, presets
from pyro_vae.compile import Recording
from pyro_vae.utils.tables import markdown

from .checkpoints import cost
from .measure import Runs, compared, in_turns
from .programs import Step, by_hand, importance_loop, networks, products

IWAE_EPOCHS = 3280
"""Burda, Grosse and Salakhutdinov (2016), section 5: passes over the training set."""


class Measured:
    """What is measured, on a device.

    Arguments:
        device: The device.
        rounds: The number of steps of each variant.
        small: Takes few images, so that it ends soon.
    """

    def __init__(self, device: str, rounds: int, small: bool) -> None:
        self.device = torch.device(device)
        self.rounds = 3 if small else rounds
        self.epochs = 2 if small else 9
        self.small = small
        self.precision = "float32"
        generator = torch.Generator().manual_seed(0)
        size = 600 if small else 60_000
        # Speed does not depend on the images, so the machine need not have MNIST.
        self.levels = torch.randint(
            256, (size, 28, 28), generator=generator, dtype=torch.uint8
        ).to(self.device)

    def build(self, name: str = "pyro-mlp", z_dim: int | None = None) -> VAE:
        torch.manual_seed(0)
        return presets.build(name, shape=(28, 28), z_dim=z_dim).to(self.device)

    def batch(self, size: int) -> Tensor:
        return datasets.binarize(self.levels[:size], seed=0)

    # Steps.

    def captured_by_hand(self, x: Tensor) -> Callable[[], object]:
        """One whole step of PyTorch by hand as a CUDA graph; eager without a GPU."""
        vae = self.build()
        encoder, decoder = networks(vae)
        on_gpu = self.device.type == "cuda"
        adam = torch.optim.Adam(vae.parameters(), lr=1e-3, fused=True, capturable=on_gpu)

        def step() -> Tensor:
            adam.zero_grad()
            loc, raw = encoder(x).chunk(2, -1)
            scale = F.softplus(raw) + 1e-4
            z = loc + scale * torch.randn_like(loc)
            nats = F.binary_cross_entropy_with_logits(decoder(z), x, reduction="sum")
            loss = nats + (-scale.log() - 0.5 * ((z - loc) / scale) ** 2 + 0.5 * z**2).sum()
            loss.backward()
            adam.step()
            return loss.detach()

        if not on_gpu:
            return lambda: step().item()
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            for _ in range(3):
                step()
        torch.cuda.synchronize()
        recording = Recording(step, self.device)

        def replay() -> float:
            recording.replay()
            return float(recording.result.item())

        return replay

    def svi(self, particles: int = 1, z_dim: int | None = None) -> Step:
        vae = self.build(z_dim=z_dim)
        loss = objectives.compiled(objectives.trace_elbo(particles))
        return SVI(vae.model, vae.guide, optim.Adam(lr=1e-3), loss).step

    def steps(self) -> list[str]:
        tables = []
        for size in (128, 1024)[: 1 if self.small else 2]:
            x = self.batch(size)
            eager, svi = by_hand(self.build(), fused=True), self.svi()
            runs: dict[str, Callable[[], object]] = {
                "one step by hand, captured": self.captured_by_hand(x),
                "by hand, fused Adam": lambda x=x, step=eager: step(x),  # type: ignore[misc]
                "ours: svi.step, compiled": lambda x=x, step=svi: step(x),  # type: ignore[misc]
            }
            if self.device.type == "cuda" and size == 128 and self.precision == "TF32":
                reduced = by_hand(self.build(), fused=True, mode="reduce-overhead")
                runs["by hand, reduce-overhead"] = lambda x=x, step=reduced: step(x)  # type: ignore[misc]
            tables.append(compared(f"a step, batch {size}", runs, self.rounds, warm_up=15))
        return tables

    # Epochs.

    def fit(self, batch: int, levels: Tensor, **settings: Any) -> Callable[[], object]:
        vae, optimizer = self.build(), optim.Adam(lr=1e-3)
        objective = objectives.compiled(objectives.trace_elbo())
        chosen = {"objective": objective, "optim": optimizer, "batch_size": batch, **settings}
        return lambda: fit(vae, levels, epochs=1, pixels="binary", **chosen)

    def numpyro(self, batch: int) -> Runs:
        try:
            from .others import NumPyro
        except ImportError:
            return {}
        return {"NumPyro, jitted": NumPyro(self.levels.cpu(), batch).epoch}

    def without_numpyro(self) -> str:
        """A line for the head if NumPyro is not installed."""
        if importlib.util.find_spec("numpyro"):
            return ""
        return "NumPyro is not installed here, so its rows are left out.\n"

    def epoch(self) -> list[str]:
        tables = []
        for batch in (128, 1024)[: 1 if self.small else 2]:
            runs = {
                **self.numpyro(batch),
                "ours: fit, compiled": self.fit(batch, self.levels),
            }
            if self.precision == "TF32" and batch == 128:
                run = self.fit(batch, self.levels, precision="bf16")
                runs["ours: fit, compiled, bf16"] = run
            what = f"an epoch of {len(self.levels):,} images, pyro-mlp, batch {batch}"
            tables.append(compared(what, runs, self.epochs, warm_up=2))
        return tables

    def default(self) -> list[str]:
        """Four epochs by the default settings, compilation included."""
        vae = self.build()
        start = time.perf_counter()
        history = fit(vae, self.levels, epochs=4, pixels="binary")
        seconds = time.perf_counter() - start
        rows = [[f"{s:.3f}" for s in history.seconds] + [f"{seconds:.1f}"]]
        names = [f"epoch {number}: s" for number in history.epoch]
        return [markdown([*names, "the whole call: s"], rows)]

    # Evaluation.

    def evaluation(self) -> list[str]:
        examples, samples = (64, 128) if self.small else (2000, 5000)
        vae, x = self.build().eval(), self.batch(examples)
        decoder = networks(vae)[1]
        z = torch.randn(min(64_000, 64 * samples), 50, device=self.device)
        multiply = products(decoder, z, math.ceil(examples * samples / len(z)))

        def multiplied() -> None:
            multiply()
            self.wait()

        runs = {
            "a loop by hand, 1,000 samples of 64 images": importance_loop(vae, x, samples, 1000),
            "the decoder's matrix products alone": multiplied,
            "ours: log_likelihood": lambda: log_likelihood(vae, x, samples, seed=0).mean,
        }
        what = f"{examples:,} images x {samples:,} importance samples, pyro-mlp"
        return [compared(what, runs, max(2, self.epochs // 3), warm_up=1)]

    def checkpoints(self) -> list[str]:
        return [cost(self.build, self.levels, self.epochs)]

    # Growth.

    def growth(self) -> list[str]:
        rows = []
        cases = [(128, 1, 50), (512, 1, 50), (2048, 1, 50), (128, 16, 50), (128, 1, 200)]
        for batch, particles, z_dim in cases[: 1 if self.small else None]:
            x, step = self.batch(batch), self.svi(particles, z_dim)
            seconds = in_turns({"ours": lambda x=x, step=step: step(x)}, self.rounds, 15)  # type: ignore[misc]
            median = 1e3 * statistics.median(seconds["ours"])
            rows.append([str(batch), str(particles), str(z_dim), f"{median:.2f}"])
        sizes = [len(self.levels) // part for part in (6, 2, 1)]
        runs = {f"{size:,} images": self.fit(128, self.levels[:size]) for size in sizes}
        return [
            markdown(["batch", "particles", "latents", "svi.step, compiled: ms"], rows),
            compared("an epoch of fit, compiled, batch 128, of", runs, self.epochs, warm_up=2),
        ]

    def iwae(self) -> list[str]:
        """The whole of IWAE's training, by calculation from measured epochs."""
        rows = []
        for batch in (100, 20):
            vae, optimizer = self.build("iwae-mlp"), optim.Adam(lr=1e-3)
            objective = objectives.compiled(objectives.iwae(50 if not self.small else 2))
            settings: dict[str, Any] = {"objective": objective, "optim": optimizer}
            seconds = []
            for _ in range(1 + max(1, self.epochs // 4)):
                start = time.perf_counter()
                fit(vae, self.levels, epochs=1, batch_size=batch, pixels="binary", **settings)
                seconds.append(time.perf_counter() - start)
            epoch = statistics.median(seconds[1:])
            rows.append([str(batch), f"{epoch:.3f}", f"{epoch * IWAE_EPOCHS / 60:.1f}"])
        names = ["batch", "an epoch: s", f"{IWAE_EPOCHS:,} epochs, calculated: min"]
        return [markdown(names, rows)]

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()


@contextmanager
def products_in(precision: str) -> Iterator[None]:
    """Matrix products in TF32 or float32, in torch and in JAX."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if precision == "TF32" else "highest")
    try:
        import jax
    except ImportError:
        jax = None
    try:
        if jax is None:
            yield
        else:
            name = "tensorfloat32" if precision == "TF32" else "float32"
            with jax.default_matmul_precision(name):
                yield
    finally:
        torch.set_float32_matmul_precision(before)


def described(device: torch.device) -> str:
    if device.type != "cuda":
        return f"{platform.machine()} CPU, {torch.get_num_threads()} threads"
    return torch.cuda.get_device_name(device)


def main(out: Path, device: str, only: Sequence[str], rounds: int, small: bool) -> None:
    """Writes the tables.

    Arguments:
        out: The Markdown file.
        device: The device.
        only: The titles of the sections to measure; none for all.
        rounds: The number of steps of each variant.
        small: Takes few images, so that it ends soon.
    """
    measured = Measured(device, rounds, small)
    sections: dict[str, tuple[Sequence[str], Callable[[], list[str]]]] = {
        "Epochs": (("TF32", "float32"), measured.epoch),
        "Evaluation": (("TF32", "float32"), measured.evaluation),
        "Steps": (("TF32", "float32"), measured.steps),
        "IWAE": (("TF32",), measured.iwae),
        "Default settings": (("float32",), measured.default),
        "Checkpoints": (("TF32",), measured.checkpoints),
        "Growth": (("TF32",), measured.growth),
    }
    command = f"python -m benchmarks --device {device}{' --small' if small else ''}"
    text = (
        f"# Benchmarks on a GPU\n\nMade by `{command}`. In each table the variants took turns in "
        "one process; a ratio is the median over turns of a variant's time to the first row's, "
        "with its quartiles. Images are random levels, of which pixels are drawn afresh in each "
        f"epoch.\n\n{described(measured.device)}, torch {torch.__version__}, Pyro "
        f"{pyro.__version__}.\n{measured.without_numpyro()}"
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    for title, (precisions, tables) in sections.items():
        if only and title not in only:
            continue
        start = time.perf_counter()
        text += f"\n## {title}\n"
        for precision in precisions if measured.device.type == "cuda" else ("float32",):
            measured.precision = precision
            with products_in(precision):
                text += f"\nMatrix products in {precision}:\n\n" + "\n\n".join(tables()) + "\n"
            out.write_text(text)  # What is measured is kept, whatever comes after.
        print(f"{title}: {time.perf_counter() - start:.0f} s", flush=True)
    print(text)
