"""``pyro-vae plot``: its pictures."""

from pathlib import Path

import pytest

from tests.cli.conftest import Run


def test_a_run_with_two_latents_is_drawn_whole(
    trained: Path, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("plot", trained, "--quantiles") == 0
    assert f"pictures: {trained / 'figures'}" in capsys.readouterr().out
    figures = {path.name for path in (trained / "figures").iterdir()}
    assert figures == {
        f"{name}.png" for name in ("curves", "reconstructions", "generated", "manifold", "latent")
    }
