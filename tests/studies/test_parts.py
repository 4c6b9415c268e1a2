"""The study of parts: in short by the command, and as committed."""

import json
from pathlib import Path

import pytest
import torch

from pyro_vae.studies import parts
from pyro_vae.studies.parts import Parts
from tests.studies.conftest import Command

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.slow
def test_a_study_goes_on_where_it_was_left(tmp_path: Path, reproduce: Command) -> None:
    """Rows are kept as they were; the table's differences are those of the same images."""
    options = ("parts", "--data", "digits", "--epochs", 2, "--num-samples", 5,
               "--plain-epochs", 1, "--out", tmp_path, "--only", "VampPrior(500)")  # fmt: skip
    output = reproduce(*options)
    text = (tmp_path / "parts.md").read_text()
    assert text.strip() in output
    assert (
        "`pyro-vae reproduce parts --data digits --epochs 2 --num-samples 5 --plain-epochs 1`"
        in text
    )
    kept = {path.name: path.read_bytes() for path in (tmp_path / "parts").iterdir()}
    assert kept.keys() == {"standardnormal-normal.json", "vampprior-500.json"}
    first, second = (json.loads(kept[name])["values"] for name in sorted(kept))
    gain = torch.tensor(second) - torch.tensor(first)
    line = next(line for line in text.splitlines() if line.startswith("| VampPrior(500)"))
    error = gain.std().item() / len(gain) ** 0.5
    assert f"| {gain.mean().item():+.2f} ± {error:.2f} |" in line
    assert text.count("not run") == len(parts.VAES) - 2

    assert reproduce(*options) == output
    assert {p.name: p.read_bytes() for p in (tmp_path / "parts").iterdir()} == kept
    with pytest.raises(ValueError, match=r"normal.json: was made with num_samples=5, expected nu"):
        reproduce(*options, "--num-samples", 6)
    row = json.loads(kept["vampprior-500.json"]) | {"samples": [[999]]}
    (tmp_path / "parts" / "vampprior-500.json").write_text(json.dumps(row))
    with pytest.raises(ValueError, match=r"vampprior-500.json: damaged"):
        reproduce(*options)
    assert (tmp_path / "parts.md").read_text() == text


def test_plain_epochs_are_fewer_than_all(tmp_path: Path, reproduce: Command) -> None:
    with pytest.raises(ValueError, match=r"plain_epochs: got 2, expected .* from 0 to 1"):
        reproduce("parts", "--epochs", 2, "--plain-epochs", 2, "--out", tmp_path)
    assert not list(tmp_path.iterdir())
    assert [Parts(epochs=epochs).plain_epochs for epochs in (1, 4, 100)] == [0, 2, 5]


def test_rows_that_do_not_exist_are_named(tmp_path: Path, reproduce: Command) -> None:
    with pytest.raises(ValueError, match=r"only: got 'Cauchy', expected one of '.*', '"):
        reproduce("parts", "--only", "Cauchy", "--out", tmp_path)
    assert not list(tmp_path.iterdir())


def test_trained_priors_are_among_the_rows() -> None:
    assert set(parts.TRAINED_PRIORS) < set(parts.VAES)


def test_richer_parts_beat_the_plain_vae_as_committed() -> None:
    """By much more than the error of a paired difference, as in the papers."""
    study = Parts(out=DOCS)
    rows = study.kept()
    text = study.document(rows).markdown(study.command())
    assert text == (DOCS / "parts.md").read_text()
    plain = rows.pop(parts.PLAIN)
    assert plain is not None
    for row in rows.values():
        assert row is not None
        gain, error = row.above(plain)
        assert gain > 5 * error, row.name
        assert row.settings["test"] == plain.settings["test"]
