"""Reports: one HTML page of a run or a pair, with an explorer of its decoder."""

from pyro_vae.utils.extras import extra

with extra("report", {"bokeh": "bokeh", "jinja2": "jinja2"}, "a report"):
    import bokeh  # noqa: F401
    import jinja2  # noqa: F401

from pyro_vae.report.report import Explorer, explore, report

__all__ = ["Explorer", "explore", "report"]


def __dir__() -> list[str]:
    return __all__
