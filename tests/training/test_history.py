"""Histories: columns and files."""

import csv
from pathlib import Path

import pytest

from pyro_vae import fit
from pyro_vae.storage import DamagedRun
from pyro_vae.training import History

from ..vaes import bernoulli_vae, binary


def test_history_round_trips(tmp_path: Path) -> None:
    history = fit(bernoulli_vae(), binary(), test=binary(), epochs=3, batch_size=4)
    assert list(history) == ["epoch", "cost", "reconstruction", "kl", "test_cost", "seconds"]
    assert history.epoch == [1, 2, 3]
    history.save_csv(tmp_path / "metrics.csv")
    assert dict(History.load_csv(tmp_path / "metrics.csv")) == dict(history)
    with (tmp_path / "metrics.csv").open() as file:
        assert [float(row["cost"]) for row in csv.DictReader(file)] == history.cost
    assert repr(history).count("\n") == 4
    assert history._repr_html_().count("<tr>") == 4
    plain = fit(bernoulli_vae(), binary(), epochs=1, batch_size=4)
    assert "test_cost" not in plain
    with pytest.raises(AttributeError, match="history has no column 'test_cost'"):
        plain.test_cost  # noqa: B018
    (tmp_path / "foreign.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="got columns"):
        History.load_csv(tmp_path / "foreign.csv")
    path = tmp_path / "damaged.csv"
    for damage in (
        b"epoch,cost\n1,2\n3\n",
        b"epoch\ninf\n",
        b"epoch\nnan\n",
        b"\xff\xfe",
        b"epoch\n\0",
    ):
        path.write_bytes(damage)
        with pytest.raises(DamagedRun, match=r"damaged.csv: damaged"):
            History.load_csv(path)
    path.unlink()
    path.mkdir()
    with pytest.raises(DamagedRun, match=r"damaged.csv: damaged"):
        History.load_csv(path)
