"""Reports: one HTML page of a run or a pair, with an explorer of its decoder."""

try:
    import bokeh  # noqa: F401
    import jinja2  # noqa: F401
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"{error.name}: not installed, expected for a report: pip install 'pyro_vae[report]'",
        name=error.name,
    ) from error

from pyro_vae.report.report import Explorer, explore, report

__all__ = ["Explorer", "explore", "report"]


def __dir__() -> list[str]:
    return __all__
