"""Progress: a bar on a terminal, lines in a file, one line of text in a notebook."""

import io
import math
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pyro_vae import Pair, fit, log_likelihood
from pyro_vae.training import History, Recovery
from pyro_vae.utils.progress import progress_bar, without_lines

from ..vaes import bernoulli_vae, binary


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def shown(patch: pytest.MonkeyPatch, stream: io.StringIO, disabled: str | None = None) -> None:
    """Writes to a stream; TQDM_DISABLE is set to a value, or not set."""
    patch.setattr(sys, "stderr", stream)
    patch.delenv("TQDM_DISABLE")
    if disabled is not None:
        patch.setenv("TQDM_DISABLE", disabled)


def trained(**options: Any) -> History:
    return fit(bernoulli_vae(), binary(12), epochs=3, batch_size=4, **options)


def test_a_log_file_has_a_line_for_each_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    """It has the costs, seconds, and the time left, which ends at none."""
    shown(monkeypatch, file := io.StringIO())
    history = trained(test=binary(5))
    lines = file.getvalue().splitlines()
    assert "\r" not in file.getvalue()
    for epoch, line in enumerate(lines, 1):
        row = history.rows()[epoch - 1]
        numbers = ", ".join(f"{n}={row[n]:.2f}" for n in ("cost", "test_cost", "seconds"))
        assert line.startswith(f"epoch {epoch}/3: {3 * epoch}/9 batches, {numbers}, ")
        assert re.search(r" (batches/s|s/ ?batches), \d\d:\d\d passed, \d\d:\d\d left$", line)
    assert len(lines) == 3
    assert lines[-1].endswith("00:00 left")


