"""The command on CSV files: a run is trained, loaded, evaluated and drawn."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from pyro_vae import likelihoods, load, storage
from pyro_vae.datasets import Table
from pyro_vae.runs import tables

from .conftest import Run


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A table of four kinds of columns, as a file."""
    random = np.random.default_rng(0)
    hidden = random.normal(size=200)
    frame = pd.DataFrame(
        {
            "income": 3e4 + 1e4 * hidden,
            "owner": hidden > 0,
            "visits": random.poisson(np.exp(2 + hidden)),
            "region": np.where(hidden > 0.5, "north", "south"),
        }
    )
    frame.to_csv(tmp_path / "people.csv", index=False)
    return tmp_path / "people.csv"


def test_kinds_of_columns(file: Path, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """Integers with holes stay counts, as pandas writes them; the option names the others."""
    frame = pd.read_csv(file)
    frame["visits"] = frame["visits"].mask(np.arange(200) % 7 == 0)  # a float column now
    frame["score"] = np.arange(200) % 12 / 1.0
    frame.to_csv(file, index=False)
    folder = file.parent / "run"
    train = ("train", "--data", file, "--batch-size", 60, "--z-dim", 2, "--out", folder)
    assert run(*train, "--epochs", 1, "--kinds", "score=count") == 0
    assert "visits: count, region: class of 2, score: count" in capsys.readouterr().out
    assert run(*train, "--epochs", 2, "--resume") == 0
    assert "score: count" in capsys.readouterr().out
    for wrong, message in (
        ("score", "kinds: got 'score', expected such as"),
        ("score=many", "kinds"),
        ("scores=count", "kinds: got 'scores', expected columns of the frame"),
    ):
        assert run(*train[:-1], file.parent / "other", "--epochs", 1, "--kinds", wrong) != 0
        assert message in capsys.readouterr().err
    assert run("train", "--kinds", "score=count", "--out", file.parent / "other") != 0
    assert "kinds: got {'score': 'count'}, expected none" in capsys.readouterr().err


def test_a_run_on_a_file(file: Path, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    folder = file.parent / "run"
    train = ("train", "--data", file, "--batch-size", 60, "--z-dim", 2, "--out", folder)
    assert run(*train, "--epochs", 1) == 0
    assert "income: real, owner: class of 2, visits: count, region: class of 2" in (
        capsys.readouterr().out
    )
    vae, settings = load(folder), storage.read_config(folder)["training"]
    assert vae.preset is not None
    assert (vae.preset["name"], vae.preset["z_dim"]) == (tables.PRESET, 2)
    described = Table.from_dict(vae.preset["table"])
    assert described.to_frame(vae.generate(3))["region"].isin(["north", "south"]).all()
    assert settings["data"] == str(file)

    assert run("evaluate", folder, "--num-samples", 30) == 0
    record = storage.evaluations(folder)[-1]
    assert record["examples"] == 20
    inner, outer = (record[f"log-likelihood{end}"]["mean"] for end in ("", " in the file's units"))
    # The only real column: its deviation is that of the file.
    scale = pd.read_csv(file)["income"].std(ddof=0)
    assert outer == pytest.approx(inner - np.log(scale), abs=1e-4)

    assert run("plot", folder) == 0
    assert {path.name for path in (folder / "figures").iterdir()} == {"curves.png", "columns.png"}
    assert run(*train, "--epochs", 2, "--resume") == 0
    assert storage.read_config(folder)["training"]["epochs_done"] == 2

    file.write_text(file.read_text().replace("north", "south"))
    assert run("evaluate", folder) == 2
    assert "expected the same file" in capsys.readouterr().err


def test_rows_are_generated_and_holes_filled(
    file: Path, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is there stays, to the last digit; draws differ where there were holes."""
    complete = pd.read_csv(file)
    holed = complete.convert_dtypes()
    for place, name in enumerate(holed.columns):
        holed.loc[place::7, name] = None
    holed.to_csv(file, index=False)
    folder, out = file.parent / "run", file.parent / "filled.csv"
    assert run("train", "--data", file, "--batch-size", 60, "--epochs", 1, "--out", folder) == 0
    assert run("generate", folder, file.parent / "new.csv", "--count", 5) == 0
    new = pd.read_csv(file.parent / "new.csv")
    assert (list(new.columns), len(new)) == (list(complete.columns), 5)

    capsys.readouterr()
    assert run("impute", folder, file, out, "--num-samples", 40) == 0
    said, missing = capsys.readouterr().out, holed.isna().to_numpy()
    assert f"{missing.sum()} holes in {missing.any(1).sum()} of 200 rows" in said
    assert f"written: {out}" in said
    filled = pd.read_csv(out)
    assert not filled.isna().any().any()
    assert (filled.to_numpy() == complete.to_numpy())[~missing].all()
    assert (filled.dtypes == complete.dtypes).all()
    assert run("impute", folder, file, out, "--num-samples", 40, "--draws", 2) == 0
    one, two = (pd.read_csv(out.with_name(f"filled-{i}.csv")) for i in (1, 2))
    differ = (one != two).to_numpy()
    assert differ.any()
    assert not differ[~missing].any()

    def refused(message: str, *arguments: object) -> None:
        assert run("impute", *arguments) == 2
        assert message in capsys.readouterr().err

    refused("which is there already", folder, file, out)
    refused("expected a CSV file that is there", folder, file.parent / "no.csv", "other.csv")
    other = file.parent / "other.csv"
    complete.drop(columns="owner").to_csv(other, index=False)
    refused("got no column 'owner'", folder, other, file.parent / "o.csv")
    other.write_text(file.read_text().replace("True", "yes"))
    refused("column 'owner': got", folder, other, file.parent / "o.csv")


def test_what_is_there_is_written_as_it_was(file: Path, run: Run) -> None:
    """Each cell, and further columns, whatever pandas would make of them."""
    rows = ["id,size,weight,flag,code,when"]
    for i in range(60):
        size, flag = ("S", "M", "10", "12")[i % 4], ("true", "FALSE", "")[i % 3]
        weight = "" if i % 5 == 0 else f"{i}.500"
        rows.append(f'"n, {i}",{size if i % 7 else ""},{weight},{flag},0000{i % 3},2020-01-01')
    file.write_text("\n".join(rows) + "\n")
    trained = file.with_name("trained.csv")
    trained.write_text("\n".join(",".join(row.split(",")[-5:-1]) for row in rows) + "\n")
    folder, out = file.parent / "run", file.parent / "filled.csv"
    assert run("train", "--data", trained, "--batch-size", 60, "--epochs", 1, "--out", folder) == 0
    assert run("impute", folder, file, out, "--num-samples", 30) == 0
    before, after = (path.read_text().splitlines() for path in (file, out))
    assert before[0] == after[0]
    for old, new in zip(before, after, strict=True):
        for one, two in zip(old.split(","), new.split(","), strict=True):
            assert one == two or not one
    filled = pd.read_csv(out, dtype=str)
    assert not filled.isna().any().any()
    assert set(filled["flag"]) <= {"true", "FALSE"}
    assert set(filled["size"]) <= {"S", "M", "10", "12"}
    # The strings of a single row are digits alone.
    file.write_text("\n".join([rows[0], '"n",10,,true,00001,x']) + "\n")
    assert run("impute", folder, file, file.with_name("one.csv"), "--num-samples", 30) == 0


def test_a_run_without_holes_fills_none(
    file: Path, trained: Path, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = file.parent / "complete", file.parent / "out.csv"
    assert run("train", "--data", file, "--batch-size", 60, "--epochs", 1, "--out", folder) == 0
    assert run("impute", folder, file, out) == 2
    assert "was trained on a table without holes, expected" in capsys.readouterr().err
    assert run("impute", trained, file, out) == 2
    assert "was trained on images, expected" in capsys.readouterr().err


def test_rows_are_shuffled_apart(file: Path) -> None:
    rows = tables.load(str(file))
    assert (len(rows.train), len(rows.test)) == (180, 20)
    every = torch.cat((rows.train, rows.test))
    own = rows.table.encode(pd.read_csv(file))
    assert torch.equal(every[:, 0].sort().values, own[:, 0].sort().values)
    again = tables.load(str(file), rows.table.to_dict())
    assert torch.equal(again.test, rows.test)


def test_missing_values_are_holes(file: Path, run: Run) -> None:
    """The likelihood is that of what is observed; rows without holes have the same columns."""
    holed = pd.read_csv(file).convert_dtypes()
    for place, name in enumerate(holed.columns):
        holed.loc[place::7, name] = None
    holed.to_csv(file, index=False)
    folder = file.parent / "run"
    assert run("train", "--data", file, "--batch-size", 60, "--epochs", 1, "--out", folder) == 0
    vae = load(folder)
    assert isinstance(vae.likelihood, likelihoods.Observed)
    assert vae.generate(3).isfinite().all()
    described = Table.from_dict(vae.preset["table"])
    assert described.holes
    assert described.encode(holed).isnan().sum() == holed.isna().sum().sum() > 100
    assert run("evaluate", folder, "--num-samples", 30) == 0
    assert np.isfinite(storage.evaluations(folder)[-1]["log-likelihood"]["mean"])
    assert run("plot", folder) == 0


def test_files_that_are_refused(
    file: Path, run: Run, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def refused(message: str, *arguments: object) -> None:
        assert run("train", "--out", tmp_path / "run", *arguments) == 2
        assert message in capsys.readouterr().err
        assert not (tmp_path / "run").exists()

    refused("expected a CSV file that is there", "--data", tmp_path / "none.csv")
    (tmp_path / "empty.csv").write_text("")
    refused("expected a CSV file with a header", "--data", tmp_path / "empty.csv")
    refused("preset 'pyro-mlp' is of images", "--data", file, "--preset", "pyro-mlp")
    refused("preset 'table-mlp' takes a table", "--preset", "table-mlp")
    refused("expected none: ", "--data", file, "--root", tmp_path)
    refused("pixels: got 'binary', expected None", "--data", file, "--pixels", "binary")
    two = tmp_path / "two.csv"
    two.write_text("a,b\n1.5,x\n2.5,y\n")
    assert len(tables.load(str(two)).test) == 1
