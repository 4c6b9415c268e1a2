"""New examples as files: of images, of a class, of a table."""

from pathlib import Path

import numpy as np
import pytest

from .conftest import Run


def test_images_and_point_values(
    trained: Path, run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    drawn, again, points = (tmp_path / f"{name}.npy" for name in ("drawn", "again", "points"))
    assert run("generate", trained, drawn, "--count", 6) == 0
    assert f"written: {drawn} (shape (6, " in capsys.readouterr().out
    x = np.load(drawn)
    assert x.shape[0] == 6
    assert set(np.unique(x)) == {0.0, 1.0}
    assert run("generate", trained, again, "--count", 6, "--seed", 0) == 0
    assert (np.load(again) == x).all()
    assert run("generate", trained, points, "--count", 6, "--point") == 0
    assert ((np.load(points) > 0) & (np.load(points) < 1)).any()

    def refused(message: str, *arguments: object) -> None:
        assert run("generate", trained, *arguments) == 2
        assert message in capsys.readouterr().err

    refused("which is there already, expected a new file", drawn)
    assert (np.load(drawn) == x).all()
    refused("expected a file .npy", tmp_path / "x.csv")
    refused("whose folder is not there", tmp_path / "none" / "x.npy")
    refused("count: got 0", tmp_path / "x.npy", "--count", 0)
    refused("label: got 3, expected none", tmp_path / "x.npy", "--label", 3)
    assert not (tmp_path / "x.npy").exists()


@pytest.mark.parametrize(
    "preset", ["conditional-mlp", pytest.param("semi-supervised-mlp", marks=pytest.mark.slow)]
)
def test_examples_of_a_class(
    preset: str, short: None, run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = tmp_path / "run", tmp_path / "x.npy"
    train = ("train", "--preset", preset, "--epochs", 1, "--batch-size", 500, "--out", folder)
    assert run(*train) == 0
    assert run("generate", folder, out, "--count", 4, "--label", 3) == 0
    assert len(np.load(out)) == 4
    assert run("generate", folder, tmp_path / "y.npy", "--label", 10) == 2
    assert "label: got 10, expected a class from 0 to 9" in capsys.readouterr().err
    without = run("generate", folder, tmp_path / "y.npy", "--count", 4)
    if preset == "conditional-mlp":
        assert without == 2
        assert (
            "label: got none, expected a class from 0 to 9, which the run"
            in capsys.readouterr().err
        )
    else:
        assert without == 0