@pytest.mark.parametrize("held_out", ["test", "validation"])
def test_a_line_has_the_costs_that_there_are(
    held_out: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown(monkeypatch, file := io.StringIO())
    trained(**{held_out: binary(5)})
    line = file.getvalue().splitlines()[0]
    for name in ("test", "validation"):
        assert (f"{name}_cost=" in line) == (name == held_out)


def test_a_disabled_bar_writes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for file in (io.StringIO(), Terminal()):
        shown(monkeypatch, file, "1")
        trained()
        log_likelihood(bernoulli_vae(), binary(5), 30, seed=0)
        assert file.getvalue() == ""
        monkeypatch.setenv("TQDM_DISABLE", "1")


def test_a_bar_may_be_asked_for_in_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    shown(monkeypatch, file := io.StringIO(), "0")
    trained()
    assert "\repoch 1/3:" in file.getvalue()


def test_no_stderr_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    shown(monkeypatch, io.StringIO())
    monkeypatch.setattr(sys, "stderr", None)
    trained()


def test_a_terminal_has_a_bar_with_costs_speed_and_time_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shown(monkeypatch, terminal := Terminal())
    history = trained(test=binary(5))
    drawn = terminal.getvalue().split("\r")
    bars = [bar for bar in drawn if f"cost={history.cost[-1]:.2f}" in bar]
    assert bars
    assert f"test_cost={history.test_cost[-1]:.2f}" in bars[-1]
    assert re.search(r"9/9 \[\d\d:\d\d<\d\d:\d\d, .*batches", bars[-1])
    assert "\n" not in terminal.getvalue()
    assert not drawn[-1].strip(), "nothing is left"


def test_a_program_with_lines_of_its_own_has_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    shown(monkeypatch, file := io.StringIO())
    with without_lines():
        trained()
    assert file.getvalue() == ""
    trained()
    assert file.getvalue().count("\n") == 3


class Stream:
    """Batches of which nobody knows the number before."""

    def __iter__(self) -> Iterator[Tensor]:
        yield from binary(12).split(4)


def test_the_time_left_of_a_stream_is_known_after_an_epoch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shown(monkeypatch, file := io.StringIO())
    fit(bernoulli_vae(), Stream(), epochs=3)
    assert [line.split(" batches")[0] for line in file.getvalue().splitlines()] == [
        "epoch 1/3: 3/9",
        "epoch 2/3: 6/9",
        "epoch 3/3: 9/9",
    ]


def test_steps_before_a_checkpoint_do_not_count_for_the_speed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Of 30 steps, 15 were taken before: those after take as long as they do."""
    options: dict[str, Any] = {"batch_size": 4, "checkpoint": tmp_path, "seed": 0}
    x = binary(12)
    fit(bernoulli_vae(), x, epochs=5, **options)
    shown(monkeypatch, file := io.StringIO())
    fit(bernoulli_vae(), x, epochs=10, resume=True, **options)
    lines = file.getvalue().splitlines()
    assert [line.split(" batches")[0] for line in lines] == [
        f"epoch {epoch}/10: {3 * epoch}/30" for epoch in range(6, 11)
    ]


def test_steps_that_are_taken_again_are_among_those_left(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The third epoch breaks, and the training goes back to the second's checkpoint."""
    breaks = iter((False, False, True))

    def callback(pair: Pair, history: History) -> None:
        if next(breaks, False):
            with torch.no_grad():
                next(pair.parameters()).fill_(math.nan)

    shown(monkeypatch, file := io.StringIO())
    options: dict[str, Any] = {"checkpoint": tmp_path, "checkpoint_every": "2 epochs"}
    options |= {"batch_size": 4, "recovery": Recovery(1, 0.5), "callbacks": [callback]}
    fit(bernoulli_vae(), binary(12), epochs=4, **options)
    lines = [line for line in file.getvalue().splitlines() if line.startswith("epoch")]
    assert [line.split(" batches")[0] for line in lines] == [
        "epoch 1/4: 3/12",
        "epoch 2/4: 6/12",
        "epoch 3/4: 9/12",
        "epoch 3/4: 12/15",
        "epoch 4/4: 15/15",
    ]


def test_time_left_is_that_of_the_steps_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    shown(monkeypatch, file := io.StringIO())
    with progress_bar(30, "batches", initial=15, has_rows=True) as bar:
        bar.start_t -= 100
        bar.update(5)
        bar.row(seconds=1.0, cost=2.0)
    assert "20/30 batches, cost=2.00, seconds=1.00, 20.0" in file.getvalue()
    assert "s/ batches, 01:40 passed, 03:20 left" in file.getvalue()


def test_an_evaluation_writes_a_line_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    shown(monkeypatch, file := io.StringIO())
    with progress_bar(300, "examples", "log-likelihood") as bar:
        for minutes in (0, 1, 0, 0, 1):
            bar.last_print_t -= 60 * minutes
            bar.start_t -= 60 * minutes
            bar.update(30)
    lines = file.getvalue().splitlines()
    assert [line.split(" passed")[0].split(" examples, ")[0] for line in lines] == [
        "log-likelihood: 60/300",
        "log-likelihood: 150/300",
    ]
    assert lines[0].endswith("01:00 passed, 04:00 left")


CELLS = {
    "nested": """
import time
import torch
from pyro_vae import fit, presets
from pyro_vae.utils.progress import progress_bar

def loop(wait):
    vae = presets.build("pyro-mlp", z_dim=2, shape=16)
    with progress_bar(3, "steps", "outer", has_rows=True) as bar:
        time.sleep(wait)
        bar.update()
        bar.row(seconds=1.0, cost=12.5)
        fit(vae, torch.eye(16), epochs=2, batch_size=8, callbacks=[lambda *_: time.sleep(wait)])
        bar.update()

for _ in range(2):
    loop(0.6)
""",
    "short": "loop(0.01)",
    "costs alone": """
with progress_bar(3, "steps", has_rows=True) as bar:
    bar.update()
    time.sleep(0.6)
    bar.row(seconds=1.0, cost=12.5)
""",
    "error": """
with progress_bar(3, "steps") as bar:
    time.sleep(0.6)
    bar.update()
    1 / 0
""",
    "open": """
bar = progress_bar(3, "steps", "outer", has_rows=True)
time.sleep(0.6)
_ = bar.update()
bar.row(seconds=1.0, cost=12.5)
""",
}


@pytest.mark.slow
def test_a_notebook_has_one_line_and_no_widget(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The line is empty after the loops, also after an error; a short loop has none.

    What a kernel says of itself, such as of its database of inputs, goes to a stream and is not
    compared; progress is not in it.
    """
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    monkeypatch.delenv("TQDM_DISABLE")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    cells = [nbformat.v4.new_code_cell(code) for code in CELLS.values()]
    notebook = nbformat.v4.new_notebook(cells=cells)
    nbclient.NotebookClient(notebook, timeout=100, allow_errors=True).execute()
    outputs = dict(zip(CELLS, (cell.outputs for cell in notebook.cells), strict=True))
    said = [out.text for each in outputs.values() for out in each if out.output_type == "stream"]
    assert not [text for text in said if re.search(r"\d/\d|%\|| left|examples", text)]
    shown = {
        name: [(out.output_type, out.get("data")) for out in each if out.output_type != "stream"]
        for name, each in outputs.items()
    }
    line = ("display_data", {"text/plain": ""})
    text = shown.pop("open")[0][1]["text/plain"]
    assert re.fullmatch(r"outer: +33%.* 1/3 \[00:00<00:01, .*steps.*, cost=12.50\]", text)
    assert shown == {
        "nested": [line],
        "short": [],
        "costs alone": [line],
        "error": [line, ("error", None)],
    }
