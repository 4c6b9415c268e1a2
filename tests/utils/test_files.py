"""JSON files: numbers that JSON does not have, and files that a failure leaves as they were."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from pyro_vae.utils.files import number, write_json

NUMBERS = [0.1, -3.0, 1e300, math.inf, -math.inf, math.nan]


def test_numbers_come_back_as_they_were(tmp_path: Path) -> None:
    """In lists, tuples and dictionaries, in a file that strict readers take."""
    path = tmp_path / "a.json"
    write_json(path, {"list": NUMBERS, "deep": [{"tuple": tuple(NUMBERS)}], "text": "nan"})
    read = json.loads(path.read_text(), parse_constant=pytest.fail)
    for written in (read["list"], read["deep"][0]["tuple"]):
        assert written[3:] == ["inf", "-inf", None]
        again = [number(value) for value in written]
        assert again[:5] == NUMBERS[:5]
        assert math.isnan(again[5])
    assert read["text"] == "nan"


@pytest.mark.parametrize("value", ["nan", "1", "infinity", True, [1.0], {}])
def test_what_is_no_number_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match=r"got .*, expected a number, null"):
        number(value)


def test_a_failure_leaves_the_former_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert json.loads(path.read_text()) == {"a": 1}
    assert list(tmp_path.iterdir()) == [path]
