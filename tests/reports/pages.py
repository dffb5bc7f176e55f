"""Read a page as a browser would, and note what a report's page must not have."""

from dataclasses import dataclass, field
from html.parser import HTMLParser

VOID = {"meta", "link", "br"}
LOADING = {"script", "img", "iframe", "object", "embed", "base", "form", "input", "audio", "video", "source"}


@dataclass
class Page:
    """What was found: every tag in order, every link, the text that is shown."""

    tags: list[str] = field(default_factory=list)
    attributes: list[tuple[str, str, str]] = field(default_factory=list)
    text: str = ""
    faults: list[str] = field(default_factory=list)

    def values(self, tag: str, attribute: str) -> list[str]:
        return [value for t, name, value in self.attributes if t == tag and name == attribute]

    @property
    def links(self) -> list[str]:
        return self.values("a", "href")

    @property
    def loading(self) -> list[str]:
        return [tag for tag in self.tags if tag in LOADING]

    @property
    def handlers(self) -> list[str]:
        return [name for _, name, _ in self.attributes if name.startswith("on") or name == "style"]


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.page = Page()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.page.tags.append(tag)
        self.page.text += " " if tag == "small" else ""
        self.page.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.page.faults.append(f"</{tag}> at {self.getpos()} closes nothing")

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.page.text += data


def read_page(html: str) -> Page:
    reader = _Reader()
    reader.feed(html)
    reader.close()
    reader.page.faults += [f"<{tag}> is never closed" for tag in reader.open]
    return reader.page
