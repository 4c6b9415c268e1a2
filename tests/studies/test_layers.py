"""The study of layers in short."""

from pathlib import Path

import pytest

from pyro_vae.studies import layers
from pyro_vae.studies.layers import Layers
from tests.studies.conftest import Command

pytestmark = pytest.mark.filterwarnings("ignore:precision")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["two layers", "ladder of five", "two layers, VampPrior"])
def test_a_row_in_short(
    name: str, tmp_path: Path, reproduce: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Layers, "precision", "float32")
    reproduce("layers", "--quick", "--out", tmp_path, "--only", name)
    row = Layers(out=tmp_path).kept()[name]
    assert row is not None
    text = (tmp_path / "layers.md").read_text()
    line = " ".join(next(t for t in text.splitlines() if t.startswith(f"| {name} ")).split())
    assert f"| {-row.mean:.2f} ± {row.stderr:.2f} |" in line
    assert f"| {', '.join(map(str, row.active))} |" in line
    assert len(row.active) == (5 if name == "ladder of five" else 2)
    assert text.count("not run") == len(layers.ENTRIES) - 1
