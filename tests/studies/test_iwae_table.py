"""The papers' table: in short by the command, and as committed."""

from dataclasses import asdict
from pathlib import Path

import pytest

from pyro_vae.datasets import Dataset
from pyro_vae.studies import engine, iwae_table
from pyro_vae.studies.iwae_table import IWAETable
from tests.studies.conftest import Command

DOCS = Path(__file__).parents[2] / "docs"

pytestmark = pytest.mark.filterwarnings("ignore:precision")


@pytest.mark.slow
def test_the_papers_table_in_short(
    tmp_path: Path, reproduce: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row, then another; in float32, as few processors have products in bfloat16."""
    monkeypatch.setattr(IWAETable, "precision", "float32")
    quick = ("iwae-table", "--quick", "--out", tmp_path)
    assert "Each against the next" not in reproduce(*quick, "--only", "VAE")
    output = reproduce(*quick, "--only", "VAE", "--only", "PIWAE (8, 8)")
    text = (tmp_path / "results.md").read_text()
    assert text.strip() in output
    assert "`pyro-vae reproduce iwae-table --quick`" in text
    assert text.count("not run") == len(iwae_table.ENTRIES) - 2
    folder = tmp_path / "iwae_table"
    kept = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert kept.keys() == {"vae.json", "piwae-8-8.json"}
    rows = IWAETable(out=tmp_path).kept()
    vae, piwae = rows["VAE"], rows["PIWAE (8, 8)"]
    assert vae is not None
    assert piwae is not None
    assert [point[0] for point in piwae.curve] == [1, 2]  # an epoch of each stage
    assert piwae.curve[0][1] < piwae.curve[1][1]
    gain, error = piwae.above(vae)
    line = next(line for line in text.splitlines() if line.startswith("| PIWAE"))
    line = " ".join(line.split())
    assert f"| {-piwae.mean:.2f} ± {piwae.stderr:.2f} |" in line
    assert f"| {gain:.2f} ± {error:.2f} |" in line
    assert "| 84.46 | 84.58 |" in line
    assert text.count("Each against the next") == 1
    assert f"| VAE | 2.30 | {gain:.2f} ± {error:.2f} |" in " ".join(text.split())
    assert "| 1 trace_elbo, 1 piwae:8:8 |" in line


@pytest.mark.slow
def test_a_plain_stage_and_bfloat16(tmp_path: Path, reproduce: Command) -> None:
    quick = ("iwae-table", "--quick", "--out", tmp_path)
    reproduce(*quick, "--only", "VampPrior(500)")
    text = (tmp_path / "results.md").read_text()
    line = next(line for line in text.splitlines() if line.startswith("| VampPrior(500) "))
    assert "1 trace_elbo (plain), 1 trace_elbo |" in line
    row = IWAETable(out=tmp_path).kept()["VampPrior(500)"]
    assert row is not None
    assert row.settings["plain_epochs"] == 1


def test_the_papers_table_as_committed() -> None:
    """It is that of its rows, which are those that the command would make."""
    study = IWAETable(out=DOCS)
    rows = study.kept()
    done = {name: row for name, row in rows.items() if row is not None}
    folder = DOCS / "iwae_table"
    assert {engine.file_of(folder, name) for name in done} == set(folder.iterdir())
    text = (DOCS / "results.md").read_text()
    for table in (study.table(rows), engine.order(rows, iwae_table.ENTRIES)):
        assert f"\n\n{table}\n\n" in text
    for name, row in done.items():
        assert row.settings["stages"] == [asdict(s) for s in iwae_table.ENTRIES[name].stages]
        assert (len(row.values), row.settings["num_samples"]) == (10_000, 5000)
        assert row.values.mean().item() == pytest.approx(row.mean, abs=1e-3)
    assert -done["VAE"].mean < 87.3
    assert -done["IWAE (k = 50)"].mean < 86.3


@pytest.mark.mnist
def test_the_text_as_committed(mnist: Dataset) -> None:
    study = IWAETable(out=DOCS)
    text = study.document(study.kept()).markdown(study.command())
    assert text == (DOCS / "results.md").read_text()
