"""README.md and the hand-written pages of docs/: their code runs, their links and tables hold."""

import re
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from pyro_vae import (
    datasets,
    estimators,
    likelihoods,
    objectives,
    posteriors,
    presets,
    priors,
)
from pyro_vae.cli import app
from tests.conftest import needs_compiler
from tests.trackers import Calls, mlflow, wandb

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
README = ROOT / "README.md"
GENERATED = ("benchmarks", "classes", "lecture", "likelihoods", "parts", "results")
PAGES = sorted(path for path in DOCS.glob("*.md") if path.stem not in GENERATED)
LANDING = "docs/index.md"  # of the site; tests/docs holds it
TEXTS = {str(path.relative_to(ROOT)): path.read_text() for path in (README, *PAGES)}
LINKED = {**TEXTS, **{f"docs/{n}.md": (DOCS / f"{n}.md").read_text() for n in GENERATED}}
MOST_LINES = 150

# What costs time, and what it is in a test. A block shares nothing with another.
SHORTER = (
    (r"\bepochs=\d+", "epochs=1"),
    (r"\bnum_samples=\d+", "num_samples=10"),
    (r"\bsteps=\d+", "steps=5"),
    (r"\bdraws=\d+", "draws=20"),
    (r"\bseeds=\([\d, ]+\)", "seeds=(0,)"),
    (r"\b(temperatures|leapfrog_steps|num_examples)=\d+", r"\1=3"),
    (r"\brange\(\d{2,}\)", "range(10)"),
    (r"\b(data\.\w+|x)\[:\d+\]", r"\1[:10]"),
    (r"\bdata\.test(_labels)?\b(?!_|\[)", r"data.test\1[:50]"),
    (r"\bdata\.train(_labels)?\b(?!_|\[)", r"data.train\1[:256]"),
    (r"\((500, 500|200,)\)", "(20,)"),
)


def blocks() -> list[tuple[str, int, str]]:
    """Each Python block with its file and the line where it begins.

    Those of the gallery run together, in tests/test_gallery.py.
    """
    found = []
    for name, text in TEXTS.items():
        if name == "docs/gallery.md":
            continue
        for match in re.finditer(r"```python\n(.*?)```", text, flags=re.DOTALL):
            found.append((name, text[: match.start()].count("\n") + 2, match[1]))
    return found


def commands() -> list[str]:
    """Each line that calls ``pyro-vae`` with arguments, without its comment."""
    lines = "\n".join(TEXTS.values()).splitlines()
    calls = [line.split("#")[0].strip() for line in lines if line.startswith("    pyro-vae ")]
    quoted = re.findall(r"`(pyro-vae [a-z][^`]*)`", "\n".join(TEXTS.values()))
    return sorted({call for call in calls + quoted if "NAME" not in call})


def tables(text: str) -> list[list[list[str]]]:
    """The Markdown tables of a text, as rows of cells, the line below the header left out."""
    found = []
    for table in re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE):
        header, _, *rows = table.splitlines()
        found.append([[c.strip() for c in row.strip("|").split("|")] for row in (header, *rows)])
    return found


def marks(code: str) -> list[pytest.MarkDecorator]:
    return [pytest.mark.slow, needs_compiler] if "compiled(" in code else []


