"""Published tables and this package's own studies: one module a study, one engine for all.

A module here is a study, and its name is that of the command: ``pyro-vae reproduce iwae-table``
runs ``iwae_table.py``. To add one, write a module with a subclass of :class:`engine.Study`.
"""

import pkgutil
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pyro_vae.studies.engine import Study

__all__ = ["find", "names"]


def names() -> list[str]:
    """Returns the names of the studies, without importing them."""
    modules = (module.name for module in pkgutil.iter_modules(__path__))
    return [name.replace("_", "-") for name in modules if name != "engine"]


def find(name: str) -> "type[Study[Any]]":
    """Returns the study of a name.

    Raises:
        ValueError: There is no study of that name.
        TypeError: The module does not define one study.
    """
    from pyro_vae.studies.engine import Study

    if name not in names():
        raise ValueError(f"name: got {name!r}, expected one of {', '.join(names())}")
    module = import_module(f"{__name__}.{name.replace('-', '_')}")
    found = [
        value
        for value in vars(module).values()
        if isinstance(value, type)
        and issubclass(value, Study)
        and value.__module__ == module.__name__
    ]
    if len(found) != 1:
        raise TypeError(f"{module.__name__}: has {len(found)} subclasses of Study, expected one")
    return found[0]
