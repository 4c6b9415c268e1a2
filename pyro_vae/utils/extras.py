"""Packages that come with an extra, imported only where they are needed."""

from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["extra"]


@contextmanager
def extra(name: str, packages: dict[str, str], purpose: str) -> Iterator[None]:
    """Imports inside the block; a package that is missing is an error that says what to install.

    Arguments:
        name: The extra of this package.
        packages: The names of the packages by those of their modules.
        purpose: What they are needed for.

    Raises:
        ModuleNotFoundError: One of the packages is not installed.

    Example:
        >>> from pyro_vae.utils.extras import extra
        >>> with extra("tables", {"no_pandas": "pandas"}, "tables"):
        ...     import no_pandas
        Traceback (most recent call last):
        ModuleNotFoundError: pandas: not installed, expected for tables: pip install
        'pyro_vae[tables]'
    """
    try:
        yield
    except ModuleNotFoundError as error:
        module = (error.name or "").partition(".")[0]
        if module not in packages:
            raise
        raise ModuleNotFoundError(
            f"{packages[module]}: not installed, expected for {purpose}: pip install "
            f"'pyro_vae[{name}]'",
            name=module,
        ) from error
