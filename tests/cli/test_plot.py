"""``pyro-vae plot``: its pictures."""

from pathlib import Path

import pytest

from tests.cli.conftest import Run

NAMES = ("curves", "reconstructions", "generated", "manifold", "latent", "traversal")


def drawn(run: Path) -> set[str]:
    return {path.name for path in (run / "figures").iterdir()}


def test_a_run_with_two_latents_is_drawn_whole(
    trained: Path, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("plot", trained, "--quantiles") == 0
    assert f"pictures: {trained / 'figures'}" in capsys.readouterr().out
    assert drawn(trained) == {f"{name}.png" for name in NAMES}


@pytest.mark.parametrize(
    ("suffix", "begin"),
    [
        ("pdf", b"%PDF"),
        pytest.param("svg", b"<?xml", marks=pytest.mark.slow),
    ],
)
def test_figures_for_papers(suffix: str, begin: bytes, trained: Path, run: Run) -> None:
    assert run("plot", trained, "--format", suffix) == 0
    assert drawn(trained) == {f"{name}.{suffix}" for name in NAMES}
    for path in (trained / "figures").iterdir():
        assert path.read_bytes().startswith(begin)


def test_another_format_is_refused(
    trained: Path, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("plot", trained, "--format", "gif") == 2
    assert "format: got 'gif', expected one of png, pdf, svg" in capsys.readouterr().err
    assert not (trained / "figures").exists()
