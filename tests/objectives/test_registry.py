"""Objectives by name, and numbers that they refuse."""

import math
from collections.abc import Callable

import pytest
from pyro.infer import RenyiELBO, Trace_ELBO
from torch import nn

from pyro_vae import objectives


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: objectives.warm_up(objectives.iwae(3), 5), ValueError, "importance-weighted"),
        (lambda: objectives.warm_up(objectives.dreg(3), 5), ValueError, "importance-weighted"),
        (lambda: objectives.warm_up(RenyiELBO(0, 2), 5), ValueError, "importance-weighted"),
        (
            lambda: objectives.warm_up(objectives.compiled(Trace_ELBO()), 5),
            TypeError,
            r"compiled\(warm_up",
        ),
        (lambda: objectives.warm_up(nn.Identity(), 5), TypeError, "got an Identity"),
        (
            lambda: objectives.warm_up(objectives.warm_up(Trace_ELBO(), 5), 5),
            TypeError,
            "got an Annealed",
        ),
        (lambda: objectives.warm_up(Trace_ELBO(), 0), ValueError, "steps: got 0"),
        (lambda: objectives.warm_up(Trace_ELBO(), 5, start=-1.5), ValueError, "start: got -1.5"),
        (lambda: objectives.iwae(0), ValueError, "k: got 0"),
        (lambda: objectives.dreg(2.0), ValueError, "k: got 2.0"),
        (lambda: objectives.miwae(0, 2), ValueError, "m: got 0"),
        (lambda: objectives.piwae(2, 0), ValueError, "k: got 0"),
        (lambda: objectives.ciwae(1.5, 2), ValueError, "beta: got 1.5"),
        (lambda: objectives.ciwae(math.nan, 2), ValueError, "beta: got nan"),
        (lambda: objectives.renyi(1.0, 2), ValueError, "alpha: got 1.0"),
        (
            lambda: objectives.renyi(1 - 1e-10, 2),
            ValueError,
            "alpha: got 0.9999999999, expected a number that is 1e-9 or more away from 1",
        ),
        (lambda: objectives.renyi(math.inf, 2), ValueError, "alpha: got inf"),
        (lambda: objectives.sticking_the_landing(0), ValueError, "num_particles: got 0"),
        (
            lambda: objectives.parse("elbow"),
            ValueError,
            r"got 'elbow', expected one of trace_elbo",
        ),
        (lambda: objectives.parse("iwae"), ValueError, r"got 'iwae'.*iwae:k"),
        (lambda: objectives.parse("iwae:8:8"), ValueError, "got 'iwae:8:8'"),
        (lambda: objectives.parse("warm_up:5:iwae:8"), ValueError, "weighted, expected"),
        (lambda: objectives.parse("warm_up:0:trace_elbo"), ValueError, "steps: got 0"),
        (lambda: objectives.parse("warm_up:trace_elbo"), ValueError, "got 'warm_up:trace_elbo'"),
        (
            lambda: objectives.parse("warm_up:5:warm_up:5:trace_elbo"),
            ValueError,
            "got 'warm_up:5:warm_up",
        ),
        (lambda: objectives.parse("warm_up:5"), ValueError, "got 'warm_up:5', expected one of"),
        (lambda: objectives.parse("iwae:many"), ValueError, "got 'iwae:many'"),
        (lambda: objectives.parse("iwae:0"), ValueError, "k: got 0"),
    ],
)
def test_wrong_numbers_are_named(
    make: Callable[[], object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        make()
