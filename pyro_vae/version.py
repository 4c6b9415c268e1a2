"""The package's version, for ``pyproject.toml`` and for what is saved."""

__version__ = "0.1.0"
