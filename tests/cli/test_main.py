"""The application: help, and one clear line for each mistake."""

from pathlib import Path

import pytest

from tests.cli.conftest import Run


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["train", "--preset", "vae"], "preset: got 'vae', expected one of bernoulli-mlp"),
        (["train", "--data", "cifar"], "data: got 'cifar', expected one of digits"),
        (["train", "--epochs", "0"], "epochs: got 0"),
        (["train", "--epochs", "many"], "many"),
        (["train", "--batch-size", "0"], "batch_size: got 0"),
        (["train", "--objective", "elbow"], "objective: got 'elbow', expected one of trace_elbo"),
        (["train", "--pixels", "levels"], "pixels: got 'levels', expected one of binary, grey"),
        (["train", "--z-dim", "0"], "z_dim: got"),
        (["train", "--seed", "-1"], "seed: got -1"),
        (["train", "--precision", "half"], "precision: got 'half', expected"),
        (["train", "--colour"], "--colour"),
        (["evaluate", "nowhere"], "nowhere: holds no run"),
        (["plot", "nowhere"], "nowhere: holds no run"),
        (["compare", "--seeds", "0"], "seeds: got 0"),
        (["compare", "--objectives", "trace_elbo,trace_elbo"], "expected each name once"),
        (["compare", "--examples", "3000"], "examples: got 3000, expected at most the 2000"),
        (["train", "--seed", "4294967296"], "seed: got 4294967296"),
        (["compare", "--objectives", "trace_elbo,"], "objective: got ''"),
        (["reproduce", "lecture", "--seeds", "0", "--data", "digits"], "seeds: got 0"),
        (["reproduce", "parts", "--data", "cifar"], "data: got 'cifar', expected one of digits"),
        (
            ["reproduce", "iwae-table", "--root", "nowhere", "--only", "Nope"],
            "only: got 'Nope', expected one of 'VAE', 'IWAE (k = 50)'",
        ),
        (["reproduce", "fly"], "fly"),
        (["fly"], "fly"),
    ],
)
def test_a_wrong_argument_is_one_line_and_exit_code_two(
    args: list[str],
    message: str,
    run: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(*args) == 2
    captured = capsys.readouterr()
    lines = captured.err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("pyro-vae: error: ")
    assert message in lines[0]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", [["train"], ["evaluate"], ["compare"], ["plot"], ["pairs"],
                                     ["reproduce", "lecture"]])  # fmt: skip
def test_each_command_has_a_help(
    command: list[str], run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*command, "--help") == 0
    out = capsys.readouterr().out
    assert "Usage: pyro-vae" in out
    if command == ["train"]:
        for option in ("--preset", "--data", "--epochs", "--batch-size", "--z-dim", "--objective",
                       "--pixels", "--seed", "--precision", "--out"):  # fmt: skip
            assert option in out


@pytest.mark.parametrize(
    ("group", "command"), [([], "train"), (["reproduce"], "pixel-likelihoods")]
)
def test_a_group_alone_prints_its_help(
    group: list[str], command: str, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    """As with --help: in lines, on stdout."""
    assert run(*group, "--help") == 0
    asked = capsys.readouterr()
    assert run(*group) == 0
    alone = capsys.readouterr()
    assert alone.out.strip() == asked.out.strip()
    assert not alone.err
    assert len(alone.out.splitlines()) > 10
    assert f"\n  {command} " in alone.out
