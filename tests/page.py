"""HTML as a reader of the standard library finds it: well formed, quiet, and text."""

from dataclasses import dataclass, field
from html.parser import HTMLParser

VOID = {"br", "meta"}
ALLOWED = {
    "b", "circle", "details", "div", "figcaption", "figure", "p", "polyline", "pre", "summary",
    "svg", "table", "tbody", "td", "th", "thead", "tr",
}  # fmt: skip

HOSTILE = "<script>alert(1)</script>\"'&</pre>"


@dataclass
class Element:
    """An element with its attributes, the text in it, and its elements."""

    tag: str
    attributes: dict[str, str | None]
    text: str = ""
    inner: list["Element"] = field(default_factory=list)

    def all(self, tag: str) -> list["Element"]:
        """The elements of a kind, in their order."""
        found = [self] if self.tag == tag else []
        return found + [each for child in self.inner for each in child.all(tag)]

    def rows(self) -> list[list[str]]:
        """The text of each row of the tables."""
        return [[cell.text for cell in row.inner] for row in self.all("tr")]


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open = [Element("", {})]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(set(names)) == len(names), f"{tag} has an attribute twice"
        assert not [name for name in names if name.startswith("on")], names
        element = Element(tag, dict(attrs))
        self.open[-1].inner.append(element)
        if tag in VOID:
            self.handle_data("\n")
        else:
            assert tag in ALLOWED, tag
            self.open.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop().tag == tag

    def handle_data(self, data: str) -> None:
        for element in self.open:
            element.text += data


def read(html: str) -> Element:
    """The elements of a text; fails unless it is well formed, without script and network."""
    reader = _Reader()
    reader.feed(html)
    reader.close()
    assert len(reader.open) == 1, f"not closed: {reader.open[-1].tag}"
    page = reader.open[0]
    shown = [page]
    for element in shown:
        shown += element.inner
        for name, value in element.attributes.items():
            assert name not in ("src", "href", "action"), name
            assert name == "aria-label" or "http" not in (value or "")
            assert name != "style" or not {"#", "url", "rgb"} & set((value or "").split())
    for svg in page.all("svg"):
        assert svg.attributes["role"] == "img"
        assert svg.attributes["aria-label"]
        assert svg.attributes["stroke"] == "currentColor"
    return page
