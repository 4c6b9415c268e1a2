"""The notebooks run from top to bottom, and are read with pleasure: a question, and its answer."""

import ast
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

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


def code_of(path: Path) -> list[Any]:
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_has_a_question_and_its_answer(path: Path) -> None:
    """The question is in italics below the title, and the answer is the last cell."""
    first, *_, last = nbformat.read(path, as_version=4).cells
    assert first.cell_type == last.cell_type == "markdown"
    assert re.match(r"# .+\n\n\*[^*]+\?\*\n", first.source)
    assert last.source.startswith("## The answer\n\n")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_cells_are_short_and_leave_no_widgets(path: Path) -> None:
    for cell in code_of(path):
        assert len(cell.source.splitlines()) <= 15, cell.source
        for output in cell.outputs:
            assert not [kind for kind in output.get("data", {}) if "widget" in kind]
    assert "widgets" not in nbformat.read(path, as_version=4).metadata


# The lecture's own formulas, which are functions.
TAUGHT = {"00_the_lecture": {"expected_log_likelihood", "general_kl", "expected"}}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_has_no_helpers(path: Path) -> None:
    """What it defines is a part or a program, which it teaches; the rest is the library's."""
    for cell in code_of(path):
        for node in ast.parse(cell.source).body:
            if isinstance(node, ast.ClassDef):
                assert [base for base in node.bases if ast.unparse(base).startswith("nn.")]
            elif isinstance(node, ast.FunctionDef):
                program = "pyro.sample(" in ast.unparse(node)
                assert program or node.name in TAUGHT.get(path.stem, ()), node.name


def numbers(text: str) -> Iterator[tuple[float, int]]:
    """Numbers with a decimal point, without their signs, and how many decimals they have."""
    for whole, decimals in re.findall(r"(?<![\w.])(\d+)\.(\d+)(?![\d.]*[\d])", text):
        yield float(f"{whole}.{decimals}"), len(decimals)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_answers_quote_what_was_seen(path: Path) -> None:
    """Each number with a decimal point in an answer is one of the outputs, rounded."""
    cells = nbformat.read(path, as_version=4).cells
    seen = []
    for cell in cells:
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            texts = output.get("text", ""), data.get("text/plain", ""), data.get("text/html", "")
            seen += [value for text in texts for value, _ in numbers(text)]
    for cell in cells:
        _, answer, text = cell.source.partition("nswer")
        if cell.cell_type == "markdown" and answer:
            for value, decimals in numbers(text):
                near = 0.5 * 10**-decimals * (1 + 1e-6)
                assert [each for each in seen if abs(each - value) <= near], value
