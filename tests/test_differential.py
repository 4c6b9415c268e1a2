"""Random programs: compiled they are what they are uncompiled, and only wrong ones are refused.

More of them are in ``python -m tests.differential`` and ``python -m tests.alarms``.
"""

import pytest

from .alarms import alarms
from .conftest import needs_compiler
from .differential import differences, numbers
from .structures import FIRST

# Programs that Inductor compiles in a few seconds: without recurrent layers, attention,
# convolutions, flows, mixtures and importance weights, which are among the slow ones.
SMALL = [1, 17, 21, 28, 62, 82, 89, 97, 138, 190]
SMALL += [198, 203, 214, 267, 284, 309, 355, 367, 410, 441]


def seeds(quick: int, slow: int, first: int = 0) -> list[object]:
    """Some seeds, and further ones that are slow."""
    return [
        *range(first, first + quick),
        *(
            pytest.param(seed, marks=pytest.mark.slow)
            for seed in range(first + quick, first + quick + slow)
        ),
    ]


@needs_compiler
@pytest.mark.parametrize(
    "seed", [*SMALL, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(500, 540))]
)
def test_compiled_is_uncompiled(seed: int) -> None:
    apart, reason = differences(seed, by_inductor=True, kind=numbers(seed))
    assert not apart
    assert not reason or "in bfloat16" in reason, "each of these programs has a graph"


@pytest.mark.parametrize("seed", [26, 70, 4530])
def test_what_long_runs_have_found_does_not_come_back(seed: int) -> None:
    """A first call of a VAE that drew noise, and one that a program without a graph was denied."""
    assert differences(seed, by_inductor=False, refused=seed % 10 == 0)[0] == []


@pytest.mark.parametrize("seed", [*seeds(5, 155, first=100), *seeds(3, 57, first=FIRST)])
def test_a_traced_graph_is_the_program(seed: int) -> None:
    """All but the code that Inductor makes; some of these programs have no graph, and say why."""
    kind = numbers(seed)
    apart, _ = differences(seed, by_inductor=False, refused=seed % 3 == 0, kind=kind)
    assert not apart


# The last two were found by long runs.
@pytest.mark.parametrize("seed", [*seeds(12, 188), *seeds(3, 27, FIRST), 472, 965])
def test_only_wrong_programs_and_data_are_refused(seed: int) -> None:
    _, wrong = alarms(seed)
    assert not wrong
