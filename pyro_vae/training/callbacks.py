"""Callbacks for ``fit``, which calls them after each epoch."""

from collections.abc import Callable

from pyro_vae.pair import Pair
from pyro_vae.training.history import History

__all__ = ["Callback"]

Callback = Callable[[Pair, History], object]
"""A function that :func:`fit` calls after each epoch with the pair and the history so far.

It may raise :class:`StopTraining`. An object may have two further methods:
``before_training(pair, columns)`` is called before the first step with the names of the history's
columns, and ``after_training(pair, history)`` after the last, unless there was an error. Those of
``state_dict`` and ``load_state_dict`` are in checkpoints, and an attribute ``settings``, values of
JSON by name, has to be the same in a training that is resumed.
"""
