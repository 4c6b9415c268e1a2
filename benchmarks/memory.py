"""Peak memory of one ``fit`` on MNIST, beyond data and model, in a process of its own.

python -m benchmarks.memory IMAGES [KEYWORD=VALUE ...]
"""

import sys
from typing import Any

import torch

from pyro_vae import datasets, fit, presets

from .measure import peak_memory


def main(images: str, *options: str) -> None:
    settings: dict[str, Any] = dict(option.split("=") for option in options)
    settings["compile"] = settings["compile"] == "True"
    levels = datasets.load("mnist").train[: int(images)]
    vae = presets.build("pyro-mlp", shape=levels.shape[1:])
    torch.randn(500, 500) @ torch.randn(500, 500)  # MKL's own memory is nobody's
    grown = peak_memory(lambda: fit(vae, levels, epochs=1, pixels="binary", **settings))
    print(f"{grown:.0f}")


main(*sys.argv[1:])