@pytest.mark.parametrize(
    ("name", "line", "code"),
    [pytest.param(*b, id=f"{b[0]}:{b[1]}", marks=marks(b[2])) for b in blocks()],
)
def test_python_blocks_run(
    name: str, line: int, code: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    for long, short in SHORTER:
        code = re.sub(long, short, code)
    calls: Calls = []
    monkeypatch.setitem(sys.modules, "wandb", wandb(calls))
    monkeypatch.setitem(sys.modules, "mlflow", mlflow(calls))
    padded = "\n" * (line - 1) + code  # so that a traceback names the page's own line
    exec(compile(padded, str(ROOT / name), "exec"), {"__name__": "document"})
    if calls:
        named = [name for name, _ in calls]
        assert named[-1] == "finish"
        assert calls[named.index("config")][1]["objective"] == "Trace_ELBO"
        values, step = calls[named.index("log")][1]
        assert step == 1
        assert set(values) == {"cost", "reconstruction", "kl", "seconds"}


@pytest.mark.parametrize("name", [name for name in TEXTS if name != "README.md"])
def test_a_page_opens_with_code(name: str) -> None:
    if name == "docs/README.md":
        assert "```" not in TEXTS[name]
        return
    _, opening, *_ = TEXTS[name].split("\n\n")
    if name in ("docs/start.md", LANDING):
        assert opening.startswith(("Install", "Variational"))
        return
    assert opening.startswith(("```python", "    "))


@pytest.mark.parametrize("call", commands())
def test_commands_exist_with_their_options(call: str) -> None:
    """Options and types are parsed; nothing runs."""
    command: Any = typer.main.get_command(app)  # a click object, wherever typer has click from
    words = shlex.split(call)[1:]
    parent = None
    while hasattr(command, "resolve_command"):  # a group of commands
        parent = command.make_context(words[0], [words[0]], parent, resilient_parsing=True)
        _, found, words = command.resolve_command(parent, words)
        assert found is not None
        command = found
    if words:
        command.make_context(call, words, parent)


@pytest.mark.parametrize("name", list(LINKED))
def test_links_lead_somewhere(name: str) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", LINKED[name]):
        if "://" in target:
            continue
        path, _, heading = target.partition("#")
        file = (ROOT / name).parent / path if path else ROOT / name
        assert file.exists(), target
        if heading:
            headings = re.findall(r"^#+ (.*)$", file.read_text(), flags=re.MULTILINE)
            anchors = {re.sub(r"[^\w\- ]", "", h).lower().replace(" ", "-") for h in headings}
            assert heading in anchors, target


def test_the_index_lists_every_page() -> None:
    listed = set(re.findall(r"\]\(([^)/#]+\.md)\)", TEXTS["docs/README.md"]))
    assert listed == {path.name for path in DOCS.glob("*.md")} - {"README.md", "index.md"}


@pytest.mark.parametrize("name", ["README.md", "docs/swapping_parts.md", "docs/objectives.md"])
def test_tables_of_choices_are_whole(name: str) -> None:
    """What can be swapped, by name, as the modules have it."""
    parts = {
        each
        for module in (priors, likelihoods, posteriors)
        for each in module.__all__
        if isinstance(getattr(module, each), type)
    }
    losses = {re.split(r"\W", each)[0] for each in objectives.names()}
    expected = {
        "README.md": {*parts, *losses, *datasets.PIXELS, *estimators.names()},
        "docs/swapping_parts.md": {*parts, *presets.names()},
        "docs/objectives.md": losses,
    }[name]
    rows = [line for line in TEXTS[name].splitlines() if line.startswith("|")]
    told = {word for row in rows for word in re.findall(r"`\"?([\w-]+)", row)}
    assert expected <= told, expected - told


def test_the_readme_is_short() -> None:
    assert len(TEXTS["README.md"].splitlines()) <= MOST_LINES


def test_the_design_page_names_every_room() -> None:
    package = ROOT / "pyro_vae"
    rooms = [
        path.name if path.is_file() else f"{path.name}/"
        for path in package.iterdir()
        if path.suffix in ("", ".py") and not path.name.startswith(("_", "."))
    ]
    missing = [room for room in rooms if f"`{room}`" not in TEXTS["docs/design.md"]]
    assert not missing


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("README.md", "results.md"),
        ("README.md", "benchmarks.md"),
        ("docs/studies.md", "results.md"),
        ("docs/studies.md", "lecture.md"),
    ],
)
def test_tables_of_results_are_those_of_the_generated_pages(name: str, source: str) -> None:
    """A table of results has the rows of a generated one, and all or some of its columns."""
    generated = tables((DOCS / source).read_text())
    held = 0
    for table in tables(TEXTS[name]):
        for whole in generated:
            if set(table[0]) <= set(whole[0]) and table[1][0] == whole[1][0]:
                columns = [whole[0].index(column) for column in table[0]]
                assert table == [[row[i] for i in columns] for row in whole]
                held += 1
    assert held == 1
