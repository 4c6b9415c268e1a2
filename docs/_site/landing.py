"""``index.html`` at the top of the site, which leads to the landing page."""

from pathlib import Path

from sphinx.application import Sphinx

PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>{title}</title>
<meta http-equiv="refresh" content="0; url={target}">
<a href="{target}">{title}</a>
</html>
"""


def lead(app: Sphinx, error: Exception | None) -> None:
    """Writes the page, if the build came to its end."""
    if error is None and app.builder.format == "html":
        target = app.builder.get_target_uri(app.config.root_doc)
        Path(app.outdir, "index.html").write_text(
            PAGE.format(title=app.config.html_title, target=target)
        )


def setup(app: Sphinx) -> dict[str, bool]:
    """What Sphinx calls."""
    app.connect("build-finished", lead)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
