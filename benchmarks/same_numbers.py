"""Whether two source trees give the same numbers: for changes that are to change none.

python -m benchmarks.same_numbers OLD [NEW] [--only PART]

OLD and NEW are folders with the package and notebooks in them: a ``git worktree`` of an earlier
commit, and this one. Each command runs in both with the same seeds, and what it writes is compared
number by number, but for times, memory and versions. Prints a line a file with the largest
relative difference, and exits with 1 where one is above 1e-6.
"""

import argparse
import csv
import io
import json
import math
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

TOLERANCE = 1e-6
QUICK = "--epochs 1 --num-samples 10"
COMMANDS = {
    "run": [
        "train --preset bernoulli-mlp --data digits --epochs 40 --out vae",
        "evaluate vae",
        "compare --preset bernoulli-mlp --data digits --epochs 10 --seeds 3 --num-samples 200 "
        "--examples 1000 --out comparison",
    ],
    "parts": [f"reproduce parts --data digits {QUICK} --plain-epochs 0 --only VampPrior(500)"],
    "likelihoods": [
        f"reproduce pixel-likelihoods --data digits {QUICK} --examples 50 --only Gaussian"
    ],
    "analytic_kl": [f"reproduce analytic-kl {QUICK} --seeds 1 --draws 20 --only landing"],
    "iwae_table": ["reproduce iwae-table --quick --only VAE"],
    "lecture": ["reproduce lecture --data digits --epochs 2 --seeds 1"],
}
LEFT_OUT = re.compile(r"seconds|minutes|versions|python|threads|time|peak|bytes|weights_hash")


def numbers(tree: Path, folder: Path, part: str) -> dict[str, dict[str, Any]]:
    """What the commands of a part write, by file and by place in it."""
    environment = os.environ | {"PYTHONPATH": str(tree), "PYRO_VAE_EPOCHS": "1"}
    environment |= {"TQDM_DISABLE": "1", "MPLBACKEND": "Agg"}
    if part == "notebooks":
        return {path.name: notebook(path, environment) for path in notebooks(tree)}
    for command in COMMANDS[part]:
        name, *rest = command.split(" --only ")
        words = [*name.split(), *(["--only", rest[0], "--out", "study"] if rest else [])]
        if part == "lecture":
            words += ["--out", "study"]
        run = [sys.executable, "-m", "pyro_vae", *words]
        subprocess.run(run, cwd=folder, env=environment, check=True, capture_output=True)
    return {
        str(path.relative_to(folder)): dict(read(path))
        for path in sorted(folder.rglob("*"))
        if path.suffix in (".json", ".csv") and path.name != "config.json"
    }


def read(path: Path) -> Iterator[tuple[str, Any]]:
    """The values of a JSON or CSV file by their places, those that are no results left out."""
    text = path.read_text()
    if path.suffix == ".json":
        yield from flat("", json.loads(text))
    else:
        for row, record in enumerate(csv.DictReader(io.StringIO(text))):
            yield from flat(str(row), record)


def flat(place: str, value: Any) -> Iterator[tuple[str, Any]]:
    """The leaves of nested lists and mappings."""
    items: Any = ()
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    else:
        yield place, value
    for key, inner in items:
        if not LEFT_OUT.search(str(key)):
            yield from flat(f"{place}/{key}", inner)


def notebooks(tree: Path) -> list[Path]:
    """Those that both trees have."""
    return sorted((tree / "notebooks").glob("0[1-4]*.ipynb"))


def notebook(path: Path, environment: dict[str, str]) -> dict[str, Any]:
    """The numbers that a notebook prints in its short form, but for those of times."""
    import nbformat
    from nbclient import NotebookClient

    book = nbformat.read(path, as_version=4)
    os.environ.update({k: environment[k] for k in ("PYTHONPATH", "PYRO_VAE_EPOCHS")})
    NotebookClient(book, timeout=600, kernel_name="python3").execute(cwd=str(path.parent))
    found = {}
    for index, cell in enumerate(c for c in book.cells if c.cell_type == "code"):
        texts = [o.get("text") or o.get("data", {}).get("text/plain", "") for o in cell.outputs]
        texts = [re.sub(r"[\d.]+ \|$", "", t, flags=re.M) if "seconds" in t else t for t in texts]
        text = re.sub(r"[\d.]+ (?:s|seconds|minutes|ms|MiB)\b|0x[0-9a-f]+", "", "\n".join(texts))
        for place, number in enumerate(re.findall(r"-?\d+\.\d+(?:e-?\d+)?", text)):
            found[f"cell {index}, number {place}"] = number
    return found


def difference(old: Any, new: Any, size: Any = 0.0) -> float:
    """The relative difference of two numbers; infinite where they are no numbers and differ.

    `size` is that of the numbers of which they are differences, as a KL is of two costs.
    """
    if old == new or {str(old).lower(), str(new).lower()} <= {"nan", "none", ""}:
        return 0.0
    try:
        a, b = float(old), float(new)
    except (TypeError, ValueError):
        return math.inf
    return 0.0 if a == b else abs(a - b) / max(abs(a), abs(b), abs(float(size)))


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path, nargs="?", default=Path(__file__).parent.parent)
    parser.add_argument("--only", choices=[*COMMANDS, "notebooks"])
    options = parser.parse_args()
    worst = 0.0
    for part in [options.only] if options.only else [*COMMANDS, "notebooks"]:
        with tempfile.TemporaryDirectory() as a, tempfile.TemporaryDirectory() as b:
            old = numbers(options.old.resolve(), Path(a), part)
            new = numbers(options.new.resolve(), Path(b), part)
        for file in sorted(old.keys() ^ new.keys()):
            print(f"{part}: {file}: only in {'NEW' if file in new else 'OLD'}")
        for file in sorted(old.keys() & new.keys()):
            ours, theirs = new[file], old[file]
            apart = {
                place: difference(
                    theirs.get(place, "absent"),
                    ours.get(place, "absent"),
                    ours.get(f"{place.removesuffix('/kl')}/cost", 0.0),
                )
                for place in theirs.keys() | ours.keys()
            }
            place = max(apart, key=lambda each: apart[each], default="")
            most = apart.get(place, 0.0)
            worst = max(worst, most)
            where = f" at {place}: {theirs.get(place)} and {ours.get(place)}" if most else ""
            print(f"{part}: {file}: {len(apart)} numbers, at most {most:.1e} apart{where}")
    return int(worst > TOLERANCE)


if __name__ == "__main__":
    sys.exit(main())
