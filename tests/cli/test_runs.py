"""``pyro-vae list``: a row for each run, with what it says of itself, whole or damaged."""

import re
import shutil
from pathlib import Path

import pytest

from pyro_vae import VAE, likelihoods, networks, posteriors, priors, save, storage
from pyro_vae.training import History
from tests.cli.conftest import Run


def cells(out: str) -> dict[str, dict[str, str]]:
    """The rows of the printed table by the name of the run."""
    lines = [line for line in out.splitlines() if line.startswith("|")]
    rows = [[c.strip() for c in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    header, _, *found = rows
    return {row[0]: dict(zip(header, row, strict=True)) for row in found}


def evaluated(run: Path, mean: float, digest: str | None = None) -> None:
    likelihood = {"mean": mean, "stderr": 1.25, "mc_error": 0.5}
    record = {"weights_hash": digest or storage.weights_hash(run), "examples": 200}
    storage.add_evaluation(run, {**record, "log-likelihood": likelihood})


def test_a_run_has_a_row_of_what_it_says(
    trained: Path, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    """The log-likelihood is the newest of these parameters."""
    evaluated(trained, -151.0)
    evaluated(trained, -150.5)
    evaluated(trained, -140.0, "0" * 16)  # before the training went on, say
    storage.add_evaluation(trained, {"note": "of another maker"})
    assert run("list", trained.parent) == 0
    (row,) = cells(capsys.readouterr().out).values()
    history = History.load_csv(trained / "metrics.csv")
    assert row.pop("written")[:2] == "20"
    assert row == {
        "run": "run",
        "preset": "bernoulli-mlp",
        "data": "digits",
        "epochs": "2/2",
        "cost": f"{history.cost[-1]:.2f}",
        "test −ELBO": f"{history.test_cost[-1]:.2f}",
        "log-likelihood": "-150.50 ± 1.25",
        "examples": "200",
    }


def test_runs_are_found_two_levels_down_and_not_within_each_other(
    trained: Path, tmp_path: Path, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    for place in ("a/run", "a/b/run", "a/b/c/run", "run/within"):
        shutil.copytree(trained, tmp_path / "runs" / place)
    shutil.copytree(trained, tmp_path / "runs/run", dirs_exist_ok=True)
    assert run("list", tmp_path / "runs") == 0
    assert list(cells(capsys.readouterr().out)) == ["a/run", "run"]
    assert run("list", tmp_path / "runs" / "a" / "b") == 0
    assert list(cells(capsys.readouterr().out)) == ["c/run", "run"]
    assert run("list", trained) == 0
    assert list(cells(capsys.readouterr().out)) == ["."]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.json", b"{"),
        ("config.json", b""),
        ("model.safetensors", b"cut"),
        ("model.safetensors", None),
        ("metrics.csv", b"epoch,cost\n1,x\n"),
        ("evaluations/1.json", b"[]"),
    ],
)
def test_a_damaged_run_is_a_row_that_says_so(
    name: str,
    content: bytes | None,
    trained: Path,
    run: Run,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.copytree(trained, trained.parent / "whole")
    evaluated(trained, -150.0)
    if content is None:
        (trained / name).unlink()
    else:
        (trained / name).write_bytes(content)
    assert run("list", trained.parent) == 0
    out = capsys.readouterr().out
    rows = cells(out)
    assert rows["run"]["preset"] == "damaged"
    assert set(list(rows["run"].values())[2:-1]) == {""}
    assert rows["whole"]["epochs"] == "2/2"
    last = out.strip().splitlines()[-1]
    assert last.startswith(f"run: {trained / name}")


def test_a_pair_that_was_saved_and_a_name_of_several_lines(
    tmp_path: Path, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    vae = VAE(
        priors.StandardNormal(1),
        likelihoods.Bernoulli(networks.MLP(1, (4,), 4)),
        posteriors.Normal(networks.MLP(4, (4,), 2)),
    )
    save(vae, tmp_path / "a|b\nc")
    assert run("list", tmp_path) == 0
    ((name, row),) = cells(capsys.readouterr().out).items()
    assert name == "a\\|b\\nc"
    assert row["preset"] == "own pair"
    assert set(list(row.values())[2:-1]) == {""}


def test_a_folder_without_runs_is_refused(
    tmp_path: Path, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("list", tmp_path) == 2
    assert f"folder: got {tmp_path}, which holds no run" in capsys.readouterr().err
    assert run("list", tmp_path / "none") == 2
    assert "none, expected a folder with runs" in capsys.readouterr().err
