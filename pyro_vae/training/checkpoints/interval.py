"""How often a checkpoint is written: ``"1 epoch"``, ``"500 steps"`` or ``"10 min"``."""

import re
from dataclasses import dataclass
from typing import Literal, cast

from pyro_vae.utils.checks import kind

__all__ = ["Interval"]

Unit = Literal["epoch", "step", "min"]

_FORM = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*(epoch|step|min)s?\s*")


@dataclass(frozen=True)
class Interval:
    """An interval between checkpoints.

    Attributes:
        count: The number of epochs, steps or minutes.
        unit: What is counted.
    """

    count: float
    unit: Unit

    @classmethod
    def parse(cls, text: object) -> "Interval":
        """The interval that a text describes.

        Arguments:
            text: Such as ``"1 epoch"``, ``"500 steps"`` or ``"10 min"``.

        Raises:
            TypeError, ValueError: It describes none.

        Example:
            >>> from pyro_vae.training.checkpoints import Interval
            >>> Interval.parse("500 steps")
            Interval(count=500.0, unit='step')
        """
        expected = 'such as "1 epoch", "500 steps" or "10 min"'
        if not isinstance(text, str):
            raise TypeError(f"checkpoint_every: got {kind(text)}, expected a text {expected}")
        found = _FORM.fullmatch(text)
        if found is None:
            raise ValueError(f"checkpoint_every: got {text!r}, expected a text {expected}")
        count, unit = float(found[1]), cast(Unit, found[2])
        if count <= 0 or (unit != "min" and count % 1):
            raise ValueError(
                f"checkpoint_every: got {text!r}, expected a positive number, {expected}"
            )
        return cls(count, unit)
