"""Results as text."""

import statistics

from pyro_vae.utils.tables import markdown, mean_and_error


def test_columns_of_a_table_are_aligned() -> None:
    assert markdown(["name", "n"], [["a", "1"], ["longer", "1000"]]).splitlines() == [
        "| name   |    n |",
        "| ------ | ---: |",
        "| a      |    1 |",
        "| longer | 1000 |",
    ]


def test_a_mean_has_its_standard_error() -> None:
    values = [1.0, 2.0, 4.0]
    error = statistics.stdev(values) / 3**0.5
    assert mean_and_error(values) == f"{7 / 3:.2f} ± {error:.2f}"
    assert mean_and_error([1.5]) == "1.50"
