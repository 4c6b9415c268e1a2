"""Nested states as values of JSON and tensors, and back."""

import json
import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pyro_vae.utils.packed import Tensors, pack, unpack


def through_json(value: Any) -> Any:
    tensors = Tensors()
    return unpack(json.loads(json.dumps(pack(value, "state", tensors))), tensors)


def test_plain_values_come_back() -> None:
    value = {
        "numbers": [0, -1, True, None, 0.1, 1e-300, math.inf, -math.inf],
        "tuples": ((1, 2), ("a",), ()),
        3: {4.5: "keys that are numbers"},
        "counter": Counter({7: 2}),
        "empty": {},
    }
    found = through_json(value)
    assert found == value
    assert [type(key) for key in found] == [type(key) for key in value]
    assert type(found["counter"]) is Counter
    assert math.isnan(through_json(math.nan))
    assert type(through_json(np.float32(0.5))) is float


def test_tensors_and_arrays_come_back() -> None:
    tensor, array = torch.randn(3, 2, dtype=torch.float64), np.arange(4, dtype=np.uint32)
    found = through_json({"tensor": tensor, "view": tensor[1:], "same": tensor, "array": array})
    assert torch.equal(found["tensor"], tensor)
    assert torch.equal(found["view"], tensor[1:])
    assert found["same"] is found["tensor"]
    assert found["array"].dtype == np.uint32
    assert (found["array"] == array).all()


def test_names_that_are_one_are_kept_apart() -> None:
    value: dict[Any, Any] = {
        "a": {"b": torch.ones(2)},
        "a.b": torch.zeros(2),
        1: torch.full((2,), 3.0),
        "1": torch.empty(0),
    }
    found = through_json(value)
    flat: list[tuple[Tensor, Tensor]] = [
        (found["a"]["b"], value["a"]["b"]),
        *((found[key], value[key]) for key in ("a.b", 1, "1")),
    ]
    assert all(torch.equal(ours, theirs) for ours, theirs in flat)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"seen": {1}}, r"state\.seen: got a set"),
        ([print], r"state\.0: got"),
        ({(1, 2): 3}, "state: got a tuple as a key"),
    ],
)
def test_other_values_are_named(value: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        pack(value, "state", Tensors())
