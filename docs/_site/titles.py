"""Links by file name: on the site, ``[studies.md](studies.md)`` has the title of that page.

GitHub shows a file's name, which is what its readers see in the folder.
"""

import posixpath
import re
from collections.abc import Container

from sphinx.application import Sphinx

LINK = re.compile(r"\[([\w./-]+\.(?:md|ipynb))\]\(([^)\s#]+)(#[^)\s]+)?\)")


def titled(text: str, document: str, pages: Container[str]) -> str:
    """The source of a document where a link that is called as its file has no text.

    MyST then takes the title of the page, or of the section.

    Arguments:
        text: The source.
        document: Its path from the root of the sources.
        pages: The paths of all documents, without endings.
    """

    def mended(link: re.Match[str]) -> str:
        name, target, section = link.groups("")
        path = posixpath.normpath(posixpath.join(posixpath.dirname(document), target))
        by_name = f"/{target}".endswith(f"/{name}") and posixpath.splitext(path)[0] in pages
        return f"[]({target}{section})" if by_name else link[0]

    return LINK.sub(mended, text)


def read(app: Sphinx, document: str, source: list[str]) -> None:
    """Mends the source of a document before it is parsed."""
    source[0] = titled(source[0], document, app.env.found_docs)


def setup(app: Sphinx) -> dict[str, bool]:
    """What Sphinx calls."""
    app.connect("source-read", read)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
