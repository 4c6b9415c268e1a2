"""The engine: options, rows that are kept and resumed, tables and documents."""

import csv
import json
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Self, get_args, get_origin, get_type_hints

import pytest
import torch

from pyro_vae import studies
from pyro_vae.cli.options import HELP
from pyro_vae.studies import engine
from pyro_vae.utils.files import number
from pyro_vae.utils.sealed import DamagedRun


@dataclass(frozen=True)
class Square(engine.Row):
    """A number and its square."""

    square: float

    @property
    def outcome(self) -> str:
        return f"its square is {self.square:g}"

    def record(self) -> dict[str, Any]:
        return {"name": self.name, "settings": self.settings, "square": self.square}

    @classmethod
    def read(cls, record: dict[str, Any]) -> Self:
        return cls(record["name"], record["settings"], number(record["square"]))


@dataclass
class Squares(engine.Study[Square]):
    """Squares of numbers."""

    data: str = "digits"
    times: Annotated[int, "A factor."] = 1
    exact: Annotated[bool, "Does nothing."] = False

    folder, text = "squares", "squares.md"
    always = ("one",)

    @property
    def kind(self) -> type[Square]:
        return Square

    def names(self) -> Sequence[str]:
        return ["one", "two", "infinity (1)", "unknown"]

    def run(self, name: str, say: engine.Say = print) -> Square:
        say(f"running {name}")
        base = [1.0, 2.0, math.inf, math.nan][self.names().index(name)]
        return Square(name, self.settings(name), self.times * base**2)

    def document(self, rows: Mapping[str, Square | None]) -> engine.Document:
        columns = {"square": lambda row: f"{row.square:g}"}
        lines = [(row.name, row.square) for row in rows.values() if row is not None]
        return engine.Document(
            "Squares",
            "by hand.",
            engine.table("number", rows.items(), columns),
            "",
            *engine.given(rows, ("two",), lambda two: [f"Two: {two.square:g}"]),
            engine.Csv("squares", ["name", "square"], lines),
            engine.Figure(
                "line", "A line", engine.panels(engine.curves([1, 2], {"a": [1, 4]}, "y"))
            ),
        )


def test_rows_are_kept_and_the_study_goes_on(tmp_path: Path) -> None:
    said: list[str] = []
    files = engine.reproduce(Squares(out=tmp_path, only=["two"]), said.append)
    assert said[:4] == [
        "running one",
        "one: its square is 1",
        "running two",
        "two: its square is 4",
    ]
    assert said[-1] == f"written: {', '.join(map(str, files))}"
    assert files == [tmp_path / name for name in ("squares.md", "squares.csv", "line.png")]
    text = files[0].read_text()
    assert said[-2] == text
    paragraphs = text.strip().split("\n\n")
    assert paragraphs[0] == "# Squares"
    assert paragraphs[1].startswith(
        "Made by `pyro-vae reproduce test-engine --data digits --times"
    )
    assert paragraphs[2].count("not run") == 2
    assert paragraphs[3:] == ["Two: 4", "![A line](line.png)"]
    with files[1].open() as file:
        assert list(csv.reader(file)) == [["name", "square"], ["one", "1.0"], ["two", "4.0"]]

    said.clear()
    engine.reproduce(Squares(out=tmp_path), said.append)
    assert [line for line in said if line.startswith("running")] == [
        "running infinity (1)",
        "running unknown",
    ]
    kept = Squares(out=tmp_path).kept()
    assert [row and row.square for row in kept.values()][:3] == [1.0, 4.0, math.inf]
    assert kept["unknown"] is not None
    assert math.isnan(kept["unknown"].square)
    path = tmp_path / "squares" / "infinity-1.json"
    record = json.loads(path.read_text(), parse_constant=pytest.fail)
    assert record["square"] == "inf"


def test_rows_of_other_settings_and_damaged_ones_are_refused(tmp_path: Path) -> None:
    engine.reproduce(Squares(out=tmp_path, only=["one"]), lambda line: None)
    with pytest.raises(ValueError, match=r"one.json: was made with times=1, expected times=2"):
        engine.reproduce(Squares(out=tmp_path, times=2), lambda line: None)
    path = tmp_path / "squares" / "one.json"
    good = json.loads(path.read_text())
    del good["sha256"]  # as rows of before there were checksums
    damages: list[dict[str, Any]] = [
        {"name": "other"},
        {"settings": []},
        {"square": "x"},
        {"square": True},
    ]
    for damage in damages:
        path.write_text(json.dumps(good | damage))
        with pytest.raises(ValueError, match=r"one.json: damaged"):
            engine.reproduce(Squares(out=tmp_path), lambda line: None)
    for content in (b"{", b"", b"[]", b"\xff"):
        path.write_bytes(content)
        with pytest.raises(DamagedRun, match=r"one.json: damaged"):
            engine.reproduce(Squares(out=tmp_path), lambda line: None)
    path.write_text(json.dumps(good))
    assert "running one" not in said_by(tmp_path)


