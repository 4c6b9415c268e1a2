"""The package's version. ``pyproject.toml`` reads it, and ``save`` writes it."""

__version__ = "0.1.0"
