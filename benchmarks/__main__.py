"""Measures how fast the package is, beside others.

python -m benchmarks --out docs/benchmarks.md
python -m benchmarks --device cuda --out docs/benchmarks-cuda.md
python -m benchmarks --device cpu --small --out FILE    # the GPU's tables, small, on a CPU
"""

import argparse
import os
import warnings
from pathlib import Path

os.environ["TQDM_DISABLE"] = "1"  # before tqdm is imported
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # Both libraries share the GPU.


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="the Markdown file to write")
    parser.add_argument("--device", help="measure the tables of a GPU on this device")
    parser.add_argument("--small", action="store_true", help="few images, so that it ends soon")
    parser.add_argument("--only", nargs="*", default=(), help="sections, by their titles")
    parser.add_argument("--rounds", type=int, default=200, help="steps of each variant")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    if arguments.device is None:
        from .processor import main as measure

        measure(arguments.out, arguments.only, arguments.rounds)
    else:
        from .device import main as measure_device

        measure_device(
            arguments.out, arguments.device, arguments.only, arguments.rounds, arguments.small
        )


main()
