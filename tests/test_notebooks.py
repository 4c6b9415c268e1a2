"""The notebooks run from top to bottom, with few epochs on few images."""

import os
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))

SLOW = ("00", "01", "02", "03", "04", "05", "06", "07")  # make test-slow runs them
RUNS = [
    pytest.param(
        path, id=path.stem, marks=[pytest.mark.slow] if path.stem.startswith(SLOW) else []
    )
    for path in NOTEBOOKS
]

# Put before a notebook's first cell: a few images, with every second pixel of a row.
FEW_IMAGES = """
from pyro_vae import datasets
from pyro_vae.datasets import Dataset

def few(load=datasets.load):
    def loaded(*args, **kwargs):
        data = load(*args, **kwargs)
        return Dataset(
            data.train[:256, ::2, ::2], data.test[:64, ::2, ::2],
            data.train_labels[:256], data.test_labels[:64],
        )
    return loaded

datasets.load = few()
"""


@pytest.mark.parametrize("path", RUNS)
def test_notebook_runs(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYRO_VAE_EPOCHS", "1")
    notebook = nbformat.read(path, as_version=4)
    if path.stem != "00_the_lecture":  # which speaks of certain images, and is short by itself
        notebook.cells.insert(0, nbformat.v4.new_code_cell(FEW_IMAGES))
    client = NotebookClient(notebook, timeout=240, kernel_name="python3")
    client.execute(cwd=os.fspath(path.parent))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_committed_outputs_come_from_a_whole_run(path: Path) -> None:
    cells = [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]
    assert [c.execution_count for c in cells] == list(range(1, len(cells) + 1))
    for cell in cells:
        for output in cell.outputs:
            assert output.output_type != "error"
            assert output.get("name") != "stderr"