def said_by(folder: Path) -> list[str]:
    said: list[str] = []
    engine.reproduce(Squares(out=folder), said.append)
    return said


def test_a_row_with_a_changed_byte_is_refused_or_read_right(tmp_path: Path) -> None:
    engine.reproduce(Squares(out=tmp_path, only=["two"]), lambda line: None)
    folder = tmp_path / "squares"
    assert sorted(path.name for path in folder.iterdir()) == ["one.json", "two.json"]
    path = folder / "two.json"
    good, content = Squares(out=tmp_path).kept()["two"], path.read_bytes()
    assert content.count(b"\n") == 1
    draw = random.Random(0)
    refused = 0
    for _ in range(200):
        damaged = bytearray(content)
        damaged[draw.randrange(len(content))] ^= draw.randrange(1, 256)
        path.write_bytes(damaged)
        try:
            row = Squares(out=tmp_path).kept()["two"]
        except DamagedRun as error:
            assert str(path) in str(error)  # noqa: PT017
            refused += 1
        else:
            assert row == good
    assert refused > 150


def test_options_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="data: got 'cifar', expected one of digits"):
        Squares(data="cifar")
    with pytest.raises(ValueError, match="times: got 0"):
        Squares(times=0)
    with pytest.raises(ValueError, match="only: got 'three', expected one of 'one', 'two'"):
        Squares(only=["three"])


def test_a_command_has_all_that_changes_a_number() -> None:
    study = Squares(times=3, exact=True, only=["one"], out=Path("here"))
    assert study.command() == "pyro-vae reproduce test-engine --data digits --times 3 --exact"


@pytest.mark.parametrize("name", studies.names())
def test_each_option_of_a_study_has_a_help(name: str) -> None:
    study = studies.find(name)
    assert study.__doc__
    assert not study.__doc__.startswith(study.__name__ + "("), "the dataclass's own"
    hints = get_type_hints(study, include_extras=True)
    for field in fields(study):
        own = get_origin(hints[field.name]) is Annotated and get_args(hints[field.name])[1]
        assert own or field.name in (*HELP, "only", "out"), field.name


def test_studies_are_the_modules_of_their_folder() -> None:
    folder = Path(studies.__file__).parent
    modules = {path.stem for path in folder.iterdir() if not path.stem.startswith("_")}
    assert {name.replace("-", "_") for name in studies.names()} == modules - {"engine"}
    with pytest.raises(ValueError, match="name: got 'engine', expected one of analytic-kl"):
        studies.find("engine")


def test_studies_are_short_and_use_public_names_alone() -> None:
    folder = Path(studies.__file__).parent
    paths = [path for path in folder.rglob("*.py") if "engine" not in path.parts]
    assert len(paths) >= len(studies.names())
    for path in paths:
        lines = path.read_text().splitlines()
        assert len(lines) < 150, path.name
        inner = [line for line in lines if line.startswith("from pyro_vae.")]
        own = ("pyro_vae.studies", "pyro_vae.datasets")
        assert all(line.split()[1].startswith(own) for line in inner), path.name


def test_paired_differences() -> None:
    a, b = torch.tensor([1.0, 4.0]), torch.tensor([0.0, 1.0])
    assert engine.paired(a, b) == pytest.approx((2.0, 1.0))
    assert engine.plus_minus((2.0, 1.0), "+") == "+2.00 ± 1.00"


def test_a_guide_is_moved_onto_the_exact_posterior() -> None:
    """log p(x, z) - log q(z | x) is then the same for every z."""
    model = engine.linear_gaussian(4)

    def spread(distance: float) -> float:
        model.move(distance)
        q = model.vae.posterior(model.x)
        z = q.sample((20,))
        log_joint = model.vae.prior().log_prob(z) + model.vae.likelihood(z).log_prob(model.x)
        return (log_joint - q.log_prob(z)).std(0).max().item()

    assert spread(0.0) < 1e-10
    assert spread(1.0) > 0.1
