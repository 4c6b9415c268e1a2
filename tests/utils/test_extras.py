"""Packages of an extra: one that is missing is named, with what installs it."""

from importlib import import_module

import pytest

from pyro_vae.utils.extras import extra


def test_a_missing_package_is_named_and_another_error_is_kept() -> None:
    with (
        pytest.raises(ModuleNotFoundError) as caught,
        extra("flows", {"no_such": "no-such"}, "flows"),
    ):
        import_module("no_such.part")
    assert str(caught.value) == (
        "no-such: not installed, expected for flows: pip install 'pyro_vae[flows]'"
    )
    assert caught.value.name == "no_such"
    # What an installed package lacks itself is its own error.
    with (
        pytest.raises(ModuleNotFoundError, match="No module named 'no_such'"),
        extra("flows", {"zuko": "zuko"}, "flows"),
    ):
        import_module("no_such.part")


def test_a_package_that_is_there_is_imported() -> None:
    with extra("flows", {"zuko": "zuko"}, "flows"):
        import zuko
    assert zuko.__name__ == "zuko"
